"""How well each node is known: half the width of its interval, as a map or a line."""

from typing import TYPE_CHECKING, Any

import numpy as np

from landform.errors import InputError
from landform.view.heat import heat
from landform.view.profile import profile
from landform.view.read import axes_of

if TYPE_CHECKING:
    import matplotlib.axes
    import xarray

CMAP = "cividis"
"""Another than that of losses, so that the two maps are not taken for one another."""


def half_widths(surface: "xarray.Dataset", variable: str = "loss") -> "xarray.DataArray":
    """Return half the width of each node's interval, or its standard error where no interval is claimed.

    Args:
        surface: The surface.
        variable: ``"loss"`` or a metric.

    Returns:
        In the variable's unit, 0 where all samples were used.

    Raises:
        InputError: If there is neither: nothing is known about the error.

    Example:
        >>> import xarray as xr
        >>> ends = {"loss_lower": ("h1", [0.5, 1.0]), "loss_upper": ("h1", [1.5, 1.0])}
        >>> half_widths(xr.Dataset(ends)).values.tolist()
        [0.5, 0.0]
    """
    lower, upper, stderr = (f"{variable}_{end}" for end in ("lower", "upper", "stderr"))
    unit = {"units": str(surface[variable].attrs.get("units", "1"))} if variable in surface else {}
    if lower in surface and upper in surface:
        text = f"± {variable}, at all nodes at once"
        found = (surface[upper] - surface[lower]) / 2
    elif stderr in surface:
        text, found = f"standard error of {variable}", surface[stderr].copy()
    else:
        raise InputError(f"nothing is known about the error of '{variable}': there is no {lower} and no {stderr}")
    return found.assign_attrs({"long_name": text} | unit)


def uncertainty(
    surface: "xarray.Dataset",
    *,
    variable: str = "loss",
    channel: int | None = None,
    ax: "matplotlib.axes.Axes | None" = None,
    title: str | None = None,
) -> "matplotlib.axes.Axes":
    """Draw half the width of each node's interval.

    Nodes that were interpolated have none, as what interpolation costs is an estimate; they are left blank and counted.

    Args:
        surface: A surface over one or two coordinates.
        variable: ``"loss"`` by default, or a metric.
        channel: Which head, where there are several.
        ax: Where to draw; a new figure by default.
        title: Above; None says what is drawn.

    Returns:
        The axes.

    Raises:
        InputError: If nothing is known about the error, or there are more than two coordinates.

    Example:
        >>> import xarray as xr
        >>> line = xr.Dataset({"loss": ("h1", [1.0, 2.0]), "loss_stderr": ("h1", [0.0, 0.5])}, {"h1": [0.0, 1.0]})
        >>> uncertainty(line).lines[0].get_ydata().tolist()
        [0.0, 0.5]
    """
    widths = half_widths(surface, variable)
    text = str(widths.attrs["long_name"]) if title is None else title
    name = "interval" if f"{variable}_lower" in surface else "stderr"
    drawn = surface.assign({name: widths, "loss": surface["loss"]})
    if len(axes_of(surface)) == 1:
        return profile(drawn, variable=name, channel=channel, ax=ax, title=text)
    finite = widths.values[np.isfinite(widths.values)]
    top = float(finite.max()) if finite.size and finite.max() > 0 else 1e-12
    look: dict[str, Any] = {"cmap": CMAP, "contours": False, "clip": (0.0, top), "title": text}
    return heat(drawn, variable=name, channel=channel, ax=ax, blank="interpolated, no interval", **look)
