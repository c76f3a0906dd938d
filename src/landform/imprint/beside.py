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
from landform.imprint.spaces import Hidden, Member, spaces_of

Channels = Sequence[Sequence[int]]
_CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


@dataclass(frozen=True)
class Trunk:
    """A trained network as spaces of channels (in a chain: its hidden layers) and one head.

    Args:
        hidden: The spaces, in the order in which they are made; the first holds the coordinates.
        head: Name of the last map.
        outputs: Its outputs.
        members: The modules between the input and the head.
        read_by_head: Spaces that the head reads, one behind the other.
        branches: Whether it is more than a chain, so that room is searched for instead of counted.
        fast: Whether the head reads flattened positions whose channels vary fastest.
    """

    hidden: tuple[Hidden, ...]
    head: str
    outputs: int
    members: tuple[Member, ...]
    read_by_head: tuple[int, ...]
    branches: bool = False
    fast: bool = False

    @property
    def last(self) -> Member:
        """The head as a member."""
        return Member(self.head, "map", self.read_by_head, (), fast=self.fast)

    def joined(self, spaces: Sequence[int], channels: Channels) -> list[int]:
        """Return channels of some spaces as channels of the tensor in which these lie one behind the other."""
        out: list[int] = []
        start = 0
        for space in spaces:
            out += [start + channel for channel in channels[space]]
            start += self.hidden[space].width
        return out

    def width(self, spaces: Sequence[int]) -> int:
        """Return the channels of such a tensor."""
        return sum(self.hidden[space].width for space in spaces)

    def places(self, channels: Channels) -> dict[str, list[int]]:
        """Return, by module, where some channels lie in what it makes."""
        return {member.name: self.joined(member.makes, channels) for member in self.members}


def trunk_of(network: Network) -> Trunk:
    """Return the spaces of channels that a network has.

    Raises:
        ArchitectureError: If it has several heads, or groups of channels that Theorem 2 is not built for.
    """
    if len(network.heads) != 1:
        raise ArchitectureError(f"Theorem 2 is built for one head; this network has {len(network.heads)}")
    network.require_theorem_2()
    head = network.heads[0]
    if network.chain is not None:
        hidden = tuple(Hidden(s.linear, (*s.before, *s.after), s.width) for s in network.chain.stages)
        return _chain(hidden, head.linear, head.outputs)
    assert network.stages is not None
    assert network.graph is not None
    plain = all(isinstance(piece, Plain) and piece.bends for piece in network.stages.pieces)
    spaces = spaces_of(network.graph)
    fast = network.graph.ops[network.graph.heads[0].op].fast
    return Trunk(spaces.hidden, head.linear, head.outputs, spaces.members, spaces.read_by_head, not plain, fast)


def _chain(hidden: tuple[Hidden, ...], head: str, outputs: int) -> Trunk:
    members: list[Member] = []
    for number, layer in enumerate(hidden):
        members.append(Member(layer.map, "map", (number - 1,) if number else (), (number,)))
        members += [Member(name, "norm", (number,), (number,)) for name in layer.norms]
    return Trunk(hidden, head, outputs, tuple(members), (len(hidden) - 1,))


def columns(module: nn.Module, channels: Sequence[int], width: int, *, fast: bool = False) -> Tensor:
    """Return the input columns of a map that read some channels of ``width``: all positions of a flattened image.

    ``fast``: channels vary fastest.
    """
    index = torch.as_tensor(list(channels), dtype=torch.long)
    if not isinstance(module, nn.Linear):
        return index
    positions = module.in_features // width
    if fast:
        return (torch.arange(positions)[:, None] * width + index).reshape(-1)
    return (index[:, None] * positions + torch.arange(positions)).reshape(-1)


def columns_of(module: nn.Module, trunk: Trunk, member: Member, channels: Channels) -> Tensor:
    """Return the input columns of a member that read some channels of each space."""
    return columns(module, trunk.joined(member.reads, channels), trunk.width(member.reads), fast=member.fast)


def by_channel(values: Tensor, trunk: Trunk, member: Member) -> Tensor:
    """Return one value a column of a map as ``[channels, positions]``."""
    width = trunk.width(member.reads)
    return values.reshape(-1, width).T if member.fast else values.reshape(width, -1)


def head_columns(model: nn.Module, trunk: Trunk, channels: Channels) -> Tensor:
    """Return the columns of the head that read some channels of each space."""
    return columns_of(model.get_submodule(trunk.head), trunk, trunk.last, channels)


