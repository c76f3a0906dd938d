"""What rounding may cost a program, predicted before it meets a network.

The rule is the verifier's: in a dot product of k non-zero terms, summed in any order, the last addition errs by at most
u·|result| and each of the k − 2 before it by u·P, P the largest partial sum; products round unless the weight is a
power of two. Here it is followed at sample points only, so the result is a prediction, not a bound over the box.
"""

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from landform.program.program import Program

ROUNDOFF = {torch.float32: 2.0**-24, torch.float64: 2.0**-53}


def predicted_rounding(program: Program, h: Float64[Tensor, "points z"], dtype: torch.dtype) -> float:
    """Return the largest rounding error that a program's output may suffer at some points.

    Args:
        program: The program; its output is the pattern register.
        h: Points in [0, 1]^z.
        dtype: float32 or float64.

    Returns:
        The error, in units of the output.

    Cost:
        Six sparse products a layer.
    """
    roundoff = ROUNDOFF[dtype]
    x, error = h.T.numpy(), np.zeros((program.z, len(h)))
    for layer in (*program.layers, program.readout):
        size, bias = abs(layer.weight), layer.bias[:, None]
        up = layer.weight.maximum(0) @ x + np.maximum(bias, 0)
        down = (-layer.weight).maximum(0) @ x + np.maximum(-bias, 0)
        used = size.astype(bool).astype(np.float32) @ ((x != 0) | (error != 0)).astype(np.float32) + (bias != 0)
        inexact = size.copy()
        inexact.data = np.where(np.frexp(inexact.data)[0] == 0.5, 0.0, inexact.data)
        carried = size @ error
        own = (used >= 2) * np.abs(up - down) + np.maximum(used - 2, 0) * (np.maximum(up, down) + carried)
        bound = roundoff * (own + inexact @ x) + carried
        if layer is program.readout:
            return float(bound.max())
        x, error = np.maximum(up - down, 0.0), np.where((up - down + bound > 0) & (up > 0), bound, 0.0)
    raise AssertionError("a program has a readout")
