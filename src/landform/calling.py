"""Calling a model without leaving a trace: modes, random state, parameters by name, heads of the output."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.parameter import is_lazy

from landform.data.hashing import hash_tensors
from landform.errors import ArchitectureError, InputError, unknown_name
from landform.randomness import random_as_found

Model = nn.Module | Callable[[Tensor], Any]
"""What a user may call a model: a module, or any function from a batch of inputs to outputs."""


_WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
"""What `torch.compile`, FSDP and activation checkpointing put into the names of parameters, at any depth."""


def unwrap(model: Model) -> Model:
    """Take off the wrapper of `torch.compile`, DataParallel or DistributedDataParallel.

    Args:
        model: A model.

    Returns:
        The module inside, which shares its parameters; anything else as it is.

    Example:
        >>> inner = nn.Linear(2, 2)
        >>> unwrap(torch.compile(inner, backend="eager")) is inner
        True
    """
    while isinstance(model, nn.Module):
        inner = getattr(model, "_orig_mod", None)
        if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            inner = model.module
        if not isinstance(inner, nn.Module):
            break
        model = inner
    return model


def plain_name(name: str) -> str:
    """Take out of a parameter's name what wrappers put into it.

    Args:
        name: A name, as in a state dict.

    Returns:
        The name in the model inside ``torch.compile`` (``_orig_mod.``), FSDP, and DDP (``module.`` in front).

    Example:
        >>> plain_name("module._orig_mod.layers.0.weight")
        'layers.0.weight'
    """
    parts = [part for part in name.split(".") if part not in _WRAPPERS]
    while len(parts) > 1 and parts[0] == "module":
        parts = parts[1:]
    return ".".join(parts)


@contextlib.contextmanager
def as_found(model: Model) -> Iterator[None]:
    """Give evaluation mode and copies of the random states inside; everything as before afterwards.

    The flag is set on each submodule by itself: ``eval()`` may be overridden to do more than can be undone.

    Args:
        model: The model; a function has no modes.

    Yields:
        Nothing.

    Example:
        >>> dropout = nn.Dropout()
        >>> with as_found(dropout):
        ...     dropout.training
        False
        >>> dropout.training
        True
    """
    modules = list(model.modules()) if isinstance(model, nn.Module) else []
    modes = [module.training for module in modules]
    values = (value for value in (model.parameters() if isinstance(model, nn.Module) else ()))
    devices = sorted({value.device.index or 0 for value in values if value.device.type == "cuda"})
    with random_as_found(devices):
        try:
            for module in modules:
                module.training = False
            yield
        finally:
            for module, mode in zip(modules, modes, strict=True):
                module.training = mode


def _need_values(name: str, value: Tensor) -> None:
    if is_lazy(value) or value.is_meta:
        raise ArchitectureError(
            f"{name} has no values (meta device or lazy module); load the weights, or run the model once, first"
        )
    if type(value).__name__ == "DTensor":
        raise ArchitectureError(
            f"{name} is sharded over processes (FSDP), and a surface is measured with whole parameters; gather them "
            "with torch.distributed.checkpoint.state_dict.get_model_state_dict (full_state_dict=True), and load what "
            "it returns into a model that is not sharded"
        )


def state_at(model: Model, parameters: Mapping[str, Tensor] | None, dtype: torch.dtype | None) -> dict[str, Tensor]:
    """Collect what a model shall run with: given values over its own, buffers as copies, each tied tensor once.

    Args:
        model: The model.
        parameters: Values by name, under any name of a tied tensor; may be partial.
        dtype: Convert every floating tensor to this, or None.

    Returns:
        A dict for ``torch.func.functional_call``; empty for a function.

    Raises:
        InputError: A value of another shape, tied names with different values, parameters for a function.
        UnknownNameError: A name that the model does not have, with the nearest.
        ArchitectureError: A parameter without values.
    """
    if not isinstance(model, nn.Module):
        if parameters:
            raise InputError(f"parameters given for the function {model!r}; only a torch.nn.Module has any")
        return {}
    own, alias = own_state(model)
    state = own | given_state(own, alias, parameters or {})
    if dtype is not None:
        state = {name: value.to(dtype) if value.is_floating_point() else value for name, value in state.items()}
    return state


def own_state(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Collect a model's parameters and copies of its buffers, each tied tensor once, and all their names.

    Args:
        model: The model.

    Returns:
        Tensors by their first name, and the first name by every name.

    Raises:
        ArchitectureError: A parameter without values.
    """
    own = dict(model.named_parameters()) | {name: value.detach().clone() for name, value in model.named_buffers()}
    first = {id(value): name for name, value in [*model.named_buffers(), *model.named_parameters()]}
    everything = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    for name, value in own.items():
        _need_values(name, value)
    return own, {name: first[id(value)] for name, value in everything}


