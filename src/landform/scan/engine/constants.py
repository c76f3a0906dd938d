"""Units that no sample reaches: computed once a point, for all samples; a smaller network is left for these."""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from jaxtyping import Float64, Int64
from torch import Tensor, fx, nn

from landform.scan.engine.affine import SMALL, AffineEngine, StackedEngine
from landform.scan.engine.base import AbstractEngine, Sums, Terms
from landform.scan.engine.fold import fold
from landform.scan.engine.moving import moving_copy
from landform.scan.engine.own import UnsupportedError
from landform.scan.engine.source import Source
from landform.scan.engine.trace import Kind, call, classify, trace
from landform.scan.engine.units import LAYERS, Layer, Moves, Units, constant_units, layer_of, matrix, pointwise
from landform.subspace import Subspace
from landform.task import Task
from landform.task.running import moved

MOST = 64
"""Coordinates of the smaller network at most: each is an addition to a layer's values at every point."""
TOGETHER = 256
"""Points at which constants are computed in one product."""


class ConstantsEngine(AbstractEngine):
    """Computes what does not depend on the sample once a point, and adds it to the biases of the network that is left.

    A unit of a Linear is *constant* if its weights on all that depends on the input are zero, at the origin and in all
    directions, as those of a pattern beside a trained network are; a channel of a convolution if it is the same at all
    positions too. With C the constant units of the layer before and V its others, W_V x + (W_C c(h) + b) is a layer of
    a smaller network, with a bias of its own at each point. So c is computed for many points in one product, and
    `AffineEngine` does the rest, in a subspace of the smaller network: its coordinates are those h that move it, and
    the entries of c, or of W_C c where these are fewer.

    Args:
        task: The task; its model must be a module that `torch.fx` can trace.
        subspace: An affine subspace.
        order: Order of the samples; None for the data's.
        batch_size: Samples a block.

    Raises:
        UnsupportedError: As `AffineEngine`; more than half of the work is left, or constants make more than 64
            coordinates.

    Cost:
        One sample through the constant units, and all samples through the others, a point.

    Example:
        >>> net = nn.Sequential(nn.Linear(1, 3), nn.ReLU(), nn.Linear(3, 1))
        >>> origin = {"0.weight": torch.tensor([[1.0], [0.0], [0.0]]), "2.weight": torch.ones(1, 3)}
        >>> origin |= {"0.bias": torch.zeros(3), "2.bias": torch.zeros(1)}
        >>> line = Subspace(origin, ({"0.bias": torch.tensor([0.0, 1.0, -1.0])},))
        >>> task = Task(net, "mse", (torch.tensor([[1.0], [2.0]]), torch.zeros(2, 1)))
        >>> ConstantsEngine(task, line).terms(torch.tensor([[2.0]]), 0, 2).num.tolist()  # (1 + 2)², (2 + 2)²
        [[[9.0, 16.0]]]
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
        if isinstance(task.model, nn.Module) and isinstance(subspace, Subspace):
            _require_zeros(task.model, subspace)  # before anything is copied
        model, tensors, steps = moving_copy(task, subspace)
        graph = trace(model)
        fold(graph, tensors, steps)
        lead = next((value for value in tensors.values() if value.is_floating_point()), None)
        inputs = self._source.block(0, 1).batch.inputs
        shapes = _shapes(graph, inputs if lead is None else moved(inputs, lead.device, lead.dtype))
        self._constants = Constants(graph, {key: step.parts for key, step in steps.items()}, subspace.z, shapes)
        smaller = task.replace(model=self._constants.graph)
        self._inner = AffineEngine(smaller, self._constants.subspace, order=order, batch_size=batch_size)
        if self._inner.written <= SMALL:
            with contextlib.suppress(UnsupportedError):
                self._inner = StackedEngine.of(self._inner)
        self._last = torch.empty(0, subspace.z), torch.empty(0, self._constants.subspace.z)

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
    def written(self) -> int:
        """Numbers of the smaller network that are written at every point."""
        return self._inner.written

    @property
    def held(self) -> int:
        """Bytes of what computes constants, and of what the engine of the smaller network holds."""
        return self._constants.bytes + self._inner.held

    def terms(self, h: Float64[Tensor, "points z"], start: int, stop: int) -> Terms:
        """Compute the terms of samples ``start … stop − 1`` at points; see `AbstractEngine.terms`."""
        return self._inner.terms(self._coordinates(h), start, stop)

    def sums(self, h: Float64[Tensor, "points z"], start: int = 0, stop: int | None = None) -> Sums:
        """Compute sums over a range of samples; see `AbstractEngine.sums`."""
        return self._inner.sums(self._coordinates(h), start, stop)

    def _coordinates(self, h: Tensor) -> Tensor:
        """Return the points' coordinates for the smaller network; those of the last call are asked for again often."""
        if not torch.equal(self._last[0], h):
            with torch.inference_mode():
                found = torch.cat([self._constants.coordinates(part) for part in torch.split(h, TOGETHER)])
            self._last = h.clone(), found.clone()
        return self._last[1]


