"""Which channels of a traced model's values depend on the sample, and which on the point."""

import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional
from torch.nn.modules.conv import _ConvNd

from landform.scan.engine.stacked import POINTWISE, POINTWISE_METHODS, POINTWISE_MODULES
from landform.scan.engine.trace import NORMS, fixed_statistics, has_hooks, is_shape, touched
from landform.scan.engine.units import Moves

CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
BY_CHANNEL = (
    *POINTWISE_MODULES,
    *(nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.PReLU),
    *(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d),
)
"""Modules that treat every channel by itself."""
SUMS: frozenset[Any] = frozenset((operator.add, operator.iadd, operator.sub, operator.mul, torch.add, torch.mul))
MEANS = ((2, 3), [2, 3], (-2, -1), [-2, -1], (-1, -2), [-1, -2])
"""Axes of positions, so that a mean over them keeps the channels."""


@dataclass(frozen=True, eq=False)
class Reach:
    """What may change a value, channel by channel: masks ``[channels]``, or ``[1]`` where all channels are alike.

    Attributes:
        sample: Channels that may depend on the input.
        point: Channels that may depend on the point.
    """

    sample: Tensor
    point: Tensor

    @property
    def apart(self) -> bool:
        """Whether no channel depends on both, and some on either."""
        return bool(self.sample.any()) and bool(self.point.any()) and not bool((self.sample & self.point).any())

    def alike(self) -> "Reach":
        """Return the same without telling channels apart."""
        return Reach(self.sample.any()[None], self.point.any()[None])

    def joined(self, other: "Reach") -> "Reach":
        """Return what a value has that is made of two, channel by channel."""
        lengths = {len(self.sample), len(other.sample)} - {1}
        if len(lengths) > 1:
            return self.alike().joined(other.alike())
        return Reach(self.sample | other.sample, self.point | other.point)

    def spread(self, inputs: int) -> "Reach":
        """Return the masks for ``inputs`` numbers: each channel's positions one after another, as flattening leaves."""
        count = len(self.sample)
        if count == 1 or count == inputs:
            return Reach(self.sample.expand(inputs), self.point.expand(inputs)) if count == 1 else self
        if inputs % count:
            alike = self.alike()
            return Reach(alike.sample.expand(inputs), alike.point.expand(inputs))
        times = inputs // count
        return Reach(self.sample.repeat_interleave(times), self.point.repeat_interleave(times))


def reaches(graph: fx.GraphModule, moves: Moves) -> dict[fx.Node, Reach]:
    """Follow sample and point through a graph, by weights that are anything but zero at the origin or in a direction.

    What is not known to treat channels apart mixes all of them, which is never wrong.

    Args:
        graph: A traced copy of a model in evaluation mode.
        moves: Directions.

    Returns:
        The reach of every node's value.

    Example:
        >>> from landform.scan.engine.trace import trace
        >>> net = nn.Sequential(nn.Linear(1, 2), nn.ReLU())
        >>> net[0].weight.data = torch.tensor([[0.0], [1.0]])
        >>> found = reaches(trace(net), {id(net[0].bias): [torch.tensor([1.0, 0.0])]})
        >>> last = [*found.values()][-1]
        >>> last.sample.tolist(), last.point.tolist(), last.apart
        ([False, True], [True, False], True)
    """
    found: dict[fx.Node, Reach] = {}
    for node in graph.graph.nodes:
        if node.op != "output":
            found[node] = _reach(graph, node, moves, found)
    return found


