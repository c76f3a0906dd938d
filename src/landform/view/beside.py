"""Several surfaces side by side on one scale: does the picture depend on the direction, the seed, the data?"""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from landform.errors import InputError
from landform.view.heat import color_bar, heat
from landform.view.profile import profile
from landform.view.read import Clip, axes_of, limits, robust_limits, variable_of
from landform.view.style import axis_text, new_figure, plain, quiet_style, variable_label

if TYPE_CHECKING:
    import matplotlib.figure
    import xarray

    Surfaces = Mapping[str, xarray.Dataset] | Sequence[xarray.Dataset] | xarray.Dataset


def spread(surfaces: "Surfaces", *, variable: str = "loss") -> "xarray.Dataset":
    """Measure how much surfaces over the same grid differ, node by node.

    With v_s(h) the value of surface s, m(h) their mean and d(h) their standard deviation over s (divided by S − 1),
    ``share`` = √(mean_h d²) / (q99 − q1 of m over h): 0 means that the picture does not depend on what was varied,
    and at 0.3 it says as much about the draw as about the network. A share below ``noise``, the same figure of the
    standard errors alone, is nothing but sampling error.

    Args:
        surfaces: At least two surfaces over equal coordinates: a mapping by name, a sequence, or one dataset with a dim
            ``split``.
        variable: ``"loss"`` by default, or a metric.

    Returns:
        A dataset of ``mean`` and ``std`` on the coordinates, with the attributes ``share``, ``noise``, ``surfaces``
        (how many) and ``units``. Nodes where a surface is not finite are NaN, and are left out of the figures.

    Raises:
        InputError: If there are fewer than two surfaces, or their coordinates differ.
        UnknownNameError: If one has no such variable.

    Example:
        >>> import xarray as xr
        >>> a, b = (xr.Dataset({"loss": ("h1", [0.0, 1.0, top])}, {"h1": [0.0, 1.0, 2.0]}) for top in (2.0, 4.0))
        >>> spread([a, b])["std"].values.round(6).tolist()
        [0.0, 0.0, 1.414214]
    """
    import xarray

    named = as_named(surfaces)
    if len(named) < 2:
        raise InputError(f"a spread is one between surfaces, and there {_is(len(named))}; scan more, e.g. other seeds")
    fields = [variable_of(surface, variable) for surface in named.values()]
    _same_places(named)
    values = np.stack([field.transpose(*fields[0].dims).values.astype(np.float64) for field in fields])
    kept = np.isfinite(values).all(axis=0)
    values = np.where(kept, values, np.nan)
    mean, std = values.mean(axis=0), values.std(axis=0, ddof=1)
    errors = [
        variable_of(surface, f"{variable}_stderr").transpose(*fields[0].dims).values
        for surface in named.values()
        if f"{variable}_stderr" in surface
    ]
    height = float(np.ptp(np.quantile(mean[kept], (0.01, 0.99)))) if kept.any() else float("nan")
    unit = {"units": str(fields[0].attrs.get("units", "1"))}
    result = xarray.Dataset(
        {
            "mean": (fields[0].dims, mean, {"long_name": f"mean {variable}"} | unit),
            "std": (fields[0].dims, std, {"long_name": f"standard deviation of {variable} between surfaces"} | unit),
        },
        fields[0].coords,
    )
    result.attrs = {
        "share": _share(std[kept], height),
        "noise": _share(np.stack(errors)[:, kept], height) if errors else float("nan"),
        "surfaces": len(named),
    } | unit
    return result


