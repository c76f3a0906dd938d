"""Make room by widening: every layer gets channels more, and the function stays the same (Net2Net without copies).

The original weights stay bit for bit. The outputs do in exact arithmetic; in floating point a wider layer may be summed
in another order, by at most γ_K Σ|w||x| a layer (Chen, Goodfellow, Shlens, arXiv 1511.05641, widen by copying channels;
here the new ones feed nobody).
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn

from landform.imprint.beside import Trunk, resized


def widen(model: nn.Module, trunk: Trunk, extra: Sequence[int]) -> tuple[nn.Module, Trunk, list[list[int]]]:
    """Return a wider network that computes the same, its chain, and the new channels of each layer.

    Args:
        model: The network; not changed.
        trunk: Its chain.
        extra: Channels to add to each hidden layer.

    Returns:
        The network; all weights from and to new channels are zero.

    Example:
        >>> from landform.imprint.lower.network import read
        >>> from landform.imprint.beside import trunk_of
        >>> small = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)).eval()
        >>> wide, _, channels = widen(small, trunk_of(read(small)), [2])
        >>> tuple(wide[0].weight.shape), channels, bool(torch.equal(wide[0].weight[:3], small[0].weight))
        ((5, 2), [[3, 4]], True)
    """
    widths = [layer.width + more for layer, more in zip(trunk.hidden, extra, strict=True)]
    wide = resized(model, trunk, widths, trunk.outputs)
    new = dict(wide.named_parameters())
    with torch.no_grad():
        for name, value in model.named_parameters():
            if new[name].shape == value.shape:
                new[name].copy_(value)
            else:
                new[name][tuple(slice(size) for size in value.shape)] = value
        buffers = dict(wide.named_buffers())
        for name, buffer in model.named_buffers():
            if buffer.ndim and buffers[name].shape != buffer.shape:
                buffers[name][tuple(slice(size) for size in buffer.shape)] = buffer
            else:
                buffers[name].copy_(buffer)
    for name, parameter in model.named_parameters():
        new[name].requires_grad_(parameter.requires_grad)
    hidden = tuple(replace(layer, width=width) for layer, width in zip(trunk.hidden, widths, strict=True))
    channels = [list(range(layer.width, width)) for layer, width in zip(trunk.hidden, widths, strict=True)]
    return wide, replace(trunk, hidden=hidden), channels
