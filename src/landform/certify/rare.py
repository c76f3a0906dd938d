"""Follow units that are zero almost everywhere, such as hats, only where they are not.

Tiles of nodes are screened by interval bounds; on those that are left, units are evaluated node by node.
"""

import numpy as np
import scipy.sparse as sp

from landform.certify.affine import BLOCK
from landform.certify.field import Field, dilate
from landform.certify.network import Step
from landform.certify.rounding import SLACK, U64, rounding
from landform.mesh import Mesh

TILE = 4  # nodes along an axis of a screening tile


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


def rare_units(
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
