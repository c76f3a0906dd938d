"""Choose how a scan is computed, and say what it will cost."""

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from landform.errors import InputError, MemoryLimitError, unknown_name
from landform.scan.engine.affine import SMALL, AffineEngine, StackedEngine
from landform.scan.engine.base import AbstractEngine
from landform.scan.engine.collapsed import CollapsedEngine
from landform.scan.engine.constants import ConstantsEngine
from landform.scan.engine.curve import CurveEngine
from landform.scan.engine.functional import FunctionalEngine
from landform.scan.engine.inplace import LARGE, CachedEngine, InplaceEngine
from landform.scan.engine.own import UnsupportedError
from landform.scan.engine.space import AnySpace
from landform.scan.engine.split import SplitEngine
from landform.scan.estimate import memory_of, tile_rule
from landform.scan.sampler.base import Request
from landform.subspace import Subspace
from landform.subspace.curve import Curve
from landform.task import Task
from landform.task.memory import out_of_memory

EngineName = Literal["auto", "functional", "affine", "stacked", "collapsed", "constants", "split", "cached", "inplace"]
"""Engines by name; ``"auto"`` chooses."""
PROBE = 4
"""Samples and points at which a fast engine is compared with the plain one before it is trusted."""

_FAST: dict[str, Callable[..., AbstractEngine]] = {
    "affine": AffineEngine,
    "stacked": StackedEngine,
    "collapsed": CollapsedEngine,
    "constants": ConstantsEngine,
    "split": SplitEngine,
    "cached": CachedEngine,
    "inplace": InplaceEngine,
}


@dataclass(frozen=True)
class Plan:
    """How a scan will be computed, and what that takes.

    Attributes:
        engine: Name of the engine.
        reason: Why this one.
        batch_size: Samples a block.
        points: Points of the scan.
        samples: Samples of the data set.
        sample_evaluations: ``points · samples``.
        seconds: Time in all on this machine and one process, extrapolated from a few points.
        written: Numbers that are written anew at each point; 0 where the engine keeps none.
        tile: Points of a work item, which is what a worker gets, a store keeps, and a crash costs.
        memory: Bytes on one process beside Python and PyTorch, estimated: model, data, the engine's copies and caches,
            a forward pass.
    """

    engine: str
    reason: str
    batch_size: int
    points: int
    samples: int
    sample_evaluations: int
    seconds: float
    written: int
    tile: int
    memory: int

    @property
    def tiles(self) -> str:
        """Say how points are cut into work items."""
        return f"{-(-self.points // self.tile):,} of {self.tile:,} point{'s' * (self.tile != 1)}"

    @property
    def needs(self) -> str:
        """Say what memory it takes."""
        size = self.memory / 1e6
        return f"about {size:.2g} MB beside Python and PyTorch" if size < 1000 else f"about {size / 1000:.2g} GB"

    def describe(self) -> str:
        """Say it in a few lines.

        Example:
            >>> print(Plan("affine", "a graph could be cut", 1024, 9, 100, 900, 0.5, 10, 4, 3 << 20).describe())
            engine   affine: a graph could be cut
            work     9 points × 100 samples = 900 evaluations, blocks of 1,024
            tiles    3 of 4 points
            memory   about 3.1 MB beside Python and PyTorch
            time     about 0.5 s on one process
        """
        work = f"{self.points:,} points × {self.samples:,} samples = {self.sample_evaluations:,} evaluations"
        return (
            f"engine   {self.engine}: {self.reason}\n"
            f"work     {work}, blocks of {self.batch_size:,}\n"
            f"tiles    {self.tiles}\n"
            f"memory   {self.needs}\n"
            f"time     about {self.seconds:.3g} s on one process"
        )


def build_engine(
    task: Task,
    subspace: AnySpace,
    *,
    order: Int64[Tensor, " n"] | None = None,
    engine: str = "auto",
    batch_size: int | None = None,
) -> AbstractEngine:
    """Build the engine that computes a task's quantities at points of a subspace.

    The choice follows from the model, the subspace and the sizes of tensors, never from a clock: the same scan is
    computed by the same engine on every machine and after every interruption.

    Args:
        task: The task, with data.
        subspace: Where to look; a curve is measured in its plane.
        order: A permutation of the samples, which `AbstractEngine.terms` then counts in; None keeps the data's order.
        engine: A name, or ``"auto"``: ``"collapsed"`` for a network that ignores its input, ``"constants"`` where
            most units do, ``"split"`` where samples and points reach different channels up to the last layers,
            ``"stacked"`` for small MLPs, ``"affine"`` for models that can be traced, ``"cached"`` for
            those that cannot and have a part that is not moved, ``"inplace"`` for the others and large ones,
            ``"functional"`` for everything else. A fast engine is checked against the plain one first.
        batch_size: Samples a forward pass; None lets the engine choose.

    Returns:
        The engine.

    Raises:
        UnknownNameError: Unknown name of an engine, with the nearest.
        InputError: A batch size below 1, an order that is no permutation, or a finding of `Task.check`.
        DataError: A task without data.
        ArchitectureError: The engine asked for cannot take this model.
    """
    if engine not in get_args(EngineName):
        raise unknown_name("engine", engine, get_args(EngineName))
    if batch_size is not None and batch_size < 1:
        raise InputError(f"batch_size is {batch_size}; wanted at least 1, or None")
    if isinstance(subspace, Curve):
        return CurveEngine(
            build_engine(task, subspace.plane, order=order, engine=engine, batch_size=batch_size), subspace
        )
    task.check()
    options: dict[str, Any] = {"order": order, "batch_size": batch_size}
    if engine in _FAST:
        return _FAST[engine](task, subspace, **options)
    if engine == "functional":
        return FunctionalEngine(task, subspace, **options)
    return _choose(task, subspace, options)[0]