def resized(model: nn.Module, trunk: Trunk, widths: Sequence[int], outputs: int, *, device: str = "cpu") -> nn.Module:
    """Return a copy of a network with other widths and zero weights in maps; norms are identities with zero gains.

    Args:
        model: The network; not changed.
        trunk: Its spaces.
        widths: New width of every space.
        outputs: New size of the head.
        device: Of the maps; ``"meta"`` for a network that is only looked at.
    """
    network = copy.deepcopy(model)
    modules = dict(model.named_modules())

    def now(spaces: Sequence[int]) -> int:
        return sum(widths[space] for space in spaces)

    for member in trunk.members:
        module = modules[member.name]
        if member.kind == "norm":
            _replace(network, member.name, _like_norm(module, now(member.makes)))
        elif member.kind == "act":
            _replace(network, member.name, _like_slopes(module, now(member.makes), member.name))
        else:
            old, new = trunk.width(member.reads), now(member.reads)
            _replace(network, member.name, _like(module, old, new, now(member.makes), device))
    reads = trunk.read_by_head
    _replace(network, trunk.head, _like(modules[trunk.head], trunk.width(reads), now(reads), outputs, device))
    return network.eval()


def narrowed(model: nn.Module, trunk: Trunk, channels: Channels) -> nn.Module:
    """Return the network of some channels, its weights zero, with one output; norms keep their statistics."""
    small = resized(model, trunk, [len(part) for part in channels], 1)
    modules, own = dict(model.named_modules()), dict(small.named_modules())
    for member in trunk.members:
        if member.kind == "norm":
            index = _index(trunk.joined(member.makes, channels))
            source: Any = modules[member.name]
            target: Any = own[member.name]
            target.running_mean.copy_(source.running_mean[index])
            target.running_var.copy_(source.running_var[index])
    return small


def put(big: nn.Module, trunk: Trunk, channels: Channels, small: Mapping[str, Tensor], ray: Tensor) -> None:
    """Write the parameters of the network of some channels into them, its output times ``ray`` added to the head.

    Args:
        big: The network with room; changed in place.
        trunk: Its spaces (with the new widths).
        channels: Which channels of each space are free.
        small: Parameters of `narrowed`.
        ray: v, one number an output of the head.
    """
    modules = dict(big.named_modules())
    with torch.no_grad():
        for member in trunk.members:
            module: Any = modules[member.name]
            rows = _index(trunk.joined(member.makes, channels))
            if member.kind != "map" or member.depthwise:
                module.weight[rows] = small[f"{member.name}.weight"]
            else:
                module.weight[rows] = 0
                if member.reads:
                    cols = columns_of(module, trunk, member, channels)
                    _require_unread(module.weight[:, cols], member.name)
                    module.weight[rows[:, None], cols[None]] = small[f"{member.name}.weight"]
            if getattr(module, "bias", None) is not None:
                module.bias[rows] = small[f"{member.name}.bias"]
        head: Any = modules[trunk.head]
        cols = head_columns(big, trunk, channels)
        _require_unread(head.weight[:, cols], trunk.head)
        row = small[f"{trunk.head}.weight"].double()
        head.weight[:, cols] = (ray[:, None] * row).to(head.weight.dtype)
        shift = ray * small[f"{trunk.head}.bias"].double()
        head.bias.copy_((head.bias.double() + shift).to(head.bias.dtype))


def _require_unread(weight: Tensor, name: str) -> None:
    """Refuse to write where the trained network reads: it would be another one from here on."""
    if bool((weight != 0).any()):
        raise ArchitectureError(f"'{name}' reads channels that are to be the pattern's; they must be freed first")


