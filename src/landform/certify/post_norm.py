"""The proof for transformers whose stream is normalised after each addition.

As in `landform.certify.stream`, with one difference: a norm does not only read the stream, it *becomes* the stream:
x = λ·(X + κ + e), with one λ and one κ for all coordinates in use. λ does not grow, since the next norm takes any
common factor away; κ is what means have subtracted, and units that read differences of coordinates do not see it.
"""

from dataclasses import dataclass, field, replace

import numpy as np

from landform.certify import curve as one
from landform.certify.proof_error import ProofError
from landform.certify.prove import Parts
from landform.certify.rounding import SLACK, U64
from landform.certify.stream import ACT_OPS, Pre, add_to_stream, apply_map, hidden_units
from landform.certify.stream_curve import Piece, fit, grid_of, loss_of, piece_of, values_of
from landform.certify.stream_norm import Read, own_rounding, root_rounding
from landform.certify.stream_weights import State, Weights, gamma, live_units, require_silence, start_coordinates
from landform.imprint.imprint import Imprint
from landform.imprint.lower.post_norm import PostStream
from landform.imprint.lower.stream import Mlp, Norm
from landform.mesh import Mesh
from landform.pattern import Pattern


def prove_post_stream(imprint: Imprint, stream: PostStream) -> Parts:
    """Bound |loss − pattern| of an imprint in such a transformer, from its weights.

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
    weights = Weights(stream.width, imprint.subspace, imprint.model)
    maps = [m for mlp in stream.mlps for m in (mlp.up, mlp.gate, mlp.down) if m is not None]
    maps += [m for m in (stream.tail.dense, stream.head) if m is not None]
    tail_norms = [stream.tail.norm] if stream.tail.norm is not None else []
    norms = [stream.entry, *stream.norms, *tail_norms]
    require_silence(imprint.model, maps, norms, stream.entry, imprint.subspace, stem=stream.stem)
    mesh = pattern.mesh
    h = start_coordinates(mesh)
    signal = _Signal()
    state = _start(weights, stream, h, signal)
    target = int(np.abs(response.ray.numpy()).argmax())
    readers = {mlp.norm.name: (number, mlp) for number, mlp in enumerate(stream.mlps)}
    for norm, after in zip((stream.entry, *stream.norms), (*stream.norms, None), strict=True):
        found = readers.get(norm.name)
        if found is not None:
            number, mlp = found
            if number < imprint.spline_stage:
                _push(weights, mesh, mlp, state)
            elif len(live_units(weights, mlp)):
                signal.add(weights, mlp, state)
            elif weights.bias(mlp.down).any():
                raise ProofError(f"'{mlp.down.name}' adds a constant behind the response curve")
        if after is not None:
            state = _normalise(weights, after, state, signal)
    if stream.pooled > 1:
        size = np.abs(state.value) + state.error + state.shift
        size[signal.place] += signal.reach
        state.error += float(gamma(stream.pooled + 1, weights.unit)) * size
    if signal.piece is None:
        raise ProofError("no perceptron bends the pattern register: the response curve is missing")
    return _follow(weights, stream, imprint, state, signal, target, pattern.values.reshape(-1).numpy())


def _start(weights: Weights, stream: PostStream, h: np.ndarray, signal: "_Signal") -> "PostState":
    """Return the stream behind the first norm: that of the stem, or where the gains are 0 the norm's bias."""
    reads = bool((weights.moved(stream.entry.gain, h) + stream.entry.gain_offset).any())
    if reads and stream.stem is None:
        raise ProofError(f"gains of '{stream.entry.name}' are not zero, so the stream depends on the input")
    value = weights.moved(stream.stem.bias if stream.stem is not None and reads else stream.entry.bias, h)
    state = PostState(value, U64 * np.abs(value), used=np.zeros(stream.width, dtype=bool))
    return _normalise(weights, stream.entry, state, signal) if reads else state


