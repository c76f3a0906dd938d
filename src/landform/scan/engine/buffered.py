"""Linear layers that write into memory of their own again and again."""

import copy
from typing import Any, Self

import torch
import torch.nn.functional as F  # noqa: N812  the name everyone knows
from torch import Tensor, fx, nn

from landform.scan.engine.trace import NORMS, PRODUCTS, has_hooks

_COPIES = (*PRODUCTS, *NORMS, nn.LayerNorm)
"""Modules whose result never lies in the memory of what they were given."""


class BufferedLinear(nn.Module):
    """A Linear layer whose outputs lie in one buffer, which the next call overwrites.

    Fresh memory comes from the system page by page in threads and in dask's workers, which takes a twentieth of the
    time of a product of 1024 × 512 × 512.

    Args:
        linear: The layer, whose weights are shared.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight = linear.weight
        self.bias: nn.Parameter | None = linear.bias
        self.out: Tensor | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        other = type(self).__new__(type(self))
        memo[id(self)] = other
        for key, value in vars(self).items():
            other.__dict__[key] = None if key == "out" else copy.deepcopy(value, memo)
        return other

    def forward(self, x: Tensor) -> Tensor:
        """Compute the layer."""
        if x.ndim < 2 or x.dtype != self.weight.dtype or x.device.type != "cpu" or not x.is_contiguous():
            return F.linear(x, self.weight, self.bias)
        shape = (*x.shape[:-1], len(self.weight))
        if self.out is None or self.out.shape != shape or self.out.dtype != x.dtype:
            self.out = x.new_empty(shape)
        rows, out = x.flatten(0, -2), self.out.view(-1, shape[-1])
        if self.bias is None:
            torch.mm(rows, self.weight.t(), out=out)
        else:
            torch.addmm(self.bias, rows, self.weight.t(), out=out)
        return self.out


def buffered(module: fx.GraphModule) -> fx.GraphModule:
    """Give each call of a Linear layer a buffer, where it can be seen that no output of the model lies in it.

    Args:
        module: A traced model.

    Returns:
        A copy of its graph with the same weights, used by one thread at a time; the module itself is left as it is.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
        >>> found = buffered(fx.symbolic_trace(net))
        >>> [name for name, part in found.named_modules() if isinstance(part, BufferedLinear)]
        ['buffered_1']
        >>> x = torch.ones(4, 2)
        >>> with torch.no_grad():
        ...     torch.equal(found(x), net(x))
        True
    """
    graph = fx.Graph()
    graph.output(graph.graph_copy(module.graph, {}))
    result = fx.GraphModule(module, graph)
    for number, node in enumerate(result.graph.nodes):
        if node.op != "call_module" or len(node.args) != 1 or node.kwargs:
            continue
        layer = result.get_submodule(str(node.target))
        if type(layer) is nn.Linear and not has_hooks(layer) and not _given_out(result, node):
            result.add_submodule(f"buffered_{number}", BufferedLinear(layer))
            node.target = f"buffered_{number}"
    result.recompile()
    return result


def buffer_bytes(module: nn.Module) -> int:
    """Return the memory of all buffers of a module's layers, as they are now."""
    outs = [part.out for part in module.modules() if isinstance(part, BufferedLinear)]
    return sum(out.nbytes for out in outs if out is not None)


def _given_out(module: fx.GraphModule, node: fx.Node) -> bool:
    """Say whether the model's output may lie in the memory of a node's value."""
    pending, seen = [node], {node}
    while pending:
        for user in pending.pop().users:
            if user.op == "output":
                return True
            copies = user.op == "call_module" and type(module.get_submodule(str(user.target))) in _COPIES
            if not copies and user not in seen:
                seen.add(user)
                pending.append(user)
    return False
