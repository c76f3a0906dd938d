"""The proof for transformers, second part: from the pattern register through ψ and the head to the loss.

The blocks of ψ read one register and nothing else that moves, so behind it the network is a function of one number,
followed exactly on a grid that has every knot; radii as in `landform.certify.stream`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from landform.certify import curve as one
from landform.certify.proof_error import ProofError
from landform.certify.prove import Parts
from landform.certify.rounding import SLACK, U64
from landform.certify.stream import CLOSE, FAR, act_rounding, apply_map, gap_of, push_block
from landform.certify.stream_norm import Read, read_norm
from landform.certify.stream_weights import State, Weights, gamma, live_units, require_silence, start, start_coordinates
from landform.imprint.imprint import Imprint
from landform.imprint.lower.stream import Mlp, Stream
from landform.pattern import Pattern
from landform.response import AbstractResponse


@dataclass(frozen=True)
class Piece:
    """The units of one block of ψ: relu(sign·τ + bias), and what they add to the output's coordinate.

    Args:
        sign: ``[units]``.
        bias: ``[units]``.
        weight: ``[units]``.
        error: Radius of the pre-activations; one number, or ``[units, grid]``.
        factor: Radius of the common factor of all that is added.
        activation: Name.
        register: Nodal values of τ.
    """

    sign: np.ndarray
    bias: np.ndarray
    weight: np.ndarray
    error: float | np.ndarray
    factor: float
    activation: str
    register: np.ndarray
    scale: float
    rounding: float


def prove_stream(imprint: Imprint, stream: Stream) -> Parts:
    """Bound |loss − pattern| of an imprint in a transformer, from its weights.

    Args:
        imprint: The imprint; its pattern has nodal values.
        stream: The structure of its network.

    Returns:
        The parts of the bound.

    Raises:
        ProofError: The weights do not have the form that the proof covers.
    """
    pattern, response = imprint.pattern, imprint.response
    if not isinstance(pattern, Pattern) or imprint.spline_stage is None:
        raise ProofError("the proof for transformers covers patterns with nodal values and a response curve")
    _require_silence(imprint, stream)
    mesh = pattern.mesh
    weights, h = Weights(stream.width, imprint.subspace, imprint.model), start_coordinates(mesh)
    state = start(weights, stream, h)
    for mlp in stream.mlps[: imprint.spline_stage]:
        push_block(weights, mesh, mlp, state, h)
    values = pattern.values.reshape(-1).numpy()
    target = int(np.abs(response.ray.numpy()).argmax())
    out = _output_coordinate(weights, stream, target, state)
    pieces: list[Piece] = []
    before = State(state.value.copy(), state.error.copy(), list(state.shared))
    for mlp in stream.mlps[imprint.spline_stage :]:
        if len(live_units(weights, mlp)):
            read = read_norm(weights, mlp.norm, state, h, scale=pieces[0].scale if pieces else None)
            pieces.append(piece_of(weights, mlp, state, read, out, pieces))
            _widen(state, out, pieces[-1])
        elif weights.bias(mlp.down).any():
            raise ProofError(f"'{mlp.down.name}' adds a constant behind the response curve")
    if not pieces:
        raise ProofError("no perceptron bends the pattern register: the response curve is missing")
    return _follow(weights, stream, imprint, response, before, state, h, out, target, pieces, values)


def _require_silence(imprint: Imprint, stream: Stream) -> None:
    for mlp in stream.mlps:
        _require_identity(imprint, mlp)
    maps = [m for mlp in stream.mlps for m in (mlp.up, mlp.gate, mlp.down) if m is not None]
    norms = [*(mlp.norm for mlp in stream.mlps), stream.final]
    tables = {stream.tokens, stream.tied, *(mlp.scale for mlp in stream.mlps)}
    tables |= {mlp.tap.weight for mlp in stream.mlps if mlp.tap is not None}
    entry = stream.mlps[0].norm
    require_silence(imprint.model, [*maps, stream.head], norms, entry, imprint.subspace, tables, stream.stem)


def _require_identity(imprint: Imprint, mlp: Mlp) -> None:
    """Refuse a scale that is not 1 and a depthwise convolution that is not the identity."""
    origin = imprint.subspace.origin
    if mlp.scale is not None and bool((origin[mlp.scale] != 1).any()):
        raise ProofError(f"'{mlp.scale}' is not 1 everywhere")
    if mlp.tap is not None:
        weight = origin[mlp.tap.weight].clone()
        middle = mlp.tap.middle(weight)
        if bool((middle != 1).any()):
            raise ProofError(f"the centre of '{mlp.tap.weight}' is not 1 everywhere")
        middle.zero_()
        if bool((weight != 0).any()):
            raise ProofError(f"'{mlp.tap.weight}' reads other pixels than its own")


def _output_coordinate(weights: Weights, stream: Stream, target: int, state: State) -> int:
    """Return the coordinate of the stream that the last block writes and the moving output reads."""
    written = np.zeros(stream.width, dtype=bool)
    last = [mlp for mlp in stream.mlps if len(live_units(weights, mlp))][-1]
    written |= (weights.matrix(last.down) != 0).any(1)
    read = weights.matrix(stream.head)[target] * (weights.array(stream.final.gain) + stream.final.gain_offset) != 0
    found = np.flatnonzero(written & read)
    if len(found) != 1:
        raise ProofError(f"the response curve writes {len(found)} coordinates that output {target} reads; wanted one")
    varies = float(np.ptp(state.value[found[0]]))
    if varies > 0:
        raise ProofError("the output's coordinate depends on h before the response curve")
    return int(found[0])


def piece_of(weights: Weights, mlp: Mlp, state: State, read: Read, out: int, earlier: Sequence[Piece] = ()) -> Piece:
    """Return a block of ψ, checked to read one register and to write one coordinate.

    Args:
        weights: The network.
        mlp: The perceptron.
        state: The stream that it finds.
        read: What its maps read.
        out: The coordinate that it may write.
        earlier: Blocks of ψ before it, which must read the same register.

    Returns:
        The block.

    Raises:
        ProofError: It is of another form.
    """
    rows = live_units(weights, mlp)
    down = weights.matrix(mlp.down)[:, rows]
    others = np.flatnonzero((np.delete(down, out, axis=0) != 0).any(1))
    if len(others):
        raise ProofError(f"'{mlp.down.name}' writes other coordinates than the output's")
    bends = mlp.up if mlp.gate is None else mlp.gate
    pre = apply_map(weights, bends, read, rows)
    if not pre.homogeneous:
        raise ProofError(f"units of '{bends.name}' have biases; behind a norm every constant must be read from it")
    weight = weights.matrix(bends)[rows]
    if weight[:, out].any():
        raise ProofError(f"units of '{bends.name}' read the output's coordinate")
    base, sign = _base(weight, state, bends.name)
    if earlier:
        first = earlier[0].register
        register = base @ _raw(read, state)
        if not np.array_equal(register, first):
            raise ProofError(f"units of '{bends.name}' read another register than the block before")
    else:
        register = base @ _raw(read, state)
    offset = pre.value - sign[:, None] * register
    bias = (offset.max(1) + offset.min(1)) / 2
    wander = float(((offset.max(1) - offset.min(1)) / 2).max())
    error = float(pre.error.max()) + wander
    added, degree, more = down[out], 1, 0.0
    if mlp.gate is not None:
        up = apply_map(weights, mlp.up, read, rows)
        low, high = up.value.min(1), up.value.max(1)
        middle = (low + high) / 2
        if not up.homogeneous or bool(((high - low) > 1e-3 * np.abs(middle)).any()):
            raise ProofError(f"units of '{mlp.up.name}' depend on h where the response curve is bent")
        more = float((((high - low) / 2 + up.error.max(1)) / np.abs(middle)).max()) + 2 * weights.unit
        added, degree = added * middle, 2
    factor = ((1 + read.factor) ** degree * (1 + more) - 1) * SLACK
    return Piece(sign, bias, added, error, factor, mlp.activation, register, read.scale, weights.unit)


def _raw(read: Read, state: State) -> np.ndarray:
    """Return the stream as a norm reads it, without the mean: gain·x/σ0 of the coordinates that move."""
    moves = np.ptp(state.value, axis=1) > 0
    return np.where(moves[:, None], read.gain * state.value, 0.0)


def _base(weight: np.ndarray, state: State, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the one row over moving coordinates that all units share up to a sign."""
    moves = np.flatnonzero(np.ptp(state.value, axis=1) > 0)
    base = np.zeros(weight.shape[1])
    base[moves] = weight[0][moves]
    sign = np.ones(len(weight))
    if not len(moves):
        return base, sign
    for k, row in enumerate(weight[:, moves]):
        if np.array_equal(row, base[moves]):
            continue
        if not np.array_equal(row, -base[moves]):
            raise ProofError(f"unit {k} of '{name}' reads another register than the units before it")
        sign[k] = -1.0
    return base, sign


