"""A Softmax or LogSoftmax behind a head: what a classifier ends in that emits probabilities or their logarithms.

It is no part of the program. What the network is written to emit are the logits before it, and a loss that takes
probabilities is the cross-entropy of these: −log softmax(z)_y (`landform.imprint.heads`).

Carries, computes, holds: nothing; only heads may end in it.
"""

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from landform.errors import ArchitectureError
from landform.imprint.lower.graph import Call, Op

COVERS = "Softmax and LogSoftmax at the end"
_SOFT: tuple[Any, ...] = (torch.softmax, functional.softmax, "softmax")
_LOG: tuple[Any, ...] = (torch.log_softmax, functional.log_softmax, "log_softmax")


def read(call: Call) -> Op | None:
    """Return the end of a head for a softmax over its outputs."""
    module, target = call.module, call.target if call.module is None else None
    if isinstance(module, nn.LogSoftmax) or target in _LOG:
        end = "log_softmax"
    elif isinstance(module, nn.Softmax) or target in _SOFT:
        end = "softmax"
    else:
        return None
    dim = module.dim if isinstance(module, (nn.Softmax, nn.LogSoftmax)) else call.argument(1, "dim")
    shape = call.shapes[0] if call.shapes else None
    if dim not in (1, -1) or (shape is not None and len(shape) != 2):
        over = "" if shape is None else f" of a tensor of shape [n, {', '.join(map(str, shape[1:]))}]"
        raise ArchitectureError(
            f"'{call.name}' is a {call.what} over dimension {dim}{over}; landform covers one over the outputs of a"
            " Linear at the end, dim=1"
        )
    return Op("end", call.name, call.inputs[:1], call.channels[0], end=end)
