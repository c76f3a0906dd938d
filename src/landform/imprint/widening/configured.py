"""Widen a Hugging Face model by its configuration: build the larger one, and put the old numbers where they belong.

Nothing here knows an architecture. The same class is built from a changed configuration, and which dimension of which
parameter grows is read off the shapes. Three things can grow, one after another:

- the hidden units of the perceptrons (``intermediate_size``): new units are read by nobody;
- attention heads, where their width has a field of its own (``head_dim``): no output projection reads new ones;
- the stream, to a whole multiple (``hidden_size``, with as many more heads): every coordinate is there several times,
  so that the statistics of LayerNorm and RMSNorm stay; maps read the first copy alone. A head tied to the embedding
  would read all copies, so the norm before it gets gain 0 on the others.

Where several maps are fused in one (queries, keys and values), each grows by itself.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from landform.calling import as_found
from landform.errors import ArchitectureError, InputError
from landform.imprint.lower.overhear import is_norm
from landform.imprint.widening.channels import CONVS

INNER = ("intermediate_size", "n_inner", "ffn_dim", "hidden_dim", "d_ff", "encoder_ffn_dim")
"""Fields that hold the hidden units of perceptrons, in the order in which they are looked for."""
SAME = ("word_embed_proj_dim", "embedding_size")
"""Fields that grow with the stream where they are as wide."""


def is_configured(model: nn.Module) -> bool:
    """Say whether a model can be built again from its configuration."""
    return hasattr(model, "config") and hasattr(model, "save_pretrained") and hasattr(model.config, "to_dict")


@dataclass
class Grown:
    """A larger model, and what is new in it.

    Args:
        model: The model.
        channels: New outputs by module.
        columns: New inputs by module.
    """

    model: nn.Module
    channels: dict[str, tuple[int, ...]] = field(default_factory=dict)
    columns: dict[str, tuple[int, ...]] = field(default_factory=dict)


def with_units(model: Any, extra: int, generator: torch.Generator | None) -> Grown | None:
    """Return a model with more hidden units in all perceptrons, None if its configuration has no field for them."""
    config = copy.deepcopy(model.config)
    name = inner_field(config)
    if name is None:
        return None
    units = _inner(config, name)
    setattr(config, name, units + extra)
    return _grown(model, config, [units], 1, generator, fused=True)


def with_heads(model: Any, heads: int, generator: torch.Generator | None, *, fused: bool = True) -> Grown:
    """Return a model with more attention heads in every block; rounded up to whole groups that share keys and values.

    Raises:
        ArchitectureError: If the width of a head is no field of its own.
    """
    config = copy.deepcopy(model.config)
    width = getattr(config, "head_dim", None)
    if not isinstance(getattr(config, "num_attention_heads", None), int):
        raise ArchitectureError(f"the configuration of {type(model).__name__} has no number of attention heads")
    if width is None:
        raise ArchitectureError(
            f"heads of {type(model).__name__} are hidden_size / heads wide, so that more of them would be narrower; use"
            " repeat=2, which doubles the stream and its heads"
        )
    old = config.num_attention_heads
    shared = getattr(config, "num_key_value_heads", None) or old
    group = old // shared
    groups = -(-heads // group)
    config.num_attention_heads = old + groups * group
    if getattr(config, "num_key_value_heads", None):
        config.num_key_value_heads = shared + groups
    return _grown(model, config, [old * width, shared * width], 1, generator, fused=fused)


def with_stream(model: Any, repeat: int, sample: Any, *, fused: bool = True) -> Grown:
    """Return a model whose stream has every coordinate several times.

    Raises:
        ArchitectureError: If the configuration has no width, or the head reads all copies and no norm is before it.
    """
    config = copy.deepcopy(model.config)
    width, heads = getattr(config, "hidden_size", None), getattr(config, "num_attention_heads", None)
    if not isinstance(width, int) or not isinstance(heads, int):
        raise ArchitectureError(f"the configuration of {type(model).__name__} has no single width of a stream")
    inner = inner_field(config)
    if inner is not None:
        setattr(config, inner, _inner(config, inner))  # said in so many words, else it would grow with the stream
    own = getattr(config, "head_dim", None) or width // heads
    for name in SAME:
        if getattr(config, name, None) == width:
            setattr(config, name, width * repeat)
    config.hidden_size, config.num_attention_heads = width * repeat, heads * repeat
    if getattr(config, "num_key_value_heads", None):
        config.num_key_value_heads *= repeat
    made = _grown(model, config, [heads * own, width], repeat, None, fused=fused)
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    table = model.get_input_embeddings()
    if head is not None and head.weight is table.weight:
        _blind(made.model, _norm_before(model, head, sample), width)
    return made


def inner_field(config: Any) -> str | None:
    """Return the field of a configuration that holds the hidden units of perceptrons."""
    return next((name for name in INNER if hasattr(config, name)), None)


def _inner(config: Any, name: str) -> int:
    value = getattr(config, name)
    return int(4 * config.hidden_size if value is None else value)


def _grown(
    model: Any, config: Any, units: list[int], repeat: int, generator: torch.Generator | None, *, fused: bool
) -> Grown:
    """Build a model from a configuration and fill it with the numbers of another.

    Args:
        model: The other.
        config: The configuration.
        units: Sizes of dimensions that grow; one that is a multiple of them is several maps in one.
        repeat: New numbers are copies of the old ones where above 1.
        generator: Draws new numbers, None for zeros.
        fused: Let multiples grow part by part.
    """
    try:
        with torch.random.fork_rng():
            wide = type(model)(config).to(next(model.parameters()).dtype)
    except Exception as error:
        raise ArchitectureError(f"{type(model).__name__} cannot be built with these sizes: {error}") from error
    made = Grown(wide)
    modules, new = dict(model.named_modules()), dict(wide.named_parameters())
    with torch.no_grad():
        first: set[int] = set()
        for name, value in model.named_parameters(remove_duplicate=False):
            owner = name.rpartition(".")[0]
            if id(value) in first:  # tied: filled already, but this module reads what the other makes
                _filled(value, wide.get_parameter(name).shape, modules[owner], (units, 1, fused), None, made, owner)
                continue
            first.add(id(value))
            if name not in new or new[name].ndim != value.ndim:
                raise ArchitectureError(f"parameter '{name}' is another one in the wider {type(model).__name__}")
            filled = _filled(value, new[name].shape, modules[owner], (units, repeat, fused), generator, made, owner)
            new[name].copy_(filled)
            new[name].requires_grad_(value.requires_grad)
        old = dict(model.named_buffers())
        for name, buffer in wide.named_buffers():
            if name in old and old[name].shape == buffer.shape:
                buffer.copy_(old[name])
    for name, module in wide.named_modules():
        if name in modules:
            module.training = modules[name].training
    if not made.channels and not made.columns:
        raise ArchitectureError(f"{type(model).__name__} does not grow with the fields of its configuration")
    if getattr(model, "generation_config", None) is not None:
        wide.generation_config = copy.deepcopy(model.generation_config)
    return made


def _filled(
    value: Tensor,
    shape: torch.Size,
    module: nn.Module,
    rule: tuple[list[int], int, bool],
    generator: torch.Generator | None,
    made: Grown,
    owner: str,
) -> Tensor:
    """Return a parameter in its new shape; note in ``made`` what is new."""
    units, repeat, fused = rule
    reads = _reading(module) if value.ndim > 1 else None
    out = value.detach()
    for dim, (before, after) in enumerate(zip(value.shape, shape, strict=True)):
        if before == after:
            continue
        blocks = next((before // u for u in units if before % u == 0 and fused), 1)
        old, source = places(before, after, blocks)
        new = sorted(set(range(after)) - set(old))
        rest = list(out.shape)
        rest[dim] = after
        grown = out.new_zeros(rest)
        if dim != reads and repeat > 1:
            grown = out.index_select(dim, torch.tensor(source, device=out.device))
        elif dim != reads and generator is not None and value.ndim > 1:
            fan = max(out.numel() // before, 1)
            drawn = torch.empty(rest, dtype=torch.float64).normal_(generator=generator) * (2.0 / fan) ** 0.5
            grown = drawn.to(out)
        grown.index_copy_(dim, torch.tensor(old, device=out.device), out)
        out = grown
        notes = made.columns if dim == reads else made.channels
        if value.ndim > 1 or owner not in notes:
            notes[owner] = tuple(new)
    return out


def places(before: int, after: int, blocks: int) -> tuple[list[int], list[int]]:
    """Return where the numbers of a dimension come to lie, and what each new place is a copy of.

    Example:
        >>> places(4, 8, 2)
        ([0, 1, 4, 5], [0, 1, 0, 1, 2, 3, 2, 3])
    """
    if before % blocks or after % blocks:
        blocks = 1
    size, grown = before // blocks, after // blocks
    old = [b * grown + i for b in range(blocks) for i in range(size)]
    source = [b * size + i % size for b in range(blocks) for i in range(grown)]
    return old, source


def _reading(module: nn.Module) -> int | None:
    """Return the dimension of a map's weight that reads."""
    if isinstance(module, nn.Linear) or (isinstance(module, CONVS) and module.groups == 1):
        return 1
    return 0 if type(module).__name__ == "Conv1D" else None


