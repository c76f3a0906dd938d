"""Theorem 2 in networks that branch: room in every space of channels, found by trying, and cut to what is used.

How many channels a program takes of a residual stream depends on how it is scheduled, and that on the room there is. So
networks of the pattern's channels are tried, from narrow to wide: each is read, scheduled and placed as Theorem 1's
would be, without weights. The first that holds the pattern is written once, and channels that stayed empty are given
back.
"""

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from landform.errors import CapacityError
from landform.imprint.beside import Trunk, columns_of, resized
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
from landform.task import Task

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
        held: Channels of every space that are there already; tried first.
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
            return search.at(widths, epsilon)
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

    def at(self, widths: Sequence[int], epsilon: float) -> Fitted:
        """Compile for some channels of every space; raise `CapacityError` if they do not hold the pattern."""
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
        return Fitted(program, direct, notes, self._trimmed(program, widths))

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

    def _trimmed(self, program: Program, widths: Sequence[int]) -> list[int]:
        """Return the channels of every space that a program uses once written, if it can be written into these too."""
        inner, small, _ = self._looked_at(widths, device="cpu")
        one = np.ones(1)
        lowered = inner.write(program, small, [0 * one], [one])
        used = used_channels(self.trunk, widths, lowered.parameters)
        counts = [max(1, int(part.sum())) for part in used]
        try:
            self._looked_at(counts, device="meta")[2](program)
        except CapacityError:
            return list(widths)
        return counts


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
    return _each((weight != 0).reshape(*weight.shape[:2], -1).any(dim=2).any(dim=0), trunk, member)


def _each(values: Tensor, trunk: Trunk, member: Member) -> Tensor:
    """Return one value a column of a map as ``[channels, positions]``."""
    width = trunk.width(member.reads)
    return values.reshape(-1, width).T if member.fast else values.reshape(width, -1)


def reserve_branching(
    model: nn.Module, trunk: Trunk, needed: Sequence[int], task: Task
) -> tuple[nn.Module, list[list[int]]]:
    """Return a copy in which some channels of every space feed nobody, and which these are.

    A space has several readers. A channel's use is, summed over the maps that read it, the share of the variance of
    what the map makes that comes through this channel, Var(x_k) Σ_c w_ck² / Σ_k Var(x_k) Σ_c w_ck² (channels taken as
    uncorrelated); a share, because norms behind maps make their scale arbitrary. Mean contributions go into biases, or
    into the constants of the norms behind. Statistics of freed channels become 0 and 1: norms then carry zeros exactly.

    Raises:
        CapacityError: If a space has too few channels.
    """
    for space, count in zip(trunk.hidden, needed, strict=True):
        if count >= space.width:
            raise CapacityError(
                f"'{space.map}' has {space.width} channels and the pattern needs {count} of them, which would leave"
                " nothing of the trained network; lower the resolution or use units='widen'"
            )
    network = copy.deepcopy(model).eval()
    modules = dict(network.named_modules())
    readers = [member for member in trunk.members if member.kind == "map" and member.reads and not member.depthwise]
    readers.append(trunk.last)
    moments = _moments(network, [reader.name for reader in readers], task)
    use = [torch.zeros(space.width, dtype=torch.float64) for space in trunk.hidden]
    for reader in readers:
        module: Any = modules[reader.name]
        energy = module.weight.detach().double().square().reshape(*module.weight.shape[:2], -1).sum(dim=(0, 2))
        share = _each(moments[reader.name][1] * energy, trunk, reader).sum(dim=1)
        share = share / share.sum().clamp(min=1e-300)
        reads = reader.reads
        for number, part in zip(reads, torch.split(share, [trunk.hidden[s].width for s in reads]), strict=True):
            use[number] += part
    channels = [sorted(part.argsort()[:count].tolist()) for part, count in zip(use, needed, strict=True)]
    with torch.no_grad():
        for reader in readers:
            module = modules[reader.name]
            cols = columns_of(module, trunk, reader, channels)
            taps = module.weight.detach().double().reshape(*module.weight.shape[:2], -1).sum(dim=2)
            gone = taps[:, cols] @ moments[reader.name][0][cols]
            if module.bias is not None:
                module.bias += gone.to(module.bias.dtype)
            elif reader.norm:
                behind: Any = modules[reader.norm]
                gain = behind.weight.double() / (behind.running_var.double() + behind.eps).sqrt()
                behind.bias += (gone * gain).to(behind.bias.dtype)
            module.weight[:, cols] = 0
    again = _restated(network, trunk, task)
    chosen = min((network, again), key=lambda made: float(task.replace(model=made).evaluate()))
    places, modules = trunk.places(channels), dict(chosen.named_modules())
    for member in trunk.members:
        if member.kind == "norm":
            behind = modules[member.name]
            behind.running_mean[places[member.name]] = 0.0
            behind.running_var[places[member.name]] = 1.0
    return chosen, channels


def _restated(network: nn.Module, trunk: Trunk, task: Task) -> nn.Module:
    """Return a copy whose norms have the statistics of the data again, as the mean over batches."""
    made = copy.deepcopy(network)
    norms: list[Any] = [made.get_submodule(member.name) for member in trunk.members if member.kind == "norm"]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    with torch.no_grad():
        for part in torch.split(task.data.inputs, 256):
            if len(part) > 1:  # one sample has no variance
                made(part)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return made.eval()


def _moments(network: nn.Module, names: Sequence[str], task: Task) -> dict[str, tuple[Tensor, Tensor]]:
    """Return mean and variance of every input column (channel) of some maps over the data, in one pass."""
    sums: dict[str, Tensor] = {}
    counts = dict.fromkeys(names, 0)

    def looking(name: str) -> Any:
        def look(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            x = inputs[0].detach().double()
            if x.ndim > 2:
                x = x.movedim(1, -1).reshape(-1, x.shape[1])
            counts[name] += len(x)
            both = torch.stack([x.sum(dim=0), x.square().sum(dim=0)])
            sums[name] = sums[name] + both if name in sums else both

        return look

    hooks = [network.get_submodule(name).register_forward_pre_hook(looking(name)) for name in names]
    try:
        with torch.no_grad():
            for start in range(0, task.data.n, 256):
                network(task.data.inputs[start : start + 256])
    finally:
        for hook in hooks:
            hook.remove()
    found = {name: sums[name] / counts[name] for name in names}
    return {name: (mean, (square - mean.square()).clamp(min=0.0)) for name, (mean, square) in found.items()}
