"""Adding up a task's quantities over batches, whatever kind of loss it has."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from landform.errors import InputError
from landform.losses import LossSum
from landform.metrics import Metric
from landform.task import stepping
from landform.task.batch import Batch
from landform.task.memory import in_halves

if TYPE_CHECKING:
    from landform.task.task import Task


def add_up(
    task: "Task",
    parameters: Mapping[str, Tensor] | None,
    index: slice | Tensor | None,
    batch_size: int | None,
    metrics: tuple[Metric, ...],
) -> tuple[Tensor, Tensor]:
    """Add up numerators and denominators; to be called inside `Task.mode`.

    Args:
        task: The task.
        parameters: Where.
        index: Which samples; None for all.
        batch_size: Samples a forward pass; None for the task's choice.
        metrics: Which metrics beside the loss.

    Returns:
        Two float64 vectors: the loss of each head, then each metric of each head.
    """
    where = None if index is None else torch.arange(task.n)[index]
    n = task.n if where is None else len(where)
    parameters = task.prepare(parameters)
    losses: dict[str, LossSum] = {}
    others: list[Tensor] = []

    def compute(batch: Batch) -> tuple[dict[str, LossSum], Tensor | None]:
        if task.step is not None:
            return {}, torch.stack(stepping.sums_of(task.stepped(parameters, batch), batch))
        heads = task.split_heads(task.run(parameters, batch), batch)
        parts = {name: LossSum(task.loss_form) for name in heads}
        for name, output in heads.items():
            parts[name].add(output, batch.targets, batch.weights)
        found = [metric.terms(task.loss_form, output, batch.targets) for metric in metrics for output in heads.values()]
        return parts, torch.stack(weighted(found, batch.weights)).sum(-1) if found else None

    size = task.batch_size() if batch_size is None else batch_size
    for part in parts_of(n, size, even=not task.frozen):
        batch = task.batch(part if where is None else where[part])
        for found, other in in_halves(compute, batch, divisible=task.settings.batch_norm != "batch"):
            for name, total in found.items():
                losses.setdefault(name, LossSum(task.loss_form)).merge(total)
            if other is not None:
                others.append(other)
    sums = [torch.stack([torch.stack(total.sums()) for total in losses.values()], dim=1)] if losses else []
    if others:
        sums.append(torch.stack(others).sum(0))
    both = torch.cat(sums, dim=1)
    return both[0], both[1]


def parts_of(n: int, size: int, *, even: bool = False) -> Iterator[slice]:
    """Cut samples into batches, in order; the last may be shorter, none is dropped.

    Args:
        n: Samples.
        size: Samples a batch, at most.
        even: Make all batches of one size, as nearly as can be: no batch of one sample, which has no variance.

    Yields:
        Slices.

    Raises:
        InputError: ``size`` is below 1.
    """
    if size < 1:
        raise InputError(f"batch_size is {size}; wanted at least 1")
    count = -(-n // size)
    edges = [n * i // count for i in range(count + 1)] if even else [*range(0, n, size), n]
    for start, stop in itertools.pairwise(edges):
        yield slice(start, stop)


def weighted(found: Sequence[tuple[Tensor, Tensor] | None], weights: Tensor | None) -> tuple[Tensor, Tensor]:
    """Stack terms, and let sample weights into both.

    Args:
        found: Numerators and denominators of each quantity.
        weights: One weight a sample, or None.

    Returns:
        Two float64 tensors ``[quantities, samples]`` on the CPU.
    """
    pairs = [pair for pair in found if pair is not None]
    num = torch.stack([pair[0].cpu() for pair in pairs])
    den = torch.stack([pair[1].cpu() for pair in pairs])
    if weights is not None:
        weights = weights.cpu()
        # A sample of weight 0 is left out even where its loss is infinite.
        num = torch.where(weights > 0, weights * num, 0.0)
        den = weights * den
    return num, den
