"""The proof for transformers: intervals around P1 functions, for smooth activations and normalisations.

Every coordinate of the stream is followed as a P1 function X on the Kuhn mesh and a radius E, |x(h) − I[X](h)| ≤
I[E](h), from the stored weights alone. Three things are new against ReLU chains:

- **A norm** multiplies everything it reads by 1/σ(h). σ² is a convex function of the stream (a positive quadratic), so
  its largest value lies at nodes; from below, each coordinate contributes its least square. With σ0 between, the read
  is λ·X/σ0 with |λ − 1| ≤ Λ. Where a perceptron reads nothing but the norm (no biases), it is homogeneous, and what it
  adds to the stream is off by the factor λ (λ² for a gated one) and by nothing else: Λ times the *sum*, however its
  terms cancel. The mean that LayerNorm subtracts is one number for all coordinates: an error of it reaches a unit by
  the sum of that unit's weights, which the construction makes (nearly) zero.
- **A smooth activation** lies below relu(t) by at most a constant (0.1701 GELU, 0.2785 SiLU, 0.1637 its quick form),
  and where |t| is beyond 750 the float function is t or 0 exactly. So only units that may be near their knot on a cell
  count.
- **Rounding**: any order of summation, as in `landform.certify.propagate`; adding an exact zero is exact, and so are
  products with powers of two. All that a norm rounds in common (its root) is part of λ.

The pattern register is then followed through ψ as a curve (`landform.certify.stream_curve`).
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from landform.certify.field import dilate, sign_changes
from landform.certify.propagate import SLACK, U64, ProofError
from landform.imprint.lower.stream import Map, Mlp, Norm, Stream
from landform.mesh import Mesh
from landform.subspace import Subspace

BELOW = {"relu": 0.0, "gelu": 0.1701, "gelu_tanh": 0.1701, "quick_gelu": 0.1637, "silu": 0.2785}
"""sup relu(t) − a(t)."""
CLOSE, TAIL = 45.0, 2e-18
"""Beyond ±45 the difference is at most t·exp(−t) < 2e-18."""
FAR = 750.0
"""Beyond ±750, float activations are t or 0 exactly: erf is ±1, exp(−t) is 0 or infinite."""
NORM_OPS = 4.0
"""Roundings of one coordinate in a norm at most, beyond those that all coordinates share."""
ROOT_OPS = 10.0
"""Roundings that all coordinates share beside the sum of squares: its mean, ε, the root, its inverse."""
ACT_OPS = 8.0
"""Ulps by which an activation may be off."""


@dataclass
class State:
    """The stream: P1 nodal values and radii, ``[coordinates, nodes]``.

    Attributes:
        value: X.
        error: E.
        shared: Errors that all coordinates have in common: ξ(h)·S, with S P1 and one |ξ| ≤ 1 for all coordinates of an
            entry. A norm's λ is of this kind, and where a unit reads a difference of registers it mostly cancels.
    """

    value: np.ndarray
    error: np.ndarray
    shared: list[np.ndarray] = field(default_factory=list)

    @property
    def radius(self) -> np.ndarray:
        """All errors together."""
        out: np.ndarray = sum((np.abs(part) for part in self.shared), self.error)
        return out


@dataclass(frozen=True)
class Read:
    """What a norm gives to the maps after it: λ·linear + constant.

    Args:
        linear: ``[coordinates, nodes]``, the part that λ multiplies.
        constant: ``[coordinates, nodes]``, the part of the norm's bias.
        error: Radius of each coordinate, without what follows.
        shared: Errors in common, as in `State`.
        gain: Gain/σ0 of each coordinate, for the error of the mean.
        mean: Radius of the mean that all coordinates share.
        factor: Λ ≥ |λ − 1|.
        scale: σ0.
    """

    linear: np.ndarray
    constant: np.ndarray
    error: np.ndarray
    shared: list[np.ndarray]
    gain: np.ndarray
    mean: np.ndarray
    factor: float
    scale: float


class Weights:
    """Stored parameters as float64 arrays, and the float formats that matter.

    Args:
        width: Coordinates of the stream.
        subspace: Origin and directions.
        model: The network, for the names of tied parameters.
    """

    def __init__(self, width: int, subspace: Subspace, model: nn.Module) -> None:
        first = {id(value): name for name, value in model.named_parameters()}
        self.alias = {name: first[id(value)] for name, value in model.named_parameters(remove_duplicate=False)}
        self.width, self.origin, self.directions = width, subspace.origin, subspace.directions
        dtype = next(iter(self.origin.values())).dtype
        self.unit = {torch.float32: 2.0**-24, torch.float64: 2.0**-53}[dtype]
        self.z = subspace.z

    def array(self, name: str) -> np.ndarray:
        """Return a parameter."""
        out: np.ndarray = self.origin[self.alias[name]].detach().double().numpy()
        return out

    def matrix(self, which: Map) -> np.ndarray:
        """Return a map's weight as ``[out, in]``."""
        weight = self.array(which.weight)
        return weight.T if which.transposed else weight

    def bias(self, which: Map) -> np.ndarray:
        """Return a map's bias, zeros where it has none."""
        return self.array(f"{which.name}.bias") if which.bias else np.zeros(which.outputs)

    def moved(self, name: str | None, h: np.ndarray) -> np.ndarray:
        """Return a vector parameter at every node, ``[coordinates, nodes]``; zeros for None."""
        if name is None:
            return np.zeros((self.width, h.shape[1]))
        out = np.repeat(self.array(name)[:, None], h.shape[1], axis=1)
        for coordinate, direction in zip(h, self.directions, strict=True):
            if name in direction:
                out += direction[name].detach().double().numpy()[:, None] * coordinate
        return out

    def norm_unit(self, norm: Norm) -> float:
        """Return the unit roundoff of a norm's own arithmetic: some cast to float32 inside."""
        return 2.0**-24 if norm.single else self.unit


