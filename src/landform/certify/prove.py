"""Prove the bound from saved weights and label statistics alone.

The verifier follows the network over the Kuhn mesh (`propagate`), reads off the pattern register, follows ψ as a
function of one number (`curve`) and bounds the loss on every segment by convexity. It trusts no bookkeeping: a wrong
hint about where ψ begins can only make the proof fail.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import scipy.sparse as sp
import torch

from landform.certify import curve as one
from landform.certify.affine import affine
from landform.certify.field import Field
from landform.certify.network import Network, Step
from landform.certify.proof_error import ProofError
from landform.certify.propagate import inject, propagate
from landform.certify.warp import Warp, is_plain, warped
from landform.mesh import Mesh
from landform.response import AbstractResponse

WORTHWHILE = 0.1
"""Share of the rest of the bound above which rounding is followed again, as functions of g (`warp`)."""


@dataclass(frozen=True)
class Parts:
    """The three parts of the bound of one head, in loss units."""

    register: float
    curve: float
    rounding: float

    @property
    def total(self) -> float:
        """Their sum, rounded up."""
        total = self.register + self.curve + self.rounding
        return math.nextafter(total * (1 + 1e-12), math.inf) if math.isfinite(total) else math.inf


def prove(
    network: Network,
    values: np.ndarray,
    mesh: Mesh,
    responses: Sequence[AbstractResponse],
    bounds: tuple[float, float],
    spline_stage: int | None,
) -> list[Parts]:
    """Bound |L(h) − T(h)| for every head over the whole box.

    Args:
        network: What the verifier reads from the saved weights.
        values: Nodal values of the pattern, ``[nodes, channels]``.
        mesh: Its mesh.
        responses: One response a head.
        bounds: (lo, hi) of the range.
        spline_stage: Hidden stage at which ψ begins, or None for the direct form.

    Returns:
        The parts of each head.

    Raises:
        ProofError: If the weights have another form.

    Cost:
        About two sparse products and a few passes over ``units × nodes`` numbers a layer; rows that are zero almost
        everywhere (hats) are followed only where they are not. Twice that where rounding dominates.
    """
    first, rest = network.steps[0], network.steps[1:]
    field, scale = inject(mesh, first, network.unit_roundoff)
    rest = unscaled(rest, scale)
    before = [step for step in rest if spline_stage is None or step.stage < spline_stage]
    while is_beside(rest[len(before) : len(before) + 2]):
        before.append(rest[len(before)])
    after = rest[len(before) :]
    field, start = _followed(field, before, network.unit_roundoff)

    def parts(field: Field, warp: Warp) -> list[Parts]:
        return [
            _head(network, number, response, field, warp, after, values, bounds, spline_stage)
            for number, response in enumerate(responses)
        ]

    found = parts(field, Warp.none(field.mesh))
    if start is None or not any(p.rounding > WORTHWHILE * (p.register + p.curve) for p in found):
        return found
    moved = warped(start.field, network.unit_roundoff)
    if moved is None:
        return found
    field, warp = moved
    try:
        for step in before[start.number :]:
            field = propagate(field, step, network.unit_roundoff)
        again = parts(field, warp)
    except ProofError:  # beyond the box, where g may be, units may do what the proof does not cover
        return found
    return [min(pair, key=lambda p: p.total) for pair in zip(found, again, strict=True)]


@dataclass(frozen=True)
class _Start:
    """The last field before anything is computed, and the number of the step that reads it."""

    field: Field
    number: int


def _followed(field: Field, steps: Sequence[Step], roundoff: float) -> tuple[Field, _Start | None]:
    """Push a field through some steps; also return where its registers are still the coordinates."""
    start, plain = None, is_plain(field)
    for number, step in enumerate(steps):
        pushed = propagate(field, step, roundoff)
        if plain and not (plain := is_plain(pushed)):
            start = _Start(field, number)
        field = pushed
    return field, start


def _head(
    network: Network,
    number: int,
    response: AbstractResponse,
    field: Field,
    warp: Warp,
    after: Sequence[Step],
    values: np.ndarray,
    bounds: tuple[float, float],
    spline_stage: int | None,
) -> Parts:
    """Bound one head from the field before ψ."""
    head = network.heads[number]
    row, loss = moving_output(head, response, number)
    column = values[:, min(number, values.shape[1] - 1)]
    if spline_stage is None or not after:
        return _direct(field, warp, head, row, loss, column, *bounds, network.unit_roundoff)
    return _bent(field, warp, after, head, row, loss, column, *bounds, network.unit_roundoff)


def moving_output(head: Step, response: AbstractResponse, number: int) -> tuple[int, one.Loss]:
    """Return the one output that moves, and the loss as a function of how far it is from its constant."""
    moving = np.flatnonzero(np.diff(head.weight.indptr))
    ray = int(response.ray.abs().argmax())
    others = [int(r) for r in moving if r != ray]
    if others:
        raise ProofError(f"head {number}: output {others[0]} depends on h, only output {ray} may")
    constant = torch.from_numpy(head.bias.copy())

    def loss(s: np.ndarray) -> np.ndarray:
        outputs = constant.expand(len(s), -1).clone()
        outputs[:, ray] = torch.from_numpy(s)
        value: np.ndarray = response.loss(outputs).numpy()
        return value

    return ray, loss


def _direct(
    field: Field,
    warp: Warp,
    head: Step,
    row: int,
    loss: one.Loss,
    values: np.ndarray,
    lo: float,
    hi: float,
    roundoff: float,
) -> Parts:
    """Bound the direct form: on an edge of the mesh s and t are affine, and the worst of a cell is on an edge.

    For a fixed s the target is affine on a slice of the simplex, whose vertices lie on edges.
    """
    output, error = affine(field, head, np.array([row]), roundoff)
    kink = np.broadcast_to(field.sign_radius(head.weight[row])[0], output[0].shape)
    error = warp.radius(error) + max(warp.beyond(output[0])[:2])
    kink, output = warp.radius(kink), warp.inside(output)
    slip, slipped = ((hi - lo) * part for part in warp.slip(values))
    edges = warp.mesh.edges().numpy()
    a, b = edges.T
    target = lo + (hi - lo) * values
    still = np.zeros(len(a))
    exact = one.deviation(loss, output[0, a], output[0, b], target[a], target[b], still)
    kinks = np.maximum(kink[a], kink[b])
    kinked = one.deviation(loss, output[0, a], output[0, b], target[a], target[b], kinks) if kinks.any() else exact
    radius = np.maximum(error[0, a], error[0, b]) + kinks
    total = one.deviation(loss, output[0, a], output[0, b], target[a], target[b], radius)
    return Parts(_more(kinked, exact) + slip, exact, _more(total, kinked) + slipped)


def _more(total: float, part: float) -> float:
    """Return total − part, at least 0; not finite stays so."""
    if not (math.isfinite(total) and math.isfinite(part)):
        return math.inf
    return max(total - part, 0.0)


def reading(step: Step, rows: np.ndarray, base: sp.csr_matrix, bias: float) -> Step:
    """Return the step that reads the register which these rows share, with the largest of their biases."""
    inexact = step.inexact[rows].max(axis=0).tocsr()  # the same for all
    offset = np.array([step.offset[rows].max()])
    read = Step(base, np.array([bias]), 1.0, step.stage, inexact, step.roundings, offset)
    if step.shift is None or step.means is None:
        return read
    shift = np.abs(step.shift[rows]).max(keepdims=True)
    summed = np.abs(step.bias[rows] - step.shift[rows]).max(keepdims=True)
    return replace(read, bias=summed + shift, shift=shift, means=step.means.rows(rows).largest())


def _bent(
    field: Field,
    warp: Warp,
    steps: Sequence[Step],
    head: Step,
    row: int,
    loss: one.Loss,
    values: np.ndarray,
    lo: float,
    hi: float,
    roundoff: float,
) -> Parts:
    """Bound the form with ψ: pattern register, then a curve."""
    chosen = units_feeding(steps, head, row)
    first = steps[0]
    own, stay = split_rows(first, chosen[0])
    constants = still_units(field, stay)
    base, sign = shared_register(first, own)
    bias = first.bias[own]
    read = reading(first, own, base, float(np.abs(bias).max(initial=0.0)))
    shifted, error = affine(field, read, np.array([0]), roundoff)
    register = shifted[0] - read.bias[0]
    # the units read the register with either sign, their biases with the other: bound both
    _, mirrored = affine(field, replace(read, weight=-read.weight), np.array([0]), roundoff)
    kink = np.broadcast_to(field.sign_radius(base)[0], register.shape)
    fall, rise, steep = warp.beyond(register)
    error, mirrored = warp.radius(error), warp.radius(mirrored)
    kink, register = warp.radius(kink), warp.inside(register)
    if np.dot(register - register.mean(), values - values.mean()) < 0:
        register, sign, fall, rise = -register, -sign, rise, fall
    factor = unit_of(float(np.ptp(register)), float(np.ptp(values)))
    register, kink, sign = register / factor, kink / factor, sign * factor
    beyond = (fall / factor, rise / factor)
    difference = register - values  # the register may carry an offset, which ψ's biases take away again
    shift = float(difference.max() + difference.min()) / 2
    away = float((np.abs(difference - shift) + kink).max()) + 2.0**-52 * (1 + abs(shift))
    noise = max(float(error.max()), float(mirrored.max()))
    span = (float((register - kink).min()), float((register + kink).max()))
    limits = (float(values.min()), float(values.max()))
    slip, slipped = warp.slip(values, steep / factor)
    away += slip
    parts = follow_curve(
        *(steps, chosen, sign, span, limits, shift, away, noise, head, row, loss, (lo, hi), roundoff),
        beyond=beyond,
        constants=constants,
    )
    return replace(parts, rounding=parts.rounding + (hi - lo) * slipped)


def follow_curve(
    steps: Sequence[Step],
    chosen: Sequence[np.ndarray],
    sign: np.ndarray,
    span: tuple[float, float],
    limits: tuple[float, float],
    shift: float,
    away: float,
    noise: float,
    head: Step,
    row: int,
    loss: one.Loss,
    bounds: tuple[float, float],
    roundoff: float,
    *,
    beyond: tuple[float, float] = (0.0, 0.0),
    constants: tuple[np.ndarray, np.ndarray] | None = None,
) -> Parts:
    """Follow ψ over the span of the register, once in exact arithmetic and once with rounding.

    Args:
        steps: The steps from ψ's first layer on.
        chosen: The units of each step that reach the output.
        sign: Sign with which each first unit reads the register.
        span: Least and greatest value of the register.
        limits: Least and greatest value of the pattern. Beyond them the register is compared with these, which is no
            farther from the pattern than the register is.
        shift: Constant by which the register exceeds the pattern.
        away: sup |register − shift − pattern|.
        noise: Bound of the rounding of the first units' pre-activations.
        head: The output map.
        row: The output that moves.
        loss: The loss as a function of that output.
        bounds: (lo, hi) of the range.
        roundoff: Unit roundoff of the network's dtype.
        beyond: How far rounding may take the register below and above its span, counted in ``away`` already. There the
            pattern may be continued, which is nearer to a ψ that goes on, or not.
        constants: Values of what is kept beside the first units, and the bounds of their errors.

    Returns:
        The parts of the bound.
    """
    lo, hi = bounds
    first, bias = steps[0], steps[0].bias[split_rows(steps[0], chosen[0])[0]]
    found: list[float] = []
    for unit, error, (fall, rise) in ((0.0, 0.0, (0.0, 0.0)), (roundoff, noise, beyond)):
        low, high = span[0] - fall, max(span[1], span[0] + 1e-12) + rise
        followed = one.first_curve(low, high, sign, bias, error, first, unit)
        if constants is not None:
            followed = followed.with_constants(constants[0], constants[1] if unit else np.zeros_like(constants[1]))
        for depth, step in enumerate(steps[1:], start=1):
            own, stay = split_rows(step, chosen[depth])
            pushed = one.push(followed, step.rows(own).columns(chosen[depth - 1]), unit)
            followed = pushed.beside(followed, np.searchsorted(chosen[depth - 1], stay))
        followed = followed.refined(np.array([limits[0] - fall, *limits, limits[1] + rise]) + shift)
        last = head.rows(np.array([row])).columns(chosen[-1])
        s, bound = one.affine(followed, last, unit)
        radius = np.maximum(bound[0, :-1], bound[0, 1:]) if unit else np.zeros(len(followed.tau) - 1)
        worst = math.inf
        for bottom, top in itertools.product({limits[0], limits[0] - fall}, {limits[1], limits[1] + rise}):
            target = lo + (hi - lo) * np.clip(followed.tau - shift, bottom, top)
            worst = min(worst, one.deviation(loss, s[0, :-1], s[0, 1:], target[:-1], target[1:], radius))
        found.append(worst)
    return Parts((hi - lo) * away, found[0], _more(found[1], found[0]))


def is_beside(steps: Sequence[Step]) -> bool:
    """Say whether the first of two steps makes constants alone, past which the second reads what was there before."""
    if len(steps) < 2 or steps[0].weight.nnz:
        return False
    return bool((steps[1].weight.indices >= steps[0].weight.shape[0]).any())


def still_units(field: Field, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Return values and errors of units beside those that read the register: a constant in a sum, for example.

    Raises:
        ProofError: If one of them moves.
    """
    if not len(rows):
        return None
    pick = sp.csr_matrix((np.ones(len(rows)), (np.arange(len(rows)), rows)), shape=(len(rows), field.units))
    value = field.times(pick, "value")
    if (value != value[:, :1]).any():
        raise ProofError("the output reads a register beside the response layer, which the proof does not follow")
    return value[:, 0], (field.whole(pick) + field.sign_radius(pick)).max(axis=1)


