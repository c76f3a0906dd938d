"""Triangles over a grid, painted from the back to the front as seen over the ground, so that walls hide what is behind.

The usual painter's order goes by the mean depth of each triangle. The foot of a tall wall is then as deep as its
middle, and comes before the low ground behind it: rims show through walls. Over a grid the right order is known: a line
of sight, looked at from above, crosses the cells outwards from the viewer, and a cell hides only those further out.
"""

from typing import Any

import numpy as np
from matplotlib.collections import PolyCollection
from numpy.typing import NDArray

from landform.view.read import Floats

FAR = 1e6
"""Distance, in widths of the grid, from which on sights are parallel."""


class Terrain(PolyCollection):
    """Triangles of a height field in 3-D axes.

    Args:
        x: Coordinates of the nodes along the first axis.
        y: Along the second.
        heights: Height of every node, ``[x, y]``.
        triangles: Flat indices of three nodes each, ``[triangles, 3]``, two a cell or fewer.
        colours: Colour of every triangle, ``[triangles, 3]``.
    """

    def __init__(
        self, x: Floats, y: Floats, heights: Floats, triangles: NDArray[np.int64], colours: Floats, **options: Any
    ) -> None:
        nodes = np.stack([*np.meshgrid(x, y, indexing="ij"), heights], axis=-1).reshape(-1, 3)
        self._lines = (x, y)
        self._corners = nodes[triangles]
        self._cells = np.stack(np.unravel_index(triangles.min(axis=1), (len(x), len(y))))
        self._colours: Any = colours
        super().__init__([], facecolors=colours, edgecolors=colours, **options)

    def do_3d_projection(self) -> float:
        """Bring the triangles into order and to the screen; 3-D axes call it before they draw.

        Returns:
            The depth of the nearest corner.
        """
        if not len(self._corners):
            return float("nan")
        axes: Any = self.axes
        matrix: Floats = axes.M
        order = paint_order(matrix, self._lines, self._cells, self._corners[..., :2])
        homogeneous = np.concatenate([self._corners, np.ones_like(self._corners[..., :1])], axis=-1) @ matrix.T
        seen: Any = homogeneous[..., :3] / homogeneous[..., 3:]
        self.set_verts(seen[order, :, :2])
        self.set_facecolor(self._colours[order])
        self.set_edgecolor(self._colours[order])
        return float(seen[..., 2].min())


def paint_order(
    matrix: Floats, lines: tuple[Floats, Floats], cells: NDArray[np.int64], corners: Floats
) -> NDArray[np.int64]:
    """Return the triangles of a grid from the furthest to the nearest, as the viewer's place on the ground has it.

    Args:
        matrix: The projection, 4×4, of 3-D axes.
        lines: Coordinates of the nodes along both axes.
        cells: Cell of each triangle, ``[2, triangles]``.
        corners: Where its corners are on the ground, ``[triangles, 3, 2]``.

    Returns:
        Their order.

    Example:
        A viewer far away at y = −∞ is shown the cell of the larger y first.

        >>> matrix = np.array([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 1]])
        >>> line = np.array([0.0, 1.0, 2.0])
        >>> cells = np.array([[0, 0], [0, 1]])
        >>> corners = np.array([[[0, 0], [1, 0], [1, 1]], [[0, 1], [1, 1], [1, 2]]], dtype=np.float64)
        >>> paint_order(matrix, (line, line), cells, corners).tolist()
        [1, 0]
    """
    place = viewer(matrix, lines)
    away = np.zeros(cells.shape[1])
    triangle, seen_from = [], []  # in widths of the triangle's cell, whose diagonal is where both coordinates agree
    for axis, (line, cell) in enumerate(zip(lines, cells, strict=True)):
        low, high = line[cell], line[cell + 1]
        # 0 in the viewer's own row, however wide: every step along a sight then leads further away
        away += np.maximum(np.maximum(low - place[axis], place[axis] - high), 0.0) / np.ptp(line)
        triangle.append((corners[..., axis].mean(axis=1) - low) / (high - low))
        seen_from.append((place[axis] - low) / (high - low))
    near = (triangle[0] - triangle[1]) * np.sign(seen_from[0] - seen_from[1])
    order: NDArray[np.int64] = np.lexsort((near, -away))
    return order


def viewer(matrix: Floats, lines: tuple[Floats, Floats]) -> Floats:
    """Return the place on the ground below (or above) the viewer: the centre of the projection.

    Where sights are parallel it is infinitely far; then a place `FAR` away in its direction.

    Example:
        >>> matrix = np.array([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, 1, 0, 0], [0, 1, 0, 5]])
        >>> viewer(matrix, (np.array([0.0, 1.0]), np.array([0.0, 1.0]))).tolist()
        [0.0, -5.0]
    """
    centre = np.linalg.solve(matrix, [0.0, 0.0, 1.0, 0.0])  # it has no place on the screen, and depth only
    start, width = (np.array([part(line) for line in lines]) for part in (np.min, np.ptp))
    scaled = (centre[:2] - start * centre[3]) / width
    size = float(np.abs(scaled).max())
    if size < FAR * abs(centre[3]):
        return np.asarray(start + width * scaled / centre[3])
    return np.asarray(start + width * (0.5 - FAR * scaled / max(size, 1e-300)))  # depth grows away from the viewer