def lifted(
    trunk: Trunk, channels: Channels, directions: Sequence[Mapping[str, Tensor]], like: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], ...]:
    """Return directions of the network of some channels as directions of the whole one."""
    where = trunk.places(channels)
    out = []
    for direction in directions:
        whole = {}
        for name, value in direction.items():
            full = torch.zeros_like(like[name])
            full[_index(where[name.rpartition(".")[0]])] = value
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
        trunk: Its spaces.
        channels: The channels.
        output: The output of the head whose row is read; the ray is 1 or −1 there.

    Returns:
        The network with one output, and what is left of the other rows (unused; 0).

    Raises:
        ArchitectureError: If the channels read or feed others, so that they are no network of their own.
    """
    small = narrowed(model, trunk, channels)
    own = dict(small.named_parameters())
    modules = dict(model.named_modules())
    with torch.no_grad():
        for member in trunk.members:
            name = member.name
            weight = origin[f"{name}.weight"]
            rows = _index(trunk.joined(member.makes, channels))
            if member.kind != "map" or member.depthwise:
                own[f"{name}.weight"].copy_(weight[rows])
            elif not member.reads:
                if bool((weight[rows] != 0).any()):
                    raise ArchitectureError(f"channels of the pattern in '{name}' read the input")
            else:
                cols = columns_of(modules[name], trunk, member, channels)
                inside = torch.zeros(weight.shape[:2], dtype=torch.bool)
                inside[rows[:, None], cols[None]] = True
                cross = torch.zeros_like(inside)
                cross[rows] = True
                cross[:, cols] = True
                if bool((weight.reshape(*weight.shape[:2], -1)[cross & ~inside] != 0).any()):
                    raise ArchitectureError(f"channels of the pattern in '{name}' read or feed other channels")
                own[f"{name}.weight"].copy_(weight[rows[:, None], cols[None]])
            if f"{name}.bias" in origin:
                own[f"{name}.bias"].copy_(origin[f"{name}.bias"][rows])
        cols = head_columns(model, trunk, channels)
        own[f"{trunk.head}.weight"].copy_(origin[f"{trunk.head}.weight"][output, cols][None])
        own[f"{trunk.head}.bias"].zero_()
    return small, 0.0


def _index(channels: Sequence[int]) -> Tensor:
    return torch.as_tensor(list(channels), dtype=torch.long)


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    owner = model.get_submodule(parent) if parent else model
    setattr(owner, last, module)


def _like(module: nn.Module, before_old: int, before_new: int, width: int, device: str) -> nn.Module:
    """Return a map like another with other channels, all zero; ``before_old`` = 0 leaves its inputs.

    The module is copied with other parameters, not made anew: nothing is drawn, and classes of one's own stay.
    """
    weight = module.weight
    assert isinstance(weight, Tensor)
    if isinstance(module, nn.Linear):
        inputs = module.in_features // before_old * before_new if before_old else module.in_features
        sizes = {"in_features": inputs, "out_features": width}
        shape = (width, inputs)
    else:
        if not isinstance(module, _CONVS):
            raise ArchitectureError(f"Theorem 2 is not built for {type(module).__name__}: use method='constant'")
        inputs = before_new if before_old else module.in_channels
        groups = width if module.groups > 1 else 1
        sizes = {"in_channels": inputs, "out_channels": width, "groups": groups}
        shape = (width, inputs // groups, *weight.shape[2:])
    return _copied(module, {"weight": shape, "bias": (width,)}, sizes, device)


def _like_norm(module: nn.Module, width: int) -> nn.Module:
    if not isinstance(module, _NORMS):
        raise ArchitectureError(
            f"Theorem 2 is built for BatchNorm, whose channels do not mix; this network has a {type(module).__name__}"
        )
    made = _copied(module, {"weight": (width,), "bias": (width,)}, {"num_features": width}, "cpu")
    made.register_buffer("running_mean", torch.zeros(width, dtype=module.weight.dtype))
    made.register_buffer("running_var", torch.ones(width, dtype=module.weight.dtype))
    return made.eval()


def _like_slopes(module: nn.Module, width: int, name: str) -> nn.Module:
    assert isinstance(module, nn.PReLU)
    if module.num_parameters == 1:
        raise ArchitectureError(
            f"'{name}' has one slope for all channels, and the pattern's need another; write nn.PReLU(channels)"
        )
    return _copied(module, {"weight": (width,)}, {"num_parameters": width}, "cpu")


def _copied(
    module: nn.Module, shapes: Mapping[str, tuple[int, ...]], attributes: Mapping[str, int], device: str
) -> nn.Module:
    """Return a copy of a module with zero parameters of other shapes; those that it does not have stay None."""
    memo: dict[int, Any] = {}
    for key, parameter in module.named_parameters(recurse=False):
        zero = torch.zeros(shapes.get(key, parameter.shape), dtype=parameter.dtype, device=device)
        memo[id(parameter)] = nn.Parameter(zero)
    made = copy.deepcopy(module, memo)
    for key, value in attributes.items():
        setattr(made, key, value)
    return made


def gamma(terms: int, dtype: torch.dtype) -> float:
    """Return γ_k = k·u/(1 − k·u), the relative error of a dot product of ``terms`` terms in any order."""
    u = torch.finfo(dtype).eps / 2
    return math.inf if terms * u >= 1 else terms * u / (1 - terms * u)
