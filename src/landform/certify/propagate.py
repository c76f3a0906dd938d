"""Propagate a `Field` through affine maps and activations, soundly, for any order of summation.

Rounding of one dot product of k non-zero terms, summed in any order, fused or not: the last addition errs by at most
u·|result|, each of the k − 2 before it by u·P, where P = max(sum of positive terms, sum of negative terms) bounds every
partial sum; a product by a power of two is exact, any other errs by u·|w·x|; adding an exact zero is exact. The
verifier's own float64 arithmetic is bounded by the same rule, more coarsely. All arrays are bounds at nodes that hold
over the cells by interpolation, since every ingredient is convex there.
"""

from dataclasses import replace

import numpy as np
import scipy.sparse as sp

from landform.certify.field import Field, dilate, local_changes
from landform.certify.means import Means
from landform.certify.network import NEAR, Step
from landform.mesh import Mesh

U64 = 2.0**-53
SLACK = 1.01  # second-order terms: k·u < 0.001 for every k that occurs
CARRIED = 1 + 2.0**-9  # the same, for what only passes through a sum: registers pass dozens
BLOCK = 1 << 23  # entries of a dense block: 64 MB
MAX_ENTRIES = 1 << 29  # entries of a layer's values: 4 GB, and as much for the errors
FEW = 16  # rows with at most this many terms may take the sparse way
FEW_UNITS = 64  # means that at most so many units subtract are followed as errors in common
TILE = 4  # nodes along an axis of a screening tile


class ProofError(Exception):
    """The weights do not have the form that the proof covers, or are too many; the message says where."""


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
        sparse = _sparse_rows(field, step, np.flatnonzero(few), kink, roundoff)
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
    field, apart = _with_means(field, step, roundoff)
    linear = np.zeros(units, dtype=bool)  # units that the activation leaves as they are
    for start in range(0, len(dense_rows), size):
        rows = dense_rows[start : start + size]
        pre, bound, spread = _affine(field, step, rows, roundoff, apart)
        lifted = _lifted(field, step, rows) if step.slope == 0.0 and not step.moved else None
        radius = field.sign_radius(step.weight[rows])
        top = np.abs(pre) if step.slope == 1.0 else pre  # the identity has two ends
        if field.common is not None:
            linear[rows] = (step.slope == 1.0) | ((pre - bound - spread - radius).min(axis=1) > 0)
        alone, bound = bound, bound + spread
        if step.cap < np.inf and not (top + bound + radius).max(initial=0.0) <= step.cap:
            raise ProofError(f"some unit exceeds {step.cap:g}, where its activation stops growing")
        near = (abs(step.weight[rows]) @ field.local).toarray() if field.local.nnz else np.zeros_like(pre)
        value[start : start + size], error[start : start + size], near = _activate(
            mesh, pre, bound, near, kink[rows], lifted, step.slope, roundoff
        )
        error[start : start + size][linear[rows]] = alone[linear[rows]]
        if step.smooth:
            error[start : start + size] += SLACK * step.bent(value[start : start + size], roundoff)
        local.append(sp.csr_matrix(near))
    empty = sp.csr_matrix((0, nodes))
    sparse_value, sparse_error = sparse if sparse is not None else (empty, empty)
    positive = np.full(units, step.slope == 0.0 and not step.smooth and not step.moved)
    order = np.argsort(np.concatenate([dense_rows, sparse_rows]))
    radii = sp.vstack([*local, sp.csr_matrix((len(sparse_rows), nodes))]).tocsr()[order]
    common = None if field.common is None else (sp.diags(linear.astype(float)) @ _common(field, step, apart)).tocsr()
    shared = (field.noise, common)
    return Field(
        mesh, dense_rows, value, error, sparse_rows, sparse_value, sparse_error, kink, radii, positive, *shared
    )


def affine(field: Field, step: Step, rows: np.ndarray, roundoff: float) -> tuple[np.ndarray, np.ndarray]:
    """Return nodal pre-activations of some rows and the bound of their errors, ``[rows, nodes]`` each."""
    pre, bound, spread = _affine(field, step, rows, roundoff)
    return pre, bound + spread


