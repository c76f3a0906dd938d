"""Theorem 2 in networks that branch: room in every space of channels, found by trying, and cut to what is used.

How many channels a program takes of a residual stream depends on how it is scheduled, and that on the room there is. So
networks of the pattern's channels are tried, from narrow to wide: each is read, scheduled and placed as Theorem 1's
would be, without weights. The first that holds the pattern is written once, and channels that stayed empty are given
back.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from landform.errors import CapacityError
from landform.imprint.beside import Trunk, by_channel, resized
from landform.imprint.constant import AMPLE, DEFAULT_EPSILON, Options, _compile, fit_curve
from landform.imprint.lower.graph import Graph, Op
from landform.imprint.lower.grouping import stages
from landform.imprint.lower.network import Network
from landform.imprint.settle import clamped, opened
from landform.imprint.spaces import Member
from landform.pattern import Pattern, SumPattern
from landform.program.bend import padded
from landform.program.compile import compile_pattern
from landform.program.program import Program
from landform.program.room import Room
from landform.response import AbstractResponse

SHARES = (1 / 16, 1 / 8, 3 / 16, 1 / 4, 3 / 8, 1 / 2, 5 / 8, 3 / 4)
"""Shares of every space that reserving tries; more would leave too little of the trained network."""
LOOSER = (DEFAULT_EPSILON, 1e-3, 1e-2)
"""What reserving admits of the response curve's gap, up to a quarter, a half, and all of `SHARES`."""
GROWTH = (1.0, 1.5, 2.0, 4.0)
"""By how much widening exceeds what a chain as deep would need, until the pattern fits."""


@dataclass(frozen=True)
class Fitted:
    """A program with a place: the program, whether it is the direct form, notes, and channels of every space."""

    program: Program
    direct: bool
    notes: list[str]
    need: list[int]


def fit_branching(
    pattern: Pattern | SumPattern,
    response: AbstractResponse,
    bounds: tuple[float, float],
    trunk: Trunk,
    network: Network,
    model: nn.Module,
    options: Options,
    units: str,
    held: Sequence[int] | None = None,
    *,
    settled: bool = True,
) -> Fitted:
    """Compile a pattern for channels beside those of a network that branches.

    Args:
        pattern: T.
        response: ρ.
        bounds: The range.
        trunk: The network's spaces.
        network: Its reading.
        model: The network, for its modules; not changed.
        options: How to compile.
        units: ``"widen"`` or ``"reserve"``.
        held: Channels of every space that are there already; tried first, and given back in no case.
        settled: Whether the signal must be exactly 0 where the pattern is.

    Returns:
        The program and the channels it needs.

    Raises:
        CapacityError: If no share of the channels holds the pattern; what they hold is said.

    Cost:
        Half a second a try for a ResNet-20; one writing of the narrow network's weights.
    """
    zeros = torch.zeros(0, pattern.z, dtype=torch.float64)
    if isinstance(pattern, Pattern) and bounds[0] == response.lowest:
        zeros = pattern.mesh.nodes()[pattern.values.reshape(-1) == 0]
    search = _Search(pattern, response, bounds, trunk, network, model, options, zeros, settled)
    last: CapacityError | None = None
    for widths, epsilon in _trials(search, units, held):
        try:
            return search.at(widths, epsilon, held)
        except CapacityError as error:
            last = error
    assert last is not None
    if units == "widen":
        raise last
    raise search.explained(last)


def _trials(search: "_Search", units: str, held: Sequence[int] | None) -> Iterator[tuple[list[int], float]]:
    """Yield channels of every space to try, and the gap of the response curve to admit."""
    trunk, wanted = search.trunk, search.options.epsilon
    floor = [1] * len(trunk.hidden) if held is None else list(held)
    if held is not None:
        for epsilon in LOOSER if wanted is None else (wanted,):
            yield floor, epsilon
    if units == "widen":
        base = search.ample()
        for growth in GROWTH:
            yield [max(low, math.ceil(growth * base)) for low in floor], wanted or DEFAULT_EPSILON
        return
    for rank, epsilon in enumerate(LOOSER if wanted is None else (wanted,)):
        shares = SHARES[: (4, 6, 8)[rank]] if wanted is None else SHARES
        for share in shares:
            yield [max(low, math.ceil(share * s.width)) for low, s in zip(floor, trunk.hidden, strict=True)], epsilon