def side_by_side(
    surfaces: "Surfaces",
    *,
    variable: str = "loss",
    log: bool = False,
    clip: Clip = None,
    columns: int | None = None,
    title: str | None = None,
) -> "matplotlib.figure.Figure":
    """Draw several surfaces on one scale, with a figure for how much they differ.

    One colour scale serves all maps, so equal colours are equal losses. Surfaces over one coordinate are lines of one
    panel. Where the grids agree, a last panel shows the standard deviation between surfaces, and the heading says
    `spread`.

    Args:
        surfaces: A mapping by name (``{"seed 0": …}``), a sequence, or one dataset with a dim ``split``; one head each.
        variable: What to draw; ``"loss"`` by default.
        log: Logarithmic scale.
        clip: (lo, hi) of the common scale; ``"robust"`` for quantiles over all; None: least to greatest.
        columns: Panels a row; None: up to 4.
        title: Above the first line of the heading.

    Returns:
        The figure.

    Raises:
        InputError: If there are no surfaces, or they are over more than two coordinates.

    Example:
        >>> import xarray as xr
        >>> a, b = (xr.Dataset({"loss": ("h1", [0.0, top])}, {"h1": [0.0, 1.0]}) for top in (2.0, 4.0))
        >>> [line.get_label() for line in side_by_side({"seed 0": a, "seed 1": b}).axes[0].lines]
        ['seed 0', 'seed 1']
    """
    named = as_named(surfaces)
    if not named:
        raise InputError("there is no surface to draw; pass some, e.g. {'seed 0': surface}")
    axes = axes_of(next(iter(named.values())))
    if axes == ("node",) or not 1 <= len(axes) <= 2 or any(axes_of(each) != axes for each in named.values()):
        raise InputError(
            f"surfaces side by side are all over the same one or two coordinates; these are over {_all(named)}"
        )
    differ = None
    if len(named) > 1 and _agree(named):
        differ = spread(named, variable=variable)
    with quiet_style():
        draw = _lines if len(axes) == 1 else _maps
        figure = draw(named, variable, log, clip, columns, differ)
        facts = [] if differ is None else [sentence(differ)]
        heading = "\n".join([*([plain(title)] if title else []), *facts])
        if heading:
            figure.suptitle(heading, x=0.012, ha="left", fontsize=10, linespacing=1.4)
    return figure


def sentence(differ: "xarray.Dataset") -> str:
    """Say in words what `spread` found.

    Example:
        >>> import xarray as xr
        >>> sentence(xr.Dataset(attrs={"share": 0.25, "noise": 0.001, "surfaces": 3}))
        'between 3 surfaces the value varies by 25 % of its range'
    """
    share, noise = float(differ.attrs["share"]), float(differ.attrs["noise"])
    text = f"between {differ.attrs['surfaces']} surfaces the value varies by {100 * share:.2g} % of its range"
    if noise > 0.2 * share:
        text += f" ({100 * noise:.2g} % would come from sampling alone)"
    return text


def as_named(surfaces: "Surfaces") -> "dict[str, xarray.Dataset]":
    """Return surfaces by name, from a mapping, a sequence or a dataset with a dim ``split``."""
    import xarray

    if isinstance(surfaces, xarray.Dataset):
        if "split" not in surfaces.dims:
            return {str(surfaces.attrs.get("title", "surface")): surfaces}
        parts = [str(part) for part in np.asarray(surfaces["split"].values)]
        return {part: surfaces.isel(split=number) for number, part in enumerate(parts)}
    if isinstance(surfaces, Mapping):
        named = cast("Mapping[str, xarray.Dataset]", surfaces)  # a dataset is a mapping, too, to a type checker
        return {str(name): surface for name, surface in named.items()}
    listed: Sequence[xarray.Dataset] = surfaces
    found: dict[str, xarray.Dataset] = {}
    for number, surface in enumerate(listed, start=1):
        seed = (surface.attrs.get("subspace") or surface.attrs).get("seed")
        name = f"surface {number}" if seed is None else f"seed {seed}"
        found[f"{name} ({number})" if name in found else name] = surface
    return found


def _is(count: int) -> str:
    return "is one" if count == 1 else "is none"


def _all(named: "Mapping[str, xarray.Dataset]") -> str:
    return "; ".join(dict.fromkeys(", ".join(axes_of(surface)) or "nothing" for surface in named.values()))