def grid_of(pieces: Sequence[Piece]) -> np.ndarray:
    """Return all kinks of ψ over the span of the register, and its ends."""
    low, high = float(pieces[0].register.min()), float(pieces[0].register.max())
    knots = np.concatenate([-p.bias * p.sign for p in pieces])
    high = max(high, low + 1e-9 * (1 + abs(low)))
    return np.unique(np.concatenate([[low, high], knots[(knots > low) & (knots < high)]]))


def values_of(piece: Piece, tau: np.ndarray, *, real: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return what a piece adds at the grid, and its radius; ``real``: without rounding and norms."""
    pre = piece.sign[:, None] * tau + piece.bias[:, None]
    value = np.maximum(pre, 0.0)
    added = piece.weight @ value
    if real:
        return added, np.zeros_like(added)
    far = 0.0 if piece.activation == "relu" else FAR
    on, near = _spread(pre + piece.error > -far), _spread(np.abs(pre) - piece.error < far)
    close = _spread(np.abs(pre) - piece.error < CLOSE)
    rounded = act_rounding(piece.activation, value + piece.error, near, piece.rounding)
    error = np.where(on, piece.error + rounded, 0.0)
    error = error + gap_of(piece.activation, near, close)
    size = np.abs(piece.weight) @ (value + error)
    terms = (piece.weight != 0).astype(float) @ on.astype(float) + 2
    radius = np.abs(piece.weight) @ error * (1 + piece.factor) + piece.factor * np.abs(added)
    radius += (gamma(terms, piece.rounding) + gamma(terms, U64)) * size * (1 + piece.factor)
    return added, radius * SLACK


def _spread(mask: np.ndarray) -> np.ndarray:
    """Spread a mask over grid points to the neighbours, as cells are what counts."""
    out = mask.copy()
    out[:, 1:] |= mask[:, :-1]
    out[:, :-1] |= mask[:, 1:]
    return out


def _widen(state: State, out: int, piece: Piece) -> None:
    """Let the output's coordinate be anything that the piece may make of it, for the norms that follow."""
    added, radius = values_of(piece, grid_of([piece]), real=False)
    low, high = float((added - radius).min()), float((added + radius).max())
    state.value[out] = state.value[out] + (low + high) / 2
    state.error[out] = state.error[out] + (high - low) / 2


def _follow(
    weights: Weights,
    stream: Stream,
    imprint: Imprint,
    response: AbstractResponse,
    before: State,
    after: State,
    h: np.ndarray,
    out: int,
    target: int,
    pieces: list[Piece],
    values: np.ndarray,
) -> Parts:
    """Follow the register through ψ, the last norm and the head, and compare the loss with the pattern."""
    unit = weights.unit
    lo, hi = imprint.range
    register = pieces[0].register
    slope, shift, away = fit(register, values)
    tau = grid_of(pieces)
    # the last norm and the head see the output's coordinate in the middle of its range, constant over h
    settled = State(after.value.copy(), after.error.copy(), after.shared)
    own_error = after.error.copy()
    own_error[out] = before.error[out]  # its movement through ψ is followed exactly below, so it is no error here
    mean = float(gamma(stream.pooled + 1, unit)) if stream.pooled > 1 else 0.0
    if stream.pooled_first:
        rounded = mean * (np.abs(settled.value) + settled.radius)
        settled, own_error = State(settled.value, settled.error + rounded, settled.shared), own_error + rounded
    read = read_norm(weights, stream.final, settled, h, own_error=own_error)
    if mean and not stream.pooled_first:
        size = (1 + read.factor) * np.abs(read.linear) + np.abs(read.constant) + read.error
        size[out] += np.abs(read.gain[out]) * after.error[out]
        read = replace(read, error=read.error + mean * size)
    head = apply_map(weights, stream.head, read, np.arange(stream.head.outputs))
    weight = weights.matrix(stream.head)
    reads = np.flatnonzero(weight[:, out] * read.gain[out].max() != 0)
    if list(reads) != [target]:
        raise ProofError(f"outputs {reads.tolist()} move, only output {target} may")
    gain = float(weight[target, out] * read.gain[out, 0])
    constant = head.value.mean(1) - 0.0
    wander = np.ptp(head.value, axis=1) / 2
    constant[target] -= gain * float(after.value[out, 0])
    own = head.error.max(1) + read.factor * np.abs(head.linear).max(1) + wander
    found: list[float] = []
    for real in (True, False):
        parts = [values_of(piece, tau, real=real) for piece in pieces]
        s = float(before.value[out, 0]) + sum(part for part, _ in parts)
        radius = sum(part for _, part in parts)
        if not real:
            partial = np.abs(s) + radius + sum(np.abs(part) for part, _ in parts)
            radius = radius + len(pieces) * unit * partial
        signal = gain * s + constant[target]
        total = np.zeros(len(tau) - 1)
        if not real:
            radius = abs(gain) * radius * (1 + read.factor) + read.factor * np.abs(gain * s) + own[target]
            radius = radius + 4 * unit * np.abs(signal) + 8 * U64 * (np.abs(signal) + abs(gain) * np.abs(s).max())
            total = np.maximum(radius[:-1], radius[1:]) * SLACK
        wanted = lo + (hi - lo) * (slope * tau - shift)
        loss = loss_of(response, constant, target)
        found.append(one.deviation(loss, signal[:-1], signal[1:], wanted[:-1], wanted[1:], total))
    others = float(np.delete(own, target).max(initial=0.0))
    if others > 0 and response.name != "cross_entropy":
        raise ProofError("the constant outputs carry rounding, which the proof covers for cross-entropy alone")
    noise = found[1] - found[0] if np.isfinite(found[1]) else np.inf
    return Parts((hi - lo) * away, found[0], max(noise, 0.0) + 2 * others)


def fit(register: np.ndarray, values: np.ndarray) -> tuple[float, float, float]:
    """Return slope, shift and sup |slope·τ − shift − values|: how the register stands for the pattern."""
    centred = register - register.mean()
    power = float(centred @ centred)
    slope = float(centred @ (values - values.mean())) / power if power > 0 else 0.0
    difference = slope * register - values
    shift = float(difference.max() + difference.min()) / 2
    return slope, shift, float(np.abs(difference - shift).max()) + 2.0**-50 * (1 + abs(shift))


def loss_of(response: AbstractResponse, constant: np.ndarray, target: int) -> one.Loss:
    """Return the loss as a function of the one output that moves."""
    base = torch.from_numpy(constant.copy())

    def loss(s: np.ndarray) -> np.ndarray:
        outputs = base.expand(len(s), -1).clone()
        outputs[:, target] = torch.from_numpy(np.ascontiguousarray(s))
        value: np.ndarray = response.loss(outputs).numpy()
        return value

    return loss
