"""BatchNorm in eval mode: one factor and one constant a channel.

y = (x − mean)·γ/√(var + eps) + β. γ = √(var + eps), β = mean make it the identity; γ = β = 0 silences a channel, and
γ = 0 makes the output exactly β, whatever comes in: that is where a pattern enters a network whose first convolution
has no bias. The running statistics are buffers and stay as they are.

The constant mean·γ/√(var + eps) cancels, at the price of its rounding. A map before the norm therefore writes its
numbers 2^k times too large and γ is 2^k times smaller, which makes that constant small (powers of two are exact).

Carries: any registers. Computes: constants. Holds: nothing of its own.
"""

import math

import numpy as np
import torch
from torch import Tensor, nn

from landform.imprint.lower.graph import Call, Op

COVERS = "BatchNorm1d, BatchNorm2d, BatchNorm3d"
INSTANCE = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
"""With running statistics, which they use in eval mode, these are BatchNorms."""
KINDS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, *INSTANCE)
MOST_SHIFT = 16  # larger factors could overflow float32 sooner


def read(call: Call) -> Op | None:
    """Return a norm for the modules covered."""
    if not isinstance(call.module, KINDS) or (isinstance(call.module, INSTANCE) and call.module.running_mean is None):
        return None
    return Op("norm", call.name, call.inputs[:1], call.module.num_features)


def scale_for(norm: nn.Module) -> float:
    """Return the power of two by which a map before the norm should multiply, the same for all channels.

    Units of a response curve read one register with one coefficient, which the proof relies on.
    """
    assert isinstance(norm, KINDS)
    assert norm.running_mean is not None
    mean = float(norm.running_mean.detach().abs().max())
    return float(2.0 ** min(max(math.ceil(math.log2(max(mean, 1e-300))) + 10, 0), MOST_SHIFT))


def parameters(
    name: str, norm: nn.Module, used: np.ndarray, constant: np.ndarray, scale: np.ndarray | float = 1.0
) -> dict[str, Tensor]:
    """Return γ and β that map x·scale to x + constant on the channels used, and anything to ``constant`` elsewhere.

    Args:
        name: The norm's qualified name.
        norm: The norm.
        used: Which channels carry something.
        constant: Constant of every channel.
        scale: By what the input is too large.
    """
    assert isinstance(norm, KINDS)
    assert norm.running_var is not None
    assert norm.running_mean is not None
    root = np.sqrt(norm.running_var.detach().double().numpy() + norm.eps)
    mean = norm.running_mean.detach().double().numpy()
    dtype = norm.weight.dtype
    gain = torch.from_numpy(np.where(used, root / scale, 0.0)).to(dtype)
    shift = np.where(used, mean * gain.double().numpy() / root, 0.0) + constant  # the gain as it will be stored
    return {f"{name}.weight": gain, f"{name}.bias": torch.from_numpy(shift).to(dtype)}
