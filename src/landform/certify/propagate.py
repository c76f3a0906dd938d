"""Propagate a `Field` through affine maps and activations, soundly, for any order of summation (see `rounding`)."""

from dataclasses import replace
from functools import partial

import numpy as np
import scipy.sparse as sp

from landform.certify.affine import BLOCK, FEW, errors_in_common, pre_activations, with_means
from landform.certify.field import Field, dilate, local_changes
from landform.certify.network import NEAR, Step
from landform.certify.proof_error import ProofError
from landform.certify.rare import rare_units
from landform.certify.rounding import SLACK, U64
from landform.mesh import Mesh

MAX_ENTRIES = 1 << 29  # entries of a layer's values: 4 GB, and as much for the errors


def inject(mesh: Mesh, step: Step, roundoff: float) -> tuple[Field, np.ndarray]:
    """Return the field of the first layer, and what its units are multiplied by.

    Nodes i/n are no floats unless n is a power of two. Registers that are one coordinate are therefore kept as the
    integer n·h and the next map's column is divided by n instead, which is exact for the weights that occur.
    """
    index = mesh.indices().numpy().astype(float).T
    cells = np.array(mesh.cells, dtype=float)
    rows = step.weight.toarray()
    size = np.frexp(rows.max(axis=1, initial=0))[0]  # of a power of two: products with it are exact
    plain = (np.count_nonzero(rows, axis=1) == 1) & (step.bias == 0) & (size == 0.5)
    scale = np.where(plain, cells[rows.argmax(axis=1)], 1.0)
    start = Field.dense(mesh, index, np.zeros_like(index), np.zeros(mesh.z))
    return propagate(start, injected(step, scale, 1 / cells), roundoff), scale


def injected(step: Step, left: np.ndarray, right: np.ndarray) -> Step:
    """Return the first step for coordinates n·h, its units multiplied by ``left``.

    Raises:
        ProofError: If a unit exceeds the cap of its activation: h is at most 1, n·h may be more.
    """
    if step.smooth and left.max(initial=1.0) > NEAR / 64:
        raise ProofError(f"more than {int(NEAR / 64)} cells an axis and smooth activations: too large to follow")
    top = step.weight.maximum(0).sum(axis=1).A1 + step.bias
    if step.slope == 1.0:  # the identity has two ends
        top = np.maximum(top, -(step.weight.minimum(0).sum(axis=1).A1 + step.bias))
    if not top.max(initial=0.0) * (1 + 1e-5) <= step.cap:
        raise ProofError(f"some unit of the first layer exceeds {step.cap:g}, where its activation stops growing")
    far = step.smooth * float(left.max(initial=1.0))
    return replace(step.rescaled(left, right), cap=np.inf, smooth=far)


def propagate(field: Field, step: Step, roundoff: float) -> Field:
    """Push a field through one map and its activation; what the step keeps comes behind its units."""
    out = _mapped(field, step, roundoff)
    return (out.beside(field, step.kept) if len(step.kept) else out).pruned()


