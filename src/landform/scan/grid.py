"""`scan`: measure a loss surface, exactly, point by point."""

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float64
from torch import Tensor, nn

from landform.data import Data, load_data
from landform.errors import InputError
from landform.imprint.collapsed import BATCH, losses_at, outputs_at
from landform.imprint.imprint import Imprint
from landform.response import respond_like, transfer
from landform.scan.places import Places, default_grid, grid_places, point_places
from landform.scan.surface import brief, build_surface, unit_of, versions
from landform.subspace import Subspace
from landform.task import Task

if TYPE_CHECKING:
    import xarray

DEFAULT_GRID = {1: 65, 2: 33}
"""Nodes per axis for a plain task, where each node is a pass over the data."""
CHECK_WORK = 2e11
"""Multiply-adds that the cross-check of a made surface may cost by default: some ten seconds on a laptop."""
CHECK_POINTS = 4
CHECK_TOLERANCE = 1e-5
MAX_NUMBERS = 1 << 25
"""Activations of the widest layer that a batch of points may hold (128 MB in float32)."""


@dataclass(frozen=True)
class _Found:
    """What was measured and what is to be said about it."""

    losses: Float64[Tensor, "points heads"]
    target: Float64[Tensor, "points heads"] | None
    done: int
    attrs: dict[str, Any]


def scan(
    subject: Imprint | Task,
    subspace: Subspace | None = None,
    *,
    grid: int | Sequence[int] | None = None,
    points: Float64[Tensor, "points z"] | Sequence[Sequence[float | int]] | None = None,
    ranges: Sequence[Sequence[float | int]] | None = None,
    axes: Sequence[int] | None = None,
    at: Sequence[float | int] | Tensor | None = None,
    data: object = None,
    check: int | None = None,
    progress: bool | None = None,
) -> "xarray.Dataset":
    """Measure the loss over a subspace, at the nodes of a grid or at points of your own.

    The loss at h is the data-set loss of the network with parameters origin + Σ_i h_i·direction_i, over all samples. An
    imprint is input-independent, so its loss comes from one forward pass a point ("collapsed"); a few points are then
    measured again the long way, with every sample going through the network.

    Args:
        subject: An imprint, or a task together with a subspace.
        subspace: Where to look with a task; an imprint has its own.
        grid: Nodes per axis, one number or one per axis. None: an imprint's pattern nodes (every 2nd, 4th, … where
            z ≥ 3 makes more than 100,000); for a task 65 (z = 1) or 33 × 33 (z = 2).
        points: Points to measure instead, shape ``[points, z]``; the result then has a ``node`` dim.
        ranges: (lo, hi) of each coordinate, [0, 1] by default. Those of an imprint lie within [0, 1]: nothing is
            promised outside.
        axes: Numbers of the coordinates that vary, e.g. ``(1, 2)`` for a plane in a space of 100; all by default.
        at: A point ``[z]`` through which such a slice goes; the middle of the ranges by default.
        data: Another data set, e.g. a test split. The ``target`` of an imprint is then what its labels predict
            (`landform.response.transfer`).
        check: At how many random points (seed 0) an imprint is measured the long way. None: up to 4, fewer (but one)
            for large networks on large data. 0 for none.
        progress: Show a bar on stderr; None: on a terminal, when it takes longer than a second.

    Returns:
        A dataset with ``loss``, ``loss_stderr`` (0: exact), ``samples`` and for imprints ``target`` and ``difference``,
        on the true coordinates ``h1`` … ``hz``. Values that are not finite stay as they are. Where the network's dtype
        cannot hold a coordinate, ``target`` is that of the rounded one, which is what the network was given.
        ``attrs`` say where it comes from; ``checked_difference`` is the largest difference to the long way.
        After Ctrl-C the points not measured are NaN and ``attrs["complete"]`` is False.

    Raises:
        InputError: If subject and subspace do not fit, or the grid or the points cannot be.
        DataError: If there is no data, or they do not fit the loss.

    Cost:
        An imprint: one row of a forward pass a point. A task: one pass over the data a point.

    References:
        That an input-independent network needs no data but the label counts is Theorem 1 of Czarnecki, Osindero,
        Pascanu, Jaderberg, arXiv 1912.07559.

    Example:
        >>> origin = {"weight": torch.zeros(1, 1), "bias": torch.zeros(1)}
        >>> line = Subspace(origin, ({"bias": torch.ones(1)},))
        >>> task = Task(nn.Linear(1, 1), "mse", (torch.zeros(2, 1), torch.tensor([[0.0], [2.0]])))
        >>> scan(task, line, grid=3, ranges=[(0, 2)]).loss.values.tolist()  # ½h² + ½(h − 2)²
        [2.0, 1.0, 2.0]
    """
    from landform.view.accessor import register

    begin = time.perf_counter()
    register()
    if isinstance(subject, Imprint):
        if subspace is not None:
            raise InputError("an imprint has its own subspace; to look elsewhere, scan(imprint.task, subspace)")
        places = _imprint_places(subject, grid, points, ranges, axes, at)
        found = _scan_imprint(subject, places, data, check, progress)
    elif isinstance(subject, Task):
        if subspace is None:
            raise InputError("a task needs a subspace to look along: scan(task, Subspace(origin, directions))")
        if check is not None:
            raise InputError("check= is for imprints; a task is measured with every sample as it is")
        places = _task_places(subspace, grid, points, ranges, axes, at)
        found = _scan_task(subject if data is None else subject.replace(data=data), subspace, places, progress)
    else:
        raise InputError(f"scan measures an Imprint or a Task, got {type(subject).__name__}")
    samples = torch.full((len(places.h),), found.attrs["n_samples"])
    samples[found.done :] = 0
    complete = found.done == len(places.h)
    if not complete:
        text = f"interrupted: {found.done} of {len(places.h)} points are measured, the others are NaN"
        warnings.warn(text, stacklevel=2)
    attrs = found.attrs | {
        "evaluations": found.done,
        "complete": complete,
        "seconds": time.perf_counter() - begin,
        "versions": versions(),
    }
    return build_surface(places, found.losses, target=found.target, samples=samples, unit=attrs["unit"], attrs=attrs)


