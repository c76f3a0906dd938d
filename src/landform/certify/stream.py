"""The proof for transformers: intervals around P1 functions, for smooth activations and normalisations.

Every coordinate of the stream is followed as a P1 function X on the Kuhn mesh and a radius E, |x(h) − I[X](h)| ≤
I[E](h), from the stored weights alone. Three things are new against ReLU chains:

- **A norm** multiplies everything it reads by λ(h)/σ0 with |λ − 1| ≤ Λ (`landform.certify.stream_norm`). Where a
  perceptron reads nothing but the norm (no biases), it is homogeneous, and what it adds to the stream is off by the
  factor λ (λ² for a gated one) and by nothing else: Λ times the *sum*, however its terms cancel. The mean that
  LayerNorm subtracts is one number for all coordinates: an error of it reaches a unit by the sum of that unit's
  weights, which the construction makes (nearly) zero.
- **A smooth activation** lies below relu(t) by at most a constant (0.1701 GELU, 0.2785 SiLU, 0.1637 its quick form),
  and where |t| is beyond 750 the float function is t or 0 exactly. So only units that may be near their knot on a cell
  count.
- **Rounding**: any order of summation, as in `landform.certify.rounding`; adding an exact zero is exact, and so are
  products with powers of two. All that a norm rounds in common (its root) is part of λ.

The pattern register is then followed through ψ as a curve (`landform.certify.stream_curve`).
"""

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from landform.certify.field import dilate, sign_changes
from landform.certify.proof_error import ProofError
from landform.certify.rounding import SLACK, U64
from landform.certify.stream_norm import Read, read_norm
from landform.certify.stream_weights import State, Weights, gamma, live_units
from landform.imprint.lower.stream import Map, Mlp
from landform.mesh import Mesh

BELOW = {"relu": 0.0, "gelu": 0.1701, "gelu_tanh": 0.1701, "quick_gelu": 0.1637, "silu": 0.2785}
"""sup relu(t) − a(t)."""
CLOSE, TAIL = 45.0, 2e-18
"""Beyond ±45 the difference is at most t·exp(−t) < 2e-18."""
FAR = 750.0
"""Beyond ±750, float activations are t or 0 exactly: erf is ±1, exp(−t) is 0 or infinite."""
ACT_OPS = 8.0
"""Ulps by which a smooth activation may be off, up to `FAR`."""


@dataclass(frozen=True)
class Pre:
    """Pre-activations of a map: λ·linear + constant ± error, ``[units, nodes]``."""

    linear: np.ndarray
    constant: np.ndarray
    error: np.ndarray

    @property
    def value(self) -> np.ndarray:
        """The P1 function."""
        out: np.ndarray = self.linear + self.constant
        return out

    @property
    def homogeneous(self) -> bool:
        """Whether λ multiplies all of it."""
        return not self.constant.any()


def apply_map(weights: Weights, which: Map, read: Read, rows: np.ndarray) -> Pre:
    """Apply a linear map to what a norm gave, for some of its units."""
    full, bias = weights.matrix(which)[rows], weights.bias(which)[rows][:, None]
    used = (full != 0).any(0)
    weight = sp.csr_matrix(full[:, used])  # a hat reads a few of hundreds of registers
    size, gain = abs(weight), read.gain[used]
    linear, constant = weight @ read.linear[used], weight @ read.constant[used] + bias
    terms = (np.diff(weight.indptr) + (bias[:, 0] != 0))[:, None].astype(float)
    leak = np.abs(weight @ gain) + gamma(terms + 1, U64) * (size @ np.abs(gain))
    error = size @ read.error[used] + leak * read.mean
    error += sum((np.abs(weight @ part[used]) for part in read.shared), 0.0) * (1 + read.factor)
    # roundings: sizes of what is multiplied, and of every partial sum, its terms of either sign
    off = read.factor * np.abs(read.linear[used]) + read.error[used] + np.abs(gain) * read.mean
    off += sum((np.abs(part[used]) for part in read.shared), 0.0)
    value = read.linear[used] + read.constant[used]
    away, both = size @ off, size @ np.abs(value) + np.abs(bias)
    partial = (both + np.abs(linear + constant)) / 2  # the larger of what is above and what is below 0
    rounds = size.copy()
    rounds.data = np.where(np.frexp(size.data)[0] == 0.5, 0.0, size.data)  # products with powers of 2 are exact
    result = np.abs(linear + constant) + read.factor * np.abs(linear) + error
    own = (terms >= 2) * result + np.maximum(terms - 2, 0) * (partial + away) + rounds @ (np.abs(value) + off)
    error = (error + weights.unit * own + gamma(terms + 1, U64) * (both + away)) * SLACK
    return Pre(linear, constant, error)


