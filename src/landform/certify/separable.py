"""The proof for sums Σ f_i(h_i): every hinge reads one coordinate, so the box is followed axis by axis.

A grid over [0, 1]^100 has no room anywhere; a sum needs only the nodes of each axis. Units that read several
coordinates may only carry (their pre-activation is ≥ 0 on the box) or be the pattern register itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import scipy.sparse as sp

from landform.certify.network import NEAR, SMOOTH_ROUNDINGS, Network, Step
from landform.certify.proof_error import ProofError
from landform.certify.propagate import injected
from landform.certify.prove import (
    Parts,
    follow_curve,
    moving_output,
    reading,
    shared_register,
    unit_of,
    units_feeding,
    unscaled,
)
from landform.certify.rounding import SLACK, rounding
from landform.pattern import SumPattern
from landform.response import AbstractResponse


@dataclass
class AxisField:
    """Units as Σ_i g_i(h_i): nodal values of each g_i, and two scalar radii a unit.

    Args:
        single: Nodal values of units that read one axis, ``[units, nodes]`` (zero for the others).
        several: Nodal values ``[z, nodes]`` of each unit that reads several.
        axis: The one axis a unit reads, −1 for several; units that read none count as axis 0.
        error: Bound of rounding.
        kink: Bound of sign changes.
        z: Number of axes.
    """

    single: np.ndarray
    several: dict[int, np.ndarray]
    axis: np.ndarray
    error: np.ndarray
    kink: np.ndarray
    z: int

    def size(self) -> np.ndarray:
        """Return sup |x| of every unit."""
        out: np.ndarray = np.abs(self.single).max(axis=1, initial=0.0)
        for unit, parts in self.several.items():
            out[unit] = max(abs(parts.max(axis=1).sum()), abs(parts.min(axis=1).sum()))
        out += self.error + self.kink
        return out

    def beside(self, other: "AxisField", kept: np.ndarray) -> "AxisField":
        """Return these units, and behind them some of another field."""
        own = len(self.axis)
        several = self.several | {
            own + at: other.several[int(unit)] for at, unit in enumerate(kept) if int(unit) in other.several
        }
        return AxisField(
            np.concatenate([self.single, other.single[kept]]),
            several,
            np.concatenate([self.axis, other.axis[kept]]),
            np.concatenate([self.error, other.error[kept]]),
            np.concatenate([self.kink, other.kink[kept]]),
            self.z,
        )


def prove_sum(
    network: Network,
    pattern: SumPattern,
    responses: Sequence[AbstractResponse],
    bounds: tuple[float, float],
    spline_stage: int | None,
) -> list[Parts]:
    """Bound |L(h) − T(h)| over the box for a sum; arguments and errors as in `prove.prove`."""
    if spline_stage is None:
        raise ProofError("a sum is proved with a response curve only")
    cells = [len(f) - 1 for f in pattern.axes]
    field, scale = _inject(network.steps[0], cells, network.unit_roundoff)
    rest = list(unscaled(network.steps[1:], scale))
    before = [step for step in rest if step.stage < spline_stage]
    after = rest[len(before) :]
    for step in before:
        field = _propagate(field, step, network.unit_roundoff)
    out = []
    for number, response in enumerate(responses):
        head = network.heads[number]
        row, loss = moving_output(head, response, number)
        chosen = units_feeding(after, head, row)
        base, sign = shared_register(after[0], chosen[0])
        bias = np.abs(after[0].bias[chosen[0]]).max(initial=0.0)
        read = replace(reading(after[0], chosen[0], base, 0.0), bias=np.zeros(1))  # counted as ``extra_bias``
        parts, error = _affine(field, read, network.unit_roundoff, extra_bias=bias)
        register = parts[0]
        wanted = [f.numpy() - float(f.mean()) for f in pattern.axes]
        if sum(float(np.dot(register[i, : cells[i] + 1], f)) for i, f in enumerate(wanted)) < 0:
            register, sign = -register, -sign
        spread = float(np.ptp(register, axis=1).sum())
        factor = unit_of(spread, sum(float(np.ptp(f.numpy())) for f in pattern.axes))
        register, sign = register / factor, sign * factor
        low, high = float(register.min(axis=1).sum()), float(register.max(axis=1).sum())
        differences = [register[i, : cells[i] + 1] - f.numpy() for i, f in enumerate(pattern.axes)]
        most, least = sum(float(d.max()) for d in differences), sum(float(d.min()) for d in differences)
        shift = (most + least) / 2
        away = (most - least) / 2
        kink = float((abs(base) @ field.kink)[0]) / factor
        span = (low - kink, high + kink)
        limits = (sum(float(f.min()) for f in pattern.axes), sum(float(f.max()) for f in pattern.axes))
        away += kink + 2.0**-52 * len(cells)
        out.append(
            follow_curve(
                after,
                chosen,
                sign,
                span,
                limits,
                shift,
                away,
                float(error[0]),
                head,
                row,
                loss,
                bounds,
                network.unit_roundoff,
            )
        )
    return out


def _inject(step: Step, cells: Sequence[int], roundoff: float) -> tuple[AxisField, np.ndarray]:
    """Return the first layer's field, coordinates as the integers n·h (see `propagate.inject`)."""
    width = max(cells) + 1
    z = len(cells)
    rows = step.weight.toarray()
    plain = (np.count_nonzero(rows, axis=1) == 1) & (step.bias == 0) & (np.frexp(rows.max(axis=1, initial=0))[0] == 0.5)
    size = np.array(cells, dtype=float)
    scale = np.where(plain, size[rows.argmax(axis=1)], 1.0)
    # nodes beyond an axis's own are copies of its last one: they change no minimum and no maximum
    index = np.minimum(np.arange(width)[None], size[:, None])
    start = AxisField(index, {}, np.arange(z), np.zeros(z), np.zeros(z), z)
    return _propagate(start, injected(step, scale, 1 / size), roundoff), scale


