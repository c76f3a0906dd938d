"""Data sets larger than memory: rows are written to files as they come, and read from there as tensors."""

import contextlib
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, Self

import torch
from torch import Tensor

from landform.errors import DataError

FLUSH = 1 << 22
"""Bytes of rows that are collected before they are written: samples may come one by one."""


_descriptors: dict[int, int] = {}
"""Open files without a name, by the address that they are mapped to, for as long as tensors read them."""

Place = tuple[str, torch.dtype, int, tuple[int, ...], tuple[int, ...], int]
"""Path, dtype, numbers of the file, and shape, strides and offset of a tensor in it."""


def place_of(value: Tensor) -> Place | None:
    """Say where another process of this machine finds a tensor's numbers, if they are in a file (Linux).

    Args:
        value: Any tensor.

    Returns:
        What `map_place` takes there, for as long as this process holds the data; None for tensors in memory.

    Example:
        >>> place_of(torch.ones(3)) is None
        True
    """
    storage = value.untyped_storage()
    descriptor = _descriptors.get(storage.data_ptr()) if value.device.type == "cpu" else None
    if descriptor is None:
        return None
    path = f"/proc/{os.getpid()}/fd/{descriptor}"
    shape = tuple(value.shape), value.stride(), int(value.storage_offset())
    return path, value.dtype, storage.nbytes() // value.element_size(), *shape


def map_place(path: str, dtype: torch.dtype, size: int, shape: tuple[int, ...], *strides: object) -> Tensor:
    """Map what `place_of` named, in another process of the machine."""
    return torch.from_file(path, shared=False, size=size, dtype=dtype).as_strided(shape, *strides)  # type: ignore[arg-type]


def _keep_open(flat: Tensor, path: str) -> None:
    if Path("/proc/self/fd").exists():
        storage = flat.untyped_storage()  # lives as long as any tensor that reads from it
        _descriptors[storage.data_ptr()] = os.open(path, os.O_RDONLY)
        weakref.finalize(storage, _close, storage.data_ptr())


def _close(address: int) -> None:
    os.close(_descriptors.pop(address))


class Spill:
    """Tensors that grow row by row in files, and end as tensors that the system reads from them page by page.

    The files have no names once they are mapped: the room is given back when the tensors are let go of, or the process
    ends in whatever way; until then processes of this machine can map them too (`place_of`). Pages in memory are the
    system's cache, which it takes back when it needs to.

    Args:
        folder: Where there is room; None for the system's folder for temporary files.
        name: What the data are called in errors.

    Example:
        >>> with Spill(None, "rows") as spill:
        ...     spill.add({"x": torch.tensor([[1.0, 2.0]])})
        ...     spill.add({"x": torch.tensor([[3.0, 4.0], [5.0, 6.0]])})
        ...     found = spill.tensors()
        >>> found["x"].tolist()
        [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]
    """

    def __init__(self, folder: str | Path | None, name: str) -> None:
        self._name = name
        self._where = str(folder or tempfile.gettempdir())
        self._files: dict[str, BinaryIO] = {}
        self._kinds: dict[str, tuple[torch.dtype, torch.Size]] = {}
        self._pending: dict[str, list[Tensor]] = {}
        self._bytes = 0
        self._rows = 0
        with self._said():
            self._folder = Path(tempfile.mkdtemp(prefix="landform-", dir=folder))

    def __enter__(self) -> Self:
        """Return itself; whatever happens, no file is left."""
        return self

    def __exit__(self, *_: object) -> None:
        """Remove the files, which lose their names; mapped tensors keep what they hold."""
        for file in self._files.values():
            with contextlib.suppress(OSError):  # of a disk that was full
                file.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def add(self, rows: Mapping[str, Tensor]) -> None:
        """Add rows, in the shapes and dtypes of those before.

        Args:
            rows: Tensors by name, one row a sample.

        Raises:
            DataError: No room left.
        """
        for role, value in rows.items():
            own = value.detach().cpu()
            self._kinds.setdefault(role, (own.dtype, own.shape[1:]))
            self._pending.setdefault(role, []).append(own)
            self._bytes += own.nbytes
        self._rows += len(next(iter(rows.values())))
        if self._bytes >= FLUSH:
            self._write()

    def tensors(self) -> dict[str, Tensor]:
        """Return everything that was added, to which nothing can be added any more."""
        self._write()
        found = {}
        for role, file in self._files.items():
            dtype, shape = self._kinds[role]
            size = self._rows * shape.numel()
            with self._said():
                file.close()
                flat = torch.from_file(file.name, shared=False, size=size, dtype=dtype)
                _keep_open(flat, file.name)
            found[role] = flat.view(self._rows, *shape)
        return found

    def _write(self) -> None:
        with self._said():
            for role, values in self._pending.items():
                if role not in self._files:
                    path = self._folder / f"{len(self._files)}.bin"
                    self._files[role] = path.open("wb")
                rows = torch.cat(values).contiguous().reshape(-1).view(torch.uint8)
                self._files[role].write(rows.numpy().data)
        self._pending, self._bytes = {}, 0

    @contextlib.contextmanager
    def _said(self) -> Iterator[None]:
        try:
            yield
        except (OSError, RuntimeError) as error:
            raise DataError(
                f"{self._name}: cannot keep samples in {self._where} after {self._rows} of them ({error}); pass spill= "
                "with a folder that has room, or a larger max_bytes if memory has"
            ) from error
