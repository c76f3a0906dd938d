"""A surface over two coordinates as a heat map: h1 to the right, h2 up, each node in the middle of its cell."""

from typing import TYPE_CHECKING, Any

import numpy as np

from landform.errors import InputError
from landform.view.read import Floats, axes_of, edges, is_even, is_smooth, limits, variable_of
from landform.view.style import CMAP, QUIET, axis_label, new_figure, plain, quiet_style, variable_label

if TYPE_CHECKING:
    import matplotlib.axes
    import xarray


def heat(
    surface: "xarray.Dataset",
    *,
    variable: str = "loss",
    channel: int | None = None,
    ax: "matplotlib.axes.Axes | None" = None,
    contours: bool | int | None = None,
    log: bool = False,
    clip: tuple[float | int, float | int] | None = None,
    cmap: str = CMAP,
    colorbar: bool = True,
    title: str | None = None,
) -> "matplotlib.axes.Axes":
    """Draw a heat map.

    The image extends half a cell beyond the outermost nodes, so that node i of N + 1 is the centre of its cell. Nothing
    is interpolated. Values that are not finite are hatched and counted in a note.

    Args:
        surface: A surface over two coordinates.
        variable: What to draw; ``"loss"`` by default.
        channel: Which head, where there are several.
        ax: Where to draw; a new figure by default.
        contours: Number of labelled contour lines; True for 5. None: 5 where the level sets are lines rather than
            texture (not for photographs).
        log: Logarithmic colours, for losses over several orders of magnitude; values must be positive.
        clip: (lo, hi) of the colours; values beyond are drawn in the end colours, which get a pointed colour bar. None:
            least to greatest finite value.
        cmap: A matplotlib colour map. The default is perceptually uniform.
        colorbar: Whether to draw a colour bar, labelled in loss units.
        title: Above the map; none by default.

    Returns:
        The axes.

    Raises:
        InputError: If the surface is not over two coordinates, or ``log`` meets values that are not positive.
        UnknownNameError: If there is no such variable.

    Example:
        >>> import xarray as xr
        >>> values = xr.DataArray([[0.0, 1.0], [2.0, 3.0]], dims=("h1", "h2"), coords={"h1": [0, 1], "h2": [0, 1]})
        >>> ax = heat(values.to_dataset(name="loss"))
        >>> [float(edge) for edge in ax.images[0].get_extent()], ax.get_xlabel()
        ([-0.5, 1.5, -0.5, 1.5], '$h_{1}$')
    """
    field = variable_of(surface, variable, channel)
    names = axes_of(field)
    if len(names) != 2:
        raise InputError(f"a heat map needs two coordinates, the surface has {', '.join(names)}; use .picture()")
    values = field.transpose(*names).values.astype(np.float64)
    x, y = (np.asarray(field[name].values, dtype=np.float64) for name in names)
    with quiet_style():
        own = new_figure(4.6, 3.8).add_subplot() if ax is None else ax
        norm = _norm(values, log, clip)
        drawn = draw_cells(own, x, y, values, cmap=cmap, norm=norm)
        _hatch_gaps(own, x, y, values)
        count = 5 if contours is True or (contours is None and is_smooth(values)) else int(contours or 0)
        if count:
            _contours(own, x, y, values, count, log, clip)
        own.set(xlabel=axis_label(names[0]), ylabel=axis_label(names[1]), aspect="equal")
        if np.ptp(x) > 3 * np.ptp(y) or np.ptp(y) > 3 * np.ptp(x):
            own.set_aspect("auto")
        if title is not None:
            own.set_title(plain(title))
        if colorbar:
            low, high = limits(values)
            ends = (bool(low < norm.vmin), bool(high > norm.vmax))
            extend = {(False, False): "neither", (True, False): "min", (False, True): "max", (True, True): "both"}[ends]
            color_bar(own, drawn, variable_label(variable, str(field.attrs.get("units", ""))), extend=extend)
    return own


