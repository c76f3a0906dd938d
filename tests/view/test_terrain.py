"""Reliefs hide what is behind: the painter's order against a search for the nearest triangle at each point."""

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib import pyplot as plt

from landform.mesh import Mesh
from landform.view.terrain import Terrain, paint_order, viewer

mpl.use("Agg")
VIEWS = [(55, -76), (25, 20), (12, 160), (3, -135), (80, 45), (90, -90), (30, 0), (-20, 70)]


def axes(x, y, heights, view, kind):
    ax = plt.figure().add_subplot(projection="3d", proj_type=kind)
    ax.set(xlim=(x[0], x[-1]), ylim=(y[0], y[-1]), zlim=(heights.min(), heights.max()))
    ax.set_box_aspect((1, 0.8, 0.6))
    ax.view_init(*view)
    return ax


def on_screen(matrix, points):
    seen = np.concatenate([points, np.ones_like(points[..., :1])], -1) @ matrix.T
    return seen[..., :3] / seen[..., 3:]


def nearest_at(seen, point):
    """Return the triangle whose depth is least at a point of the screen, by looking at all; None near an edge."""
    found = {}
    for number, corners in enumerate(seen):
        edges = np.stack([corners[1] - corners[0], corners[2] - corners[0]], 1)
        if abs(np.linalg.det(edges[:2])) < 1e-9:
            continue
        weights = np.linalg.solve(edges[:2], point - corners[0, :2])
        inside = min(*weights, 1 - weights.sum())
        if abs(inside) < 1e-3:
            return None, found
        if inside > 0:
            found[number] = corners[0, 2] + edges[2] @ weights
    return min(found, key=found.__getitem__, default=None), found


@pytest.mark.parametrize("kind", ["persp", "ortho"])
@pytest.mark.parametrize("view", VIEWS)
def test_the_last_triangle_painted_at_a_point_is_the_nearest(view, kind):
    draw = np.random.default_rng(0)
    x, y = np.array([-1.0, -0.6, 0.5, 0.7, 1.0]), np.array([0.0, 100.0, 150.0, 400.0])
    heights = 5 * draw.random((5, 4)) ** 3
    triangles = Mesh((4, 3)).simplices().numpy()
    nodes = np.stack([*np.meshgrid(x, y, indexing="ij"), heights], -1).reshape(-1, 3)
    ax = axes(x, y, heights, view, kind)
    try:
        matrix = ax.get_proj()
    finally:
        plt.close(ax.figure)
    corners = nodes[triangles]
    cells = np.stack(np.unravel_index(triangles.min(1), (5, 4)))
    rank = np.argsort(paint_order(matrix, (x, y), cells, corners[..., :2]))
    seen = on_screen(matrix, corners)
    checked = 0
    for weights in draw.dirichlet((1, 1, 1), 8):
        for point in np.tensordot(weights, seen, (0, 1))[:, :2]:
            nearest, found = nearest_at(seen, point)
            if nearest is not None and len(found) > 1:
                assert max(found, key=lambda number: rank[number]) == nearest
                checked += 1
    assert checked > 10 or view[0] >= 80  # from above, hardly anything is hidden


def test_a_wall_hides_the_ground_behind_it():
    """The foot of a wall is as deep as its middle, so that by mean depth it would be painted first."""
    line = np.linspace(0, 1, 41)
    heights = np.zeros((41, 41))
    heights[:, 10:12] = 1.0
    triangles = Mesh((40, 40)).simplices().numpy()
    y = np.meshgrid(line, line, indexing="ij")[1].reshape(-1)[triangles]
    colours = np.where((y.max(1) > 0.3)[:, None], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0])  # behind the wall, blue
    ax = axes(line, line, heights, (55, -90), "persp")
    try:
        drawn = Terrain(line, line, heights, triangles, colours, linewidths=0.5)
        ax.add_collection3d(drawn)
        ax.set_axis_off()
        ax.figure.canvas.draw()
        image = np.asarray(ax.figure.canvas.buffer_rgba())[..., :3].astype(int)
        for height in np.linspace(0.1, 0.9, 9):
            place = on_screen(ax.get_proj(), np.array([0.5, 0.225 + 0.025 * height, height]))  # on its front
            column, row = ax.transData.transform(place[:2])
            red, _, blue = image[image.shape[0] - 1 - int(row), int(column)]
            assert red > 200 > 100 > blue, (height, red, blue)
        assert int((image[..., 2] > image[..., 0] + 100).sum()) > 100  # and what is not hidden is there
    finally:
        plt.close(ax.figure)


def test_the_viewer_stands_where_sights_meet():
    line = np.linspace(-2.0, 2.0, 5)
    heights = np.zeros((5, 5))
    heights[2, 2] = 1.0
    ax = axes(line, line, heights, (0, 0), "persp")
    try:
        near = viewer(ax.get_proj(), (line, line))
        ax.set_proj_type("ortho")
        far = viewer(ax.get_proj(), (line, line))
    finally:
        plt.close(ax.figure)
    assert near[0] > 20 > 2 > abs(near[1])
    assert far[0] > 1e6
    assert abs(far[1]) < 1e-3 * far[0]
