"""What engines have in common that go through samples block by block: blocks outside, points inside."""

import abc
import contextlib
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from landform.scan.engine.base import AbstractEngine, Sums, Terms
from landform.scan.engine.source import Block, Source
from landform.task import Task
from landform.task.memory import fewer, out_of_memory

T = TypeVar("T")
Part = tuple[Block, list[int], Tensor, Tensor]
"""A block of samples, some points, numerators there ``[points, quantities, samples]``, denominators of the block."""


class AbstractBlocks(AbstractEngine):
    """Adds up what is computed for some points on one block of samples at a time.

    Blocks are outside, points inside, so that samples are read once for all points of a call. Where memory does not
    suffice for a block, smaller ones are tried, and that is said.

    Args:
        task: The task.
        order: Order of the samples; None for the data's.
        batch_size: Samples a block; None for the task's choice, 1024 or fewer where outputs are very large.
    """

    def __init__(self, task: Task, order: Int64[Tensor, " n"] | None, batch_size: int | None) -> None:
        self._source = Source(task, order)
        self._size = batch_size

    @property
    def quantities(self) -> tuple[str, ...]:
        """Names of the quantities."""
        return self._source.quantities

    @property
    def n(self) -> int:
        """Number of samples."""
        return self._source.n

    @property
    def batch_size(self) -> int:
        """Samples a block."""
        if self._size is None:
            self._size = self._source.task.batch_size()
        return self._size

    @abc.abstractmethod
    def _parts(self, h: Float64[Tensor, "points z"], start: int, stop: int) -> Iterator[Part]:
        """Yield numerators for some points on one block, all points of a block before the next block."""

    def _quiet(self) -> contextlib.AbstractContextManager[object]:
        return torch.inference_mode()

    def _forget(self) -> None:
        """Let go of what is kept of blocks, as they are about to become smaller."""

    def terms(self, h: Float64[Tensor, "points z"], start: int, stop: int) -> Terms:
        """Compute the terms of samples ``start … stop − 1`` at points; see `AbstractEngine.terms`."""

        def compute() -> Terms:
            num = torch.empty(len(h), len(self.quantities), stop - start, dtype=torch.float64)
            den = torch.empty(len(self.quantities), stop - start, dtype=torch.float64)
            for block, points, found, weights in self._parts(h, start, stop):
                part = slice(block.start - start, block.stop - start)
                num[points, :, part] = found
                den[:, part] = weights
            return Terms(num, den)

        return self._in_memory(compute, stop - start)

    def sums(self, h: Float64[Tensor, "points z"], start: int = 0, stop: int | None = None) -> Sums:
        """Compute sums over a range of samples; see `AbstractEngine.sums`."""
        last = self.n if stop is None else stop

        def compute() -> Sums:
            num = torch.zeros(len(h), len(self.quantities), dtype=torch.float64)
            den = torch.zeros(len(self.quantities), dtype=torch.float64)
            before = None
            for block, points, found, weights in self._parts(h, start, last):
                num[points] += found.sum(-1)
                if block is not before:
                    den += weights.sum(-1)
                before = block
            return Sums(num, den)

        return self._in_memory(compute, last - start)

    def _in_memory(self, compute: Callable[[], T], samples: int) -> T:
        while True:
            size = min(self.batch_size, max(1, samples))
            try:
                with self._quiet(), self._source.task.mode():
                    return compute()
            except (MemoryError, RuntimeError) as error:
                if not out_of_memory(error):
                    raise
                failed = error.with_traceback(None)  # what the attempt held goes with it
            self._forget()
            self._size = fewer(size, failed)
