"""The one-dimensional part: from the pattern register τ through ψ to the signal s, and what the loss makes of it.

Behind the pattern register the network is a function of one number. It is followed exactly: nodes are inserted at every
kink, so that all units are affine between neighbouring nodes, and rounding is bounded as over the mesh.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from landform.certify.affine import normed
from landform.certify.network import Step
from landform.certify.proof_error import ProofError
from landform.certify.rounding import SLACK, U64, rounding

Loss = Callable[[np.ndarray], np.ndarray]
SAMPLES = 32  # samples a segment: the convex lower bound is then within about 1 % of the gap


@dataclass
class Curve:
    """Units as piecewise-affine functions of τ: values and error bounds at ascending nodes."""

    tau: np.ndarray
    value: np.ndarray
    error: np.ndarray

    def refined(self, extra: np.ndarray) -> "Curve":
        """Return the same functions on more nodes."""
        inside = extra[(extra > self.tau[0]) & (extra < self.tau[-1])]
        tau = np.unique(np.concatenate([self.tau, inside]))
        if len(tau) == len(self.tau):
            return self
        value, error = (np.stack([np.interp(tau, self.tau, row) for row in rows]) for rows in (self.value, self.error))
        return Curve(tau, value, error)

    def with_constants(self, value: np.ndarray, error: np.ndarray) -> "Curve":
        """Return these units, and behind them some that do not depend on τ."""
        rows = [np.repeat(column[:, None], len(self.tau), axis=1) for column in (value, error)]
        return Curve(self.tau, np.concatenate([self.value, rows[0]]), np.concatenate([self.error, rows[1]]))

    def beside(self, other: "Curve", rows: np.ndarray) -> "Curve":
        """Return these units, and behind them some of another curve."""
        if not len(rows):
            return self
        fine = other.refined(self.tau)
        value, error = np.concatenate([self.value, fine.value[rows]]), np.concatenate([self.error, fine.error[rows]])
        return Curve(self.tau, value, error)


def first_curve(
    low: float, high: float, sign: np.ndarray, bias: np.ndarray, error: float, step: Step, roundoff: float
) -> Curve:
    """Return act(sign·τ + bias) on [low, high]; ``error`` bounds the pre-activations' rounding, all of it."""
    knots = -bias / sign
    tau = np.unique(np.concatenate([[low, high], knots[(knots > low) & (knots < high)]]))
    pre = sign[:, None] * tau + bias[:, None]
    bound = np.full_like(pre, error) + SLACK * 3 * U64 * (np.abs(sign[:, None] * tau) + np.abs(bias)[:, None])
    return Curve(tau, *_bent(step, roundoff, pre, bound, *_activate(pre, bound, step.slope, 0.0)))


def push(curve: Curve, step: Step, roundoff: float) -> Curve:
    """Push all units through one more map and activation, inserting nodes where a unit changes sign."""
    pre, _ = affine(curve, step, roundoff)
    if step.slope < 1.0:
        left, right = pre[:, :-1], pre[:, 1:]
        row, cell = np.nonzero(left * right < 0)
        share = left[row, cell] / (left[row, cell] - right[row, cell])
        crossing = curve.tau[cell] + share * (curve.tau[cell + 1] - curve.tau[cell])
        curve = curve.refined(crossing)
    pre, bound = affine(curve, step, roundoff)
    top = np.abs(pre) if step.slope == 1.0 else pre
    if step.cap < math.inf and not (top + bound).max(initial=0.0) <= step.cap:
        raise ProofError(f"some unit behind the register exceeds {step.cap:g}, where its activation stops growing")
    return Curve(curve.tau, *_bent(step, roundoff, pre, bound, *_activate(pre, bound, step.slope, roundoff)))


def affine(curve: Curve, step: Step, roundoff: float) -> tuple[np.ndarray, np.ndarray]:
    """Return pre-activations at the nodes and bounds of their errors."""
    if step.means is None:
        pre, own, carried = _sums(curve, step, step.bias, roundoff)
        return pre, own + carried
    assert step.shift is not None
    summed = replace(step, roundings=0.0, offset=np.zeros(len(step.bias)))
    pre, own, carried = _sums(curve, summed, step.bias - step.shift, roundoff)
    bound = normed(step, pre, own + carried, 0.0, roundoff)
    means, size = step.means, np.abs(curve.value) + curve.error
    part = Step(means.weight, means.bias, 1.0, 0, means.inexact, 0.0, np.zeros(len(means.bias)))
    inner, own, carried = _sums(curve, part, means.bias, roundoff)
    totals = means.totals(np.abs(inner), own, carried, means.left @ size, roundoff)
    return pre + step.shift[:, None], bound + means.subtracted(totals)


