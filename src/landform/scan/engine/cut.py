"""Cut a traced model where its values begin to depend on h in other ways than affinely."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.utils._pytree import tree_map

from landform.scan.engine.own import Affine, combine
from landform.scan.engine.trace import NORMS, PRODUCTS, Kind, call, fetch, is_shape, product, step

Steps = Mapping[int, "Affine"]
"""By ``id`` of a moved tensor: its value at the origin, and what each direction adds to it."""


class Cut:
    """A model in two: what is computed once for a block of samples, and what is left for every point.

    Args:
        graph: The traced copy of a model.
        kinds: Kind of every node.
        steps: Directions, by the ``id`` of the tensor that they move.
        z: Number of directions.

    Attributes:
        rest: Module of the values at the frontier, in the order of `frontier`; it gives the model's outputs.
        frontier: Nodes whose values ``rest`` takes.
        used: ``id`` of every moved tensor that ``rest`` reads.
    """

    def __init__(self, graph: fx.GraphModule, kinds: Mapping[fx.Node, Kind], steps: Steps, z: int) -> None:
        self._graph = graph
        self._kinds = kinds
        self._steps = steps
        self._z = z
        self.frontier: list[fx.Node] = []
        self.rest, self._writable = self._split()
        self.used = self._used()
        self._last = self._last_uses()
        self._images = any(
            type(self.rest.get_submodule(str(node.target))) is nn.Conv2d
            for node in self.rest.graph.nodes
            if node.op == "call_module"
        )

    @property
    def convolves(self) -> bool:
        """Whether convolutions are left for every point; they share out a block between cores better than points."""
        called = (node for node in self.rest.graph.nodes if node.op == "call_module")
        return any(isinstance(self.rest.get_submodule(str(node.target)), _ConvNd) for node in called)

    @property
    def reuses(self) -> bool:
        """Whether anything but inputs and parameters is computed once."""
        return any(
            node.op not in ("placeholder", "get_attr") for node, kind in self._kinds.items() if kind is not Kind.VARYING
        )

    def _split(self) -> tuple[fx.GraphModule, list[bool]]:
        late = fx.Graph()
        copies: dict[fx.Node, fx.Node] = {}
        output = next(node for node in self._graph.graph.nodes if node.op == "output")

        def fetch_input(node: fx.Node) -> fx.Node:
            if node not in copies:
                if node.op == "get_attr":
                    with late.inserting_before(first):
                        copies[node] = late.node_copy(node)
                else:
                    with late.inserting_before(first):
                        copies[node] = late.placeholder(f"early_{len(self.frontier)}")
                    self.frontier.append(node)
            return copies[node]

        first = late.create_node("call_function", len, ((),))  # marks where placeholders go
        for node in self._graph.graph.nodes:
            if node is output or self._kinds[node] is Kind.VARYING:
                copies[node] = late.node_copy(node, fetch_input)
        late.erase_node(first)
        holders = [node for node in late.nodes if node.op == "placeholder"]
        attributes = [node for node in late.nodes if node.op == "get_attr"]
        body = next((node for node in late.nodes if node.op not in ("placeholder", "get_attr")), None)
        for node in attributes:  # placeholders first, as fx wants them
            if body is not None:
                body.prepend(node)
        single = {holder for holder in holders if len(holder.users) == 1}
        writable = [
            self._kinds[node] is Kind.AFFINE and holder in single
            for node, holder in zip(self.frontier, holders, strict=True)
        ]
        fresh = {holder for holder, free in zip(holders, writable, strict=True) if free}
        in_place(self._graph, late, fresh)
        late.lint()
        return fx.GraphModule(self._graph, late), writable

    def _used(self) -> set[int]:
        found: set[int] = set()
        for node in self.rest.graph.nodes:
            if node.op == "call_module":
                module = self.rest.get_submodule(str(node.target))
                found |= {id(value) for value in [*module.parameters(), *module.buffers()]}
            elif node.op == "get_attr":
                found.add(id(fetch(self.rest, str(node.target))))
        return found & set(self._steps)

    def _last_uses(self) -> dict[fx.Node, list[fx.Node]]:
        """By node: the values that nobody needs after it."""
        last: dict[fx.Node, fx.Node] = {}
        keep = set(self.frontier)
        for node in self._graph.graph.nodes:
            if node.op != "output" and self._kinds[node] is not Kind.VARYING:
                for source in node.all_input_nodes:
                    last[source] = node
        found: dict[fx.Node, list[fx.Node]] = {}
        for source, node in last.items():
            if source not in keep:
                found.setdefault(node, []).append(source)
        return found

    def early(self, inputs: Mapping[str, Any] | Tensor) -> list[Any]:
        """Compute the values at the frontier for a block of samples: tensors, or `Affine`.

        Args:
            inputs: What the model takes.

        Returns:
            Values in the order of `frontier`.
        """
        values: dict[fx.Node, Any] = {}
        pending = iter((inputs,) if isinstance(inputs, Tensor) else ())
        named = inputs if isinstance(inputs, Mapping) else {}
        needed = self._needed()
        for node in self._graph.graph.nodes:
            if node.op == "placeholder":
                default = node.args[0] if node.args else None
                values[node] = named[node.target] if node.target in named else next(pending, default)
            elif node in needed:
                values[node] = self._value(node, values)
                for source in self._last.get(node, ()):
                    values.pop(source, None)
        found = [values[node] for node in self.frontier]
        return [_channels_last(value) for value in found] if self._images else found

    def widest(self, values: Sequence[Any]) -> int:
        """Return how many numbers the largest value of ``rest`` has, from values at the frontier of one sample."""
        sizes = _Sizes(self.rest)
        sizes.run(*(_base(value).clone() if isinstance(_base(value), Tensor) else value for value in values))
        return sizes.most

    def _needed(self) -> set[fx.Node]:
        found: set[fx.Node] = set()
        pending = list(self.frontier)
        while pending:
            node = pending.pop()
            if node not in found:
                found.add(node)
                pending.extend(node.all_input_nodes)
        return found

    def _value(self, node: fx.Node, values: Mapping[fx.Node, Any]) -> Any:
        if node.op == "get_attr":
            tensor = fetch(self._graph, str(node.target))
            return self._steps.get(id(tensor), tensor)
        if self._kinds[node] is Kind.FIXED or is_shape(node):
            args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda source: _base(values[source]))
            return call(self._graph, node, args, kwargs)
        if node.op == "call_module":
            module = self._graph.get_submodule(str(node.target))
            if type(module) in PRODUCTS:
                return self._product(module, values[node.args[0]])  # type: ignore[index]
            return self._through(module, values[node.args[0]])  # type: ignore[index]
        return self._function(node, values)

    def _product(self, module: nn.Module, x: Any) -> Affine:
        weight: Tensor = module.weight  # type: ignore[assignment]
        bias: Tensor | None = getattr(module, "bias", None)
        if isinstance(x, Affine):  # unmoved layer
            base = module(x.base)
            return Affine(
                base, tuple(None if p is None else product(module, _full(p, x.base), weight, None) for p in x.parts)
            )
        none = Affine(torch.empty(0), (None,) * self._z)
        by_weight, by_bias = self._steps.get(id(weight), none), self._steps.get(id(bias), none)
        # a tied tensor may be moved by now: the origin is in steps
        own = weight if by_weight is none else by_weight.base
        shift = bias if by_bias is none else by_bias.base
        base = product(module, x, own, shift)
        assert base is not None
        rows = zip(by_weight.parts, by_bias.parts, strict=True)
        return Affine(base, tuple(product(module, x, w, b) for w, b in rows))

    def _through(self, module: nn.Module, x: Affine) -> Affine:
        base = module(x.base)
        if type(module) in NORMS:
            assert isinstance(module, _BatchNorm)
            assert module.running_var is not None
            scale = torch.rsqrt(module.running_var + module.eps)
            if module.affine:
                scale = scale * module.weight
            scale = scale.reshape(-1, *[1] * (x.base.ndim - 2))
            return Affine(base, tuple(None if part is None else part * scale for part in x.parts))
        return Affine(base, tuple(None if part is None else module(_full(part, x.base)) for part in x.parts))

    def _function(self, node: fx.Node, values: Mapping[fx.Node, Any]) -> Affine:
        rule = step(node, self._kinds)

        def at(number: int | None) -> Any:
            """The node's arguments: bases, or the parts of one direction (zero where an argument is fixed)."""

            def pick(source: fx.Node) -> Any:
                value = values[source]
                if number is None or not isinstance(value, Affine):
                    return _base(value)
                part = value.parts[number]
                return torch.zeros_like(value.base) if part is None else _full(part, value.base)

            return fx.node.map_arg((node.args, node.kwargs), pick)

        affine = [source for source in node.all_input_nodes if isinstance(values[source], Affine)]
        base = call(self._graph, node, *at(None))
        parts: list[Tensor | None] = []
        for number in range(self._z):
            if all(values[source].parts[number] is None for source in affine):
                parts.append(None)
                continue
            args, kwargs = at(number)
            if rule == "sum":  # a fixed term belongs to the base alone
                args = tuple(
                    value if isinstance(given, fx.Node) and given in affine else 0.0
                    for given, value in zip(node.args, args, strict=True)
                )
            parts.append(call(self._graph, node, args, kwargs))
        return Affine(base, tuple(parts))

    def block(self, inputs: Mapping[str, Any] | Tensor) -> "Frontier":
        """Compute the frontier of a block of samples."""
        return Frontier(self.early(inputs))


