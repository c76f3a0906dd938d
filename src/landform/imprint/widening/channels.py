"""Lay out the channels of a network's graph, and make the tensors of a wider one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn

from landform.errors import ArchitectureError
from landform.imprint.lower.graph import Graph, Op
from landform.imprint.widening.spaces import Layout, Segment, Spaces

CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
CHANNEL_NORMS = (
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d),
    *(nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
)
"""Norms that treat every channel by itself, with numbers of its own (InstanceNorm: with running statistics)."""
SILENT = ("keep", "pool", "act", "norm", "gate")  # kinds of operations after which the channels are the same


@dataclass(frozen=True)
class Places:
    """Where the channels of a tensor come to lie: the old ones in order, and the new ones.

    Args:
        old: Places of the old ones.
        new: Places of the new ones.
        copies: Pairs (new, old): this new channel is a copy of that old one.
    """

    old: tuple[int, ...]
    new: tuple[int, ...]
    copies: tuple[tuple[int, int], ...] = ()

    @property
    def total(self) -> int:
        """Channels after widening."""
        return len(self.old) + len(self.new)

    def spread(self, positions: int, *, fast: bool = False) -> "Places":
        """Return the places of flattened channels, each of which has some positions; ``fast``: channels come last."""

        def each(channels: Sequence[int]) -> tuple[int, ...]:
            if fast:
                return tuple(p * self.total + c for p in range(positions) for c in channels)
            return tuple(c * positions + p for c in channels for p in range(positions))

        return Places(each(self.old), each(self.new))


@dataclass
class Channels:
    """The channels of every operation of a graph.

    Args:
        graph: The graph.
        model: Its network, for the modules.
    """

    graph: Graph
    model: nn.Module
    spaces: Spaces = field(default_factory=Spaces)
    layouts: list[Layout | None] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.modules = dict(self.model.named_modules())
        heads = {head.op for head in self.graph.heads}
        for number, op in enumerate(self.graph.ops):
            self.layouts.append(self._layout(op))
            if number in heads:
                self._fix(number, f"'{op.name}' is a head: its outputs are the network's")
        for op in self.graph.ops:
            self._require(op)

    def _layout(self, op: Op) -> Layout | None:
        given = [self.layouts[n] for n in op.inputs]
        if op.kind == "input":
            return None
        if op.kind == "map":
            source = given[0]
            if op.groups == 1 or source is None:
                return self.spaces.new(op.channels)
            module: Any = self.modules[op.name]
            ratio = Fraction(module.out_channels, module.in_channels)
            return tuple(Segment(s.space, s.ratio * ratio) for s in source)
        if op.kind in ("add", "mul"):
            known = [layout for layout in given if layout is not None]
            does = "adds" if op.kind == "add" else "multiplies"
            why = f"'{op.name}' {does} channels of different origin"
            for layout in known[1:]:
                self.spaces.join(known[0], layout, why)
            if len(known) < len(given):
                for layout in known:
                    self.spaces.fix(layout, f"'{op.name}' {does} the network's input and them")
            return known[0] if known else None
        if op.kind == "cat":
            return tuple(segment for layout in given for segment in layout or ())
        if op.kind in SILENT:
            return given[0]
        if op.kind == "shift" and given[0] is not None:
            after = op.channels - op.offset - sum(self.spaces.size(s) for s in given[0])
            before = self.spaces.new(op.offset) if op.offset else ()
            behind = self.spaces.new(after) if after else ()
            self.spaces.fix(before + behind, f"'{op.name}' pads channels with zeros, a number that is in the code")
            return before + given[0] + behind
        raise ArchitectureError(f"'{op.name}' ({op.kind}) cannot be widened yet")

    def _fix(self, number: int, reason: str) -> None:
        layout = self.layouts[number]
        if layout is not None:
            self.spaces.fix(layout, reason)

    def _require(self, op: Op) -> None:
        """Note what a module asks of the growth of its channels."""
        module = self.modules.get(op.name)
        layout = self.layouts[op.inputs[0]] if op.inputs else None
        if layout is None or module is None:
            return
        if op.kind == "map" and op.groups > 1:
            size = getattr(module, "in_channels", 1) // op.groups
            self.spaces.require_multiple(layout, size, f"groups of '{op.name}' lie across a concatenation")
        elif isinstance(module, nn.GroupNorm):
            size = module.num_channels // module.num_groups
            self.spaces.require_multiple(layout, size, f"groups of '{op.name}' lie across a concatenation")
        elif isinstance(module, nn.LayerNorm):
            self.spaces.repeat(layout, f"'{op.name}' takes the mean of a concatenation, whose parts grow by themselves")
        elif any(True for _ in module.parameters()) and not isinstance(
            module, (nn.Linear, *CONVS, *TRANSPOSED, *CHANNEL_NORMS, nn.PReLU)
        ):
            self.spaces.fix(layout, f"'{op.name}' is a {type(module).__name__}, which would not ignore new channels")

    def places(self, number: int, extra: Mapping[int, int]) -> Places | None:
        """Return where the channels of an operation come to lie, None for the network's input."""
        layout = self.layouts[number]
        if layout is None:
            return None
        old: list[int] = []
        new: list[int] = []
        copies: list[tuple[int, int]] = []
        at = 0
        for segment in self.spaces.leaves(layout):
            size, more = self.spaces.size(segment), int(extra.get(segment.space, 0) * segment.ratio)
            old += range(at, at + size)
            new += range(at + size, at + size + more)
            if self.spaces.repeated(segment):
                copies += [(at + size + n, at + n % size) for n in range(more)]
            at += size + more
        return Places(tuple(old), tuple(new), tuple(copies))


