"""Make room by reserving in networks that branch: a channel of a space is freed in every tensor that shares it."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from landform.errors import CapacityError
from landform.imprint.beside import Trunk, by_channel, columns_of
from landform.task import Task


def reserve_spaces(
    model: nn.Module, trunk: Trunk, needed: Sequence[int], task: Task
) -> tuple[nn.Module, list[list[int]]]:
    """Return a copy in which some channels of every space feed nobody, and which these are.

    A space has several readers. A channel's use is, summed over the maps that read it, the share of the variance of
    what the map makes that comes through this channel, Var(x_k) Σ_c w_ck² / Σ_k Var(x_k) Σ_c w_ck² (channels taken as
    uncorrelated); a share, because norms behind maps make their scale arbitrary. Mean contributions go into biases, or
    into the constants of the norms behind. Statistics of freed channels become 0 and 1: norms then carry zeros exactly.

    Raises:
        CapacityError: If a space has too few channels.
    """
    for space, count in zip(trunk.hidden, needed, strict=True):
        if count >= space.width:
            raise CapacityError(
                f"'{space.map}' has {space.width} channels and the pattern needs {count} of them, which would leave"
                " nothing of the trained network; lower the resolution or use units='widen'"
            )
    network = copy.deepcopy(model).eval()
    modules = dict(network.named_modules())
    readers = [member for member in trunk.members if member.kind == "map" and member.reads and not member.depthwise]
    readers.append(trunk.last)
    moments = _moments(network, [reader.name for reader in readers], task)
    use = [torch.zeros(space.width, dtype=torch.float64) for space in trunk.hidden]
    for reader in readers:
        module: Any = modules[reader.name]
        energy = module.weight.detach().double().square().reshape(*module.weight.shape[:2], -1).sum(dim=(0, 2))
        share = by_channel(moments[reader.name][1] * energy, trunk, reader).sum(dim=1)
        share = share / share.sum().clamp(min=1e-300)
        reads = reader.reads
        for number, part in zip(reads, torch.split(share, [trunk.hidden[s].width for s in reads]), strict=True):
            use[number] += part
    channels = [sorted(part.argsort()[:count].tolist()) for part, count in zip(use, needed, strict=True)]
    with torch.no_grad():
        for reader in readers:
            module = modules[reader.name]
            cols = columns_of(module, trunk, reader, channels)
            taps = module.weight.detach().double().reshape(*module.weight.shape[:2], -1).sum(dim=2)
            gone = taps[:, cols] @ moments[reader.name][0][cols]
            if module.bias is not None:
                module.bias += gone.to(module.bias.dtype)
            elif reader.norm:
                behind: Any = modules[reader.norm]
                gain = behind.weight.double() / (behind.running_var.double() + behind.eps).sqrt()
                behind.bias += (gone * gain).to(behind.bias.dtype)
            module.weight[:, cols] = 0
    again = _restated(network, trunk, task)
    chosen = min((network, again), key=lambda made: float(task.replace(model=made).evaluate()))
    places, modules = trunk.places(channels), dict(chosen.named_modules())
    for member in trunk.members:
        if member.kind == "norm":
            behind = modules[member.name]
            behind.running_mean[places[member.name]] = 0.0
            behind.running_var[places[member.name]] = 1.0
    return chosen, channels


def _restated(network: nn.Module, trunk: Trunk, task: Task) -> nn.Module:
    """Return a copy whose norms have the statistics of the data again, as the mean over batches."""
    made = copy.deepcopy(network)
    norms: list[Any] = [made.get_submodule(member.name) for member in trunk.members if member.kind == "norm"]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    with torch.no_grad():
        for part in torch.split(task.data.inputs, 256):
            if len(part) > 1:  # one sample has no variance
                made(part)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return made.eval()


def _moments(network: nn.Module, names: Sequence[str], task: Task) -> dict[str, tuple[Tensor, Tensor]]:
    """Return mean and variance of every input column (channel) of some maps over the data, in one pass."""
    sums: dict[str, Tensor] = {}
    counts = dict.fromkeys(names, 0)

    def looking(name: str) -> Any:
        def look(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            x = inputs[0].detach().double()
            if x.ndim > 2:
                x = x.movedim(1, -1).reshape(-1, x.shape[1])
            counts[name] += len(x)
            both = torch.stack([x.sum(dim=0), x.square().sum(dim=0)])
            sums[name] = sums[name] + both if name in sums else both

        return look

    hooks = [network.get_submodule(name).register_forward_pre_hook(looking(name)) for name in names]
    try:
        with torch.no_grad():
            for start in range(0, task.data.n, 256):
                network(task.data.inputs[start : start + 256])
    finally:
        for hook in hooks:
            hook.remove()
    found = {name: sums[name] / counts[name] for name in names}
    return {name: (mean, (square - mean.square()).clamp(min=0.0)) for name, (mean, square) in found.items()}
