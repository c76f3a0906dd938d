"""A surface over two coordinates as a lit landscape of the mesh's own triangles."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from landform.errors import InputError
from landform.mesh import Mesh
from landform.view.read import Floats, axes_of, limits, variable_of
from landform.view.style import CMAP, axis_label, new_figure, plain, quiet_style, variable_label

if TYPE_CHECKING:
    import matplotlib.axes
    import xarray

MAX_NODES_AN_AXIS = 129
"""More make no visible difference at a figure's size and take seconds to draw; every 2nd, 3rd, … node is taken then."""


def relief(
    surface: "xarray.Dataset",
    *,
    variable: str = "loss",
    channel: int | None = None,
    ax: "matplotlib.axes.Axes | None" = None,
    cmap: str = CMAP,
    colours: Floats | None = None,
    height: float | None = None,
    log: bool = False,
    view: tuple[float, float] = (55.0, -76.0),
    title: str | None = None,
) -> "matplotlib.axes.Axes":
    """Draw a 3-D relief.

    Each triangle of the Kuhn mesh (on which an imprint's surface is linear) has the colour of its mean height, lit from
    the upper left.

    Args:
        surface: A surface over two coordinates.
        variable: What to draw; ``"loss"`` by default.
        channel: Which head, where there are several.
        ax: 3-D axes to draw in; a new figure by default.
        cmap: A matplotlib colour map.
        colours: Colours of the nodes, ``[nodes_1, nodes_2, 3]`` in [0, 1], in place of those of the heights.
        height: Height of the landscape as a fraction of its width. None: 0.35 for a single hill, less the more often
            the surface rises and falls, so that photographs and codes stay readable.
        log: Draw log10 of the values; the ticks still say the values.
        view: Elevation and azimuth in degrees; from high above and a little to the left by default, likewise.
        title: Above; none by default.

    Returns:
        The axes.

    Raises:
        InputError: If the surface is not over two coordinates, ``ax`` is not 3-D, or ``log`` meets values that are not
            positive.
        UnknownNameError: If there is no such variable.

    Example:
        >>> import xarray as xr
        >>> values = xr.DataArray([[0.0, 1.0], [2.0, 3.0]], dims=("h1", "h2"), coords={"h1": [0, 1], "h2": [0, 1]})
        >>> len(relief(values.to_dataset(name="loss")).collections[0].get_facecolor())
        2
    """
    field = variable_of(surface, variable, channel)
    names = axes_of(field)
    if len(names) != 2 or min(field.sizes[name] for name in names) < 2:
        raise InputError(
            f"a relief needs a grid over two coordinates, the surface has {', '.join(names)}; use .picture()"
        )
    if ax is not None and not hasattr(ax, "get_zlim"):
        raise InputError("ax is flat; a relief needs 3-D axes: figure.add_subplot(projection='3d')")
    steps = [-(-(field.sizes[name] - 1) // (MAX_NODES_AN_AXIS - 1)) for name in names]
    field = field.transpose(*names)[:: steps[0], :: steps[1]]
    shade = None if colours is None else colours[:: steps[0], :: steps[1]]
    values = field.values.astype(np.float64)
    if log:
        low = limits(values)[0]
        if low <= 0:
            raise InputError(f"log=True needs positive values, the least is {low:.3g}; leave log out")
        values = np.log10(np.where(np.isfinite(values), values, np.nan))
    x, y = (np.asarray(field[name].values, dtype=np.float64) for name in names)
    with quiet_style():
        own: Any = new_figure(5.8, 4.4).add_subplot(projection="3d") if ax is None else ax
        _draw(own, x, y, values, shade, cmap, _height(values) if height is None else height)
        own.view_init(elev=view[0], azim=view[1])
        own.set(xlabel=axis_label(names[0]), ylabel=axis_label(names[1]))
        if log:
            own.zaxis.set_major_formatter(lambda exponent, _: f"{float(f'{10.0**exponent:.2g}'):g}")
        if len(own.get_zticks()):
            own.set_zlabel(variable_label(variable, str(field.attrs.get("units", ""))), labelpad=-4)
        if title is not None:
            own.set_title(plain(title))
    shown: matplotlib.axes.Axes = own
    return shown


def _draw(ax: Any, x: Floats, y: Floats, values: Floats, shade: Floats | None, cmap: str, height: float) -> None:
    from matplotlib.ticker import MaxNLocator

    from landform.view.terrain import Terrain  # loads matplotlib

    lo, hi = limits(values)
    top = hi if hi > lo else lo + 1.0
    triangles = Mesh((len(x) - 1, len(y) - 1)).simplices().numpy()
    triangles = triangles[np.isfinite(values.reshape(-1)[triangles]).all(axis=1)]
    nodes = np.stack([*np.meshgrid(x, y, indexing="ij"), values], axis=-1).reshape(-1, 3)
    corners = nodes[triangles]
    scaled = (corners - [x[0], y[0], lo]) / [np.ptp(x), np.ptp(y), (top - lo) / height]
    colours = _lit(scaled, _colours(triangles, values, shade, cmap, lo, top))
    # narrower edges leave seams, through which the ground behind a wall shows
    ax.add_collection3d(Terrain(x, y, values, triangles, colours, linewidths=0.5, rasterized=True))
    ax.set(xlim=(x[0], x[-1]), ylim=(y[0], y[-1]))
    ax.set_zlim(lo, top)
    ax.set_box_aspect((1, float(np.ptp(y) / np.ptp(x)) if 1 / 3 < np.ptp(y) / np.ptp(x) < 3 else 1, height), zoom=1.08)
    ax.locator_params(axis="x", nbins=4)
    # pruned, because the labels of its ends would lie over those of the other axes
    ax.yaxis.set_major_locator(MaxNLocator(4, prune="both", steps=[1, 2, 2.5, 5, 10]))
    if height > 0.12:
        ax.locator_params(axis="z", nbins=3 if height > 0.25 else 1)
    else:  # too low for numbers; the colours tell
        ax.set_zticks([])
    ax.tick_params(pad=-2, labelsize=7)
    ax.xaxis.labelpad = ax.yaxis.labelpad = -4
    for axis in (ax.xaxis, ax.yaxis, ax.zaxis):
        axis.pane.set_facecolor("#f6f7f8")
        axis.pane.set_edgecolor("#d5d8dc")
    ax.grid(False)


def _height(values: Floats) -> float:
    """Choose the height from the total variation along an average line: 1 for a slope, 2 for a hill, 10 for a photo."""
    lo, hi = limits(values)
    if hi <= lo:
        return 0.35
    steps = [np.abs(np.diff(np.where(np.isfinite(values), values, lo), axis=axis)) for axis in (0, 1)]
    variation = max(float(step.sum() / step.shape[1 - axis]) for axis, step in enumerate(steps))
    return float(np.clip(0.8 * (hi - lo) / max(variation, 1e-12), 0.03, 0.35))


def _colours(
    triangles: NDArray[np.int64], values: Floats, shade: Floats | None, cmap: str, lo: float, hi: float
) -> Floats:
    import matplotlib as mpl

    if shade is None:
        mean = values.reshape(-1)[triangles].mean(axis=1)
        return np.asarray(mpl.colormaps[cmap]((mean - lo) / (hi - lo)))[:, :3]
    means: Floats = shade.reshape(-1, 3)[triangles].mean(axis=1)
    return means


def _lit(corners: Floats, colours: Floats) -> Floats:
    """Darken triangles that face away from a light in the upper left; flat ones keep their colour."""
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normal *= np.sign(normal[:, 2:])
    # heights are exaggerated by noise in a photograph: soften the slopes, or the light would drown the picture
    normal[:, :2] *= 0.35
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    light = np.array([-0.45, 0.35, 0.82])
    light /= np.linalg.norm(light)
    brightness = (normal @ light) / light[2]
    lit: Floats = np.clip(colours * np.clip(brightness, 0.55, 1.25)[:, None], 0.0, 1.0)
    return lit
