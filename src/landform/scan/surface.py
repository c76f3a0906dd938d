"""The labelled face of a scan: an `xarray.Dataset` that says what it is, in which units and where it comes from."""

import math
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from landform.scan.places import Places
from landform.scan.sampler.base import Estimate

if TYPE_CHECKING:
    import xarray

LOG_LOSSES = (
    *("cross_entropy", "nll", "log_loss", "bce_with_logits", "poisson_nll", "gaussian_nll"),
    *("token_cross_entropy", "causal_lm"),
)
"""Losses that are negative logarithms of a probability, so their unit is the nat."""

MEASURED, INTERPOLATED, MISSING, NOT_FINITE = 0, 1, 2, 3
STATUS = ("measured", "interpolated", "missing", "not_finite")
"""Words of the variable ``status``, in the order of its values."""

ABOUT_POINTS = ("coordinates", "off_plane", "steps", "points")
"""What a subspace says about the points that it was made from."""

_NAMES = {"loss": "loss", "accuracy": "accuracy", "gradient_norm": "norm of the gradient"}


def build_surface(
    places: Places,
    losses: Float64[Tensor, "points heads"],
    *,
    target: Float64[Tensor, "points heads"] | None = None,
    samples: Int64[Tensor, " points"],
    unit: str,
    attrs: Mapping[str, Any],
) -> "xarray.Dataset":
    """Label losses that were measured with all samples.

    Args:
        places: Where they were measured.
        losses: One column a head, in loss units; not finite values stay as they are.
        target: The promised losses, or None.
        samples: How many samples each loss is the mean of; 0 where nothing was measured, as where it is interpolated.
        unit: Unit of the loss.
        attrs: Attributes of the dataset.

    Returns:
        What `label` gives, with ``loss_stderr`` 0 (the mean is over all samples, so it has no sampling error) and, with
        a target, ``target`` and ``difference`` = loss − target.

    Example:
        >>> from landform.scan.places import grid_places
        >>> ones, tens = torch.ones(2, 1, dtype=torch.float64), torch.tensor([10, 10])
        >>> surface = build_surface(grid_places(1, 2), ones, samples=tens, unit="nat", attrs={"title": "flat"})
        >>> surface.loss.values.tolist(), surface.loss.units, surface.h1.values.tolist()
        ([1.0, 1.0], 'nat', [0.0, 1.0])
    """
    heads = losses.shape[1]
    names = ("loss",) if heads == 1 else tuple(f"loss:{head}" for head in range(heads))
    unknown = losses.isnan() | ((samples == 0) & (samples > 0).any()).to(losses.device)[:, None]
    exact = Estimate(
        value=losses,
        stderr=torch.where(unknown, torch.nan, 0.0).double(),
        samples=samples,
        critical=torch.zeros(heads, dtype=torch.float64),
        level=torch.zeros(len(losses), dtype=torch.int64),
        notes={},
    )
    return label(places, exact, names, units={"loss": unit}, target=target, attrs=attrs)


