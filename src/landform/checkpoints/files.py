"""Files of weights, opened without reading them: safetensors, ``torch.save``, Lightning, Hugging Face folders."""

import abc
import json
import math
import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from landform.errors import InputError

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_KEYS = ("state_dict", "model_state_dict", "model", "module")
"""Where checkpoints keep the weights, besides at the top."""


class AbstractStored(abc.ABC):
    """Named tensors that are read on demand.

    Attributes:
        step: The step of training that the file itself records, or None.
    """

    step: int | None

    @abc.abstractmethod
    def names(self) -> tuple[str, ...]:
        """Return the names, in the order they are stored."""

    @abc.abstractmethod
    def shape(self, name: str) -> tuple[int, ...]:
        """Return a shape without reading the values."""

    @abc.abstractmethod
    def dtype(self, name: str) -> torch.dtype:
        """Return a dtype without reading the values."""

    @abc.abstractmethod
    def read(self, name: str, rows: slice | None = None) -> Tensor:
        """Read a tensor, or some of its rows."""


def open_weights(path: Path) -> AbstractStored:
    """Open a file of weights, by its content.

    Args:
        path: A safetensors file, what ``torch.save`` wrote (a state dict, or a checkpoint with one under
            ``state_dict``, ``model_state_dict``, ``model`` or ``module``, as Lightning's), or a folder with
            ``model.safetensors``, its sharded form, or ``pytorch_model.bin``, or peft's ``adapter_model.safetensors``.

    Returns:
        The tensors, not yet read.

    Raises:
        InputError: Nothing there, damaged, not weights, or holding more than weights (which only unpickling could
            read).
    """
    if path.is_dir():
        return _open_folder(path)
    try:
        with path.open("rb") as stream:
            head = stream.read(9)
    except OSError as error:
        raise InputError(f"checkpoint {path} cannot be read: {error.strerror or error}") from error
    if len(head) == 9 and head[8:] == b"{" and int.from_bytes(head[:8], "little") < path.stat().st_size:
        return _Safetensors([path])
    return _Torch(path)


def _open_folder(path: Path) -> AbstractStored:
    single, index, old, adapter, older = (
        path / name
        for name in (
            *("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"),
            *("adapter_model.safetensors", "adapter_model.bin"),
        )
    )
    if single.is_file():
        return _Safetensors([single])
    if index.is_file():
        shards = dict.fromkeys(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        return _Safetensors([path / shard for shard in shards])
    if old.is_file():
        return _Torch(old)
    if adapter.is_file():
        return _Safetensors([adapter])
    if older.is_file():
        return _Torch(older)
    raise InputError(
        f"folder {path} has neither {single.name}, {index.name}, {old.name} nor {adapter.name}; pass a file of weights"
    )


class _Safetensors(AbstractStored):
    def __init__(self, files: list[Path]) -> None:
        from safetensors import SafetensorError, safe_open

        self._slices: dict[str, Any] = {}
        self._open = []  # slices read from these
        self.step = None
        for file in files:
            try:
                stream: Any = safe_open(file, framework="pt")
                self._open.append(stream)
                self._slices |= {name: stream.get_slice(name) for name in stream.keys()}  # noqa: SIM118  it is no dict
                said = (stream.metadata() or {}).get("step", "")
            except (SafetensorError, OSError) as error:
                raise InputError(f"checkpoint {file} is damaged: wanted safetensors, got {error}") from error
            if said.lstrip("-").isdigit():
                self.step = int(said)

    def names(self) -> tuple[str, ...]:
        return tuple(self._slices)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._slices[name].get_shape())

    def dtype(self, name: str) -> torch.dtype:
        kind = self._slices[name].get_dtype()
        return _DTYPES.get(kind, torch.uint8)  # eight-bit floats and the like are no parameters that can be moved

    def read(self, name: str, rows: slice | None = None) -> Tensor:
        part = self._slices[name]
        if not part.get_shape():  # a scalar has no rows
            return torch.as_tensor(part[...]) if rows is None or rows.stop else torch.empty(0)
        size = part.get_shape()[0]
        start, stop, _ = slice(None).indices(size) if rows is None else rows.indices(size)
        if start >= stop:
            return torch.empty((0, *part.get_shape()[1:]), dtype=self.dtype(name))
        return torch.as_tensor(part[start:stop])


class _Torch(AbstractStored):
    def __init__(self, file: Path) -> None:
        found = _load(file)
        step = found.get("global_step") if isinstance(found, Mapping) else None
        self.step = step if isinstance(step, int) else None
        for key in _KEYS:
            if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
                found = found[key]
                break
        if not isinstance(found, Mapping) or not any(isinstance(value, Tensor) for value in found.values()):
            kind = (
                f"keys {', '.join(map(str, list(found)[:5]))}" if isinstance(found, Mapping) else type(found).__name__
            )
            raise InputError(
                f"checkpoint {file} holds {kind}; wanted a state dict, at the top or under {', '.join(_KEYS)}"
            )
        self._tensors = {str(name): value for name, value in found.items() if isinstance(value, Tensor)}

    def names(self) -> tuple[str, ...]:
        return tuple(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._tensors[name].shape)

    def dtype(self, name: str) -> torch.dtype:
        return self._tensors[name].dtype

    def read(self, name: str, rows: slice | None = None) -> Tensor:
        value = self._tensors[name].detach()
        return value if rows is None or not value.ndim else value[rows]


def _load(file: Path) -> Any:
    """Map a file that ``torch.save`` wrote into memory; its pages are read when they are used."""
    damaged = (RuntimeError, EOFError, ValueError, OSError, KeyError, IndexError, AttributeError)
    try:
        return torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise _unsafe(file, error) from error
    except damaged:  # the old format cannot be mapped
        try:
            return torch.load(file, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            raise _unsafe(file, error) from error
        except damaged as error:
            raise InputError(f"checkpoint {file} is damaged, or no file of weights: {error}") from error


def _unsafe(file: Path, error: Exception) -> InputError:
    first = str(error).splitlines()[0] if str(error) else type(error).__name__
    return InputError(
        f"checkpoint {file} cannot be read as weights alone ({first}); landform runs no code from files: save"
        " model.state_dict() instead"
    )


def write_weights(file: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file so that, whenever the process dies, it is there in full or not at all.

    Args:
        file: Where; a file of that name is replaced.
        tensors: What; copies are made where memory is shared or strided, as the format has neither.
        metadata: Words to keep with them.

    Raises:
        OSError: The disk is full or read-only.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    beside = file.with_name(f".{file.name}.{os.getpid()}")
    alone = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    seen: set[int] = set()
    for name, value in alone.items():
        if value.untyped_storage().data_ptr() in seen or value.untyped_storage().nbytes() != value.nbytes:
            alone[name] = value.clone()
        seen.add(alone[name].untyped_storage().data_ptr())
    try:
        save_file(alone, beside, metadata=dict(metadata or {}))
        beside.replace(file)
    except SafetensorError as error:
        raise OSError(str(error)) from error
    finally:
        beside.unlink(missing_ok=True)


def rows_of(shape: tuple[int, ...], numbers: int) -> list[slice | None]:
    """Cut a tensor into slices of rows that hold about so many numbers each; None for the whole.

    Args:
        shape: Its shape.
        numbers: How many numbers a slice may hold; at least one row.

    Returns:
        The slices.

    Example:
        >>> rows_of((5, 10), 25)
        [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    if not shape or math.prod(shape) <= numbers:
        return [None]
    step = max(1, numbers // max(1, math.prod(shape[1:])))
    return [slice(start, min(start + step, shape[0])) for start in range(0, shape[0], step)]
