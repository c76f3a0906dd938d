"""`load_weights`: put what a file holds into a model, whatever wrapped the model that wrote it."""

from collections.abc import Callable, Mapping
from os import PathLike
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from landform.calling import plain_name, unwrap
from landform.checkpoints.adapters import adapter_places
from landform.checkpoints.files import open_weights
from landform.errors import ArchitectureError, InputError

Model = TypeVar("Model", bound=nn.Module)
Source = str | PathLike[str] | Mapping[str, Tensor]
SHOWN = 3
"""Names that an error lists."""


def load_weights(
    model: Model, source: str | PathLike[str] | Mapping[str, Tensor], *, prefix: str | None = None
) -> Model:
    """Load weights into a model, in place.

    What wrappers put into names is taken out (``module.`` of DDP, ``_orig_mod.`` of ``torch.compile``,
    ``_fsdp_wrapped_module.`` of FSDP), and so is a prefix before all of the model's names, such as ``model.`` in
    Lightning checkpoints; other entries of such a checkpoint (a loss with weights, a second network) are passed over.
    Values are converted to the model's dtypes. Files are read with ``weights_only=True``: no code in them is run.

    Args:
        model: The model; it is changed only if everything fits.
        source: A file (safetensors, ``torch.save``, a Lightning ``.ckpt``), a folder of a Hugging Face model, or a
            state dict. What holds a peft adapter alone sets that of the model, and leaves the rest.
        prefix: What stands before the model's names in the file, e.g. ``"encoder."``; None finds out.

    Returns:
        The same model.

    Raises:
        InputError: A file that cannot be read as weights alone, or something else than tensors.
        ArchitectureError: Names that are missing, names too many, or shapes that differ; they are listed.

    Example:
        >>> lightning = {"model.weight": torch.ones(1, 2), "model.bias": torch.zeros(1), "metric.total": torch.zeros(1)}
        >>> load_weights(nn.Linear(2, 1), lightning).weight
        Parameter containing:
        tensor([[1., 1.]], requires_grad=True)
    """
    names, read = _opened(source)
    label = "the state dict" if isinstance(source, Mapping) else Path(source).name
    inner = unwrap(model)
    assert isinstance(inner, nn.Module)
    own = {plain_name(name): value for name, value in inner.state_dict(keep_vars=True).items()}
    wanted = {name: value for name, value in own.items() if isinstance(value, Tensor)}
    there = {plain_name(name): name for name in names}
    adapter = adapter_places(inner, there) if prefix is None else {}
    if adapter:
        wanted = {name: wanted[name] for name in adapter}
        there = {name: there[place] for name, place in adapter.items()}
    start = _prefix(wanted, there) if prefix is None else prefix
    found = {name: there[start + name] for name in wanted if start + name in there}
    _check_names(inner, wanted, found, there, start, label)
    values = {name: read(place) for name, place in found.items()}
    for name, value in values.items():
        if value.shape != wanted[name].shape:
            raise ArchitectureError(
                f"'{name}' has shape {list(value.shape)} in {label}, {list(wanted[name].shape)} in "
                f"{type(inner).__name__}; is it of another model?"
            )
    with torch.no_grad():
        for name, value in values.items():
            wanted[name].copy_(value)
    return model


def _opened(source: Source) -> tuple[tuple[str, ...], Callable[[str], Tensor]]:
    if isinstance(source, Mapping):
        for name, value in source.items():
            if not isinstance(value, Tensor):
                raise InputError(
                    f"the state dict has a {type(value).__name__} under {name!r}; wanted names to tensors, such as "
                    "model.state_dict(); checkpoints often hold one under a key of its own"
                )
        return tuple(source), source.__getitem__
    stored = open_weights(Path(source))
    return stored.names(), stored.read


def _prefix(wanted: Mapping[str, Tensor], there: Mapping[str, str]) -> str:
    """Find what stands before most of the model's names; nothing, if that is as good."""
    first = next(iter(wanted), "")
    prefixes = {"": None} | {name.removesuffix(first): None for name in there if name.endswith(f".{first}")}
    return max(prefixes, key=lambda prefix: sum(prefix + name in there for name in wanted))


def _check_names(
    model: nn.Module,
    wanted: Mapping[str, Tensor],
    found: Mapping[str, str],
    there: Mapping[str, str],
    prefix: str,
    label: str,
) -> None:
    """Refuse missing names (but for those of tied tensors) and, where no prefix sets them apart, names too many."""
    held = {wanted[name].data_ptr() for name in found if wanted[name].numel()}
    missing = [name for name, value in wanted.items() if name not in found and value.data_ptr() not in held]
    used = {prefix + name for name in found}
    beyond = [name for name in there if name not in used and name.startswith(prefix)]
    kind = type(model).__name__
    problems = [f"no {_listed(missing)}, which {kind} has"] if missing else []
    problems += [f"{_listed(beyond)}, which {kind} has not"] if beyond else []
    if problems:
        hint = f" (names looked for after '{prefix}')" if prefix else ""
        raise ArchitectureError(
            f"{label} holds {' but '.join(problems)}{hint}; is it of another model? Or pass prefix="
        )


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(f"'{name}'" for name in names[:SHOWN]) + more