def _sums(curve: Curve, step: Step, bias: np.ndarray, roundoff: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return Wx + b at the nodes, the error of these sums themselves, and what their inputs' errors add."""
    weight = step.weight.toarray()
    magnitude, size = np.abs(curve.value), np.abs(weight)
    partial = size @ magnitude + np.abs(bias)[:, None]
    if not (curve.value < 0).any():
        up = np.maximum(weight, 0) @ curve.value + np.maximum(bias, 0)[:, None]
        partial = np.maximum(up, partial - up)
    live = ((curve.value != 0) | (curve.error != 0)).astype(float)
    live[:, 1:] = np.maximum(live[:, 1:], live[:, :-1])
    live[:, :-1] = np.maximum(live[:, :-1], live[:, 1:])
    terms = (weight != 0).astype(float) @ live + ((bias != 0) | (step.offset != 0))[:, None]
    pre, carried = weight @ curve.value + bias[:, None], size @ curve.error
    products = np.asarray(step.inexact @ magnitude) + step.roundings * (size @ magnitude) + step.offset[:, None]
    return pre, rounding(pre, partial, carried, products, terms, roundoff) - carried, carried


def _activate(pre: np.ndarray, bound: np.ndarray, slope: float, roundoff: float) -> tuple[np.ndarray, np.ndarray]:
    if slope == 1.0:
        return pre, bound
    bound = bound + _between(pre).max(axis=1, initial=0.0)[:, None]
    if slope > 0.0:
        return np.where(pre > 0, pre, slope * pre), bound + SLACK * (roundoff + U64) * slope * np.abs(pre)
    on = pre > 0
    spread = on | (pre + bound > 0)  # as over the mesh, see `propagate`
    spread[:, 1:] |= on[:, :-1]
    spread[:, :-1] |= on[:, 1:]
    return np.maximum(pre, 0.0), np.where(spread, bound, 0.0)


def _bent(
    step: Step, roundoff: float, pre: np.ndarray, reach: np.ndarray, value: np.ndarray, bound: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Add what a smooth activation differs by; without rounding (a roundoff of 0) it counts as a ReLU."""
    if not step.smooth or not roundoff:
        return value, bound
    if step.gates is not None:
        reach = reach + _between(pre).max(axis=1, initial=0.0)[:, None]
        return value, bound + SLACK * step.gates.added(pre, reach, _spread)
    return value, bound + SLACK * step.bent(value, roundoff)


def _between(pre: np.ndarray) -> np.ndarray:
    """Return how far relu(pre) is from affine on each segment: nodes inserted where the sign changes are rounded."""
    change = np.minimum(np.maximum(pre[:, :-1], pre[:, 1:]), -np.minimum(pre[:, :-1], pre[:, 1:]))
    out: np.ndarray = np.maximum(change, 0.0)
    return out


def _spread(mask: np.ndarray) -> np.ndarray:
    """Spread a mask of nodes to those that share a segment with a marked one."""
    out = mask.copy()
    out[:, 1:] |= mask[:, :-1]
    out[:, :-1] |= mask[:, 1:]
    return out


def deviation(
    loss: Loss, s_left: np.ndarray, s_right: np.ndarray, t_left: np.ndarray, t_right: np.ndarray, radius: np.ndarray
) -> float:
    """Bound |loss(s) − t| over segments on which s and t are affine, s known to within a radius; loss is convex.

    From above, a convex function minus an affine one peaks at an end. From below, between two samples it lies above the
    chords of its neighbours extended, so the bound needs no derivative.

    Args:
        loss: Convex function of s.
        s_left: s at the left ends, shape ``[segments]``.
        s_right: s at the right ends.
        t_left: t at the left ends.
        t_right: t at the right ends.
        radius: How far s may be off, per segment.

    Returns:
        The bound, ≥ 0.
    """
    worst = 0.0
    for start in range(0, len(s_left), 1 << 14):
        part = slice(start, start + (1 << 14))
        bounds = _deviation(loss, s_left[part], s_right[part], t_left[part], t_right[part], radius[part])
        worst = bounds if not bounds <= worst else worst  # NaN must not be lost
    return worst if math.isfinite(worst) else math.inf


def _deviation(loss: Loss, s0: np.ndarray, s1: np.ndarray, t0: np.ndarray, t1: np.ndarray, radius: np.ndarray) -> float:
    share = np.arange(-1, SAMPLES + 2) / SAMPLES
    s = s0[:, None] + share * (s1 - s0)[:, None]
    t = t0[:, None] + share * (t1 - t0)[:, None]
    value = loss(s.reshape(-1)).reshape(s.shape)
    if not np.isfinite(value).all():
        return math.inf
    fuzz = 64 * U64 * float(np.abs(value).max(initial=1.0))
    ends = [(s0, t0), (s1, t1)]
    above = max(float((loss(end + sign * radius) - target).max()) for end, target in ends for sign in (-1, 1))
    gap = value - t
    left, right, before, after = gap[:, 1:-2], gap[:, 2:-1], gap[:, :-3], gap[:, 3:]
    left_end, right_start = 2 * left - before, 2 * right - after  # the neighbours' chords at the far ends
    opening, closing = left - right_start, right - left_end
    total = opening + closing
    crossing = np.where(total > 0, opening / np.where(total > 0, total, 1.0), 0.0)
    floor = np.where(total > 0, left + np.clip(crossing, 0, 1) * (left_end - left), np.minimum(left, right))
    floor = np.minimum(floor, np.minimum(left, right))
    below = -float(floor.min())
    if radius.any():
        # loss(s') ≥ loss(s) − |slope|·radius; a chord beyond s bounds the slope
        h = 1e-5 * (1 + np.abs(s1 - s0))
        steep = [np.abs(loss(end + sign * h) - loss(end)) / h for end in (s0, s1) for sign in (-1, 1)]
        below += float((np.max(steep, axis=0) * radius).max()) * (1 + 1e-6)
    return max(above, below, 0.0) + fuzz