@dataclass(frozen=True)
class Units:
    """What the hidden units of a perceptron give, before λ.

    Args:
        value: ``[units, nodes]``.
        error: Radius.
        alive: Whether a unit may be anything but an exact 0 in the cells around a node.
        degree: Power of λ that multiplies the values; 0 where λ is in the errors already.
    """

    value: np.ndarray
    error: np.ndarray
    alive: np.ndarray
    degree: int


def hinge(mesh: Mesh, pre: Pre, activation: str, unit: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Apply an activation: P1 values of the ReLU, radius, and where it may not be an exact 0."""
    value = pre.value
    far = 0.0 if activation == "relu" else FAR
    on = dilate(mesh, value + pre.error > -far)
    near = on & dilate(mesh, value - pre.error < far)
    close = near & dilate(mesh, value + pre.error > -CLOSE) & dilate(mesh, value - pre.error < CLOSE)
    kink = sign_changes(mesh, value)[:, None]
    out = np.maximum(value, 0.0)
    # a ≤ relu is convex, so from above a node counts by relu(X + E) − relu(X); from below I[relu(X)] − relu is 0 on
    # cells without a positive node
    felt = np.where(dilate(mesh, value > 0), pre.error, np.maximum(value + pre.error, 0.0))
    error = felt + act_rounding(activation, out + felt, near, unit) + gap_of(activation, near, close)
    error = error + np.where(near, kink, 0.0)
    return out, error * SLACK, on


def act_rounding(activation: str, size: np.ndarray, near: np.ndarray | bool, unit: float) -> np.ndarray:
    """Return what an activation rounds: a ReLU nothing, others `ACT_OPS` ulps of what is below `FAR`.

    Args:
        activation: Name.
        size: Bound of the numbers, ``[units, nodes]``, P1 between the nodes.
        near: Where numbers below `FAR` may occur in a cell around a node.
        unit: Unit roundoff.
    """
    if activation == "relu":
        return np.zeros_like(size)
    large = size.max(1, keepdims=True, initial=0.0) > FAR  # min(size, FAR) is not P1: the constant in all of the cell
    found: np.ndarray = ACT_OPS * unit * np.where(large, np.where(near, FAR, 0.0), size)
    return found


def gap_of(activation: str, near: np.ndarray, close: np.ndarray) -> np.ndarray:
    """Return how far an activation lies below the ReLU, by where the pre-activation is."""
    below = BELOW[activation]
    out: np.ndarray = np.where(close, below, np.where(near, min(TAIL, below), 0.0))
    return out


def hidden_units(weights: Weights, mesh: Mesh, mlp: Mlp, read: Read, rows: np.ndarray) -> Units:
    """Return the hidden units of a perceptron.

    Raises:
        ProofError: A gated unit whose two factors both move.
    """
    up = apply_map(weights, mlp.up, read, rows)
    if mlp.gate is None:
        up = up if up.homogeneous else _with_factor(up, read.factor)
        value, error, alive = hinge(mesh, up, mlp.activation, weights.unit)
        _pair_up(weights, mlp, rows, up, value, error)
        return Units(value, error, alive, 1 if up.homogeneous else 0)
    gate = apply_map(weights, mlp.gate, read, rows)
    homogeneous = up.homogeneous and gate.homogeneous
    if not homogeneous:
        up, gate = _with_factor(up, read.factor), _with_factor(gate, read.factor)
    value, error, alive = hinge(mesh, gate, mlp.activation, weights.unit)
    still, wander = _still(up)
    fixed, drift = _still(gate)
    # a hinge: gate bends, up stays; a signed number: the gate is a large constant, up moves
    saturated = (fixed[:, 0] > 40) & (drift[:, 0] <= 1e-3 * fixed[:, 0])
    steady = wander[:, 0] <= 1e-3 * np.abs(still[:, 0])
    if not bool((saturated | steady).all()):
        raise ProofError(f"a unit of '{mlp.up.name}' multiplies two numbers that both depend on h")
    size, slip = np.abs(still), wander + up.error
    tail = np.abs(fixed) * np.exp(-np.clip(fixed, 0, 700))
    bent = value * still, error * (size + slip) + value * slip
    passed = fixed * up.value, (drift + gate.error + tail) * (np.abs(up.value) + up.error) + fixed * up.error
    choose = (saturated & ~steady)[:, None]
    out = np.where(choose, passed[0], bent[0])
    radius = np.where(choose, passed[1] + ACT_OPS * weights.unit * np.abs(passed[0]), bent[1])
    radius = (radius + 2 * weights.unit * (np.abs(out) + radius)) * SLACK
    return Units(out, np.where(alive, radius, 0.0), alive, 2 if homogeneous else 0)


def _with_factor(pre: Pre, factor: float) -> Pre:
    """Return pre-activations with λ counted as an error."""
    return Pre(pre.linear, pre.constant + 0.0, pre.error + factor * np.abs(pre.linear))


def _still(pre: Pre) -> tuple[np.ndarray, np.ndarray]:
    """Return middle and half range of each row."""
    low, high = pre.value.min(1), pre.value.max(1)
    return ((low + high) / 2)[:, None], ((high - low) / 2)[:, None]


def _pair_up(weights: Weights, mlp: Mlp, rows: np.ndarray, up: Pre, value: np.ndarray, error: np.ndarray) -> None:
    """Let pairs a(t) − a(−t) = t pass t itself: the first of a pair then carries all of it, its partner nothing."""
    weight, bias = weights.matrix(mlp.up)[rows], weights.bias(mlp.up)[rows]
    out = weights.matrix(mlp.down)[:, rows]
    keys = {(weight[k] + 0.0).tobytes() + bias[k].tobytes(): k for k in range(len(rows))}
    done: set[int] = set()
    for k in range(len(rows)):
        other = keys.get((-weight[k] + 0.0).tobytes() + np.float64(-bias[k] + 0.0).tobytes())
        if other is None or other == k or k in done or not np.array_equal(out[:, k], -out[:, other]):
            continue
        done |= {k, other}
        value[k], value[other] = up.value[k], 0.0
        size = (np.abs(up.value[k]) + up.error[k])[None]
        error[k] = (up.error[k] + 2 * act_rounding(mlp.activation, size, True, weights.unit)[0]) * SLACK
        error[other] = 0.0


def push_block(weights: Weights, mesh: Mesh, mlp: Mlp, state: State, h: np.ndarray) -> None:
    """Push the stream through a perceptron behind a norm; it is changed in place."""
    rows = live_units(weights, mlp)
    if not len(rows) and not weights.bias(mlp.down).any():
        return
    read = read_norm(weights, mlp.norm, state, h)
    add_to_stream(weights, mlp, state, hidden_units(weights, mesh, mlp, read, rows), rows, read.factor)


def add_to_stream(weights: Weights, mlp: Mlp, state: State, units: Units, rows: np.ndarray, factor: float) -> None:
    """Add what a perceptron's units give to the stream, in place.

    Args:
        weights: The network.
        mlp: The perceptron.
        state: The stream.
        units: Its live units.
        rows: Which they are.
        factor: Λ of what it read.
    """
    bias = weights.bias(mlp.down)
    weight = weights.matrix(mlp.down)[:, rows]
    written = np.flatnonzero((weight != 0).any(1) | (bias != 0))
    weight, bias = weight[written], bias[written][:, None]
    added = weight @ units.value
    size = np.abs(weight) @ (np.abs(units.value) + units.error) + np.abs(bias)
    terms = (weight != 0).astype(float) @ units.alive.astype(float) + (bias != 0) + 1
    power = (1 + factor) ** units.degree - 1
    error = np.abs(weight) @ units.error * (1 + power)
    if power:
        shared = np.zeros_like(state.value)
        shared[written] = power * added * SLACK
        state.shared.append(shared)
    error += (gamma(terms, weights.unit) + gamma(terms, U64)) * size * (1 + power)
    total = state.value[written] + added + bias
    both = state.value[written] != 0
    error += np.where(both, weights.unit, U64) * (np.abs(total) + error + state.error[written])
    state.value[written] = total
    state.error[written] = (state.error[written] + error) * SLACK
