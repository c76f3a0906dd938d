"""What was promised, what was measured and how far they are apart, side by side in loss units."""

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np

from landform.errors import InputError
from landform.view.colour import in_colour
from landform.view.heat import color_bar, draw_cells, heat
from landform.view.profile import profile, scatter, surface_values
from landform.view.read import axes_of, channels_of, how_sure, limits, variable_of
from landform.view.relief import relief
from landform.view.style import DIVERGING, MEASURED, QUIET, axis_label, new_figure, plain, quiet_style, variable_label

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure
    import xarray

    from landform.certify.certificate import Certificate

MAX_PLANES = 6
MEASURED_NODE, INTERPOLATED = 0, 1


def compare(
    surface: "xarray.Dataset", *, certificate: "Certificate | None" = None, with_relief: bool = True
) -> "matplotlib.figure.Figure":
    """Draw target, measured loss and their difference, in a form that fits the surface.

    - two coordinates, one head: three maps and a relief;
    - two coordinates, three heads: the heads' losses as red, green and blue of one picture (Figure 1 of arXiv
      1912.07559), the target picture, and the difference of each head;
    - one coordinate: lines, and the difference below;
    - three and more: maps of the planes through the middle, one column a plane;
    - a list of points: measured against promised.

    Args:
        surface: A surface with a target.
        certificate: Its bound is printed beside the largest difference.
        with_relief: Whether to draw the relief, the slowest part.

    Returns:
        The figure.

    Raises:
        InputError: If the surface has no target.
    """
    if "target" not in surface or "difference" not in surface:
        raise InputError("the surface has no target to compare with; use kind='heat' or kind='relief'")
    axes, heads = axes_of(surface), channels_of(surface)
    with quiet_style():
        if axes == ("node",):
            figure = _points(surface)
        elif len(axes) == 1:
            figure = _line(surface)
        elif len(axes) == 2 and heads == 3:
            figure = _colour(surface, with_relief)
        elif len(axes) == 2:
            figure = _maps(surface, heads, with_relief)
        else:
            figure = _slices(surface, axes, heads)
        figure.suptitle(_heading(surface, certificate), x=0.012, ha="left", fontsize=10, linespacing=1.4)
    return figure


def _heading(surface: "xarray.Dataset", certificate: "Certificate | None") -> str:
    title = plain(str(surface.attrs.get("title", "")), 72)
    unit = _unit(surface)
    sampled = how_sure(surface, "loss")
    of = "difference, sampling error included," if sampled else "difference"
    parts = [f"largest {of} {largest(surface):.2g}{unit} at the nodes"]
    if certificate is not None and certificate.failures:
        parts.append("not certified")
    elif certificate is not None:
        word = "certified" if certificate.kind == "certified" else certificate.kind
        parts.append(f"{word} over the whole box: at most {certificate.bound:.2g}{unit}")
    lines = [title, " · ".join(parts), f"measured on samples: {sampled}" if sampled else "", _measured_nodes(surface)]
    return "\n".join(line for line in lines if line)


def _measured_nodes(surface: "xarray.Dataset") -> str:
    """Say how many nodes were measured, where the others are interpolated."""
    if "status" not in surface or not (surface["status"].values == INTERPOLATED).any():
        return ""
    status = surface["status"].values
    return f"measured: {int((status == MEASURED_NODE).sum()):,} of {status.size:,} nodes, the others interpolated"


def _unit(surface: "xarray.Dataset") -> str:
    unit = str(surface["loss"].attrs.get("units", ""))
    return "" if unit in ("", "loss") else f" {unit}"


def largest(surface: "xarray.Dataset", channel: int | None = None) -> float:
    """Return the largest |loss − target|, over all heads or of one; NaN where nothing was measured.

    Example:
        >>> import xarray as xr
        >>> largest(xr.Dataset({"difference": ("h1", [0.5, -2.0, float("nan")])}))
        2.0
    """
    field = surface["difference"] if channel is None else variable_of(surface, "difference", channel)
    size = np.abs(field.values.astype(np.float64))
    kept = size[~np.isnan(size)]
    return float(kept.max()) if kept.size else float("nan")


def _maps(surface: "xarray.Dataset", heads: int, with_relief: bool) -> "matplotlib.figure.Figure":
    columns = 4 if with_relief else 3
    lines = 2 if how_sure(surface, "loss") or _measured_nodes(surface) else 0  # more in the heading
    figure = new_figure(3.6 * columns, 3.05 * heads + 0.55 + 0.2 * lines)
    for head in range(heads):
        channel, mark = (head, f", head {head}") if heads > 1 else (None, "")
        clip = _shared(surface, channel)
        for column, (variable, title) in enumerate((("target", f"target{mark}"), ("loss", f"measured{mark}"))):
            ax = figure.add_subplot(heads, columns, columns * head + column + 1)
            notes = variable == "loss" and not np.isfinite(surface["loss"].values).all()  # the heading has the others
            heat(surface, variable=variable, channel=channel, ax=ax, clip=clip, title=title, dots=False, notes=notes)
        title = f"difference{mark}, at most {largest(surface, channel):.2g}{_unit(surface)}"
        difference_map(surface, channel, figure.add_subplot(heads, columns, columns * head + 3), title=title)
        if with_relief:
            ax3 = figure.add_subplot(heads, columns, columns * head + 4, projection="3d")
            relief(surface, channel=channel, ax=ax3, title=f"measured{mark}, as a landscape")
            ax3.set_zlabel("")  # the colours of the map say it, and it would lie outside the figure
    return figure


