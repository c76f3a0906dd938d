"""Reading surfaces for drawing: which dims are coordinates, which variable, which head, which plane."""

from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from landform.errors import InputError, unknown_name

if TYPE_CHECKING:
    import xarray

Floats = NDArray[np.float64]
Clip = tuple[float | int, float | int] | Literal["robust"] | None
"""Where a scale of colours begins and ends."""
BESIDE = ("channel", "split")
"""Dims that are no coordinates: heads of the network, parts of the data."""


def axes_of(surface: "xarray.Dataset | xarray.DataArray") -> tuple[str, ...]:
    """Return the names of the dims that are coordinates, ``h1``, ``h2``, …; ``node`` for a list of points."""
    dims = surface.loss.dims if hasattr(surface, "data_vars") else surface.dims
    return tuple(str(dim) for dim in dims if dim not in BESIDE)


def variable_of(surface: "xarray.Dataset", name: str, channel: int | None = None) -> "xarray.DataArray":
    """Return one variable on its coordinates alone.

    Args:
        surface: The surface.
        name: ``"loss"``, ``"target"``, ``"difference"``, …
        channel: Which head, where there are several.

    Returns:
        The variable without a ``channel`` dim.

    Raises:
        UnknownNameError: If the surface has no such variable.
        InputError: If a head must be chosen, or there is no such head.
    """
    if name not in surface:
        raise unknown_name("variable", name, [str(key) for key in surface.data_vars])
    values = surface[name]
    if "split" in values.dims:
        parts = [str(part) for part in values["split"].values]
        if len(parts) > 1:
            raise InputError(f"the surface has parts {', '.join(parts)}; choose one: surface.sel(split='{parts[0]}')")
        values = values.isel(split=0)
    if "channel" not in values.dims:
        if channel not in (None, 0):
            raise InputError(f"channel is {channel}, but the surface has one head; leave channel out")
        return values
    heads = values.sizes["channel"]
    if channel is None and heads > 1:
        raise InputError(f"the surface has {heads} heads; choose one: channel=0 … channel={heads - 1}")
    if channel is not None and not 0 <= channel < heads:
        raise InputError(f"channel is {channel}; the surface has heads 0 to {heads - 1}")
    return values.isel(channel=channel or 0)


def channels_of(surface: "xarray.Dataset") -> int:
    """Return the number of heads, 1 without a ``channel`` dim."""
    return int(surface.sizes.get("channel", 1))


def edges(coordinates: Floats) -> Floats:
    """Return the borders of the cells whose centres are the given nodes; the outermost cells are symmetric.

    Args:
        coordinates: Increasing, at least one.

    Returns:
        One more number.

    Raises:
        InputError: If they do not increase.

    Example:
        >>> edges(np.array([0.0, 0.5, 1.0])).tolist()
        [-0.25, 0.25, 0.75, 1.25]
    """
    x = np.asarray(coordinates, dtype=np.float64)
    if len(x) == 1:
        return np.array([x[0] - 0.5, x[0] + 0.5])
    if not bool(np.all(np.diff(x) > 0)):
        raise InputError("coordinates must increase along an axis; sort the surface: surface.sortby('h1')")
    middle = 0.5 * (x[1:] + x[:-1])
    return np.concatenate([[2 * x[0] - middle[0]], middle, [2 * x[-1] - middle[-1]]])


def is_even(coordinates: Floats) -> bool:
    """Return whether nodes are equally spaced, to within rounding."""
    steps = np.diff(np.asarray(coordinates, dtype=np.float64))
    return len(steps) == 0 or bool(np.ptp(steps) <= 1e-6 * float(np.abs(steps).max()))


def limits(*arrays: Floats) -> tuple[float, float]:
    """Return the least and greatest finite value over all arrays; (0, 1) where there is none.

    Example:
        >>> limits(np.array([1.0, np.nan]), np.array([3.0, np.inf]))
        (1.0, 3.0)
    """
    finite = [a[np.isfinite(a)] for a in arrays]
    kept = [a for a in finite if a.size]
    if not kept:
        return 0.0, 1.0
    return float(min(a.min() for a in kept)), float(max(a.max() for a in kept))


def robust_limits(values: Floats) -> tuple[float, float] | None:
    """Return the 1 % and 95 % quantiles of the finite values, None where they do not differ.

    Losses grow without bound, and a plane's corners are what is least of interest: hence the uneven quantiles.

    Example:
        >>> robust_limits(np.append(np.arange(100.0), np.inf))
        (0.99, 94.05)
    """
    finite = values[np.isfinite(values)]
    if not finite.size:
        return None
    lo, hi = (float(q) for q in np.quantile(finite, (0.01, 0.95)))
    return (lo, hi) if hi > lo else None


def is_smooth(values: Floats) -> bool:
    """Return whether contour lines would be lines: level sets cross few edges of the grid.

    A curve across an N × N grid crosses some 2N edges; a photograph's level sets, or a QR code's, far more. Over the
    edge of a letter, most levels cross the same edges of the grid, and lines would say nothing.

    Example:
        >>> x, y = np.meshgrid(np.linspace(-1, 1, 33), np.linspace(-1, 1, 33))
        >>> is_smooth(x * x + y * y), is_smooth(np.random.default_rng(0).random((33, 33)))
        (True, False)
        >>> is_smooth((x * x + y * y < 0.5).astype(float))  # cliffs: all lines would lie on one another
        False
    """
    if values.ndim != 2 or min(values.shape) < 25 or not bool(np.isfinite(values).all()):
        return False
    lo, hi = limits(values)
    if hi <= lo:
        return False
    over = (values[..., None] > np.linspace(lo, hi, 6)[1:-1]).sum(axis=-1)  # levels below each node
    steps = np.concatenate([np.abs(np.diff(over, axis=axis)).reshape(-1) for axis in (0, 1)])
    crossings, edges_crossed = int(steps.sum()), int((steps > 0).sum())
    return crossings / 4 <= 5 * sum(values.shape) / 2 and crossings <= 2 * edges_crossed


def how_sure(surface: "xarray.Dataset", variable: str) -> str:
    """Say the widest interval of a variable in words; nothing where every value is exact, or none has an interval.

    Example:
        >>> import xarray as xr
        >>> ends = {"loss": ("h1", [1.0], {"units": "nat"}), "loss_lower": ("h1", [0.5]), "loss_upper": ("h1", [1.5])}
        >>> how_sure(xr.Dataset(ends, attrs={"confidence": 0.99}), "loss")
        '± 0.5 nat at most, at all measured nodes at once with 99 %'
    """
    if f"{variable}_lower" not in surface or f"{variable}_upper" not in surface:
        return ""
    wide = surface[f"{variable}_upper"] - surface[f"{variable}_lower"]
    width = wide.where(surface["status"] != 1).values if "status" in surface else wide.values
    half = 0.5 * float(np.max(width[np.isfinite(width)], initial=0.0))
    if not half > 0:
        return ""
    unit, sure = str(surface[variable].attrs.get("units", "")), surface.attrs.get("confidence")
    words = f"± {half:.2g}" + (f" {unit}" if unit not in ("", "1") else "") + " at most"
    return words + (f", at all measured nodes at once with {100 * float(sure):g} %" if sure else "")
