"""The proof for Theorem 2 in a language model: blocks behind the trained ones, a factor for each token.

Every unit of the pattern's blocks is homogeneous, so a token's signal is g_i·s with known g_i and *one* s(h), followed
as for Theorem 1 (`landform.certify.stream`) in a stand-in token: coordinates of equal size where the trained stream
is, with the largest Σ x² of all tokens. Errors are relative to the registers and the stand-in makes them largest: its
σ is, so the absolute gap between an activation and a ReLU is the largest fraction of what is read.

Each token rounds in its own way, so what is off about its signal counts with |dℓ_i/ds|, not with the slope of the mean,
which is 0 at s = 0: errors of opposite sign where tokens gain and lose would add up.

What h does to the trained logits goes through the last norm only: its σ² moves by ε²|u|² and its mean by ε Σu, and norm
and head may round in another way. All are bounded, for any order of summation, by what is stored of every token
(`landform.response.token_rounding`).
"""

from dataclasses import dataclass, replace

import numpy as np
import torch

from landform.certify import curve as one
from landform.certify.along import Along, at_nodes, within
from landform.certify.beside_stream import Own, own_of, require_head, require_separate, stand_in
from landform.certify.proof_error import ProofError
from landform.certify.prove import Parts
from landform.certify.rounding import SLACK
from landform.certify.stream import CLOSE, FAR, act_rounding, add_to_stream, apply_map, gap_of, hidden_units
from landform.certify.stream_curve import Piece, fit, grid_of, values_of
from landform.certify.stream_norm import NORM_OPS, Read, read_norm
from landform.certify.stream_weights import State, Weights, gamma, live_units, start_coordinates
from landform.imprint.imprint import Imprint
from landform.imprint.lower.stream import Mlp
from landform.mesh import Mesh
from landform.pattern import Pattern
from landform.response.token_offset import TokenOffsetResponse
from landform.response.token_rounding import TokenRounding

STILL = 1e-9
"""A coordinate that moves by less of its size is a constant with a radius."""
TOKENS_DIFFER = 0.15
"""(σ0/σ_i)² − 1 of the norms between the pattern's blocks is at most 1/8, for the ballast is twice any token."""


def prove_beside_stream(imprint: Imprint) -> Parts:
    """Bound |L(h) − T(h)| of an offset imprint in a language model, from weights and stored tokens.

    Args:
        imprint: The imprint.

    Returns:
        The parts of the bound.

    Raises:
        ProofError: The weights do not have the form that the proof covers.

    Cost:
        As for Theorem 1 in a transformer, and some 5,000 evaluations of the response over all tokens.
    """
    pattern, response = imprint.pattern, imprint.response
    if not isinstance(pattern, Pattern) or not isinstance(response, TokenOffsetResponse):
        raise ProofError("the proof for language models covers patterns with nodal values")
    if not {"least", "largest", "mean"} <= set(response.about):
        raise ProofError("the response does not say how large the trained network's numbers are")
    rounding_of(response)
    own = own_of(imprint)
    weights = Weights(own.anatomy.stream.width, imprint.subspace, imprint.model)
    require_separate(imprint, own, weights)
    signal = require_head(imprint, own, weights, response)
    mesh, h = pattern.mesh, start_coordinates(pattern.mesh)
    state = stand_in(own, weights, response, mesh.n_nodes)
    scale = own.faint
    for number, mlp in enumerate(own.mlps[:-2]):
        scale *= _push(weights, mesh, mlp, state, h, own, first=number == 0)
    return _follow(imprint, response, own, weights, state, h, scale, signal)


def _push(weights: Weights, mesh: Mesh, mlp: Mlp, state: State, h: np.ndarray, own: Own, *, first: bool) -> float:
    """Push the stand-in through one block; return its λ (1 for the first, which reads biases)."""
    rows = live_units(weights, mlp)
    read = read_norm(weights, mlp.norm, state, h)
    if not first and read.constant[:, 0].any():
        raise ProofError(f"'{mlp.norm.name}', between the first block of the pattern and the last, has a bias")
    units = hidden_units(weights, mesh, mlp, read, rows)
    add_to_stream(weights, mlp, state, units, rows, read.factor)
    return 1.0 if first else _gain(weights, own, mlp, read)