def plan_scan(
    task: Task,
    subspace: AnySpace,
    h: Float64[Tensor, "points z"],
    *,
    engine: str = "auto",
    batch_size: int | None = None,
) -> Plan:
    """Say how a scan would be computed and how long it would take, from a short probe.

    Args:
        task: The task, with data.
        subspace: Where to look.
        h: The points.
        engine: As in `build_engine`.
        batch_size: As in `build_engine`.

    Returns:
        The plan.

    Raises:
        InputError: As `build_engine`; no points.

    Cost:
        One point on all samples, twice (the first time caches are filled).

    Example:
        >>> from torch import nn
        >>> from landform.subspace import random_plane
        >>> task = Task(nn.Linear(64, 10), data="digits")
        >>> plan_scan(task, random_plane(task, seed=0), torch.zeros(25, 2).double()).sample_evaluations
        36050
    """
    if not len(h):
        raise InputError("there are no points to plan for")
    if engine == "auto" and not isinstance(subspace, Curve):
        task.check()
        built, reason = _choose(task, subspace, {"order": None, "batch_size": batch_size})
    else:
        built = build_engine(task, subspace, engine=engine, batch_size=batch_size)
        reason = "asked for" if engine != "auto" else "fit for the curve's plane"
    begin = time.perf_counter()
    built.sums(h[:1])
    first = time.perf_counter() - begin
    some = h[: PROBE if first < 1 else 1]
    begin = time.perf_counter()
    built.sums(some)
    each = (time.perf_counter() - begin) / len(some)
    name = engine_name(built)
    evaluations = len(h) * task.n
    engine_of = built.plane if isinstance(built, CurveEngine) else built
    size = getattr(engine_of, "batch_size", None) or task.batch_size()
    tile = min(len(h), tile_rule(task, name)(Request(h, 0, task.n, per_sample=False), len(task.quantities())))
    seconds = first + each * (len(h) - 1)
    return Plan(
        name,
        reason,
        size,
        len(h),
        task.n,
        evaluations,
        seconds,
        getattr(engine_of, "written", 0),
        tile,
        memory_of(task, built, size),
    )


def engine_name(engine: AbstractEngine) -> str:
    """Return the name by which `build_engine` knows an engine."""
    if isinstance(engine, CurveEngine):
        engine = engine.plane
    return type(engine).__name__.removesuffix("Engine").lower()


def _choose(task: Task, subspace: AnySpace, options: dict[str, Any]) -> tuple[AbstractEngine, str]:
    """Try the engines from the most special to the plainest; say why one was taken."""
    plain = FunctionalEngine(task, subspace, **options)
    if not isinstance(subspace, Subspace) or not task.settings.plain:
        return plain, "not an affine subspace" if task.settings.plain else "the task's settings ask for it"
    if task.writes_inputs:
        return plain, "the model changes its inputs in place"
    moved = sum(subspace.origin[name].numel() for name in subspace.moved)
    if moved >= LARGE:
        try:
            return InplaceEngine(task, subspace, **options), f"{moved:,} moved parameters, of which no copy is made"
        except UnsupportedError as error:
            return plain, str(error)
    why = ""
    for name, reason in (
        ("collapsed", "the output does not depend on the input"),
        ("constants", "units that no sample reaches are computed once a point"),
        ("split", "samples and points reach different channels"),
        ("affine", "the model could be traced and cut"),
        ("cached", "the model could not be traced; what no direction reaches is computed once"),
        ("inplace", "the model could not be traced"),
    ):
        try:
            fast = _FAST[name](task, subspace, **options)
            if isinstance(fast, AffineEngine) and fast.written <= SMALL:
                with contextlib.suppress(UnsupportedError):
                    fast, reason = StackedEngine.of(fast), "a small MLP, many points in one call"
            if agree(plain, fast, subspace.z):
                return fast, reason
            why = f"the {name} engine gave other numbers than the plain loop"
        except UnsupportedError as error:
            why = str(error)
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error) and not isinstance(error, MemoryLimitError):
                raise
            why = f"there is not enough memory for what the {name} engine keeps"
    return plain, why


def agree(plain: AbstractEngine, fast: AbstractEngine, z: int) -> bool:
    """Compare two engines on a few samples at a few random points (seed 0).

    A graph may hide what a module does (a hook, a global, a shape that was baked in); such a model gives other numbers,
    not slightly other ones. A model that the probe finds no fault with is taken to be understood.

    Args:
        plain: The reference.
        fast: What is checked.
        z: Number of coordinates.

    Returns:
        Whether they agree to 1e-3 of the largest value (float32 may lose that much in deep models; a misread model
        differs by far more).

    Raises:
        InputError: If model and data do not fit, as the plain engine says it.
    """
    h = torch.rand(PROBE, z, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) - 0.5
    stop = min(PROBE, plain.n)
    wanted = plain.terms(h, 0, stop)
    try:
        found = fast.terms(h, 0, stop)
    except (RuntimeError, TypeError, ValueError, IndexError, KeyError, AttributeError) as error:
        if out_of_memory(error):
            raise
        return False
    finite = wanted.num.isfinite()
    scale = float(wanted.num[finite].abs().max()) if bool(finite.any()) else 0.0
    close = (found.num - wanted.num)[finite].abs() <= 1e-3 * scale + 1e-12
    return bool(close.all()) and torch.equal(found.num.isfinite(), finite)
