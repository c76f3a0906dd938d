"""Tensors and arrays of a bundle: written in standard formats, and checked by their headers before they are read."""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from tokenize import TokenError

import numpy as np
import torch
from torch import Tensor

from landform.bundle.architecture import listing, misfits
from landform.bundle.layout import CONTENT, require_file
from landform.errors import BundleError, InputError

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
# what NumPy's reader of headers raises on bytes that are none: it tokenises and parses them as a literal
_DAMAGE = (ValueError, KeyError, EOFError, TypeError, SyntaxError, TokenError, RecursionError, MemoryError)

Spec = Mapping[str, tuple[tuple[int, ...], torch.dtype]]


def write_tensors(file: Path, tensors: Mapping[str, Tensor], buffers: list[str]) -> None:
    """Write a safetensors file; the names of those that are buffers go into its metadata, as a JSON list.

    Raises:
        InputError: If a value is NaN or infinite, or a tensor is not on the CPU.
        OSError: If the disk is full or the folder read-only.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    kept: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        if tensor.device.type != "cpu":
            raise InputError(f"'{name}' is on {tensor.device}; a bundle holds CPU tensors: call model.cpu() first")
        if not _finite(tensor):
            raise InputError(
                f"'{name}' has values that are NaN or infinite, which no certificate covers; nothing was saved"
            )
        alone = _alone(tensor)
        seen.add(alone.data_ptr())
        kept[name] = alone.clone() if len(seen) == len(kept) else alone  # tied to one before it
    try:
        # one key only: the library writes several in random order, and equal imprints are to give equal bytes
        save_file(kept, file, metadata={"buffers": json.dumps(buffers)})
    except SafetensorError as error:
        raise OSError(str(error)) from error
    mask = os.umask(0)
    os.umask(mask)
    file.chmod(0o666 & ~mask)  # the library makes it readable by its owner alone


def _alone(tensor: Tensor) -> Tensor:
    """Return the tensor contiguous and in memory of its own, as the format wants it; a copy only where it must."""
    plain = tensor.detach().contiguous()
    whole = plain.untyped_storage().nbytes() == plain.numel() * plain.element_size()
    return plain if whole else plain.clone()


def _finite(tensor: Tensor) -> bool:
    return not (tensor.is_floating_point() or tensor.is_complex()) or bool(torch.isfinite(tensor).all())


def read_tensors(folder: Path, name: str, wanted: Spec | None) -> dict[str, Tensor]:
    """Read a safetensors file, after its header has been compared with what is wanted.

    Args:
        folder: The bundle.
        name: The file.
        wanted: Shape and dtype of every tensor; None takes what is there.

    Returns:
        The tensors, in memory of their own (not mapped to the file).

    Raises:
        BundleError: If the file is missing, damaged, holds other tensors, or values that are not finite.
    """
    from safetensors import SafetensorError, safe_open

    file = require_file(folder, name)
    try:
        with safe_open(file, framework="pt") as stream:  # checks sizes and offsets, reads no data
            slices = {key: stream.get_slice(key) for key in stream.keys()}  # noqa: SIM118  it is no dict
            shapes = {key: tuple(part.get_shape()) for key, part in slices.items()}
            kinds = {key: part.get_dtype() for key, part in slices.items()}
            if wanted is not None:
                _compare(file, shapes, kinds, wanted)
            odd = [key for key, kind in kinds.items() if kind not in _DTYPES]
            if odd:
                raise BundleError(f"{file}: '{odd[0]}' has dtype {kinds[odd[0]]}; wanted one of {', '.join(_DTYPES)}")
            found = {key: stream.get_tensor(key).clone() for key in (wanted or shapes)}
    except SafetensorError as error:
        raise BundleError(f"{file} is corrupted: wanted safetensors ({CONTENT[name]}), got {error}") from error
    except (OSError, ValueError, RuntimeError, OverflowError) as error:
        if isinstance(error, BundleError):
            raise
        raise BundleError(f"{file} cannot be read: {error}") from error
    for key, tensor in found.items():
        if not _finite(tensor):
            raise BundleError(f"{file} is corrupted: '{key}' has values that are NaN or infinite")
    return found


def _compare(file: Path, shapes: Mapping[str, tuple[int, ...]], kinds: Mapping[str, str], wanted: Spec) -> None:
    lines = misfits(shapes, {key: shape for key, (shape, _) in wanted.items()})
    if not lines:
        lines = [
            f"'{key}' has dtype {kinds[key]}, wanted {dtype}"
            for key, (_, dtype) in wanted.items()
            if _DTYPES.get(kinds[key]) != dtype
        ]
    if lines:
        raise BundleError(f"{file} does not fit imprint.json: {listing(lines)}")


def dtype_of(name: str, where: str) -> torch.dtype:
    """Return the torch dtype of a name such as ``"float32"``.

    Raises:
        BundleError: If there is none of that name.
    """
    known = {str(dtype).removeprefix("torch."): dtype for dtype in _DTYPES.values()}
    if name not in known:
        raise BundleError(f"{where} is corrupted: unknown dtype {name!r}; wanted one of {', '.join(known)}")
    return known[name]


def write_array(file: Path, array: np.ndarray) -> None:
    """Write a float64 array as ``.npy``, little-endian, in C order."""
    with file.open("wb") as stream:
        np.save(stream, np.ascontiguousarray(array, dtype="<f8"), allow_pickle=False)


def read_array(folder: Path, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Read a float64 ``.npy`` of a known shape, header first, never a pickle.

    Args:
        folder: The bundle.
        name: The file.
        shape: What ``imprint.json`` promises.

    Returns:
        The array, finite.

    Raises:
        BundleError: If the file is missing, damaged, of another dtype, shape or length, or not finite.
    """
    from numpy.lib import format as npy

    file = require_file(folder, name)
    try:
        with file.open("rb") as stream:
            version = npy.read_magic(stream)
            reader = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}[version]
            got, _, dtype = reader(stream)
            if dtype != np.float64 or tuple(got) != shape:
                raise BundleError(
                    f"{file} holds {dtype} of shape {tuple(got)}; imprint.json promises float64 of {shape}"
                )
            wanted, there = math.prod(shape) * 8, file.stat().st_size - stream.tell()
            if there != wanted:
                raise BundleError(f"{file} is corrupted: its header promises {wanted} bytes of data, found {there}")
            stream.seek(0)
            array = np.load(stream, allow_pickle=False)
    except BundleError:
        raise
    except _DAMAGE as error:
        raise BundleError(f"{file} is corrupted: wanted a .npy array ({CONTENT[name]}), got {error}") from error
    except OSError as error:
        raise BundleError(f"{file} cannot be read: {error}") from error
    if not np.isfinite(array).all():
        raise BundleError(f"{file} is corrupted: it has values that are NaN or infinite")
    return np.ascontiguousarray(array, dtype=np.float64)
