"""Transformers that normalise *after* each addition, x ← norm(x + block(x)), as BERT does: reading and writing them.

The stream is then the output of a norm, and every norm on the way passes over all of it. Nothing is lost by that: with
gain C·√(2/d) on the coordinates in use, a norm maps x to λ·(x − mean), the same λ and the same mean for every
coordinate. Units read differences to a coordinate that started as 0, which has been shifted just as far, and constants
from the pair (+C, −C), which has been scaled just as much. So all that remains is a common factor Π λ close to 1.

Everything enters as (0, +C, −C, h_1 … h_z, 0 …): at the bias of the layer that starts the stream, where there is one,
its weights 0; behind embeddings at that of the first norm, whose gains are 0 (whatever the embeddings are). Behind the
last norm may stand a head, a pooler (a tanh, used where it is linear), or the transform of a masked language model (a
dense layer, an activation and one more norm).
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from landform.errors import ArchitectureError, CapacityError
from landform.imprint.lower.overhear import Call, is_norm, overhear
from landform.imprint.lower.smooth import PAIR_SIZE, SATURATED, STEEP, balances, units_of, weigh
from landform.imprint.lower.stem import Stem, find_stem
from landform.imprint.lower.stream import (
    ACTIVATIONS,
    Map,
    Mlp,
    Norm,
    Stream,
    close,
    described,
    map_of,
    norm_of,
    perceptron,
    reads,
    stream_in,
)
from landform.program.stream import StreamProgram

SMALL_PAIR = {torch.float32: 2.0**15, torch.float64: 2.0**29}
"""C of a transform's norm. Its inputs are ≥ 0, so there is no −C, the mean is C/d and λ feels s by 2s/(C·d)."""
GENTLE = {torch.float32: 2.0**-12, torch.float64: 2.0**-26}
"""Factor that brings s to where tanh is linear: tanh(κs)/κ = s·(1 − (κs)²/3)."""


@dataclass(frozen=True)
class Tail:
    """What stands between the last norm and the head.

    Args:
        dense: A linear map, or None for nothing.
        activation: ``"tanh"`` or a name of `ACTIVATIONS`.
        norm: A norm after it, or None.
    """

    dense: Map | None
    activation: str
    norm: Norm | None


@dataclass(frozen=True)
class PostStream:
    """A network whose stream is normalised after each addition.

    Args:
        width: Coordinates of the stream.
        entry: The norm behind the embeddings.
        norms: The norms after each addition, in order.
        mlps: The perceptrons in order; ``norm`` of each is the one whose output it reads.
        tail: What follows the last norm.
        head: The map to the outputs.
        pooled: Positions whose mean is taken behind the last norm, 1 for none.
        stem: The layer whose bias starts the stream of every token, where there is one.
    """

    width: int
    entry: Norm
    norms: tuple[Norm, ...]
    mlps: tuple[Mlp, ...]
    tail: Tail
    head: Map
    pooled: int = 1
    stem: Stem | None = None


def find_any_stream(model: nn.Module, sample: Any) -> "Stream | PostStream":
    """Find the residual stream of a network, normalised before each block or after each addition.

    Args:
        model: The network; it is not changed.
        sample: Inputs of two samples or so.

    Returns:
        Its structure.

    Raises:
        ArchitectureError: It has none, or a part of it is not covered; the module is named.

    Cost:
        A copy of the parameters and one forward pass.
    """
    heard, network = overhear(model, sample)
    calls = [call for call in heard if not isinstance(call.module, nn.Embedding)]
    norms = [position for position, call in enumerate(calls) if is_norm(call.module)]
    if len(norms) > 1 and norms[1] > norms[0] + 1:
        first, writer, then = calls[norms[0]], calls[norms[1] - 1], calls[norms[1]]
        if first.returned.shape == writer.returned.shape and close(then.given, first.returned + writer.returned):
            names = dict(network.named_parameters(remove_duplicate=False))
            post = find_post_stream(calls, names, type(model).__name__)
            return replace(post, stem=find_stem(model, sample, post.entry.name, post.width))
    stream = stream_in(heard, network)
    if stream.tied is not None:
        return stream
    return replace(stream, stem=find_stem(model, sample, stream.opening, stream.width))