@dataclass
class PostState(State):
    """A stream behind a norm: λ·(X + κ + e), with one λ and one κ for all coordinates in use.

    Attributes:
        factor: Bound of |λ − 1|.
        shift: Bound of |κ|.
        used: Coordinates that it shifts.
    """

    factor: float = 0.0
    shift: float = 0.0
    used: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=bool))


def plain(state: PostState) -> Read:
    """Return the stream as maps read it, without a norm between."""
    used = np.repeat(state.used[:, None].astype(float), state.value.shape[1], axis=1)
    shift = np.full(state.value.shape[1], state.shift)
    return Read(state.value, np.zeros_like(state.value), state.error, [], used, shift, state.factor, 1.0)


def _push(weights: Weights, mesh: Mesh, mlp: Mlp, state: PostState) -> None:
    rows = live_units(weights, mlp)
    if not len(rows) and not weights.bias(mlp.down).any():
        return
    units = hidden_units(weights, mesh, mlp, plain(state), rows)
    if (state.factor and not units.degree) or weights.bias(mlp.down).any():
        raise ProofError(f"'{mlp.up.name}' or '{mlp.down.name}' has biases, which would not be scaled as the stream is")
    # what is added has the stream's own factor, and where a gate multiplies, another one
    units = replace(units, degree=max(units.degree - 1, 0))
    add_to_stream(weights, mlp, state, units, rows, state.factor)
    while state.shared:
        state.error = (state.error + np.abs(state.shared.pop())) * SLACK


def _normalise(weights: Weights, norm: Norm, state: PostState, signal: "_Signal") -> PostState:
    """Push the stream through a norm.

    With x = X + κ on the n coordinates in use, d·σ² = Σ X² − (Σ X)²/d + 2κ·ΣX·(1 − n/d) + κ²·n·(1 − n/d): the pair ±C
    drops out of ΣX, so σ hardly feels κ, and what is subtracted is common to all coordinates and goes into the new κ.
    """
    d, unit = weights.width, weights.norm_unit(norm)
    gain = weights.array(norm.gain) + norm.gain_offset
    if norm.bias is not None and weights.array(norm.bias).any():
        raise ProofError(f"'{norm.name}' has biases, which would not be scaled as the stream is")
    used = gain != 0
    if np.ptp(gain[used]) > 0 or not used[(state.value != 0).any(1)].all():
        raise ProofError(f"the gains of '{norm.name}' differ between the coordinates that carry the stream")
    total = state.error.copy()
    if signal.piece is not None:
        total[signal.place] += signal.reach
    size, shift = np.abs(state.value) + total, state.shift
    sums = float(np.abs(state.value.sum(0)).max() + total.sum(0).max())
    slip = float(gamma(2 * d, unit) + gamma(d, U64)) * float((size.sum(0) / d).max() + shift)
    sums += slip * d
    sign = np.sign(state.value[:, :1])
    least = np.where(sign * state.value > 0, sign * state.value - total, 0.0).min(1).clip(min=0)
    cross = 2 * shift * sums / d
    below = float((least**2).sum()) / d + norm.eps - (sums / d) ** 2 - cross
    above = float((size**2).sum(0).max()) / d + norm.eps + cross + shift**2
    if not below > 0:
        raise ProofError(f"'{norm.name}' has no large constant among its inputs")
    smallest, largest = np.sqrt(below) * (1 - 4 * d * U64), np.sqrt(above) * (1 + 4 * d * U64)
    middle = float(np.sqrt(smallest * largest))
    common = root_rounding(norm, size.max(1), np.inf, unit)
    factor = (max(middle / smallest - 1, 1 - middle / largest) + common) * SLACK
    ratio = gain / middle
    mean = sums / d + shift * used.mean()
    linear = ratio[:, None] * state.value
    own = own_rounding(norm, state.value, np.zeros(size.shape[1]), shift + mean, unit)
    error = np.abs(ratio)[:, None] * (state.error + own) * SLACK * (1 + factor)
    if signal.piece is not None:
        signal.gain *= float(ratio[signal.place])
        signal.reach *= float(abs(ratio[signal.place])) * (1 + factor)
    # what is subtracted is ΣX/d + κ·n/d, so a share 1 − n/d of the old κ is left
    moved = float(np.abs(ratio).max()) * (shift * (1 - used.mean()) + sums / d + slip) * (1 + factor) * SLACK
    return PostState(linear, error, [], factor, moved, used)


