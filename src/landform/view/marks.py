"""What a node's colour does not tell: that it is not finite, was not measured, or was interpolated."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from landform.view.read import Floats, edges
from landform.view.style import QUIET, below

if TYPE_CHECKING:
    import matplotlib.axes
    import xarray

MAX_DOTS = 5000
"""More dots than this are a grey veil; the note alone then says how many nodes were measured."""
_GAP: dict[str, Any] = {"facecolor": "#e3e5e8", "edgecolor": "#8a919a", "hatch": "////", "linewidth": 0.0}
_EMPTY: dict[str, Any] = {"facecolor": "#f1f2f4", "edgecolor": "#f1f2f4", "linewidth": 0.0}
_MISSING: dict[str, Any] = {"facecolor": "#ffffff", "edgecolor": "#c3c8ce", "hatch": "....", "linewidth": 0.0}


def mark_nodes(
    ax: "matplotlib.axes.Axes",
    x: Floats,
    y: Floats,
    values: Floats,
    status: NDArray[np.int64] | None,
    *,
    dots: bool | None = None,
    notes: bool = True,
    blank: str = "",
    known: str = "",
) -> None:
    """Hatch what is not finite, dot what was never reached, and put a point on every measured node among others.

    Args:
        ax: Axes that hold a map of ``values``.
        x: Coordinates of the first dim.
        y: Coordinates of the second.
        values: ``[x, y]``.
        status: ``[x, y]``, 0 measured, 1 interpolated, 2 missing, 3 not finite; None takes all finite values to be
            measured.
        dots: Whether to draw the points; None: where some nodes are interpolated, and the measured are not too many.
        notes: Whether to say below the map what the marks mean and how many there are.
        blank: What it means when an interpolated node has no value; not finite by default.
        known: A line more, such as how sure the values are.
    """
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    gaps, total = ~np.isfinite(values), values.size
    missing = gaps & (status == 2) if status is not None else np.zeros_like(gaps)
    empty = gaps & (status == 1) if status is not None and blank else np.zeros_like(gaps)
    handles: list[Any] = []
    kinds = (
        (gaps & ~missing & ~empty, _GAP, "not finite"),
        (missing, _MISSING, "not measured"),
        (empty, _EMPTY, blank),
    )
    several = sum(bool(where.any()) for where, _, _ in kinds) > 1
    for where, look, word in kinds:
        if where.any():
            _fill(ax, x, y, where if several else None, look)
            handles.append(Patch(label=f"{word}: {int(where.sum())} of {total} nodes", **look))
    interpolated = (status == 1) if status is not None else np.zeros_like(gaps)
    measured = ~interpolated & ~gaps
    if dots is not False and interpolated.any() and not empty.any():
        shown = int(measured.sum())
        if dots or shown <= MAX_DOTS:
            _dots(ax, x, y, measured)
        look = {"marker": "o", "linestyle": "", "markersize": 3.5, "color": "#7a828c"}
        text = f"measured: {shown:,} of {total:,} nodes, the others interpolated"
        handles.append(Line2D([], [], label=text, **look))
    if known:
        handles.append(Line2D([], [], label=known, marker="_", linestyle="", markersize=6, color="#7a828c"))
    if handles and notes:
        place: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (0.0, 0.0), "bbox_transform": below(ax)}
        ax.legend(handles=handles, borderaxespad=0.0, labelcolor=QUIET, handletextpad=0.6, **place)


def status_of(surface: "xarray.Dataset", names: tuple[str, ...]) -> NDArray[np.int64] | None:
    """Return the status of every node with the dims in the given order, or None where there is none."""
    if "status" not in surface or set(surface["status"].dims) != set(names):
        return None
    return np.asarray(surface["status"].transpose(*names).values, dtype=np.int64)


def _fill(ax: "matplotlib.axes.Axes", x: Floats, y: Floats, where: Any, look: dict[str, Any]) -> None:
    """Put a hatched ground under the map, cell by cell if there are two kinds of gaps."""
    from matplotlib.collections import PatchCollection
    from matplotlib.patches import Rectangle

    left, bottom = edges(x), edges(y)
    if where is None:
        corner = (float(left[0]), float(bottom[0]))
        ax.add_patch(Rectangle(corner, float(np.ptp(left)), float(np.ptp(bottom)), zorder=-1, **look))
        return
    cells = [
        Rectangle((left[i], bottom[j]), left[i + 1] - left[i], bottom[j + 1] - bottom[j])
        for i, j in zip(*np.nonzero(where), strict=True)
    ]
    ax.add_collection(PatchCollection(cells, zorder=-1, **look), autolim=False)


def _dots(ax: "matplotlib.axes.Axes", x: Floats, y: Floats, measured: NDArray[np.bool_]) -> None:
    """Draw a point on each measured node, smaller the more there are, readable on dark and on bright cells."""
    i, j = np.nonzero(measured)
    size = float(np.clip(500 / max(len(i), 1), 0.5, 7.0))
    look: dict[str, Any] = {"s": size, "color": "white", "edgecolors": "black", "linewidths": 0.15 * size**0.5}
    ax.scatter(x[i], y[j], zorder=3, rasterized=len(i) > 1000, **look)
