"""What was promised, what was measured and how far they are apart, side by side in loss units."""

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np

from landform.errors import InputError
from landform.view.colour import in_colour
from landform.view.heat import draw_cells, heat
from landform.view.profile import profile, scatter, surface_values
from landform.view.read import axes_of, channels_of, limits, variable_of
from landform.view.relief import relief
from landform.view.style import DIVERGING, MEASURED, QUIET, axis_label, loss_label, new_figure, plain, quiet_style

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure
    import xarray

    from landform.certify.certificate import Certificate

MAX_PLANES = 6


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
            figure = _line(surface, axes[0])
        elif len(axes) == 2 and heads == 3:
            figure = _colour(surface, with_relief)
        elif len(axes) == 2:
            figure = _maps(surface, heads, with_relief)
        else:
            figure = _slices(surface, axes, heads)
        figure.suptitle(_heading(surface, certificate), x=0.012, ha="left", fontsize=10.5)
    return figure


def _heading(surface: "xarray.Dataset", certificate: "Certificate | None") -> str:
    title = plain(str(surface.attrs.get("title", "")), 90)
    unit = str(surface["loss"].attrs.get("units", ""))
    unit = "" if unit == "loss" else f" {unit}"
    parts = [f"largest difference {largest(surface):.2g}{unit}"]
    if certificate is not None and certificate.failures:
        parts.append("not certified")
    elif certificate is not None:
        word = "certified over the whole box" if certificate.kind == "certified" else certificate.kind
        parts.append(f"{word}: at most {certificate.bound:.2g}{unit}")
    return "  ·  ".join([title, *parts] if title else parts)


def largest(surface: "xarray.Dataset") -> float:
    """Return the largest |loss − target| over all heads; NaN where nothing is finite.

    Example:
        >>> import xarray as xr
        >>> largest(xr.Dataset({"difference": ("h1", [0.5, -2.0, float("nan")])}))
        2.0
    """
    size = np.abs(surface["difference"].values.astype(np.float64))
    kept = size[~np.isnan(size)]
    return float(kept.max()) if kept.size else float("nan")


def _maps(surface: "xarray.Dataset", heads: int, with_relief: bool) -> "matplotlib.figure.Figure":
    columns = 4 if with_relief else 3
    figure = new_figure(3.55 * columns + 0.2, 3.45 * heads + 0.35)
    for head in range(heads):
        channel = head if heads > 1 else None
        mark = f", head {head}" if heads > 1 else ""
        clip = _shared(surface, channel)
        for column, (variable, title) in enumerate((("target", f"target{mark}"), ("loss", f"measured{mark}"))):
            ax = figure.add_subplot(heads, columns, columns * head + column + 1)
            heat(surface, variable=variable, channel=channel, ax=ax, clip=clip, title=title)
        difference_map(surface, channel, figure.add_subplot(heads, columns, columns * head + 3))
        if with_relief:
            ax3 = figure.add_subplot(heads, columns, columns * head + 4, projection="3d")
            relief(surface, channel=channel, ax=ax3, title="measured, as a landscape")  # type: ignore[arg-type]
    return figure


def _shared(surface: "xarray.Dataset", channel: int | None) -> tuple[float, float] | None:
    """Return one colour scale for target and measured values: that of the target, which is what they should be."""
    lo, hi = limits(variable_of(surface, "target", channel).values)
    return (lo, hi) if hi > lo else None