@dataclass(frozen=True, eq=False)
class _Block:
    """Some rows and columns of a layer at the origin, and what directions add to them, by their number."""

    weight: Tensor
    bias: Tensor
    steps: Mapping[int, Tensor]
    shifts: Mapping[int, Tensor]

    def take(self, rows: Tensor, columns: Tensor) -> "_Block":
        """Return some of the rows and columns; directions that do nothing there are left out."""
        steps = {number: step[rows][:, columns] for number, step in self.steps.items()}
        shifts = {number: shift[rows] for number, shift in self.shifts.items()}
        return _Block(
            self.weight[rows][:, columns],
            self.bias[rows],
            {number: step for number, step in steps.items() if bool(step.any())},
            {number: shift for number, shift in shifts.items() if bool(shift.any())},
        )

    def at(self, x: Tensor, h: Tensor) -> Tensor:
        """Return values at points, from inputs there ``[points, columns]``."""
        found = torch.addmm(self.bias, x, self.weight.t())
        for number, step in self.steps.items():
            found += h[:, number, None] * (x @ step.t())
        for number, shift in self.shifts.items():
            found += h[:, number, None] * shift
        return found

    def reads(self) -> Tensor:
        """Say which weights are anything but zero somewhere."""
        found = self.weight != 0
        for step in self.steps.values():
            found = found | (step != 0)
        return found

    def moving(self, inputs: Tensor) -> Tensor:
        """Say which rows the point moves, given which inputs it moves."""
        found = self.weight[:, inputs].any(1)
        for part in (*self.steps.values(), *self.shifts.values()):
            found = found | part.reshape(len(part), -1).any(1)
        return found


class _Layer:
    """A Linear or convolution with constant units before or in it.

    Args:
        module: The layer; it is replaced.
        before: Which inputs are constant.
        here: Which units are.
        moves: Directions.
        inputs: The constant inputs at the origin.
        moving: Which of them the point moves.
    """

    def __init__(
        self, module: Layer, before: Tensor, here: Tensor, moves: Moves, inputs: Tensor, moving: Tensor
    ) -> None:
        weight = module.weight.detach()
        bias = weight.new_zeros(len(weight)) if module.bias is None else module.bias.detach()
        steps = {n: step for n, step in enumerate(moves.get(id(module.weight), ())) if step is not None}
        shifts = {n: step for n, step in enumerate(moves.get(id(module.bias), ())) if step is not None}
        self.rest = _Block(weight, bias, steps, shifts).take(~here, ~before)
        flat = _Block(matrix(weight), bias, {number: matrix(step) for number, step in steps.items()}, shifts)
        self.own = flat.take(here, before)
        across = flat.take(~here, before)
        self.live = across.reads().any(0) & (moving | bool(across.steps))
        by_rest = across.weight[:, ~self.live] @ inputs[~self.live]
        self.smaller = _smaller(module, self.rest.weight)
        self.smaller.bias = nn.Parameter(self.rest.bias + by_rest, requires_grad=False)
        rows = across.reads()[:, self.live].any(1)
        few = not across.steps and int(self.live.sum()) <= int(rows.sum())
        silent = _Block(across.weight, torch.zeros_like(across.bias), across.steps, {})
        self.sums = None if few else silent.take(rows, self.live)
        self.directions = list(across.weight[:, self.live].t() if few else torch.eye(len(rows)).to(weight)[rows])

    def coordinates(self, inputs: Tensor, h: Tensor) -> Tensor:
        """Return the factors of `directions` at points, from the constant inputs there."""
        inputs = inputs[:, self.live]
        return inputs if self.sums is None else self.sums.at(inputs, h)


