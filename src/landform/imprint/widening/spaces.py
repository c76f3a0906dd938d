"""Which channels must grow together: the channels of tensors as lists of segments, made equal where tensors are added.

A map makes channels of its own; a residual sum makes the channels of both of its sides the same; a concatenation lists
the channels of its parts. So the channels of a tensor are a list of `Segment`, each of them a share of a *space*, and a
space is what grows. Where a sum meets [a, b] with one segment of the same size, that one is split at the same place.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from math import lcm


@dataclass(frozen=True)
class Segment:
    """``ratio`` channels for every channel of a space (a grouped convolution may make several of one)."""

    space: int
    ratio: Fraction = Fraction(1)


Layout = tuple[Segment, ...]
"""Channels of a tensor in order."""


@dataclass
class _Space:
    size: int
    parent: int | None = None
    parts: tuple[int, int] | None = None
    step: int = 1
    fixed: str | None = None
    repeated: bool = False


@dataclass
class Spaces:
    """All spaces of a network.

    Example:
        >>> spaces = Spaces()
        >>> a, b, c = spaces.new(2), spaces.new(3), spaces.new(5)
        >>> spaces.join(a + b, c, "a sum")
        >>> [spaces.size(part) for part in spaces.leaves(c)], spaces.leaves(c) == spaces.leaves(a + b)
        ([2, 3], True)
    """

    items: list[_Space] = field(default_factory=list)

    def new(self, size: int) -> Layout:
        """Return the channels of a tensor that nothing is known of yet."""
        self.items.append(_Space(size))
        return (Segment(len(self.items) - 1),)

    def leaves(self, layout: Layout) -> Layout:
        """Return a layout in terms of spaces that are neither joined to others nor split."""
        out: list[Segment] = []
        for segment in layout:
            root = self._root(segment.space)
            parts = self.items[root].parts
            if parts is None:
                out.append(Segment(root, segment.ratio))
            else:
                out += self.leaves(tuple(Segment(part, segment.ratio) for part in parts))
        return tuple(out)

    def size(self, segment: Segment) -> int:
        """Return the channels of a segment, before widening."""
        return int(self.items[self._root(segment.space)].size * segment.ratio)

    def fix(self, layout: Layout, reason: str) -> None:
        """Say that channels cannot grow, and why."""
        for segment in self.leaves(layout):
            item = self.items[segment.space]
            item.fixed = item.fixed or reason

    def fixed(self, segment: Segment) -> str | None:
        """Return why the space of a leaf cannot grow, None if it can."""
        return self.items[segment.space].fixed

    def step(self, segment: Segment) -> int:
        """Return what the growth of a leaf's space must be a multiple of."""
        return self.items[segment.space].step

    def require_multiple(self, layout: Layout, multiple: int, reason: str) -> None:
        """Let channels grow by whole groups of ``multiple`` channels; fix them where groups lie across segments."""
        for segment in self.leaves(layout):
            if self.size(segment) % multiple:
                self.fix(layout, reason)
                return
            item = self.items[segment.space]
            item.step = lcm(item.step, (multiple / segment.ratio).numerator, segment.ratio.denominator)

    def repeat(self, layout: Layout, reason: str) -> None:
        """Let channels grow only by copies of all of them, which leave their mean and spread as they are.

        Channels that lie in several spaces would have to be repeated equally often, so they are fixed instead.
        """
        leaves = self.leaves(layout)
        if len(leaves) > 1 or leaves[0].ratio.numerator > 1:
            self.fix(layout, reason)
            return
        item = self.items[leaves[0].space]
        item.step, item.repeated = lcm(item.step, item.size), True

    def repeated(self, segment: Segment) -> bool:
        """Return whether the new channels of a leaf are copies of the old ones, in their order."""
        return self.items[segment.space].repeated

    def join(self, first: Layout, second: Layout, reason: str) -> None:
        """Make two layouts of the same number of channels the same.

        Args:
            first: One.
            second: The other.
            reason: Why they cannot grow, if they cannot be made the same.
        """
        left, right = list(self.leaves(first)), list(self.leaves(second))
        while left and right:
            a, b = left.pop(0), right.pop(0)
            if a == b:
                continue
            if a.ratio != b.ratio or a.space == b.space:
                self.fix((a, b, *left, *right), reason)
                return
            shorter = min(self.size(a), self.size(b))
            if (shorter / a.ratio).denominator > 1:
                self.fix((a, b, *left, *right), reason)
                return
            if self.size(a) > self.size(b):
                left = [*self._split(a, self.size(b)), *left]
                right = [b, *right]
            elif self.size(b) > self.size(a):
                right = [*self._split(b, self.size(a)), *right]
                left = [a, *left]
            else:
                self._unite(a.space, b.space)
            left, right = list(self.leaves(tuple(left))), list(self.leaves(tuple(right)))

    def _root(self, number: int) -> int:
        while (parent := self.items[number].parent) is not None:
            number = parent
        return number

    def _unite(self, one: int, other: int) -> None:
        kept, gone = self.items[one], self.items[other]
        gone.parent = one
        kept.step, kept.fixed = lcm(kept.step, gone.step), kept.fixed or gone.fixed

    def _split(self, segment: Segment, size: int) -> Sequence[Segment]:
        """Split the space of a leaf behind ``size`` of the segment's channels."""
        item = self.items[segment.space]
        head = int(size / segment.ratio)
        parts = []
        for length in (head, item.size - head):
            self.items.append(_Space(length, step=item.step, fixed=item.fixed))
            parts.append(len(self.items) - 1)
        item.parts = (parts[0], parts[1])
        return [Segment(part, segment.ratio) for part in parts]
