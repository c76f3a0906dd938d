"""What every unit of a layer does over the whole box: a P1 function plus two radii.

For each unit, ``value`` holds nodal values of a P1 function on the Kuhn mesh, and at every h of the box

    |x(h) − I[value](h)| ≤ I[error](h) + I[local](h) + kink,

where x(h) is the number the network computes in its dtype, in whatever order it sums, I is P1 interpolation, ``error``
bounds rounding (of the network and of this verifier); ``local`` and ``kink`` bound the change of sign inside a cell (0
when every pre-activation keeps its sign on every cell), at the nodes of that cell or, for rows that are followed
sparsely, anywhere. Rows that are zero almost everywhere (hats) are kept sparse.

Errors that several units have in common, such as that of a mean which a norm subtracts from all of them, cancel in what
reads their difference. They are kept apart, as in affine arithmetic (J. Stolfi & L. H. de Figueiredo, *Self-Validated
Numerical Methods and Applications*, IMPA 1997, ch. 4): to the right-hand side comes Σ_k common_k·ξ_k(h) with unknown
|ξ_k(h)| ≤ I[noise_k](h).
"""

from dataclasses import dataclass, field, replace

import numpy as np
import scipy.sparse as sp

from landform.mesh import Mesh


@dataclass
class Field:
    """Values and radii of the units of a layer over all nodes.

    Args:
        mesh: The mesh.
        dense_rows: Indices of the units kept dense; ``value`` and ``error`` are ``[dense, nodes]``.
        value: Nodal values of the dense units.
        error: Nodal bounds of the dense units.
        sparse_rows: Indices of the units kept sparse.
        sparse_value: Their values, CSR ``[sparse, nodes]``.
        sparse_error: Their bounds.
        kink: Radius of each unit, ``[units]``.
        local: Radius of each unit around each node, CSR ``[units, nodes]``.
        positive: Which units come straight from a ReLU, so that no computed value is below 0, ``[units]``.
        noise: Nodal bounds of the errors in common, ``[errors, nodes]``.
        common: By what each unit has them, CSR ``[units, errors]``; None where there are none.
    """

    mesh: Mesh
    dense_rows: np.ndarray
    value: np.ndarray
    error: np.ndarray
    sparse_rows: np.ndarray
    sparse_value: sp.csr_matrix
    sparse_error: sp.csr_matrix
    kink: np.ndarray
    local: sp.csr_matrix
    positive: np.ndarray
    noise: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))
    common: sp.csr_matrix | None = None

    @classmethod
    def dense(cls, mesh: Mesh, value: np.ndarray, error: np.ndarray, kink: np.ndarray) -> "Field":
        """Return a field with dense rows only."""
        empty = sp.csr_matrix((0, mesh.n_nodes))
        positive = np.ones(len(value), dtype=bool)
        local = sp.csr_matrix((len(value), mesh.n_nodes))
        return cls(
            mesh, np.arange(len(value)), value, error, np.zeros(0, dtype=int), empty, empty, kink, local, positive
        )

    @property
    def units(self) -> int:
        """Number of units."""
        return len(self.kink)

    def beside(self, other: "Field", kept: np.ndarray) -> "Field":
        """Return these units, and behind them some of another field."""
        dense = np.flatnonzero(np.isin(kept, other.dense_rows))
        sparse = np.flatnonzero(np.isin(kept, other.sparse_rows))
        from_dense = np.searchsorted(other.dense_rows, kept[dense])
        from_sparse = np.searchsorted(other.sparse_rows, kept[sparse])
        own = self.units
        return Field(
            self.mesh,
            np.concatenate([self.dense_rows, own + dense]),
            np.concatenate([self.value, other.value[from_dense]]),
            np.concatenate([self.error, other.error[from_dense]]),
            np.concatenate([self.sparse_rows, own + sparse]),
            sp.vstack([self.sparse_value, other.sparse_value[from_sparse]]).tocsr(),
            sp.vstack([self.sparse_error, other.sparse_error[from_sparse]]).tocsr(),
            np.concatenate([self.kink, other.kink[kept]]),
            sp.vstack([self.local, other.local[kept]]).tocsr(),
            np.concatenate([self.positive, other.positive[kept]]),
            self.noise,
            self._common_beside(other, kept),
        )

    def _common_beside(self, other: "Field", kept: np.ndarray) -> sp.csr_matrix | None:
        """Return the errors in common of these units and some of a field before them, which knows the first of them."""
        if self.common is None:
            return None
        count = self.common.shape[1]
        before = sp.csr_matrix((other.units, count)) if other.common is None else other.common[kept]
        before = sp.csr_matrix((before.data, before.indices, before.indptr), shape=(before.shape[0], count))
        return sp.vstack([self.common, before if other.common is not None else before[kept]]).tocsr()

    def pruned(self) -> "Field":
        """Return the same field without errors in common that no unit has."""
        if self.common is None:
            return self
        common = self.common.tocsc()
        common.eliminate_zeros()
        used = np.flatnonzero(np.diff(common.indptr))
        if not len(used):
            return replace(self, noise=np.zeros((0, 0)), common=None)
        return replace(self, noise=self.noise[used], common=common[:, used].tocsr())

    def spread(self, weight: sp.csr_matrix) -> np.ndarray | float:
        """Return what errors in common amount to at most in a map of the units, ``[rows, nodes]``; 0.0 for none."""
        if self.common is None:
            return 0.0
        out: np.ndarray = abs(weight @ self.common) @ self.noise
        return out

    def whole(self, weight: sp.csr_matrix) -> np.ndarray:
        """Return |weight| times all errors, those in common too, as if none of these cancelled."""
        own = self.times(abs(weight), "error")
        return own if self.common is None else own + (abs(weight) @ abs(self.common)) @ self.noise

    def reads_common(self, weight: sp.csr_matrix) -> np.ndarray:
        """Return which rows read units with errors in common."""
        if self.common is None:
            return np.zeros(weight.shape[0], dtype=bool)
        out: np.ndarray = np.diff((abs(weight) @ abs(self.common)).tocsr().indptr) > 0
        return out

    def sign_radius(self, weight: sp.csr_matrix) -> np.ndarray:
        """Return |W|·(kink + local) at the nodes, ``[rows, nodes]``, or ``[rows, 1]`` where it is the same at all."""
        size = abs(weight)
        everywhere = np.asarray(size @ self.kink)[:, None]
        if not self.local.nnz:
            return everywhere
        out: np.ndarray = everywhere + (size @ self.local).toarray()
        return out

    def reads_positive(self, weight: sp.csr_matrix) -> bool:
        """Say whether a map reads units only that are never below 0."""
        return bool(self.positive.all()) or not weight[:, ~self.positive].nnz

    def times(self, weight: sp.csr_matrix, what: str) -> np.ndarray:
        """Return ``weight @ rows`` as a dense array ``[rows of weight, nodes]``; ``what``: value, magnitude, error."""
        dense, sparse = {
            "value": (self.value, self.sparse_value),
            "magnitude": (self.value, self.sparse_value),
            "error": (self.error, self.sparse_error),
        }[what]
        out = product(weight[:, self.dense_rows], np.abs(dense) if what == "magnitude" else dense)
        if len(self.sparse_rows):
            sparse = abs(sparse) if what == "magnitude" else sparse
            out += (weight[:, self.sparse_rows] @ sparse).toarray()
        return out

    def active_terms(self, weight: sp.csr_matrix) -> np.ndarray:
        """Return how many terms of each row may be non-zero in the cells around each node, ``[rows, nodes]``."""
        pattern = weight.astype(np.float32)
        pattern.data = np.ones_like(pattern.data)
        own = (self.value != 0) | (self.error != 0)
        if self.common is not None:
            own |= (np.diff(self.common.indptr) > 0)[self.dense_rows][:, None]
        active = dilate(self.mesh, own).astype(np.float32)
        out = product(pattern[:, self.dense_rows], active).astype(np.float64)
        if len(self.sparse_rows):
            nonzero = (abs(self.sparse_value) + self.sparse_error) != 0
            counts = (pattern[:, self.sparse_rows] @ nonzero.astype(np.float32)).toarray()
            out += star_sum(self.mesh, counts)
        return out