def _reach(graph: fx.GraphModule, node: fx.Node, moves: Moves, found: Mapping[fx.Node, Reach]) -> Reach:
    yes, no = torch.ones(1, dtype=torch.bool), torch.zeros(1, dtype=torch.bool)
    if node.op == "placeholder":
        return Reach(yes, no)
    own = any(id(tensor) in moves for tensor in touched(graph, node))
    if node.op == "get_attr":
        return Reach(no, yes if own else no)
    if is_shape(node):
        return Reach(no, no)  # of blocks of any size alike, or `agree` finds it
    inputs = [found[source] for source in node.all_input_nodes]
    mixed = Reach(no, yes if own else no)
    for each in inputs:
        mixed = mixed.joined(each).alike()
    if len(inputs) == 1 and node.args and node.args[0] is node.all_input_nodes[0]:
        told = _module(graph, node, moves, inputs[0], own) if node.op == "call_module" else _function(node, inputs[0])
        return told or mixed
    if node.op == "call_function" and not node.kwargs and node.target in SUMS and len(inputs) == len(node.args) == 2:
        return inputs[0].joined(inputs[1])
    if node.op == "call_function" and node.target is torch.cat and _along_channels(node):
        parts = [found[source] for source in node.args[0]]  # type: ignore[union-attr, index]
        if all(len(part.sample) > 1 for part in parts):
            return Reach(torch.cat([part.sample for part in parts]), torch.cat([part.point for part in parts]))
    return mixed


def _along_channels(node: fx.Node) -> bool:
    dim = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
    return bool(dim == 1) and isinstance(node.args[0], (tuple, list))


def _function(node: fx.Node, given: Reach) -> Reach | None:
    known = {"call_method": POINTWISE_METHODS, "call_function": POINTWISE}.get(node.op, frozenset[Any]())
    if node.target in known:
        return given
    rest = (*node.args[1:], *node.kwargs.values())
    if node.target in ("flatten", torch.flatten) and rest == (1,):
        return given
    if node.target in ("mean", torch.mean) and len(rest) == 1 and rest[0] in MEANS:
        return given
    if node.target is functional.adaptive_avg_pool2d:
        return given
    return None


def _module(graph: fx.GraphModule, node: fx.Node, moves: Moves, given: Reach, own: bool) -> Reach | None:
    module: Any = graph.get_submodule(str(node.target))
    if len(node.args) != 1 or node.kwargs or has_hooks(module):
        return None
    if type(module) in (nn.Linear, *CONVS):
        return _product(module, moves, given)
    if type(module) in NORMS and fixed_statistics(module):
        return _norm(module, moves, given)
    if type(module) in BY_CHANNEL and not own:
        return given
    if type(module) is nn.Flatten and (module.start_dim, module.end_dim) == (1, -1):
        return given
    return None


def _product(module: nn.Linear | _ConvNd, moves: Moves, given: Reach) -> Reach:
    """Return which outputs read what: a weight counts if it is not zero somewhere."""
    groups = getattr(module, "groups", 1)
    inputs = module.weight.shape[1] * groups
    known = given.spread(inputs)
    reads = _somewhere(module.weight, moves)
    rows = reads.reshape(*reads.shape[:2], -1).any(2).reshape(groups, -1, inputs // groups)
    sample, point = (
        (rows & mask.reshape(groups, 1, -1).to(rows.device)).any(2).reshape(-1) for mask in (known.sample, known.point)
    )
    return Reach(sample, point | _moved(module.weight, moves) | _moved(module.bias, moves))


def _norm(module: Any, moves: Moves, given: Reach) -> Reach:
    known = given.spread(module.num_features)
    passes = torch.ones(module.num_features, dtype=torch.bool)
    if module.weight is not None:
        passes = _somewhere(module.weight, moves)  # a gain of zero gives the bias, whatever comes in
    point = (known.point & passes) | _moved(module.weight, moves) | _moved(module.bias, moves)
    return Reach(known.sample & passes, point)


def _somewhere(value: Tensor, moves: Moves) -> Tensor:
    found: Tensor = value != 0
    for step in moves.get(id(value), ()):
        found = found | (step != 0) if step is not None else found
    return found


def _moved(value: Tensor | None, moves: Moves) -> Tensor:
    steps = [] if value is None else [step for step in moves.get(id(value), ()) if step is not None]
    found = torch.zeros(1, dtype=torch.bool)
    for step in steps:
        found = found | (step != 0).reshape(len(step), -1).any(1)
    return found