class Constants:
    """What is constant in a model, and the smaller network that is left, with its subspace.

    Args:
        graph: The traced copy of a model; its layers are replaced by smaller ones.
        moves: Directions.
        z: Their number.
        shapes: Shapes of the nodes' values for one sample.

    Attributes:
        graph: The smaller network.
        subspace: Where it is moved, by the directions of ``kept`` and then by constants.
        kept: Numbers of the directions that move it themselves.

    Raises:
        UnsupportedError: Not worth it.
    """

    def __init__(self, graph: fx.GraphModule, moves: Moves, z: int, shapes: Mapping[fx.Node, torch.Size]) -> None:
        self.graph = graph
        self._units = constant_units(graph, moves, shapes)
        self._layers: dict[fx.Node, _Layer] = {}
        before = _work(graph, set(moves), shapes)
        self._split(moves, z)
        self._replace()
        own = [self._moved(number, moves) for number in range(z)]
        self.kept = [number for number, direction in enumerate(own) if direction]
        added = [
            {f"{node.target}.bias": direction} for node, layer in self._layers.items() for direction in layer.directions
        ]
        if not 0 < len(self.kept) + len(added) <= MOST:
            raise UnsupportedError(f"{len(added)} constants reach other units; wanted at most {MOST}")
        self.subspace = Subspace(
            {name: value.detach() for name, value in graph.named_parameters()},
            (*(own[number] for number in self.kept), *added),
        )
        names = {name for direction in self.subspace.directions for name in direction}
        after = _work(graph, {id(value) for name, value in graph.named_parameters() if name in names}, shapes)
        after += sum(len(layer.directions) * shapes[node].numel() for node, layer in self._layers.items())
        if 2 * after > before:
            raise UnsupportedError("without the units that no sample reaches, more than half of the work is left")

    @property
    def bytes(self) -> int:
        """Memory of the constant units' weights."""
        blocks = [layer.own for layer in self._layers.values()]
        return sum(part.nbytes for block in blocks for part in (block.weight, *block.steps.values()))

    def coordinates(self, h: Float64[Tensor, "points z"]) -> Float64[Tensor, "points coordinates"]:
        """Return the coordinates in the smaller network's subspace of points of the model's."""
        values = self._values(h)
        found = [h[:, self.kept].double()]
        for node, layer in self._layers.items():
            inputs = values.get(node.all_input_nodes[0])
            if layer.directions and inputs is not None:
                found.append(layer.coordinates(inputs, h.to(inputs)).double().cpu())
        return torch.cat(found, 1)

    def _split(self, moves: Moves, z: int) -> None:
        """Take the layers apart in turn, as what is fixed goes into biases, for which it has to be known."""
        values: dict[fx.Node, Tensor] = {}
        moving: dict[fx.Node, Tensor] = {}
        origin = torch.zeros(1, z, dtype=torch.float64)
        for node in self.graph.graph.nodes:
            module, source = layer_of(self.graph, node), next(iter(node.all_input_nodes), node)
            if module is None and node in self._units:
                values[node] = self._through(node, values)
                moving[node] = moving[source].repeat_interleave(self._units[node].repeats)
            if module is None or (node not in self._units and source not in self._units):
                continue
            weight = module.weight
            before = _mask(self._units.get(source), weight[0])
            here = _mask(self._units.get(node), weight)
            inputs = values[source][0] if source in values else weight.new_zeros(0)
            moved = moving.get(source, before[:0])
            layer = self._layers[node] = _Layer(module, before, here, moves, inputs, moved)
            if node in self._units:
                values[node] = layer.own.at(inputs[None], origin.to(inputs))
                moving[node] = layer.own.moving(moved)

    def _values(self, h: Tensor) -> dict[fx.Node, Tensor]:
        """Return the constants at points, ``[points, constant units]``."""
        values: dict[fx.Node, Tensor] = {}
        for node in self._units:
            layer = self._layers.get(node)
            if layer is None:
                values[node] = self._through(node, values)
                continue
            inputs = values.get(node.all_input_nodes[0])
            inputs = layer.own.weight.new_zeros(len(h), 0) if inputs is None else inputs
            values[node] = layer.own.at(inputs, h.to(inputs))
        return values

    def _through(self, node: fx.Node, values: Mapping[fx.Node, Tensor]) -> Tensor:
        source, units = node.all_input_nodes[0], self._units[node]
        if self._units[source].channels and not pointwise(self.graph, node):  # pools of equal numbers; flattening
            return values[source].repeat_interleave(units.repeats, 1)
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), values.__getitem__)
        return cast("Tensor", call(self.graph, node, args, kwargs))

    def _replace(self) -> None:
        for node, layer in self._layers.items():
            self.graph.set_submodule(str(node.target), layer.smaller)

    def _moved(self, number: int, moves: Moves) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for name, value in self.graph.named_parameters():
            if id(value) in moves and (step := moves[id(value)][number]) is not None:
                found[name] = step
        for node, layer in self._layers.items():
            if number in layer.rest.steps:
                found[f"{node.target}.weight"] = layer.rest.steps[number]
            if number in layer.rest.shifts:
                found[f"{node.target}.bias"] = layer.rest.shifts[number]
        return found


