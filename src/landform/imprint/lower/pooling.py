"""Pools over positions: the identity on tensors that are the same everywhere.

Maxima are exact. An average of N equal numbers rounds up to N times; the verifier counts that. Average pools that
count zero padding differ at edges and are refused, as are divisors of one's own.

Carries: any register. Computes: nothing. Holds: nothing.
"""

import math
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from landform.errors import ArchitectureError
from landform.imprint.lower.graph import Call, Op

COVERS = "max, average and adaptive pools, means over positions"
_MAX = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d)
_AVERAGE = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)
_ADAPTIVE = (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)
_MAX_CALLS: tuple[Any, ...] = (
    functional.max_pool1d,
    functional.max_pool2d,
    functional.max_pool3d,
    functional.adaptive_max_pool2d,
    torch.max_pool2d,
)
_AVERAGE_CALLS: tuple[Any, ...] = (functional.avg_pool1d, functional.avg_pool2d, functional.avg_pool3d)
_ADAPTIVE_CALLS: tuple[Any, ...] = (
    functional.adaptive_avg_pool1d,
    functional.adaptive_avg_pool2d,
    functional.adaptive_avg_pool3d,
)
_MEANS: tuple[Any, ...] = (torch.mean, "mean")


def read(call: Call) -> Op | None:
    """Return a pool for the modules and functions covered."""
    module = call.module
    if isinstance(module, _MAX) or call.target in _MAX_CALLS:
        if (getattr(module, "return_indices", False)) or call.kwargs.get("return_indices"):
            raise ArchitectureError(f"'{call.name}' returns indices; landform needs the maxima alone")
        return _pool(call, 1)
    if isinstance(module, _AVERAGE):
        counted = module.count_include_pad
        return _average(call, module.kernel_size, module.padding, counted, getattr(module, "divisor_override", None))
    if call.target in _AVERAGE_CALLS:
        padding, counted = call.argument(3, "padding", 0), call.argument(5, "count_include_pad", True)
        return _average(call, call.argument(1, "kernel_size"), padding, counted, call.argument(6, "divisor_override"))
    if isinstance(module, _ADAPTIVE) or call.target in _ADAPTIVE_CALLS:
        return _pool(call, _window(call))
    if call.target in _MEANS and module is None:
        return _mean(call)
    return None


def _pool(call: Call, terms: int) -> Op:
    return Op("pool", call.name, call.inputs[:1], call.channels[0], terms=terms)


def _average(call: Call, kernel: Any, padding: Any, counted: bool, divisor: Any) -> Op:
    pads = padding if isinstance(padding, (tuple, list)) else (padding,)
    if any(pads) and counted:
        raise ArchitectureError(
            f"'{call.name}' averages over zero padding, so its output differs at edges; use count_include_pad=False"
        )
    if divisor is not None:
        raise ArchitectureError(f"'{call.name}' has a divisor of its own ({divisor}); leave divisor_override out")
    dims = 1 if "1d" in call.what.lower() else 2 if "2d" in call.what.lower() else 3
    return _pool(call, math.prod(kernel) if isinstance(kernel, (tuple, list)) else kernel**dims)


def _window(call: Call) -> int:
    """Return how many numbers an adaptive average adds at most; 0 where the input's shape is unknown."""
    before, after = call.shapes[0], call.shape
    if before is None or after is None:
        return 0
    return math.prod(-(-b // a) + (b % a != 0) for b, a in zip(before[2:], after[2:], strict=True))


def _mean(call: Call) -> Op:
    dims = call.argument(1, "dim")
    dims = (dims,) if isinstance(dims, int) else tuple(dims or ())
    shape = call.shapes[0]
    if not dims or any(d in (0, 1) for d in dims):
        raise ArchitectureError(
            f"'{call.name}' is a mean over the batch or the channels; landform covers means over positions: x.mean((2,"
            " 3))"
        )
    if shape is None:
        return _pool(call, 0)
    dims = tuple(d % len(shape) for d in dims)
    if any(d < 2 for d in dims):
        raise ArchitectureError(f"'{call.name}' is a mean over the channels; landform covers means over positions")
    return _pool(call, math.prod(shape[d] for d in dims))
