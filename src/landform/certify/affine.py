"""Bound the affine part of a layer over the mesh: values, their own rounding, and what inputs' errors add.

All arrays are bounds at nodes that hold over the cells by interpolation, since every ingredient is convex there.
"""

from dataclasses import replace

import numpy as np
import scipy.sparse as sp

from landform.certify.field import Field
from landform.certify.means import Means
from landform.certify.network import Step
from landform.certify.rounding import CARRIED, SLACK, U64, rounding

BLOCK = 1 << 23  # entries of a dense block: 64 MB
FEW = 16  # rows with at most this many terms are not counted again, term by term, where they are on
FEW_UNITS = 64  # means that at most so many units subtract are followed as errors in common


def affine(field: Field, step: Step, rows: np.ndarray, roundoff: float) -> tuple[np.ndarray, np.ndarray]:
    """Return nodal pre-activations of some rows and the bound of their errors, ``[rows, nodes]`` each."""
    pre, bound, spread = pre_activations(field, step, rows, roundoff)
    return pre, bound + spread


def pre_activations(
    field: Field, step: Step, rows: np.ndarray, roundoff: float, apart: bool = False
) -> tuple[np.ndarray, np.ndarray, np.ndarray | float]:
    """Return nodal pre-activations, the bound of their own errors, and of what they have in common.

    Args:
        field: The inputs.
        step: The step.
        rows: Which of its units.
        roundoff: Unit roundoff of the network's dtype.
        apart: Whether the means that the step subtracts are the last of the field's errors in common.
    """
    part = step if len(rows) == step.weight.shape[0] else step.rows(rows)
    if part.means is None:
        pre, own, carried = sums(field, part, part.bias, roundoff)
        return pre, own + carried, SLACK * field.spread(part.weight)
    assert part.shift is not None
    summed = replace(part, roundings=0.0, offset=np.zeros(len(rows)), means=None)
    pre, own, carried = sums(field, summed, part.bias - part.shift, roundoff)
    spread = SLACK * field.spread(part.weight)
    bound = normed(part, pre, own + carried, spread + field.sign_radius(part.weight), roundoff)
    if apart:
        return pre + part.shift[:, None], bound, SLACK * (abs(errors_in_common(field, step, True)[rows]) @ field.noise)
    return pre + part.shift[:, None], bound + _means(field, part.means, roundoff), spread


def errors_in_common(field: Field, step: Step, apart: bool) -> sp.csr_matrix:
    """Return by what units have errors in common: as they read them, and what they subtract themselves."""
    read = (step.weight @ field.common).tocsr()
    if not apart:
        return read
    assert step.means is not None
    back = step.means.back
    others = sp.csr_matrix((read.shape[0], len(field.noise) - back.shape[1]))
    return (read - sp.hstack([others, back])).tocsr()


def with_means(field: Field, step: Step, roundoff: float) -> tuple[Field, bool]:
    """Count the means that a step subtracts among the errors in common, if its units are few."""
    if step.means is None or step.weight.shape[0] > FEW_UNITS:
        return field, False
    totals = _totals(field, step.means, roundoff)
    noise = totals if field.common is None else np.concatenate([field.noise, totals])
    before = sp.csr_matrix((field.units, 0)) if field.common is None else field.common
    common = sp.csr_matrix((before.data, before.indices, before.indptr), shape=(field.units, len(noise)))
    return replace(field, noise=noise, common=common), True


def normed(step: Step, pre: np.ndarray, bound: np.ndarray, radius: np.ndarray | float, roundoff: float) -> np.ndarray:
    """Return the error of a·x + β from that of a·x, but for the mean's; a norm over groups rounds x, not its terms."""
    assert step.shift is not None
    shift = step.shift[:, None]
    size = np.abs(pre) + bound + radius
    own = step.roundings * size + step.offset[:, None] + np.abs(pre + shift) + bound + radius
    verifier = 4 * U64 * (size + np.abs(shift))
    out: np.ndarray = bound + SLACK * (roundoff * own + verifier)
    return out


def _means(field: Field, means: Means, roundoff: float) -> np.ndarray:
    """Bound what norms over groups subtract, ``[units, nodes]``, or from any unit, ``[1, nodes]``."""
    return means.subtracted(_totals(field, means, roundoff))


def _totals(field: Field, means: Means, roundoff: float) -> np.ndarray:
    """Bound the sums that means are taken of, as they come out, ``[groups, nodes]``."""
    out, size = np.zeros((len(means.level), field.mesh.n_nodes)), max(1, BLOCK // field.mesh.n_nodes)
    owner = np.cumsum(np.diff(means.member.indptr)) // size  # groups whose channels fit one block
    for block in np.unique(owner):
        groups = np.flatnonzero(owner == block)
        part = means.groups(groups)
        step = Step(part.weight, part.bias, 1.0, 0, part.inexact, 0.0, np.zeros(len(part.bias)))
        pre, own, carried = sums(field, step, part.bias, roundoff)
        left = field.times(part.left, "magnitude") + field.whole(part.left) + field.sign_radius(part.left)
        fuzz = carried + field.spread(part.weight) + field.sign_radius(part.weight)
        out[groups] = part.totals(np.abs(pre), own, fuzz, left, roundoff)
    return out


def sums(field: Field, step: Step, bias: np.ndarray, roundoff: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return nodal values of Wx + b, the error of these sums themselves, and what their inputs' errors add."""
    weight = step.weight
    positive, negative = weight.maximum(0).tocsr(), (-weight).maximum(0).tocsr()
    if field.value.size and field.value.min() < 0:  # values of either sign: bound partial sums by magnitudes
        pre = field.times(weight, "value") + bias[:, None]
        partial = field.times(abs(weight), "magnitude") + np.abs(bias)[:, None]
    else:
        up = field.times(positive, "value") + np.maximum(bias, 0)[:, None]
        down = field.times(negative, "value") + np.maximum(-bias, 0)[:, None]
        pre, partial = up - down, np.maximum(up, down)
    carried, whole = CARRIED * field.times(abs(weight), "error"), field.whole(weight)
    constant = (bias != 0) | (step.offset != 0)  # one of 0 may be rounded to something else
    terms = (np.diff(weight.indptr) + constant)[:, None].astype(float)
    if terms.max(initial=0) > FEW:
        terms = np.minimum(terms, field.active_terms(weight) + constant[:, None])
    products = field.times(step.inexact, "magnitude") if step.inexact.nnz else 0.0
    radius = field.sign_radius(weight)
    partial = partial + radius + whole
    extra = step.offset[:, None]
    if step.roundings:
        extra = extra + step.roundings * (field.times(abs(weight), "magnitude") + radius)
    own = rounding(pre, partial, np.zeros_like(pre), products + extra, terms, roundoff)
    return pre, own, carried