def _shared(surface: "xarray.Dataset", channel: int | None) -> tuple[float, float] | None:
    """Return one colour scale for target and measured values."""
    lo, hi = limits(*(variable_of(surface, name, channel).values for name in ("target", "loss")))
    return (lo, hi) if hi > lo else None


def difference_map(
    surface: "xarray.Dataset",
    channel: int | None,
    ax: "matplotlib.axes.Axes",
    *,
    title: str = "difference",
    size: float | None = None,
    colorbar: bool = True,
) -> None:
    """Draw loss − target on its own scale, symmetric about zero.

    Args:
        surface: A surface over two coordinates with a target.
        channel: Which head, where there are several.
        ax: Where to draw.
        title: Above.
        size: Where the scale ends; the largest difference by default.
        colorbar: Whether to draw a colour bar.
    """
    field = variable_of(surface, "difference", channel)
    size = size or max(abs(limit) for limit in limits(field.values)) or 1e-16
    options: dict[str, Any] = {
        "clip": (-size, size),
        "cmap": DIVERGING,
        "contours": False,
        "colorbar": False,
        "dots": False,
    }
    heat(surface, variable="difference", channel=channel, ax=ax, notes=False, **options)
    ax.set_title(title)
    if colorbar:
        drawn = ax.images[0] if ax.images else ax.collections[0]
        bar = color_bar(ax, drawn, variable_label("difference", str(field.attrs.get("units", ""))))
        bar.formatter.set_powerlimits((-2, 3))
        bar.update_ticks()


def _colour(surface: "xarray.Dataset", with_relief: bool) -> "matplotlib.figure.Figure":
    figure = new_figure(10.8, 6.6)
    names = axes_of(surface)
    x, y = (np.asarray(surface[name].values, dtype=np.float64) for name in names)
    loss = in_colour(surface, "loss")
    pictures = {"target": in_colour(surface, "target"), "measured: losses of three heads": loss}
    for number, (title, rgb) in enumerate(pictures.items(), start=1):
        ax = figure.add_subplot(2, 3, number)
        draw_cells(ax, x, y, rgb)
        ax.set(xlabel=axis_label(names[0]), ylabel=axis_label(names[1]), title=title, aspect="equal")
    if with_relief:
        ax3 = figure.add_subplot(2, 3, 3, projection="3d")
        mean = surface[["loss"]].mean("channel", keep_attrs=True)
        relief(mean, ax=ax3, colours=loss, title="mean of the three, as a landscape")
    for head, colour in enumerate(("red", "green", "blue")):
        ax = figure.add_subplot(2, 3, 4 + head)
        difference_map(surface, head, ax, title=f"difference, head {head} ({colour})")
    return figure


def _line(surface: "xarray.Dataset") -> "matplotlib.figure.Figure":
    figure = new_figure(7.0, 4.8)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(2.6, 1))
    profile(surface, ax=upper)
    upper.set_xlabel("")
    profile(surface, variable="difference", ax=lower)
    for line in lower.lines:
        line.set(linewidth=1.2)
    if lower.get_legend() is not None:
        lower.get_legend().remove()
    lower.axhline(0.0, color=QUIET, linewidth=0.7, zorder=0)
    size = largest(surface)
    if np.isfinite(size) and size > 0:
        lower.set_ylim(-1.15 * size, 1.15 * size)
    lower.set_ylabel(variable_label("difference", str(surface["loss"].attrs.get("units", ""))))
    lower.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))
    figure.align_ylabels()
    return figure


def _points(surface: "xarray.Dataset") -> "matplotlib.figure.Figure":
    figure = new_figure(8.4, 4.0)
    left, right = figure.subplots(1, 2)
    scatter(surface, ax=left, title=f"{surface.sizes['node']} points")
    difference = surface_values(surface, "difference")
    right.hist(difference[np.isfinite(difference)], bins=40, color=MEASURED)
    right.set(xlabel=variable_label("difference", str(surface["loss"].attrs.get("units", ""))), ylabel="points")
    right.set_title("difference")
    right.ticklabel_format(axis="x", style="sci", scilimits=(-2, 3))
    right.spines[["top", "right"]].set_visible(False)
    return figure


def _slices(surface: "xarray.Dataset", axes: tuple[str, ...], heads: int) -> "matplotlib.figure.Figure":
    planes = list(itertools.combinations(axes, 2))[:MAX_PLANES]
    figure = new_figure(2.6 * len(planes) + 1.2, 8.2)
    grid = figure.subplots(3, len(planes), squeeze=False)
    channel = 0 if heads > 1 else None
    clip, size = _shared(surface, channel), largest(surface, channel)
    for column, plane in enumerate(planes):
        others = {name: surface.sizes[name] // 2 for name in axes if name not in plane}
        part = surface.isel(others)
        where = ", ".join(f"{axis_label(name)} = {float(part[name]):.3g}" for name in others)
        last = column == len(planes) - 1
        for row, (variable, word) in enumerate((("target", "target"), ("loss", "measured"))):
            heat(part, variable=variable, channel=channel, ax=grid[row, column], clip=clip, colorbar=last)
            grid[row, column].set_title(f"{word}, {where}")
        title = f"difference, {where}"
        difference_map(part, channel, grid[2, column], title=title, size=size, colorbar=last)
    return figure