def _affine(
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
        pre, own, carried = _sums(field, part, part.bias, roundoff)
        return pre, own + carried, SLACK * field.spread(part.weight)
    assert part.shift is not None
    summed = replace(part, roundings=0.0, offset=np.zeros(len(rows)), means=None)
    pre, own, carried = _sums(field, summed, part.bias - part.shift, roundoff)
    spread = SLACK * field.spread(part.weight)
    bound = normed(part, pre, own + carried, spread + field.sign_radius(part.weight), roundoff)
    if apart:
        return pre + part.shift[:, None], bound, SLACK * (abs(_common(field, step, True)[rows]) @ field.noise)
    return pre + part.shift[:, None], bound + _means(field, part.means, roundoff), spread


def _common(field: Field, step: Step, apart: bool) -> sp.csr_matrix:
    """Return by what units have errors in common: as they read them, and what they subtract themselves."""
    read = (step.weight @ field.common).tocsr()
    if not apart:
        return read
    assert step.means is not None
    back = step.means.back
    others = sp.csr_matrix((read.shape[0], len(field.noise) - back.shape[1]))
    return (read - sp.hstack([others, back])).tocsr()


def _with_means(field: Field, step: Step, roundoff: float) -> tuple[Field, bool]:
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
        pre, own, carried = _sums(field, step, part.bias, roundoff)
        left = field.times(part.left, "magnitude") + field.whole(part.left) + field.sign_radius(part.left)
        fuzz = carried + field.spread(part.weight) + field.sign_radius(part.weight)
        out[groups] = part.totals(np.abs(pre), own, fuzz, left, roundoff)
    return out


def _sums(field: Field, step: Step, bias: np.ndarray, roundoff: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
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
    terms = (np.diff(weight.indptr) + (bias != 0))[:, None].astype(float)
    if terms.max(initial=0) > FEW:
        terms = np.minimum(terms, field.active_terms(weight) + (bias != 0)[:, None])
    products = field.times(step.inexact, "magnitude") if step.inexact.nnz else 0.0
    radius = field.sign_radius(weight)
    partial = partial + radius + whole
    extra = step.offset[:, None]
    if step.roundings:
        extra = extra + step.roundings * (field.times(abs(weight), "magnitude") + radius)
    own = rounding(pre, partial, np.zeros_like(pre), products + extra, terms, roundoff)
    return pre, own, carried


def rounding(
    pre: np.ndarray,
    partial: np.ndarray,
    carried: np.ndarray,
    products: np.ndarray | float,
    terms: np.ndarray,
    roundoff: float,
) -> np.ndarray:
    """Bound the error of dot products (see the module's text).

    Args:
        pre: Values.
        partial: Bounds of every partial sum.
        carried: |W|·(error of the inputs).
        products: Sum of the magnitudes that round once more: inexact products, normalisation.
        terms: Number of non-zero terms.
        roundoff: Unit roundoff of the network's dtype.

    Returns:
        The bound, with the verifier's own rounding.
    """
    partial = partial + carried
    own = (terms >= 2) * np.abs(pre) + np.maximum(terms - 2, 0) * partial + products
    underflow = (2.0**-148 if roundoff > 2.0**-30 else 2.0**-1073) * (terms + 1) * (partial > 0)
    bound: np.ndarray = SLACK * (roundoff * own + U64 * (terms + 3) * partial + carried) + underflow
    return bound


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


class _Tiles:
    """Bounds of all dense units on tiles of nodes, to find where rows with few terms may be on.

    The largest value on a tile is at most W⁺·max x − W⁻·min x + b: an interval bound, cheap for all rows at once.
    """

    def __init__(self, field: Field) -> None:
        self.order, self.members = _tiles(field.mesh)
        self.ends = np.append(self.members[1:], len(self.order))
        ordered = field.error[:, self.order]
        fuzz = np.maximum.reduceat(ordered, self.members, axis=1)
        ordered = field.value[:, self.order]
        self.high = np.maximum.reduceat(ordered, self.members, axis=1) + fuzz
        self.low = np.minimum.reduceat(ordered, self.members, axis=1) - fuzz

        self.error = field.error.max(axis=1, initial=0.0)
        self.size = field.value.max(axis=1, initial=0.0) + self.error + field.kink[field.dense_rows]

    def margin(self, weight: sp.csr_matrix, bias: np.ndarray, roundoff: float) -> np.ndarray:
        """Return a bound of each row's rounding anywhere."""
        partial = abs(weight) @ self.size + np.abs(bias)
        terms = np.diff(weight.indptr) + 2
        own = (roundoff * (2 * terms + 1) + U64 * (terms + 3)) * partial + 2.0**-140 * (roundoff > U64)
        return np.asarray(SLACK * (own + abs(weight) @ self.error))

    def active_pairs(
        self, weight: sp.csr_matrix, bias: np.ndarray, margin: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the (row, node) pairs that may be on, ``margin`` bounding each row's rounding and kinks."""
        positive, negative = weight.maximum(0).tocsr(), (-weight).maximum(0).tocsr()
        up = positive @ self.high + np.maximum(bias, 0)[:, None]
        down = negative @ self.low + np.maximum(-bias, 0)[:, None]
        row, tile = np.nonzero((up - down + margin[:, None] > 0) & (up > 0))
        length = self.ends[tile] - self.members[tile]
        offset = np.arange(length.sum()) - np.repeat(np.cumsum(length) - length, length)
        return np.repeat(row, length), self.order[np.repeat(self.members[tile], length) + offset]


def _tiles(mesh: Mesh) -> tuple[np.ndarray, np.ndarray]:
    """Return the nodes ordered by tile, and where each tile begins."""
    label = np.zeros(mesh.n_nodes, dtype=int)
    for k in range(mesh.z):
        label = label * (mesh.shape[k] // TILE + 1) + mesh.indices()[:, k].numpy() // TILE
    order = np.argsort(label, kind="stable")
    return order, np.flatnonzero(np.diff(label[order], prepend=-1))


def _sparse_rows(
    field: Field, step: Step, rows: np.ndarray, kink: np.ndarray, roundoff: float
) -> tuple[sp.csr_matrix, sp.csr_matrix] | None:
    """Compute the ReLU of rows with few terms where they may be on; updates ``kink``. None if that is not rare."""
    tiles = _Tiles(field)
    live = dilate(field.mesh, (field.value > 0) | (field.error > 0) | (field.kink[field.dense_rows] > 0)[:, None])
    values, errors = [], []
    size = max(1, min(BLOCK // len(tiles.members), BLOCK // (512 * 8)))
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        weight = step.weight[part][:, field.dense_rows].tocsr()
        margin = tiles.margin(weight, step.bias[part], roundoff) + kink[part]
        pairs = tiles.active_pairs(weight, step.bias[part], margin)
        if len(pairs[0]) > 0.3 * len(part) * field.mesh.n_nodes:
            return None
        gather = _Gather(field, live, weight, step.inexact[part][:, field.dense_rows].tocsr(), step.bias[part])
        value, error, change = _relu_at(field.mesh, gather, pairs, margin, kink[part], roundoff)
        kink[part] += change
        values.append(value)
        errors.append(error)
    return sp.vstack(values).tocsr(), sp.vstack(errors).tocsr()


def _relu_at(
    mesh: Mesh,
    gather: "_Gather",
    pairs: tuple[np.ndarray, np.ndarray],
    margin: np.ndarray,
    kink: np.ndarray,
    roundoff: float,
) -> tuple[sp.csr_matrix, sp.csr_matrix, np.ndarray]:
    """Return values and errors of rows at the pairs where they may be on, and their sign changes."""
    row, node = pairs
    keep = gather.may_be_on(row, node, margin)
    row, node = _with_neighbours(mesh, row[keep], node[keep])
    pre, bound, lifted = gather.bounds(row, node, roundoff)
    on = (pre + bound + kink[row] > 0) & lifted
    shape, above = (len(kink), mesh.n_nodes), (pre > 0) & lifted
    near = _contains(_key(mesh, *_with_neighbours(mesh, row[above], node[above])), _key(mesh, row, node))
    alive, on = lifted & (on | near), pre > 0  # as in `_activate`
    value = sp.csr_matrix((pre[on], (row[on], node[on])), shape=shape)
    error = sp.csr_matrix((bound[alive], (row[alive], node[alive])), shape=shape)
    return value, error, _sparse_sign_changes(mesh, gather, row, node, pre, len(kink))


def _contains(ordered: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Return which keys occur in an ascending array."""
    if not len(ordered):
        return np.zeros(len(keys), dtype=bool)
    found: np.ndarray = ordered[np.minimum(np.searchsorted(ordered, keys), len(ordered) - 1)] == keys
    return found


def _key(mesh: Mesh, row: np.ndarray, node: np.ndarray) -> np.ndarray:
    key: np.ndarray = row * mesh.n_nodes + node
    return key


class _Gather:
    """Evaluates rows with few terms at chosen (row, node) pairs."""

    def __init__(
        self, field: Field, live: np.ndarray, weight: sp.csr_matrix, inexact: sp.csr_matrix, bias: np.ndarray
    ) -> None:
        count = np.diff(weight.indptr)
        slots = int(count.max(initial=1))
        self.column = np.zeros((len(bias), slots), dtype=int)
        self.weight = np.zeros((len(bias), slots))
        owner = np.repeat(np.arange(len(bias)), count)
        position = np.arange(len(owner)) - np.repeat(weight.indptr[:-1], count)
        self.column[owner, position], self.weight[owner, position] = weight.indices, weight.data
        self.rounds = np.zeros((len(bias), slots))  # entries whose products round
        owner = np.repeat(np.arange(len(bias)), np.diff(inexact.indptr))
        for row, column in zip(owner, inexact.indices, strict=True):
            self.rounds[row, np.flatnonzero(self.column[row, : count[row]] == column)] = 1.0
        self.bias, self.field, self.live = bias, field, live
        self.kink = np.asarray(abs(weight) @ field.kink[field.dense_rows])
        self.terms = count + (self.bias != 0)

    def may_be_on(self, row: np.ndarray, node: np.ndarray, margin: np.ndarray) -> np.ndarray:
        """Return which pairs may be on, by a bound that is cheaper than `bounds`."""
        pre, lifted = self.bias[row] + margin[row], self.bias[row] > 0
        for slot in range(self.column.shape[1]):
            weight, column = self.weight[row, slot], self.column[row, slot]
            pre += weight * self.field.value[column, node]
            lifted |= (weight > 0) & self.live[column, node]
        out: np.ndarray = lifted & (pre > 0)
        return out

    def values(self, row: np.ndarray, node: np.ndarray) -> np.ndarray:
        """Return W x + b at the pairs."""
        out: np.ndarray = self.bias[row].copy()
        for slot in range(self.column.shape[1]):
            out += self.weight[row, slot] * self.field.value[self.column[row, slot], node]
        return out

    def bounds(self, row: np.ndarray, node: np.ndarray, roundoff: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return values, error bounds, and whether a positive term may be non-zero around, at the pairs."""
        up, down = np.maximum(self.bias[row], 0), np.maximum(-self.bias[row], 0)
        carried, products, lifted = np.zeros(len(row)), np.zeros(len(row)), self.bias[row] > 0
        for slot in range(self.column.shape[1]):
            weight, column = self.weight[row, slot], self.column[row, slot]
            term = weight * self.field.value[column, node]
            up, down = up + np.maximum(term, 0), down + np.maximum(-term, 0)
            carried += np.abs(weight) * self.field.error[column, node]
            lifted |= (weight > 0) & self.live[column, node]
            products += self.rounds[row, slot] * np.abs(term)
        terms = self.terms[row].astype(float)
        pre = up - down
        partial = np.maximum(up, down) + self.kink[row]
        return pre, rounding(pre, partial, carried, products, terms, roundoff), lifted


def _with_neighbours(mesh: Mesh, row: np.ndarray, node: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the pairs and all pairs of the same row one edge away, each once."""
    index = np.stack(np.unravel_index(node, mesh.shape), axis=1)
    keys = [row * mesh.n_nodes + node]
    for step in _edge_steps(mesh):
        moved = index + step
        inside = ((moved >= 0) & (moved < np.array(mesh.shape))).all(axis=1)
        keys.append(row[inside] * mesh.n_nodes + moved[inside] @ np.array(mesh.strides))
    unique = np.sort(np.concatenate(keys))  # np.unique hashes, which is far slower here
    unique = unique[np.append(True, unique[1:] != unique[:-1])]
    return unique // mesh.n_nodes, unique % mesh.n_nodes


def _edge_steps(mesh: Mesh) -> list[np.ndarray]:
    steps = [np.array([code >> k & 1 for k in range(mesh.z)]) for code in range(1, 1 << mesh.z)]
    return [sign * step for step in steps for sign in (1, -1)]


def _sparse_sign_changes(
    mesh: Mesh, gather: _Gather, row: np.ndarray, node: np.ndarray, pre: np.ndarray, rows: int
) -> np.ndarray:
    """Return `sign_changes` of rows given at few pairs: only edges that start at a positive value matter."""
    worst = np.zeros(rows)
    positive = pre > 0
    row, node, pre = row[positive], node[positive], pre[positive]
    index = np.stack(np.unravel_index(node, mesh.shape), axis=1)
    for step in _edge_steps(mesh):
        moved = index + step
        inside = ((moved >= 0) & (moved < np.array(mesh.shape))).all(axis=1)
        other = gather.values(row[inside], moved[inside] @ np.array(mesh.strides))
        np.maximum.at(worst, row[inside], np.maximum(np.minimum(pre[inside], -other), 0.0))
    return worst