def check(model: nn.Module, graph: Graph) -> None:
    """Refuse modules whose tensors cannot be replaced.

    Raises:
        ArchitectureError: Naming the module and what to do.
    """
    modules = dict(model.named_modules())
    seen: dict[int, str] = {}
    for op in graph.ops:
        module = modules.get(op.name)
        if module is None:
            continue
        if hasattr(module, "parametrizations") or (
            op.kind == "map" and "weight" not in dict(module.named_parameters(recurse=False))
        ):
            raise ArchitectureError(
                f"'{op.name}' computes its weight from other parameters (weight or spectral norm, a parametrisation),"
                " which cannot be widened; remove that first, e.g. with torch.nn.utils.parametrize"
                ".remove_parametrizations"
            )
        for key, parameter in module.named_parameters(recurse=False):
            full = f"{op.name}.{key}"
            if id(parameter) in seen:
                raise ArchitectureError(
                    f"parameter '{full}' is tied to '{seen[id(parameter)]}', so it cannot be widened; untie them first"
                )
            seen[id(parameter)] = full
            if parameter.is_meta:
                raise ArchitectureError(f"parameter '{full}' is on the meta device; load the model's weights first")


def enlarge(module: nn.Module, made: Places | None, read: Places | None, generator: torch.Generator | None) -> None:
    """Give a module more channels in place: old numbers where they belong, new ones zero, random or copies.

    Args:
        module: A map, norm or PReLU.
        made: Channels that it makes, or has; None to leave them.
        read: Channels that it reads (for a Linear on flattened positions: its columns); None to leave them.
        generator: Draws what new channels read, None for zeros. Old channels never read new ones.
    """
    if isinstance(module, (nn.Linear, *CONVS, *TRANSPOSED)):
        _enlarge_map(module, made, read, generator)
    elif made is not None and made.new and isinstance(module, (*CHANNEL_NORMS, nn.GroupNorm, nn.LayerNorm)):
        _enlarge_norm(module, made, live=generator is not None)
    elif made is not None and made.new and isinstance(module, nn.PReLU) and module.num_parameters > 1:
        _swap(module, "weight", _scattered(module.weight, made, None, 0.25))
        module.num_parameters = made.total
    if made is not None and made.copies and getattr(module, "num_parameters", made.total) == made.total:
        grouped = isinstance(module, TRANSPOSED) and module.groups > 1  # its weight is [in, out a group, …]
        _copy(module, read if grouped and read is not None else made, made)


