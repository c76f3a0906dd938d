"""Run a network and hear every normalisation and every linear map that it calls."""

import copy
import math
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from landform.calling import as_found, split_heads
from landform.errors import ArchitectureError


@dataclass
class Call:
    """One call of a module, as overheard."""

    name: str
    module: nn.Module
    given: Tensor
    returned: Tensor


def overhear(model: nn.Module, sample: Any) -> tuple[list[Call], nn.Module]:
    """Run a copy with random weights and record every norm and linear map, in order; return them and the copy."""
    network = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, value in network.named_parameters():
            if not value.is_floating_point() or value.is_meta:
                raise ArchitectureError(
                    f"parameter '{name}' is {value.dtype} on {value.device}; load the weights first"
                )
            scale = 1 / math.sqrt(max(1, value.shape[-1])) if value.ndim > 1 else 0.5
            value.copy_(torch.randn(value.shape, generator=generator) * scale + (value.ndim == 1))
    calls: list[Call] = []
    with ExitStack() as stack:
        for name, module in network.named_modules():
            if is_norm(module) or is_map(module) or _is_source(module) or is_tap(module):
                hook = module.register_forward_hook(_recorder(name, module, calls))
                stack.callback(hook.remove)
        stack.enter_context(as_found(network))
        stack.enter_context(torch.no_grad())
        try:
            call_model(network, sample)
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            raise ArchitectureError(f"{type(model).__name__} could not be run on a sample: {error}") from error
    names = [call.name for call in calls]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ArchitectureError(f"module '{twice}' is used more than once in a forward pass; every layer needs its own")
    return calls, network


def call_model(model: nn.Module, inputs: Any) -> Any:
    """Call a model with a batch: a mapping by keywords, else as the one argument."""
    return model(**inputs) if isinstance(inputs, Mapping) else model(inputs)


def _recorder(name: str, module: nn.Module, calls: list[Call]) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
    def record(_module: nn.Module, given: tuple[Any, ...], returned: Any) -> None:
        returned = returned[0] if isinstance(module, nn.MultiheadAttention) else returned
        if given and isinstance(given[0], Tensor) and isinstance(returned, Tensor):
            calls.append(Call(name, module, given[0].clone(), returned.clone()))

    return record


def is_norm(module: nn.Module) -> bool:
    """Say whether a module is a LayerNorm or an RMSNorm, by class or by name."""
    return isinstance(module, (nn.LayerNorm, nn.RMSNorm)) or type(module).__name__.endswith(("RMSNorm", "LayerNorm"))


def is_map(module: nn.Module) -> bool:
    """Say whether a module is a linear map: torch's, or the transposed one of GPT-2's code."""
    return isinstance(module, nn.Linear) or (
        type(module).__name__ == "Conv1D" and hasattr(module, "nf") and getattr(module, "weight", None) is not None
    )


def _is_source(module: nn.Module) -> bool:
    """Say whether a module is an embedding, or an attention that calls its maps by their weights."""
    return isinstance(module, (nn.Embedding, nn.MultiheadAttention))


def is_tap(module: nn.Module) -> bool:
    """Say whether a module is a depthwise convolution, which can pass every channel by its centre."""
    return isinstance(module, _ConvNd) and module.groups == module.in_channels == module.out_channels > 1


class _OneOutput(nn.Module):
    """A network as a function from inputs to its one output tensor, for ``functional_call``."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, inputs: Any, n: int) -> Tensor:
        """Return the first head."""
        heads, _ = split_heads(call_model(self.inner, inputs), n, f"model {type(self.inner).__name__}")
        return next(iter(heads.values()))


def outputs_of(model: nn.Module, inputs: Any, n: int, parameters: Mapping[str, Tensor] | None = None) -> Tensor:
    """Return the one output tensor of a network, with some parameters replaced for the call.

    Args:
        model: The network.
        inputs: A batch of ``n`` samples.
        n: Samples.
        parameters: Values by name, or None.

    Returns:
        The outputs as the network gives them.
    """
    prefixed = {f"inner.{name}": value for name, value in (parameters or {}).items()}
    found: Tensor = torch.func.functional_call(_OneOutput(model), prefixed, (inputs, n))
    return found