def _affine(field: AxisField, step: Step, roundoff: float, extra_bias: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Return pre-activations ``[rows, z, nodes]`` (dense; for few rows) and their scalar error bounds."""
    weight = step.weight
    out = np.zeros((weight.shape[0], field.z, field.single.shape[1]))
    for axis in range(field.z):
        units = np.flatnonzero(field.axis == axis)
        if len(units):
            out[:, axis] = weight[:, units] @ field.single[units]
    for unit, parts in field.several.items():
        out += weight[:, [unit]].toarray()[:, :, None] * parts[None]
    out[:, 0] += step.bias[:, None]
    return out, _bound(field, step, roundoff, extra_bias)


def _bound(field: AxisField, step: Step, roundoff: float, extra_bias: float = 0.0) -> np.ndarray:
    weight = abs(step.weight)
    partial = weight @ field.size() + np.abs(step.bias) + extra_bias
    terms = np.diff(weight.indptr) + (np.abs(step.bias) + step.offset + extra_bias > 0)
    own = np.where(terms >= 2, partial, 0.0)
    products = step.inexact @ field.size() + step.roundings * (weight @ field.size()) + step.offset
    error: np.ndarray = rounding(own, partial, weight @ field.error, products, terms, roundoff)
    if step.means is None:
        return error
    means, inner = step.means, abs(step.means.weight)
    size = inner @ field.size() + np.abs(means.bias)
    rounded = (np.diff(inner.indptr) + 3) * roundoff * size
    left = means.left @ (field.size() + field.error)
    subtracted: np.ndarray = means.subtracted(means.totals(size, rounded, inner @ field.error, left, roundoff))
    total: np.ndarray = error + subtracted
    return total


def _propagate(field: AxisField, step: Step, roundoff: float) -> AxisField:
    out = _mapped(field, step, roundoff)
    if step.cap < np.inf and not out.size().max(initial=0.0) <= step.cap:
        raise ProofError(f"some unit exceeds {step.cap:g}, where its activation stops growing")
    return out.beside(field, step.kept) if len(step.kept) else out


def _mapped(field: AxisField, step: Step, roundoff: float) -> AxisField:
    weight, units = step.weight, step.weight.shape[0]
    kink = np.asarray(abs(weight) @ field.kink)
    error = _bound(field, step, roundoff)
    reads = sp.csr_matrix((np.ones(weight.nnz), weight.indices, weight.indptr), shape=weight.shape)
    axes = np.maximum(field.axis, 0)
    least = np.full(units, np.iinfo(int).max)
    most = np.full(units, -1)
    owner = np.repeat(np.arange(units), np.diff(reads.indptr))
    still = (field.axis >= 0) & (field.single == field.single[:, :1]).all(axis=1)  # a channel that is one has no axis
    moving = ~still[reads.indices]
    np.minimum.at(least, owner[moving], axes[reads.indices[moving]])
    np.maximum.at(most, owner[moving], axes[reads.indices[moving]])
    multiple = np.zeros(units, dtype=bool)
    np.logical_or.at(multiple, owner, (field.axis < 0)[reads.indices])
    one = (least >= most) & ~multiple
    plain = weight @ field.single + step.bias[:, None]
    single = np.where(one[:, None], plain, 0.0)
    several: dict[int, np.ndarray] = {}
    many = np.flatnonzero(~one)
    if len(many):
        parts, _ = _affine(field, step.rows(many), roundoff)
        several = {int(unit): value for unit, value in zip(many, parts, strict=True)}
    if step.slope < 1.0:
        left, right = single[:, :-1], single[:, 1:]
        change = np.minimum(np.maximum(left, right), -np.minimum(left, right)).max(axis=1, initial=0.0)
        kink = kink + (1 - step.slope) * np.maximum(change, 0.0)
        off = one & (single.max(axis=1) + error + kink <= 0) & (step.slope == 0.0)
        error = np.where(off, 0.0, error)
        single = np.where(single > 0, single, step.slope * single)
        for number, value in several.items():
            kink[number] += max(0.0, -float(value.min(axis=1).sum()))
    if step.smooth:
        error = error + SLACK * step.bent(np.abs(single).max(axis=1, initial=0.0), roundoff)
        for number, value in several.items():
            error[number] += (
                step.far * roundoff * float(np.abs(value).max(axis=1).sum()) + SMOOTH_ROUNDINGS * roundoff * NEAR
            )
    axis = np.where(one, np.where(most < 0, 0, most), -1)
    return AxisField(single, several, axis, error, kink, field.z)
