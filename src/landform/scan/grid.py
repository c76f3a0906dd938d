"""`scan`: measure a loss surface at the nodes of a grid or at points, and label it."""

import dataclasses
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeGuard

import torch
from jaxtyping import Float64
from torch import Tensor

from landform.data import load_data
from landform.errors import InputError
from landform.loading import loading
from landform.scan import notices
from landform.scan.engine.space import AnySpace
from landform.scan.imprints import as_imprint, measure_imprint, promised
from landform.scan.nodes import node_metrics
from landform.scan.places import Places, default_grid, grid_places, point_places, task_grid
from landform.scan.surface import build_surface, join_splits, label, say_where, versions
from landform.scan.tasks import Options, measure_task
from landform.task import Task

if TYPE_CHECKING:
    import xarray

    from landform.imprint.imprint import Imprint
    from landform.view.accessor import SurfaceAccessor


def scan(
    subject: "Imprint | Task",
    subspace: AnySpace | None = None,
    *,
    grid: int | Sequence[int] | None = None,
    points: Float64[Tensor, "points z"] | Sequence[Sequence[float | int]] | None = None,
    ranges: Sequence[Sequence[float | int]] | None = None,
    axes: Sequence[int] | None = None,
    at: Sequence[float | int] | Tensor | None = None,
    data: object = None,
    tolerance: float | int | tuple[str, float] = 0.0,
    confidence: float = 0.99,
    subset: int | None = None,
    target: Literal["data", "population"] = "data",
    seed: int = 0,
    engine: str = "auto",
    batch_size: int | None = None,
    executor: object = None,
    workers: int | None = None,
    dask: object = None,
    store: str | Path | None = None,
    storage_options: Mapping[str, Any] | None = None,
    check: int | None = None,
    progress: bool | None = None,
) -> "xarray.Dataset":
    """Measure the loss over a subspace, at the nodes of a grid or at points of your own.

    The loss at h is the data-set loss of the network with parameters origin + Σ_i h_i·direction_i, over all samples. An
    imprint is input-independent, so its loss comes from one forward pass a point ("collapsed"); a few points are then
    measured again the long way, with every sample going through the network. With an option that is about samples,
    engines, workers or stores, an imprint is measured the long way everywhere.

    Args:
        subject: An imprint, or a task together with a subspace. The metrics of a task are measured too, and all of its
            data sets, which then make a dim ``split``.
        subspace: Where to look with a task; an imprint has its own. A curve has one coordinate.
        grid: Nodes per axis, one number or one per axis. None: an imprint's pattern nodes (every 2nd, 4th, … where
            z ≥ 3 makes more than 100,000); for a task 65 (z = 1) or 33 × 33 (z = 2), and with a tolerance 257 or
            129 × 129, since fine nodes cost next to nothing then (33 × 33 at ±2 %: 115 passes, 129 × 129: 134).
        points: Points to measure instead, shape ``[points, z]``; the result then has a ``node`` dim.
        ranges: (lo, hi) of each coordinate. None: the subspace's own (``subspace.ranges``; [−1, 1] for random
            directions, around the checkpoints for those of a trajectory), [0, 1] where it has none. Those of an
            imprint lie within [0, 1]: nothing is promised outside.
        axes: Numbers of the coordinates that vary, e.g. ``(1, 2)`` for a plane in a space of 100; all by default.
        at: A point ``[z]`` through which such a slice goes; the middle of the ranges by default.
        data: Another data set, e.g. a test split. The ``target`` of an imprint is then what its labels predict
            (`landform.response.transfer`). Several by name, ``{"train": …, "test": …}``, give a dim ``split``.
        tolerance: Error allowed, at all nodes at once: a fraction of the surface's range (1–99 % quantiles), or
            ``("absolute", x)`` in loss units. Coarse nodes are then measured on all samples, finer ones on few, the
            finest interpolated (`landform.scan.sampler.Multilevel`). 0, the default, measures every node on all.
        confidence: Of the intervals, for all nodes at once; 0.99 by default, since a surface is looked at as a whole.
        subset: Measure every point on so many samples only, drawn at random and the same everywhere, with their
            standard error and interval; all by default.
        target: What an interval is about: ``"data"``, the loss over this data set, or ``"population"``, the loss over
            what the samples were drawn from, which the whole data set only estimates.
        seed: Which random samples.
        engine: How losses are computed; ``"auto"`` chooses.
        batch_size: Samples a forward pass; None lets the engine choose.
        executor: Where: anything with the interface of `concurrent.futures.Executor`. This process by default.
        workers: Start so many processes of one thread each on this machine, with dask.
        dask: Address of a dask scheduler, ``"tcp://host:8786"``, or a client.
        store: A folder or URL (``"s3://bucket/key"``) where answers are kept as they come. If the process dies, the
            same call goes on from there; a store of another scan is refused. Several data sets have one each, below.
        storage_options: Options of the file system of ``store``, as fsspec takes them.
        check: At how many random points (seed 0) an imprint is measured the long way. None: up to 4, fewer (but one)
            for large networks on large data. 0 for none. With ``tolerance``: how many random points are measured on
            all samples, to say how much of the volume may lie outside; None: a tenth of the work.
        progress: Show a bar on stderr; None: on a terminal, when it takes longer than a second.

    Returns:
        A dataset with ``loss``, ``loss_stderr`` (0: exact), ``loss_lower`` and ``loss_upper`` (which hold at all points
        at once), ``samples``, ``status``, the same for each metric, and for imprints ``target`` and ``difference``, on
        the true coordinates ``h1`` … ``hz``. Values that are not finite stay as they are. Where the network's dtype
        cannot hold a coordinate, ``target`` is that of the rounded one, which is what the network was given.
        ``attrs`` say where it comes from; ``checked_difference`` is the largest difference to the long way.
        After Ctrl-C what was measured is returned, with a warning, and ``attrs["complete"]`` is False. The nodes of a
        grid are visited from coarse to fine, so that this is the whole box, more coarsely: nodes in between are
        interpolated (``status`` 1, ``samples`` 0, no interval), the others missing, as points of a list are.

    Raises:
        InputError: If subject and subspace do not fit, or the grid, the points or the options cannot be.
        DataError: If there is no data, or they do not fit the loss.
        StoreError: A store of another scan (what differs is named), or one that cannot be read or written.
        ExecutorError: Workers that cannot be reached, or died; a store keeps what was finished.

    Cost:
        An imprint: one row of a forward pass a point. A task: one pass over the data a point. With a store: a file a
        tile of some tenths of a second. Results do not depend on the number of workers, only, in their last digits, on
        the number of threads that a matrix product uses.

    References:
        That an input-independent network needs no data but the label counts is Theorem 1 of Czarnecki, Osindero,
        Pascanu, Jaderberg, arXiv 1912.07559.

    Example:
        >>> from landform.subspace import Subspace
        >>> origin = {"weight": torch.zeros(1, 1), "bias": torch.zeros(1)}
        >>> line = Subspace(origin, ({"bias": torch.ones(1)},))
        >>> task = Task(torch.nn.Linear(1, 1), "mse", (torch.zeros(2, 1), torch.tensor([[0.0], [2.0]])))
        >>> scan(task, line, grid=3, ranges=[(0, 2)]).loss.values.tolist()  # ½h² + ½(h − 2)²
        [2.0, 1.0, 2.0]
    """
    with loading():
        _name_accessor()
    options = Options(
        tolerance=tolerance,
        confidence=confidence,
        subset=subset,
        target=target,
        seed=seed,
        engine=engine,
        batch_size=batch_size,
        executor=executor,
        workers=workers,
        dask=dask,
        store=store,
        storage_options=storage_options,
        check=check,
        progress=progress,
    )
    made = as_imprint(subject)
    if made is not None:
        if subspace is not None:
            raise InputError("an imprint has its own subspace; to look elsewhere, scan(imprint.task, subspace)")
        places = _imprint_places(made, grid, points, ranges, axes, at)
    elif isinstance(subject, Task):
        if subspace is None:
            raise InputError("a task needs a subspace to look along: scan(task, Subspace(origin, directions))")
        places = _task_places(subspace, grid, points, ranges, axes, at, sampled=options.sampled)
        if _several(data):
            subject, data = subject.replace(data=data), None
        if data is None and len(subject.splits) > 1:
            data = {name: subject.split(name).data for name in subject.splits}
    else:
        raise InputError(f"scan measures an Imprint or a Task, got {type(subject).__name__}")
    if not _several(data):
        return _surface(subject, subspace, places, data, options)
    found = {}
    for name, part in data.items():
        below = options if store is None else dataclasses.replace(options, store=f"{str(store).rstrip('/')}/{name}")
        found[name] = _surface(subject, subspace, places, part, below)
        if not found[name].attrs["complete"]:
            break
    return join_splits(found)


