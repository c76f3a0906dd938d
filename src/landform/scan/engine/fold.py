"""Normalisation that no point changes, taken into the convolution before it: one pass over memory less a layer."""

from collections import Counter
from collections.abc import Mapping, MutableMapping
from typing import cast

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from landform.scan.engine.own import Affine
from landform.scan.engine.trace import NORMS, fixed_statistics, has_hooks

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def fold(graph: fx.GraphModule, tensors: MutableMapping[str, Tensor], steps: MutableMapping[int, Affine]) -> int:
    """Replace convolution and BatchNorm by one convolution, wherever no direction moves the BatchNorm.

    With s = γ/√(σ² + ε) it is conv(x; W, b)·s + (β − μ·s) = conv(x; W·s, (b − μ)·s + β), at every point if the steps of
    W and b are scaled too. So this is done once, and directions may well move the convolution: those of a random plane
    leave norms alone, as is usual. Products are made in float64.

    A convolution is left as it is if something else reads its output or its weight, or if either runs more than once.

    Args:
        graph: A traced copy of a model in evaluation mode; it is changed, and its layers get parameters of their own.
        tensors: Its parameters and buffers by name; those of changed layers are replaced.
        steps: Directions, by the ``id`` of the tensor that they move; likewise.

    Returns:
        How many were folded.
    """
    calls = Counter(str(node.target) for node in graph.graph.nodes if node.op == "call_module")
    readers = Counter(
        id(value)
        for target in calls
        for module in graph.get_submodule(target).modules()
        for value in [*module.parameters(recurse=False), *module.buffers(recurse=False)]
    )
    named = {id(value): name for name, value in tensors.items()}
    loose = {id(value) for value in _loose(graph)}
    done = 0
    kept: list[Tensor] = []  # what is known by its id has to stay alive
    for node in list(graph.graph.nodes):
        source = node.args[0] if node.args else None
        if not (_calls(graph, node, NORMS) and isinstance(source, fx.Node) and _calls(graph, source, CONVOLUTIONS)):
            continue
        norm = cast("_BatchNorm", graph.get_submodule(str(node.target)))
        conv = cast("_ConvNd", graph.get_submodule(str(source.target)))
        own = [conv.weight, *([] if conv.bias is None else [conv.bias])]
        alone = len(source.users) == 1 and calls[str(node.target)] == calls[str(source.target)] == 1
        alone = alone and all(readers[id(value)] == 1 and id(value) not in loose for value in own)
        still = fixed_statistics(norm) and not {id(v) for v in [*norm.parameters(), *norm.buffers()]} & set(steps)
        if not alone or not still or len(node.args) != 1 or node.kwargs:
            continue
        _merge(conv, norm, tensors, steps, named)
        kept += own
        node.replace_all_uses_with(source)
        graph.graph.erase_node(node)
        done += 1
    if done:
        graph.recompile()
    return done


def _merge(
    conv: _ConvNd,
    norm: _BatchNorm,
    tensors: MutableMapping[str, Tensor],
    steps: MutableMapping[int, Affine],
    named: Mapping[int, str],
) -> None:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = torch.rsqrt(norm.running_var.double() + norm.eps)
    shift = -norm.running_mean.double()
    if norm.affine:
        scale = scale * norm.weight.detach().double()
    for key in ("weight", "bias"):
        old: Tensor | None = getattr(conv, key)
        factor = scale.reshape(-1, *[1] * (conv.weight.ndim - 1)) if key == "weight" else scale
        value = torch.zeros_like(scale) if old is None else old.detach().double()
        if key == "bias":
            value = value + shift
        value = value * factor
        if key == "bias" and norm.affine:
            value = value + norm.bias.detach().double()
        new = nn.Parameter(value.to(conv.weight.dtype), requires_grad=False)
        setattr(conv, key, new)
        if old is None:
            continue
        tensors[named[id(old)]] = new
        if id(old) in steps:
            parts = steps.pop(id(old)).parts
            steps[id(new)] = Affine(
                new.detach(), tuple(None if part is None else (part.double() * factor).to(new.dtype) for part in parts)
            )


def _calls(graph: fx.GraphModule, node: fx.Node, types: tuple[type, ...]) -> bool:
    if node.op != "call_module":
        return False
    module = graph.get_submodule(str(node.target))
    return type(module) in types and not has_hooks(module)


def _loose(graph: fx.GraphModule) -> list[Tensor]:
    """Return tensors that the graph reads by themselves, outside layers."""
    found = []
    for node in graph.graph.nodes:
        if node.op == "get_attr":
            value: object = graph
            for part in str(node.target).split("."):
                value = getattr(value, part)
            if isinstance(value, Tensor):
                found.append(value)
    return found