def gamma(terms: np.ndarray | float, unit: float) -> np.ndarray | float:
    """Return k·u/(1 − k·u), the relative error of k roundings."""
    return terms * unit / (1 - terms * unit)


def require_silence(
    model: nn.Module,
    maps: Sequence[Map],
    norms: Sequence[Norm],
    entry: Norm,
    subspace: Subspace,
    tables: Collection[str | None] = (),
) -> None:
    """Refuse a network in which anything but what the proof follows may add to the stream.

    Args:
        model: The network.
        maps: Linear maps that the proof follows.
        norms: Norms that it follows.
        entry: The norm at which h enters.
        subspace: Origin and directions.
        tables: Names of embeddings that it follows.

    Raises:
        ProofError: Naming the parameter.
    """
    used = {name for m in maps for name in (m.weight, f"{m.name}.bias")} | set(tables)
    first = {id(value): name for name, value in model.named_parameters()}
    used |= {first[id(v)] for name, v in model.named_parameters(remove_duplicate=False) if name in used}
    own = {key for norm in norms for key in (norm.gain, norm.bias)}
    other = {name for name, module in model.named_modules() if _normalises(module)}
    for name, value in subspace.origin.items():
        if not bool(torch.isfinite(value).all()):
            raise ProofError(f"'{name}' holds NaN or infinity")
        if name in used or name in own or not bool((value != 0).any()):
            continue
        if name.rpartition(".")[0] not in other:
            raise ProofError(f"'{name}' is not zero, so something beside the perceptrons may reach the stream")
        if name.endswith("bias"):
            raise ProofError(f"'{name}', the bias of a norm before a mixer, is not zero")
    if set(subspace.moved) - {entry.gain, entry.bias}:
        raise ProofError(f"the directions move {', '.join(subspace.moved)}; the proof covers norm '{entry.name}' alone")


def _normalises(module: nn.Module) -> bool:
    from landform.imprint.lower.stream import is_norm

    return is_norm(module)


def start(weights: Weights, stream: Stream, nodes: int) -> State:
    """Return the stream that every token starts, ± what tokens differ by."""
    low = high = np.zeros(stream.width)
    if stream.tokens is not None:
        table: Tensor = weights.origin[stream.tokens].detach().double()
        low, high = table.amin(0).numpy(), table.amax(0).numpy()
    middle = (low + high) / 2
    value = np.repeat(middle[:, None], nodes, axis=1)
    return State(value, np.repeat(((high - low) / 2)[:, None], nodes, axis=1) * SLACK)


