"""The coordinates as a network holds them: what happens to them on their way to the first hinge moves the picture.

Norms and sums round the registers that hold h again and again before anything is computed from them. Each hinge and
hat behind would inherit that error for itself, and a sum over hats would count it once a hat. But all of them read the
same numbers: with g the point at which these *would* be exact, the network computes the pattern at g, so the error is
that of a picture moved by g − h: at most Σ_k |g_k − h_k|·max |∂_k T|.

So a `Field` of registers is written anew as functions of g: the register of each axis, x = a + b·n·h up to its error,
is a + b·n·g *by definition*. g may lie outside the box by as much, so the mesh gets one more cell wherever it can; what
the network does there is followed like the rest. This is a backward error analysis of the first layers (N. J. Higham,
*Accuracy and Stability of Numerical Algorithms*, 2nd ed., SIAM 2002, §1.5), and sound for any choice of registers.
"""

import itertools
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from landform.certify.field import Field
from landform.mesh import Mesh

U64 = 2.0**-53
MOST_UNITS = 64  # more registers than this are no coordinates on their way
WORTH = 4.0  # roundings of n·h below which hinges add more of their own


@dataclass(frozen=True)
class Warp:
    """How far g may be from h, and the mesh on which a field is a function of g.

    Args:
        mesh: The mesh of the box.
        larger: The mesh with one more cell wherever g may be outside the box.
        low: Whether it has one below 0, ``[z]``.
        high: Whether it has one above 1, ``[z]``.
        inner: The box's nodes among those of the larger mesh, ``[nodes]``.
        exact: How far g is from h in exact arithmetic, in cells, ``[z]``.
        rounded: How much farther it may be through rounding, in cells, ``[z]``.
        around: The same of each node, ``[z, nodes]``.
    """

    mesh: Mesh
    larger: Mesh
    low: np.ndarray
    high: np.ndarray
    inner: np.ndarray
    exact: np.ndarray
    rounded: np.ndarray
    around: np.ndarray

    @classmethod
    def none(cls, mesh: Mesh) -> "Warp":
        """Return the warp that moves nothing."""
        still = np.zeros(mesh.z)
        return cls(mesh, mesh, still, still, np.arange(mesh.n_nodes), still, still, np.zeros((mesh.z, mesh.n_nodes)))

    @property
    def reach(self) -> float:
        """Sum over the axes of how far g may be from h: the most that nodes outside the box weigh at g."""
        return float((self.exact + self.rounded).sum())

    def inside(self, value: np.ndarray) -> np.ndarray:
        """Return nodal values over the box, ``[rows, nodes]``: those at the point of the box that is nearest to g."""
        return np.asarray(np.broadcast_to(value, (*value.shape[:-1], self.larger.n_nodes))[..., self.inner])

    def radius(self, bound: np.ndarray) -> np.ndarray:
        """Return a bound over the box from one at g, ``[rows, nodes]``; both are at least 0."""
        return self.inside(bound) + self.reach * float(bound.max(initial=0.0))

    def beyond(self, value: np.ndarray) -> tuple[float, float, np.ndarray]:
        """Compare a P1 function at g, ``[nodes]``, with itself at the point of the box nearest to g.

        Returns:
            How far it may lie below, how far above, and how steep it is outside the box along each axis.
        """
        grid = value.reshape(self.larger.shape)
        inside = tuple(slice(int(a), size - int(b)) for a, b, size in zip(self.low, self.high, grid.shape, strict=True))
        fall, rise, steep = 0.0, 0.0, np.zeros(self.mesh.z)
        for k in range(self.mesh.z):
            outer = [np.take(grid, (-1, -2), axis=k)] if self.high[k] else []
            outer += [np.take(grid, (0, 1), axis=k)] if self.low[k] else []
            for pair in outer:
                difference = -np.diff(pair, axis=k)
                beside = difference[(*inside[:k], slice(None), *inside[k + 1 :])]
                corner = self.reach * float(np.abs(difference).max())  # what is outside along other axes weighs little
                down, up = corner - float(beside.min()), corner + float(beside.max())
                far = float(self.exact[k] + self.rounded[k]) * (1 + 1e-12)
                fall, rise = fall + far * max(0.0, down), rise + far * max(0.0, up)
                steep[k] = max(steep[k], down, up)
        return fall, rise, steep

    def slip(self, values: np.ndarray, outside: np.ndarray | float = 0.0) -> tuple[float, float]:
        """Return how far a pattern at g may be from the pattern at h: in exact arithmetic, and how much more in fact.

        On a simplex the k-th component of a P1 function's gradient is a difference along an edge parallel to axis k.
        What rounds grows with h, and is taken with the gradients of the simplices between h and g: these are no farther
        than half a cell from h.

        Args:
            values: Nodal values of the pattern.
            outside: How steep its continuation is along each axis.
        """
        grid, z = values.reshape(self.mesh.shape), self.mesh.z
        beyond = np.broadcast_to(np.asarray(outside, dtype=float), (z,))
        steep = np.array([np.abs(np.diff(grid, axis=k)).max(initial=0.0) for k in range(z)])
        far = np.stack([_near_cubes(part.reshape(self.mesh.shape)) for part in self.around])
        edge = [self._edge(k, float(beyond[k])) for k in range(z)]
        worst = 0.0
        for order in itertools.permutations(range(z)):
            moved, start = np.zeros(self.mesh.cells), np.zeros(z, dtype=int)
            for k in order:  # along the path of edges from a cube's first corner to its last
                end = start + (np.arange(z) == k)
                slope = np.abs(_corner(grid, end) - _corner(grid, start))
                moved += far[k] * np.maximum(slope, edge[k])
                start = end
            worst = max(worst, float(moved.max()))
        return float(self.exact @ np.maximum(steep, beyond)), worst * (1 + 1e-12)

    def _edge(self, axis: int, beyond: float) -> np.ndarray:
        """Return how steep the continuation is that is reached from the cubes along an axis; broadcasts over cubes."""
        out = np.zeros(self.mesh.cells[axis])
        if self.low[axis]:
            out[0] = beyond
        if self.high[axis]:
            out[-1] = beyond
        return out.reshape([-1 if k == axis else 1 for k in range(self.mesh.z)])