def _gain(weights: Weights, own: Own, mlp: Mlp, read: Read) -> float:
    """Return the λ of the stand-in: G ε/σ0, the one gain with which a norm reads registers."""
    gain = weights.array(mlp.norm.gain) + mlp.norm.gain_offset
    found = np.unique(gain[gain != 0])
    if len(found) != 1 or found[0] <= 0:
        raise ProofError(f"'{mlp.norm.name}' reads registers with {len(found)} different gains; wanted one")
    return float(found[0] * own.faint / read.scale)


def _follow(
    imprint: Imprint,
    response: TokenOffsetResponse,
    own: Own,
    weights: Weights,
    state: State,
    h: np.ndarray,
    scale: float,
    signal: int,
) -> Parts:
    """Follow the register through ψ and the clamp, and compare the loss with the pattern."""
    assert isinstance(imprint.pattern, Pattern)
    lo, hi = imprint.range
    values = imprint.pattern.values.reshape(-1).numpy()
    bend, clamp = own.mlps[-2:]
    read = read_norm(weights, bend.norm, state, h)
    if read.constant[:, 0].any():
        raise ProofError(f"'{bend.norm.name}' has a bias")
    bent = _bent(weights, bend, state, read)
    scale *= _gain(weights, own, bend, read)
    register = bent.pieces[bent.main].register
    slope, shift, away = fit(register, values)
    grid = _grid(bent.pieces[bent.main], float(bent.common.max()))
    for more in (True, True, False):  # twice more with the clamp's own knot
        along = Along(imprint.pattern.mesh, register, grid, float(bent.common.max()))
        line = _line(state, bent.added(along, grid), len(grid))
        pre, last = _clamp_input(weights, clamp, line)
        if more:
            grid = np.union1d(grid, _crossings(grid, pre.value[0]))
    s, radius = _clamped(weights, clamp, pre.value[0], pre.error[0], signal, last.factor)
    unit = scale * _gain(weights, own, clamp, last)
    line.value[signal], line.error[signal] = s, radius
    s, radius = s / unit, radius / unit * SLACK
    square, mean = _registers(own, line)
    feel = square / (2 * response.about["least"]) * SLACK
    relative = feel + TOKENS_DIFFER * last.factor * len(own.mlps)
    radius = radius + _last_norm(weights, own, s, unit, response, relative, mean)
    ends = (grid[:-1], grid[1:])
    inside = (ends[0] >= register.min()) & (ends[1] <= register.max())
    # each token's register is off by an amount of its own: a place on the curve
    off = along.most(bent.common[None])[0]
    wide = (ends[0] - off, ends[1] + off)
    steep = within(grid, np.abs(np.diff(s)) / np.diff(grid), *wide)
    each = within(grid, np.maximum(radius[1:], radius[:-1]), *wide) + steep * off
    rise = response.steepness(torch.from_numpy(s)).numpy()
    noise = float((rise * each + response.bend * each**2)[inside].max()) * SLACK
    wanted = lo + (hi - lo) * (slope * grid - shift)
    start, end = (np.flatnonzero(inside)[[0, -1]] + np.array([0, 1])).tolist()
    parts = (s[start:end], s[start + 1 : end + 1], wanted[start:end], wanted[start + 1 : end + 1])
    curve = one.deviation(_loss(response), *parts, np.zeros(end - start))
    return Parts((hi - lo) * away, curve, noise + _logit_noise(response, own, weights, square, mean, float(s.max())))


def _grid(piece: Piece, common: float) -> np.ndarray:
    """Return the kinks of ψ, the ends of the register's span, and the ends with its error."""
    wide = replace(piece, register=np.array([piece.register.min() - common, piece.register.max() + common]))
    return np.union1d(grid_of([wide]), [piece.register.min(), piece.register.max()])


@dataclass(frozen=True)
class _Bent:
    """ψ's block: what it adds to each coordinate that it writes, hinges of one register or of a constant.

    Args:
        pieces: By coordinate; their errors are below.
        error: Radii of the pre-activations, ``[units, nodes]`` a piece, without what follows.
        common: Radius of the register that all hinges read, ``[nodes]``.
        main: The coordinate that depends on it.
    """

    pieces: dict[int, Piece]
    error: dict[int, np.ndarray]
    common: np.ndarray
    main: int

    def added(self, along: Along, grid: np.ndarray) -> dict[int, tuple[np.ndarray, np.ndarray]]:
        """Return what is added to each coordinate along the register, and its radius."""
        found = {row: replace(piece, error=at_nodes(along.most(self.error[row]))) for row, piece in self.pieces.items()}
        return {row: values_of(piece, grid, real=False) for row, piece in found.items()}


