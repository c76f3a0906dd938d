"""Make room in a trained language model without changing what it computes: a wider stream, and blocks behind the last.

- **Wider.** A norm that subtracts the mean does not see a constant that is added to all coordinates, so everything
  that enters the stream is first centred (its mean over the coordinates taken away). Then the stream has mean 0, with
  or without further coordinates that are 0; its variance falls by d/d', for which the gains (√(d/d')) and ε (d/d') of
  the norms make up. Attention and perceptrons keep their inner sizes.
- **Deeper.** A block whose maps are zero adds zero. Blocks put behind the trained ones see all that was computed, and
  the trained ones see nothing of them.

In exact arithmetic the outputs are the same; in floating point they differ by roundings of centring and rescaling.
After Net2Net (Chen, Goodfellow, Shlens, arXiv 1511.05641), which widens by copying and deepens by identities.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from landform.errors import ArchitectureError
from landform.imprint.lower.anatomy import Anatomy
from landform.imprint.lower.chain import remove_hooks
from landform.imprint.lower.stream import Map, Norm


@dataclass(frozen=True)
class Grown:
    """A language model with room.

    Args:
        model: The network.
        width: Coordinates of the stream that the trained network uses: those from ``width`` on are 0 in it.
        untied: Whether its head was tied to the embeddings and is now a matrix of its own.
    """

    model: nn.Module
    width: int
    untied: bool


def grow(model: nn.Module, anatomy: Anatomy, *, coordinates: int, hidden: Sequence[int]) -> Grown:
    """Return a copy of a language model with a wider stream and silent blocks behind the trained ones.

    Args:
        model: The network; not changed.
        anatomy: Its parts.
        coordinates: Coordinates to add to the stream.
        hidden: Hidden units of the perceptron of each new block.

    Returns:
        The network; it computes what the model computes.

    Raises:
        ArchitectureError: A norm that cannot be rescaled.
    """
    network = copy.deepcopy(model)
    remove_hooks(network)
    old, new = anatomy.stream.width, anatomy.stream.width + coordinates
    centred = anatomy.stream.final.kind == "layer"
    untied = anatomy.stream.tied is not None
    with torch.no_grad():
        for name in anatomy.tables:
            table = network.get_submodule(name)
            assert isinstance(table, nn.Embedding)
            weight = _centred(table.weight, 1) if centred else table.weight
            table.weight = _parameter(_padded(weight, 1, coordinates), table.weight)
            table.embedding_dim = new
        for norm in anatomy.norms:
            _rescale(network, norm, old, new)
        for which in (*anatomy.readers, anatomy.stream.head):
            _resize(network, which, inputs=coordinates)
        for which in anatomy.writers:
            _resize(network, which, outputs=coordinates, centred=centred)
        _append(network, anatomy, hidden)
    config = getattr(network, "config", None)
    if untied and config is not None and hasattr(config, "tie_word_embeddings"):
        config.tie_word_embeddings = False
    for parameter in network.parameters():
        parameter.grad = None
    return Grown(network.eval(), old, untied)


def _parameter(value: Tensor, like: Tensor) -> nn.Parameter:
    return nn.Parameter(value.to(like.dtype).contiguous(), requires_grad=like.requires_grad)


def _centred(value: Tensor, dim: int) -> Tensor:
    exact = value.double()
    return exact - exact.mean(dim, keepdim=True)


def _padded(value: Tensor, dim: int, extra: int) -> Tensor:
    shape = list(value.shape)
    shape[dim] = extra
    return torch.cat([value, value.new_zeros(shape)], dim)


def _rescale(network: nn.Module, norm: Norm, old: int, new: int) -> None:
    """Give a norm more coordinates, and gains and ε with which it does what it did on the old ones."""
    module: Any = network.get_submodule(norm.name)
    share = old / new
    key = next((k for k in ("eps", "variance_epsilon") if getattr(module, k, None) is not None), None)
    if key is None:
        raise ArchitectureError(f"norm '{norm.name}' has no eps that could be rescaled with its width")
    gain = (module.weight.double() + norm.gain_offset) * share**0.5 - norm.gain_offset
    wide = torch.cat([gain, gain.new_full((new - old,), -norm.gain_offset)])  # reads nothing of the new coordinates
    module.weight = _parameter(wide, module.weight)
    if norm.bias is not None:
        module.bias = _parameter(_padded(module.bias, 0, new - old), module.bias)
    setattr(module, key, float(getattr(module, key)) * share)
    if isinstance(module, (nn.LayerNorm, nn.RMSNorm)):
        module.normalized_shape = (new,)


def _resize(network: nn.Module, which: Map, *, inputs: int = 0, outputs: int = 0, centred: bool = False) -> None:
    """Give a map inputs it does not read and outputs that are 0."""
    module: Any = network.get_submodule(which.name)
    weight = module.weight.T if which.transposed else module.weight
    bias = module.bias if which.bias else None
    if centred:
        weight, bias = _centred(weight, 0), None if bias is None else _centred(bias, 0)
    wide = _padded(_padded(weight, 1, inputs), 0, outputs)
    set_map(module, which, wide, None if bias is None else _padded(bias, 0, outputs))


def set_map(module: Any, which: Map, weight: Tensor, bias: Tensor | None) -> None:
    """Replace the parameters of a linear map by others, of any size.

    Args:
        module: The map.
        which: How it stores them.
        weight: ``[out, in]``.
        bias: ``[out]``, or None where it has none.
    """
    module.weight = _parameter(weight.T if which.transposed else weight, module.weight)
    if bias is not None:
        module.bias = _parameter(bias, module.bias)
    outputs, inputs = weight.shape
    for key, size in (("in_features", inputs), ("out_features", outputs), ("nx", inputs), ("nf", outputs)):
        if hasattr(module, key):
            setattr(module, key, size)


def _append(network: nn.Module, anatomy: Anatomy, hidden: Sequence[int]) -> None:
    """Put copies of the last block behind it, their parameters 0 and their perceptrons of other sizes."""
    blocks: Any = network.get_submodule(anatomy.blocks)
    last = anatomy.stream.mlps[-1]
    prefix = f"{anatomy.blocks}.{anatomy.count - 1}."
    for number, units in enumerate(hidden, start=anatomy.count):
        block = copy.deepcopy(blocks[anatomy.count - 1])
        for norm in anatomy.norms:
            if norm.name.startswith(prefix) and norm.gain_offset:
                block.get_submodule(norm.name.removeprefix(prefix)).weight.fill_(-norm.gain_offset)
        for name, parameter in block.named_parameters():
            if not any(f"{prefix}{name}" == norm.gain and norm.gain_offset for norm in anatomy.norms):
                parameter.zero_()
        for which in (last.up, last.gate, last.down):
            if which is None:
                continue
            module: Any = block.get_submodule(which.name.removeprefix(prefix))
            weight = module.weight.T if which.transposed else module.weight
            shape = (weight.shape[0], units) if which is last.down else (units, weight.shape[1])
            set_map(module, which, weight.new_zeros(shape), weight.new_zeros(shape[0]) if which.bias else None)
        for module in block.modules():
            if isinstance(getattr(module, "layer_idx", None), int):
                module.layer_idx = number
        blocks.append(block)
    config = getattr(network, "config", None)
    if config is not None and getattr(config, "num_hidden_layers", None) == anatomy.count:
        config.num_hidden_layers = anatomy.count + len(hidden)
        kinds = getattr(config, "layer_types", None)
        if isinstance(kinds, list) and len(kinds) == anatomy.count:
            config.layer_types = kinds + [kinds[-1]] * len(hidden)


def grown_names(anatomy: Anatomy, name: str, number: int) -> str:
    """Return the name that a part of the last trained block has in a new one.

    Args:
        anatomy: Of the network before it grew.
        name: Of a module or parameter in the last block.
        number: Of the new block, from 0.

    Returns:
        Its name there.
    """
    prefix = f"{anatomy.blocks}.{anatomy.count - 1}."
    return f"{anatomy.blocks}.{anatomy.count + number}." + name.removeprefix(prefix)