class _Signal:
    """The one coordinate in which ψ is summed up, followed beside the stream once it moves along ψ."""

    def __init__(self) -> None:
        self.piece: Piece | None = None
        self.place = -1
        self.gain, self.reach, self.rounding = 1.0, 0.0, 0.0

    def add(self, weights: Weights, mlp: Mlp, state: PostState) -> None:
        """Let a block of ψ write its coordinate."""
        if self.piece is not None:
            raise ProofError("the response curve is spread over several perceptrons; the proof covers one here")
        rows = live_units(weights, mlp)
        written = np.flatnonzero((weights.matrix(mlp.down)[:, rows] != 0).any(1))
        if len(written) != 1 or np.ptp(state.value[written[0]]) > 0 or weights.bias(mlp.down).any():
            raise ProofError(f"'{mlp.down.name}' must write one coordinate that is still")
        self.place = int(written[0])
        piece = piece_of(weights, mlp, state, plain(state), self.place)
        more = 0.0 if mlp.gate is None else ((1 + piece.factor) / (1 + state.factor) - 1) * SLACK
        self.piece = replace(piece, factor=more)  # without the stream's own
        added, radius = values_of(self.piece, grid_of([self.piece]), real=False)
        largest = float((np.abs(added) + radius).max())
        self.reach = largest
        size = largest + float(np.abs(state.value[self.place]).max() + state.radius[self.place].max())
        self.rounding = weights.unit * size


def _follow(
    weights: Weights,
    stream: PostStream,
    imprint: Imprint,
    state: PostState,
    signal: _Signal,
    target: int,
    values: np.ndarray,
) -> Parts:
    """Follow ψ through what stands behind the stream, and compare the loss with the pattern."""
    assert signal.piece is not None
    lo, hi = imprint.range
    slope, shift, away = fit(signal.piece.register, values)
    tau = grid_of([signal.piece])
    head = _outputs(weights, stream, state, signal)
    moving = np.flatnonzero(head.gain)
    if list(moving) != [target]:
        raise ProofError(f"outputs {moving.tolist()} move, only output {target} may")
    gain, constant = float(head.gain[target]), head.constant
    found: list[float] = []
    for real in (True, False):
        added, radius = values_of(signal.piece, tau, real=real)
        emitted = gain * added + constant[target]
        total = np.zeros(len(tau) - 1)
        if not real:
            radius = abs(gain) * (radius + signal.rounding) * (1 + head.factor) + head.factor * np.abs(gain * added)
            radius = radius + head.error[target] + 8 * (weights.unit + U64) * (np.abs(emitted) + np.abs(gain * added))
            total = np.maximum(radius[:-1], radius[1:]) * SLACK
        wanted = lo + (hi - lo) * (slope * tau - shift)
        loss = loss_of(imprint.response, constant, target)
        found.append(one.deviation(loss, emitted[:-1], emitted[1:], wanted[:-1], wanted[1:], total))
    others = float(np.delete(head.error, target).max(initial=0.0))
    if others > 0 and imprint.response.name != "cross_entropy":
        raise ProofError("the constant outputs carry rounding, which the proof covers for cross-entropy alone")
    noise = found[1] - found[0] if np.isfinite(found[1]) else np.inf
    return Parts((hi - lo) * away, found[0], max(noise, 0.0) + 2 * others)