def given_state(
    own: Mapping[str, Tensor], alias: Mapping[str, str], parameters: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Bring values by any name to the first name of each tensor, and check them.

    Args:
        own: The model's own, as of `own_state`.
        alias: First names by every name.
        parameters: Values by name.

    Returns:
        Values by first name.

    Raises:
        InputError: A value of another shape, tied names with different values.
        UnknownNameError: A name that the model does not have, with the nearest.
    """
    given: dict[str, Tensor] = {}
    for name, value in parameters.items():
        place = _place(name, alias)
        if value.shape != own[place].shape:
            raise InputError(f"parameter {name} has shape {list(value.shape)}; the model's is {list(own[place].shape)}")
        if place in given and given[place] is not value and not torch.equal(given[place], value):
            raise InputError(f"parameter {name} is tied to {place}, but the two were given different values")
        given[place] = value
    return given


def _place(name: str, alias: Mapping[str, str]) -> str:
    """Find a parameter under its name, or under the one it has without (or inside) a wrapper."""
    if name in alias:
        return alias[name]
    plain = plain_name(name)
    if plain in alias:
        return alias[plain]
    for own, place in alias.items():
        if plain_name(own) == plain:
            return place
    raise unknown_name("parameter", name, alias)


def pick(found: object, output: str | int, who: str) -> object:
    """Take one of the outputs that a model returned.

    Args:
        found: What it returned: a tuple, a list, a named tuple or a mapping.
        output: Its key, name or number; ``2`` and ``"2"`` mean the same.
        who: Whom to name in errors.

    Returns:
        That output.

    Raises:
        UnknownNameError: There is none of this name, with those that there are.
        InputError: It returned a single tensor.

    Example:
        >>> pick({"box": 1, "face": 2}, "face", "model"), pick((3, 4), 1, "model")
        (2, 4)
    """
    if isinstance(found, Mapping):
        parts = {str(key): value for key, value in found.items()}
    elif isinstance(found, tuple | list):
        parts = {str(number): value for number, value in enumerate(found)}
        parts |= dict(zip(getattr(found, "_fields", ()), found, strict=False))
    else:
        raise InputError(
            f"{who} returns a single {type(found).__name__}, and output={output!r} was asked for; leave output= out"
        )
    if str(output) not in parts:
        raise unknown_name("output", str(output), parts)
    return parts[str(output)]


def split_heads(found: object, n: int, who: str, output: str | int | None = None) -> tuple[dict[str, Tensor], bool]:
    """Name the heads of what a model returned, and say whether it was a single one.

    Args:
        found: What it returned.
        n: Samples that went in.
        who: Whom to name in errors.
        output: The one that counts (see `pick`); None for all.

    Returns:
        Tensors by head, ``"output"`` for a single one, and whether it was single.

    Raises:
        InputError: No tensors, or a tensor without one row a sample.
    """
    found = found if output is None else pick(found, output, who)
    logits = getattr(found, "logits", None)
    heads: dict[str, object]
    single = isinstance(found, Tensor) or isinstance(logits, Tensor)
    if single:
        heads = {"output": found if isinstance(found, Tensor) else logits}
    elif isinstance(found, Mapping) and hasattr(found, "to_tuple"):
        # A Hugging Face ModelOutput also carries caches, and the model's own loss where it was given labels.
        heads = {str(k): v for k, v in found.items() if isinstance(v, Tensor) and v.ndim and k != "loss"}
    elif isinstance(found, Mapping):
        heads = {str(name): value for name, value in found.items()}
    elif isinstance(found, tuple | list):
        names = getattr(found, "_fields", range(len(found)))
        heads = {str(name): value for name, value in zip(names, found, strict=True)}
    else:
        raise InputError(f"{who}: got a {type(found).__name__}; wanted a tensor, or a tuple, list or mapping of them")
    if not heads:
        raise InputError(f"{who}: got no heads at all; wanted at least one tensor")
    result: dict[str, Tensor] = {}
    for name, value in heads.items():
        if not isinstance(value, Tensor):
            raise InputError(f"{who}: head {name} is a {type(value).__name__}; wanted a tensor")
        if value.ndim == 0 or len(value) != n:
            raise InputError(
                f"{who}: head {name} has shape {list(value.shape)} for {n} samples; wanted one row a sample"
            )
        result[name] = value
    return result, single


def explain_misfit(
    model: Model, state: Mapping[str, Tensor], batch: Tensor | Mapping[str, Tensor], error: Exception
) -> str:
    """Explain why a model could not take a batch, as far as dtypes and its first layer tell.

    Args:
        model: The model.
        state: What it ran with.
        batch: The batch.
        error: What it raised.

    Returns:
        The message of an error.
    """
    if not isinstance(batch, Tensor):
        shapes = ", ".join(f"{key} {list(value.shape)} ({value.dtype})" for key, value in batch.items())
        return f"model {type(model).__name__} cannot take inputs {shapes}: {error}"
    text = f"model {type(model).__name__} cannot take inputs of shape {list(batch.shape)} ({batch.dtype}): {error}"
    dtypes = {str(value.dtype) for value in state.values() if value.is_floating_point()}
    if len(dtypes) > 1:
        return f"{text}; its parameters have dtypes {', '.join(sorted(dtypes))}: pass dtype= to convert all of them"
    layers = model.modules() if isinstance(model, nn.Module) else iter(())
    known = (layer for layer in layers if isinstance(layer, nn.Linear | nn.Embedding | _ConvNd))
    first = next(known, None)
    if first is None:
        return text
    if isinstance(first, nn.Embedding):
        if batch.is_floating_point():
            text += f"; its first layer is {first}, which wants integer tokens"
        elif int(batch.max()) >= first.num_embeddings:
            text += f"; the largest token is {int(batch.max())}, its table holds {first.num_embeddings}"
    elif not batch.is_floating_point():
        text += "; convert the inputs to floats first (for bytes: divide by 255)"
    elif isinstance(first, nn.Linear):
        size = batch[0].numel()
        if batch.shape[-1] != first.in_features:
            text += f"; its first linear layer wants {first.in_features} features, a sample has {size}"
            if size == first.in_features:
                text += ": put nn.Flatten() in front"
    elif batch.ndim != len(first.kernel_size) + 2 or batch.shape[1] != first.in_channels:
        sizes = ("length",) if len(first.kernel_size) == 1 else ("depth", "rows", "columns")[-len(first.kernel_size) :]
        text += f"; its first convolution wants [n, {', '.join([str(first.in_channels), *sizes])}]"
    return text


def model_hash(model: nn.Module) -> str:
    """Hash a model's state: SHA-256 over names, shapes, dtypes and bytes of parameters and persistent buffers.

    The order of registration, the device and the class do not enter.

    Args:
        model: The model.

    Returns:
        64 hexadecimal digits.

    Raises:
        ArchitectureError: No module, or parameters without values.

    Example:
        >>> a, b = nn.Linear(2, 2), nn.Linear(2, 2)
        >>> model_hash(a) == model_hash(b)
        False
        >>> _ = b.load_state_dict(a.state_dict())
        >>> model_hash(a) == model_hash(b)
        True
    """
    if not isinstance(model, nn.Module):
        raise ArchitectureError(f"model is {model!r}; wanted a torch.nn.Module, a function has no weights to hash")
    state = sorted((name, value) for name, value in model.state_dict().items() if isinstance(value, Tensor))
    for name, value in state:
        _need_values(name, value)
    return hash_tensors(state)