@dataclass(frozen=True)
class _Search:
    pattern: Pattern | SumPattern
    response: AbstractResponse
    bounds: tuple[float, float]
    trunk: Trunk
    network: Network
    model: nn.Module
    options: Options
    zeros: Tensor
    settled: bool

    @property
    def dtype(self) -> torch.dtype:
        return next(self.model.parameters()).dtype

    def ample(self) -> int:
        """Return the widest layer that the pattern would take in a chain as deep as the network."""
        network = self.network
        rooms = tuple(replace(room, units=AMPLE) for room in network.rooms)
        try:
            program = self.compiled(rooms[:-1], network.per_hinge, DEFAULT_EPSILON, None)
        except CapacityError:
            rooms = tuple(Room(AMPLE) for _ in network.rooms)
            program, _, _ = _compile(
                self.pattern, [self.response], self.bounds, _plain(network, rooms), self.model, self.options
            )
        return max(program.costs(network.per_hinge)) + 2  # a channel that is one, and one that is cleared

    def at(self, widths: Sequence[int], epsilon: float, held: Sequence[int] | None = None) -> Fitted:
        """Compile for some channels of every space; raise `CapacityError` if they do not hold the pattern.

        What is given back leaves at least ``held``: a program that fits into fewer channels need not fit into more, for
        stages are read from widths (a depthwise convolution of one channel is a plain one).
        """
        inner, _, check = self._looked_at(widths, device="meta")
        direct, notes, program = False, list[str](), None
        if self.settled and not self.options.direct and len(inner.rooms) > 1:
            try:
                program = self.compiled(
                    inner.rooms[:-1],
                    inner.per_hinge,
                    epsilon,
                    lambda found: check(padded(clamped(found, self.zeros, self.dtype), 0)),
                )
                program = clamped(program, self.zeros, self.dtype)
                check(program)
            except CapacityError:
                program = None
        if program is None and not self.options.direct:
            program = self.compiled(inner.rooms, inner.per_hinge, epsilon, check)
            if self.settled:
                program = opened(program)
                check(program)
        elif program is None:
            program, _, direct = _compile(self.pattern, [self.response], self.bounds, inner, self.model, self.options)
            notes.append("direct form: exact at nodes, a gap between them")
        notes += program.notes
        program = padded(program, len(inner.rooms) - len(program.layers))
        return Fitted(program, direct, notes, self._trimmed(program, widths, held))

    def compiled(self, rooms: Sequence[Room], per_hinge: int, epsilon: float, check: Any) -> Program:
        """Compile with the response curve, its gap at most ``epsilon`` of the range."""
        options = self.options
        return compile_pattern(
            self.pattern,
            lambda room: [fit_curve(self.response, self.bounds, epsilon, room)],
            widths=rooms,
            per_hinge=per_hinge,
            form=options.form,
            schedule=options.schedule,
            axis_aligned=options.axis_aligned,
            dtype=self.dtype,
            tolerance=options.tolerance,
            target_error=3 * epsilon,
            check=check,
        )

    def explained(self, error: CapacityError) -> CapacityError:
        """Return the error of the widest try with what the network has to give."""
        widths = sorted({space.width for space in self.trunk.hidden})
        return CapacityError(
            f"{error}.\nThe network has {len(self.trunk.hidden)} spaces of {', '.join(map(str, widths))} channels, of"
            f" which reserving takes at most {SHARES[-1]:.0%}; lower the resolution, admit a larger epsilon, or use"
            " units='widen'"
        )

    def _looked_at(self, widths: Sequence[int], device: str) -> tuple[Network, nn.Module, Any]:
        """Return the reading of the network of some channels, it, and what says if a program can be placed."""
        small = resized(self.model, self.trunk, widths, 1, device=device)
        inner = narrow_reading(self.network, self.trunk, widths)
        return inner, small, inner.checker(small) or (lambda _program: None)

    def _trimmed(self, program: Program, widths: Sequence[int], held: Sequence[int] | None) -> list[int]:
        """Return the channels of every space that a program uses once written, if it can be written into these too."""
        if held is not None and list(widths) == list(held):
            return list(widths)
        inner, small, _ = self._looked_at(widths, device="cpu")
        one = np.ones(1)
        lowered = inner.write(program, small, [0 * one], [one])
        used = used_channels(self.trunk, widths, lowered.parameters)
        floor = [1] * len(used) if held is None else held
        counts = [max(low, int(part.sum())) for low, part in zip(floor, used, strict=True)]
        if self._holds(counts, program):
            return counts
        kept = list(widths)  # some are needed for order's sake: cut space by space
        for space, count in enumerate(counts):
            for width in (count, (count + widths[space]) // 2):
                if self._holds([*kept[:space], width, *kept[space + 1 :]], program):
                    kept[space] = width
                    break
        return kept

    def _holds(self, widths: Sequence[int], program: Program) -> bool:
        try:
            self._looked_at(widths, device="meta")[2](program)
        except CapacityError:
            return False
        return True


def _plain(network: Network, rooms: tuple[Room, ...]) -> Network:
    return replace(network, rooms=rooms, stages=None)


def narrow_reading(network: Network, trunk: Trunk, widths: Sequence[int]) -> Network:
    """Return the reading of a network of the same form with other widths and one output; nothing is traced again."""
    assert network.graph is not None
    spaces = dict(zip((member.name for member in trunk.members), trunk.members, strict=True))
    head = network.graph.heads[0]
    ops: list[Op] = []
    for number, op in enumerate(network.graph.ops):
        if op.channels == 0:
            ops.append(op)
        elif number == head.op:
            ops.append(replace(op, channels=1))
        elif op.kind == "map":
            width = sum(widths[space] for space in spaces[op.name].makes)
            ops.append(replace(op, channels=width, groups=width if op.groups > 1 else 1))
        else:
            given = [ops[source].channels for source in op.inputs]
            ops.append(replace(op, channels=sum(given) if op.kind == "cat" else given[0]))
    graph = Graph(tuple(ops), (replace(head, outputs=1),))
    found = stages(graph)
    return replace(network, rooms=found.rooms, heads=found.heads, graph=graph, stages=found)


def used_channels(trunk: Trunk, widths: Sequence[int], parameters: dict[str, Tensor]) -> list[Tensor]:
    """Return which channels of every space some module writes or reads with a number other than zero."""
    used = [torch.zeros(width, dtype=torch.bool) for width in widths]
    hidden = tuple(replace(space, width=width) for space, width in zip(trunk.hidden, widths, strict=True))
    inner = replace(trunk, hidden=hidden)

    def mark(spaces: Sequence[int], flags: Tensor) -> None:
        start = 0
        for space in spaces:
            used[space] |= flags[start : start + widths[space]]
            start += widths[space]

    for member in trunk.members:
        weight = parameters[f"{member.name}.weight"]
        rows = (weight != 0).reshape(len(weight), -1).any(dim=1)
        bias = parameters.get(f"{member.name}.bias")
        mark(member.makes, rows if bias is None else rows | (bias != 0))
        if member.kind == "map" and member.reads and not member.depthwise:
            mark(member.reads, _read(weight, inner, member).any(dim=1))
    last = trunk.last
    mark(last.reads, _read(parameters[f"{last.name}.weight"], inner, last).any(dim=1))
    return used


def _read(weight: Tensor, trunk: Trunk, member: Member) -> Tensor:
    """Return which columns of a map are other than zero, ``[channels, positions]``."""
    return by_channel((weight != 0).reshape(*weight.shape[:2], -1).any(dim=2).any(dim=0), trunk, member)
