"""Patterns from ``.npy`` files, checked before they are loaded."""

from os import PathLike
from pathlib import Path
from tokenize import TokenError
from typing import BinaryIO

import numpy as np
from numpy.lib import format as npy_format

from landform.errors import InputError
from landform.pattern.array import check_dtype, check_shape, wrap
from landform.pattern.files import describe, require_file
from landform.pattern.pattern import Pattern
from landform.pattern.resolution import MAX_CHANNELS

# what NumPy's reader of headers raises on bytes that are none: it tokenises and parses them as a literal
_DAMAGE = (ValueError, KeyError, EOFError, TypeError, SyntaxError, TokenError, RecursionError, MemoryError)


def read(path: str | PathLike[str], *, channels: bool, normalise: bool | None) -> Pattern:
    """Do the work of `Pattern.from_npy`.

    Example:
        >>> file = getfixture("tmp_path") / "ramp.npy"
        >>> np.save(file, np.linspace(0, 1, 3))
        >>> read(file, channels=False, normalise=None).source["file"]
        'ramp.npy'
    """
    file = require_file(path)
    try:
        with file.open("rb") as stream:
            _check_header(stream, file, channels=channels)
            stream.seek(0)
            array = np.load(stream, allow_pickle=False)
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error}") from error
    pattern = wrap(array, channels=channels, normalise=normalise, name=file.name)
    source = {**pattern.source, "kind": "npy", "file": file.name}
    return Pattern(pattern.values, name=pattern.name, channels=pattern.channels, source=source)


def _check_header(stream: BinaryIO, file: Path, *, channels: bool) -> None:
    """Refuse, from the header alone, what could not become a pattern."""
    try:
        version = npy_format.read_magic(stream)
        reader = {(1, 0): npy_format.read_array_header_1_0, (2, 0): npy_format.read_array_header_2_0}[version]
        shape, _, dtype = reader(stream)
    except _DAMAGE as error:
        raise InputError(f"{file} is no .npy file of real numbers: found {describe(file)}") from error
    if dtype.hasobject:
        raise InputError(f"{file} holds pickled objects, which are never loaded; save real numbers instead")
    check_dtype(dtype)
    check_shape(shape, channels=channels, what=str(file))
    if channels and shape[-1] > MAX_CHANNELS:
        raise InputError(f"{file} has shape {shape}: at most {MAX_CHANNELS} channels")
    wanted = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    found = file.stat().st_size - stream.tell()
    if found < wanted:
        raise InputError(f"{file} is truncated: its header promises {wanted} bytes of data, found {found}")