def _mask(units: Units | None, like: Tensor) -> Tensor:
    return torch.zeros(len(like), dtype=torch.bool, device=like.device) if units is None else units.mask


def _smaller(module: Layer, weight: Tensor) -> Layer:
    """Return a layer like another, with a bias that is still to be set."""
    rows, columns = weight.shape[:2]
    made: Layer
    if isinstance(module, nn.Linear):
        made = nn.Linear(columns, rows, device="meta")
    else:
        form = {key: getattr(module, key) for key in ("kernel_size", "stride", "padding", "dilation", "padding_mode")}
        made = type(module)(columns, rows, **form, device="meta")
    made.weight = nn.Parameter(weight, requires_grad=False)
    return made


class _Shapes(fx.Interpreter):
    """Runs a graph and notes the shapes of values."""

    def __init__(self, graph: fx.GraphModule) -> None:
        super().__init__(graph)
        self.found: dict[fx.Node, torch.Size] = {}

    def run_node(self, n: fx.Node) -> Any:
        """Run a node."""
        value = super().run_node(n)
        if isinstance(value, Tensor):
            self.found[n] = value.shape
        return value


def _shapes(graph: fx.GraphModule, inputs: Any) -> dict[fx.Node, torch.Size]:
    if not isinstance(inputs, Tensor):
        raise UnsupportedError("the model takes several inputs")
    run = _Shapes(graph)
    with torch.no_grad():
        run.run(inputs.clone())
    return run.found


def _work(graph: fx.GraphModule, moved: set[int], shapes: Mapping[fx.Node, torch.Size]) -> int:
    """Count multiply-adds of one sample in layers that `AffineEngine` would compute at every point."""
    total = 0
    for node, kind in classify(graph, moved).items():
        module = layer_of(graph, node)
        if kind is Kind.VARYING and module is not None:
            positions = shapes[node][2:].numel() if type(module) is not nn.Linear else shapes[node][:-1].numel()
            total += module.weight.numel() * positions
    return total


def _require_zeros(model: nn.Module, subspace: Subspace) -> None:
    """Refuse, without tracing, a model without a unit whose weights are all zero."""
    for name, module in model.named_modules(remove_duplicate=False):
        if type(module) in LAYERS:
            weight = subspace.origin.get(f"{name}.weight" if name else "weight", cast("Tensor", module.weight))
            if not bool(weight.flatten(1).any(1).all()):
                return
    raise UnsupportedError("no unit of a layer has weights of zero")
