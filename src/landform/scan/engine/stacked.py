"""Many points in one call: a leading dimension of points, batched products with the weights of each."""

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  the name everyone knows
from torch import Tensor, fx, nn

from landform.scan.engine.cut import Cut
from landform.scan.engine.own import Affine, Theta, UnsupportedError, combine
from landform.scan.engine.trace import fetch, has_hooks

NUMBERS = 1 << 19
"""Activations of the widest layer for a stack of points: 2 MB in float32. More leaves a core's caches; less is more
calls, at each of which threads wait for Python's lock."""

LOOP = 1 << 13
"""Numbers of a value from which on points are written one by one: below, the calls would cost more than the work."""

Rows = Mapping[int, Tensor]
"""By ``id`` of a moved tensor: its values at the points, ``[points, *shape]``."""


class Buffers:
    """Where one thread writes the values of a stack, again and again.

    Fresh memory comes from the system page by page, which for a value of a megabyte takes longer than to compute it.
    """

    def __init__(self) -> None:
        self._held: dict[object, Tensor] = {}

    def get(self, key: object, like: Tensor, *shape: int) -> Tensor:
        """Return a tensor of a shape, with any numbers, of another's dtype; the same one for the same key and shape."""
        held = self._held.get(key)
        if held is None or held.shape != shape or held.dtype != like.dtype:
            held = self._held[key] = like.new_empty(shape)
        return held


Operation = Callable[[Mapping[fx.Node, Any], Rows, Buffers], Any]

POINTWISE_MODULES = (
    *(nn.ReLU, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Tanh, nn.Sigmoid, nn.Softplus, nn.Hardtanh, nn.ReLU6),
    *(nn.Identity, nn.Dropout, nn.Mish, nn.SELU, nn.CELU, nn.Hardswish, nn.Hardsigmoid, nn.Softsign, nn.LogSigmoid),
)
POINTWISE: frozenset[Any] = frozenset(
    (
        *(torch.relu, torch.relu_, torch.tanh, torch.sigmoid, torch.sin, torch.cos, torch.exp, F.relu, F.gelu, F.silu),
        *(F.leaky_relu, F.elu, F.softplus, F.tanh, F.sigmoid, operator.add, operator.sub, operator.mul, torch.add),
        *(torch.sub, torch.mul, operator.neg, torch.square),
    )
)
POINTWISE_METHODS = frozenset(("relu", "relu_", "tanh", "sigmoid", "sin", "cos", "exp", "square", "contiguous"))


