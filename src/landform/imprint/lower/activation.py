"""Piecewise-linear activations: where hinges come from.

ReLU, LeakyReLU (two units a hinge: relu(t) = (lr(t) + α·lr(−t))/(1 − α²)), ReLU6 and Hardtanh(0, c), which are ReLU
below c: registers are scaled by powers of two to stay there. PReLU's slopes are weights: set to zero, it is a ReLU.

Carries: any register ≥ 0 (below the cap), unchanged. Computes: one hinge a channel, or half a one. Holds: nothing.
"""

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from landform.errors import ArchitectureError
from landform.imprint.lower.graph import Call, Op

COVERS = "ReLU, LeakyReLU, PReLU, ReLU6"
_RELU: tuple[Any, ...] = (torch.relu, torch.relu_, functional.relu, "relu", "relu_")


def read(call: Call) -> Op | None:
    """Return an activation for the modules and functions covered."""
    module, channels = call.module, call.channels[0] if call.channels else 0

    def act(slope: float, cap: float = float("inf")) -> Op:
        return Op("act", call.name, call.inputs[:1], channels, slope=slope, cap=cap)

    if isinstance(module, nn.ReLU) or (module is None and call.target in _RELU):
        return act(0.0)
    if isinstance(module, nn.PReLU):
        if module.num_parameters not in (1, channels):
            raise ArchitectureError(f"'{call.name}' has {module.num_parameters} slopes for {channels} channels")
        return Op("act", call.name, call.inputs[:1], channels, slope=0.0, owns=True)
    if isinstance(module, nn.ReLU6) or call.target is functional.relu6:
        return act(0.0, 6.0)
    if isinstance(module, nn.Hardtanh):
        return act(0.0, _cap(module.min_val, module.max_val, call.name))
    if call.target is functional.hardtanh:
        low, high = call.argument(1, "min_val", -1.0), call.argument(2, "max_val", 1.0)
        return act(0.0, _cap(low, high, call.name))
    if isinstance(module, nn.LeakyReLU):
        return act(_slope(module.negative_slope, call.name))
    if call.target is functional.leaky_relu:
        return act(_slope(float(call.argument(1, "negative_slope", 0.01)), call.name))
    return None


def _slope(slope: float, name: str) -> float:
    if not 0 <= slope < 1:
        raise ArchitectureError(f"'{name}' has negative slope {slope}; the construction needs a slope in [0, 1)")
    return slope


def _cap(low: float, high: float, name: str) -> float:
    if low != 0 or high <= 0:
        raise ArchitectureError(f"'{name}' clips to [{low}, {high}]; the construction needs [0, c], as ReLU6 does")
    return float(high)
