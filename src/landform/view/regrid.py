"""Surfaces on other nodes: the piecewise-linear interpolant of what was measured, and the measured nodes alone."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from landform.errors import InputError
from landform.mesh import Mesh
from landform.view.levels import DROPPED, INTERPOLATED, combine, filled
from landform.view.read import Floats, axes_of

if TYPE_CHECKING:
    import xarray

SNAP = 1e-9
"""Points closer to a node than this share of a cell are that node: coordinates carry rounding."""


def to_grid(surface: "xarray.Dataset", nodes: int | Sequence[int] | None = None) -> "xarray.Dataset":
    """Interpolate a surface linearly on the Kuhn mesh of its own nodes.

    On each simplex the value is linear in h; nodes that fall on nodes of the surface keep their values bit by bit. A
    list of nodes with levels is filled level by level first: a node that was not measured is the mean of its two
    parents. Nothing is invented: where a node of the simplex is not finite, neither is the result, and nothing is
    extrapolated.

    Args:
        surface: A grid over ``h1`` … ``hz``, or a list of nodes (dim ``node``) with ``level``, as a scan that
            refines gives.
        nodes: Nodes per axis, one number or one for each, over the same box. None: a grid's own nodes, or the finest of
            a list.

    Returns:
        A dataset over a grid. Values, interval ends and standard errors are interpolated (of a standard error that is
        an upper bound, since errors may be correlated); interval ends still hold at all points at once for the
        interpolant of the true values, and say nothing about what lies between its nodes. ``samples`` is 0 and
        ``status`` 1 (interpolated) but at nodes of the surface.

    Raises:
        InputError: If there are fewer than 2 nodes an axis, the surface is a list of points without levels, or its
            nodes are those of no mesh.

    Cost:
        One sort of z numbers a node; z = 2 and 257 × 257 take tens of milliseconds a variable.

    Example:
        >>> import xarray as xr
        >>> plane = xr.Dataset({"loss": (("h1", "h2"), [[0.0, 1.0], [2.0, 3.0]])}, {"h1": [0.0, 1.0], "h2": [0.0, 1.0]})
        >>> to_grid(plane, 3).loss.values.tolist()
        [[0.0, 0.5, 1.0], [1.0, 1.5, 2.0], [2.0, 2.5, 3.0]]
    """
    names = axes_of(surface)
    if names == ("node",):
        surface = filled(surface)
        names = axes_of(surface)
    lines = [np.asarray(surface[name].values, dtype=np.float64) for name in names]
    wanted = _lines(lines, nodes)
    if all(np.array_equal(a, b) for a, b in zip(lines, wanted, strict=True)):
        return surface
    mesh = Mesh(tuple(len(line) - 1 for line in lines))
    unit = [_positions(old, new) / (len(old) - 1) for old, new in zip(lines, wanted, strict=True)]
    h = torch.from_numpy(np.stack(np.meshgrid(*unit, indexing="ij"), axis=-1).reshape(-1, len(names)))
    vertices, weights = (found.numpy() for found in mesh.locate(h))
    return _rebuilt(surface, names, wanted, vertices, weights)


def measured_nodes(surface: "xarray.Dataset") -> "xarray.Dataset":
    """Return the nodes that were measured, as a list: what a file needs to hold, and `to_grid` undoes.

    Args:
        surface: A grid with ``status``.

    Returns:
        A dataset with a dim ``node``, coordinates ``h1`` … ``hz`` and the variables at the nodes that were not
        interpolated.

    Raises:
        InputError: If the surface is a list already, or has no ``status``.

    Example:
        >>> import xarray as xr
        >>> line = {"loss": ("h1", [1.0, 1.5, 2.0]), "status": ("h1", [0, 1, 0]), "level": ("h1", [0, 1, 0])}
        >>> few = measured_nodes(xr.Dataset(line, {"h1": [0.0, 0.5, 1.0]}))
        >>> few.h1.values.tolist(), to_grid(few, 3).loss.values.tolist()
        ([0.0, 1.0], [1.0, 1.5, 2.0])
    """
    names = axes_of(surface)
    if names == ("node",) or "status" not in surface:
        raise InputError("the measured nodes are chosen from a grid with a variable 'status'")
    flat = surface.stack(node=names).reset_index("node")
    kept: Any = flat.isel(node=np.flatnonzero(flat["status"].values != INTERPOLATED))
    found: xarray.Dataset = kept.drop_vars("node", errors="ignore").transpose("node", ...).assign_attrs(surface.attrs)
    return found


def _lines(lines: list[Floats], nodes: int | Sequence[int] | None) -> list[Floats]:
    if nodes is None:
        return lines
    counts = list(nodes) if isinstance(nodes, Sequence) else [nodes] * len(lines)
    if len(counts) != len(lines) or any(isinstance(n, bool) or not isinstance(n, int) or n < 2 for n in counts):
        raise InputError(
            f"nodes is {nodes!r}; wanted whole numbers of at least 2, one or one for each of {len(lines)} axes"
        )
    return [np.linspace(line[0], line[-1], n) for line, n in zip(lines, counts, strict=True)]


def _positions(old: Floats, new: Floats) -> Floats:
    """Return new coordinates in units of the old nodes' numbers, those on a node exactly so."""
    if len(old) < 2 or not bool((np.diff(old) > 0).all()):
        raise InputError("coordinates must increase along an axis of at least two nodes; sort the surface first")
    found: Floats = np.interp(new, old, np.arange(len(old), dtype=np.float64))
    near = np.rint(found)
    return np.where(np.abs(found - near) < SNAP, near, found)


def _rebuilt(
    surface: "xarray.Dataset",
    names: tuple[str, ...],
    lines: list[Floats],
    vertices: NDArray[np.int64],
    weights: Floats,
) -> "xarray.Dataset":
    import xarray

    shape = tuple(len(line) for line in lines)
    on_node = (weights > 1 - SNAP).any(axis=1)
    nearest = np.take_along_axis(vertices, weights.argmax(axis=1)[:, None], axis=1)[:, 0]
    result = {}
    for key, field in surface.data_vars.items():
        if not set(names) <= set(field.dims):
            result[key] = field.variable
            continue
        others = [dim for dim in field.dims if dim not in names]
        values = field.transpose(*names, *others).values
        flat = values.reshape(-1, *values.shape[len(names) :])
        if key in DROPPED:
            held = flat[nearest]
            blank = {"status": INTERPOLATED}.get(str(key), 0)
            mixed = np.where(on_node.reshape(-1, *[1] * (held.ndim - 1)), held, blank).astype(values.dtype)
        else:
            mixed = combine(flat.astype(np.float64), vertices, weights)
        result[key] = xarray.Variable((*names, *others), mixed.reshape(*shape, *mixed.shape[1:]), field.attrs)
    result.pop("level", None)
    coordinates: dict[Any, Any] = {
        key: value for key, value in surface.coords.items() if not set(names) & set(value.dims)
    }
    for name, line in zip(names, lines, strict=True):
        coordinates[name] = xarray.Variable((name,), line, surface[name].attrs)
    return xarray.Dataset(result, coordinates, surface.attrs)
