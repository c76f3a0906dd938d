"""The labelled face of a scan: an `xarray.Dataset` that says what it is, in which units and where it comes from."""

import math
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from landform.scan.places import Places

if TYPE_CHECKING:
    import xarray

LOG_LOSSES = ("cross_entropy", "nll", "bce_with_logits", "poisson_nll", "gaussian_nll")
"""Losses that are negative logarithms of a probability, so their unit is the nat."""


def build_surface(
    places: Places,
    losses: Float64[Tensor, "points heads"],
    *,
    target: Float64[Tensor, "points heads"] | None = None,
    samples: Int64[Tensor, " points"],
    unit: str,
    attrs: Mapping[str, Any],
) -> "xarray.Dataset":
    """Label measured losses.

    Args:
        places: Where they were measured.
        losses: One column a head, in loss units; not finite values stay as they are.
        target: The promised losses, or None.
        samples: How many samples each loss is the mean of; 0 where nothing was measured.
        unit: Unit of the loss.
        attrs: Attributes of the dataset.

    Returns:
        ``loss``, ``loss_stderr`` (0: the mean is over all samples, so it has no sampling error), ``samples`` and, with
        a target, ``target`` and ``difference`` = loss − target. Dims are ``h1`` … ``hz``, or ``node`` for a list of
        points, then ``channel`` for several heads.

    Example:
        >>> from landform.scan.places import grid_places
        >>> ones, tens = torch.ones(2, 1, dtype=torch.float64), torch.tensor([10, 10])
        >>> surface = build_surface(grid_places(1, 2), ones, samples=tens, unit="nat", attrs={"title": "flat"})
        >>> surface.loss.values.tolist(), surface.loss.units, surface.h1.values.tolist()
        ([1.0, 1.0], 'nat', [0.0, 1.0])
    """
    import xarray

    names = [f"h{k + 1}" for k in range(places.h.shape[1])]
    dims = tuple(names[k] for k in places.axes) or ("node",)
    heads = losses.shape[1]
    full, shape = (dims, places.shape) if heads == 1 else ((*dims, "channel"), (*places.shape, heads))

    def variable(values: Tensor, text: str, units: str) -> "xarray.Variable":
        return xarray.Variable(full, values.reshape(shape).numpy(), {"long_name": text, "units": units})

    variables = {
        "loss": variable(losses, "loss", unit),
        "loss_stderr": variable(
            torch.where(losses.isnan(), torch.nan, 0.0).double(), "standard error of the loss", unit
        ),
        "samples": xarray.Variable(
            dims, samples.reshape(places.shape).numpy(), {"long_name": "samples in the mean", "units": "1"}
        ),
    }
    if target is not None:
        variables["target"] = variable(target, "promised loss", unit)
        variables["difference"] = variable(losses - target, "loss − promised loss", unit)
    coordinates = {}
    for k, name in enumerate(names):
        notes = {"long_name": f"coordinate {k + 1}", "units": "1"}
        if k in places.axes:
            coordinates[name] = xarray.Variable((name,), places.lines[places.axes.index(k)].numpy(), notes)
        elif places.axes:
            coordinates[name] = xarray.Variable((), float(places.h[0, k]), notes)
        else:
            coordinates[name] = xarray.Variable(("node",), places.h[:, k].numpy().copy(), notes)
    if heads > 1:
        coordinates["channel"] = xarray.Variable(
            ("channel",), torch.arange(heads).numpy(), {"long_name": "head of the network", "units": "1"}
        )
    return xarray.Dataset(variables, coordinates, dict(attrs))


def unit_of(loss: str) -> str:
    """Return the unit of a loss by name: ``"nat"`` for log losses, else ``"loss"``.

    Example:
        >>> unit_of("cross_entropy"), unit_of("mse")
        ('nat', 'loss')
    """
    return "nat" if loss in LOG_LOSSES else "loss"


def versions() -> str:
    """Return the versions that a number may depend on, in one line.

    Example:
        >>> versions().split()[0]
        'landform'
    """
    try:
        own = version("landform")
    except PackageNotFoundError:  # run from a source tree that was never installed
        own = "(not installed)"
    return f"landform {own}, torch {torch.__version__}, Python {platform.python_version()}"


def brief(values: tuple[int, ...]) -> str:
    """Write the shape of a scan for its title.

    Example:
        >>> brief((65, 65)), brief((1000,))
        ('65 × 65', '1000')
    """
    assert math.prod(values) > 0
    return " × ".join(map(str, values))