def _scan_imprint(imprint: Imprint, places: Places, data: object, check: int | None, progress: bool | None) -> _Found:
    other = None if data is None else load_data(data)
    task = imprint.task if imprint.task is not None and imprint.task.has_data else None
    if other is not None and imprint.task is not None:
        task = imprint.task.replace(data=other)
    measure = _collapsed(imprint, other)
    widest = max((int(width) for width in imprint.meta.get("widths", ())), default=1)
    losses, done = _run(measure, places.h, max(16, min(BATCH, MAX_NUMBERS // widest)), progress)
    dtype = next(iter(imprint.subspace.origin.values())).dtype
    target = imprint.target(places.h.to(dtype).double()).reshape(len(places.h), -1).expand_as(losses).clone()
    attrs = _attrs(imprint.model, places, imprint.response.name, imprint.response.unit, dtype, "collapsed")
    held = other if other is not None else task.data if task is not None else None
    attrs |= _about(held)
    if held is None and imprint.certificate is not None:
        attrs["data_hash"] = imprint.certificate.data_hash
    attrs["title"] = f"{imprint.pattern.name} on {attrs['data']}" if attrs["data"] else imprint.pattern.name
    attrs["range"] = list(imprint.range)
    if other is not None:
        lo, hi = imprint.range
        maps = [transfer(r, respond_like(r, other.targets, weights=other.weights), lo, hi) for r in imprint.responses]
        target = torch.stack([m.remap(column) for m, column in zip(maps, target.T, strict=True)], dim=1)
        attrs |= {"transfer": maps[0].condition, "transfer_order": maps[0].order}
    points, difference = (0, float("nan"))
    if task is not None and done == len(places.h):
        points, difference = _check(imprint, task, measure, check)
    return _Found(losses, target, done, attrs | {"checked_points": points, "checked_difference": difference})


def _collapsed(imprint: Imprint, other: Data | None) -> Callable[[Tensor], Tensor]:
    """Return the function that measures a batch of points from the outputs of one sample."""
    if other is None:
        return lambda h: losses_at(imprint, h)
    responses = [respond_like(r, other.targets, weights=other.weights) for r in imprint.responses]

    def measure(h: Tensor) -> Tensor:
        heads = zip(outputs_at(imprint, h), responses, strict=True)
        return torch.stack([response.loss(outputs.double()) for outputs, response in heads], dim=1)

    return measure


def _check(imprint: Imprint, task: Task, measure: Callable[[Tensor], Tensor], check: int | None) -> tuple[int, float]:
    """Send all data through the network at a few points; return how many and the largest difference."""
    work = float(imprint.parameters) * task.data.n
    count = max(1, min(CHECK_POINTS, int(CHECK_WORK / work))) if check is None else check
    if count < 1:
        return 0, float("nan")
    h = torch.rand(count, imprint.z, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    full = torch.stack([task.evaluate(imprint.subspace.at(point)).reshape(-1) for point in h])
    difference = float((full - measure(h)).abs().max())
    height = imprint.range[1] - imprint.range[0]
    if not difference <= CHECK_TOLERANCE * height:
        warnings.warn(
            f"with all data passed through the network, the loss differs by up to {difference:.2g}"
            f" ({difference / height:.1e} of the range) from the scan, which took the network to be input-independent;"
            " the data may not be those of the imprint, its weights were changed, or its dtype rounds that much",
            stacklevel=4,
        )
    return count, difference


def _scan_task(task: Task, subspace: Subspace, places: Places, progress: bool | None) -> _Found:
    data = task.data

    def measure(h: Tensor) -> Tensor:
        return torch.stack([task.evaluate(subspace.at(point)).reshape(-1) for point in h])

    losses, done = _run(measure, places.h, 1, progress)
    dtype = next((value.dtype for value in subspace.origin.values() if value.is_floating_point()), torch.float32)
    loss = task.loss_form.name
    attrs = _attrs(task.model, places, loss, unit_of(loss), dtype, "full") | _about(data)
    return _Found(losses, None, done, attrs | {"title": f"{task.name} on {attrs['data']}"})


def _run(
    measure: Callable[[Tensor], Tensor], h: Float64[Tensor, "points z"], batch: int, progress: bool | None
) -> tuple[Float64[Tensor, "points heads"], int]:
    """Measure batch by batch; after Ctrl-C return what there is and how many points that are."""
    from tqdm.auto import tqdm

    quiet = {None: None, True: False, False: True}[progress]  # to tqdm, None means: not on a terminal
    losses, done = torch.empty(0), 0
    with tqdm(total=len(h), desc="scan", unit="point", disable=quiet, delay=0 if progress else 1, leave=False) as bar:
        try:
            for part in torch.split(h, batch):
                values = measure(part).detach().cpu()
                if not done:
                    losses = torch.full((len(h), values.shape[1]), torch.nan, dtype=torch.float64)
                losses[done : done + len(part)] = values
                done += len(part)
                bar.update(len(part))
        except KeyboardInterrupt:
            if not done:
                raise
    return losses, done


def _imprint_places(
    imprint: Imprint, grid: Any, points: Any, ranges: Any, axes: Sequence[int] | None, at: Any
) -> Places:
    if points is None:
        nodes = default_grid(imprint.pattern, axes) if grid is None else grid
        places = grid_places(imprint.z, nodes, ranges=ranges, axes=axes, at=at)
    else:
        places = _points(imprint.z, grid, points, ranges, axes, at)
    if not bool(((places.h >= 0) & (places.h <= 1)).all()):
        raise InputError(
            "an imprint promises nothing outside [0, 1]; to look there, scan(imprint.task, imprint.subspace, ranges=…)"
        )
    return places


def _task_places(
    subspace: Subspace, grid: Any, points: Any, ranges: Any, axes: Sequence[int] | None, at: Any
) -> Places:
    if points is not None:
        return _points(subspace.z, grid, points, ranges, axes, at)
    varying = subspace.z if axes is None else len(axes)
    if grid is None and varying not in DEFAULT_GRID:
        raise InputError(
            f"a grid over {varying} coordinates costs a pass over the data for each of its nodes; choose the nodes per"
            f" axis (grid=…), a plane (axes=(1, 2)) or points of shape [points, {subspace.z}] (points=…)"
        )
    return grid_places(subspace.z, DEFAULT_GRID[varying] if grid is None else grid, ranges=ranges, axes=axes, at=at)


def _points(z: int, grid: Any, points: Any, *others: Any) -> Places:
    if any(other is not None for other in (grid, *others)):
        raise InputError("points= says where to look by itself; leave out grid, ranges, axes and at")
    return point_places(z, points)


def _attrs(model: Any, places: Places, loss: str, unit: str, dtype: torch.dtype, engine: str) -> dict[str, Any]:
    return {
        "loss": loss,
        "unit": unit,
        "model": type(model).__name__ if isinstance(model, nn.Module) else str(getattr(model, "__name__", model)),
        "dtype": str(dtype).removeprefix("torch."),
        "engine": engine,
        "grid": brief(places.shape),
    }


def _about(data: Data | None) -> dict[str, Any]:
    if data is None:
        return {"data": "", "data_hash": "", "n_samples": 0}
    return {"data": f"{data.name} ({data.split})", "data_hash": data.hash, "n_samples": data.n}
