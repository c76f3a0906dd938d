"""Measure a task: choose a sampler and an engine, open the store, find workers, run."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from landform.errors import InputError, StoreError
from landform.scan.engine.base import AbstractEngine
from landform.scan.engine.space import AnySpace
from landform.scan.estimate import tile_rule
from landform.scan.executor import open_pool
from landform.scan.identity import differ, first_values, hash_of, identity
from landform.scan.imprints import about, describe
from landform.scan.places import Places
from landform.scan.plan import build_engine, engine_name
from landform.scan.run import Run, run
from landform.scan.sampler import AbstractSampler, FullGrid, sample_order
from landform.scan.sampler.base import bring_forward
from landform.scan.store import ScanStore
from landform.scan.surface import unit_of
from landform.scan.worker import Factory
from landform.task import Task

if TYPE_CHECKING:
    from landform.scan.sampler import Multilevel


@dataclass(frozen=True, eq=False)
class Options:
    """How a task is to be measured; the options of `landform.scan` by the same names."""

    tolerance: float | tuple[str, float] = 0.0
    confidence: float = 0.99
    subset: int | None = None
    target: Literal["data", "population"] = "data"
    seed: int = 0
    engine: str = "auto"
    batch_size: int | None = None
    executor: object = None
    workers: int | None = None
    dask: object = None
    store: str | Path | None = None
    storage_options: Mapping[str, Any] | None = None
    check: int | None = None
    progress: bool | None = None

    @property
    def here(self) -> bool:
        """Whether this process is to compute."""
        return self.executor is None and self.workers is None and self.dask is None

    @property
    def sampled(self) -> bool:
        """Whether there is a tolerance, so that samples are chosen."""
        return isinstance(self.tolerance, tuple) or self.tolerance != 0

    @property
    def plain(self) -> bool:
        """Whether nothing is asked for that only a scan with samples can do."""
        asked = (self.subset, self.store, self.batch_size)
        untouched = self.engine == "auto" and self.target == "data" and self.here
        return untouched and not self.sampled and all(one is None for one in asked)


@dataclass(frozen=True, eq=False)
class Measured:
    """What was measured.

    Attributes:
        run: The run.
        quantities: Names of the estimate's columns.
        attrs: Attributes of the dataset.
        store: Where answers are kept, or None.
    """

    run: Run
    quantities: tuple[str, ...]
    attrs: dict[str, Any]
    store: ScanStore | None


def measure_task(task: Task, subspace: AnySpace, places: Places, options: Options) -> Measured:
    """Measure a task at places.

    Args:
        task: The task, with data.
        subspace: Where.
        places: At which points.
        options: How.

    Returns:
        The estimate and what is to be said about it.

    Raises:
        InputError: Options that do not fit the task or each other.
        StoreError: A store of another scan, or one that cannot be used.
        ExecutorError: Workers that cannot be reached, or were lost.
    """
    quantities = task.quantities()  # finds misfits of model, data and loss before anything is started
    sampler, random = _sampler(task, quantities, places, options)
    order = _order(task, options.seed) if random else None
    store = None if options.store is None else _store(task, subspace, places, quantities, options)
    engine, name = _engine(task, subspace, order, store, options)
    factory: Factory = functools.partial(_build, task, subspace, order, name, options.batch_size)
    if options.here:
        factory = functools.partial(_the, [engine], factory)
    del engine  # workers build their own; a second model here would only take memory
    rule = tile_rule(task, name)
    with open_pool(factory, executor=options.executor, workers=options.workers, dask=options.dask) as pool:
        done = run(sampler, pool, len(quantities), tile=rule, store=store, progress=options.progress)
    loss = task.loss_form.name
    origin = getattr(subspace, "origin", None) or subspace.at(places.h[0])  # a point of it copies what moves
    dtype = next((value.dtype for value in origin.values() if value.is_floating_point()), torch.float32)
    if task.settings.dtype is not None or dtype.itemsize < 4:
        dtype = task.settings.dtype or torch.float32  # in which outputs were computed, not in which weights are kept
    attrs = describe(task.model, places, loss, unit_of(loss), dtype, name) | about(task.data)
    attrs |= {
        "title": f"{task.name} on {attrs['data']}",
        "model_hash": hash_of(task.model),
        "tolerance": str(options.tolerance) if isinstance(options.tolerance, tuple) else options.tolerance,
        "confidence": options.confidence,
        "critical": done.estimate.critical.tolist(),
        "interval_target": options.target,
        "seed": options.seed,
        "batch_norm": task.settings.batch_norm,
        **({"autocast": str(task.settings.autocast).removeprefix("torch.")} if task.settings.autocast else {}),
        "complete": done.complete,
        "stored_evaluations": done.reused,
    }
    return Measured(done, quantities, attrs, store)


def _the(engine: list[AbstractEngine], factory: Factory, front: Tensor | None = None) -> AbstractEngine:
    """Hand over the engine that was built here already; build another one where samples are to come first."""
    if engine and front is None:
        return engine.pop()
    engine.clear()
    return factory(front)


def _build(
    task: Task, subspace: AnySpace, order: Tensor | None, name: str, batch_size: int | None, front: Tensor | None = None
) -> AbstractEngine:
    """Build an engine; a worker's recipe. Samples that come first are counted in the order without."""
    if front is not None:
        first = bring_forward(front, task.n)
        order = first if order is None else order[first]
    return build_engine(task, subspace, order=order, engine=name, batch_size=batch_size)


