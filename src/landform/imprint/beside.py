"""Theorem 2's room: channels beside those of a trained network, and the network that lies in them.

A trained network is left as it is; the program gets channels of its own in every layer, which read and feed nobody but
each other (Czarnecki et al., arXiv 1912.07559, Theorem 2: the layer carries (h, φ(x))). Those channels *are* a network
of the same kind, with an output of one number: it is written by the same code as Theorem 1's, put in, taken out again
from the stored weights, and proved by the same code.
"""

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from landform.errors import ArchitectureError
from landform.imprint.lower.network import Network
from landform.imprint.lower.stages import Plain

Channels = Sequence[Sequence[int]]
_CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


@dataclass(frozen=True)
class Hidden:
    """One hidden layer of a chain: its map, its norms, its channels."""

    map: str
    norms: tuple[str, ...]
    width: int


@dataclass(frozen=True)
class Trunk:
    """A trained network as a chain of hidden layers and one head."""

    hidden: tuple[Hidden, ...]
    head: str
    outputs: int


def trunk_of(network: Network) -> Trunk:
    """Return the chain that a network is.

    Raises:
        ArchitectureError: If it branches, has grouped convolutions, or several heads.
    """
    if len(network.heads) != 1:
        raise ArchitectureError(f"Theorem 2 is built for one head; this network has {len(network.heads)}")
    head = network.heads[0]
    if network.chain is not None:
        hidden = tuple(Hidden(s.linear, (*s.before, *s.after), s.width) for s in network.chain.stages)
        return Trunk(hidden, head.linear, head.outputs)
    assert network.stages is not None
    pieces = network.stages.pieces
    if not all(isinstance(piece, Plain) and piece.groups == 1 for piece in pieces):
        raise ArchitectureError(
            "Theorem 2 is built for chains of Linear and convolution layers (with norms, pools and activations); this"
            " network branches or has grouped convolutions: use method='constant' for it"
        )
    found = tuple(Hidden(p.map, p.norms, p.width) for p in pieces if isinstance(p, Plain))
    return Trunk(found, head.linear, head.outputs)


def columns(module: nn.Module, channels: Sequence[int], width: int) -> Tensor:
    """Return the input columns of a map that read some channels of ``width``: all positions of a flattened image."""
    index = torch.as_tensor(list(channels), dtype=torch.long)
    if not isinstance(module, nn.Linear):
        return index
    positions = module.in_features // width
    return (index[:, None] * positions + torch.arange(positions)).reshape(-1)


def resized(model: nn.Module, trunk: Trunk, widths: Sequence[int], outputs: int) -> nn.Module:
    """Return a copy of a network with other widths and zero weights in maps; norms are identities with zero gains.

    Args:
        model: The network; not changed.
        trunk: Its chain.
        widths: New width of every hidden layer.
        outputs: New size of the head.
    """
    network = copy.deepcopy(model)
    modules = dict(model.named_modules())
    before_old = before_new = 0
    for layer, width in zip(trunk.hidden, widths, strict=True):
        _replace(network, layer.map, _like(modules[layer.map], before_old, before_new, width))
        for name in layer.norms:
            _replace(network, name, _like_norm(modules[name], width))
        before_old, before_new = layer.width, width
    _replace(network, trunk.head, _like(modules[trunk.head], before_old, before_new, outputs))
    return network.eval()


def narrowed(model: nn.Module, trunk: Trunk, channels: Channels) -> nn.Module:
    """Return the network of some channels, its weights zero, with one output; norms keep their statistics."""
    small = resized(model, trunk, [len(part) for part in channels], 1)
    modules, own = dict(model.named_modules()), dict(small.named_modules())
    for layer, part in zip(trunk.hidden, channels, strict=True):
        index = torch.as_tensor(list(part), dtype=torch.long)
        for name in layer.norms:
            source: Any = modules[name]
            target: Any = own[name]
            target.running_mean.copy_(source.running_mean[index])
            target.running_var.copy_(source.running_var[index])
    return small


def put(big: nn.Module, trunk: Trunk, channels: Channels, small: Mapping[str, Tensor], ray: Tensor) -> None:
    """Write the parameters of the network of some channels into them, its output times ``ray`` added to the head.

    Args:
        big: The network with room; changed in place.
        trunk: Its chain (with the new widths).
        channels: Which channels of each layer are free.
        small: Parameters of `narrowed`.
        ray: v, one number an output of the head.
    """
    modules = dict(big.named_modules())
    with torch.no_grad():
        before: Sequence[int] | None = None
        width = 0
        for layer, part in zip(trunk.hidden, channels, strict=True):
            module: Any = modules[layer.map]
            rows = torch.as_tensor(list(part), dtype=torch.long)
            module.weight[rows] = 0
            if before is not None:
                cols = columns(module, before, width)
                module.weight[:, cols] = 0
                module.weight[rows[:, None], cols[None]] = small[f"{layer.map}.weight"]
            if module.bias is not None:
                module.bias[rows] = small[f"{layer.map}.bias"]
            for name in layer.norms:
                norm: Any = modules[name]
                norm.weight[rows] = small[f"{name}.weight"]
                norm.bias[rows] = small[f"{name}.bias"]
            before, width = part, layer.width
        assert before is not None
        head: Any = modules[trunk.head]
        row = small[f"{trunk.head}.weight"].double()
        head.weight[:, columns(head, before, width)] = (ray[:, None] * row).to(head.weight.dtype)
        shift = ray * small[f"{trunk.head}.bias"].double()
        head.bias.copy_((head.bias.double() + shift).to(head.bias.dtype))


