"""`pca_plane`: the plane in which a trajectory of training moves most."""

from collections.abc import Iterable
from os import PathLike
from typing import Literal, get_args

import torch
from jaxtyping import Float64
from torch import Tensor, nn

from landform.calling import unwrap
from landform.checkpoints import Checkpoint, Trajectory
from landform.checkpoints.checkpoint import Point
from landform.checkpoints.files import rows_of
from landform.errors import InputError, unknown_name
from landform.subspace.projection import project
from landform.subspace.seeded import direction_dtype
from landform.subspace.select import Patterns, matched
from landform.subspace.subspace import Subspace
from landform.task import Task

Origin = Literal["last", "mean", "first"]
"""Which point of a trajectory h = 0 is."""

Points = Trajectory | Iterable[Point] | str | PathLike[str]
"""A trajectory, points of one, or a pattern over files or a folder of them."""

NUMBERS = 1 << 22
"""Numbers of all checkpoints together that are held at a time: 32 MiB in float64."""

_FLAT = 1e-12
"""Least share of the variance that an axis may have: less is rounding of float32 checkpoints."""


def pca_plane(
    points: Points,
    *,
    z: int = 2,
    origin: Origin = "last",
    model: nn.Module | Task | None = None,
    include: Patterns | None = None,
    exclude: Patterns | None = None,
    margin: float = 0.15,
) -> Subspace:
    """Return the space in which the points of a trajectory vary most, through its last point.

    With θ_i the n points and θ̄ their mean, the directions are the eigenvectors of Σ_i (θ_i − θ̄)(θ_i − θ̄)ᵀ with the
    largest eigenvalues, of length 1: coordinates are distances in parameter space. They come from the n × n matrix of
    inner products ⟨θ_i − θ̄, θ_j − θ̄⟩, which is added up over slices of parameters. The sign is such that the first
    point has no negative coordinate (the last one, with ``origin="first"``).

    A trajectory in many dimensions looks smooth in its plane whatever it does (a random walk makes Lissajous curves):
    look at ``explained_variance`` and ``off_plane``.

    Args:
        points: A `Trajectory`; or models, state dicts or files in order; or a pattern over files (``"ckpt/*.pt"``).
        z: Number of directions.
        origin: Which point h = 0 is: ``"last"`` by default, as then the plane goes through the trained network itself;
            ``"mean"`` is the plane that fits best; ``"first"``.
        model: The model, or a task of it, that the points are of: only its parameters are taken, under its names. None:
            what the points hold, without statistics of normalisation layers.
        include: Patterns over parameter names, e.g. ``"layer1.*"``; None for all, biases included, as training moves
            them.
        exclude: Patterns of what to leave out (it stays as in the origin).
        margin: By how much of their extent ``ranges`` reach beyond the points and the origin on each side.

    Returns:
        The subspace. ``meta`` has ``explained_variance`` (shares of the variance, one a direction), ``coordinates``
        (``[points][z]``) and ``off_plane`` (the distance of each point from the plane) as `landform.project` gives
        them, and ``steps``. Tensors are as in the origin's checkpoint, half-precision directions in float32.

    Raises:
        InputError: Fewer than z + 1 points, points that do not fit each other, are not finite, all equal, or vary in
            fewer than z directions.
        UnknownNameError: A pattern that matches nothing, or an unknown ``origin``.

    Cost:
        Points are read twice (a third time for their distances), a slice of 4 Mi numbers of all of them at a time;
        memory for z + 1 copies of the parameters, whatever n.

    References:
        Lorch, "Visualizing deep network training trajectories with PCA", 2016; Li, Xu, Taylor, Studer, Goldstein,
        arXiv 1712.09913, section 7. On what such plots cannot show: Antognini, Sohl-Dickstein, arXiv 1806.08805.

    Example:
        >>> flat = [{"w": torch.tensor([2.0 * a, 0.5 * b, 0.0, 3.0])} for a, b in ((1, 1), (-1, 1), (-1, -1), (1, -1))]
        >>> plane = pca_plane(flat)
        >>> [round(share, 6) for share in plane.meta["explained_variance"]], plane.meta["off_plane"]
        ([0.941176, 0.058824], [0.0, 0.0, 0.0, 0.0])
    """
    if origin not in get_args(Origin):
        raise unknown_name("origin", str(origin), get_args(Origin))
    if isinstance(z, bool) or not isinstance(z, int) or z < 1:
        raise InputError(f"z is {z!r}; wanted a number of directions, at least 1")
    module = model.model if isinstance(model, Task) else model
    if module is not None and not isinstance(module, nn.Module):
        raise InputError(f"model is {module!r}; wanted a torch.nn.Module, or a task of one")
    trajectory = trajectory_of(points, module)
    if len(trajectory) < z + 1:
        raise InputError(
            f"{len(trajectory)} points span at most {max(0, len(trajectory) - 1)} directions; wanted z = {z} of them,"
            f" so at least {z + 1} points"
        )
    names = _chosen(trajectory, module, include, exclude)
    base = trajectory[0 if origin == "first" else -1]
    products = _products(trajectory, names, base)
    centred = products - products.mean(0) - products.mean(1)[:, None] + products.mean()
    values, vectors = torch.linalg.eigh(centred)
    values, vectors = values.flip(0).clamp(min=0), vectors.flip(1)
    total = float(values.sum())
    if total <= 0:
        raise InputError("all points are equal, so there is no direction in which they vary; do they follow the model?")
    dimensions = int((values > _FLAT * total).sum())
    if dimensions < z:
        raise InputError(f"the points vary in {dimensions} directions only; wanted z = {z}: take a smaller z")
    weights = vectors[:, :z] / values[:z].sqrt()
    weights = weights - weights.mean(0)  # the mean point drops out of Σ_i w_i (θ_i − θ̄)
    heights = (products @ weights)[-1 if origin == "first" else 0]
    if origin == "mean":
        heights = heights - products.mean(0) @ weights
    weights = torch.where(heights < 0, -weights, weights)
    start, directions = _build(trajectory, names, base, weights, mean=origin == "mean")
    plane = Subspace(start, directions)
    found = project(plane, trajectory)
    meta = {
        "kind": "pca",
        "origin": origin,
        "points": len(trajectory),
        "steps": list(trajectory.steps),
        "explained_variance": (values[:z] / total).tolist(),
        "coordinates": found.coordinates.tolist(),
        "off_plane": found.off_plane.tolist(),
    }
    return plane.replace(meta=meta, ranges=_ranges(found.coordinates, margin))


