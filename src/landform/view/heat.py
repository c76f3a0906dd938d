"""A surface over two coordinates as a heat map: h1 to the right, h2 up, each node in the middle of its cell."""

from typing import TYPE_CHECKING, Any

import numpy as np

from landform.errors import InputError
from landform.view.marks import mark_nodes, status_of
from landform.view.read import (
    Clip,
    Floats,
    axes_of,
    edges,
    how_sure,
    is_even,
    is_smooth,
    limits,
    robust_limits,
    variable_of,
)
from landform.view.style import CMAP, axis_text, new_figure, plain, quiet_style, variable_label

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
    clip: Clip = None,
    cmap: str = CMAP,
    colorbar: bool = True,
    dots: bool | None = None,
    notes: bool = True,
    blank: str = "",
    title: str | None = None,
) -> "matplotlib.axes.Axes":
    """Draw a heat map.

    The image extends half a cell beyond the outermost nodes, so that node i of N + 1 is the centre of its cell. Nothing
    is interpolated here. Values that are not finite are hatched, nodes that an interrupted scan did not reach are
    dotted, and both are counted in a note.

    Args:
        surface: A surface over two coordinates.
        variable: What to draw; ``"loss"`` by default.
        channel: Which head, where there are several.
        ax: Where to draw; a new figure by default.
        contours: Number of labelled contour lines; True for 5. None: 5 where the level sets are lines rather than
            texture (not for photographs).
        log: Logarithmic colours, for losses over several orders of magnitude; values must be positive.
        clip: (lo, hi) of the colours; values beyond are drawn in the end colours, which get a pointed colour bar. None:
            least to greatest finite value. ``"robust"``: the 1 % and 95 % quantiles, for surfaces whose corners
            explode.
        cmap: A matplotlib colour map. The default is perceptually uniform.
        colorbar: Whether to draw a colour bar, labelled in loss units.
        dots: Whether to put a point on every measured node. None: where others are interpolated (a multilevel scan).
        notes: Whether to say below the map how many nodes are not finite, not measured or interpolated, and how wide
            the widest interval is.
        blank: What it means when an interpolated node has no value, for variables that these lack.
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
        ends = robust_limits(values) if clip == "robust" else clip
        norm = scale(values, log, ends)
        drawn = draw_cells(own, x, y, values, cmap=cmap, norm=norm)
        known = how_sure(surface, variable) if notes else ""
        mark_nodes(own, x, y, values, status_of(surface, names), dots=dots, notes=notes, blank=blank, known=known)
        count = 5 if contours is True or (contours is None and is_smooth(values)) else int(contours or 0)
        if count:
            _contours(own, x, y, values, level_values(values, count, log, ends))
        own.set(xlabel=axis_text(field[names[0]]), ylabel=axis_text(field[names[1]]), aspect="equal")
        if np.ptp(x) > 3 * np.ptp(y) or np.ptp(y) > 3 * np.ptp(x):
            own.set_aspect("auto")
        if title is not None:
            own.set_title(plain(title))
        if colorbar:
            low, high = limits(values)
            beyond = (bool(low < norm.vmin), bool(high > norm.vmax))
            extend = {(False, False): "neither", (True, False): "min", (False, True): "max"}.get(beyond, "both")
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
    from matplotlib.colors import LogNorm

    roomy = ax.figure.get_layout_engine() is not None
    place: dict[str, Any] = {"cax": ax.inset_axes((1.035, 0.0, 0.045, 1.0))} if roomy else {"ax": ax, "fraction": 0.046}
    bar = ax.figure.colorbar(drawn, extend=extend, **place)
    bar.set_label(label)
    if isinstance(drawn.norm, LogNorm):
        _plain_ticks(bar.ax.yaxis)
    bar.outline.set_linewidth(0.5)
    return bar


def _plain_ticks(axis: Any) -> None:
    """Write 0.3 on a logarithmic axis, rather than 3·10⁻¹."""
    from matplotlib.ticker import LogFormatter

    class Plain(LogFormatter):
        def __call__(self, x: float, pos: int | None = None) -> str:
            return f"{x:g}" if super().__call__(x, pos) else ""

    axis.set_major_formatter(Plain())
    axis.set_minor_formatter(Plain(labelOnlyBase=False, minor_thresholds=(2, 0.5)))


def scale(values: Floats, log: bool, clip: tuple[float | int, float | int] | None) -> Any:
    """Return the scale of colours.

    Args:
        values: What is drawn.
        log: Whether it is logarithmic.
        clip: Its ends; None for the least and greatest finite value.

    Returns:
        A norm of matplotlib.

    Raises:
        InputError: If ``clip`` is empty, or ``log`` meets values that are not positive.
    """
    from matplotlib.colors import LogNorm, Normalize

    if clip is not None and not clip[0] < clip[1]:
        raise InputError(f"clip is {clip}; wanted (lo, hi) with lo < hi")
    lo, hi = limits(values) if clip is None else (float(clip[0]), float(clip[1]))
    if log:
        if lo <= 0:
            raise InputError(f"log=True needs positive values, the least is {lo:.3g}; pass clip=(lo, hi) with lo > 0")
        return LogNorm(lo, hi if hi > lo else lo * 1.001)
    return Normalize(lo, hi if hi > lo else lo + max(1e-12, 1e-6 * abs(lo)))


def level_values(values: Floats, count: int, log: bool, clip: tuple[float | int, float | int] | None) -> list[float]:
    """Choose round levels for contour lines, about ``count`` of them, inside the scale of colours.

    Example:
        >>> level_values(np.array([0.0, 10.0]), 5, False, None)
        [2.0, 4.0, 6.0, 8.0]
    """
    from matplotlib.ticker import LogLocator, MaxNLocator

    lo, hi = limits(values) if clip is None else clip
    locator: Any = MaxNLocator(count + 1, steps=[1, 2, 2.5, 5, 10])
    decades = np.log10(hi / lo) if log and hi > lo > 0 else 0.0
    if decades > 1:  # several levels a decade where there are few decades
        subs = (1.0,) if decades >= count else (1.0, 3.0) if 2 * decades >= count else (1.0, 2.0, 5.0)
        locator = LogLocator(subs=subs, numticks=count + 2)
    return [float(level) for level in locator.tick_values(lo, hi) if lo < level < hi]


def _contours(ax: "matplotlib.axes.Axes", x: Floats, y: Floats, values: Floats, levels: list[float]) -> None:
    if not levels:
        return
    lines = ax.contour(x, y, np.ma.masked_invalid(values).T, levels=levels, colors="white", linewidths=0.7, alpha=0.85)
    ax.clabel(lines, fontsize=7, fmt="%.3g", inline=True)
