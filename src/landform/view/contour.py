"""A surface over two coordinates as level lines, the form that papers print."""

from typing import TYPE_CHECKING, Any

import numpy as np

from landform.errors import InputError
from landform.view.heat import color_bar, level_values, scale
from landform.view.read import Clip, axes_of, robust_limits, variable_of
from landform.view.style import CMAP, axis_text, new_figure, plain, quiet_style, variable_label

if TYPE_CHECKING:
    import matplotlib.axes
    import xarray


def contour(
    surface: "xarray.Dataset",
    *,
    variable: str = "loss",
    channel: int | None = None,
    ax: "matplotlib.axes.Axes | None" = None,
    levels: int | list[float] = 12,
    log: bool = False,
    clip: Clip = None,
    filled: bool = False,
    cmap: str = CMAP,
    colorbar: bool = True,
    title: str | None = None,
) -> "matplotlib.axes.Axes":
    """Draw level lines through the nodes, with their values.

    Lines are those of the linear interpolant between nodes; where a node is not finite there is a hole. To see the
    numbers themselves, one cell a node, draw `landform.view.heat`.

    Args:
        surface: A surface over two coordinates.
        variable: What to draw; ``"loss"`` by default.
        channel: Which head, where there are several.
        ax: Where to draw; a new figure by default.
        levels: About how many, at round values (12 by default, as level lines are all there is); or the values.
        log: Levels at equal ratios rather than distances, for losses over orders of magnitude.
        clip: (lo, hi) between which levels are chosen; ``"robust"`` for the 1 % and 95 % quantiles; None for all.
        filled: Fill the bands between levels, too.
        cmap: A matplotlib colour map.
        colorbar: Whether to draw a colour bar.
        title: Above; none by default.

    Returns:
        The axes.

    Raises:
        InputError: If the surface is not a grid over two coordinates of at least 2 × 2 nodes, there is no level
            between its least and greatest value, or ``log`` meets values that are not positive.
        UnknownNameError: If there is no such variable.

    Example:
        >>> import xarray as xr
        >>> line = np.linspace(-1, 1, 9)
        >>> bowl = xr.DataArray(np.add.outer(line**2, line**2), dims=("h1", "h2"), coords={"h1": line, "h2": line})
        >>> ax = contour(bowl.to_dataset(name="loss"), levels=[0.5, 1.0])
        >>> [float(level) for level in ax.collections[0].levels]
        [0.5, 1.0]
    """
    field = variable_of(surface, variable, channel)
    names = axes_of(field)
    if len(names) != 2 or min(field.sizes[name] for name in names) < 2:
        raise InputError(f"level lines need a grid over two coordinates, the surface has {', '.join(names)}")
    values = field.transpose(*names).values.astype(np.float64)
    x, y = (np.asarray(field[name].values, dtype=np.float64) for name in names)
    ends = robust_limits(values) if clip == "robust" else clip
    norm = scale(values, log, ends)
    chosen = level_values(values, levels, log, ends) if isinstance(levels, int) else sorted(map(float, levels))
    if not chosen:
        raise InputError(f"no level lies between {norm.vmin:.6g} and {norm.vmax:.6g}; the surface is flat there")
    with quiet_style():
        own = new_figure(4.6, 3.8).add_subplot() if ax is None else ax
        shown = np.ma.masked_invalid(values).T
        look: dict[str, Any] = {"levels": chosen, "norm": norm}
        lines = own.contour(x, y, shown, cmap=None if filled else cmap, colors="white" if filled else None,
                            linewidths=0.6 if filled else 1.1, **look)  # fmt: skip
        if filled:
            steps = [norm.vmin, *chosen, norm.vmax]
            own.contourf(x, y, shown, levels=steps, norm=norm, cmap=cmap, extend="both", zorder=0.5)
        own.clabel(lines, fontsize=7, fmt="%.3g", inline=True)
        own.set(xlabel=axis_text(field[names[0]]), ylabel=axis_text(field[names[1]]), aspect="equal")
        own.set(xlim=(x[0], x[-1]), ylim=(y[0], y[-1]))
        own.locator_params(nbins=5)
        if np.ptp(x) > 3 * np.ptp(y) or np.ptp(y) > 3 * np.ptp(x):
            own.set_aspect("auto")
        if colorbar:
            from matplotlib.cm import ScalarMappable

            color_bar(own, ScalarMappable(norm, cmap), variable_label(variable, str(field.attrs.get("units", ""))))
        if title is not None:
            own.set_title(plain(title))
    return own