@dataclass(frozen=True, eq=False)
class Frontier:
    """Values at the frontier of one block of samples, good for any point.

    Attributes:
        values: As `Cut.early` returns them.
    """

    values: list[Any]

    @property
    def bytes(self) -> int:
        """Memory held."""
        total = 0
        for value in self.values:
            if isinstance(value, Affine):
                total += _bytes(value.base) + sum(_bytes(part) for part in value.parts if part is not None)
            elif isinstance(value, Tensor):
                total += _bytes(value)
        return total


class Scratch:
    """Where one thread writes the values at a frontier, at one point after another."""

    def __init__(self) -> None:
        self._frontier: Frontier | None = None
        self._line: tuple[float, ...] | None = None
        self._bases: dict[int, Tensor] = {}
        self._buffers: dict[int, Tensor] = {}

    @property
    def bytes(self) -> int:
        """Memory held."""
        return sum(_bytes(value) for value in [*self._bases.values(), *self._buffers.values()])

    def at(self, frontier: Frontier, h: tuple[float, ...]) -> list[Any]:
        """Return the values at a point. Affine ones are in buffers that the next call overwrites."""
        line, last = h[:-1], h[-1]
        same = frontier is self._frontier and line == self._line
        self._frontier, self._line = frontier, line
        found: list[Any] = []
        for number, value in enumerate(frontier.values):
            if not isinstance(value, Affine):
                found.append(value)
                continue
            base = self._base(number, value, line, same)
            buffer = self._buffers[number] = _shaped(self._buffers.get(number), value.base)
            part = value.parts[-1]
            if part is None:
                buffer.copy_(base)
            else:
                torch.add(base, part, alpha=last, out=buffer)
            found.append(buffer)
        return found

    def loose(self, outputs: Any) -> Any:
        """Copy outputs that lie in a buffer, as where the model ends with what is affine."""
        places = {buffer.untyped_storage().data_ptr() for buffer in self._buffers.values()}

        def copy(value: Any) -> Any:
            lies = isinstance(value, Tensor) and value.untyped_storage().data_ptr() in places
            return value.clone() if lies else value

        return tree_map(copy, outputs)

    def _base(self, number: int, value: Affine, line: tuple[float, ...], same: bool) -> Tensor:
        steps = [(part, h) for part, h in zip(value.parts[:-1], line, strict=True) if part is not None]
        if not steps:
            return value.base
        if not same:
            base = self._bases[number] = _shaped(self._bases.get(number), value.base)
            combine(value.base, [part for part, _ in steps], tuple(h for _, h in steps), base)
        return self._bases[number]


