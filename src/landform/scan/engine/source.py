"""What engines need of a task: blocks of samples in a fixed order, outputs, and terms of every quantity."""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from landform.calling import as_found, split_heads
from landform.errors import InputError
from landform.losses import LossSum
from landform.task import DEFAULT_BATCH, Task


@dataclass(frozen=True, eq=False)
class Block:
    """A few samples, in the engine's order.

    Attributes:
        inputs: What the model takes.
        targets: Their targets.
        weights: One weight a sample, or None.
        start: Position of the first sample.
        stop: One past the last.
    """

    inputs: Any
    targets: Any
    weights: Float64[Tensor, " n"] | None
    start: int
    stop: int

    @property
    def size(self) -> int:
        """Number of samples."""
        return self.stop - self.start


class Source:
    """A task seen by an engine: samples by position in an order, and sums that add up over blocks.

    Args:
        task: The task.
        order: A permutation of the samples; None keeps the data's order.

    Raises:
        InputError: If ``order`` is no permutation of the samples.
    """

    def __init__(self, task: Task, order: Int64[Tensor, " n"] | None = None) -> None:
        self.task = task
        self.n = task.data.n
        self._order = None if order is None else _permutation(order, self.n)
        heads = task.heads()
        self.single = heads == ("output",)
        self.quantities: tuple[str, ...] = ("loss",) if self.single else tuple(f"loss:{head}" for head in heads)
        self.per_sample = self._probe()

    def _probe(self) -> bool:
        """Say whether the loss gives one value a sample."""
        if self.task.loss_form.known:
            return True
        block = self.block(0, min(2, self.n))
        with self.mode():
            heads, _ = split_heads(self.run(None, block), block.size, "model")
        found = [self.task.loss_form.terms(output, block.targets) for output in heads.values()]
        return all(terms is not None for terms in found)

    @contextlib.contextmanager
    def mode(self) -> Iterator[None]:
        """Evaluation mode, no gradients, random state and modes restored afterwards."""
        with as_found(self.task.model), torch.no_grad():
            yield

    def blocks(self, start: int, stop: int, size: int | None) -> Iterator[Block]:
        """Cut a range into blocks of at most ``size`` samples."""
        size = size or DEFAULT_BATCH
        for first in range(start, stop, size):
            yield self.block(first, min(first + size, stop))

    def block(self, start: int, stop: int) -> Block:
        """Take samples ``start … stop − 1`` of the order; a view where there is no order."""
        if not 0 <= start < stop <= self.n:
            raise InputError(f"samples {start} … {stop} were asked for; there are {self.n}")
        data = self.task.data
        if self._order is None:
            part: Any = slice(start, stop)
        else:
            part = self._order[start:stop]
        weights = None if data.weights is None else data.weights[part]
        return Block(data.inputs[part], data.targets[part], weights, start, stop)

    def run(self, parameters: Mapping[str, Tensor] | None, block: Block) -> Any:
        """Return the model's outputs on a block; inside `mode`."""
        parts = list(self.task._forward(block.inputs, parameters, block.size, None))
        heads, single = parts[0]
        return heads["output"] if single else heads

    def terms(self, outputs: Any, block: Block) -> tuple[Tensor, Tensor]:
        """Return numerators and denominators, each ``[quantities, samples]``, float64, on the CPU.

        Raises:
            InputError: If the loss gives one number a batch.
        """
        heads, _ = split_heads(outputs, block.size, "model")
        nums, dens = [], []
        for output in heads.values():
            found = self.task.loss_form.terms(output, block.targets)
            if found is None:
                raise InputError(
                    f"loss {self.task.loss_form.name} gives one number a batch, samples have no losses of their own; "
                    "let it return one value a sample (reduction='none'), or scan all samples (tolerance=0, no subset)"
                )
            num, den = (part.cpu() for part in found)
            if block.weights is not None:
                num = torch.where(block.weights > 0, block.weights * num, 0.0)
                den = block.weights * den
            nums.append(num)
            dens.append(den)
        return torch.stack(nums), torch.stack(dens)

    def total(self, outputs: list[Any], blocks: list[Block]) -> tuple[Tensor, Tensor]:
        """Return sums ``[quantities]`` for a loss that gives one number a batch, called on all outputs at once."""
        sums: dict[str, LossSum] = {}
        for found, block in zip(outputs, blocks, strict=True):
            heads, _ = split_heads(found, block.size, "model")
            for name, output in heads.items():
                sums.setdefault(name, LossSum(self.task.loss_form)).add(output, block.targets, block.weights)
        size = float(sum(block.size for block in blocks))
        num = torch.stack([total.value().cpu() * size for total in sums.values()])
        return num, torch.full_like(num, size)


def _permutation(order: Tensor, n: int) -> Tensor:
    order = torch.as_tensor(order)
    fits = order.dtype == torch.int64 and order.shape == (n,)
    if not fits or not torch.equal(order.sort().values, torch.arange(n)):
        raise InputError(
            f"order is a {order.dtype} tensor of shape {list(order.shape)}; wanted a permutation of 0 … {n - 1} (int64)"
        )
    return order
