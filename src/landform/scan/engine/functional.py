"""The plain way: the whole model at every point, with nothing shared between points but the data."""

import contextlib
from collections.abc import Iterator

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from landform.scan.engine.base import Sums
from landform.scan.engine.blocks import AbstractBlocks, Part
from landform.scan.engine.space import AnySpace, parameters_at
from landform.task import Task


class FunctionalEngine(AbstractBlocks):
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
        super().__init__(task, order, batch_size)
        self._subspace = subspace
        self._given = batch_size

    @property
    def per_sample(self) -> bool:
        """Whether `terms` can be had."""
        return self._source.per_sample

    @property
    def held(self) -> int:
        """Bytes of the parameters at a point."""
        return sum(self._subspace.origin[name].nbytes for name in self._subspace.moved)

    def sums(self, h: Float64[Tensor, "points z"], start: int = 0, stop: int | None = None) -> Sums:
        """Compute sums over a range of samples, also of a loss of batches; see `AbstractEngine.sums`."""
        if self.per_sample:
            return super().sums(h, start, stop)
        index = self._source.index(start, self.n if stop is None else stop)
        found = []
        with self._source.task.mode():
            for point in h:
                parameters = parameters_at(self._subspace, point)
                found.append(self._source.task.sums(parameters, index=index, batch_size=self._given))
        return Sums(torch.stack([num for num, _ in found]), found[-1][1])

    def _quiet(self) -> contextlib.AbstractContextManager[object]:
        return contextlib.nullcontext()

    def _parts(self, h: Float64[Tensor, "points z"], start: int, stop: int) -> Iterator[Part]:
        for block in self._source.blocks(start, stop, self.batch_size):
            for place, point in enumerate(h):
                num, den = self._source.task.terms_at(parameters_at(self._subspace, point), block.batch)
                yield block, [place], num[None], den
