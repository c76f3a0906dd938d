"""Which files a bundle has, what they hold, and how large the small ones may be."""

import hashlib
import json
import math
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from landform.errors import BundleError, InputError

FORMAT = "landform-bundle"
FORMAT_VERSION = 1
"""Version of the folder format; it changes when an older landform could no longer read what is written."""

DOCUMENT = "imprint.json"
ORIGIN = "origin.safetensors"
DIRECTIONS = "directions.safetensors"
PATTERN = "pattern.npy"
TARGETS = "targets.npy"
CERTIFICATE = "certificate.json"
SURFACE = "surface.zarr"
PICTURE = "surface.png"

CONTENT = {
    DOCUMENT: "architecture, loss, range, versions and hashes",
    ORIGIN: "parameters and buffers",
    DIRECTIONS: "the tensors that move",
    PATTERN: "nodal values",
    TARGETS: "label statistics",
    CERTIFICATE: "what is proved",
}
"""The files that every bundle has."""

_NUMBERS = re.compile(r"\[\n[^\[\]{}\"]*\]")

MAX_JSON = 1 << 24  # 16 MiB of JSON describe far more layers than anyone stacks


def require_file(folder: Path, name: str) -> Path:
    """Return the path of one of a bundle's files.

    Raises:
        BundleError: If it is missing, or is no regular file (a folder, a pipe).
    """
    file = folder / name
    try:
        mode = file.stat().st_mode
    except FileNotFoundError as error:
        raise BundleError(
            f"bundle {folder} lacks {name} ({CONTENT[name]}); a bundle has {', '.join(CONTENT)}: restore the file or"
            " make the bundle again"
        ) from error
    except OSError as error:
        raise BundleError(f"{file} cannot be read: {error.strerror or error}") from error
    if not stat.S_ISREG(mode):
        raise BundleError(f"{file} is no regular file; wanted {CONTENT[name]}")
    return file


def read_json(folder: Path, name: str) -> Any:
    """Read one of a bundle's JSON files, strictly: no NaN, no Infinity, at most `MAX_JSON` bytes.

    Raises:
        BundleError: If it is missing, too large, or no JSON.
    """
    file = require_file(folder, name)
    size = file.stat().st_size
    if size > MAX_JSON:
        raise BundleError(f"{file} has {size:,} bytes, more than the limit of {MAX_JSON:,}; it is not landform's")
    try:
        return json.loads(file.read_bytes().decode("utf-8"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{file} is corrupted: wanted JSON ({CONTENT[name]}), got {error}") from error
    except OSError as error:
        raise BundleError(f"{file} cannot be read: {error.strerror or error}") from error


def _refuse_constant(name: str) -> None:
    raise ValueError(f"the constant {name}, which is not JSON")


def write_json(file: Path, value: Any) -> None:
    """Write JSON in UTF-8, indented, keys in the order given, lists of numbers on one line."""
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False)
    text = _NUMBERS.sub(lambda found: " ".join(found[0].split()).replace("[ ", "[").replace(" ]", "]"), text)
    file.write_text(text + "\n", encoding="utf-8")


def plain(value: Any, where: str = "value") -> Any:
    """Turn a value into JSON types; NaN and ±inf, which JSON lacks, become the strings "nan", "inf", "-inf".

    Args:
        value: Numbers, strings, None, arrays, tensors, paths, and mappings, lists and tuples of them.
        where: What to call it in the error.

    Returns:
        The same in JSON types.

    Raises:
        InputError: If something is of another type: files hold data, never code.

    Example:
        >>> plain({"a": (1, np.float64(0.5)), "b": float("inf")})
        {'a': [1, 0.5], 'b': 'inf'}
    """
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, np.generic):
        return plain(value.item(), where)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(float(value))
    if isinstance(value, Mapping):
        return {str(key): plain(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, (Tensor, np.ndarray)):
        return plain(value.tolist(), where)
    if isinstance(value, (list, tuple)):
        return [plain(item, f"{where}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, Path):
        return value.as_posix()
    raise InputError(
        f"{where} is a {type(value).__name__}, which JSON cannot hold; use numbers, strings, lists or mappings"
    )


def digest(path: Path) -> str:
    """Return the SHA-256 of a file, or of a folder: of the lines ``<SHA-256>  <path>``, sorted by path.

    Example:
        >>> file = getfixture("tmp_path") / "a"
        >>> _ = file.write_bytes(b"abc")
        >>> digest(file)[:8]
        'ba7816bf'
    """
    if not path.is_dir():
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    names = sorted(p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file())
    lines = "".join(f"{digest(path / name)}  {name}\n" for name in names)
    return hashlib.sha256(lines.encode()).hexdigest()
