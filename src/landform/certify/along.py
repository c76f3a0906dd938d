"""Along the pattern register: what holds at nodes of the mesh, as bounds on segments of the register's values.

Where the register is small, so are its hats, and with them most of what rounds. A bound that is taken over the whole
mesh loses that; one over the edges on which the register has the value in question does not.
"""

import itertools

import numpy as np

from landform.certify.field import shifts
from landform.mesh import Mesh

BANDS = 64
"""Groups of neighbouring segments that are bounded together."""


class Along:
    """Segments of a register's values, and the edges of the mesh on which it has such values.

    Where a cell has the value τ, register and bound lie in the hull of the cell's nodes, whose upper boundary is made
    of edges: the bound is at most the largest of those at τ on some edge.

    Args:
        mesh: The mesh.
        register: Nodal values, P1 between them.
        grid: Ascending values; the segments lie between them.
        reach: How much farther than a segment an edge's values may lie and still count.
    """

    def __init__(self, mesh: Mesh, register: np.ndarray, grid: np.ndarray, reach: float) -> None:
        self.segments = len(grid) - 1
        ends = np.unique(np.linspace(0, self.segments, BANDS + 1).astype(int))
        self.bands = list(itertools.pairwise(ends))
        nodes = np.arange(mesh.n_nodes).reshape(1, *mesh.shape)
        pairs = [np.stack([nodes[a].reshape(-1), nodes[b].reshape(-1)]) for a, b in shifts(mesh)]
        self.edges = np.concatenate(pairs, axis=1)
        start, end = register[self.edges]
        low, high = np.minimum(start, end), np.maximum(start, end)
        span = np.where(start == end, 1.0, end - start)
        self.parts = []
        for first, last in self.bands:
            bottom, top = grid[first] - reach, grid[last] + reach
            found = np.flatnonzero((low <= top) & (high >= bottom))
            if not len(found):  # beyond the register's values
                found = np.arange(len(low))
            at = np.stack([np.clip(value, low[found], high[found]) - start[found] for value in (bottom, top)])
            shares = np.where(start[found] == end[found], [[0.0], [1.0]], at / span[found])
            self.parts.append((self.edges[:, found], shares))

    def most(self, values: np.ndarray) -> np.ndarray:
        """Return the largest of bounds ``[rows, nodes]``, P1 between them, on each segment: ``[rows, segments]``."""
        out = np.empty((len(values), self.segments))
        for (first, last), (edges, shares) in zip(self.bands, self.parts, strict=True):
            start, end = values[:, edges[0]], values[:, edges[1]]
            most = [(start + (end - start) * share).max(1, keepdims=True) for share in shares]
            out[:, first:last] = np.maximum(*most)
        return out


def at_nodes(values: np.ndarray) -> np.ndarray:
    """Return what holds at the ends of segments: the larger of two neighbours."""
    wide = np.concatenate([values[..., :1], values, values[..., -1:]], axis=-1)
    out: np.ndarray = np.maximum(wide[..., 1:], wide[..., :-1])
    return out


def within(grid: np.ndarray, values: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Return the largest value of the segments that meet each interval [low, high].

    Args:
        grid: Ends of the segments, ascending.
        values: One number a segment.
        low: Lower ends of the intervals.
        high: Upper ends.
    """
    first = np.clip(np.searchsorted(grid, low, "right") - 1, 0, len(values) - 1)
    last = np.clip(np.searchsorted(grid, high, "left") - 1, first, len(values) - 1)
    level = np.frexp(last - first + 1)[1] - 1
    table = [values]
    for k in range(int(level.max(initial=0))):
        before, step = table[-1], 1 << k
        table.append(np.concatenate([np.maximum(before[:-step], before[step:]), before[-step:]]))
    out = np.empty(len(low))
    for k, row in enumerate(table):
        here = level == k
        out[here] = np.maximum(row[first[here]], row[last[here] - (1 << k) + 1])
    return out
