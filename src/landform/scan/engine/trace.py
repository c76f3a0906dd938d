"""Sort the values inside a model by how they depend on h: not at all, affinely, or in another way.

A graph (`torch.fx`) is read once. A value that no moved parameter reaches is the same at every point. A Linear,
convolution or embedding that is moved and whose input is the same everywhere gives base + Σ_i h_i·part_i; so does what
is linear in such a value (pooling, flattening, sums, a BatchNorm with fixed statistics and weights). Everything else
has to be computed at each point.
"""

import enum
import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  the name everyone knows
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from landform.scan.engine.own import UnsupportedError


class Kind(enum.Enum):
    """How a value depends on the point."""

    FIXED = "fixed"
    AFFINE = "affine"
    VARYING = "varying"


PRODUCTS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Embedding)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
LINEAR_MODULES = (
    *(nn.Identity, nn.Flatten, nn.Unflatten, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d),
    *(nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d),
)
LINEAR_METHODS = frozenset(
    (
        "view",
        "reshape",
        "flatten",
        "permute",
        "transpose",
        "contiguous",
        "squeeze",
        "unsqueeze",
        "mean",
        "sum",
        "expand",
    )
)
LINEAR_FUNCTIONS: frozenset[Any] = frozenset(
    (
        *(torch.flatten, torch.reshape, torch.permute, torch.transpose, torch.squeeze, torch.unsqueeze, torch.mean),
        *(torch.sum, F.avg_pool1d, F.avg_pool2d, F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, operator.neg),
    )
)
SHAPES = frozenset(("size", "dim", "numel"))
SUMS: frozenset[Any] = frozenset((operator.add, operator.sub, operator.iadd, torch.add, torch.sub))
SCALES: frozenset[Any] = frozenset((operator.mul, torch.mul))


def trace(model: nn.Module) -> fx.GraphModule:
    """Trace a model.

    Raises:
        UnsupportedError: Control flow that depends on values, or anything else that a graph cannot show.
    """
    try:
        leaf = type(model).__module__.startswith("torch.nn") and not isinstance(model, nn.Sequential)
        return fx.symbolic_trace(nn.Sequential(model) if leaf else model)
    except Exception as error:
        raise UnsupportedError(f"torch.fx cannot trace {type(model).__name__}: {error}") from error


def fetch(graph: fx.GraphModule, target: str) -> Any:
    """Return what a ``get_attr`` node names."""
    found: Any = graph
    for part in target.split("."):
        found = getattr(found, part)
    return found


def touched(graph: fx.GraphModule, node: fx.Node) -> list[Tensor]:
    """Return the parameters and buffers that a node reads by itself."""
    if node.op == "call_module":
        module = graph.get_submodule(str(node.target))
        return [*module.parameters(), *module.buffers()]
    if node.op == "get_attr":
        found = fetch(graph, str(node.target))
        return [found] if isinstance(found, Tensor) else []
    return []


def has_hooks(module: nn.Module) -> bool:
    """Say whether anything runs beside a module's forward."""
    return any(m._forward_hooks or m._forward_pre_hooks for m in module.modules())


def classify(graph: fx.GraphModule, moved: set[int]) -> dict[fx.Node, Kind]:
    """Find the kind of every node.

    Args:
        graph: The traced model.
        moved: ``id`` of every tensor that some direction moves.

    Returns:
        Kinds by node; the output node has none.
    """
    kinds: dict[fx.Node, Kind] = {}
    for node in graph.graph.nodes:
        if node.op != "output":
            own = any(id(tensor) in moved for tensor in touched(graph, node))
            kinds[node] = _kind(graph, node, own, kinds)
    return kinds


def _kind(graph: fx.GraphModule, node: fx.Node, own: bool, kinds: Mapping[fx.Node, Kind]) -> Kind:
    inputs = [kinds[source] for source in node.all_input_nodes]
    if node.op == "get_attr":
        return Kind.AFFINE if own else Kind.FIXED
    if Kind.VARYING in inputs:
        return Kind.VARYING
    affine = Kind.AFFINE in inputs
    if not affine and not own:
        return Kind.FIXED
    if node.op == "call_module":
        return _module_kind(graph.get_submodule(str(node.target)), node, own, affine)
    if is_shape(node):
        return Kind.FIXED
    if step(node, kinds) is not None:
        return Kind.AFFINE
    return Kind.VARYING


def _module_kind(module: nn.Module, node: fx.Node, own: bool, affine: bool) -> Kind:
    plain = len(node.args) == 1 and not node.kwargs and not has_hooks(module)
    if not plain:
        return Kind.VARYING
    if type(module) in PRODUCTS:
        if isinstance(module, nn.Embedding) and (affine or module.max_norm is not None):
            return Kind.VARYING
        return Kind.VARYING if own and affine else Kind.AFFINE
    if own:
        return Kind.VARYING
    linear = type(module) in LINEAR_MODULES or (type(module) in NORMS and fixed_statistics(module))
    return Kind.AFFINE if linear else Kind.VARYING


def fixed_statistics(module: nn.Module) -> bool:
    """Say whether a BatchNorm has running statistics, and so does not depend on the batch in evaluation mode."""
    return isinstance(module, _BatchNorm) and module.running_mean is not None and module.running_var is not None


def is_shape(node: fx.Node) -> bool:
    """Say whether a node reads a shape, dtype or device, which no point changes."""
    if node.op == "call_method":
        return node.target in SHAPES
    return (
        node.op == "call_function" and node.target is getattr and node.args[1] in ("shape", "dtype", "device", "ndim")
    )


def step(node: fx.Node, kinds: Mapping[fx.Node, Kind]) -> str | None:
    """Name the rule by which a function of affine values is affine: ``"linear"``, ``"sum"``, ``"scale"`` or None."""
    affine = [source for source in node.all_input_nodes if kinds[source] is Kind.AFFINE]
    first = node.args[0] if node.args else None
    if node.op == "call_method":
        return "linear" if node.target in LINEAR_METHODS and affine == [first] else None
    if node.op != "call_function":
        return None
    if node.target in LINEAR_FUNCTIONS:
        return "linear" if affine == [first] else None
    if node.target in SUMS and len(node.args) == 2 and not node.kwargs:
        return "sum"
    if node.target in SCALES and len(node.args) == 2 and not node.kwargs and len(affine) == 1:
        return "scale" if node.args[0] is not node.args[1] else None
    return None


def call(graph: fx.GraphModule, node: fx.Node, args: Any, kwargs: Any) -> Any:
    """Run one node on values."""
    if node.op == "call_module":
        return graph.get_submodule(str(node.target))(*args, **kwargs)
    if node.op == "call_method":
        return getattr(args[0], str(node.target))(*args[1:], **kwargs)
    function: Callable[..., Any] = node.target  # type: ignore[assignment]
    return function(*args, **kwargs)


def product(module: nn.Module, x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor | None:
    """Apply a layer with other weights; without a weight only the bias is left, in a shape that broadcasts.

    Args:
        module: A Linear, convolution or Embedding.
        x: Its input.
        weight: A weight, or None for zero.
        bias: A bias, or None for zero.

    Returns:
        The product, or None for zero.
    """
    if weight is None:
        if bias is None:
            return None
        return bias if not isinstance(module, _ConvNd) else bias.reshape(-1, *[1] * len(module.kernel_size))
    if isinstance(module, nn.Embedding):
        return F.embedding(x, weight)
    if isinstance(module, _ConvNd):
        found: Tensor = module._conv_forward(x, weight, bias)
        return found
    return F.linear(x, weight, bias)