def _bent(weights: Weights, mlp: Mlp, state: State, read: Read) -> _Bent:
    """Read ψ's block off the weights."""
    rows = live_units(weights, mlp)
    down = weights.matrix(mlp.down)[:, rows]
    spans, size = np.ptp(state.value, axis=1), np.abs(state.value).max(1)
    moving = np.flatnonzero((spans > STILL * size) & (read.gain.max(1) != 0))
    every = read.error + sum((np.abs(part) for part in read.shared), np.zeros_like(read.error)) * (1 + read.factor)
    rest = np.ones((len(every), 1))
    rest[moving] = 0.0
    pre = apply_map(
        weights, mlp.up, replace(read, error=read.error * rest, shared=[part * rest for part in read.shared]), rows
    )
    weight = weights.matrix(mlp.up)[rows][:, moving]
    bends = (weight != 0).any(1)
    base = weight[bends][0] if bends.any() else np.zeros(len(moving))
    register = base @ (read.gain[moving] * state.value[moving])
    sign = np.ones(len(rows))
    for k in np.flatnonzero(bends):
        if not (np.array_equal(weight[k], base) or np.array_equal(weight[k], -base)):
            raise ProofError(f"unit {k} of '{mlp.up.name}' reads another register than the units before it")
        sign[k] = 1.0 if np.array_equal(weight[k], base) else -1.0
    pieces, errors = {}, {}
    for row in np.flatnonzero((down != 0).any(1)):
        units = np.flatnonzero(down[row])
        still = not bends[units].any()
        if not still and not bends[units].all():
            raise ProofError(f"'{mlp.down.name}' adds a constant to the response curve")
        if state.value[row].any():
            raise ProofError(f"'{mlp.down.name}' writes a coordinate of the response curve that is not empty")
        offset = pre.value[units] - (0.0 if still else sign[units, None] * register)
        bias = (offset.max(1) + offset.min(1)) / 2
        errors[int(row)] = pre.error[units] + np.abs(offset - bias[:, None])
        turn = np.zeros(len(units)) if still else sign[units]
        pieces[int(row)] = Piece(
            turn, bias, down[row, units], 0.0, read.factor, mlp.activation, register, read.scale, weights.unit
        )
    main = [row for row, piece in pieces.items() if piece.sign.any()]
    if len(main) != 1:
        raise ProofError(f"'{mlp.down.name}' writes no response curve, or more than one")
    common: np.ndarray = np.abs(base) @ every[moving] * (1 + 1e-4)
    return _Bent(pieces, errors, common, main[0])


def _line(state: State, added: dict[int, tuple[np.ndarray, np.ndarray]], nodes: int) -> State:
    """Return the stream as a function of the register: what depends on h otherwise becomes a radius."""
    low, high = (state.value - state.radius).min(1), (state.value + state.radius).max(1)
    value = np.repeat(((low + high) / 2)[:, None], nodes, axis=1)
    error = np.repeat(((high - low) / 2)[:, None], nodes, axis=1) * SLACK
    for row, (number, radius) in added.items():
        value[row], error[row] = number, radius
    return State(value, error)


def _clamp_input(weights: Weights, mlp: Mlp, line: State) -> tuple["_Clamp", Read]:
    """Return the input of the last block's one unit that is not constant, along the register."""
    rows = live_units(weights, mlp)
    nothing = np.zeros((weights.z, line.value.shape[1]))
    read = read_norm(weights, mlp.norm, line, nothing)
    pre = apply_map(weights, mlp.up, read, rows)
    bends = np.flatnonzero(pre.linear.any(1))
    if len(bends) != 1 or pre.constant[bends].any():
        raise ProofError(f"the last block has {len(bends)} units that depend on h; wanted the clamp alone")
    return _Clamp(pre.value[bends], pre.error[bends], int(rows[bends[0]])), read


@dataclass(frozen=True)
class _Clamp:
    value: np.ndarray
    error: np.ndarray
    row: int


