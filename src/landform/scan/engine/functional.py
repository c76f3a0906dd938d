"""The plain way: the whole model at every point, with nothing shared between points but the data."""

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from landform.scan.engine.base import AbstractEngine, Sums, Terms
from landform.scan.engine.source import Source
from landform.scan.engine.space import AnySpace, parameters_at
from landform.task import Task


class FunctionalEngine(AbstractEngine):
    """Calls the model with ``subspace.at(h)`` through `torch.func.functional_call`, point by point.

    Right for every module, every output, every loss and every curve; the engine that the others are compared with, and
    the one that is left where nothing can be shared. Blocks of samples are outside, points inside, so that data are
    read once for all points of a call.

    Args:
        task: The task.
        subspace: Anything with ``z`` and ``at(h)``.
        order: Order of the samples; None for the data's.
        batch_size: Samples a forward pass; None for 1024, or fewer where outputs are very large.

    Cost:
        One pass over the samples and one copy of the moved parameters a point and block.

    Example:
        >>> from torch import nn
        >>> from landform.subspace import Subspace
        >>> origin = {"weight": torch.zeros(1, 1), "bias": torch.zeros(1)}
        >>> line = Subspace(origin, ({"bias": torch.ones(1)},))
        >>> task = Task(nn.Linear(1, 1), "mse", (torch.zeros(2, 1), torch.tensor([[0.0], [2.0]])))
        >>> FunctionalEngine(task, line).terms(torch.tensor([[1.0]]), 0, 2).num.tolist()  # (h − 0)², (h − 2)²
        [[[1.0, 1.0]]]
    """

    def __init__(
        self,
        task: Task,
        subspace: AnySpace,
        *,
        order: Int64[Tensor, " n"] | None = None,
        batch_size: int | None = None,
    ) -> None:
        self._source = Source(task, order)
        self._subspace = subspace
        self._batch_size = batch_size

    @property
    def quantities(self) -> tuple[str, ...]:
        """Names of the quantities."""
        return self._source.quantities

    @property
    def n(self) -> int:
        """Number of samples."""
        return self._source.n

    @property
    def per_sample(self) -> bool:
        """Whether `terms` can be had."""
        return self._source.per_sample

    def terms(self, h: Float64[Tensor, "points z"], start: int, stop: int) -> Terms:
        """Compute the terms of samples ``start … stop − 1`` at points; see `AbstractEngine.terms`."""
        source = self._source
        num = torch.empty(len(h), len(self.quantities), stop - start, dtype=torch.float64)
        den = torch.empty(len(self.quantities), stop - start, dtype=torch.float64)
        with source.task.mode():
            for block in source.blocks(start, stop, self._size()):
                part = slice(block.start - start, block.stop - start)
                for row, point in zip(num, h, strict=True):
                    row[:, part], den[:, part] = source.task.terms_at(parameters_at(self._subspace, point), block.batch)
        return Terms(num, den)

    def sums(self, h: Float64[Tensor, "points z"], start: int = 0, stop: int | None = None) -> Sums:
        """Compute sums over a range of samples; see `AbstractEngine.sums`."""
        source, stop = self._source, self.n if stop is None else stop
        num = torch.zeros(len(h), len(self.quantities), dtype=torch.float64)
        den = torch.zeros(len(self.quantities), dtype=torch.float64)
        with source.task.mode():
            if not source.per_sample:
                for row, point in zip(num, h, strict=True):
                    parameters = parameters_at(self._subspace, point)
                    row[:], den = source.task.sums(
                        parameters, index=source.index(start, stop), batch_size=self._batch_size
                    )
                return Sums(num, den)
            for block in source.blocks(start, stop, self._size()):
                found = den
                for row, point in zip(num, h, strict=True):
                    value, found = source.task.terms_at(parameters_at(self._subspace, point), block.batch)
                    row += value.sum(-1)
                den = den + found.sum(-1)
        return Sums(num, den)

    def _size(self) -> int:
        if self._batch_size is None:
            self._batch_size = self._source.task.batch_size()
        return self._batch_size
