"""Make room by reserving: the least useful channels of a trained network stop feeding it.

The shapes stay as they are. A channel's use is the variance, over the data, of what it contributes to the next layer,
Var(x_k) Σ_c w_ck²; its mean contribution goes into the next layer's biases. After that the network is another one,
slightly worse (accuracies before and after are reported), and *its* outputs are kept bit for bit.
"""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from landform.errors import CapacityError
from landform.imprint.beside import Trunk, columns
from landform.imprint.reserve_spaces import reserve_spaces
from landform.task import Task


def reserve(model: nn.Module, trunk: Trunk, needed: Sequence[int], task: Task) -> tuple[nn.Module, list[list[int]]]:
    """Return a copy in which some channels of every layer feed nobody, and which these are.

    Args:
        model: The trained network; not changed.
        trunk: Its chain.
        needed: Channels to free in each hidden layer.
        task: Gives the data that usefulness is measured on.

    Returns:
        The network and the free channels of each layer, ascending.

    Raises:
        CapacityError: If a layer has too few channels.

    Cost:
        One pass over the data a layer.
    """
    if trunk.branches or any(member.fast for member in (*trunk.members, trunk.last)):
        return reserve_spaces(model, trunk, needed, task)
    network = copy.deepcopy(model).eval()
    modules = dict(network.named_modules())
    names = [layer.map for layer in trunk.hidden[1:]] + [trunk.head]
    channels: list[list[int]] = []
    for layer, count, reader in zip(trunk.hidden, needed, names, strict=True):
        if count >= layer.width:
            raise CapacityError(
                f"'{layer.map}' has {layer.width} channels and the pattern needs {count} of them, which would leave"
                " nothing of the trained network; lower the resolution or use units='widen'"
            )
        target: Any = modules[reader]
        mean, variance = _moments(network, target, task)
        weight = target.weight.detach().double()
        use = (variance * weight.reshape(weight.shape[0], weight.shape[1], -1).square().sum(dim=(0, 2))).reshape(-1)
        width = layer.width
        per_channel = use.reshape(width, -1).sum(dim=1)
        free = sorted(per_channel.argsort()[:count].tolist())
        cols = columns(target, free, width)
        with torch.no_grad():
            if target.bias is not None and count:
                gone = weight[:, cols].reshape(weight.shape[0], len(cols), -1).sum(dim=2) @ mean[cols]
                target.bias += gone.to(target.bias.dtype)
            target.weight[:, cols] = 0
        channels.append(free)
    return network, channels


def _moments(network: nn.Module, reader: nn.Module, task: Task) -> tuple[Tensor, Tensor]:
    """Return mean and variance of every input column (channel) of a map over the data."""
    sums: list[Tensor] = []
    count = 0

    def look(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        nonlocal count
        x = inputs[0].detach().double()
        if x.ndim > 2:
            x = x.movedim(1, -1).reshape(-1, x.shape[1])
        count += len(x)
        sums.append(torch.stack([x.sum(dim=0), x.square().sum(dim=0)]))

    hook = reader.register_forward_pre_hook(look)
    try:
        with torch.no_grad():
            for start in range(0, task.data.n, 1024):
                network(task.data.inputs[start : start + 1024])
    finally:
        hook.remove()
    total = torch.stack(sums).sum(dim=0) / count
    return total[0], (total[1] - total[0].square()).clamp(min=0.0)
