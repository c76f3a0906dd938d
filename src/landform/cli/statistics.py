"""Which BatchNorm statistics a scan of checkpoints is measured with: a subspace moves parameters, never buffers."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


def settle_statistics(model: "nn.Module", files: Sequence[Path], *, weights: str | None, between: bool) -> str | None:
    """Give a network that was never trained the BatchNorm statistics of the last checkpoint, and say so.

    ``module:factory`` mostly returns a fresh network, whose running means are 0 and variances 1. With those, the
    weights of every checkpoint have losses that they never had in training.

    Args:
        model: The network; its statistics are replaced if they were never set, and the last checkpoint has some.
        files: The checkpoints, in order.
        weights: ``--weights``, which brings statistics of its own.
        between: Whether the scan goes from one checkpoint to another, so that no statistics fit all of it.

    Returns:
        A note for the user, or None where there is nothing to say.
    """
    import torch
    from torch.nn.modules.batchnorm import _BatchNorm

    from landform.checkpoints import load_weights
    from landform.errors import LandformError

    def kept(network: "nn.Module") -> list[tuple[torch.Tensor, torch.Tensor]]:
        norms = [layer for layer in network.modules() if isinstance(layer, _BatchNorm)]
        return [
            (layer.running_mean, layer.running_var)
            for layer in norms
            if layer.running_mean is not None and layer.running_var is not None
        ]

    own = kept(model)
    if not own or not files:
        return None
    anew = "--batch-norm recalibrate computes them at each node"
    if weights is not None or any(bool((mean != 0).any()) or bool((var != 1).any()) for mean, var in own):
        return f"BatchNorm statistics are the network's own at every node; {anew}" if between else None
    last = copy.deepcopy(model)
    try:
        load_weights(last, files[-1])
    except LandformError:
        return (
            f"BatchNorm statistics of the network were never set, and {files[-1].name} has none: --weights, or {anew}"
        )
    with torch.no_grad():
        for mine, other in zip(own, kept(last), strict=True):
            for value, trained in zip(mine, other, strict=True):
                value.copy_(trained)
    return f"BatchNorm statistics are those of {files[-1].name} at every node; {anew}"
