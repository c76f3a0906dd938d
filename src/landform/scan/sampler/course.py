"""The course of a multilevel scan: what is asked, level by level, and what becomes of the answers."""

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from landform.scan.engine.base import Sums, Terms
from landform.scan.sampler.apart import heavy_samples
from landform.scan.sampler.base import Request
from landform.scan.sampler.ledger import Ledger
from landform.scan.sampler.planner import CHECKED, Planner, check_count
from landform.scan.sampler.truncation import compare, random_points
from landform.scan.sampler.work import Work

MAX_NUMBERS = 1 << 24
"""Per-sample numbers in one round, 128 MB."""

FULL_NODES = 32
"""Levels are evaluated on all samples until there would be more nodes than this: they carry every other value."""


@dataclass(frozen=True, eq=False)
class Part:
    """The answers to some points of a round, where the scan ends."""

    rows: Int64[Tensor, " rows"]
    found: Terms | Sums | None


Rounds = Generator[Request, Terms | Sums | Part, bool]
"""Asks, and returns whether it came to its end."""


class Course:
    """Takes a scan through its levels; the rules are those of `landform.scan.sampler.multilevel.Multilevel`.

    Args:
        h: Nodes of the grid, ``[nodes, z]``.
        names: Quantities.
        books: Where answers are kept and become values and errors.
        planner: Decides on nodes and samples.
        steering: How many quantities, from the first, are losses.
        target: ``"data"`` or ``"population"``.
        confidence: Simultaneous confidence of the intervals.
        check: Number of random points to evaluate in full; None for a tenth of the work.
        least: Smallest number of samples a node.
        seed: Of the random points.

    Attributes:
        spent: Sample evaluations of the rounds that were answered.
        expected: Sample evaluations in all, as forecast.
        uncertainty: Half-width of the widest interval of the first quantity, as a fraction of the robust range.
        refined: Whether all levels are done, so that only random points are left.
        checked: What random points showed, by quantity.
    """

    def __init__(
        self,
        h: Float64[Tensor, "nodes z"],
        names: Sequence[str],
        books: Ledger,
        planner: Planner,
        *,
        steering: int,
        target: str,
        confidence: float,
        check: int | None,
        least: int,
        seed: int,
    ) -> None:
        self._h, self._names, self._books, self._planner = h, tuple(names), books, planner
        self._tree, self._shape, self._n = books.tree, books.tree.shape, books.n
        self._steering, self._target, self._confidence = steering, target, confidence
        self._check, self._least, self._seed = check, least, seed
        self._front: Tensor | None = None
        self.checked: dict[str, dict[str, float]] = {}
        self.spent, self.expected, self.uncertainty = 0, 0, math.nan
        self.refined = False

    def run(self) -> Rounds:
        """Ask for everything, level by level; a generator of requests that is sent their answers.

        Yields:
            Requests.

        Returns:
            Whether it came to its end.
        """
        level, depth = self._tree.level, self._tree.depth
        full = max([k for k in range(depth + 1) if int((level <= k).sum()) <= FULL_NODES] or [0])
        full = min(max(full, 1), depth)
        if not (yield from self._coarse(full)):
            return False
        for k in range(full + 1, depth + 1):
            nodes = self._planner.active(k)
            self._planner.skip(k, nodes)
            if not len(nodes):
                break
            if not (yield from self._fine(k, nodes)):
                return False
        self._planner.skip(depth + 1, level[:0])
        if not (yield from self._sharpen()):
            return False
        self.refined = True
        return (yield from self._check_points())

    def _coarse(self, full: int) -> Rounds:
        """Evaluate the levels up to ``full`` on all samples."""
        nodes = torch.cat([(self._tree.level == k).nonzero()[:, 0] for k in range(full + 1)])
        self.expected = 2 * len(nodes) * self._n
        work = self._work(nodes, torch.full((len(nodes),), self._books.top))
        complete = yield from self._climb(work)
        self._books.settle(0, work, None)
        if complete:
            self._set_apart(work)
            for k in range(1, full + 1):
                self._books.look_back(k)
                self._close(k)
        return complete

    def _set_apart(self, work: Work) -> None:
        """Take out of prefixes the samples that they would miss, if there are any; and evaluate these always.

        Towards the population all samples are random, the heavy ones too, and none are set apart.
        """
        if self._target == "data" and self._books.top:
            heavy = heavy_samples(self._books, work, self._steering, self._least)
            if len(heavy):
                self._front = heavy
                self._books.set_apart(heavy, self._least)

    def _fine(self, level: int, nodes: Int64[Tensor, " some"]) -> Rounds:
        """Evaluate nodes of a level on some of the samples: a pilot, a decision, the rest."""
        books = self._books
        work = self._work(nodes, self._planner.pilot(level, nodes))
        complete = yield from self._climb(work)
        least = books.judge(level, work)
        if complete:
            work.goal = torch.maximum(work.goal, self._planner.goals(level, work, least))
            self.expected = int((self.spent + self._planner.foresee(level, work)) * (1 + CHECKED))
            complete = yield from self._climb(work)
        if not complete:  # without all samples, a node that has no usable parents has nothing to stand on
            work.rung[(work.rung > books.limit(nodes)) & (work.rung < books.top) & ~work.bad.any(1)] = -1
        books.settle(level, work, least)
        if complete:
            self._close(level)
        return complete

    def _sharpen(self) -> Rounds:
        """Evaluate on all samples the nodes whose intervals came out wider than the tolerance, until there are none."""
        complete = True
        while complete and len(nodes := self._planner.wide()):
            work = self._work(nodes, torch.full((len(nodes),), self._books.top))
            complete = yield from self._climb(work)
            self._books.settle(self._tree.depth, work, None)  # nothing is interpolated from them anew
            self._books.close(self._tree.depth)
        return complete

    def _work(self, nodes: Int64[Tensor, " some"], goal: Int64[Tensor, " some"]) -> Work:
        books = self._books
        return Work(nodes, goal, len(self._names), self._steering, books.rungs, books.apart)

    def _climb(self, work: Work) -> Rounds:
        """Evaluate until every node has reached its goal."""
        while due := work.due():
            for reached, goal, places in due:
                books = self._books
                start = books.apart + books.rungs[reached] if reached >= 0 else 0
                stop = books.apart + books.rungs[goal]
                for part in torch.split(places, max(1, MAX_NUMBERS // ((stop - start) * len(self._names)))):
                    found = yield Request(self._h[work.nodes[part]], start, stop, True, self._front)
                    there = part[found.rows] if isinstance(found, Part) else part
                    terms = found.found if isinstance(found, Part) else found
                    if isinstance(terms, Terms) and len(there):
                        if stop - start == self._n:
                            self._books.denominators(terms.den)
                        work.add(there, goal, terms.num / self._books.scale[:, None])
                    if isinstance(found, Part):
                        return False
        return True

    def _close(self, level: int) -> None:
        """Take stock of a level."""
        books = self._books
        books.close(level)
        self._planner.close(level)
        scale = books.range
        widest = float(books.errors[0].stderr.nan_to_num(nan=0.0).max()) * books.errors[0].critical(self._confidence)
        self.uncertainty = widest / scale if scale > 0 else math.nan

    def _check_points(self) -> Rounds:
        """Evaluate random points in full, and compare the surface."""
        count = check_count(self.spent, self._n) if self._check is None else self._check
        if not count:
            return True
        h, unit = random_points(self._h, self._shape, count, self._seed)
        found = yield Request(h, 0, self._n, False, self._front)
        complete = not isinstance(found, Part)
        sums = found.found if isinstance(found, Part) else found
        if isinstance(found, Part):
            unit = unit[found.rows]
        if sums is not None and len(unit):
            truth = sums.num.sum(-1) / sums.den.sum(-1) if isinstance(sums, Terms) else sums.num / sums.den
            for q, name in enumerate(self._names):
                filled = self._books.filled[:, q]
                self.checked[name] = compare(
                    filled, self._shape, unit, truth[:, q], self._books.absolute(q), self._confidence
                )
        return complete