def label(
    places: Places,
    estimate: Estimate,
    quantities: Sequence[str] = ("loss",),
    *,
    units: Mapping[str, str] | None = None,
    target: Float64[Tensor, "points heads"] | None = None,
    extra: Mapping[str, Float64[Tensor, " points"]] | None = None,
    attrs: Mapping[str, Any],
) -> "xarray.Dataset":
    """Label an estimate of one or more quantities.

    Args:
        places: Where; the points of ``estimate`` in the order of ``places.h``.
        estimate: What is known there.
        quantities: Names of the estimate's columns, ``"loss"`` or ``"loss:HEAD"``, and likewise for each metric.
            Columns of one name with several heads become a ``channel`` dim, in their order.
        units: Unit by name of the quantity; ``"1"`` by default.
        target: Promised losses, one column a head, or None.
        extra: Per-node values without an interval (gradient norm, eigenvalue), by name; NaN where not computed.
        attrs: Attributes of the dataset; ``estimate.notes`` are added.

    Returns:
        For each quantity Q: ``Q``, ``Q_stderr`` and, where an interval is claimed (a finite ``critical``, or ends of
        the estimate's own), ``Q_lower`` and ``Q_upper``, which hold at all nodes at once: Q ∓ critical·Q_stderr, or
        those ends. Further ``samples`` (of each node's
        own mean; 0 where interpolated), ``status`` (0 measured, 1 interpolated from neighbours on the mesh, 2 missing,
        3 not finite) and, where there is more than one, ``level`` of refinement. Dims are ``h1`` … ``hz``, or ``node``
        for a list of points, then ``channel`` for several heads.

    Example:
        >>> from landform.scan.places import grid_places
        >>> one = torch.ones(3, 1, dtype=torch.float64)
        >>> found = Estimate(
        ...     2 * one, 0.1 * one, torch.tensor([9, 0, 9]), torch.tensor([3.0]).double(), torch.tensor([0, 1, 0]), {}
        ... )
        >>> surface = label(grid_places(1, 3), found, units={"loss": "nat"}, attrs={"n_samples": 9})
        >>> surface.loss_upper.values.round(3).tolist(), surface.status.values.tolist(), surface.level.values.tolist()
        ([2.3, 2.3, 2.3], [0, 1, 0], [0, 1, 0])
    """
    import xarray

    columns: dict[str, list[int]] = {}
    heads: dict[str, list[str]] = {}
    for column, name in enumerate(quantities):
        base, _, head = name.partition(":")
        columns.setdefault(base, []).append(column)
        heads.setdefault(base, []).append(head)
    names = [f"h{k + 1}" for k in range(places.h.shape[1])]
    dims: tuple[str, ...] = tuple(names[k] for k in places.axes) or ("node",)

    def variable(values: Tensor, text: str, unit: str) -> "xarray.Variable":
        """Give values ``[points]`` or ``[points, heads]`` the shape of the places."""
        found, shape, where = values.detach().cpu(), places.shape, dims
        if found.ndim == 2 and found.shape[1] > 1:
            shape, where = (*shape, found.shape[1]), (*dims, "channel")
        notes = {"long_name": text, "units": unit}  # without fastpath, arrays are compared with dask's, which loads it
        return xarray.Variable(where, _array(found, shape), notes, fastpath=True)

    variables = {}
    ends = estimate.ends()
    for base, part in columns.items():
        text, unit = _NAMES.get(base, base), (units or {}).get(base, "1")
        value, stderr = estimate.value[:, part], estimate.stderr[:, part]
        lower, upper = ends[0][:, part], ends[1][:, part]
        variables[base] = variable(value, text, unit)
        variables[f"{base}_stderr"] = variable(stderr, f"standard error of the {text}", unit)
        if bool(torch.isfinite(estimate.critical[part]).all()) or bool(torch.isfinite(lower).any(0).all()):
            variables[f"{base}_lower"] = variable(lower, f"{text}, lower end at all nodes at once", unit)
            variables[f"{base}_upper"] = variable(upper, f"{text}, upper end at all nodes at once", unit)
    for name, values in (extra or {}).items():
        variables[name] = variable(values, _NAMES.get(name, name), (units or {}).get(name, "1"))
    variables["samples"] = variable(estimate.samples, "samples in the mean", "1")
    if int(estimate.level.max()) > 0:
        variables["level"] = variable(estimate.level, "level of refinement", "1")
    variables["status"] = variable(_status(estimate, columns.get("loss", [0])), "what the loss is", "1")
    flags = {"flag_values": [*range(len(STATUS))], "flag_meanings": " ".join(STATUS)}
    variables["status"].attrs.update(flags)
    if target is not None:
        unit = (units or {}).get("loss", "1")
        variables["target"] = variable(target, "promised loss", unit)
        promised = estimate.value[:, columns["loss"]] - target
        variables["difference"] = variable(promised, "loss − promised loss", unit)
    coordinates = _coordinates(places, names)
    most = max(columns, key=lambda base: len(columns[base]))
    if len(columns[most]) > 1:
        numbers = torch.arange(len(columns[most])).numpy()
        notes = {"long_name": "head of the network", "units": "1", "heads": heads[most]}
        coordinates["channel"] = _index("channel", numbers, notes)
    return xarray.Dataset(variables, coordinates, dict(attrs) | dict(estimate.notes))


def say_where(surface: "xarray.Dataset", meta: Mapping[str, Any]) -> "xarray.Dataset":
    """Record where a surface lies: the subspace in the attributes, what each direction is on its coordinate.

    Args:
        surface: The surface.
        meta: Of the subspace.

    Returns:
        The surface with attributes ``subspace`` (kind, seed, norm, explained variance, eigenvalues, …) and, where the
        subspace comes from checkpoints, ``path`` (their coordinates, ``[points][z]``) and ``off_plane`` (their
        distances from it), and with ``direction`` on ``h1`` … ``hz``.

    Example:
        >>> from landform.scan.places import grid_places
        >>> samples = torch.tensor([9, 9])
        >>> flat = build_surface(grid_places(1, 2), torch.ones(2, 1).double(), samples=samples, unit="nat", attrs={})
        >>> found = say_where(flat, {"kind": "pca", "explained_variance": [0.75], "off_plane": [0.0]})
        >>> found.attrs["subspace"], found.h1.direction
        ({'kind': 'pca', 'explained_variance': [0.75]}, 'component 1, 75 %')
    """
    if not meta:
        return surface
    names = [str(name) for name in surface.coords if str(name)[:1] == "h" and str(name)[1:].isdigit()]
    found = surface.assign_attrs(subspace={key: value for key, value in meta.items() if key not in ABOUT_POINTS})
    for key, name in (("coordinates", "path"), ("off_plane", "off_plane")):
        if key in meta and len(names) == len(surface["loss"].dims):
            found.attrs[name] = meta[key]
    for name in names:
        text = _direction(int(name[1:]) - 1, meta)
        if text:
            found[name].attrs["direction"] = text
    return found