def units_feeding(steps: Sequence[Step], head: Step, row: int) -> list[np.ndarray]:
    """Return, for each step, the units that reach one output."""
    live = np.unique(head.weight[row].indices)
    out = [live]
    for step in reversed(steps[1:]):
        own, stay = split_rows(step, live)
        live = np.unique(np.concatenate([step.weight[own].indices, stay]))
        out.append(live)
    return out[::-1]


def split_rows(step: Step, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return which of some rows are the step's own units, and which inputs the others keep."""
    units = step.weight.shape[0]
    return rows[rows < units], step.kept[rows[rows >= units] - units]


def unscaled(steps: Sequence[Step], scale: np.ndarray) -> tuple[Step, ...]:
    """Return the steps for inputs that are ``scale`` times too large, wherever these are kept."""
    out = []
    for step in steps:
        out.append(step.rescaled(np.ones(step.weight.shape[0]), 1 / scale))
        scale = np.concatenate([np.ones(step.weight.shape[0]), scale[step.kept]])
    return tuple(out)


def unit_of(spread: float, wanted: float) -> float:
    """Return the power of two by which a register is larger than the pattern; a norm behind it makes up for that."""
    return float(2.0 ** round(math.log2(spread / wanted))) if spread > 0 and wanted > 0 else 1.0


def shared_register(step: Step, rows: np.ndarray) -> tuple[sp.csr_matrix, np.ndarray]:
    """Return the one affine read that all these rows share, and each row's sign."""
    if not len(rows):
        raise ProofError("the output does not depend on h at all")
    if rows.max() >= step.weight.shape[0]:
        raise ProofError("the output reads a register beside the response layer, which the proof does not follow")
    if not step.weight[rows].nnz:  # a pattern of zeros
        return sp.csr_matrix((1, step.weight.shape[1])), np.ones(len(rows))
    base: sp.csr_matrix | None = None
    sign = np.ones(len(rows))
    for position, row in enumerate(rows):
        read = step.weight[row]
        if not read.nnz:
            raise ProofError(f"unit {row} of the response layer reads nothing")
        if base is None:
            base = read * np.sign(read.data[0])
        sign[position] = np.sign(read.data[0]) * np.sign(base.data[0])
        same = read.nnz == base.nnz and np.array_equal(read.indices, base.indices)
        if not same or not np.array_equal(read.data, sign[position] * base.data):
            raise ProofError(f"unit {row} of the response layer reads another register than the units before it")
    assert base is not None
    return base.tocsr(), sign
