"""Average a picture at the nodes of a grid: exact areas, in floating point.

On W pixels and N cells, node i sits at x = i·W/N in pixel units (pixel c covers [c, c + 1]). Its weight is spread
evenly over [x − w/2, x + w/2], w = max(1, W/N), clipped to [0, W]. Weights are ≥ 0 and sum to 1, hence no ringing. With
w = 1 (grid finer than the picture) the average of the piecewise constant picture *is* its bilinear interpolant.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

if TYPE_CHECKING:
    from scipy.sparse import csr_array


def area_weights(pixels: int, cells: int) -> "csr_array[Any, Any]":
    """Build the matrix ``[cells + 1, pixels]`` that averages a row of pixels at the nodes.

    Args:
        pixels: Pixels in the row.
        cells: Cells along it.

    Returns:
        A sparse matrix whose rows sum to 1.

    Example:
        >>> area_weights(4, 2).toarray().tolist()  # the ends see half a cell, hence one pixel
        [[1.0, 0.0, 0.0, 0.0], [0.0, 0.5, 0.5, 0.0], [0.0, 0.0, 0.0, 1.0]]
    """
    from scipy.sparse import csr_array

    centre = np.arange(cells + 1) * (pixels / cells)
    half = max(1.0, pixels / cells) / 2
    low, high = np.maximum(centre - half, 0.0), np.minimum(centre + half, pixels)
    first = np.minimum(np.floor(low), pixels - 1).astype(np.int64)
    pixel = first[:, None] + np.arange(int(np.ceil(2 * half)) + 1)
    overlap = np.clip(np.minimum(high[:, None], pixel + 1) - np.maximum(low[:, None], pixel), 0.0, None)
    overlap[pixel >= pixels] = 0.0
    overlap /= overlap.sum(axis=1, keepdims=True)
    node = np.broadcast_to(np.arange(cells + 1)[:, None], pixel.shape)
    keep = overlap > 0
    return csr_array((overlap[keep], (node[keep], pixel[keep])), shape=(cells + 1, pixels))


def average_at_nodes(
    blocks: Iterable[Float64[ndarray, "_ width channels"]], *, height: int, width: int, cells: tuple[int, ...]
) -> Float64[ndarray, "columns_nodes rows_nodes channels"]:
    """Average a picture, given in blocks of whole rows from the top, at the nodes of a grid.

    Args:
        blocks: The picture; together the blocks have ``height`` rows. Only one is held at a time.
        height: Rows of pixels.
        width: Columns of pixels.
        cells: Cells to the right and cells up.

    Returns:
        Nodal values ``[right, up, channel]``.

    Example:
        >>> block = np.array([[[1.0], [1.0]], [[0.0], [0.0]]])  # white above black
        >>> average_at_nodes([block], height=2, width=2, cells=(1, 2))[0, :, 0].tolist()
        [0.0, 0.5, 1.0]
    """
    across, down = area_weights(width, cells[0]), area_weights(height, cells[1])
    narrow = np.concatenate(  # [rows, right, channels]
        [np.stack([(across @ plane.T).T for plane in np.moveaxis(block, 2, 0)], axis=2) for block in blocks]
    )
    planes: list[ndarray] = [(down @ plane).T[:, ::-1] for plane in np.moveaxis(narrow, 2, 0)]
    values: ndarray = np.clip(np.stack(planes, axis=2), 0.0, 1.0)
    return values
