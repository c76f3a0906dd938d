"""Read a transformer as a residual stream: blocks that normalise the stream, bend what they read, and add to it.

Such networks are written in many ways (Python loops over caches, masks, fused projections), so nothing here reads code:
a copy of the network with random weights is run once, every normalisation and every linear map is overheard, and the
structure is *found in the numbers*: which maps read a norm, which activation lies between two of them, what is added to
what. What is found holds for any weights; the imprint checks it again with the weights that it writes.

Covered are networks of the form x ← x + mixer(norm(x)), x ← x + mlp(norm(x)), …, head(norm(x)): GPT-2, Llama, ViT and
their like. LayerNorm and RMSNorm; plain and gated perceptrons, with or without a scale after them; any mixer
(attention), since it is silenced; a depthwise convolution before a norm (ConvNeXt), since its centre tap is the
identity. Where the width of the stream changes on the way, what comes after the last change is used.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, fx, nn
from torch.nn.modules.conv import _ConvNd

from landform.errors import ArchitectureError
from landform.imprint.lower.overhear import Call, is_map, is_norm, is_tap, overhear
from landform.imprint.lower.stem import Stem

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "silu": F.silu,
}
"""Activations a(t) with a(t) − a(−t) = t, which pass a signed number with two units; and ReLU."""


SINGLE = 1e-12
"""A norm of a float64 network that is off by more has cast to float32 inside."""


@dataclass(frozen=True)
class Norm:
    """A normalisation of the stream.

    Args:
        name: Of the module.
        kind: ``"layer"`` or ``"rms"``.
        eps: Added to the variance.
        bias: Name of its bias, or None.
        gain: Name of its gain.
        gain_offset: The module multiplies by gain + this: 0, or 1 in some RMSNorms.
        single: It casts to float32 inside, whatever the network's dtype.
    """

    name: str
    kind: str
    eps: float
    gain: str
    bias: str | None
    gain_offset: float
    single: bool


@dataclass(frozen=True)
class Map:
    """A linear map: its module, whether the weight is stored ``[in, out]``, and its sizes."""

    name: str
    transposed: bool
    inputs: int
    outputs: int
    bias: bool

    @property
    def weight(self) -> str:
        """Name of the weight."""
        return f"{self.name}.weight"


@dataclass(frozen=True)
class Tap:
    """A depthwise convolution: parameter names, and the index of its centre."""

    weight: str
    bias: str | None
    centre: tuple[int, ...]

    def middle(self, weight: Tensor) -> Tensor:
        """Return a view of the centre of every kernel of a weight, ``[channels]``."""
        for index in reversed(self.centre):
            weight = weight[..., index]
        return weight[:, 0]


@dataclass(frozen=True)
class Mlp:
    """A perceptron that reads the stream through a norm and adds to it: down(act(up)) or down(act(gate)·up).

    Args:
        norm: The norm that it reads.
        up: First map.
        gate: Map of the gate, or None.
        down: Second map.
        activation: Name in `ACTIVATIONS`.
        scale: Name of a vector that multiplies what is added, or None.
        tap: A depthwise convolution before the norm, or None.
    """

    norm: Norm
    up: Map
    gate: Map | None
    down: Map
    activation: str
    scale: str | None = None
    tap: "Tap | None" = None

    @property
    def hidden(self) -> int:
        """Hidden units."""
        return self.up.outputs


@dataclass(frozen=True)
class Stream:
    """A network as a residual stream of ``width`` coordinates.

    Args:
        width: Coordinates of the stream.
        mlps: The perceptrons in order.
        final: The last norm.
        head: The map to the outputs.
        tied: Name of an embedding whose weight is the head's, or None.
        tokens: Name of the embedding that starts the stream, where exactly one of full width does; else None.
        positions: Outputs are ``[n, positions, outputs]``: one prediction a position.
        pooled: Positions whose mean is taken, 1 for none.
        pooled_first: The mean is taken before the last norm, not after it.
        opening: Name of the first norm that reads the stream.
        stem: The layer whose bias starts the stream of every token, where there is one.
    """

    width: int
    mlps: tuple[Mlp, ...]
    final: Norm
    head: Map
    tied: str | None
    tokens: str | None
    positions: bool
    pooled: int = 1
    pooled_first: bool = False
    opening: str = ""
    stem: Stem | None = None


def has_stream(model: nn.Module) -> bool:
    """Say whether a model has the norms of a residual stream at all, so that it is worth a look.

    A chain, or a convolutional net, with a LayerNorm behind some of its maps has norms and no stream: it is read as a
    graph.

    Example:
        >>> has_stream(nn.TransformerEncoderLayer(8, 2)), has_stream(nn.Linear(2, 2))
        (True, False)
        >>> has_stream(nn.Sequential(nn.Linear(2, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 2)))
        False
    """
    return any(is_norm(module) for module in model.modules()) and not _is_graph(model)


def _is_graph(model: nn.Module) -> bool:
    """Say whether a model with a LayerNorm is one for `graph.py`: it adds nothing up, or norms only what maps emit."""
    from landform.imprint.lower import affine, batchnorm, groupnorm, merge
    from landform.imprint.lower.graph import read_graph
    from landform.imprint.lower.grouping import stages

    kinds = (*affine.KINDS, *batchnorm.KINDS, *groupnorm.KINDS, nn.PReLU)
    owners = [m for m in model.modules() if any(True for _ in m.parameters(recurse=False))]
    if not all(
        isinstance(m, kinds) or is_norm(m) for m in owners
    ):  # known without tracing, which is slow for large transformers
        return False
    if any(isinstance(m, nn.Unflatten) or (isinstance(m, nn.Flatten) and m.start_dim != 1) for m in model.modules()):
        return False  # tokens
    try:
        traced = fx.symbolic_trace(model).graph
    except Exception:  # a forward with Python's control flow: it can be heard, not read
        return False
    if not any(node.target in merge.SUMS for node in traced.nodes):
        return True
    try:
        stages(read_graph(model))
    except ArchitectureError:
        return False
    return True


def find_stream(model: nn.Module, sample: Any) -> Stream:
    """Find the residual stream of a network by running a copy with random weights.

    Args:
        model: The network; it is not changed.
        sample: Inputs of two samples or so, as the network takes them.

    Returns:
        Its structure.

    Raises:
        ArchitectureError: It has none, or a part of it is not covered; the module is named.

    Cost:
        A copy of the parameters and one forward pass.
    """
    return stream_in(*overhear(model, sample))


def stream_in(heard: Sequence[Call], model: nn.Module) -> Stream:
    """Find the structure of a network normalised before each block in what was overheard; see `find_stream`.

    Args:
        heard: What `overhear` returned.
        model: The copy that was overheard.

    Returns:
        The structure.
    """
    calls = [call for call in heard if not isinstance(call.module, nn.Embedding)]
    norms = [position for position, call in enumerate(calls) if is_norm(call.module)]
    if len(norms) < 2:
        raise ArchitectureError(
            f"{type(model).__name__} has {len(norms)} normalisation layers in its forward pass; a residual stream has"
            " one before each block and one at the end"
        )
    width = calls[norms[-1]].given.shape[-1]
    names = dict(model.named_parameters(remove_duplicate=False))
    mlps: list[Mlp] = []
    pooled, pooled_first, opening = 1, False, ""
    problem: ArchitectureError | None = None
    for position, following in reversed(list(itertools.pairwise(norms))):
        norm = calls[position]
        try:
            if norm.given.shape[-1] != width:
                raise ArchitectureError(f"norm '{norm.name}' works on {norm.given.shape[-1]} coordinates, not {width}")
            block = _block(calls, position, following, names)
        except ArchitectureError as error:  # here the stream begins, or it is of another form
            problem = error
            break
        opening = norm.name
        if block.found is not None:
            mlps.insert(0, replace(described(block.found, names), scale=block.scale, tap=block.tap))
        if block.pooled > 1:
            pooled, pooled_first = block.pooled, True
    if len(mlps) < 2:
        why = f": {problem}" if problem is not None else ""
        raise ArchitectureError(
            f"{type(model).__name__} has {len(mlps)} perceptron blocks that landform can read; a pattern needs two at"
            f" least (activations covered: {', '.join(ACTIVATIONS)}){why}"
        )
    last = calls[norms[-1]]
    after = [call for call in calls[norms[-1] + 1 :] if not is_norm(call.module)]
    if len(after) != 1 or not reads(after[0].given, last.returned):
        what = ", ".join(f"'{call.name}'" for call in after) or "nothing"
        raise ArchitectureError(
            f"after the last norm '{last.name}' come {what}; landform needs one linear head that reads it"
        )
    if after[0].given.ndim < last.returned.ndim and not pooled_first:
        mean = last.returned.mean(1)
        pooled = last.returned.shape[1] if close(after[0].given, mean) else 1
    head = map_of(after[0])
    weight = names[head.weight]
    tied = next((n for n, p in names.items() if p is weight and n != head.weight), None)
    tables = [c for c in heard if isinstance(c.module, nn.Embedding) and c.returned.shape[-1] == width]
    whole = [c for c in tables if c.returned.shape == calls[norms[0]].given.shape]
    tokens = f"{whole[0].name}.weight" if len(whole) == 1 else None
    positions = after[0].given.ndim > 2
    final = norm_of(last, names)
    return Stream(width, tuple(mlps), final, head, tied, tokens, positions, pooled, pooled_first, opening)


@dataclass(frozen=True)
class _Block:
    """What lies between two norms."""

    found: "tuple[Call, Call, Call | None, Call, str] | None"
    scale: str | None
    tap: Tap | None
    pooled: int


def _block(calls: Sequence[Call], position: int, following: int, names: Mapping[str, Any]) -> _Block:
    """Read what lies between two norms of one stream.

    Raises:
        ArchitectureError: It is not x ← x + scale·block(norm(x)).
    """
    norm, then = calls[position], calls[following]
    before, tap = _stream_before(calls, position)
    after, next_tap = _stream_before(calls, following)
    between = calls[position + 1 : following - (next_tap is not None)]
    if not between:
        raise ArchitectureError(f"norms '{norm.name}' and '{then.name}' follow each other directly")
    writer = between[-1]
    added = writer.returned
    expected, pooled = after, 1
    if after.ndim == 2 and before.ndim > 2:  # a mean over positions before the last norm
        pooled = before[0].numel() // before.shape[-1]
    for scale, factor in [(None, None), *_vectors(names, before.shape[-1])]:
        if before.shape != added.shape:
            break
        total = before + (added if factor is None else added * factor)
        total = total.flatten(1, -2).mean(1) if pooled > 1 else total
        if close(expected, total):
            return _Block(perceptron(norm, between), scale, _tap(tap), pooled)
    raise ArchitectureError(
        f"between '{norm.name}' and '{then.name}' the stream is not x + '{writer.name}'(…); landform lowers into"
        " blocks that add the output of their last linear map to the stream, one after the other"
    )


def _vectors(names: Mapping[str, Any], width: int) -> list[tuple[str, Tensor]]:
    """Return parameters that may scale what a block adds."""
    return [(n, p.detach()) for n, p in names.items() if p.numel() == width and p.ndim == 1 and not n.endswith("bias")]


def _stream_before(calls: Sequence[Call], position: int) -> tuple[Tensor, Call | None]:
    """Return the stream that a norm reads, channels last: its input, or that of a depthwise convolution before it."""
    norm = calls[position]
    tap = calls[position - 1] if position and is_tap(calls[position - 1].module) else None
    if tap is None or not close(norm.given, tap.returned.movedim(1, -1)):
        return norm.given, None
    return tap.given.movedim(1, -1), tap


def _tap(call: Call | None) -> Tap | None:
    if call is None:
        return None
    module = call.module
    assert isinstance(module, _ConvNd)
    odd = all(size % 2 == 1 for size in module.kernel_size)
    if not odd or module.padding != tuple(
        (s - 1) // 2 * d for s, d in zip(module.kernel_size, module.dilation, strict=True)
    ):
        raise ArchitectureError(f"convolution '{call.name}' has no centre tap that keeps every pixel in place")
    centre = tuple((size - 1) // 2 for size in module.kernel_size)
    return Tap(f"{call.name}.weight", f"{call.name}.bias" if module.bias is not None else None, centre)


def map_of(call: Call) -> Map:
    """Describe the linear map of a call."""
    transposed = not isinstance(call.module, nn.Linear)
    bias = getattr(call.module, "bias", None) is not None
    return Map(call.name, transposed, call.given.shape[-1], call.returned.shape[-1], bias)


def close(a: Tensor, b: Tensor) -> bool:
    """Say whether two tensors are the same numbers up to float rounding."""
    return a.shape == b.shape and bool(torch.allclose(a, b, rtol=1e-4, atol=1e-5 * float(b.abs().max()) + 1e-12))


def reads(given: Tensor, source: Tensor) -> bool:
    """Say whether an input is a norm's output, one position of it, or their mean."""
    if close(given, source):
        return True
    if source.ndim != 3:
        return False
    choices: Iterator[Tensor] = iter((source[:, 0], source[:, -1], source.mean(1), source[:, -1:]))
    return any(given.shape == choice.shape and close(given, choice) for choice in choices)


