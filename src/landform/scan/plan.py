"""Choose how a scan is computed."""

from typing import Literal, get_args

import torch
from jaxtyping import Int64
from torch import Tensor

from landform.errors import InputError, unknown_name
from landform.scan.engine.affine import AffineEngine
from landform.scan.engine.base import AbstractEngine
from landform.scan.engine.curve import CurveEngine
from landform.scan.engine.functional import FunctionalEngine
from landform.scan.engine.own import UnsupportedError
from landform.scan.engine.space import AnySpace
from landform.subspace.curve import Curve
from landform.task import Task

EngineName = Literal["auto", "functional", "affine"]
"""Engines by name; ``"auto"`` chooses."""
PROBE = 4
"""Samples and points at which a fast engine is compared with the plain one before it is trusted."""


def build_engine(
    task: Task,
    subspace: AnySpace,
    *,
    order: Int64[Tensor, " n"] | None = None,
    engine: str = "auto",
    batch_size: int | None = None,
) -> AbstractEngine:
    """Build the engine that computes a task's quantities at points of a subspace.

    Args:
        task: The task, with data.
        subspace: Where to look; a curve is measured in its plane.
        order: A permutation of the samples, which `AbstractEngine.terms` then counts in; None keeps the data's order.
        engine: A name, or ``"auto"``.
        batch_size: Samples a forward pass; None lets the engine choose.

    Returns:
        The engine.

    Raises:
        UnknownNameError: Unknown name of an engine, with the nearest.
        InputError: A batch size below 1, an order that is no permutation, or a finding of `Task.check`.
        DataError: A task without data.
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
    plain = FunctionalEngine(task, subspace, order=order, batch_size=batch_size)
    if engine == "functional" or (engine == "auto" and not task.settings.plain):
        return plain
    try:
        fast = AffineEngine(task, subspace, order=order, batch_size=batch_size)  # type: ignore[arg-type]
    except UnsupportedError:
        if engine != "auto":
            raise
        return plain
    return fast if engine != "auto" or agree(plain, fast, subspace.z) else plain


def agree(plain: AbstractEngine, fast: AbstractEngine, z: int) -> bool:
    """Compare two engines on a few samples at a few random points (seed 0).

    A graph may hide what a module does (a hook, a global, a shape that was baked in); such a model gives other numbers,
    not slightly other ones. A model that the probe finds no fault with is taken to be understood.

    Args:
        plain: The reference.
        fast: What is checked.
        z: Number of coordinates.

    Returns:
        Whether they agree to rounding, 1e-3 of the largest value (float32 may lose that much
        in deep models; a misread model differs by far more).
    """
    h = torch.rand(PROBE, z, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) - 0.5
    stop = min(PROBE, plain.n)
    try:
        wanted, found = plain.terms(h, 0, stop), fast.terms(h, 0, stop)
    except (RuntimeError, TypeError, ValueError, IndexError):
        return False
    finite = wanted.num.isfinite()
    scale = float(wanted.num[finite].abs().max()) if bool(finite.any()) else 0.0
    close = (found.num - wanted.num)[finite].abs() <= 1e-3 * scale + 1e-12
    return bool(close.all()) and torch.equal(found.num.isfinite(), finite)
