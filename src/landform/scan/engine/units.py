"""Find the units of a traced model that no sample reaches, whatever the point."""

from collections import Counter
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, fx, nn

from landform.scan.engine.stacked import POINTWISE, POINTWISE_METHODS, POINTWISE_MODULES
from landform.scan.engine.trace import has_hooks, touched

Moves = Mapping[int, Sequence[Tensor | None]]
"""By ``id`` of a moved tensor: what each direction adds to it."""


def constant_units(graph: fx.GraphModule, moves: Moves) -> dict[fx.Node, Tensor]:
    """Find constant units: those of a Linear that read constant units alone, at the origin and in all directions.

    They stay constant through functions of single numbers. Where a layer is read in another way (as the output, in a
    sum, by a norm), all its units count as reached.

    Args:
        graph: A traced copy of a model in evaluation mode.
        moves: Directions.

    Returns:
        A mask of the units for every node that has some, and others.

    Example:
        >>> from landform.scan.engine.trace import trace
        >>> net = nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 1))
        >>> net[0].weight.data = torch.tensor([[0.0], [1.0]])
        >>> [mask.tolist() for mask in constant_units(trace(net), {}).values()]  # of the Linear and of the ReLU
        [[True, False], [True, False]]
    """
    readers = Counter(id(tensor) for node in graph.graph.nodes for tensor in touched(graph, node))
    reached: set[fx.Node] = set()
    while True:
        masks: dict[fx.Node, Tensor] = {}
        made_by: dict[fx.Node, fx.Node] = {}
        before = len(reached)
        for node in graph.graph.nodes:
            sources = [source for source in node.all_input_nodes if source in masks]
            layer = linear(graph, node)
            if layer is not None and all(readers[id(tensor)] == 1 for tensor in layer.parameters()):
                mask = _silent(layer, masks.get(node.args[0]), moves)
                if node not in reached and bool(mask.any()):
                    masks[node], made_by[node] = mask, node
            elif len(sources) == 1 and _pointwise(graph, node):
                masks[node], made_by[node] = masks[sources[0]], made_by[sources[0]]
            else:
                reached |= {made_by[source] for source in sources}
        if len(reached) == before:
            return masks


def linear(graph: fx.GraphModule, node: fx.Node) -> nn.Linear | None:
    """Return the plain Linear that a node calls on one value; None for all other nodes."""
    if node.op != "call_module" or len(node.args) != 1 or node.kwargs or not isinstance(node.args[0], fx.Node):
        return None
    module = graph.get_submodule(str(node.target))
    return module if type(module) is nn.Linear and not has_hooks(module) else None


def _silent(layer: nn.Linear, constant: Tensor | None, moves: Moves) -> Tensor:
    weights = [layer.weight, *(step for step in moves.get(id(layer.weight), ()) if step is not None)]
    reads = torch.zeros(layer.out_features, dtype=torch.bool, device=layer.weight.device)
    for weight in weights:
        reads |= (weight if constant is None else weight[:, ~constant]).any(1)
    reads[0] |= not bool(reads.any())  # a layer of no units at all is none
    return ~reads


def _pointwise(graph: fx.GraphModule, node: fx.Node) -> bool:
    if len(node.all_input_nodes) != 1 or not node.args or node.args[0] is not node.all_input_nodes[0]:
        return False
    if node.op == "call_module":
        module = graph.get_submodule(str(node.target))
        return type(module) in POINTWISE_MODULES and not has_hooks(module) and len(node.args) == 1
    return node.target in {"call_method": POINTWISE_METHODS, "call_function": POINTWISE}.get(node.op, ())