def _engine(
    task: Task, subspace: AnySpace, order: Tensor | None, store: ScanStore | None, options: Options
) -> tuple[AbstractEngine, str]:
    """Choose the engine here, once: if every worker chose by itself, the last digits could depend on which one did."""

    def build(name: str) -> AbstractEngine:
        return build_engine(task, subspace, order=order, engine=name, batch_size=options.batch_size)

    if store is None or options.engine != "auto":
        engine = build(options.engine)
        return engine, engine_name(engine)
    chosen: list[AbstractEngine] = []

    def choose() -> dict[str, str]:
        chosen.append(build("auto"))
        return {"name": engine_name(chosen[0])}

    name = str(store.agree("engine", choose)["name"])
    return (chosen[0] if chosen and engine_name(chosen[0]) == name else build(name)), name


def _sampler(task: Task, quantities: tuple[str, ...], places: Places, options: Options) -> tuple[AbstractSampler, bool]:
    """Return the sampler, and whether it needs samples in random order."""
    sampled = options.subset is not None or options.sampled or options.target == "population"
    if sampled and not task.per_sample:
        raise InputError(
            f"{task.obstacle}, so nothing can be said from some samples; let the loss be one value a sample, or leave"
            " out tolerance=, subset= and target="
        )
    if options.sampled:
        return _multilevel(task, quantities, places, options), True
    if options.check is not None:
        raise InputError(
            "check= is for imprints, and with tolerance=; every node is measured with every sample as it is"
        )
    full = FullGrid(
        places.h,
        task.n,
        quantities,
        shape=places.shape if places.axes else None,
        subset=options.subset,
        confidence=options.confidence,
        target=options.target,
        shares=task.shares(),
        seed=options.seed,
    )
    return full, options.subset is not None


def _multilevel(task: Task, quantities: tuple[str, ...], places: Places, options: Options) -> "Multilevel":
    from landform.scan.sampler import Multilevel

    if options.subset is not None:
        raise InputError("subset= fixes the samples of every node, tolerance= chooses them; give one of the two")
    if not places.axes:
        raise InputError("tolerance= needs a grid, to tell what nodes add to coarser ones; with points= use subset=")
    return Multilevel(
        places.h,
        places.shape,
        task.n,
        quantities,
        tolerance=options.tolerance,
        confidence=options.confidence,
        target=options.target,
        check=options.check,
        seed=options.seed,
    )


def _order(task: Task, seed: int) -> Tensor:
    """Return a random order of the samples, balanced between classes where targets are class numbers."""
    targets = task.data.targets
    classes = isinstance(targets, Tensor) and targets.ndim == 1 and not targets.is_floating_point()
    return sample_order(task.n, seed, targets.cpu().long() if classes and len(targets) == task.n else None)


def _store(task: Task, subspace: AnySpace, places: Places, quantities: tuple[str, ...], options: Options) -> ScanStore:
    assert options.store is not None
    question = {
        "shape": list(places.shape),
        "tolerance": options.tolerance,
        "confidence": options.confidence,
        "subset": options.subset,
        "target": options.target,
        "seed": options.seed,
        "check": options.check,
    }
    document = identity(task, subspace, places.h, quantities, question)
    store = ScanStore(options.store, document, storage_options=options.storage_options)
    now = first_values(task, subspace, places.h)
    held = store.agree("first-point", lambda: {"loss_on_two_samples": now})["loss_on_two_samples"]
    if differ(held, now):
        raise StoreError(
            f"{store.path} belongs to another scan: the same weights and data give {now} at the first point now, {held}"
            " when it was begun, so the model's code, the loss or the settings have changed; choose another path"
        )
    return store