def perceptron(norm: Call, between: Sequence[Call]) -> tuple[Call, Call, Call | None, Call, str] | None:
    """Recognise down(act(up(norm))) or down(act(gate)·up); None for a mixer."""
    down = between[-1]
    readers = [call for call in between[:-1] if is_map(call.module) and close(call.given, norm.returned)]
    if not is_map(down.module) or len(readers) != len(between) - 1:
        return None
    for name, act in ACTIVATIONS.items():
        if len(readers) == 1 and close(down.given, act(readers[0].returned)):
            return norm, readers[0], None, down, name
        if len(readers) == 2:
            for gate, up in (readers, readers[::-1]):
                if close(down.given, act(gate.returned) * up.returned):
                    return norm, up, gate, down, name
    return None


def described(found: tuple[Call, Call, Call | None, Call, str], names: Mapping[str, Any]) -> Mlp:
    """Describe a perceptron that `perceptron` recognised."""
    norm, up, gate, down, activation = found
    return Mlp(norm_of(norm, names), map_of(up), None if gate is None else map_of(gate), map_of(down), activation)


def norm_of(call: Call, names: Mapping[str, Any]) -> Norm:
    """Tell LayerNorm from RMSNorm, and how the gain enters, by what the module computed."""
    module = call.module
    eps = next(
        (float(value) for key in ("eps", "variance_epsilon") if (value := getattr(module, key, None)) is not None),
        torch.finfo(call.given.dtype).eps,
    )
    gain, bias = getattr(module, "weight", None), getattr(module, "bias", None)
    if f"{call.name}.weight" not in names or gain is None:
        raise ArchitectureError(f"norm '{call.name}' has no gain; the construction sets its gain")
    x = call.given.double()
    gain, bias = gain.detach(), None if bias is None else bias.detach()
    shift = 0.0 if bias is None else bias.double()
    for kind, centred in (("layer", x - x.mean(-1, keepdim=True)), ("rms", x)):
        scaled = centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt()
        for offset in (0.0, 1.0):
            if close((scaled * (gain.double() + offset) + shift).to(call.returned.dtype), call.returned):
                has_bias = f"{call.name}.bias" if bias is not None else None
                exact = scaled * (gain.double() + offset) + shift
                away = float((exact - call.returned.double()).abs().max() / exact.abs().max())
                return Norm(call.name, kind, eps, f"{call.name}.weight", has_bias, offset, away > SINGLE)
    raise ArchitectureError(f"norm '{call.name}' ({type(module).__name__}) is neither a LayerNorm nor an RMSNorm")