def _several(data: object) -> TypeGuard[Mapping[str, object]]:
    """Return whether these are data sets by name, not one data set whose inputs are a mapping of tensors."""
    return isinstance(data, Mapping) and bool(data) and not any(isinstance(value, Tensor) for value in data.values())


def _surface(
    subject: "Imprint | Task", subspace: AnySpace | None, places: Places, data: object, options: Options
) -> "xarray.Dataset":
    """Measure on one data set."""
    begin = time.perf_counter()
    made = as_imprint(subject)
    if made is not None and options.plain and not made.reads_input:
        found = measure_imprint(made, places, data=data, check=options.check, progress=options.progress)
        samples = torch.where(found.measured, found.attrs["n_samples"], 0)
        complete, done, losses = bool(found.measured.all()), int(found.measured.sum()), found.losses
        attrs = found.attrs | _cost(begin, complete=complete) | {"evaluations": done}
        if not complete:
            notices.interrupted(done, len(places.h))
            if attrs["n_samples"]:  # without, nothing would tell interpolated nodes from measured ones
                losses = places.fill(losses, found.measured)
        return build_surface(places, losses, target=found.target, samples=samples, unit=attrs["unit"], attrs=attrs)
    goal = None
    if made is not None:
        other = None if data is None else load_data(data)
        if made.task is None or (other is None and not made.task.has_data):
            raise InputError("this imprint was loaded without data; pass data=… (--data on the command line)")
        task = made.task if other is None else made.task.replace(data=other)
        space: AnySpace = made.subspace
        goal = promised(made, places, len(task.heads()), other)
    else:
        assert subspace is not None
        assert isinstance(subject, Task)
        task = subject if data is None else subject.replace(data=data)
        space = subspace
    measured = measure_task(task, space, places, options)
    estimate = measured.run.estimate
    if not measured.run.complete:
        notices.interrupted(int((estimate.samples > 0).sum()), len(places.h))
    else:
        notices.sampled(estimate.notes, task.n)
    done = measured.run.complete
    extra, complete = node_metrics(
        task, space, places, estimate, compute=done, store=measured.store, progress=options.progress
    )
    if done and not complete:
        text = f"interrupted: {', '.join(task.node_metrics)} are not measured at all nodes, everything else is"
        warnings.warn(text, stacklevel=3)
    attrs = measured.attrs | _cost(begin, complete=complete)
    units = {"loss": attrs["unit"]}
    surface = label(places, estimate, measured.quantities, units=units, target=goal, extra=extra, attrs=attrs)
    return surface if made is not None else say_where(surface, getattr(space, "meta", None) or {})