def _crossings(grid: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Return where a piecewise-affine function changes sign."""
    at = np.flatnonzero(value[:-1] * value[1:] < 0)
    share = value[at] / (value[at] - value[at + 1])
    found: np.ndarray = grid[at] + share * (grid[at + 1] - grid[at])
    return found


def _clamped(
    weights: Weights, mlp: Mlp, pre: np.ndarray, error: np.ndarray, signal: int, factor: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return the signal's coordinate relu(s − δ) along the register, and its radius."""
    rows = live_units(weights, mlp)
    down = weights.matrix(mlp.down)[:, rows]
    steady = np.flatnonzero(down[signal])
    if len(steady) != 1:
        raise ProofError(f"{len(steady)} units write the signal; wanted the clamp alone")
    gain = float(down[signal, steady[0]])
    far = 0.0 if mlp.activation == "relu" else FAR
    value = np.maximum(pre, 0.0)
    on, near, close = (
        _spread(mask) for mask in (pre + error > -far, np.abs(pre) - error < far, np.abs(pre) - error < CLOSE)
    )
    radius = np.where(on, error + act_rounding(mlp.activation, (value + error)[None], near, weights.unit)[0], 0.0)
    kink = np.minimum(np.maximum(-np.minimum(pre[:-1], pre[1:]), 0), np.maximum(np.maximum(pre[:-1], pre[1:]), 0))
    radius = radius + gap_of(mlp.activation, near, close) + float(kink.max(initial=0.0)) * _spread(close)
    out = gain * value
    return out, (abs(gain) * radius * (1 + factor) + (factor + 4 * weights.unit) * np.abs(out)) * SLACK


def _spread(mask: np.ndarray) -> np.ndarray:
    out = mask.copy()
    out[1:] |= mask[:-1]
    out[:-1] |= mask[1:]
    return out


def _last_norm(
    weights: Weights,
    own: Own,
    s: np.ndarray,
    unit: float,
    response: TokenOffsetResponse,
    relative: float,
    mean: float,
) -> np.ndarray:
    """Return the radius that reading the signal through the last norm adds, in units of s.

    ``relative`` is what tokens feel of the registers, here and (more than the stand-in, as they are smaller) before.
    """
    d, u = weights.width, weights.norm_unit(own.anatomy.stream.final)
    slip = float(rounding_of(response).slip.max()) + mean
    relative += float(gamma(d + 16, u))
    read = 2 * NORM_OPS * u * (np.abs(s) + 2 * slip / unit)
    found: np.ndarray = (read + relative * np.abs(s)) * SLACK
    return found


def rounding_of(response: TokenOffsetResponse) -> TokenRounding:
    """Return what the response knows of rounding.

    Raises:
        ProofError: Nothing is known.
    """
    if response.rounding is None:
        raise ProofError("the response does not say what the trained network may round; make the imprint again")
    return response.rounding


def _registers(own: Own, state: State) -> tuple[float, float]:
    """Bound ε²|u|² of all that is left in the pattern's coordinates when the last norm reads them, and their mean."""
    size = (np.abs(state.value) + state.radius)[own.free][_kept(own, state)]
    return float((size**2).sum(0).max()) * SLACK, float(size.sum(0).max()) / len(state.value) * SLACK


def _kept(own: Own, state: State) -> np.ndarray:
    """Return the coordinates that are not taken away again: all but the ballast, the two largest of opposite sign."""
    middle = state.value[own.free]
    ballast = [int(middle[:, 0].argmax()), int(middle[:, 0].argmin())]
    keep = np.ones(len(middle), dtype=bool)
    keep[ballast] = False
    return keep


def _logit_noise(
    response: TokenOffsetResponse, own: Own, weights: Weights, square: float, mean: float, top: float
) -> float:
    """Bound what h may do to the loss through the trained logits: rounding, and the last norm's mean and σ."""
    final, known = own.anatomy.stream.final, rounding_of(response)
    # σ² moves by the registers' squares, less what they do to the mean
    factor = (square + 2 * weights.width * mean * (response.about["mean"] + mean)) / (2 * known.size) * SLACK
    gain = float((np.abs(weights.array(final.gain) + final.gain_offset))[own.free].max())
    inverse = (known.size / weights.width + final.eps).rsqrt()
    ends = 2 * (known.slip + mean) * inverse * gain * SLACK
    roundoff = float(gamma(weights.width + 4, weights.unit))
    return response.moved_by(top, factor=factor, shift=mean, ends=ends, roundoff=roundoff) * SLACK


def _loss(response: TokenOffsetResponse) -> one.Loss:
    def loss(s: np.ndarray) -> np.ndarray:
        value: np.ndarray = response.loss(torch.from_numpy(np.ascontiguousarray(s))[:, None]).numpy()
        return value

    return loss
