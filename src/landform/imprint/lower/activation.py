"""Activations: where hinges come from.

ReLU, LeakyReLU (two units a hinge: relu(t) = (lr(t) + α·lr(−t))/(1 − α²)), ReLU6 and Hardtanh(0, c), which are ReLU
below c: registers are scaled by powers of two to stay there. Hardtanh between any two numbers and Hardsigmoid are such
a ReLU moved, low + rise·min(relu(t − start), c): constants take start in and low out again. PReLU's slopes are
weights: set to zero, it is a ReLU. RReLU in eval mode is a LeakyReLU.

A smooth activation a lies within a constant of ReLU, |a(t) − relu(t)| ≤ κ: 0.1701 for GELU in both forms, 0.2785 for
SiLU, 0.3089 for Mish, 0.375 for Hardswish, log 2/β for softplus, α for ELU and CELU. Units are written G times too
large, G a power of two (2^30 in float32), and read G times too small, so that the whole network is one of ReLUs but for
κ/G a unit; h enters as G·h.

Tanh and Softsign saturate on both sides, and no sum of them is a hinge; two layers of tanh are, where no other
activation is (`gated.py`). Near 0 both are the identity, but for x³/3 and x²: registers are scaled by powers of two to
stay below 2^-27 and 2^-54, where that is less than a rounding in float64. So they carry, and other layers compute.

Carries: any register ≥ 0 (below the cap), unchanged. Computes: one hinge a channel, or half a one. Holds: nothing.
"""

import math
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from landform.errors import ArchitectureError
from landform.imprint.lower.graph import Call, Op

COVERS = (
    "ReLU, LeakyReLU, RReLU, PReLU, ReLU6, Hardtanh, Hardsigmoid, GELU, SiLU, Mish, Hardswish, ELU, CELU,"
    " Softplus; to carry, Tanh, Softsign"
)
GELU, SILU, MISH, HARDSWISH = 0.1701, 0.2785, 0.3089, 0.375
"""Largest distances from ReLU, rounded up: at t = ∓0.7518, ∓1.2785, −1.1924 and ±1.5."""
STRAIGHT = {"tanh": 2.0**-26, "softsign": 2.0**-53}
"""Up to where tanh and softsign are the identity, to within half a rounding in float64."""
TANH_ROUNDINGS = 8.0
"""Roundings of the functions themselves there, generously."""
SIXTHS = 4.0
"""Roundings of t·6/6, which is what Hardswish makes of a large number."""
_TANH: tuple[Any, ...] = (torch.tanh, torch.tanh_, functional.tanh, "tanh", "tanh_")
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
        return _clip(call, channels, module.min_val, module.max_val)
    if call.target is functional.hardtanh:
        low, high = call.argument(1, "min_val", -1.0), call.argument(2, "max_val", 1.0)
        return _clip(call, channels, low, high)
    if isinstance(module, nn.LeakyReLU):
        return act(_slope(module.negative_slope, call.name))
    if isinstance(module, nn.RReLU):  # in eval mode; `checks.py` refuses train mode, where slopes are random
        return act(_slope((module.lower + module.upper) / 2, call.name))
    if call.target is functional.leaky_relu:
        return act(_slope(float(call.argument(1, "negative_slope", 0.01)), call.name))
    return _saturating(call, channels) or _smooth(call, channels)


def _saturating(call: Call, channels: int) -> Op | None:
    """Return an activation that is the identity near 0 and nothing else of use."""
    module, target = call.module, call.target
    if isinstance(module, nn.Tanh) or (module is None and target in _TANH):
        name = "tanh"
    elif isinstance(module, nn.Softsign) or target is functional.softsign:
        name = "softsign"
    else:
        return None
    return Op("act", call.name, call.inputs[:1], channels, slope=1.0, cap=STRAIGHT[name], far=TANH_ROUNDINGS)


def _smooth(call: Call, channels: int) -> Op | None:
    """Return an activation that is ReLU but for a constant."""
    module, target = call.module, call.target

    def act(distance: float, at_zero: float = 0.0, far: float = 0.0) -> Op:
        return Op("act", call.name, call.inputs[:1], channels, slope=0.0, smooth=distance, at_zero=at_zero, far=far)

    if isinstance(module, nn.GELU) or target is functional.gelu:
        return act(GELU)
    if isinstance(module, nn.SiLU) or target is functional.silu:
        return act(SILU)
    if isinstance(module, nn.Mish) or target is functional.mish:
        return act(MISH)
    if isinstance(module, nn.Hardswish) or target is functional.hardswish:
        return act(HARDSWISH, far=SIXTHS)
    if isinstance(module, (nn.ELU, nn.CELU)):
        return act(_positive(module.alpha, call.name, "alpha"))
    if target in (functional.elu, functional.celu):
        return act(_positive(call.argument(1, "alpha", 1.0), call.name, "alpha"))
    if isinstance(module, nn.Softplus):
        return act(*[_log_two(module.beta, module.threshold, call.name)] * 2)
    if target is functional.softplus:
        return act(*[_log_two(call.argument(1, "beta", 1.0), call.argument(2, "threshold", 20.0), call.name)] * 2)
    return None


def _positive(value: float, name: str, what: str) -> float:
    if not 0 < value < float("inf"):
        raise ArchitectureError(f"'{name}' has {what} = {value}; the construction needs a positive number")
    return float(value)


def _log_two(beta: float, threshold: float, name: str) -> float:
    """Return log 2/β, softplus's value at 0 and its largest distance from ReLU."""
    if not 0 <= threshold <= 80:
        raise ArchitectureError(
            f"'{name}' has threshold {threshold}; the construction needs one in [0, 80], beyond which exp overflows"
        )
    return math.log(2) / _positive(beta, name, "beta")


def _slope(slope: float, name: str) -> float:
    if not 0 <= slope < 1:
        raise ArchitectureError(f"'{name}' has negative slope {slope}; the construction needs a slope in [0, 1)")
    return slope


def _clip(call: Call, channels: int, low: float, high: float) -> Op:
    """Return Hardtanh: low + min(relu(t − low), high − low)."""
    if not 0 < high - low < float("inf"):
        raise ArchitectureError(
            f"'{call.name}' clips to [{low}, {high}]; the construction needs two numbers, low < high"
        )
    cap = float(high) - float(low)
    return Op("act", call.name, call.inputs[:1], channels, slope=0.0, cap=cap, start=float(low), low=float(low))