def _shaped(buffer: Tensor | None, like: Tensor) -> Tensor:
    """Return a buffer that a tensor fits into, the same if it does."""
    if buffer is None or buffer.shape != like.shape or buffer.stride() != like.stride():
        return torch.empty_like(like)
    return buffer


class _Sizes(fx.Interpreter):
    """Runs a graph and notes the size of the largest value."""

    most = 1

    def run_node(self, n: fx.Node) -> Any:
        found = super().run_node(n)
        if isinstance(found, Tensor) and n.op != "get_attr":
            self.most = max(self.most, found.numel())
        return found


def _channels_last(value: Any) -> Any:
    """Lay images out with channels last: on CPUs convolutions and poolings are about twice as fast so."""
    if isinstance(value, Affine):
        return Affine(_channels_last(value.base), tuple(_channels_last(part) for part in value.parts))
    if isinstance(value, Tensor) and value.ndim == 4 and value.device.type == "cpu":
        return value.contiguous(memory_format=torch.channels_last)
    return value


def _base(value: Any) -> Any:
    return value.base if isinstance(value, Affine) else value


def _full(part: Tensor, base: Tensor) -> Tensor:
    return part if part.shape == base.shape else part.expand_as(base)


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


_FRESH = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, *NORMS)


def in_place(graph: fx.GraphModule, late: fx.Graph, fresh: set[fx.Node]) -> None:
    """Let ReLUs overwrite values that nobody else reads: one pass over memory less, nothing allocated.

    Args:
        graph: Where the modules are.
        late: The graph to change.
        fresh: Placeholders that may be overwritten.
    """
    for node in list(late.nodes):
        relu = node.op == "call_function" and node.target in (torch.relu, torch.nn.functional.relu)
        if node.op == "call_module":
            module = graph.get_submodule(str(node.target))
            relu = type(module) is nn.ReLU and not module._forward_hooks and not module._forward_pre_hooks
        if not relu or not node.args or not isinstance(node.args[0], fx.Node):
            continue
        source = node.args[0]
        made = source.op == "call_module" and type(graph.get_submodule(str(source.target))) in _FRESH
        if (made or source in fresh) and len(source.users) == 1:
            with late.inserting_before(node):
                new = late.call_function(torch.relu_, (source,))
            node.replace_all_uses_with(new)
            late.erase_node(node)
