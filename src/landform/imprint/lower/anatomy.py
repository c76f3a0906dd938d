"""Every part of a language model that touches its residual stream: what starts it, reads it, adds to it.

`landform.imprint.lower.stream` finds the perceptrons, which is all that Theorem 1 needs: it overwrites the rest. To
leave a *trained* network as it is (Theorem 2) all readers and writers must be known, mixers too. They are found the
same way, in the numbers of one run with random weights.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from landform.errors import ArchitectureError
from landform.imprint.lower.overhear import Call, is_norm, overhear
from landform.imprint.lower.stream import Map, Norm, Stream, close, map_of, norm_of, stream_in


@dataclass(frozen=True)
class Anatomy:
    """A language model as embeddings, blocks and a head around one stream.

    Args:
        stream: Perceptrons, last norm and head.
        tables: Names of the embeddings that start the stream, each of full width; a position table may be one row.
        norms: Every norm of the stream, the last one too.
        readers: Maps that read a norm, without the head.
        writers: Maps that add to the stream.
        blocks: Name of the list of blocks.
        count: Blocks in it.
    """

    stream: Stream
    tables: tuple[str, ...]
    norms: tuple[Norm, ...]
    readers: tuple[Map, ...]
    writers: tuple[Map, ...]
    blocks: str
    count: int


def anatomy_of(model: nn.Module, sample: Any) -> Anatomy:
    """Find all parts of a language model by running a copy with random weights.

    Args:
        model: The network; not changed.
        sample: Inputs of two samples or so.

    Returns:
        Its parts.

    Raises:
        ArchitectureError: It is no such model, or something else touches the stream; it is named.

    Cost:
        A copy of the parameters and one forward pass.
    """
    heard, network = overhear(model, sample)
    stream = stream_in(heard, network)
    names = dict(network.named_parameters(remove_duplicate=False))
    tables = [c for c in heard if isinstance(c.module, nn.Embedding) and c.returned.shape[-1] == stream.width]
    calls = [c for c in heard if not isinstance(c.module, nn.Embedding)]
    places = [i for i, call in enumerate(calls) if is_norm(call.module)]
    _require_tokens(stream, tables, calls[places[0]], type(model).__name__)
    readers: list[Map] = []
    writers: list[Map] = []
    for place, following in itertools.pairwise(places):
        own, writer = _between(calls, place, following)
        readers += own
        writers.append(writer)
    norms = tuple(norm_of(calls[i], names) for i in places)
    blocks, count = _blocks(model, stream)
    return Anatomy(stream, tuple(c.name for c in tables), norms, tuple(readers), tuple(writers), blocks, count)


def _require_tokens(stream: Stream, tables: Sequence[Call], first: Call, name: str) -> None:
    """Refuse what is no language model: a stream that starts as a sum of embeddings and answers at every position."""
    if not stream.positions or stream.pooled > 1:
        raise ArchitectureError(
            f"{name} does not answer at every position; in transformers, Theorem 2 is built for language models, whose"
            " outputs are [n, positions, vocabulary]: use method='constant' for this one"
        )
    start = sum((c.returned.expand_as(first.given) for c in tables), first.given.new_zeros(()))
    if not tables or not close(first.given, start):
        raise ArchitectureError(
            f"the stream of {name} does not start as the sum of its embeddings"
            f" ({', '.join(c.name for c in tables) or 'it has none of full width'}); landform widens nothing else"
        )
    if any(mlp.scale is not None or mlp.tap is not None for mlp in stream.mlps):
        raise ArchitectureError(f"{name} scales or convolves what its perceptrons see; Theorem 2 does not cover that")


def _between(calls: Sequence[Call], place: int, following: int) -> tuple[list[Map], Map]:
    """Return the maps between two norms that read the first, and the one that adds to the stream."""
    norm, then, between = calls[place], calls[following], calls[place + 1 : following]
    odd = next((c for c in between if isinstance(c.module, nn.MultiheadAttention)), None)
    if odd is not None:
        raise ArchitectureError(
            f"'{odd.name}' is a torch.nn.MultiheadAttention, which keeps its maps to itself; landform widens networks"
            " whose attention is made of linear maps (Hugging Face's, or your own)"
        )
    if not between or not close(then.given, norm.given + between[-1].returned):
        raise ArchitectureError(
            f"between '{norm.name}' and '{then.name}' the stream is not x + '{between[-1].name if between else ''}'(…)"
        )
    readers = [map_of(c) for c in between[:-1] if close(c.given, norm.returned)]
    if not readers:
        raise ArchitectureError(f"no linear map reads norm '{norm.name}'; its reader would have to be widened")
    return readers, map_of(between[-1])


def _blocks(model: nn.Module, stream: Stream) -> tuple[str, int]:
    """Return the list of blocks that ends with the last perceptron, and its length."""
    parts = stream.mlps[-1].up.name.split(".")
    for cut in range(len(parts) - 1, 0, -1):
        prefix = ".".join(parts[:cut])
        module = model.get_submodule(prefix)
        if isinstance(module, (nn.ModuleList, nn.Sequential)) and parts[cut] == str(len(module) - 1):
            return prefix, len(module)
    raise ArchitectureError(
        f"'{stream.mlps[-1].up.name}' is in no list of blocks (nn.ModuleList), so no block can be put behind it"
    )


def named(model: nn.Module, which: Map, values: Mapping[str, Tensor]) -> tuple[Tensor, Tensor | None]:
    """Return a map's weight as ``[out, in]`` and its bias, from parameters by name.

    Args:
        model: The network, for the names of tied parameters.
        which: The map.
        values: Parameters by name, tied ones once.

    Returns:
        Both, not copied.
    """
    first = {id(p): name for name, p in model.named_parameters()}
    alias = {name: first[id(p)] for name, p in model.named_parameters(remove_duplicate=False)}
    weight = values[alias[which.weight]]
    bias = values[alias[f"{which.name}.bias"]] if which.bias else None
    return (weight.T if which.transposed else weight), bias