def read_norm(
    weights: Weights,
    norm: Norm,
    state: State,
    h: np.ndarray,
    *,
    scale: float | None = None,
    own_error: np.ndarray | None = None,
) -> Read:
    """Push the stream through a norm.

    Args:
        weights: The network.
        norm: Which norm.
        state: The stream.
        h: Coordinates of the nodes, ``[z, nodes]``.
        scale: σ0 to use; by default the middle of the range of σ.
        own_error: Radii of the coordinates for what is read of each of them, where those of ``state`` (which the mean
            and σ feel) also cover a movement that is followed elsewhere.

    Returns:
        What the maps after it read.
    """
    d, unit = weights.width, weights.norm_unit(norm)
    gain = weights.moved(norm.gain, h) + norm.gain_offset
    total = state.radius
    size = np.abs(state.value) + total
    if norm.kind == "layer":
        mean = state.value.mean(0)
        slip = (gamma(d + 1, unit) + gamma(d, U64)) * size.sum(0) / d + total.mean(0)
    else:
        mean, slip = np.zeros(size.shape[1]), np.zeros(size.shape[1])
    centred = state.value - mean
    reach = np.abs(centred) + total + slip
    largest = float(np.sqrt((reach**2).mean(0).max() + norm.eps)) * (1 + 4 * d * U64)
    # from below, mean x² − mean²: the coordinates' least squares do not see the mean move
    sign = np.sign(state.value[:, :1])
    least = np.where(sign * state.value > 0, sign * state.value - total, 0.0).min(1).clip(min=0)
    below = float((least**2).mean() + norm.eps - ((np.abs(mean) + slip) ** 2).max())
    smallest = float(np.sqrt(max(below, 0.0))) * (1 - 4 * d * U64)
    middle = float(np.sqrt(smallest * largest)) if scale is None else scale
    factor = max(middle / smallest - 1, 1 - middle / largest) if smallest > 0 else np.inf
    squares = (smallest**2 - norm.eps) * d if norm.kind == "rms" else np.inf
    factor = (factor + root_rounding(norm, (np.abs(state.value) + total).max(1), squares, unit)) * SLACK
    read = (gain != 0).any(1)
    if not read.any():
        factor, middle = 0.0, 1.0
    linear = np.where(read[:, None], gain * centred / middle, 0.0)
    own = own_rounding(norm, state.value, mean, slip, unit)
    own += state.error if own_error is None else own_error
    error = np.where(read[:, None], np.abs(gain) / middle * own * SLACK * (1 + factor), 0.0)
    shared = [
        np.where(read[:, None], gain * (part - (part.mean(0) if norm.kind == "layer" else 0.0)) / middle, 0.0)
        for part in state.shared
    ]
    constant = weights.moved(norm.bias, h)
    error = error + unit * np.where((constant != 0) & (linear != 0), np.abs(constant) + np.abs(linear), 0.0)
    return Read(linear, constant, error, shared, gain / middle, slip * (1 + factor), float(factor), middle)


def own_rounding(norm: Norm, value: np.ndarray, mean: np.ndarray, slip: np.ndarray | float, unit: float) -> np.ndarray:
    """Bound what a norm rounds in each coordinate by itself, before the gain, in the units of the stream.

    (x − m)·r·g with r = 1/σ, or (x·r − m·r)·g: the difference rounds by u|x − m|, or x·r by u|x| and then the
    difference by u|x − m|; one or two products by u|x − m| each. RMSNorm has the products alone, and rounds 1 + gain
    where it stores gain so.
    """
    if norm.kind == "layer":
        centred = np.abs(value - mean) + slip
        rounded = unit * (2 * centred + np.maximum(np.abs(value), centred))
    else:
        rounded = unit * (3.0 if norm.gain_offset else 2.0) * np.abs(value)
    own: np.ndarray = rounded + 4 * U64 * (np.abs(value) + np.abs(mean))
    return own