def _direction(number: int, meta: Mapping[str, Any]) -> str:
    kind, shares, values = (meta.get(key) for key in ("kind", "explained_variance", "eigenvalues"))
    if kind == "random":
        norm = meta.get("norm")
        return "random direction" + (f", {norm}-normalised" if norm in ("filter", "layer", "model") else "")
    if kind == "combined":
        for part in meta.get("parts", ()):
            if number < part.get("z", 0):
                return _direction(number, part)
            number -= part.get("z", 0)
    if kind == "bezier":
        along = "along the curve, " if "barrier" in meta else ""
        end = "control point" if number == 0 and not along else "second"
        return f"{along}from the first network, 0, to the {end}, 1"
    if kind == "between":
        return "from the first network, 0, to the second, 1"
    if kind == "plane_through":
        return f"from the first network, 0, to the {('second', 'third')[number]}, 1"
    if shares is not None and number < len(shares):
        return f"component {number + 1}, {100 * shares[number]:.3g} %"
    if values is not None and number < len(values):
        return f"eigenvector {number + 1}, λ = {values[number]:.3g}"
    return {"gradient": "gradient", "worst": "worst direction found"}.get(str(kind), "")


def join_splits(surfaces: Mapping[str, "xarray.Dataset"]) -> "xarray.Dataset":
    """Put surfaces of several data sets over the same places into one, along a dim ``split``.

    Args:
        surfaces: The surfaces by name, e.g. ``{"train": …, "test": …}``.

    Returns:
        One dataset with a dim ``split`` in front. Attributes that agree stay; the others become mappings by name.

    Example:
        >>> from landform.scan.places import grid_places
        >>> def flat(height, name):
        ...     losses = torch.full((2, 1), height, dtype=torch.float64)
        ...     samples, attrs = torch.tensor([9, 9]), {"data": name, "unit": "nat"}
        ...     return build_surface(grid_places(1, 2), losses, samples=samples, unit="nat", attrs=attrs)
        >>> both = join_splits({"train": flat(1.0, "a"), "test": flat(2.0, "b")})
        >>> both.loss.sel(split="test").values.tolist(), both.attrs
        ([2.0, 2.0], {'data': {'train': 'a', 'test': 'b'}, 'unit': 'nat'})
    """
    import xarray

    # object strings: Zarr has no stable form for those of a fixed length
    name = xarray.Variable(("split",), np.array(list(surfaces), dtype=object), {"long_name": "part of the data"})
    joined = xarray.concat(
        list(surfaces.values()), xarray.DataArray(name, name="split"), join="exact", combine_attrs="drop",
        data_vars="all", coords="minimal", compat="override",
    )  # fmt: skip
    keys = dict.fromkeys(key for surface in surfaces.values() for key in surface.attrs)
    for key in keys:
        found = {split: surface.attrs.get(key) for split, surface in surfaces.items()}
        first = next(iter(found.values()))
        joined.attrs[str(key)] = first if all(value == first for value in found.values()) else found
    return joined


def _array(values: Tensor, shape: Sequence[int]) -> Any:
    """Return an array of its own: xarray's variables are handed out, and the tensors they come from live on."""
    return values.reshape(tuple(shape)).numpy().copy()


def _status(estimate: Estimate, columns: Sequence[int]) -> Tensor:
    value, used = estimate.value[:, list(columns)], estimate.samples.cpu() > 0
    finite = torch.isfinite(value).all(dim=1).cpu()
    if not used.any():  # a bundle's label statistics count no samples, and there is nothing to interpolate between
        used = finite
    absent = value.isnan().any(dim=1).cpu() & ~used
    status = torch.where(used, MEASURED, INTERPOLATED)
    status[~finite] = NOT_FINITE
    status[absent] = MISSING
    return status.to(torch.int8)


def _coordinates(places: Places, names: Sequence[str]) -> "dict[str, xarray.Variable]":
    import xarray

    found: dict[str, xarray.Variable] = {}
    for k, name in enumerate(names):
        notes = {"long_name": f"coordinate {k + 1}", "units": "1"}
        if k in places.axes:
            found[name] = _index(name, places.lines[places.axes.index(k)].numpy(), notes)
        elif places.axes:
            found[name] = xarray.Variable((), float(places.h[0, k]), notes)
        else:
            found[name] = xarray.Variable(("node",), places.h[:, k].numpy().copy(), notes, fastpath=True)
    return found


def _index(name: str, values: "np.ndarray[Any, Any]", notes: dict[str, Any]) -> "xarray.Variable":
    """Return the coordinate of a dim; xarray asks of an array, but not of an index, whether it is dask's."""
    import pandas as pd  # type: ignore[import-untyped]  # xarray brings it, without stubs
    import xarray

    index = pd.Index(values, name=name)
    return xarray.IndexVariable((name,), index, notes, fastpath=True)  # type: ignore[no-untyped-call]


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