def is_plain(field: Field) -> bool:
    """Say whether all units are affine in one coordinate, or constant: nothing has been computed yet."""
    if len(field.sparse_rows) or field.units > MOST_UNITS:
        return False
    index = field.mesh.indices().numpy().T.astype(float)
    for row in field.value:
        fits = [_line(row, axis, n)[2] for axis, n in zip(index, field.mesh.cells, strict=True)]
        if not min(fits) <= 1e-4 * max(float(np.abs(row).max()), 1e-300):
            return False
    return True


def warped(field: Field, roundoff: float) -> tuple[Field, Warp] | None:
    """Write a field as functions of g.

    Args:
        field: Units over the box, all dense.
        roundoff: Unit roundoff of the network's dtype.

    Returns:
        The field over a mesh that contains all g, and how far g may be from h. None if no unit holds one of the
        coordinates, or if their errors are so small that nothing is won.

    Cost:
        A pass over ``units × nodes`` numbers.
    """
    mesh, z = field.mesh, field.mesh.z
    index = mesh.indices().numpy().T.astype(float)
    local = field.local.toarray()
    pivots, exact, rounded = [], np.zeros(z), np.zeros(z)
    for k in range(z):
        found = [_pivot(field, local, row, index[k], mesh.cells[k]) for row in range(field.units)]
        found += [_pair(field, local, *rows, index[k], mesh.cells[k]) for rows in _twins(field)]
        best = min((f for f in found if f is not None), key=lambda f: f.exact + f.rounded, default=None)
        if best is None:
            return None
        pivots.append(best)
        exact[k], rounded[k] = best.exact, best.rounded
    if (exact + rounded < WORTH * roundoff * np.array(mesh.cells)).all() or not (exact + rounded).max() < 0.5:
        return None
    # a ReLU's output is never below 0: then neither is g, unless the register of h = 0 is above it
    sure = field.positive & ~field.reads_common(sp.identity(field.units, format="csr"))
    low = np.array([0 if sure[list(p.lines)].all() and p.lowest <= 0 else 1 for p in pivots])
    larger = Mesh(tuple(n + 1 + int(more) for n, more in zip(mesh.cells, low, strict=True)))
    place = larger.indices().numpy() - low
    clipped = np.clip(place, 0, np.array(mesh.cells))
    inner = np.flatnonzero((clipped == place).all(axis=1))
    around = np.stack([p.around for p in pivots]) * (1 + 1e-12)
    warp = Warp(mesh, larger, low, np.ones(z), inner, exact, rounded, around)
    value = _extended(field.value, mesh, low)
    steep = np.stack([_steepest(value, larger, k) for k in range(z)], axis=1)
    moved = steep @ (exact + rounded) * (1 + 1e-12)  # a P1 function at g and at h
    worst = field.error.max(axis=1, initial=0.0) + local.max(axis=1, initial=0.0) + field.kink + moved
    error = np.repeat(worst[:, None], larger.n_nodes, axis=1)
    noise = np.repeat(field.noise.max(axis=1, initial=0.0)[:, None], larger.n_nodes, axis=1)
    for k, pivot in enumerate(pivots):
        for row, (a, b) in pivot.lines.items():
            value[row] = a + b * place[:, k]
            error[row] = 4 * U64 * (abs(a) + abs(b) * np.abs(place[:, k]))
        if pivot.symbol is not None:
            noise[pivot.symbol] += pivot.more
    kink, none = np.zeros(field.units), sp.csr_matrix((field.units, larger.n_nodes))
    empty = sp.csr_matrix((0, larger.n_nodes))
    rows = np.zeros(0, dtype=int)
    moved_field = Field(
        larger, field.dense_rows, value, error, rows, empty, empty, kink, none, field.positive, noise, field.common
    )
    return moved_field, warp


def _near_cubes(grid: np.ndarray) -> np.ndarray:
    """Return the largest nodal value of each cube of cells and of those around it."""
    for k in range(grid.ndim):
        padded = np.pad(grid, [(int(k == axis),) * 2 for axis in range(grid.ndim)], "edge")
        grid = np.lib.stride_tricks.sliding_window_view(padded, 4, axis=k).max(axis=-1)
    return grid


