"""The layer that starts a residual stream: a bias of it is a coordinate of every token, and h may enter there.

After Czarnecki et al., arXiv 1912.07559, Theorem 1: the weights of the first layer are 0 and its biases are h. In a
transformer the first layer is an embedding, which has no bias, or a Linear or convolution, whose bias starts the
stream of every token unless something else stands between (a class token, a norm, a scale, a fixed table of positions).
"""

import copy
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from landform.calling import as_found
from landform.imprint.lower.overhear import call_model, is_tap


@dataclass(frozen=True)
class Stem:
    """A Linear or convolution whose bias is what the stream of every token starts with, where all weights are 0."""

    name: str

    @property
    def bias(self) -> str:
        """Name of its bias."""
        return f"{self.name}.bias"


def find_stem(model: nn.Module, sample: Any, norm: str, width: int) -> Stem | None:
    """Find the layer that starts a stream by running a copy in which everything but one bias is 0.

    Args:
        model: The network; it is not changed.
        sample: Inputs of two samples or so.
        norm: Name of the first norm that reads the stream.
        width: Coordinates of the stream.

    Returns:
        The first layer whose bias this norm reads, the same for every token; None where there is none.

    Cost:
        A copy of the parameters, and a forward pass for each Linear or convolution of that width before the norm.
    """
    network = copy.deepcopy(model)
    seen: list[Tensor] = []
    called: list[str] = []

    def before(_module: nn.Module, given: tuple[Any, ...]) -> None:
        seen.append(given[0].clone())

    with ExitStack() as stack, torch.no_grad():
        stack.enter_context(as_found(network))
        for parameter in network.parameters():
            parameter.zero_()
        stack.callback(network.get_submodule(norm).register_forward_pre_hook(before).remove)
        for name, module in network.named_modules():
            if _may_start(module, width):

                def after(_module: nn.Module, _given: Any, _returned: Any, name: str = name) -> None:
                    called.extend([] if seen else [name])

                stack.callback(module.register_forward_hook(after).remove)
        call_model(network, sample)
        if not seen or bool(seen[0].any()):
            return None  # something is added that is no parameter
        probe = torch.linspace(1.0, 2.0, width, dtype=seen[0].dtype)
        candidates = called.copy()
        for name in candidates:
            bias = network.get_parameter(f"{name}.bias")
            bias.copy_(probe)
            seen.clear()
            call_model(network, sample)
            bias.zero_()
            if torch.equal(seen[0], probe.expand_as(seen[0])):
                return Stem(name)
    return None


def _may_start(module: nn.Module, width: int) -> bool:
    """Say whether a layer has a bias of the stream's width; one before a norm, depthwise, is part of a block."""
    linear = isinstance(module, (nn.Linear, _ConvNd)) and not is_tap(module)
    bias = module.bias if linear else None
    return isinstance(bias, Tensor) and len(bias) == width
