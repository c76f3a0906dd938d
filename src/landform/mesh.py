"""The Kuhn (Freudenthal) triangulation of a box: location, interpolation, levels, surplus.

Every surface in landform is a piecewise-linear (P1) function on this mesh: the pattern a user asks for, the network
that realises it, the cells over which it is certified, the triangles that are drawn. The grid has nodes
``(i_1/n_1, …, i_z/n_z)``; each cube is cut into ``z!`` simplices, one for every order of the fractional parts of
``(n_1·h_1, …, n_z·h_z)``. See H. W. Kuhn, *Some combinatorial lemmas in topology* (1960); nested levels and surpluses
are the hierarchical basis of H. Yserentant (1986).
"""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from landform.errors import InputError

MAX_NODES = 1 << 26  # 67 million nodal values, 512 MB in float64: more is a mistake rather than a wish


@dataclass(frozen=True)
class Mesh:
    """The Kuhn triangulation of [0, 1]^z with ``cells[k]`` cells along axis ``k``.

    Args:
        cells: Cells per axis; axis ``k`` has ``cells[k] + 1`` nodes. ``Mesh((64, 64))`` is the mesh of a 64×64 picture.

    Raises:
        InputError: If an axis has no cell, or there would be more than `MAX_NODES` nodes.

    Example:
        The mesh interpolates every affine function exactly.

        >>> mesh = Mesh((4, 2))
        >>> mesh.shape, mesh.n_nodes, mesh.n_simplices
        ((5, 3), 15, 16)
        >>> nodes = mesh.nodes()
        >>> values = (2 * nodes[:, 0] - nodes[:, 1]).reshape(mesh.shape)
        >>> mesh.interpolate(values, torch.tensor([[0.3, 0.9]], dtype=torch.float64))
        tensor([-0.3000], dtype=torch.float64)
    """

    cells: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.cells or any(n < 1 for n in self.cells):
            raise InputError(f"a mesh needs at least one cell along every axis, got cells={self.cells}")
        if self.n_nodes > MAX_NODES:
            raise InputError(
                f"a mesh of {'×'.join(map(str, self.cells))} cells has {self.n_nodes:,} nodes, more than the limit of"
                f" {MAX_NODES:,}; choose a lower resolution"
            )

    @property
    def z(self) -> int:
        """Number of axes."""
        return len(self.cells)

    @property
    def shape(self) -> tuple[int, ...]:
        """Nodes per axis, ``cells + 1``: the shape of an array of nodal values."""
        return tuple(n + 1 for n in self.cells)

    @property
    def n_nodes(self) -> int:
        """Number of nodes, ``prod(cells + 1)``."""
        return math.prod(self.shape)

    @property
    def n_simplices(self) -> int:
        """Number of simplices, ``prod(cells) · z!``."""
        return math.prod(self.cells) * math.factorial(self.z)

    @property
    def strides(self) -> tuple[int, ...]:
        """Step in the flat (C order) node index for one step along each axis."""
        return tuple(math.prod(self.shape[k + 1 :]) for k in range(self.z))

    def indices(self) -> Int64[Tensor, "nodes z"]:
        """Return the integer coordinates ``i`` of every node, in C order of `shape`."""
        return torch.cartesian_prod(*(torch.arange(m) for m in self.shape)).reshape(-1, self.z)

    def nodes(self) -> Float64[Tensor, "nodes z"]:
        """Return the coordinates ``i / cells`` of every node, in C order of `shape`."""
        return self.indices().double() / torch.tensor(self.cells, dtype=torch.float64)

    def locate(
        self, h: Float64[Tensor, "points z"]
    ) -> tuple[Int64[Tensor, "points vertices"], Float64[Tensor, "points vertices"]]:
        """Find the simplex of each point: its ``z + 1`` vertices and the barycentric weights.

        Args:
            h: Points in [0, 1]^z, shape ``[points, z]``. Points outside are an error, not extrapolated.

        Returns:
            Flat node indices and weights, both ``[points, z + 1]``. Weights are ≥ 0 and sum to 1. On a shared face any
            of the neighbouring simplices may be returned; the interpolant is the same.

        Raises:
            InputError: If ``h`` has the wrong width, or a coordinate is outside [0, 1] or NaN.

        Cost:
            One sort of ``z`` numbers a point.
        """
        if h.ndim != 2 or h.shape[1] != self.z:
            raise InputError(f"points of this mesh have shape [points, {self.z}], got {tuple(h.shape)}")
        if not bool(((h >= 0) & (h <= 1)).all()):
            bad = h[~((h >= 0) & (h <= 1)).all(dim=1)][0].tolist()
            raise InputError(f"points must lie in [0, 1]^{self.z}, got {bad}; rescale them to the unit box")
        cells = torch.tensor(self.cells, dtype=torch.float64)
        scaled = h * cells
        corner = torch.minimum(scaled.floor(), cells - 1)
        fraction, order = (scaled - corner).sort(dim=1, descending=True, stable=True)
        strides = torch.tensor(self.strides)
        first = (corner.long() * strides).sum(dim=1, keepdim=True)
        steps = strides[order].cumsum(dim=1)
        ones, zeros = (
            torch.ones_like(first, dtype=torch.float64),
            torch.zeros_like(first, dtype=torch.float64),
        )
        weights = torch.cat([ones, fraction], 1) - torch.cat([fraction, zeros], 1)
        return torch.cat([first, first + steps], dim=1), weights

    def interpolate(self, values: Float64[Tensor, "..."], h: Float64[Tensor, "points z"]) -> Float64[Tensor, "..."]:
        """Evaluate the P1 interpolant of nodal values.

        Args:
            values: Nodal values, shape `shape`, or `shape` followed by a channel dimension.
            h: Points in [0, 1]^z, shape ``[points, z]``.

        Returns:
            Values at the points, ``[points]`` or ``[points, channels]``.

        Raises:
            InputError: If the values do not fit the mesh, or the points are outside the box.
        """
        flat = self.flatten(values)
        vertices, weights = self.locate(h)
        if flat.ndim == 2:
            return torch.einsum("pv,pvc->pc", weights, flat[vertices])
        return (weights * flat[vertices]).sum(dim=1)

    def flatten(self, values: Float64[Tensor, "..."]) -> Float64[Tensor, "..."]:
        """Check that an array holds one value (or one row of channels) a node and flatten the axes of the mesh."""
        if tuple(values.shape[: self.z]) != self.shape or values.ndim > self.z + 1:
            raise InputError(
                f"nodal values must have shape {self.shape} or {(*self.shape, 'channels')}, got {tuple(values.shape)}"
            )
        return values.reshape(self.n_nodes, *values.shape[self.z :])

    def paths(self) -> Int64[Tensor, "simplices_per_cell vertices z"]:
        """Return the ``z!`` simplices of the unit cube as paths of corners from (0, …, 0) to (1, …, 1)."""
        orders = torch.tensor(list(itertools.permutations(range(self.z))))
        steps = torch.nn.functional.one_hot(orders, self.z).cumsum(dim=1)
        return torch.cat([torch.zeros(len(orders), 1, self.z, dtype=torch.int64), steps], dim=1)

    def simplices(self) -> Int64[Tensor, "simplices vertices"]:
        """Return the flat node indices of every simplex, cell by cell in C order, ``z!`` simplices a cell."""
        corners = torch.cartesian_prod(*(torch.arange(n) for n in self.cells)).reshape(-1, self.z)
        strides = torch.tensor(self.strides)
        return ((corners @ strides)[:, None, None] + (self.paths() @ strides)[None]).reshape(-1, self.z + 1)

    def edges(self) -> Int64[Tensor, "edges 2"]:
        """Return the flat node indices of every edge once: ``i`` to ``i + e_S`` for each non-empty axis set S."""
        grid = torch.arange(self.n_nodes).reshape(self.shape)
        found = []
        for subset in _subsets(self.z):
            start = grid[tuple(slice(None, -1) if k in subset else slice(None) for k in range(self.z))].reshape(-1)
            found.append(torch.stack([start, start + sum(self.strides[k] for k in subset)], dim=1))
        return torch.cat(found)

    @property
    def depth(self) -> int:
        """How often every axis can be halved: the largest l with 2^l dividing all cells."""
        common = math.gcd(*self.cells)
        return (common & -common).bit_length() - 1

    def coarsened(self, times: int = 1) -> "Mesh":
        """Return the mesh with every axis halved ``times`` times.

        Raises:
            InputError: If the cells of an axis cannot be halved that often.
        """
        if not 0 <= times <= self.depth:
            raise InputError(f"a mesh of cells {self.cells} can be coarsened at most {self.depth} times, got {times}")
        return Mesh(tuple(n >> times for n in self.cells))

    def refined(self, times: int = 1) -> "Mesh":
        """Return the mesh with every axis doubled ``times`` times; its nodes contain the nodes of this one."""
        return Mesh(tuple(n << times for n in self.cells))

    def levels(self) -> Int64[Tensor, "..."]:
        """Return the level of every node, shape `shape`: 0 on the coarsest mesh, `depth` on the finest only."""
        level = torch.full(self.shape, self.depth)
        for coarse in range(self.depth - 1, -1, -1):
            step = 1 << (self.depth - coarse)
            level[tuple(slice(None, None, step) for _ in self.cells)] = coarse
        return level

    def surplus(self, values: Float64[Tensor, "..."]) -> Float64[Tensor, "..."]:
        """Transform nodal values to hierarchical surpluses.

        A node new on level l, with odd index set S there, is the midpoint of the edge between its two parents
        ``node − e_S`` and ``node + e_S`` of level l − 1; its surplus is ``value − (parent + parent) / 2``. Nodes of the
        coarsest mesh keep their values.

        Args:
            values: Nodal values, shape `shape` (and channels).

        Returns:
            Surpluses in the same shape. `from_surplus` is the inverse.
        """
        self.flatten(values)
        out = values.clone()
        for node, left, right in self._families():
            out[node] -= (values[left] + values[right]) / 2
        return out

    def from_surplus(self, surplus: Float64[Tensor, "..."]) -> Float64[Tensor, "..."]:
        """Transform hierarchical surpluses back to nodal values (inverse of `surplus`)."""
        self.flatten(surplus)
        out = surplus.clone()
        for node, left, right in self._families():
            out[node] += (out[left] + out[right]) / 2
        return out

    def boundary(self) -> Bool[Tensor, "..."]:
        """Return which nodes lie on the boundary of the box, shape `shape`."""
        index = self.indices()
        return ((index == 0) | (index == torch.tensor(self.cells))).any(dim=1).reshape(self.shape)

    def _families(self) -> Iterator[tuple[tuple[slice, ...], tuple[slice, ...], tuple[slice, ...]]]:
        """Yield (new nodes, left parents, right parents) as slices, level by level from coarse to fine."""
        for level in range(1, self.depth + 1):
            step = 1 << (self.depth - level)
            even, odd = slice(None, None, 2 * step), slice(step, None, 2 * step)
            left, right = slice(None, -1, 2 * step), slice(2 * step, None, 2 * step)
            for subset in _subsets(self.z):
                yield (
                    tuple(odd if k in subset else even for k in range(self.z)),
                    tuple(left if k in subset else even for k in range(self.z)),
                    tuple(right if k in subset else even for k in range(self.z)),
                )


def _subsets(z: int) -> Iterator[tuple[int, ...]]:
    """Yield every non-empty subset of the axes."""
    for size in range(1, z + 1):
        yield from itertools.combinations(range(z), size)