def _agree(named: "Mapping[str, xarray.Dataset]") -> bool:
    first, *others = named.values()
    names = axes_of(first)
    return all(
        axes_of(other) == names and all(np.array_equal(first[name].values, other[name].values) for name in names)
        for other in others
    )


def _same_places(named: "Mapping[str, xarray.Dataset]") -> None:
    if not _agree(named):
        raise InputError(
            "the surfaces are not over the same coordinates; bring them to one grid first: surface.landform.to_grid(33)"
        )


def _share(errors: np.ndarray, height: float) -> float:
    if not errors.size or not height > 0:
        return 0.0 if errors.size and not np.any(errors) else float("nan")
    return float(np.sqrt(np.nanmean(errors.astype(np.float64) ** 2)) / height)


def _lines(
    named: "Mapping[str, xarray.Dataset]", variable: str, log: bool, clip: Clip, _: object, __: object
) -> "matplotlib.figure.Figure":
    import matplotlib as mpl

    figure = new_figure(6.8, 4.0)
    ax = figure.add_subplot()
    shades = mpl.colormaps["viridis"](np.linspace(0.05, 0.85, len(named)))
    for (name, surface), shade in zip(named.items(), shades, strict=True):
        before = len(ax.lines), len(ax.collections)
        profile(surface, variable=variable, ax=ax, log=log, target=False)
        fresh: list[Any] = [*ax.lines[before[0] :], *ax.collections[before[1] :]]
        for drawn in fresh:
            drawn.set_color(shade)
        ax.lines[before[0]].set(label=name, linewidth=1.6)
        for band in ax.collections[before[1] :]:
            band.set_label("_band")
    if clip is not None:
        ends = robust_limits(np.concatenate([each[variable].values.ravel() for each in named.values()]))
        ax.set_ylim(ends if clip == "robust" else clip)
    ax.legend(loc="best")
    return figure


def _maps(
    named: "Mapping[str, xarray.Dataset]",
    variable: str,
    log: bool,
    clip: Clip,
    columns: int | None,
    differ: "xarray.Dataset | None",
) -> "matplotlib.figure.Figure":
    fields = [variable_of(surface, variable) for surface in named.values()]
    values = [field.values.astype(np.float64) for field in fields]
    everything = np.concatenate([each.ravel() for each in values])
    ends = robust_limits(everything) if clip == "robust" else clip
    ends = limits(*values) if ends is None else ends
    common = ends if ends[0] < ends[1] else None
    panels = len(named) + (differ is not None)
    across = min(panels, 4) if columns is None else columns
    down = math.ceil(panels / across)
    figure = new_figure(2.9 * across + 0.7, 2.75 * down + 0.6)
    grid = figure.subplots(down, across, squeeze=False)
    flat = list(grid.ravel())
    for number, (ax, (name, surface)) in enumerate(zip(flat, named.items(), strict=False)):
        last = number == len(named) - 1
        heat(
            surface,
            variable=variable,
            ax=ax,
            log=log,
            clip=common,
            dots=False,
            notes=False,
            title=name,
            colorbar=False,
        )
        if last:
            bar = color_bar(ax, ax.images[0] if ax.images else ax.collections[0],
                            variable_label(variable, str(fields[0].attrs.get("units", ""))))  # fmt: skip
            bar.ax.set_title("all maps", fontsize=7, loc="left")
    if differ is not None:
        ax = flat[len(named)]
        shown = differ.rename(std="loss")
        heat(shown, ax=ax, cmap="cividis", contours=False, title="standard deviation", colorbar=False)
        color_bar(ax, ax.images[0] if ax.images else ax.collections[0],
                  variable_label("between maps", str(differ.attrs["units"])))  # fmt: skip
        ax.set(xlabel=axis_text(fields[0][axes_of(fields[0])[0]]))
    for ax in flat[panels:]:
        ax.remove()
    return figure
