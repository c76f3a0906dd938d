"""Choose how a scan is computed."""

from typing import Literal, get_args

from jaxtyping import Int64
from torch import Tensor

from landform.errors import InputError, unknown_name
from landform.scan.engine.base import AbstractEngine
from landform.scan.engine.functional import FunctionalEngine
from landform.scan.engine.space import AnySpace
from landform.task import Task

EngineName = Literal["auto", "functional"]
"""Engines by name; ``"auto"`` chooses."""


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
        subspace: Where to look; a curve takes the plain engine.
        order: A permutation of the samples, which `AbstractEngine.terms` then counts in; None keeps the data's order.
        engine: A name, or ``"auto"``.
        batch_size: Samples a forward pass; None lets the engine choose.

    Returns:
        The engine.

    Raises:
        UnknownNameError: Unknown name of an engine, with the nearest.
        InputError: A batch size below 1, or an order that is no permutation.
        DataError: A task without data.
    """
    if engine not in get_args(EngineName):
        raise unknown_name("engine", engine, get_args(EngineName))
    if batch_size is not None and batch_size < 1:
        raise InputError(f"batch_size is {batch_size}; wanted at least 1, or None")
    return FunctionalEngine(task, subspace, order=order, batch_size=batch_size)
