"""Make room by widening: layers get channels more, and the function stays the same (Net2Net without copies).

New channels are read by nobody: their outgoing weights are zero. The original weights stay bit for bit. The outputs do
in exact arithmetic; in floating point a wider layer may be summed in another order, by at most γ_K Σ|w||x| a layer
(Chen, Goodfellow, Shlens, arXiv 1511.05641, widen by copying channels; here the new ones feed nobody). Channels that
are added to each other, as those of a residual stream, grow together, in every block that shares them; grouped
convolutions get whole groups more; a concatenation moves the channels behind the new ones.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from landform.calling import as_found
from landform.errors import ArchitectureError, InputError, unknown_name
from landform.imprint.beside import Trunk
from landform.imprint.lower.graph import read_graph
from landform.imprint.widening.channels import Channels, Places, check, enlarge
from landform.imprint.widening.promise import Batch, outputs, rounding

ALL_OUTPUTS = 32
"""Up to so many outputs the promise is made for each of them, beyond for the two largest of every sample."""


@dataclass(frozen=True)
class Widened:
    """A wider network that computes the same.

    Args:
        model: The network.
        channels: Which of its channels are new: ascending, by the name of every module that makes or has them.
        columns: Which of its inputs are new, by the name of every map that reads some (features of a Linear: all
            positions of a flattened channel).
        bound: By how much an output may differ on the batch that was tried, to first order in the unit of rounding:
            2·γ_K·Σ|w||x| of every layer, carried to the outputs by their slopes. 0 where nothing was tried.
        difference: By how much one did differ.
    """

    model: nn.Module
    channels: Mapping[str, tuple[int, ...]]
    columns: Mapping[str, tuple[int, ...]]
    bound: float = 0.0
    difference: float = 0.0


def widen(
    model: nn.Module, extra: int | Mapping[str, int], *, inputs: Batch | None = None, seed: int | None = None
) -> Widened:
    """Return a wider network that computes the same function, with the original weights bit for bit.

    Covered are networks of Linear, convolutions (also grouped), BatchNorm, pools, activations, flattening, residual
    sums and concatenations, traced as for `landform.imprint`. The code of the network stays as it is: sizes that its
    ``forward`` has written out (``x.view(-1, 512)``) would have to be changed first.

    Args:
        model: The network; not changed.
        extra: Channels to add: everywhere, or by the name of a layer, which adds them to all that share its channels
            (a residual stream; the largest wish counts). Rounded up where grouped layers need whole groups.
        inputs: A few inputs (8, say). The wider network is run on them beside the given one, and its outputs must
            differ by no more than rounding explains. Without any, nothing is tried.
        seed: Draws the weights by which new channels *read* (He et al., normal), so that they can learn; new norms have
            gain 1. ``None``: zeros, which leaves room to be written into, but has zero gradients.

    Returns:
        The network, in the modes of the given one, and which channels are new.

    Raises:
        ArchitectureError: If a layer cannot be widened; it is named, with the reason.
        UnknownNameError: A layer that does not exist, with the nearest.
        InputError: A number of channels that is no natural number.

    Cost:
        A copy of the parameters; with ``inputs`` two forward passes and one backward pass an output (of each sample's
        two largest, beyond 32 outputs).

    Example:
        >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 10))
        >>> wide = widen(net, 2, inputs=torch.ones(1, 1, 8, 8))
        >>> wide.model[0].weight.shape[0], wide.channels["0"], bool(wide.difference <= wide.bound)
        (6, (4, 5), True)
        >>> bool(torch.equal(wide.model[0].weight[:4], net[0].weight))
        True
    """
    wide, places, columns = _enlarged(model, extra, inputs, seed)
    channels = {name: found.new for name, found in places.items() if found.new}
    read = {name: found.new for name, found in columns.items() if found.new}
    if inputs is None:
        return Widened(wide, channels, read)
    bound, difference = _tried(model, wide, inputs)
    return Widened(wide, channels, read, bound, difference)


def widen_trunk(model: nn.Module, trunk: Trunk, extra: Sequence[int]) -> tuple[nn.Module, Trunk, list[list[int]]]:
    """Widen a chain for Theorem 2.

    Args:
        model: The network; not changed.
        trunk: Its chain.
        extra: Channels to add to each hidden layer.

    Returns:
        The network in eval mode, its chain, and the new channels of each layer; all weights from and to them are zero.

    Example:
        >>> from landform.imprint.lower.network import read
        >>> from landform.imprint.beside import trunk_of
        >>> small = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)).eval()
        >>> wide, _, channels = widen_trunk(small, trunk_of(read(small)), [2])
        >>> tuple(wide[0].weight.shape), channels, bool(torch.equal(wide[0].weight[:3], small[0].weight))
        ((5, 2), [[3, 4]], True)
    """
    wished = {layer.map: more for layer, more in zip(trunk.hidden, extra, strict=True)}
    made = widen(model, wished)
    channels = [list(made.channels.get(layer.map, ())) for layer in trunk.hidden]
    hidden = tuple(
        replace(layer, width=layer.width + len(new)) for layer, new in zip(trunk.hidden, channels, strict=True)
    )
    return made.model.eval(), replace(trunk, hidden=hidden), channels


def _enlarged(
    model: nn.Module, extra: int | Mapping[str, int], inputs: Batch | None, seed: int | None
) -> tuple[nn.Module, dict[str, Places], dict[str, Places]]:
    if not isinstance(model, nn.Module):
        raise ArchitectureError(f"expected a torch.nn.Module, got {type(model).__name__}")
    wide = copied(model)
    sample = inputs.shape[1:] if isinstance(inputs, Tensor) else None
    with as_found(wide):
        graph = read_graph(wide, sample)
    check(wide, graph)
    found = Channels(graph, wide)
    more = _wishes(found, extra)
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    heads = {head.op for head in graph.heads}
    places: dict[str, Places] = {}
    columns: dict[str, Places] = {}
    for number, op in enumerate(graph.ops):
        module = found.modules.get(op.name)
        made = None if number in heads else found.places(number, more)
        if module is None or (made is None and number not in heads):
            continue
        read = found.places(op.inputs[0], more) if op.kind == "map" else None
        if isinstance(module, nn.Linear) and read is not None and len(read.old) != module.in_features:
            read = read.spread(module.in_features // len(read.old))
        enlarge(module, made, read, generator)
        if made is not None and op.kind in ("map", "norm", "act"):
            places[op.name] = made
        if read is not None and not op.groups > 1:
            columns[op.name] = read
    return wide, places, columns


def copied(model: nn.Module) -> nn.Module:
    """Return a deep copy of a network.

    Raises:
        ArchitectureError: If it cannot be copied.
    """
    try:
        return copy.deepcopy(model)
    except Exception as error:
        raise ArchitectureError(
            f"{type(model).__name__} cannot be copied ({error}); remove old-style weight norm"
            " (torch.nn.utils.remove_weight_norm) and tensors that are results of a computation"
        ) from error


def _wishes(found: Channels, extra: int | Mapping[str, int]) -> dict[int, int]:
    """Return by how many channels each space grows."""
    graph = found.graph
    heads = {head.op for head in graph.heads}
    maps = {op.name: number for number, op in enumerate(graph.ops) if op.kind == "map" and number not in heads}
    if isinstance(extra, Mapping):
        wished = dict(extra)
    else:
        wished = {name: extra for name in maps if not isinstance(found.modules[name], nn.Identity)}
    more: dict[int, int] = {}
    for name, count in wished.items():
        if not isinstance(count, int) or isinstance(count, bool) or count < 0:
            raise InputError(f"{count!r} channels more for '{name}': wanted a natural number")
        if name not in maps:
            if any(head.linear == name for head in graph.heads):
                raise ArchitectureError(f"'{name}' is a head: its outputs are the network's and cannot be widened")
            raise unknown_name("layer to widen", name, maps)
        if not count:
            continue
        layout = found.layouts[maps[name]]
        for segment in found.spaces.leaves(layout or ()):
            reason = found.spaces.fixed(segment)
            if reason is not None:
                raise ArchitectureError(f"'{name}' cannot be widened: {reason}")
            step = found.spaces.step(segment)
            needed = int(-(-count // segment.ratio))
            more[segment.space] = max(more.get(segment.space, 0), -(-needed // step) * step)
    return more


def _tried(model: nn.Module, wide: nn.Module, inputs: Batch) -> tuple[float, float]:
    """Run both networks, and check the difference; return the largest bound and the largest difference.

    Raises:
        ArchitectureError: If the wider one cannot run, or differs by more than rounding explains.
    """
    with torch.no_grad(), as_found(model):
        before = outputs(model, inputs)
    try:
        with torch.no_grad(), as_found(wide):
            after = outputs(wide, inputs)
    except Exception as error:
        raise ArchitectureError(
            f"the wider {type(model).__name__} cannot run ({error}): its forward fixes sizes; write"
            " x.flatten(1) in place of x.view(-1, 512) and the like"
        ) from error
    if after.shape != before.shape:
        raise ArchitectureError(
            f"the wider {type(model).__name__} returns shape {list(after.shape)}, not {list(before.shape)}: its forward"
            " fixes sizes; write x.flatten(1) in place of x.view(-1, 512) and the like"
        )
    count = before.shape[1]
    chosen = range(count) if count <= ALL_OUTPUTS else sorted(set(before.topk(2, dim=1).indices.reshape(-1).tolist()))
    allowed = rounding(model, inputs, list(chosen))
    moved = (after.double() - before.double()).abs().cpu()[:, list(chosen)]
    worst = (moved - allowed).max()
    if not bool(worst <= 0):
        raise ArchitectureError(
            f"the wider {type(model).__name__} differs by {float(moved.max()):.3g} where rounding explains"
            f" {float(allowed.max()):.3g}: something in it depends on the number of channels (a mean over them, a scale"
            " by their count)"
        )
    top = before.double().topk(min(2, count), dim=1).values if count > 1 else None
    if top is not None:
        sure = (top[:, 0] - top[:, 1]) > 2 * float(allowed.max())
        if bool((after.argmax(dim=1) != before.argmax(dim=1))[sure].any()):
            raise ArchitectureError(f"the wider {type(model).__name__} predicts another class")
    return float(allowed.max()), float(moved.max())
