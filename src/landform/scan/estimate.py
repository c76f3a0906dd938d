"""What a scan takes, counted before it runs: points of a work item, bytes of memory."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from landform.scan.engine.base import AbstractEngine
from landform.scan.identity import on_device, work_of
from landform.scan.run import Tiling, tiling
from landform.task import Task

DEVICE_SPEED = 50
"""How many times the work of a CPU's tile a tile for an accelerator has."""
SHARED = 8
"""Points a tile at least for engines that share work between the points of a call, or the reading of large data."""
LARGE_DATA = 1 << 30
"""Bytes of inputs from which on they may have to be read from a disk for every tile."""
LIVE = 3
"""Values as large as the largest one that a forward pass holds at once: what is read, what is written, a residual."""


def tile_rule(task: Task, engine: str) -> Tiling:
    """Say how the points of a task are cut into work items; counted, so that it is the same on every machine.

    Args:
        task: The task.
        engine: Name of the engine.

    Returns:
        The rule.
    """
    large = task.data.inputs.nbytes > LARGE_DATA
    shares = SHARED if large or engine in ("affine", "stacked", "collapsed", "constants", "split", "cached") else 1
    return tiling(work_of(task) / (DEVICE_SPEED if on_device(task) else 1), least=shares)


def memory_of(task: Task, engine: AbstractEngine, batch_size: int) -> int:
    """Estimate the memory of a scan on one process, beside Python and PyTorch themselves.

    The model, the data, what the engine holds of both (copies of parameters, prepared blocks), and three values of the
    size of the largest in a forward pass of a batch.

    Args:
        task: The task.
        engine: The engine, best after it was used, as its caches are counted as they are.
        batch_size: Samples of a forward pass.

    Returns:
        Bytes.

    Cost:
        A forward pass of one sample.

    Example:
        >>> from landform.scan.plan import build_engine
        >>> from landform.subspace import random_plane
        >>> task = Task(nn.Linear(64, 10), data="digits")
        >>> inputs = 1442 * (64 * 4 + 8)  # and labels
        >>> memory_of(task, build_engine(task, random_plane(task)), 1024) > inputs
        True
    """
    data = task.data
    held = [data.inputs, data.targets, *data.extras.values()]
    if isinstance(task.model, nn.Module):
        held += [*task.model.parameters(), *task.model.buffers()]
    few = min(2, task.n)
    with torch.no_grad(), _Largest() as largest:
        if task.step is None:
            task.run(None, task.batch(slice(0, few)))
        else:
            task.stepped(None, task.batch(slice(0, few)))
    activations = LIVE * largest.bytes * min(batch_size, task.n) // few
    return int(sum(value.nbytes for value in held) + engine.held + activations)


class _Largest(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the size of the largest value that an operation makes; views, as of weights, are none."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes: int = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        read = {leaf.untyped_storage().data_ptr() for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        for leaf in tree_leaves(found):
            if isinstance(leaf, Tensor) and leaf.untyped_storage().data_ptr() not in read:
                self.bytes = max(self.bytes, leaf.nbytes)
        return found
