"""Make room by widening: layers get channels more, and the function stays the same (Net2Net, mostly without copies).

New channels are read by nobody: their outgoing weights are zero. The original weights stay bit for bit. The outputs do
in exact arithmetic; in floating point a wider layer may be summed in another order, by at most γ_K Σ|w||x| a layer
(Chen, Goodfellow, Shlens, arXiv 1511.05641, widen by copying channels; here the new ones feed nobody). Channels that
are added to each other, as those of a residual stream, grow together, in every block that shares them; grouped
convolutions get whole groups more; a concatenation moves the channels behind the new ones. Where a LayerNorm takes mean
and spread of channels, new ones are copies of all old ones, so that both stay what they are.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from landform.errors import ArchitectureError, InputError
from landform.imprint.beside import Trunk
from landform.imprint.lower.stream import has_stream
from landform.imprint.widening import configured
from landform.imprint.widening.configured import Grown
from landform.imprint.widening.graph import copied, enlarged
from landform.imprint.widening.perceptrons import with_hidden_units
from landform.imprint.widening.promise import Batch
from landform.imprint.widening.trial import as_given, tried


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
    model: nn.Module,
    extra: int | Mapping[str, int] = 0,
    *,
    inputs: Batch | None = None,
    seed: int | None = None,
    heads: int = 0,
    repeat: int = 1,
) -> Widened:
    """Return a wider network that computes the same function, with the original weights bit for bit.

    Covered are networks of Linear, convolutions (also grouped), BatchNorm, GroupNorm, InstanceNorm with running
    statistics, LayerNorm, pools, activations, flattening, residual sums and concatenations, traced as for
    `landform.imprint`. The code of the network stays as it is: sizes that its ``forward`` has written out
    (``x.view(-1, 512)``) would have to be changed first.

    Of transformers the hidden units of the perceptrons can grow, whoever wrote them. Models of Hugging Face are built
    again from a changed configuration, so that ``save_pretrained`` and ``from_pretrained`` go on working; they can also
    get more attention heads, or a stream in which every coordinate is there ``repeat`` times.

    Args:
        model: The network; not changed.
        extra: Channels to add: everywhere, or by the name of a layer, which adds them to all that share its channels
            (a residual stream; the largest wish counts). Rounded up where grouped layers need whole groups, and before
            a LayerNorm to copies of all channels. In a transformer: hidden units of every perceptron, or by the name
            of a perceptron's first map (that is more than a configuration can say).
        inputs: A few inputs (8, say). The wider network is run on them beside the given one, and its outputs must
            differ by no more than rounding explains. Without any, nothing is tried; transformers need them.
        seed: Draws the weights by which new channels *read* (He et al., normal), so that they can learn; new norms have
            gain 1. ``None``: zeros, which leaves room to be written into, but has zero gradients.
        heads: Attention heads to add in every block, unread by the output projection: where the width of a head is a
            field of the configuration (Llama and its like).
        repeat: How often each coordinate of the stream shall be there, and each attention head. Means and variances of
            norms stay; maps read the first copy alone.

    Returns:
        The network, in the modes of the given one, and which channels are new.

    Raises:
        ArchitectureError: If a layer cannot be widened; it is named, with the reason.
        UnknownNameError: A layer that does not exist, with the nearest.
        InputError: A number of channels that is no natural number; wishes that do not go together; inputs that the
            network cannot take.

    Cost:
        A copy of the parameters; with ``inputs`` a few forward passes and one backward pass an output (of each sample's
        two largest, beyond 32 outputs).

    Example:
        >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 10))
        >>> wide = widen(net, 2, inputs=torch.ones(1, 1, 8, 8))
        >>> wide.model[0].weight.shape[0], wide.channels["0"], bool(wide.difference <= wide.bound)
        (6, (4, 5), True)
        >>> bool(torch.equal(wide.model[0].weight[:4], net[0].weight))
        True
    """
    if not isinstance(model, nn.Module):
        raise ArchitectureError(f"expected a torch.nn.Module, got {type(model).__name__}")
    for count in extra.values() if isinstance(extra, Mapping) else [extra]:
        configured.check_count("extra", count, 0)
    configured.check_count("heads", heads, 0)
    configured.check_count("repeat", repeat, 1)
    if has_stream(model):
        return _widened_stream(model, extra, inputs, seed, heads, repeat)
    if heads or repeat > 1:
        raise ArchitectureError(f"{type(model).__name__} has no attention heads and no normalised stream")
    wide, places, columns = enlarged(model, extra, inputs, seed)
    channels = {name: found.new for name, found in places.items() if found.new}
    read = {name: found.new for name, found in columns.items() if found.new}
    if inputs is None:
        return Widened(wide, channels, read)
    return Widened(wide, channels, read, *tried(model, wide, inputs))


def _widened_stream(
    model: nn.Module, extra: int | Mapping[str, int], inputs: Batch | None, seed: int | None, heads: int, repeat: int
) -> Widened:
    """Widen a transformer: first its stream or its heads, then its perceptrons."""
    if inputs is None:
        raise InputError(
            f"{type(model).__name__} normalises a stream; pass inputs=… (a few samples), on which the wider network is"
            " compared with it"
        )
    if (heads or repeat > 1) and not configured.is_configured(model):
        raise ArchitectureError(
            f"the width of the stream of {type(model).__name__} and its heads are in its code; heads= and repeat= are"
            " for models of Hugging Face, which can be built again from their configuration"
        )
    if heads and repeat > 1:
        raise InputError("heads and repeat in one call: widen twice, by one of them at a time")
    as_given(model, inputs)  # inputs that do not fit are said to be so before the stream is looked for in them
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    made: list[Grown] = []
    if heads:
        made.append(_fitting(model, inputs, lambda fused: configured.with_heads(model, heads, generator, fused=fused)))
    if repeat > 1:
        made.append(_fitting(model, inputs, lambda fused: configured.with_stream(model, repeat, inputs, fused=fused)))
    wide = made[-1].model if made else model
    if extra:
        whole = isinstance(extra, int) and configured.is_configured(wide)
        found = configured.with_units(wide, extra, generator) if whole and isinstance(extra, int) else None
        made.append(found or with_hidden_units(copied(wide), extra, inputs, generator))
        wide = made[-1].model
    wide = wide if made else copied(model)
    channels = _together([grown.channels for grown in made])
    columns = _together([grown.columns for grown in made])
    return Widened(wide, channels, columns, *tried(model, wide, inputs))


def _fitting(model: nn.Module, inputs: Batch, grow: Callable[[bool], Grown]) -> Grown:
    """Grow fused maps part by part, or as one, whichever leaves the function as it is."""
    try:
        made = grow(True)
        tried(model, made.model, inputs)
    except ArchitectureError as error:
        first = error
    else:
        return made
    try:
        made = grow(False)
        tried(model, made.model, inputs)
    except ArchitectureError:
        raise first from None
    return made


def _together(parts: Sequence[Mapping[str, tuple[int, ...]]]) -> dict[str, tuple[int, ...]]:
    names = dict.fromkeys(name for part in parts for name in part)
    return {name: tuple(sorted({n for part in parts for n in part.get(name, ())})) for name in names}


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
