"""`checkpoint`: the parameters of one point, read tensor by tensor from a file, a model or a state dict."""

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from landform.calling import own_state, plain_name, unwrap
from landform.checkpoints.adapters import Overlay, adapter_places
from landform.checkpoints.files import AbstractStored, open_weights
from landform.errors import ArchitectureError, InputError

Point = nn.Module | Mapping[str, Tensor] | str | PathLike[str]
"""A point in parameter space: a model, its ``state_dict()``, or a file that holds one."""

_BUFFERS = ("running_mean", "running_var", "num_batches_tracked")


class Checkpoint:
    """The parameters of one point by name, read when they are asked for.

    Args:
        source: Where tensors come from.
        names: The source's name of each parameter.
        label: What to call it in errors.
        step: The step of training it was taken at, or None.
    """

    def __init__(self, source: AbstractStored, names: Mapping[str, str], label: str, step: int | None) -> None:
        self._source = source
        self._names = dict(names)
        self.label = label
        self.step = step

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the parameters, in the order they are stored."""
        return tuple(self._names)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of one parameter."""
        return self._source.shape(self._names[name])

    def dtype(self, name: str) -> torch.dtype:
        """Return the dtype of one parameter."""
        return self._source.dtype(self._names[name])

    def read(self, name: str, rows: slice | None = None) -> Tensor:
        """Read one parameter, or some rows of it (along its first dimension).

        Args:
            name: The parameter.
            rows: Which rows; None for all.

        Returns:
            The values; not necessarily a copy, so do not write into them.

        Raises:
            InputError: Values that are not finite.
        """
        value = self._source.read(self._names[name], rows).detach()
        if value.numel() and not bool(torch.isfinite(torch.stack(torch.aminmax(value))).all()):
            raise InputError(
                f"{self.label} has values in '{name}' that are not finite; is it a checkpoint that diverged?"
            )
        return value

    def state(self) -> dict[str, Tensor]:
        """Read all parameters."""
        return {name: self.read(name).clone() for name in self.names}

    def __repr__(self) -> str:
        """Say what it is in one line."""
        step = "" if self.step is None else f", step {self.step}"
        return f"Checkpoint({self.label}{step}, {len(self._names)} parameters)"


def checkpoint(
    point: Point, *, model: nn.Module | None = None, label: str | None = None, step: int | None = None
) -> Checkpoint:
    """Open one point.

    What wrappers put into names (``module.``, ``_orig_mod.``, …) is taken out. Buffers are left out: those of
    ``model`` or of the point, if it is a model; by name (``running_mean``, …) and dtype (whole numbers) otherwise.

    Args:
        point: A model, a state dict, or a file: safetensors, what ``torch.save`` wrote, a Lightning checkpoint, or a
            folder of a Hugging Face model. Files are read with ``weights_only=True``, never by unpickling code.
        model: The model that the point shall fit: only its parameters are taken, under its names; a prefix that all
            names have in the file (as ``model.`` in Lightning checkpoints) is taken off. Of a file that holds a peft
            adapter alone, the other parameters are the model's own.
        label: What to call the point in errors; the file's name by default.
        step: The step of training; by default what a Lightning checkpoint says.

    Returns:
        The point; nothing but the header has been read from a file.

    Raises:
        InputError: A file that cannot be read, something else under a name than a tensor, no floating-point
            parameters, or names or shapes that do not fit the model (the first is named).
        ArchitectureError: Parameters without values (meta device, lazy modules).

    Example:
        >>> checkpoint(nn.Linear(3, 2)).names
        ('weight', 'bias')
    """
    source: AbstractStored
    buffers: set[str] = set()
    if isinstance(point, nn.Module):
        inner = unwrap(point)
        assert isinstance(inner, nn.Module)
        own_state(inner)  # refuses parameters without values
        buffers = {name for name, _ in inner.named_buffers(remove_duplicate=False)}
        source = _InMemory(dict(inner.named_parameters()))
        label = label or type(inner).__name__
    elif isinstance(point, Mapping):
        label = label or "the state dict"
        for name, value in point.items():
            if not isinstance(value, Tensor):
                raise InputError(
                    f"{label} has a {type(value).__name__} under '{name}'; wanted a mapping of names to tensors, such"
                    " as model.state_dict(); checkpoints often hold one under a key of its own"
                )
        source = _InMemory(point)
    elif isinstance(point, str | PathLike):
        source = open_weights(Path(point))
        label = label or Path(point).name
        step = source.step if step is None else step
    else:
        raise InputError(
            f"{label or 'the point'} is a {type(point).__name__}; wanted a torch.nn.Module, a state dict or a file"
        )
    names = {
        plain_name(name): name
        for name in source.names()
        if name not in buffers and name.rpartition(".")[2] not in _BUFFERS and source.dtype(name).is_floating_point
    }
    if model is not None:
        inner = unwrap(model)
        assert isinstance(inner, nn.Module)
        places = adapter_places(inner, names)
        if places:
            source = Overlay(source, {name: names[place] for name, place in places.items()}, inner)
            names = {name: name for name in source.names()}
        names = _fitted(model, names, source, label)
    if not names:
        raise InputError(f"{label} has no floating-point parameters")
    for name, own in names.items():
        if source.read(own, slice(0, 0)).is_meta:
            raise ArchitectureError(f"{label} has no values in '{name}' (meta device); load the weights first")
    return Checkpoint(source, names, label, step)


class _InMemory(AbstractStored):
    """Tensors that are there already; of names that share memory, the first."""

    def __init__(self, tensors: Mapping[str, Any]) -> None:
        seen: dict[object, str] = {}
        self._tensors: dict[str, Tensor] = {}
        for name, value in tensors.items():
            memory = (value.device, value.data_ptr(), value.shape, value.stride()) if value.numel() else name
            if seen.setdefault(memory if not value.is_meta else name, name) == name:
                self._tensors[name] = value
        self.step = None

    def names(self) -> tuple[str, ...]:
        return tuple(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._tensors[name].shape)

    def dtype(self, name: str) -> torch.dtype:
        return self._tensors[name].dtype

    def read(self, name: str, rows: slice | None = None) -> Tensor:
        value = self._tensors[name].detach()
        return value if rows is None or not value.ndim else value[rows]


def _fitted(model: nn.Module, names: Mapping[str, str], source: AbstractStored, label: str) -> dict[str, str]:
    """Return the source's name of each parameter of a model."""
    wanted = {name: tuple(value.shape) for name, value in unwrap(model).named_parameters()}  # type: ignore[union-attr]
    first = next(iter(wanted), "")
    prefixes = [name.removesuffix(first) for name in names if name == first or name.endswith(f".{first}")]
    best = max(prefixes, key=lambda prefix: sum(prefix + name in names for name in wanted), default="")
    found = {}
    for name, shape in wanted.items():
        if best + name not in names:
            lora = next((stored for stored in names if "lora_" in stored), None)
            if lora is not None and not any(".base_layer." in stored for stored in names):
                raise InputError(
                    f"{label} holds an adapter alone ('{lora}', …); pass model= the model that carries it, as "
                    "peft.get_peft_model or PeftModel.from_pretrained returns it"
                )
            raise InputError(f"{label} has no '{name}', which {type(model).__name__} has; is it of another model?")
        stored = source.shape(names[best + name])
        if stored != shape:
            raise InputError(
                f"'{name}' has shape {list(stored)} in {label}, {list(shape)} in {type(model).__name__}; is it of"
                " another model?"
            )
        found[name] = names[best + name]
    return found
