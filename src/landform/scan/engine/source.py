"""A task's samples in a fixed order, block by block."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Int64
from torch import Tensor

from landform.errors import InputError
from landform.task import Task
from landform.task.batch import Batch


@dataclass(frozen=True, eq=False)
class Block:
    """Neighbouring samples of an engine's order.

    Attributes:
        batch: The samples.
        start: Position of the first.
        stop: One past the last.
    """

    batch: Batch
    start: int
    stop: int


class Source:
    """A task seen by an engine.

    Args:
        task: The task.
        order: A permutation of the samples; None keeps the data's order, and copies nothing.

    Raises:
        InputError: If ``order`` is no permutation of the samples.
    """

    def __init__(self, task: Task, order: Int64[Tensor, " n"] | None = None) -> None:
        self.task = task
        self.n = task.n
        self.order = None if order is None else _permutation(order, self.n)
        self.quantities = task.quantities()
        self.per_sample = task.per_sample

    def index(self, start: int, stop: int) -> slice | Tensor:
        """Return the data set's numbers of samples ``start … stop − 1`` of the order.

        Raises:
            InputError: If there are no such samples.
        """
        if not 0 <= start < stop <= self.n:
            raise InputError(f"samples {start} … {stop} were asked for; there are {self.n}")
        return slice(start, stop) if self.order is None else self.order[start:stop]

    def block(self, start: int, stop: int) -> Block:
        """Take samples ``start … stop − 1`` of the order."""
        return Block(self.task.batch(self.index(start, stop)), start, stop)

    def blocks(self, start: int, stop: int, size: int) -> Iterator[Block]:
        """Cut a range into blocks of at most ``size`` samples."""
        self.index(start, stop)
        for first in range(start, stop, size):
            yield self.block(first, min(first + size, stop))


def _permutation(order: Tensor, n: int) -> Tensor:
    order = torch.as_tensor(order)
    fits = order.dtype == torch.int64 and order.shape == (n,)
    if not fits or not torch.equal(order.sort().values, torch.arange(n)):
        raise InputError(
            f"order is a {order.dtype} tensor of shape {list(order.shape)}; wanted a permutation of 0 … {n - 1} (int64)"
        )
    return order