def find_post_stream(calls: Sequence[Call], names: Mapping[str, Any], who: str) -> PostStream:
    """Find the structure in what was overheard; see `landform.imprint.lower.stream.find_stream`.

    Args:
        calls: Norms, maps and mixers in the order of the forward pass.
        names: Parameters under all of their names.
        who: What to call the network.

    Returns:
        The structure.

    Raises:
        ArchitectureError: A part of it is not covered; the module is named.
    """
    places = [position for position, call in enumerate(calls) if is_norm(call.module)]
    entry, norms, mlps = calls[places[0]], [], []
    end = places[0]
    for position, following in itertools.pairwise(places):
        norm, between, then = calls[position], calls[position + 1 : following], calls[following]
        writer = between[-1] if between else None
        if writer is None or not close(then.given, norm.returned + writer.returned):
            break
        found = perceptron(norm, between)
        if found is not None:
            mlps.append(described(found, names))
        norms.append(norm_of(then, names))
        end = following
    if len(mlps) < 2:
        raise ArchitectureError(f"{who} has {len(mlps)} perceptron blocks that landform can read; a pattern needs two")
    if entry.module is None or norm_of(entry, names).bias is None or any(n.kind != "layer" for n in norms):
        raise ArchitectureError(f"{who} normalises after the addition without biases; landform covers LayerNorm there")
    tail, head = _tail(calls[end], calls[end + 1 :], names, who)
    given, stream = calls[end + 1].given, calls[end].returned
    mean = given.ndim < stream.ndim and close(given, stream.mean(1))
    pooled = stream.shape[1] if mean else 1
    return PostStream(stream.shape[-1], norm_of(entry, names), tuple(norms), tuple(mlps), tail, head, pooled)


def _tail(last: Call, rest: Sequence[Call], names: Mapping[str, Any], who: str) -> tuple[Tail, Map]:
    if len(rest) == 1 and reads(rest[0].given, last.returned):
        return Tail(None, "", None), map_of(rest[0])
    acts: dict[str, Callable[[Tensor], Tensor]] = {**ACTIVATIONS, "tanh": torch.tanh}
    if len(rest) == 2 and reads(rest[0].given, last.returned):
        for name, act in acts.items():
            if close(rest[1].given, act(rest[0].returned)):
                return Tail(map_of(rest[0]), name, None), map_of(rest[1])
    if len(rest) == 3 and reads(rest[0].given, last.returned) and is_norm(rest[1].module):
        for name, act in ACTIVATIONS.items():
            if close(rest[1].given, act(rest[0].returned)) and close(rest[2].given, rest[1].returned):
                return Tail(map_of(rest[0]), name, norm_of(rest[1], names)), map_of(rest[2])
    what = ", ".join(f"'{call.name}'" for call in rest) or "nothing"
    raise ArchitectureError(
        f"after the last norm '{last.name}' of {who} come {what}; landform covers a linear head, a pooler and head, or"
        " a dense layer, activation, norm and head"
    )


ZERO, PLUS, MINUS, FIRST = 0, 1, 2, 3


def room_after(stream: PostStream, z: int) -> tuple[int, list[int], int]:
    """Return what a program may use: coordinates, hidden units of each block, units that a signed value takes."""
    gated = stream.mlps[0].gate is not None
    return stream.width - FIRST - z, [mlp.hidden for mlp in stream.mlps], 1 if gated else 2