class _Outputs:
    """Outputs as constant + gain·(what ψ adds), with radii."""

    def __init__(self, constant: np.ndarray, gain: np.ndarray, error: np.ndarray, factor: float) -> None:
        self.constant, self.gain, self.error, self.factor = constant, gain, error, factor


def _settled(pre: Pre, factor: float) -> tuple[np.ndarray, np.ndarray]:
    """Return middle of each row over h, and the radius with what wanders and what λ does to it."""
    low, high = pre.value.min(1), pre.value.max(1)
    return (low + high) / 2, pre.error.max(1) + (high - low) / 2 + factor * np.abs(pre.linear).max(1)


def _outputs(weights: Weights, stream: PostStream, state: PostState, signal: _Signal) -> _Outputs:
    """Push the settled stream, and the signal on top, through the tail and the head."""
    read, tail, unit = plain(state), stream.tail, weights.unit
    if tail.dense is None:
        rows = np.arange(stream.head.outputs)
        constant, error = _settled(apply_map(weights, stream.head, read, rows), state.factor)
        gain = weights.matrix(stream.head)[:, signal.place] * signal.gain
        return _Outputs(constant, gain, error, state.factor)
    head, bias = weights.matrix(stream.head), weights.bias(stream.head)
    # behind a norm every unit counts, read by the head or not
    counts = (head != 0).any(0) if tail.norm is None else np.ones(head.shape[1], dtype=bool)
    live = np.flatnonzero(counts & ((weights.matrix(tail.dense) != 0).any(1) | (weights.bias(tail.dense) != 0)))
    middle, error = _settled(apply_map(weights, tail.dense, read, live), state.factor)
    move = weights.matrix(tail.dense)[live, signal.place] * signal.gain
    reach = np.abs(move) * _largest(signal)
    # every live unit is linear in the signal, or constant
    factor = state.factor
    size = np.abs(middle) + reach + error
    if tail.activation == "tanh":
        flat = (move == 0) & (np.abs(middle) - error > 40)
        small = size < 0.1
        if not bool((flat | small).all()):
            raise ProofError(f"a unit of the pooler '{tail.dense.name}' is neither small nor saturated")
        value, slope = np.where(flat, np.sign(middle), middle), move
        radius = np.where(flat, 0.0, error + size**3 / 3 + ACT_OPS * unit * size)
        return _head(head[:, live], bias, value, slope, radius, factor, unit)
    value, slope, radius = _paired(weights, stream, live, middle, move, error, size)
    if tail.norm is None:
        return _head(head[:, live], bias, value, slope, radius, factor, unit)
    return _normed_head(weights, stream, live, value, slope, radius, size, factor)


def _largest(signal: _Signal) -> float:
    assert signal.piece is not None
    added, radius = values_of(signal.piece, grid_of([signal.piece]), real=False)
    return float((np.abs(added) + radius).max()) * (1 + 1e-3) + signal.rounding