def draw_cells(
    ax: "matplotlib.axes.Axes", x: Floats, y: Floats, values: Floats, *, cmap: str | None = None, norm: Any = None
) -> Any:
    """Draw one coloured cell a node: an image on even nodes, else a mesh of rectangles.

    Args:
        ax: Where.
        x: Coordinates of the first dim of ``values``.
        y: Coordinates of the second.
        values: ``[x, y]``, or ``[x, y, 3]`` for colours in [0, 1].
        cmap: Colour map of numbers.
        norm: Scale of numbers.

    Returns:
        What a colour bar needs.
    """
    left, bottom = edges(x), edges(y)
    shown = np.ma.masked_invalid(values)
    drawn: Any
    if is_even(x) and is_even(y):
        extent = (float(left[0]), float(left[-1]), float(bottom[0]), float(bottom[-1]))
        options = {"cmap": cmap, "norm": norm} if values.ndim == 2 else {}
        drawn = ax.imshow(shown.swapaxes(0, 1), origin="lower", extent=extent, interpolation="nearest", **options)
    else:
        drawn = ax.pcolormesh(left, bottom, shown.swapaxes(0, 1), cmap=cmap, norm=norm, rasterized=True)
    ax.set(xlim=(left[0], left[-1]), ylim=(bottom[0], bottom[-1]))
    ax.locator_params(nbins=5)
    return drawn


def color_bar(ax: "matplotlib.axes.Axes", drawn: Any, label: str, *, extend: str = "neither") -> Any:
    """Draw a colour bar exactly as high as the map beside it (where the figure has a layout that makes room)."""
    roomy = ax.figure.get_layout_engine() is not None
    place: dict[str, Any] = {"cax": ax.inset_axes((1.035, 0.0, 0.045, 1.0))} if roomy else {"ax": ax, "fraction": 0.046}
    bar = ax.figure.colorbar(drawn, extend=extend, **place)
    bar.set_label(label)
    bar.outline.set_linewidth(0.5)
    return bar


def _norm(values: Floats, log: bool, clip: tuple[float | int, float | int] | None) -> Any:
    from matplotlib.colors import LogNorm, Normalize

    if clip is not None and not clip[0] < clip[1]:
        raise InputError(f"clip is {clip}; wanted (lo, hi) with lo < hi")
    lo, hi = limits(values) if clip is None else (float(clip[0]), float(clip[1]))
    if log:
        if lo <= 0:
            raise InputError(f"log=True needs positive values, the least is {lo:.3g}; pass clip=(lo, hi) with lo > 0")
        return LogNorm(lo, hi if hi > lo else lo * 1.001)
    return Normalize(lo, hi if hi > lo else lo + max(1e-12, 1e-6 * abs(lo)))


def _hatch_gaps(ax: "matplotlib.axes.Axes", x: Floats, y: Floats, values: Floats) -> None:
    """Hatch what is not finite and say how much it is."""
    from matplotlib.patches import Patch, Rectangle

    missing = int((~np.isfinite(values)).sum())
    if not missing:
        return
    left, bottom = edges(x), edges(y)
    look: dict[str, Any] = {"facecolor": "#e3e5e8", "edgecolor": "#8a919a", "hatch": "////", "linewidth": 0.0}
    corner = (float(left[0]), float(bottom[0]))
    ax.add_patch(Rectangle(corner, float(np.ptp(left)), float(np.ptp(bottom)), zorder=-1, **look))
    note = Patch(label=f"not finite: {missing} of {values.size} nodes", **look)
    ax.legend(handles=[note], loc="upper left", bbox_to_anchor=(0.0, -0.14), borderaxespad=0.0, labelcolor=QUIET)


def _contours(
    ax: "matplotlib.axes.Axes",
    x: Floats,
    y: Floats,
    values: Floats,
    count: int,
    log: bool,
    clip: tuple[float | int, float | int] | None,
) -> None:
    from matplotlib.ticker import LogLocator, MaxNLocator

    lo, hi = limits(values) if clip is None else clip
    locator = LogLocator(numticks=count + 2) if log else MaxNLocator(count + 1, steps=[1, 2, 2.5, 5, 10])
    levels = [float(level) for level in locator.tick_values(lo, hi) if lo < level < hi]
    if not levels:
        return
    lines = ax.contour(x, y, np.ma.masked_invalid(values).T, levels=levels, colors="white", linewidths=0.7, alpha=0.85)
    ax.clabel(lines, fontsize=7, fmt="%.3g", inline=True)