def write_post_stream(
    stream: PostStream, program: StreamProgram, model: nn.Module, best: np.ndarray, ray: np.ndarray
) -> tuple[dict[str, Tensor], tuple[dict[str, Tensor], ...], str]:
    """Compute the parameters that make the network emit ``best + ray · s(h)`` at every position.

    Args:
        stream: The structure of the network.
        program: Its output is s.
        model: The network, for shapes and dtypes; it is not changed.
        best: p0, ``[outputs]``.
        ray: v, ``[outputs]``.

    Returns:
        Every parameter, the directions, and where the coordinates enter, in words.

    Raises:
        CapacityError: The program does not fit.
    """
    first = {id(value): name for name, value in model.named_parameters()}
    alias = {name: first[id(value)] for name, value in model.named_parameters(remove_duplicate=False)}
    dtype = next(model.parameters()).dtype
    out = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    size, d, z = PAIR_SIZE[dtype], stream.width, program.z
    registers = FIRST + z
    used = registers + program.registers
    if used > d:
        raise CapacityError(f"the pattern needs {used} coordinates, the stream has {d}")
    balance = slice(used, used + balances(program, d - used, size))
    start = stream.entry.bias if stream.stem is None else stream.stem.bias
    assert start is not None
    out[start][PLUS], out[start][MINUS] = size, -size
    directions = []
    for i in range(z):
        direction = torch.zeros_like(out[start])
        direction[FIRST + i] = 1.0
        directions.append({start: direction})
    for norm in stream.norms if stream.stem is None else (stream.entry, *stream.norms):
        out[norm.gain][: balance.stop] = size * (2 / d) ** 0.5

    def store(which: Map, weight: np.ndarray) -> None:
        value = torch.from_numpy(np.ascontiguousarray(weight.T if which.transposed else weight))
        out[alias[which.weight]].copy_(value)

    def reading(rows: np.ndarray, constants: np.ndarray, start: int) -> np.ndarray:
        """Return rows over the stream that read registers from ``start`` on, and constants."""
        full = np.zeros((len(rows), d))
        full[:, start : start + rows.shape[1]] = rows
        full[:, PLUS] = constants / size
        full[:, ZERO] = -(rows.sum(1) + constants / size)
        return full

    for number, (block, mlp) in enumerate(zip(program.blocks, stream.mlps, strict=False)):
        read = reading(block.read.toarray(), block.bias, FIRST if number == 0 else registers)
        steep = 1.0 if mlp.activation == "relu" else STEEP[dtype]
        write = np.zeros((d, len(block.bias)))
        write[registers:used] = block.write.toarray()
        weigh(write, slice(registers + 1, used), balance)
        one = reading(np.zeros((1, 1)), np.ones(1), registers)[0]
        rows, gates, columns = units_of(read, write, block.linear, one, steep, gated=mlp.gate is not None)
        if len(rows) > mlp.hidden:
            raise CapacityError(f"'{mlp.up.name}' has {mlp.hidden} units and {len(rows)} are needed")
        store(mlp.up, np.vstack([rows, np.zeros((mlp.hidden - len(rows), d))]))
        if mlp.gate is not None and gates is not None:
            store(mlp.gate, np.vstack([gates, np.zeros((mlp.hidden - len(gates), d))]))
        store(mlp.down, np.hstack([columns, np.zeros((d, mlp.hidden - len(rows)))]))
    signal = reading(np.ones((1, 1)), np.zeros(1), registers)[0]
    one = reading(np.zeros((1, 1)), np.ones(1), registers)[0]
    constant = best + ray * program.offset[0]
    weight, floor = _write_tail(stream, out, store, signal, one, ray, constant, dtype)
    if stream.head.bias:
        out[alias[f"{stream.head.name}.bias"]].copy_(torch.from_numpy(constant))
    elif floor is None:
        raise ArchitectureError(f"'{stream.head.name}' has no bias for the constant logits, and nothing before it has")
    else:
        weight = weight + floor
    store(stream.head, weight)
    words = f"biases of '{stream.entry.name}', the normalisation behind the embeddings, whose gains are 0"
    if stream.stem is not None:
        words = f"biases of '{stream.stem.name}', the layer that starts the stream, whose weights are 0"
    return out, tuple(directions), words


def _write_tail(
    stream: PostStream,
    out: dict[str, Tensor],
    store: Callable[[Map, np.ndarray], None],
    signal: np.ndarray,
    one: np.ndarray,
    ray: np.ndarray,
    constant: np.ndarray,
    dtype: torch.dtype,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Write what stands before the head; return the head's weight for s, and for constants where it has no bias."""
    tail = stream.tail
    if tail.dense is None:
        return np.outer(ray, signal), np.outer(constant, one)
    rows = np.zeros((tail.dense.outputs, tail.dense.inputs))
    weight = np.zeros((len(ray), stream.head.inputs))
    floor = np.zeros_like(weight)
    if tail.activation == "tanh":
        kappa = GENTLE[dtype]
        rows[0], rows[1] = kappa * signal, SATURATED * one
        weight[:, 0], floor[:, 1] = ray / kappa, constant
    else:
        rows[0], rows[1] = signal, -signal
        weight[:, 0], weight[:, 1] = ray, -ray
        if tail.norm is None:
            rows[2] = SATURATED * one
            floor[:, 2] = constant / SATURATED
        else:
            small, d = SMALL_PAIR[dtype], stream.head.inputs
            rows[2] = small * one
            out[tail.norm.gain][:2] = small * ((1 / d) * (1 - 1 / d)) ** 0.5
            if tail.norm.bias is not None:
                out[tail.norm.bias][2] = 1.0
                floor[:, 2] = constant
            else:
                store(tail.dense, rows)
                return weight, None
    store(tail.dense, rows)
    return weight, floor