def difference_map(surface: "xarray.Dataset", channel: int | None, ax: "matplotlib.axes.Axes") -> None:
    """Draw loss − target on its own scale, symmetric about zero."""
    field = variable_of(surface, "difference", channel)
    size = max(abs(limit) for limit in limits(field.values)) or 1e-16
    heat(
        surface,
        variable="difference",
        channel=channel,
        ax=ax,
        clip=(-size, size),
        cmap=DIVERGING,
        contours=False,
        colorbar=False,
        title="difference" if channel is None else f"difference, head {channel}",
    )
    bar = ax.figure.colorbar(ax.images[0] if ax.images else ax.collections[0], ax=ax, fraction=0.046, pad=0.03)
    bar.set_label(loss_label("loss − target", str(field.attrs.get("units", ""))))
    bar.outline.set_linewidth(0.5)  # type: ignore[operator]
    bar.formatter.set_powerlimits((-2, 3))  # type: ignore[attr-defined]
    bar.update_ticks()


def _colour(surface: "xarray.Dataset", with_relief: bool) -> "matplotlib.figure.Figure":
    figure = new_figure(11.2, 7.2)
    names = axes_of(surface)
    x, y = (np.asarray(surface[name].values, dtype=np.float64) for name in names)
    loss = in_colour(surface, "loss")
    pictures: list[tuple[str, Any]] = [
        ("target", in_colour(surface, "target")),
        ("measured losses of three heads", loss),
    ]
    for number, (title, rgb) in enumerate(pictures, start=1):
        ax = figure.add_subplot(2, 3, number)
        draw_cells(ax, x, y, rgb)
        ax.set(xlabel=axis_label(names[0]), ylabel=axis_label(names[1]), title=title, aspect="equal")
    if with_relief:
        ax3 = figure.add_subplot(2, 3, 3, projection="3d")
        mean = surface[["loss"]].mean("channel", keep_attrs=True)
        relief(mean, ax=ax3, colours=loss, title="mean of the three, as a landscape")  # type: ignore[arg-type]
    for head, colour in enumerate(("red", "green", "blue")):
        ax = figure.add_subplot(2, 3, 4 + head)
        difference_map(surface, head, ax)
        ax.set_title(f"difference, head {head} ({colour})")
    return figure


def _line(surface: "xarray.Dataset", name: str) -> "matplotlib.figure.Figure":
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
    lower.set_ylabel(loss_label("loss − target", str(surface["loss"].attrs.get("units", ""))))
    lower.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))
    figure.align_ylabels()
    return figure


def _points(surface: "xarray.Dataset") -> "matplotlib.figure.Figure":
    figure = new_figure(8.4, 4.0)
    left, right = figure.subplots(1, 2)
    scatter(surface, ax=left, title=f"{surface.sizes['node']} points")
    difference = surface_values(surface, "difference")
    right.hist(difference[np.isfinite(difference)], bins=40, color=MEASURED)
    right.set(xlabel=loss_label("loss − target", str(surface["loss"].attrs.get("units", ""))), ylabel="points")
    right.set_title("difference")
    right.ticklabel_format(axis="x", style="sci", scilimits=(-2, 3))
    right.spines[["top", "right"]].set_visible(False)
    return figure


def _slices(surface: "xarray.Dataset", axes: tuple[str, ...], heads: int) -> "matplotlib.figure.Figure":
    planes = list(itertools.combinations(axes, 2))[:MAX_PLANES]
    figure = new_figure(3.1 * len(planes) + 0.4, 8.6)
    channel = 0 if heads > 1 else None
    clip = _shared(surface, channel)
    for column, plane in enumerate(planes):
        others = {name: surface.sizes[name] // 2 for name in axes if name not in plane}
        part = surface.isel(others)
        where = ", ".join(f"{axis_label(name)} = {float(part[name]):.3g}" for name in others)
        for row, (variable, word) in enumerate((("target", "target"), ("loss", "measured"))):
            ax = figure.add_subplot(3, len(planes), row * len(planes) + column + 1)
            last = column == len(planes) - 1
            heat(part, variable=variable, channel=channel, ax=ax, clip=clip, colorbar=last)
            ax.set_title(f"{word}, {where}")
        ax = figure.add_subplot(3, len(planes), 2 * len(planes) + column + 1)
        difference_map(part, channel, ax)
        ax.set_title("difference")
    return figure
