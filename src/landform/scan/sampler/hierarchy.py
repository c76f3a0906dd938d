"""The nodes of a grid, level by level, each with the coarser nodes that it is interpolated from.

Along an axis of n cells the levels come from halving: {0, n}, then the middle of every gap, rounded down where a gap is
odd, until all nodes are in. A node of the grid is of the finest level that one of its coordinates is of. Its parents
are vertices of the Kuhn simplex of the next coarser grid that it lies in, with barycentric weights. Where the cells are
powers of two this is the hierarchy of `landform.mesh.Mesh`: two parents, the ends of the edge of which the node is the
midpoint. Any other number of cells, different along every axis, gets as deep a hierarchy.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Hierarchy:
    """Levels and parents of the nodes of a grid, in C order.

    Attributes:
        shape: Nodes along each axis.
        level: Level of each node, ``[nodes]``.
        parents: Nodes that each is interpolated from, ``[nodes, parents]``; itself on level 0.
        weights: Their weights, which sum to 1; 0 for places not needed.
        axis_levels: Level of every coordinate along each axis.

    Example:
        >>> line = build_hierarchy((4,))
        >>> line.level.tolist(), line.parents[1].tolist(), line.weights[1].tolist()
        ([0, 1, 2, 0], [0, 3], [0.6666..., 0.3333...])
    """

    shape: tuple[int, ...]
    level: Int64[Tensor, " nodes"]
    parents: Int64[Tensor, "nodes parents"]
    weights: Float64[Tensor, "nodes parents"]
    axis_levels: tuple[Int64[Tensor, "_"], ...]

    @property
    def depth(self) -> int:
        """The finest level."""
        return int(self.level.max())

    def subgrid(self, level: int) -> Int64[Tensor, "..."]:
        """Return the flat indices of the nodes of levels up to ``level``, in the shape of the grid that they form."""
        grid = torch.arange(len(self.level)).reshape(self.shape)
        for axis, levels in enumerate(self.axis_levels):
            grid = grid.index_select(axis, (levels <= level).nonzero()[:, 0])
        return grid

    def fill(self, values: Tensor, known: Bool[Tensor, " nodes"]) -> Tensor:
        """Interpolate the nodes that are not known from their parents, from coarse to fine.

        Args:
            values: Shape ``[nodes, …]``.
            known: Which of them stand.

        Returns:
            All values; NaN where a parent is not finite.
        """
        out = values.clone()
        for level in range(1, self.depth + 1):
            nodes = ((self.level == level) & ~known).nonzero()[:, 0]
            if len(nodes):
                out[nodes] = self.interpolate(out, nodes)
        return out

    def interpolate(self, values: Tensor, nodes: Int64[Tensor, " some"]) -> Tensor:
        """Interpolate values at nodes from their parents; NaN where a parent that has weight is not finite."""
        total = torch.zeros_like(values[nodes])
        for k in range(self.parents.shape[1]):
            weight = self.weights[nodes, k].reshape(-1, *[1] * (values.ndim - 1)).to(values.dtype)
            value = values[self.parents[nodes, k]]
            total += torch.where(weight > 0, weight * torch.where(torch.isfinite(value), value, torch.nan), 0.0)
        return total


def build_hierarchy(shape: Sequence[int]) -> Hierarchy:
    """Build levels, parents and weights for a grid of any shape.

    Args:
        shape: Nodes along each axis, at least 2.

    Returns:
        The hierarchy.

    Example:
        >>> build_hierarchy((5, 3)).level.reshape(5, 3).tolist()
        [[0, 1, 0], [2, 2, 2], [1, 1, 1], [2, 2, 2], [0, 1, 0]]
    """
    z = len(shape)
    lines = [_halve(n - 1) for n in shape]
    index = torch.cartesian_prod(*(torch.arange(n) for n in shape)).reshape(-1, z)
    own = torch.stack([lines[k][0][index[:, k]] for k in range(z)], 1)
    level = own.amax(1)
    new = own == level[:, None]
    left = torch.where(new, torch.stack([lines[k][1][index[:, k]] for k in range(z)], 1), index)
    right = torch.where(new, torch.stack([lines[k][2][index[:, k]] for k in range(z)], 1), index)
    fraction = (index - left).double() / (right - left).clamp_min(1)
    fraction, order = fraction.sort(dim=1, descending=True, stable=True)
    strides = torch.tensor([int(torch.tensor(shape[k + 1 :]).prod()) for k in range(z)])
    steps = ((right - left) * strides).gather(1, order).cumsum(1)
    first = (left * strides).sum(1, keepdim=True)
    ones, zeros = torch.ones_like(first).double(), torch.zeros_like(first).double()
    weights = torch.cat([ones, fraction], 1) - torch.cat([fraction, zeros], 1)
    weights, order = weights.sort(dim=1, descending=True, stable=True)
    parents = torch.cat([first, first + steps], 1).gather(1, order)
    root = level == 0
    parents[root] = torch.arange(len(level))[root, None]
    weights[root] = torch.eye(1, z + 1).double()
    most = int((weights > 0).sum(1).max())
    return Hierarchy(
        tuple(shape),
        level,
        parents[:, :most].contiguous(),
        weights[:, :most].contiguous(),
        tuple(line[0] for line in lines),
    )


def coarse_first(shape: Sequence[int]) -> Int64[Tensor, " nodes"]:
    """Return the nodes of a grid level by level, those of a level in C order.

    Wherever a scan that goes in this order is stopped, it has covered the whole box, with gaps half as wide for every
    level that it got through.

    Args:
        shape: Nodes along each axis, at least 2.

    Returns:
        A permutation of the flat indices.

    Example:
        >>> coarse_first((3, 3)).tolist()
        [0, 2, 6, 8, 1, 3, 4, 5, 7]
    """
    level = torch.zeros(1, dtype=torch.int64)
    for nodes in shape:
        level = torch.maximum(level[:, None], _halve(nodes - 1)[0]).reshape(-1)
    return level.argsort(stable=True)


def _halve(cells: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return level, left and right parent of the nodes 0 … cells of a line."""
    level, left = torch.zeros(cells + 1, dtype=torch.int64), torch.arange(cells + 1)
    right = left.clone()
    gaps, depth = [(0, cells)], 0
    while gaps:
        depth += 1
        finer = []
        for a, b in gaps:
            middle = (a + b) // 2
            if a < middle < b:
                level[middle], left[middle], right[middle] = depth, a, b
                finer += [(a, middle), (middle, b)]
        gaps = finer
    return level, left, right