def _copy(module: nn.Module, rows: Places, made: Places) -> None:
    """Make new channels copies of old ones, whatever they were filled with."""
    for key in ("weight", "bias", "running_mean", "running_var"):
        value = getattr(module, key, None)
        if isinstance(value, Tensor):
            new, old = (torch.tensor(part) for part in zip(*(rows if key == "weight" else made).copies, strict=True))
            turned = key == "weight" and isinstance(module, TRANSPOSED) and module.groups == 1  # [in, out, …]
            with torch.no_grad():
                whole = value.transpose(0, 1) if turned else value
                whole[new.to(value.device)] = whole[old.to(value.device)]


def _enlarge_map(module: Any, made: Places | None, read: Places | None, generator: torch.Generator | None) -> None:
    linear, transposed = isinstance(module, nn.Linear), isinstance(module, TRANSPOSED)
    inputs, outputs = (module.in_features, module.out_features) if linear else (module.in_channels, module.out_channels)
    made = made or Places(tuple(range(outputs)), ())
    read = read or Places(tuple(range(inputs)), ())
    if not made.new and not read.new:
        return
    groups = 1 if linear else module.groups
    old: Tensor = module.weight.detach()
    if groups > 1 and transposed:  # [in, out a group, …]
        weight = _scattered(old, read, None, 0.0)
        rows: Any = list(read.new)
    elif groups > 1:  # [out, in a group, …]: new groups read new groups
        weight = _scattered(old, made, None, 0.0)
        rows = list(made.new)
    else:
        weight = _scattered(old, read, made, 0.0) if transposed else _scattered(old, made, read, 0.0)
        rows = (slice(None), list(made.new)) if transposed else list(made.new)
    if generator is not None and made.new:
        fan = weight.shape[0] if transposed else weight[0].numel()
        fresh = torch.empty(weight[rows].shape, dtype=torch.float64).normal_(generator=generator)
        weight[rows] = (fresh * (2.0 / fan) ** 0.5).to(weight)
    _swap(module, "weight", weight)
    if module.bias is not None and made.new:
        _swap(module, "bias", _scattered(module.bias.detach(), made, None, 0.0))
    if linear:
        module.in_features, module.out_features = read.total, made.total
    else:
        module.groups = groups * read.total // inputs if groups > 1 else 1
        module.in_channels, module.out_channels = read.total, made.total


def _enlarge_norm(module: Any, made: Places, *, live: bool) -> None:
    if module.weight is not None:
        _swap(module, "weight", _scattered(module.weight.detach(), made, None, 1.0 if live else 0.0))
    if module.bias is not None:
        _swap(module, "bias", _scattered(module.bias.detach(), made, None, 0.0))
    if isinstance(module, nn.LayerNorm):
        module.normalized_shape = (made.total, *module.normalized_shape[1:])
        return
    if isinstance(module, nn.GroupNorm):
        module.num_groups = module.num_groups * made.total // module.num_channels
        module.num_channels = made.total
        return
    if module.running_mean is not None:
        module.running_mean = _scattered(module.running_mean, made, None, 0.0)
        module.running_var = _scattered(module.running_var, made, None, 1.0)
    module.num_features = made.total


def _scattered(value: Tensor, rows: Places, columns: Places | None, fill: float) -> Tensor:
    """Return a larger tensor with the old numbers, bit for bit, at the old places of its first two dimensions."""
    shape = list(value.shape)
    shape[0] = rows.total
    index = torch.tensor(rows.old, device=value.device)
    if columns is None:
        out = value.new_full(shape, fill)
        out[index] = value
        return out
    shape[1] = columns.total
    out = value.new_full(shape, fill)
    out[index[:, None], torch.tensor(columns.old, device=value.device)[None]] = value
    return out


def _swap(module: nn.Module, key: str, value: Tensor) -> None:
    """Replace a parameter by a larger one with the same ``requires_grad``."""
    old = getattr(module, key)
    setattr(module, key, nn.Parameter(value, requires_grad=old.requires_grad))