def _name_accessor() -> None:
    """Give xarray's datasets the accessor ``landform``; what draws is loaded when it is first used."""
    import xarray

    def accessor(surface: "xarray.Dataset") -> "SurfaceAccessor":
        from landform.view.accessor import SurfaceAccessor

        return SurfaceAccessor(surface)

    if not hasattr(xarray.Dataset, "landform"):
        xarray.register_dataset_accessor("landform")(accessor)  # type: ignore[no-untyped-call]


def _cost(begin: float, *, complete: bool) -> dict[str, Any]:
    return {"complete": complete, "seconds": time.perf_counter() - begin, "versions": versions()}


def _imprint_places(
    imprint: "Imprint", grid: Any, points: Any, ranges: Any, axes: Sequence[int] | None, at: Any
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
    subspace: AnySpace, grid: Any, points: Any, ranges: Any, axes: Sequence[int] | None, at: Any, *, sampled: bool
) -> Places:
    if points is not None:
        return _points(subspace.z, grid, points, ranges, axes, at)
    nodes = task_grid(subspace.z, axes, sampled=sampled) if grid is None else grid
    box = getattr(subspace, "ranges", None) if ranges is None else ranges
    return grid_places(subspace.z, nodes, ranges=box, axes=axes, at=at)


def _points(z: int, grid: Any, points: Any, *others: Any) -> Places:
    if any(other is not None for other in (grid, *others)):
        raise InputError("points= says where to look by itself; leave out grid, ranges, axes and at")
    return point_places(z, points)