def product(weight: sp.csr_matrix, dense: np.ndarray) -> np.ndarray:
    """Multiply by BLAS when the weight is dense enough for it to pay, else by SciPy."""
    if weight.nnz > 0.05 * weight.shape[0] * max(weight.shape[1], 1):
        out: np.ndarray = weight.toarray() @ dense
    else:
        out = np.asarray(weight @ dense)
    return out


def shifts(mesh: Mesh) -> list[tuple[tuple[slice, ...], tuple[slice, ...]]]:
    """Return (from, to) slices of a nodal array ``[rows, *shape]`` for every edge direction of the mesh."""
    out = []
    for code in range(1, 1 << mesh.z):
        subset = [bool(code >> k & 1) for k in range(mesh.z)]
        start = tuple(slice(None, -1) if s else slice(None) for s in subset)
        end = tuple(slice(1, None) if s else slice(None) for s in subset)
        out.append(((slice(None), *start), (slice(None), *end)))
    return out


def dilate(mesh: Mesh, mask: np.ndarray) -> np.ndarray:
    """Spread a nodal mask ``[rows, nodes]`` to all nodes that share a cell with a marked one."""
    grid = mask.reshape(len(mask), *mesh.shape)
    out = grid.copy()
    for start, end in shifts(mesh):
        out[start] |= grid[end]
        out[end] |= grid[start]
    return out.reshape(mask.shape)


