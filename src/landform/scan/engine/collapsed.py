"""A network whose output does not depend on its input: one sample a label serves the data set."""

import dataclasses
from typing import cast

import torch
from jaxtyping import Float64, Int64
from torch import Tensor, fx, nn

from landform.scan.engine.affine import AffineEngine, StackedEngine
from landform.scan.engine.base import AbstractEngine, Sums, Terms
from landform.scan.engine.moving import require_plain
from landform.scan.engine.own import UnsupportedError, moved_names, own_copy
from landform.scan.engine.source import Source
from landform.scan.engine.trace import PRODUCTS, has_hooks, is_shape, trace
from landform.subspace import Subspace
from landform.task import Task


class CollapsedEngine(AbstractEngine):
    """Evaluates one sample for each distinct target, and counts it as often as it occurs.

    That the output ignores the input is read off the structure: every path from the input ends at a layer whose weight
    is zero at the origin and in all directions, as in a constant imprint. Equal outputs on some samples prove nothing.

    Args:
        task: The task.
        subspace: An affine subspace.
        order: Order of the samples; None for the data's.
        batch_size: Samples a block.

    Raises:
        UnsupportedError: The output may depend on the input, or as many targets as samples are distinct.

    Cost:
        As many samples as there are distinct targets a point.

    Example:
        >>> origin = {"weight": torch.zeros(1, 1), "bias": torch.zeros(1)}
        >>> line = Subspace(origin, ({"bias": torch.ones(1)},))
        >>> task = Task(nn.Linear(1, 1), "mse", (torch.arange(6.0)[:, None], torch.tensor([[0.0], [2.0]] * 3)))
        >>> found = CollapsedEngine(task, line).sums(torch.tensor([[1.0]]))  # three times 1² and three times 1²
        >>> found.num.item(), found.den.item()
        (6.0, 6.0)
    """

    def __init__(
        self,
        task: Task,
        subspace: Subspace,
        *,
        order: Int64[Tensor, " n"] | None = None,
        batch_size: int | None = None,
    ) -> None:
        self._source = Source(task, order)
        if not isinstance(subspace, Subspace):
            raise UnsupportedError("only an affine subspace shows that no weight reads the input")
        require_plain(task)
        require_independent(task, subspace)
        data = task.data
        distinct, self._which = torch.unique(data.targets, dim=0, return_inverse=True)
        if 2 * len(distinct) > task.n:
            raise UnsupportedError(f"{len(distinct)} of {task.n} targets are distinct, so that nothing is saved")
        first = torch.full((len(distinct),), task.n).scatter_reduce(0, self._which, torch.arange(task.n), "amin")
        self._weights = data.weights
        few = task.replace(data=dataclasses.replace(data.subset(first), weights=None))
        try:
            self._inner: AffineEngine = StackedEngine(few, subspace, batch_size=batch_size)
        except UnsupportedError:
            self._inner = AffineEngine(few, subspace, batch_size=batch_size)
        if self._source.order is not None:
            self._which = self._which[self._source.order]
            self._weights = None if self._weights is None else self._weights[self._source.order]

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
        return self._inner.batch_size

    @property
    def held(self) -> int:
        """Bytes that the engine for distinct targets holds."""
        return self._inner.held

    def terms(self, h: Float64[Tensor, "points z"], start: int, stop: int) -> Terms:
        """Compute the terms of samples ``start … stop − 1`` at points; see `AbstractEngine.terms`."""
        self._source.index(start, stop)
        few = self._inner.terms(h, 0, self._inner.n)
        which = self._which[start:stop]
        num, den = few.num[..., which], few.den[:, which]
        if self._weights is not None:
            weights = self._weights[start:stop]
            num, den = torch.where(weights > 0, weights * num, 0.0), weights * den
        return Terms(num, den)

    def sums(self, h: Float64[Tensor, "points z"], start: int = 0, stop: int | None = None) -> Sums:
        """Compute sums over a range of samples; see `AbstractEngine.sums`."""
        stop = self.n if stop is None else stop
        self._source.index(start, stop)
        few = self._inner.terms(h, 0, self._inner.n)
        weights = None if self._weights is None else self._weights[start:stop]
        counts = torch.bincount(self._which[start:stop], weights=weights, minlength=self._inner.n).double()
        kept = counts > 0  # a target that is not in the range is left out even where its loss is infinite
        return Sums((few.num * counts)[..., kept].sum(-1), (few.den * counts).sum(-1))


def require_independent(task: Task, subspace: Subspace) -> None:
    """Check that a model's outputs cannot depend on its inputs anywhere in a subspace.

    Args:
        task: The task.
        subspace: Where.

    Raises:
        UnsupportedError: They may.
    """
    assert isinstance(task.model, nn.Module)
    if any(module._forward_hooks or module._forward_pre_hooks for module in task.model.modules()):
        raise UnsupportedError("hooks may read the input")
    own = dict(task.model.named_parameters(remove_duplicate=False))
    origin = {id(own[name]): value for name, value in subspace.origin.items() if name in own}
    layers = [module for module in task.model.modules() if type(module) in PRODUCTS]
    weights = (cast("Tensor", layer.weight) for layer in layers)
    if all(bool(origin.get(id(weight), weight).any()) for weight in weights):
        raise UnsupportedError("no layer has weights of zero")  # seen without tracing, which takes milliseconds
    under = moved_names(task.model, subspace.moved)
    model, tensors = own_copy(task.model, subspace.origin)
    zero = {
        id(value): not bool(value.any())
        and not any(bool(d[under[name]].any()) for d in subspace.directions if under.get(name) in d)
        for name, value in tensors.items()
    }
    graph = trace(model)
    depends: set[fx.Node] = set()
    for node in graph.graph.nodes:
        read = node.op == "placeholder" or any(source in depends for source in node.all_input_nodes)
        if not read or (node.op != "placeholder" and is_shape(node)):
            continue
        if node.op == "output":
            raise UnsupportedError(f"the output of {type(model).__name__} may depend on its input")
        if node.op == "call_module":
            module = graph.get_submodule(str(node.target))
            if type(module) in PRODUCTS and not has_hooks(module) and zero[id(module.weight)]:
                continue
        depends.add(node)