def box_mean(values: Tensor, present: Tensor, radius: int) -> Tensor:
    """Average what is present within ``radius`` grid steps along every axis.

    Args:
        values: A grid of numbers.
        present: 1 where there is one, else 0.
        radius: Steps to each side.

    Returns:
        The mean around each place; 0 where nothing is present.

    Example:
        >>> box_mean(torch.tensor([1.0, 2.0, 6.0]), torch.tensor([1.0, 1.0, 1.0]), 1).tolist()
        [1.5, 3.0, 4.0]
    """
    total, count = values * present, present
    for axis in range(values.ndim):
        total, count = _box_sum(total, axis, radius), _box_sum(count, axis, radius)
    return total / count.clamp_min(1)


def box_max(values: Tensor, radius: int = 1) -> Tensor:
    """Return the largest value within ``radius`` grid steps along every axis."""
    for axis in range(values.ndim):
        for _ in range(radius):
            ahead = torch.cat([values.narrow(axis, 1, values.shape[axis] - 1), values.narrow(axis, -1, 1)], axis)
            behind = torch.cat([values.narrow(axis, 0, 1), values.narrow(axis, 0, values.shape[axis] - 1)], axis)
            values = torch.maximum(values, torch.maximum(ahead, behind))
    return values


def _box_sum(values: Tensor, axis: int, radius: int) -> Tensor:
    size = values.shape[axis]
    sums = torch.cat([torch.zeros_like(values.narrow(axis, 0, 1)), values.cumsum(axis)], axis)
    place = torch.arange(size)
    upper = sums.index_select(axis, (place + radius + 1).clamp_max(size))
    return upper - sums.index_select(axis, (place - radius).clamp_min(0))
