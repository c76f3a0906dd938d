"""A surface over one coordinate as a line, or over points as a scatter: measured against promised."""

from typing import TYPE_CHECKING

import numpy as np

from landform.errors import InputError
from landform.view.marks import status_of
from landform.view.read import axes_of, channels_of, variable_of
from landform.view.style import (
    MEASURED,
    QUIET,
    TARGET,
    axis_text,
    loss_label,
    new_figure,
    plain,
    quiet_style,
    variable_label,
)

if TYPE_CHECKING:
    import matplotlib.axes
    import xarray

_HEADS = ("#d1495b", "#3a8f5c", "#1f5fa8", "#8a5fb0")


def profile(
    surface: "xarray.Dataset",
    *,
    variable: str = "loss",
    channel: int | None = None,
    ax: "matplotlib.axes.Axes | None" = None,
    log: bool = False,
    target: bool = True,
    band: bool = True,
    title: str | None = None,
) -> "matplotlib.axes.Axes":
    """Draw a loss along one coordinate, with its interval and its target where there are such.

    Args:
        surface: A surface over one coordinate.
        variable: What to draw; ``"loss"`` by default.
        channel: Which head; None draws all of them.
        ax: Where to draw; a new figure by default.
        log: Logarithmic loss axis.
        target: Whether to draw the promised loss, dashed above the measured one, beside ``"loss"``.
        band: Whether to shade the interval that holds at all nodes at once, where one is claimed.
        title: Above; none by default.

    Returns:
        The axes. Parts of the data (``split``) are lines of their own; where nodes were interpolated, the measured ones
        carry a point. Values that are not finite are gaps.

    Raises:
        InputError: If the surface is not over one coordinate.
        UnknownNameError: If there is no such variable.

    Example:
        >>> import xarray as xr
        >>> line = xr.DataArray([0.0, 2.0], dims="h1", coords={"h1": [0, 1]}, attrs={"units": "nat"})
        >>> ax = profile(line.to_dataset(name="loss"))
        >>> ax.get_ylabel(), ax.lines[0].get_ydata().tolist()
        ('loss (nat)', [0.0, 2.0])
    """
    names = axes_of(surface)
    if len(names) != 1 or names[0] == "node":
        raise InputError(f"a profile needs one coordinate, the surface has {', '.join(names)}; use .picture()")
    heads = range(channels_of(surface)) if channel is None else (channel,)
    splits = [str(part) for part in surface["split"].values] if "split" in surface.dims else [""]
    lines = [(split, head) for split in splits for head in heads]
    with quiet_style():
        own = new_figure(5.2, 3.2).add_subplot() if ax is None else ax
        for number, (split, head) in enumerate(lines):
            part = surface.sel(split=split) if split else surface
            field = variable_of(part, variable, head)
            x = field[names[0]].values
            colour = _HEADS[number % 4] if len(lines) > 1 else MEASURED
            words = [*([split] if split else []), *([f"head {head}"] if len(heads) > 1 else [])]
            name = ", ".join(words if split else ["measured", *words])
            own.plot(x, field.values, color=colour, label=name, linewidth=2.2 if len(lines) == 1 else 1.7)
            if band:
                _band(own, part, variable, head, x, colour)
            _dots(own, part, field, colour)
            if target and variable == "loss" and "target" in part:
                wanted = variable_of(part, "target", head).values
                name = "_target" if number else "target"
                colour = "black" if len(lines) > 1 else TARGET
                own.plot(x, wanted, color=colour, label=name, linewidth=1.1, linestyle=(0, (4, 3)))
        unit = str(surface[variable].attrs.get("units", ""))
        own.set(xlabel=axis_text(surface[names[0]]), ylabel=variable_label(variable, unit))
        own.set_xlim(float(x[0]), float(x[-1]))
        own.spines[["top", "right"]].set_visible(False)
        if log:
            own.set_yscale("log")
        if sum(not str(drawn.get_label()).startswith("_") for drawn in (*own.lines, *own.collections)) > 1:
            own.legend(loc="best")
        if title is not None:
            own.set_title(plain(title))
    return own


def _band(
    ax: "matplotlib.axes.Axes", surface: "xarray.Dataset", variable: str, head: int, x: np.ndarray, colour: str
) -> None:
    """Shade the interval, if it has a width."""
    ends = f"{variable}_lower", f"{variable}_upper"
    if not all(end in surface for end in ends):
        return
    lower, upper = (variable_of(surface, end, head).values for end in ends)
    if not np.nanmax(upper - lower, initial=0.0) > 0:
        return
    drawn = any(str(other.get_label()).startswith("interval") for other in ax.collections)
    confidence = surface.attrs.get("confidence")
    text = "interval" + (f", {100 * float(confidence):g} % at all nodes" if confidence else "")
    label = "_band" if drawn else text
    values = variable_of(surface, variable, head).values
    if (np.isnan(lower) & np.isfinite(values)).any():  # interpolated nodes have none, and a band would hide that
        known = np.isfinite(lower)
        ax.vlines(x[known], lower[known], upper[known], color=colour, alpha=0.45, linewidth=2.5, label=label)
        return
    ax.fill_between(x, lower, upper, color=colour, alpha=0.22, linewidth=0, label=label)


def _dots(ax: "matplotlib.axes.Axes", surface: "xarray.Dataset", field: "xarray.DataArray", colour: str) -> None:
    """Put a point on each measured node, where there are interpolated ones."""
    status = status_of(surface, axes_of(field))
    if status is None or not (status == 1).any():
        return
    x, measured = field[axes_of(field)[0]].values, status == 0
    ax.plot(x[measured], field.values[measured], ".", color=colour, markersize=4, label="_measured nodes")


def scatter(
    surface: "xarray.Dataset", *, ax: "matplotlib.axes.Axes | None" = None, title: str | None = None
) -> "matplotlib.axes.Axes":
    """Draw the measured loss of every point against its target, for spaces too large to draw.

    Args:
        surface: A surface with a target, of any shape.
        ax: Where to draw; a new figure by default.
        title: Above; none by default.

    Returns:
        The axes; on the diagonal measured and target agree.

    Raises:
        UnknownNameError: If the surface has no target.
    """
    target, loss = surface_values(surface, "target"), surface_values(surface, "loss")
    unit = str(surface["loss"].attrs.get("units", ""))
    with quiet_style():
        own = new_figure(4.2, 4.0).add_subplot() if ax is None else ax
        ends = [np.nanmin(target), np.nanmax(target)]
        own.plot(ends, ends, color=QUIET, linewidth=0.8)
        own.scatter(target, loss, s=6, color=MEASURED, alpha=0.6, linewidths=0, rasterized=len(loss) > 2000)
        own.set(xlabel=loss_label("promised loss", unit), ylabel=loss_label("loss", unit), aspect="equal")
        own.spines[["top", "right"]].set_visible(False)
        if title is not None:
            own.set_title(plain(title))
    return own


def surface_values(surface: "xarray.Dataset", name: str) -> np.ndarray:
    """Return all values of a variable of every head, flat."""
    if "channel" not in surface.dims:
        return np.asarray(variable_of(surface, name).values, dtype=np.float64).reshape(-1)
    heads = range(channels_of(surface))
    return np.concatenate([variable_of(surface, name, head).values.reshape(-1) for head in heads]).astype(np.float64)
