"""Which parameters of a model a direction moves."""

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from landform.calling import state_at, unwrap
from landform.errors import InputError, unknown_name
from landform.task import Task

Patterns = str | Sequence[str]
"""One shell-style pattern over parameter names (``"layer1.*"``), or several."""

ADAPTERS = ("lora_", "adapter", "ia3_", "vera_", "prompt_encoder", "prefix_")
"""How parts of the names of adapters begin, as libraries for fine-tuning name them; case does not matter."""

_NORMALISERS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


def module_of(subject: Task | nn.Module) -> nn.Module:
    """Return the module whose parameters are meant, checked to have values.

    Args:
        subject: A module, or a task of one.

    Returns:
        The module itself, not a copy, and without the wrapper of ``torch.compile`` or DDP, as tasks and checkpoints
        name its parameters.

    Raises:
        InputError: A function, or something else without parameters.
        ArchitectureError: Parameters without values (meta device, lazy modules).
    """
    model = subject.model if isinstance(subject, Task) else unwrap(subject)
    if not isinstance(model, nn.Module):
        raise InputError(f"got {model!r}; wanted a torch.nn.Module, or a task of one: only these have parameters")
    state_at(model, None, None)
    if next(model.parameters(), None) is None:
        raise InputError(f"model {type(model).__name__} has no parameters, so there is no direction to move it in")
    return model


def plain_names(model: nn.Module) -> set[str]:
    """Name the biases and the parameters of normalisation layers: what Li et al. leave where it is.

    Args:
        model: The model.

    Returns:
        Names of all parameters with at most one dimension, and of all those of BatchNorm, InstanceNorm, LayerNorm,
        GroupNorm and RMSNorm, which may have more.

    Example:
        >>> sorted(plain_names(nn.Sequential(nn.Linear(2, 2), nn.LayerNorm((3, 2), bias=False))))
        ['0.bias', '1.weight']
    """
    layers = [layer for layer in model.modules() if isinstance(layer, _NORMALISERS)]
    ids = {id(value) for layer in layers for value in layer.parameters(recurse=False)}
    return {name for name, value in model.named_parameters() if value.ndim <= 1 or id(value) in ids}


def select(
    model: nn.Module,
    *,
    include: Patterns | None = None,
    exclude: Patterns | None = None,
    biases: bool = False,
    adapters: bool = False,
) -> tuple[str, ...]:
    """Choose the parameters that directions move.

    Args:
        model: The model.
        include: Patterns over names (as of `fnmatch`, case matters); None for all. A tied parameter is chosen by any of
            its names.
        exclude: Patterns of what to leave out; they win over ``include``.
        biases: Also those of `plain_names`.
        adapters: Only adapters: parameters with a part of their name that begins as `ADAPTERS` do (``lora_A``, …); in a
            model without such names, those that train (``requires_grad``) where the others are frozen.

    Returns:
        Names in the model's order, tied parameters once, floating-point ones only.

    Raises:
        UnknownNameError: A pattern that matches no parameter, with the nearest name.
        InputError: Nothing is left, or ``adapters`` without any adapter.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> select(model), select(model, include="2.*", biases=True)
        (('0.weight', '2.weight'), ('2.weight', '2.bias'))
    """
    first = {id(value): name for name, value in model.named_parameters()}
    aliases = {name: first[id(value)] for name, value in model.named_parameters(remove_duplicate=False)}
    wanted = set(first.values()) if include is None else matched(include, aliases, "include")
    wanted -= set() if exclude is None else matched(exclude, aliases, "exclude")
    if adapters:
        wanted &= adapter_names(model)
    plain = set() if biases else wanted & plain_names(model)
    chosen = tuple(
        n for n, p in model.named_parameters() if n in wanted - plain and p.is_floating_point() and p.numel()
    )
    if not chosen:
        hint = f"; {min(plain)} is a bias or belongs to a normalisation layer: pass biases=True" if plain else ""
        raise InputError(f"no parameter is left to move (include={include!r}, exclude={exclude!r}){hint}")
    return chosen


def adapter_names(model: nn.Module) -> set[str]:
    """Name the parameters of adapters.

    Args:
        model: The model.

    Returns:
        Names with a part that begins as one of `ADAPTERS`; if there is none, those that train beside frozen ones.

    Raises:
        InputError: No adapter by name, and nothing or everything trains.

    Example:
        >>> model = nn.ModuleDict({"base": nn.Linear(4, 4), "lora_A": nn.Linear(4, 1, bias=False)})
        >>> adapter_names(model)
        {'lora_A.weight'}
    """
    named = dict(model.named_parameters())
    found = {name for name in named if any(part.lower().startswith(ADAPTERS) for part in name.split("."))}
    if not found:
        found = {name for name, value in named.items() if value.requires_grad}
        if len(found) in (0, len(named)):
            raise InputError(
                f"adapters=True, but no parameter of {type(model).__name__} is named like an adapter"
                f" ({', '.join(ADAPTERS)}), and {'none' if not found else 'all'} of them train; pass include=…"
            )
    return found


def matched(patterns: Patterns, aliases: Mapping[str, str], option: str) -> set[str]:
    """Return what patterns over names stand for.

    Args:
        patterns: One or several.
        aliases: What each name stands for: itself, or the first name of a tied parameter.
        option: What to call the patterns in an error.

    Returns:
        The names.

    Raises:
        UnknownNameError: A pattern that matches nothing, with the nearest name.
    """
    found: set[str] = set()
    listed: Iterable[str] = [patterns] if isinstance(patterns, str) else patterns
    for pattern in listed:
        hits = {aliases[name] for name in aliases if fnmatchcase(name, pattern)}
        if not hits:
            raise unknown_name(f"parameter in {option}=", pattern, aliases)
        found |= hits
    return found
