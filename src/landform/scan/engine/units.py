"""Find the units of a traced model that no sample reaches, whatever the point."""

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, fx, nn

from landform.scan.engine.stacked import POINTWISE, POINTWISE_METHODS, POINTWISE_MODULES
from landform.scan.engine.trace import has_hooks, touched

Moves = Mapping[int, Sequence[Tensor | None]]
"""By ``id`` of a moved tensor: what each direction adds to it."""
Layer = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d
LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
POOLS = (
    *(nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d),
    *(nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d),
)


@dataclass(frozen=True, eq=False)
class Units:
    """Which units of a node's value are constant.

    Attributes:
        mask: One entry a unit.
        layer: The node of the layer that made them.
        channels: Whether they are channels, dimension 1, that are the same at every position, or the last dimension.
        repeats: How many entries in turn come from one of the value before (flattening).
    """

    mask: Tensor
    layer: fx.Node
    channels: bool
    repeats: int = 1


def constant_units(graph: fx.GraphModule, moves: Moves, shapes: Mapping[fx.Node, torch.Size]) -> dict[fx.Node, Units]:
    """Find constant units: those of a layer that read constant units alone, at the origin and in all directions.

    A channel of a convolution has to be the same at every position too, so beside a padding of zeros it may read
    constant channels in the tap that never meets it. Units stay constant through functions of single numbers, pools and
    flattening. Where a layer is read in another way (as output, in a sum, by a norm), all its units count as reached.

    Args:
        graph: A traced copy of a model in evaluation mode.
        moves: Directions.
        shapes: Shapes of the nodes' values for some samples.

    Returns:
        The units of every node that has constant ones, and others.

    Example:
        >>> from landform.scan.engine.trace import trace
        >>> net = nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 1))
        >>> net[0].weight.data = torch.tensor([[0.0], [1.0]])
        >>> [units.mask.tolist() for units in constant_units(trace(net), {}, {}).values()]  # of the Linear, of the ReLU
        [[True, False], [True, False]]
    """
    readers = Counter(id(tensor) for node in graph.graph.nodes for tensor in touched(graph, node))
    reached: set[fx.Node] = set()
    while True:
        found: dict[fx.Node, Units] = {}
        before = len(reached)
        for node in graph.graph.nodes:
            sources = [found[source] for source in node.all_input_nodes if source in found]
            layer = layer_of(graph, node)
            if layer is not None and all(readers[id(tensor)] == 1 for tensor in layer.parameters()):
                mask = _silent(layer, sources[0] if sources else None, moves)
                if mask is None:
                    reached |= {source.layer for source in sources}
                elif node not in reached and bool(mask.any()):
                    found[node] = Units(mask, node, type(layer) is not nn.Linear)
            elif sources:
                passed = _passed(graph, node, sources, shapes)
                if passed is None:
                    reached |= {source.layer for source in sources}
                else:
                    found[node] = passed
        if len(reached) == before:
            return found


def layer_of(graph: fx.GraphModule, node: fx.Node) -> Layer | None:
    """Return the Linear, or convolution without groups, that a node calls on one value; None for all other nodes."""
    if node.op != "call_module" or len(node.args) != 1 or node.kwargs or not isinstance(node.args[0], fx.Node):
        return None
    module = graph.get_submodule(str(node.target))
    if not isinstance(module, LAYERS) or type(module) not in LAYERS or has_hooks(module):
        return None
    if not isinstance(module, nn.Linear) and (
        module.groups != 1
        or isinstance(module.padding, str)
        or (any(module.padding) and module.padding_mode != "zeros")
    ):
        return None
    return module


def matrix(weight: Tensor) -> Tensor:
    """Return what a layer multiplies channels by that are the same everywhere: the sum over all taps."""
    return weight if weight.ndim == 2 else weight.flatten(2).sum(2)


def pointwise(graph: fx.GraphModule, node: fx.Node) -> bool:
    """Say whether a node is a function of single numbers."""
    if node.op == "call_module":
        return type(graph.get_submodule(str(node.target))) in POINTWISE_MODULES
    return node.target in {"call_method": POINTWISE_METHODS, "call_function": POINTWISE}.get(node.op, ())


def _silent(layer: Layer, source: Units | None, moves: Moves) -> Tensor | None:
    """Return which units of a layer are constant; None if others read constants in a way that no bias replaces."""
    if source is not None and source.channels is isinstance(layer, nn.Linear):
        return None
    steps = moves.get(id(layer.weight), ())
    reads = torch.zeros(layer.weight.shape[:2], dtype=torch.bool, device=layer.weight.device)
    edges = torch.zeros_like(reads)
    for weight in (layer.weight, *(step for step in steps if step is not None)):
        reads |= weight.reshape(*reads.shape, -1).any(2)
        edges |= _off_centre(layer, weight)
    constant = torch.zeros_like(reads[0]) if source is None else source.mask
    reached = reads[:, ~constant].any(1)
    if bool(edges[:, constant].any()):
        return None
    reached[0] |= not bool(reached.any())  # a layer of no units at all is none
    return ~reached


def _off_centre(layer: Layer, weight: Tensor) -> Tensor:
    """Say which weights read, at the edge, padding in place of a channel's value."""
    if isinstance(layer, nn.Linear) or not any(layer.padding):
        return torch.zeros(weight.shape[:2], dtype=torch.bool, device=weight.device)
    taps = weight != 0
    sizes, padding = list[int](layer.kernel_size), cast("tuple[int, ...]", layer.padding)
    for place in itertools.product(*[range(size) for size in sizes]):
        ends = zip(place, sizes, layer.dilation, padding, strict=True)
        if all(pad <= tap * step <= (size - 1) * step - pad for tap, size, step, pad in ends):
            index: tuple[slice | int, ...] = (slice(None), slice(None), *place)
            taps[index] = False  # never over the edge
    return taps.flatten(2).any(2)


def _passed(
    graph: fx.GraphModule, node: fx.Node, sources: Sequence[Units], shapes: Mapping[fx.Node, torch.Size]
) -> Units | None:
    """Return the units after a node that is no layer; None if they are read in a way that is not followed."""
    first = node.all_input_nodes[0]
    if len(node.all_input_nodes) != 1 or not node.args or node.args[0] is not first:
        return None
    source = sources[0]
    passed = Units(source.mask, source.layer, source.channels)
    if node.op != "call_module":
        flat = node.target in ("flatten", torch.flatten) and node.args[1:] == (1,) and not node.kwargs
        return _flat(passed, shapes[first]) if flat else passed if pointwise(graph, node) else None
    module = graph.get_submodule(str(node.target))
    if has_hooks(module) or len(node.args) != 1 or node.kwargs:
        return None
    if type(module) is nn.Flatten:
        whole = module.start_dim == 1 and module.end_dim == -1
        return _flat(passed, shapes[first]) if whole else None
    if type(module) in POOLS and source.channels:
        padded = isinstance(module, nn.AvgPool1d | nn.AvgPool2d | nn.AvgPool3d) and module.padding not in (
            0,
            (0,),
            (0, 0),
            (0, 0, 0),
        )
        fixed = getattr(module, "divisor_override", None) is not None or getattr(module, "return_indices", False)
        return None if padded or fixed else passed
    return passed if pointwise(graph, node) else None


def _flat(units: Units, shape: torch.Size) -> Units | None:
    if not units.channels:
        return units if len(shape) == 2 else None
    repeats = shape[2:].numel()
    return Units(units.mask.repeat_interleave(repeats), units.layer, channels=False, repeats=repeats)