def _corner(grid: np.ndarray, corner: np.ndarray) -> np.ndarray:
    """Return the nodal values at one corner of every cube."""
    return grid[tuple(slice(int(at), size - 1 + int(at)) for at, size in zip(corner, grid.shape, strict=True))]


def _line(row: np.ndarray, index: np.ndarray, cells: int) -> tuple[float, float, float]:
    """Return a, b and the largest |row − (a + b·index)|."""
    a = float(row[0])
    b = float(row[-1] - row[0]) / cells  # the last node has the largest index along every axis
    return a, b, float(np.abs(row - (a + b * index)).max())


@dataclass(frozen=True)
class _Pivot:
    """Units that define g along an axis.

    Args:
        lines: a and b of each: it is a + b·n·g from now on.
        exact: How far g is from h in exact arithmetic, in cells.
        rounded: How much farther it may be through rounding.
        around: The same of each node, ``[nodes]``.
        symbol: The error that two units have in common, None for one unit.
        more: By how much it is larger, seen from g.
    """

    lines: dict[int, tuple[float, float]]
    exact: float
    rounded: float
    around: np.ndarray
    symbol: int | None = None
    more: float = 0.0

    @property
    def lowest(self) -> float:
        """The least a."""
        return min(a for a, _ in self.lines.values())


def _pivot(field: Field, local: np.ndarray, row: int, index: np.ndarray, cells: int) -> _Pivot | None:
    """Return a unit as a pivot; None where it does not grow with h, or shares an error."""
    a, b, fit = _line(field.value[row], index, cells)
    if not b > 0 or not fit < 0.1 * b or field.reads_common(_one(row, field.units))[0]:
        return None
    own = fit + 8 * U64 * (abs(a) + b * cells)  # fit, a and b are numbers of this verifier
    exact = (own + float(local[row].max(initial=0.0)) + float(field.kink[row])) / b
    around = field.error[row] / b
    return _Pivot({row: (a, b)}, exact * (1 + 1e-12), float(around.max()) * (1 + 1e-12), around)


def _twins(field: Field) -> list[tuple[int, int, int]]:
    """Return pairs of units and the error that they, and no others, have in common to the same degree."""
    if field.common is None:
        return []
    columns = field.common.tocsc()
    columns.eliminate_zeros()
    out = []
    for symbol in range(columns.shape[1]):
        part = slice(columns.indptr[symbol], columns.indptr[symbol + 1])
        units, factors = columns.indices[part], columns.data[part]
        alone = len(units) == 2 and factors[0] == factors[1] and (np.diff(field.common.indptr)[units] == 1).all()
        if alone:
            out.append((int(units[0]), int(units[1]), symbol))
    return out


def _pair(
    field: Field, local: np.ndarray, first: int, second: int, symbol: int, index: np.ndarray, cells: int
) -> _Pivot | None:
    """Return two units x = a + b·n·h + cξ and x' = a' − b·n·h + cξ as a pivot: their difference defines g.

    Half the sum of their own errors then counts as part of ξ.
    """
    (a, b, fit), (other, down, slack) = (_line(field.value[row], index, cells) for row in (first, second))
    if b < 0:
        first, second, a, b, other, down = second, first, other, down, a, b
    if not b > 0 or not max(fit, slack, abs(b + down) * cells) < 0.1 * b:
        return None
    both = [first, second]
    own = fit + slack + abs(b + down) * cells + 8 * U64 * (abs(a) + abs(other) + 2 * b * cells)
    exact = (own + float(local[both].max(axis=1, initial=0.0).sum()) + float(field.kink[both].sum())) / 2
    rounded = float(field.error[both].max(axis=1, initial=0.0).sum()) / 2
    around = field.error[both].sum(axis=0) / (2 * b)
    assert field.common is not None
    factor = abs(float(field.common[first, symbol]))
    lines = {first: (a, b), second: (other, -b)}
    large = 1 + 1e-12
    return _Pivot(lines, exact / b * large, rounded / b * large, around, symbol, (exact + rounded) / factor * large)


def _one(row: int, units: int) -> sp.csr_matrix:
    return sp.csr_matrix((np.ones(1), ([0], [row])), shape=(1, units))


def _extended(value: np.ndarray, mesh: Mesh, low: np.ndarray) -> np.ndarray:
    """Return nodal values continued by one more cell, affine along each axis."""
    grid = value.reshape(len(value), *mesh.shape)
    pads = [(0, 0), *((int(more), 1) for more in low)]
    grid = np.pad(grid, pads, "reflect", reflect_type="odd")
    return grid.reshape(len(value), -1)


def _steepest(value: np.ndarray, mesh: Mesh, axis: int) -> np.ndarray:
    """Return the largest difference along an axis of each row."""
    grid = value.reshape(len(value), *mesh.shape)
    difference = np.abs(np.diff(grid, axis=axis + 1)).reshape(len(value), -1)
    return np.asarray(difference.max(axis=1, initial=0.0))