def _norm_before(model: nn.Module, head: nn.Module, sample: Any) -> str:
    """Return the norm whose output a head reads."""
    returned: dict[str, Tensor] = {}
    given: list[Tensor] = []
    hooks = [head.register_forward_pre_hook(lambda _m, args: given.append(args[0]))]
    for name, module in model.named_modules():
        if is_norm(module):
            hooks.append(module.register_forward_hook(lambda _m, _a, out, name=name: returned.update({name: out})))
    try:
        with torch.no_grad(), as_found(model):
            if isinstance(sample, Mapping):
                model(**sample)
            else:
                model(sample)
    finally:
        for hook in hooks:
            hook.remove()
    for name, value in reversed(returned.items()):
        if given and value.shape == given[-1].shape and torch.equal(value, given[-1]):
            return name
    raise ArchitectureError(
        f"the head of {type(model).__name__} is tied to its embedding and reads no norm directly; untie them"
        " (config.tie_word_embeddings=False) to repeat the stream"
    )


def _blind(model: nn.Module, name: str, width: int) -> None:
    """Set a norm's gain and bias to 0 behind the first copy of the stream."""
    with torch.no_grad():
        for parameter in model.get_submodule(name).parameters(recurse=False):
            parameter[width:] = 0


def check_count(what: str, count: object, least: int) -> None:
    """Refuse what is no whole number.

    Raises:
        InputError: Naming it.
    """
    if not isinstance(count, int) or isinstance(count, bool) or count < least:
        raise InputError(f"{what}={count!r}: wanted a whole number of at least {least}")