def star_sum(mesh: Mesh, counts: np.ndarray) -> np.ndarray:
    """Sum a nodal array ``[rows, nodes]`` over each node and its neighbours."""
    grid = counts.reshape(len(counts), *mesh.shape)
    out = grid.copy()
    for start, end in shifts(mesh):
        out[start] += grid[end]
        out[end] += grid[start]
    return out.reshape(counts.shape)


def local_changes(mesh: Mesh, value: np.ndarray) -> np.ndarray:
    """Return, at each node, the largest min(max v⁺, max v⁻) over the cells around it: how far relu(v) is from P1 there.

    On a simplex, 0 ≤ I[relu(v)] − relu(v) ≤ min(max v⁺, max v⁻); the vertices that attain both maxima share an edge.
    All nodes of a cell share an edge with either end, so the largest over a node's neighbours is a bound.
    """
    out = np.zeros_like(value)
    mixed = np.flatnonzero((value.min(axis=1, initial=0.0) < 0) & (value.max(axis=1, initial=0.0) > 0))
    if not len(mixed):
        return out
    grid = value[mixed].reshape(len(mixed), *mesh.shape)
    found = np.zeros_like(grid)
    for start, end in shifts(mesh):
        a, b = grid[start], grid[end]
        change = np.minimum(np.maximum(a, b), -np.minimum(a, b))
        found[start] = np.maximum(found[start], change)
        found[end] = np.maximum(found[end], change)
    spread = found.copy()
    for start, end in shifts(mesh):
        spread[start] = np.maximum(spread[start], found[end])
        spread[end] = np.maximum(spread[end], found[start])
    out[mixed] = spread.reshape(len(mixed), -1)
    return out


def sign_changes(mesh: Mesh, value: np.ndarray) -> np.ndarray:
    """Return, for each row, the largest min(max v⁺, max v⁻) over the cells (see `local_changes`)."""
    grid = value.reshape(len(value), *mesh.shape)
    worst = np.zeros(len(value))
    mixed = (grid.reshape(len(value), -1).min(axis=1) < 0) & (grid.reshape(len(value), -1).max(axis=1) > 0)
    if not mixed.any():
        return worst
    part = grid[mixed]
    found = np.zeros(len(part))
    for start, end in shifts(mesh):
        a, b = part[start], part[end]
        change = np.minimum(np.maximum(a, b), -np.minimum(a, b))
        found = np.maximum(found, change.reshape(len(part), -1).max(axis=1))
    worst[mixed] = np.maximum(found, 0.0)
    return worst