def _paired(
    weights: Weights,
    stream: PostStream,
    live: np.ndarray,
    middle: np.ndarray,
    move: np.ndarray,
    error: np.ndarray,
    size: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Let a pair a(t) − a(−t) = t pass t (its partner nothing), and a saturated unit its constant."""
    tail = stream.tail
    assert tail.dense is not None
    rows, out = weights.matrix(tail.dense)[live], weights.matrix(stream.head)[:, live]
    gain = np.ones(len(live)) if tail.norm is None else weights.array(tail.norm.gain)[live]
    value, slope, radius = middle.copy(), move.copy(), error + ACT_OPS * weights.unit * size
    for k in np.flatnonzero(move):
        partners = [
            j
            for j in range(len(live))
            if np.array_equal(rows[j], -rows[k]) and np.array_equal(out[:, j], -out[:, k]) and gain[j] == gain[k]
        ]
        if len(partners) != 1:
            raise ProofError(f"a unit of '{tail.dense.name}' bends the signal")
        j = partners[0]
        if slope[j] != 0 and slope[k] != 0:
            value[j], slope[j], radius[j] = 0.0, 0.0, 0.0
            radius[k] += 2 * ACT_OPS * weights.unit * size[k]
    steady = (slope != 0) | (radius == 0.0) | (middle - error > 45)
    if not bool(steady.all()):
        raise ProofError(f"a unit of '{tail.dense.name}' is neither a pair nor saturated")
    return value, slope, radius


def _head(
    weight: np.ndarray,
    bias: np.ndarray,
    value: np.ndarray,
    slope: np.ndarray,
    radius: np.ndarray,
    factor: float,
    unit: float,
) -> _Outputs:
    size = np.abs(weight) @ (np.abs(value) + radius) + np.abs(bias)
    terms = (weight != 0).sum(1) + (bias != 0)
    error = np.abs(weight) @ radius + np.where(terms > 1, gamma(terms + 2.0, unit), unit) * size
    exact = (np.abs(weight) @ (radius + np.abs(value)) == 0) & (weight @ np.abs(slope) == 0)
    return _Outputs(weight @ value + bias, weight @ slope, np.where(exact, 0.0, error * SLACK), factor)


def _normed_head(
    weights: Weights,
    stream: PostStream,
    live: np.ndarray,
    value: np.ndarray,
    slope: np.ndarray,
    radius: np.ndarray,
    size: np.ndarray,
    factor: float,
) -> _Outputs:
    """Push the transform's units through its norm and the head.

    The units are activations, so ≥ −0.3; the constant among them is large, and σ lies between what the least and the
    largest of the others make of it.
    """
    norm, d, unit = stream.tail.norm, stream.head.inputs, weights.unit
    assert norm is not None
    own = weights.norm_unit(norm)
    still = slope == 0
    moves = float(size[~still].sum()) * 2 + 1.0  # a pair: one is up to its size, the other at least −0.3
    constants = np.where(still, value, 0.0)
    low, high = np.abs(constants) - np.where(still, radius, 0.0), np.abs(constants) + np.where(still, radius, 0.0)
    total_low, total_high = float(low.sum()) - 1.0, float(high.sum()) + moves
    below = float((low**2).sum()) / d - (total_high / d) ** 2 + norm.eps
    above = (float((high**2).sum()) + moves**2) / d - (max(total_low, 0.0) / d) ** 2 + norm.eps
    if not below > 0:
        raise ProofError(f"'{norm.name}' has no large constant among its inputs")
    middle = float(np.sqrt(np.sqrt(below * above)))
    bend = max(middle / np.sqrt(below) - 1, 1 - middle / np.sqrt(above)) + float(gamma(d + 16, own))
    gain = weights.array(norm.gain)[live] + norm.gain_offset
    bias = weights.array(norm.bias) if norm.bias is not None else np.zeros(d)
    shift = np.zeros(d)
    head = weights.matrix(stream.head)
    mean = total_high / d
    # units that are read must come in differences, or the mean would show
    leak = np.abs(head[:, live] @ (gain / middle)) * (mean + float(gamma(d, own)) * mean)
    rounding = own * 8 * (np.abs(value) + size + mean)
    near = np.where(gain != 0, np.abs(gain) / middle * (radius + rounding), 0.0)
    shift = head @ bias
    base = weights.bias(stream.head) + shift
    linear = head[:, live] @ np.where(gain != 0, gain / middle * value, 0.0)
    move = head[:, live] @ (gain / middle * slope)
    error = np.abs(head[:, live]) @ near + bend * np.abs(linear) + leak
    terms = (head != 0).sum(1) + 2.0
    busy = (np.abs(head[:, live]) @ np.abs(gain)) > 0
    sums = np.abs(head[:, live]) @ (np.abs(gain) / middle * (np.abs(value) + size)) + np.abs(base)
    error = np.where(busy, (error + gamma(terms, unit) * sums) * SLACK, 0.0)
    return _Outputs(base + linear, move, error, (1 + factor) * (1 + bend) - 1)