def _mapped(field: Field, step: Step, roundoff: float) -> Field:
    mesh, units = field.mesh, step.weight.shape[0]
    kink = np.asarray(abs(step.weight) @ field.kink)
    terms = np.diff(step.weight.indptr)
    nodes = mesh.n_nodes
    few = (
        field.reads_positive(step.weight)
        & (terms <= FEW)
        & _reads_dense(field, step.weight)
        & (step.slope == 0.0)
        & (step.roundings == 0.0)
        & (step.cap == np.inf)
        & (step.smooth == 0.0)
        & (not step.moved)
        & (not field.local.nnz)
        & ~field.reads_common(step.weight)
    )
    sparse_rows = np.zeros(0, dtype=int)
    sparse: tuple[sp.csr_matrix, sp.csr_matrix] | None = None
    if few.sum() * nodes > BLOCK // 2:
        sparse = rare_units(field, step, np.flatnonzero(few), kink, roundoff)
        sparse_rows = np.flatnonzero(few) if sparse is not None else sparse_rows
    dense_rows = np.setdiff1d(np.arange(units), sparse_rows)
    if len(dense_rows) * nodes > MAX_ENTRIES:
        size = 16 * len(dense_rows) * nodes / 1e9
        raise ProofError(
            f"a layer of {len(dense_rows):,} units over {nodes:,} nodes is too large to follow ({size:.0f} GB); lower"
            " the resolution"
        )
    value, error = np.empty((len(dense_rows), nodes)), np.empty((len(dense_rows), nodes))
    size, local = max(1, BLOCK // nodes), [sp.csr_matrix((0, nodes))]
    field, apart = with_means(field, step, roundoff)
    linear = np.zeros(units, dtype=bool)  # units that the activation leaves as they are
    for start in range(0, len(dense_rows), size):
        rows = dense_rows[start : start + size]
        pre, bound, spread = pre_activations(field, step, rows, roundoff, apart)
        lifted = _lifted(field, step, rows) if step.slope == 0.0 and not step.moved else None
        radius = field.sign_radius(step.weight[rows])
        top = np.abs(pre) if step.slope == 1.0 else pre  # the identity has two ends
        if field.common is not None:
            linear[rows] = (step.slope == 1.0) | ((pre - bound - spread - radius).min(axis=1) > 0)
        alone, bound = bound, bound + spread
        if step.cap < np.inf and not (top + bound + radius).max(initial=0.0) <= step.cap:
            raise ProofError(f"some unit exceeds {step.cap:g}, where its activation stops growing")
        near = (abs(step.weight[rows]) @ field.local).toarray() if field.local.nnz else np.zeros_like(pre)
        gated = None
        if step.gates is not None:
            gated = step.gates.rows(rows).added(pre, bound + near + kink[rows, None], partial(dilate, mesh))
        value[start : start + size], error[start : start + size], near = _activate(
            mesh, pre, bound, near, kink[rows], lifted, step.slope, roundoff
        )
        error[start : start + size][linear[rows]] = alone[linear[rows]]
        if gated is not None:
            error[start : start + size] += SLACK * gated
        elif step.smooth:
            error[start : start + size] += SLACK * step.bent(value[start : start + size], roundoff)
        local.append(sp.csr_matrix(near))
    empty = sp.csr_matrix((0, nodes))
    sparse_value, sparse_error = sparse if sparse is not None else (empty, empty)
    positive = np.full(units, step.slope == 0.0 and not step.smooth and not step.moved)
    order = np.argsort(np.concatenate([dense_rows, sparse_rows]))
    radii = sp.vstack([*local, sp.csr_matrix((len(sparse_rows), nodes))]).tocsr()[order]
    common = (
        None
        if field.common is None
        else (sp.diags(linear.astype(float)) @ errors_in_common(field, step, apart)).tocsr()
    )
    shared = (field.noise, common)
    return Field(
        mesh, dense_rows, value, error, sparse_rows, sparse_value, sparse_error, kink, radii, positive, *shared
    )


def _lifted(field: Field, step: Step, rows: np.ndarray) -> np.ndarray | None:
    """Return where some positive term may be non-zero, ``[rows, nodes]``; None where inputs may be negative.

    Inputs are ≥ 0 as computed, so without a positive term the computed pre-activation is ≤ 0, whatever the rounding;
    unless it is that of a constant or of a mean.
    """
    if step.means is not None or not field.reads_positive(step.weight[rows]):
        return None
    positive, bias = step.weight[rows].maximum(0).tocsr(), step.bias[rows]
    if (bias > 0).all():
        return None
    reach = field.times(positive, "value") + field.whole(positive) + field.sign_radius(positive)
    lifted: np.ndarray = reach + np.maximum(bias, 0)[:, None] + step.offset[rows][:, None] > 0
    return lifted


def _activate(
    mesh: Mesh,
    pre: np.ndarray,
    bound: np.ndarray,
    local: np.ndarray,
    kink: np.ndarray,
    lifted: np.ndarray | None,
    slope: float,
    roundoff: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Apply the activation to nodal values; errors of a ReLU survive only where it may be on.

    With e the whole radius, relu(x) ≤ I[relu(pre + e)], so from above a node counts only if pre + e > 0 there. From
    below I[relu(pre)] − relu(x) > 0 is possible only on cells with a vertex where pre > 0.
    """
    if slope == 1.0:
        return pre, bound, local
    changes = (1 - slope) * local_changes(mesh, pre)
    if slope == 0.0:
        off = ~((pre + bound + local + kink[:, None] > 0) | dilate(mesh, pre > 0))
        if lifted is not None:
            off |= ~dilate(mesh, lifted)
        bound[off] = 0.0
        local[off] = 0.0
        return np.maximum(pre, 0.0), bound, local + changes
    bound = bound + SLACK * (roundoff + U64) * slope * np.abs(pre)
    return np.where(pre > 0, pre, slope * pre), bound, local + changes


def _reads_dense(field: Field, weight: sp.csr_matrix) -> np.ndarray:
    """Return which rows read dense units only."""
    if not len(field.sparse_rows):
        return np.ones(weight.shape[0], dtype=bool)
    out: np.ndarray = np.diff(weight[:, field.sparse_rows].indptr) == 0
    return out