class Stack:
    """The part of an MLP after the cut, for many points at once.

    Made for small networks: where a point costs less than the calls that compute it, a stack of points costs hardly
    more calls than one. Values are ``[points, features, samples]``: with samples last, products with the few rows of a
    last layer, and whatever goes over classes, run along contiguous memory.

    Args:
        cut: The model.
        theta: Its moved tensors.
        early: Values at the frontier for some samples, by which it is seen whether they are ``[samples, features]``.

    Raises:
        UnsupportedError: A layer that mixes dimensions (convolutions, attention, reshapes, …), values of other shapes.
    """

    def __init__(self, cut: Cut, theta: Theta, early: Sequence[Any]) -> None:
        self._theta = theta
        self._steps: list[tuple[fx.Node, Operation]] = []
        self._holders: list[fx.Node] = []
        self._output: Any = None
        self._widest = 1
        for value in early:
            base = value.base if isinstance(value, Affine) else value
            if not isinstance(base, Tensor) or base.ndim != 2:
                raise UnsupportedError("a stack of points wants values of shape [samples, features]")
        for node in cut.rest.graph.nodes:
            if node.op == "placeholder":
                self._holders.append(node)
            elif node.op == "output":
                self._output = node.args[0]
            else:
                self._steps.append((node, _operation(cut.rest, node, theta)))

    def size(self, samples: int) -> int:
        """Return how many points to stack."""
        return max(1, min(512, NUMBERS // max(1, samples * self._widest)))

    def outputs(self, early: Sequence["Early"], h: Tensor, buffers: Buffers) -> Any:
        """Return the model's outputs at points, each ``[points, samples, features]``.

        Args:
            early: Values at the frontier, one each.
            h: Points, ``[points, z]``.
            buffers: The thread's own, in which outputs may lie too, until the next call.

        Returns:
            What the model returns.
        """
        rows = self._theta.rows(h)
        values = {node: value.at(h, buffers) for node, value in zip(self._holders, early, strict=True)}
        for node, operation in self._steps:
            values[node] = found = operation(values, rows, buffers)
            if isinstance(found, Tensor) and found.ndim == 3:
                self._widest = max(self._widest, found.shape[1])

        def give(node: fx.Node) -> Any:
            return values[node].expand(len(h), -1, -1).transpose(1, 2)

        return fx.node.map_arg(self._output, give)


class Early:
    """A value at the frontier, samples last, ready for stacks of points.

    Args:
        value: As `Cut.early` gives it, ``[samples, features]``.
    """

    def __init__(self, value: Any) -> None:
        affine = isinstance(value, Affine)
        base: Tensor = value.base if affine else value
        self._base = base.t().contiguous()
        self._moving = [n for n, part in enumerate(value.parts) if part is not None] if affine else []
        parts = [value.parts[n].expand_as(base).t() for n in self._moving]
        self._parts = torch.stack(parts) if parts else self._base[None, :0]
        self._affine = affine

    @property
    def bytes(self) -> int:
        """Memory held."""
        return (self._base.numel() + self._parts.numel()) * self._base.element_size()

    def at(self, h: Tensor, buffers: Buffers) -> Tensor:
        """Return the value at points, ``[points, features, samples]``, or without points if it is fixed."""
        base, parts, count = self._base, self._parts, len(self._moving)
        if not self._affine:
            return base[None]
        if not count:
            return base.repeat(len(h), 1, 1)
        factors = h[:, self._moving]
        if base.numel() < LOOP:
            flat = torch.addmm(base.reshape(1, -1), factors.to(base.dtype), parts.reshape(count, -1))
            return flat.view(len(h), *base.shape)
        out, line = buffers.get(self, base, len(h), *base.shape), buffers.get((self, "line"), base, *base.shape)
        before: list[float] | None = None
        for row, (*first, last) in zip(out, factors.tolist(), strict=True):
            if first != before:  # along a grid line one addition is left
                combine(base, parts[:-1], tuple(first), line)
                before = first
            torch.add(line, parts[-1], alpha=last, out=row)
        return out


def _operation(graph: fx.GraphModule, node: fx.Node, theta: Theta) -> Operation:
    if node.op == "get_attr":
        return _attribute(fetch(graph, str(node.target)), theta)
    if node.op == "call_module":
        return _module(graph.get_submodule(str(node.target)), node, theta)
    if node.target is torch.flatten and node.args[1:] == (1,) and not node.kwargs:
        return _same(node)
    if node.target not in (POINTWISE_METHODS if node.op == "call_method" else POINTWISE):
        raise UnsupportedError(f"{node.target} is nothing that a stack of points can go through")

    def run(values: Mapping[fx.Node, Any], _rows: Rows, _buffers: Buffers) -> Any:
        args = fx.node.map_arg(node.args, values.__getitem__)
        kwargs = fx.node.map_arg(node.kwargs, values.__getitem__)
        if node.op == "call_method":
            return getattr(args[0], str(node.target))(*args[1:], **kwargs)
        return node.target(*args, **kwargs)  # type: ignore[operator]

    return run


def _same(node: fx.Node) -> Operation:
    source = node.args[0]
    assert isinstance(source, fx.Node)
    return lambda values, _rows, _buffers: values[source]


def _attribute(value: Any, theta: Theta) -> Operation:
    if not isinstance(value, Tensor) or value.ndim > 1:
        raise UnsupportedError("a tensor of several dimensions stands by itself in the model")
    if id(value) in theta.moved:
        return lambda _values, rows, _buffers: rows[id(value)].reshape(-1, value.numel(), 1)
    return lambda _values, _rows, _buffers: value.reshape(1, -1, 1)


def _module(module: nn.Module, node: fx.Node, theta: Theta) -> Operation:
    source = node.args[0] if len(node.args) == 1 and not node.kwargs else None
    if not isinstance(source, fx.Node) or has_hooks(module):
        raise UnsupportedError(f"{node.target} is called in a way that a stack of points cannot follow")
    if type(module) in POINTWISE_MODULES:
        return lambda values, _rows, _buffers: module(values[source])
    if type(module) is nn.Flatten and module.start_dim == 1 and module.end_dim == -1:
        return _same(node)
    if isinstance(module, nn.Linear) and type(module) is nn.Linear:
        return _linear(module, source, theta)
    if isinstance(module, nn.BatchNorm1d) and type(module) is nn.BatchNorm1d:
        return _norm(module, source, theta)
    raise UnsupportedError(f"{type(module).__name__} is no layer that a stack of points can go through")


def _at(value: Tensor, rows: Rows) -> Tensor:
    """Return a vector of features at the points: ``[points or 1, features, 1]``."""
    return rows.get(id(value), value[None])[..., None]


def _linear(module: nn.Linear, source: fx.Node, theta: Theta) -> Operation:
    weight, bias = module.weight, module.bias

    def run(values: Mapping[fx.Node, Any], rows: Rows, buffers: Buffers) -> Tensor:
        x = values[source]
        matrix = rows[id(weight)] if id(weight) in theta.moved else weight.expand(len(x), -1, -1)
        points = max(len(x), len(matrix))
        out = buffers.get(run, x, points, len(weight), x.shape[2])
        x, matrix = x.expand(points, -1, -1), matrix.expand(points, -1, -1)
        return torch.bmm(matrix, x, out=out) if bias is None else torch.baddbmm(_at(bias, rows), matrix, x, out=out)

    return run


def _norm(module: nn.BatchNorm1d, source: fx.Node, theta: Theta) -> Operation:
    mean, variance = module.running_mean, module.running_var
    if mean is None or variance is None or {id(mean), id(variance)} & theta.moved:
        raise UnsupportedError("a BatchNorm whose statistics are not fixed")

    def run(values: Mapping[fx.Node, Any], rows: Rows, _buffers: Buffers) -> Tensor:
        scale = torch.rsqrt(variance + module.eps)[None, :, None]
        if not module.affine:
            return torch.mul(values[source] - mean[:, None], scale)
        scale = scale * _at(module.weight, rows)
        x: Tensor = values[source]
        return torch.addcmul(_at(module.bias, rows) - mean[:, None] * scale, x, scale)

    return run