def trajectory_of(points: Points, model: nn.Module | None) -> Trajectory:
    """Bring whatever holds points of a trajectory into one."""
    if isinstance(points, Trajectory):
        return points if model is None else _renamed(points, model)
    if isinstance(points, str | PathLike):
        return Trajectory.from_files(points, model=model)
    if isinstance(points, nn.Module) or not isinstance(points, Iterable):
        raise InputError(f"got {type(points).__name__}; wanted a Trajectory, several points, or a pattern over files")
    return Trajectory.of(points, model=model)


def _renamed(trajectory: Trajectory, model: nn.Module) -> Trajectory:
    """Check that a trajectory is of a model."""
    inner = unwrap(model)
    assert isinstance(inner, nn.Module)
    wanted = {name: tuple(value.shape) for name, value in inner.named_parameters()}
    first = trajectory[0]
    for name, shape in wanted.items():
        if name not in first.names:
            raise InputError(
                f"the trajectory has no '{name}', which {type(inner).__name__} has; is it of another model?"
            )
        if first.shape(name) != shape:
            raise InputError(
                f"'{name}' has shape {list(first.shape(name))} in the trajectory, {list(shape)} in"
                f" {type(inner).__name__}; is it of another model?"
            )
    extra = [name for name in first.names if name not in wanted]
    if extra:
        raise InputError(
            f"the trajectory has '{extra[0]}', which {type(inner).__name__} has not; is it of another model?"
        )
    return trajectory


def _chosen(
    trajectory: Trajectory, model: nn.Module | None, include: Patterns | None, exclude: Patterns | None
) -> tuple[str, ...]:
    aliases = {name: name for name in trajectory.names}
    if model is not None:
        first = {id(value): name for name, value in model.named_parameters()}
        aliases |= {name: first[id(value)] for name, value in model.named_parameters(remove_duplicate=False)}
    wanted = set(trajectory.names) if include is None else matched(include, aliases, "include")
    wanted -= set() if exclude is None else matched(exclude, aliases, "exclude")
    names = tuple(name for name in trajectory.names if name in wanted)
    if not names:
        raise InputError(f"no parameter is left to move (include={include!r}, exclude={exclude!r})")
    return names


def differences(trajectory: Trajectory, name: str, base: Checkpoint, rows: slice | None) -> Float64[Tensor, "points m"]:
    """Read some rows of a parameter at all points, less those of one of them, in float64."""
    at = base.read(name, rows).cpu().double().flatten()
    return torch.stack([point.read(name, rows).cpu().double().flatten() - at for point in trajectory])


def _products(trajectory: Trajectory, names: tuple[str, ...], base: Checkpoint) -> Float64[Tensor, "points points"]:
    """Add up the inner products of θ_i − θ_base; differences, so that what all points share does not cancel."""
    products = torch.zeros(len(trajectory), len(trajectory), dtype=torch.float64)
    for name in names:
        for rows in rows_of(base.shape(name), NUMBERS // len(trajectory)):
            values = differences(trajectory, name, base, rows)
            products += values @ values.T
    return products


def _build(
    trajectory: Trajectory,
    names: tuple[str, ...],
    base: Checkpoint,
    weights: Float64[Tensor, "points z"],
    *,
    mean: bool,
) -> tuple[dict[str, Tensor], tuple[dict[str, Tensor], ...]]:
    """Make the origin and the directions, slice by slice."""
    start = base.state()
    directions: tuple[dict[str, Tensor], ...] = tuple({} for _ in range(weights.shape[1]))
    for name in names:
        slices = rows_of(base.shape(name), NUMBERS // len(trajectory))
        parts, middle = [], []
        for rows in slices:
            values = differences(trajectory, name, base, rows)
            parts.append((weights.T @ values).to(direction_dtype(start[name])))
            if mean:
                middle.append(values.mean(0))
        whole = torch.cat(parts, dim=1)
        for direction, move in zip(directions, whole, strict=True):
            if bool(move.any()):
                direction[name] = move.reshape(start[name].shape).to(start[name].device)
        if mean:
            shift = torch.cat(middle).reshape(start[name].shape).to(start[name].device)
            start[name] = (start[name].double() + shift).to(start[name].dtype)
    return start, directions


def _ranges(coordinates: Float64[Tensor, "points z"], margin: float) -> list[tuple[float, float]]:
    found = []
    for column in torch.cat([coordinates, torch.zeros_like(coordinates[:1])]).T:
        lo, hi = float(column.min()), float(column.max())
        found.append((lo - margin * (hi - lo), hi + margin * (hi - lo)))
    return found
