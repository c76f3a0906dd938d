"""The path of an optimiser over a map: where each checkpoint falls on the plane, and how far off it lies."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from landform.errors import InputError
from landform.view.heat import heat
from landform.view.read import Floats
from landform.view.style import QUIET, below, quiet_style

if TYPE_CHECKING:
    import matplotlib.axes
    import xarray

NEAR, FAR = "#ffffff", "#2aa9e0"
"""Colours of a checkpoint on the plane and of the farthest from it: neither is in the colours of losses."""


@dataclass(frozen=True, eq=False)
class Path:
    """Checkpoints projected on a plane.

    Attributes:
        coordinates: Shape ``[steps, z]``.
        off_plane: Distance of each from the plane, in the same length as the coordinates' directions are measured in
            parameter space (a Euclidean norm of parameters), ``[steps]``; None where it is not known.
    """

    coordinates: Floats
    off_plane: Floats | None


def path_of(path: Any) -> Path:
    """Read a path from whatever holds one.

    Args:
        path: Coordinates ``[steps, z]``; a pair of coordinates and distances ``[steps]``; a dataset with variables
            ``h1``, ``h2``, … and ``off_plane``; a surface that has a path in its attributes; or an object with
            attributes ``coordinates`` and ``off_plane``, such as what `landform.project` returns.

    Returns:
        The path.

    Raises:
        InputError: If the shapes are others, or there is no step.

    Example:
        >>> path_of(([[0.0, 1.0], [0.5, 0.0]], [0.1, 0.0])).off_plane.tolist()
        [0.1, 0.0]
    """
    off: Any = None
    if hasattr(path, "data_vars") and "loss" in path.variables:
        if "path" not in path.attrs:
            raise InputError(
                "the plane of this surface was not made from checkpoints; pass their path, e.g. lf.project(…)"
            )
        coordinates: Any = path.attrs["path"]
        off = path.attrs.get("off_plane")
    elif hasattr(path, "data_vars"):
        held = [str(name) for name in path.variables]
        names = sorted((name for name in held if _is_coordinate(name)), key=lambda name: int(name[1:]))
        if not names:
            raise InputError(f"a path has variables h1, h2, …; this dataset has {', '.join(held)}")
        coordinates = np.stack([np.asarray(path[name].values, dtype=np.float64) for name in names], axis=-1)
        off = path["off_plane"].values if "off_plane" in path else None
    elif hasattr(path, "coordinates"):
        coordinates, off = path.coordinates, getattr(path, "off_plane", None)
    elif isinstance(path, tuple) and len(path) == 2 and np.ndim(path[0]) == 2:
        coordinates, off = path
    else:
        coordinates = path
    try:
        points = np.asarray(coordinates, dtype=np.float64)
        distances = None if off is None else np.asarray(off, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"a path is an array of shape [steps, z], got {type(path).__name__}") from error
    if points.ndim != 2 or not len(points):
        raise InputError(f"a path has coordinates of shape [steps, z], at least one step; got {list(points.shape)}")
    if distances is not None and distances.shape != (len(points),):
        raise InputError(f"there are {list(distances.shape)} distances from the plane for {len(points)} steps")
    return Path(points, distances)


def draw_path(
    ax: "matplotlib.axes.Axes", path: Any, *, colour: str = "white", label: str | None = None
) -> "matplotlib.axes.Axes":
    """Draw a path over a map that is there already.

    A line joins the checkpoints; the first is an open circle, the last a star. The farther a checkpoint is from the
    plane, the larger and the bluer its marker, with a legend: there the colour of the map below says little about the
    loss of that checkpoint.

    Args:
        ax: Axes with a map over two coordinates, or a profile over one (then small ticks at the foot).
        path: See `path_of`.
        colour: Of the line.
        label: For the legend.

    Returns:
        The axes.

    Raises:
        InputError: If the path has other coordinates than two.
    """
    import matplotlib as mpl
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.lines import Line2D
    from matplotlib.patheffects import Stroke, withStroke

    found = path_of(path)
    if found.coordinates.shape[1] != 2:
        raise InputError(f"a map has two coordinates, the path has {found.coordinates.shape[1]}")
    x, y = found.coordinates.T
    ends = ax.get_xlim(), ax.get_ylim()
    halo = [withStroke(linewidth=2.4, foreground="black", alpha=0.55)]
    ax.plot(x, y, color=colour, linewidth=1.2, zorder=4, path_effects=halo, label="_path")
    share, top = _shares(found.off_plane, len(x))
    shades = LinearSegmentedColormap.from_list("distance", [NEAR, FAR])
    sizes = 10.0 + 60.0 * share
    ax.scatter(x, y, s=sizes, c=shades(share), edgecolors="black", linewidths=0.5, zorder=5, label="_path")
    ax.scatter(x[:1], y[:1], s=55 + sizes[:1], facecolors="none", edgecolors="white", linewidths=1.2, zorder=6,
               path_effects=[Stroke(linewidth=2.2, foreground="black"), mpl.patheffects.Normal()])  # fmt: skip
    ax.plot(x[-1:], y[-1:], marker="*", markersize=12, color="#ffd23f", markeredgecolor="black", zorder=7, linestyle="")
    ax.set(xlim=ends[0], ylim=ends[1])
    line: dict[str, Any] = {"color": colour, "markeredgecolor": "black", "linestyle": ""}
    handles = [
        Line2D([], [], marker="o", markerfacecolor="none", markersize=7, label="first", **line),
        Line2D([], [], marker="*", markersize=10, label="last", **{**line, "color": "#ffd23f"}),
    ]
    if found.off_plane is not None:
        for part in (0.0, 1.0):
            look = {**line, "color": shades(part), "markeredgewidth": 0.5}
            text = f"{part * top:.3g}" if part else "0 off the plane"
            handles.append(Line2D([], [], marker="o", markersize=(10 + 60 * part) ** 0.5, label=text, **look))
    outside = int(((x < ends[0][0]) | (x > ends[0][1]) | (y < ends[1][0]) | (y > ends[1][1])).sum())
    title = " · ".join([*([label] if label else []), *([f"{outside} of {len(x)} outside"] if outside else [])])
    before = ax.get_legend()
    down = 36.0 if before is None else 36.0 + 14.0 * len(before.get_texts())
    place: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (0.0, 0.0), "bbox_transform": below(ax, down)}
    look = {"labelcolor": QUIET, "columnspacing": 1.0, "handletextpad": 0.3, "alignment": "left", "title_fontsize": 8}
    legend = ax.legend(handles=handles, title=title or None, ncols=len(handles), borderaxespad=0.0, **look, **place)
    if before is not None:
        ax.add_artist(before)
    legend.set_in_layout(True)
    return ax


def trajectory(
    surface: "xarray.Dataset", path: Any, *, ax: "matplotlib.axes.Axes | None" = None, **options: Any
) -> "matplotlib.axes.Axes":
    """Draw a heat map with the path of an optimiser over it.

    Args:
        surface: A surface over two coordinates.
        path: The checkpoints on the same plane; see `path_of`.
        ax: Where to draw; a new figure by default.
        **options: Those of `landform.view.heat`.

    Returns:
        The axes.

    Raises:
        InputError: If surface and path do not have two coordinates each.

    Example:
        >>> import xarray as xr
        >>> values = xr.DataArray([[0.0, 1.0], [2.0, 3.0]], dims=("h1", "h2"), coords={"h1": [0, 1], "h2": [0, 1]})
        >>> ax = trajectory(values.to_dataset(name="loss"), [[1.0, 1.0], [0.5, 0.25], [0.0, 0.0]])
        >>> ax.lines[0].get_xydata().tolist()
        [[1.0, 1.0], [0.5, 0.25], [0.0, 0.0]]
    """
    path_of(path)
    with quiet_style():
        return draw_path(heat(surface, ax=ax, **options), path)


def _is_coordinate(name: str) -> bool:
    return name[:1] == "h" and name[1:].isdigit()


def _shares(off: Floats | None, steps: int) -> tuple[NDArray[np.float64], float]:
    """Return each distance as a share of the largest, and the largest."""
    if off is None:
        return np.zeros(steps), 0.0
    top = float(np.nanmax(off, initial=0.0))
    return np.nan_to_num(off / top if top > 0 else np.zeros(steps), nan=1.0), top
