"""A list of nodes on nested levels as a full grid: what was not measured is the mean of its two parents."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from landform.errors import InputError
from landform.mesh import Mesh
from landform.view.read import Floats

if TYPE_CHECKING:
    import xarray

INTERPOLATED = 1
DROPPED = ("samples", "level", "status")
"""Variables that are facts about nodes, which nothing lies between."""


def filled(surface: "xarray.Dataset") -> "xarray.Dataset":
    """Return the full grid of a list of nodes.

    Args:
        surface: A dataset with dim ``node``, coordinates ``h1`` … ``hz`` and ``level``; the nodes of the coarsest level
            are those of a grid, and each further level halves its cells.

    Returns:
        The dataset on the finest level's grid, with ``status`` 1 where a value is the mean of its parents.

    Raises:
        InputError: If there is no ``level``, or the nodes are not those of such a mesh.
    """
    import xarray

    if "level" not in surface:
        raise InputError("a list of points belongs to no mesh; to_grid needs a grid, or nodes with a variable 'level'")
    names = sorted((str(n) for n in surface.coords if str(n)[:1] == "h" and surface[n].dims == ("node",)), key=_number)
    level = np.asarray(surface["level"].values, dtype=np.int64)
    depth = int(level.max())
    coarse = [np.unique(surface[name].values[level == level.min()]) for name in names]
    if any(len(line) < 2 for line in coarse):
        raise InputError("the nodes of the coarsest level do not span a box; to_grid needs at least two an axis")
    fine = [_subdivided(line, depth - int(level.min())) for line in coarse]
    index = [_index(line, surface[name].values) for line, name in zip(fine, names, strict=True)]
    mesh = Mesh(tuple(len(line) - 1 for line in fine))
    result = {}
    for key, field in surface.data_vars.items():
        if "node" not in field.dims:
            result[key] = field.variable
            continue
        others = [dim for dim in field.dims if dim != "node"]
        values = field.transpose("node", *others).values
        if key in DROPPED:
            blank = {"status": INTERPOLATED}.get(str(key), 0)
            grid = np.full((*mesh.shape, *values.shape[1:]), blank, dtype=values.dtype)
            grid[tuple(index)] = values
        else:
            grid = _upwards(mesh, depth - int(level.min()), index, values.astype(np.float64))
        result[key] = xarray.Variable((*names, *others), grid, field.attrs)
    if "status" not in result:
        status = np.full(mesh.shape, INTERPOLATED, dtype=np.int8)
        status[tuple(index)] = 0
        result["status"] = xarray.Variable(tuple(names), status)
    result.pop("level", None)
    coordinates: dict[Any, Any] = {key: value for key, value in surface.coords.items() if "node" not in value.dims}
    coordinates |= {
        name: xarray.Variable((name,), line, surface[name].attrs) for name, line in zip(names, fine, strict=True)
    }
    return xarray.Dataset(result, coordinates, surface.attrs)


def _upwards(mesh: Mesh, depth: int, index: list[NDArray[np.int64]], values: Floats) -> Floats:
    """Fill the mesh from the coarsest level on: what is known stays, the rest is interpolated."""
    known = np.zeros(mesh.shape, dtype=bool)
    known[tuple(index)] = True
    given = np.zeros((*mesh.shape, *values.shape[1:]))
    given[tuple(index)] = values
    built: Floats | None = None
    for step in (1 << (depth - level) for level in range(depth + 1)):
        every = tuple(slice(None, None, step) for _ in mesh.cells)
        here, there = given[every], known[every]
        if built is None:
            if not there.all():
                raise InputError("a node of the coarsest level is missing; to_grid cannot fill in from nothing")
            built = here.copy()
            continue
        coarse = Mesh(tuple(n - 1 for n in built.shape[: len(mesh.cells)]))
        vertices, weights = (found.numpy() for found in coarse.locate(coarse.refined().nodes()))
        flat = built.reshape(coarse.n_nodes, *values.shape[1:])
        parents = combine(flat, vertices, weights).reshape(here.shape)
        built = np.where(there.reshape(*there.shape, *[1] * (here.ndim - there.ndim)), here, parents)
    assert built is not None
    return built


def _subdivided(line: Floats, times: int) -> Floats:
    parts = 1 << times
    found: Floats = np.interp(np.arange((len(line) - 1) * parts + 1) / parts, np.arange(len(line)), line)
    return found


def _index(line: Floats, values: Any) -> NDArray[np.int64]:
    position = np.interp(np.asarray(values, dtype=np.float64), line, np.arange(len(line), dtype=np.float64))
    found = np.rint(position).astype(np.int64)
    if not bool((np.abs(line[found] - values) <= 1e-6 * np.ptp(line) / (len(line) - 1)).all()):
        raise InputError("the nodes are not those of a mesh whose cells are halved level by level")
    return found


def _number(name: str) -> int:
    return int(name[1:])


def combine(flat: Floats, vertices: NDArray[np.int64], weights: Floats) -> Floats:
    """Return Σ_k w_k·v_k, in which a vertex of weight 0 has no part even if its value is not finite.

    Args:
        flat: Nodal values, ``[nodes, …]``.
        vertices: Numbers of nodes, ``[points, k]``.
        weights: ``[points, k]``.

    Returns:
        ``[points, …]``.

    Example:
        >>> combine(np.array([1.0, np.nan]), np.array([[0, 1]]), np.array([[1.0, 0.0]])).tolist()
        [1.0]
    """
    total = np.zeros((len(vertices), *flat.shape[1:]))
    with np.errstate(invalid="ignore"):
        for k in range(vertices.shape[1]):
            w = weights[:, k].reshape(-1, *[1] * (flat.ndim - 1))
            total += np.where(w == 0, 0.0, w * flat[vertices[:, k]])
    return total