def lifted(
    trunk: Trunk, channels: Channels, directions: Sequence[Mapping[str, Tensor]], like: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], ...]:
    """Return directions of the network of some channels as directions of the whole one."""
    where = {layer.map: part for layer, part in zip(trunk.hidden, channels, strict=True)}
    where |= {name: part for layer, part in zip(trunk.hidden, channels, strict=True) for name in layer.norms}
    out = []
    for direction in directions:
        whole = {}
        for name, value in direction.items():
            full = torch.zeros_like(like[name])
            full[torch.as_tensor(list(where[name.rpartition(".")[0]]), dtype=torch.long)] = value
            whole[name] = full
        out.append(whole)
    return tuple(out)


def taken(
    origin: Mapping[str, Tensor], model: nn.Module, trunk: Trunk, channels: Channels, output: int
) -> tuple[nn.Module, float]:
    """Take the network of some channels out of stored weights, and check that it is one.

    Args:
        origin: Parameters as stored.
        model: The network, for its modules and statistics.
        trunk: Its chain.
        channels: The channels.
        output: The output of the head whose row is read; the ray is 1 there.

    Returns:
        The network with one output, and what is left of the other rows (unused; 0).

    Raises:
        ArchitectureError: If the channels read or feed others, so that they are no network of their own.
    """
    small = narrowed(model, trunk, channels)
    own = dict(small.named_parameters())
    modules = dict(model.named_modules())
    before: Sequence[int] | None = None
    width = 0
    with torch.no_grad():
        for layer, part in zip(trunk.hidden, channels, strict=True):
            weight = origin[f"{layer.map}.weight"]
            rows = torch.as_tensor(list(part), dtype=torch.long)
            inside = torch.zeros(weight.shape[:2], dtype=torch.bool)
            if before is None:
                block = weight[rows]
                if bool((block != 0).any()):
                    raise ArchitectureError(f"channels of the pattern in '{layer.map}' read the input")
            else:
                cols = columns(modules[layer.map], before, width)
                inside[rows[:, None], cols[None]] = True
                cross = torch.zeros_like(inside)
                cross[rows] = True
                cross[:, cols] = True
                outside = cross & ~inside
                if bool((weight.reshape(*weight.shape[:2], -1)[outside] != 0).any()):
                    raise ArchitectureError(f"channels of the pattern in '{layer.map}' read or feed other channels")
                own[f"{layer.map}.weight"].copy_(weight[rows[:, None], cols[None]])
            if f"{layer.map}.bias" in origin:
                own[f"{layer.map}.bias"].copy_(origin[f"{layer.map}.bias"][rows])
            for name in layer.norms:
                for key in ("weight", "bias"):
                    own[f"{name}.{key}"].copy_(origin[f"{name}.{key}"][rows])
            before, width = part, layer.width
        assert before is not None
        cols = columns(modules[trunk.head], before, width)
        own[f"{trunk.head}.weight"].copy_(origin[f"{trunk.head}.weight"][output, cols][None])
        own[f"{trunk.head}.bias"].zero_()
    return small, 0.0


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    owner = model.get_submodule(parent) if parent else model
    setattr(owner, last, module)


def _like(module: nn.Module, before_old: int, before_new: int, width: int) -> nn.Module:
    """Return a map like another with other channels, all zero; ``before_old`` = 0 leaves its inputs."""
    options: dict[str, Any] = {}
    weight = module.weight
    assert isinstance(weight, Tensor)
    if isinstance(module, nn.Linear):
        inputs = module.in_features // before_old * before_new if before_old else module.in_features
        with torch.device("meta"):  # no random initialisation: it would move the caller's generator
            made: nn.Module = nn.Linear(inputs, width, bias=module.bias is not None, dtype=weight.dtype)
    else:
        assert isinstance(module, _CONVS)
        for key in ("kernel_size", "stride", "padding", "dilation", "padding_mode"):
            options[key] = getattr(module, key)
        inputs = before_new if before_old else module.in_channels
        with torch.device("meta"):
            made = type(module)(inputs, width, bias=module.bias is not None, dtype=weight.dtype, **options)
    made = made.to_empty(device="cpu")
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.zero_()
    return made


def _like_norm(module: nn.Module, width: int) -> nn.Module:
    assert isinstance(module, _NORMS)
    dtype = module.weight.dtype
    made = type(module)(width, module.eps, module.momentum, module.affine, module.track_running_stats, dtype=dtype)
    with torch.no_grad():
        made.weight.zero_()
    return made.eval()


def gamma(terms: int, dtype: torch.dtype) -> float:
    """Return γ_k = k·u/(1 − k·u), the relative error of a dot product of ``terms`` terms in any order."""
    u = torch.finfo(dtype).eps / 2
    return math.inf if terms * u >= 1 else terms * u / (1 - terms * u)