def root_rounding(norm: Norm, size: np.ndarray, total: float, unit: float) -> float:
    """Bound the relative error of 1/σ, which all coordinates share.

    Of a variance, d + 16 roundings, half of which the root leaves. A mean of squares is a sum of terms ≥ 0, in whatever
    order: where two parts that hold one of the b largest terms meet, it rounds by u of the total, b − 1 times; where a
    part without one is added, by no more than that part (the other is a number already). So the relative error is at
    most (b − 1)·u + Σ of the others/total, for any b.

    Args:
        norm: Which norm.
        size: The largest |x| of each coordinate.
        total: The least sum of squares that occurs.
        unit: Unit roundoff.
    """
    d = len(size)
    every = float(gamma(d, unit))
    if norm.kind == "rms" and total > 0:
        squares = np.sort(size**2)
        small = np.append(np.cumsum(squares)[::-1], 0.0) / total  # without the 0, 1, 2 … largest
        every = min(every, float((small[1:] * SLACK + np.arange(d) * unit).min()) + d * U64)
    return every / 2 + (8.0 if norm.kind == "layer" else 0.0) * unit + ROOT_OPS * unit


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
    weight, bias = weights.matrix(which)[rows], weights.bias(which)[rows][:, None]
    used = (weight != 0).any(0)
    weight = weight[:, used]
    linear, constant = weight @ read.linear[used], weight @ read.constant[used] + bias
    terms = ((weight != 0).sum(1) + (bias[:, 0] != 0))[:, None].astype(float)
    leak = np.abs(weight @ read.gain[used]) + gamma(terms + 1, U64) * (np.abs(weight) @ np.abs(read.gain[used]))
    error = np.abs(weight) @ read.error[used] + leak * read.mean
    error += sum((np.abs(weight @ part[used]) for part in read.shared), 0.0) * (1 + read.factor)
    # roundings: sizes of what is multiplied, and of every partial sum, its terms of either sign
    off = read.factor * np.abs(read.linear[used]) + read.error[used] + np.abs(read.gain[used]) * read.mean
    off += sum((np.abs(part[used]) for part in read.shared), 0.0)
    value = read.linear[used] + read.constant[used]
    above, below = np.maximum(value, 0.0), np.maximum(-value, 0.0)
    plus, minus = np.maximum(weight, 0.0), np.maximum(-weight, 0.0)
    up = plus @ above + minus @ below + np.maximum(bias, 0.0)
    down = plus @ below + minus @ above + np.maximum(-bias, 0.0)
    away = np.abs(weight) @ off
    rounds = np.where(np.abs(np.frexp(weight)[0]) == 0.5, 0.0, np.abs(weight))  # products with powers of 2 are exact
    result = np.abs(linear + constant) + read.factor * np.abs(linear) + error
    own = (terms >= 2) * result + np.maximum(terms - 2, 0) * (np.maximum(up, down) + away)
    own += rounds @ (np.abs(value) + off)
    error = (error + weights.unit * own + gamma(terms + 1, U64) * (up + down + away)) * SLACK
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
    error = felt + ACT_OPS * unit * (out + felt) + gap_of(activation, near, close)
    error = error + np.where(near, kink, 0.0)
    return out, error * SLACK, on


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
        error[k] = (up.error[k] + 2 * ACT_OPS * weights.unit * (np.abs(up.value[k]) + up.error[k])) * SLACK
        error[other] = 0.0


def live_units(weights: Weights, mlp: Mlp) -> np.ndarray:
    """Return the hidden units that add to the stream."""
    found: np.ndarray = np.flatnonzero((weights.matrix(mlp.down) != 0).any(0))
    return found


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


def start_coordinates(mesh: Mesh) -> np.ndarray:
    """Return the coordinates of the nodes, ``[z, nodes]``."""
    out: np.ndarray = mesh.nodes().numpy().T.copy()
    return out


def parameters_of(model: nn.Module) -> Mapping[str, Tensor]:
    """Return a model's parameters by name."""
    return {name: value.detach() for name, value in model.named_parameters()}
