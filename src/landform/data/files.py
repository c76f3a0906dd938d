"""The user's own files: ``.npz`` archives and ``.csv`` tables."""

import array
import csv
import io
import itertools
import math
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from landform.data.data import Data
from landform.errors import DataError, InputError, unknown_name

TargetKind = Literal["auto", "labels", "values"]
"""What a target column holds: class labels, values to regress, or whichever the column looks like."""

_PAIRS = (("x", "y"), ("inputs", "targets"), ("inputs", "labels"), ("data", "target"), ("images", "labels"))


def read_npz(path: Path, *, split: str | None, max_bytes: int) -> tuple[NDArray[Any], NDArray[Any], bool]:
    """Read inputs and targets from an ``.npz`` archive, without pickle.

    Args:
        path: The archive. Arrays are called ``x`` and ``y`` or ``inputs`` and ``targets`` (also ``inputs``/``labels``,
            ``data``/``target``, ``images``/``labels``; case does not matter), or carry a split: ``x_train``,
            ``y_test``.
        split: Which of the latter to take; None means ``"train"``.
        max_bytes: Largest sum of the two arrays, checked before anything is read.

    Returns:
        Inputs, targets, and whether the archive had splits of its own.

    Raises:
        DataError: Damaged, pickled, too large, or no known pair of names.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            there = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            keys, own = _pair(there, split, path)
            for key in keys:
                _check_member(archive, there[key], path)
            total = sum(there[key].file_size for key in keys)
            if total > max_bytes:
                raise DataError(f"{path}: arrays of {total} bytes, the limit is {max_bytes} (max_bytes=)")
        with np.load(path, allow_pickle=False) as loaded:
            return loaded[keys[0]], loaded[keys[1]], own
    except DataError:
        raise
    # zipfile raises NotImplementedError for compression it does not know and RuntimeError for encrypted members
    except (zipfile.BadZipFile, OSError, EOFError, ValueError, NotImplementedError, RuntimeError) as error:
        raise DataError(f"{path}: not a readable .npz archive ({error}); write one with numpy.savez") from error


def _pair(there: dict[str, zipfile.ZipInfo], split: str | None, path: Path) -> tuple[tuple[str, str], bool]:
    lower = {key.lower(): key for key in there}
    for x, y in _PAIRS:
        if x in lower and y in lower:
            return (lower[x], lower[y]), False
    part = split or "train"
    for x, y in _PAIRS:
        if f"{x}_{part}" in lower and f"{y}_{part}" in lower:
            return (lower[f"{x}_{part}"], lower[f"{y}_{part}"]), True
    raise DataError(
        f"{path}: wanted arrays x and y (or inputs and targets, or x_{part} and y_{part}); "
        f"it holds {', '.join(sorted(there)) or 'nothing'}"
    )


def _check_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path) -> None:
    """Compare the shape in an array's header with the bytes there are, before numpy allocates by it."""
    with archive.open(info) as stream:
        version = np.lib.format.read_magic(stream)
        reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = reader(stream)
        if dtype.hasobject:
            raise DataError(f"{path}: {info.filename} holds Python objects (pickle), which are never loaded")
        wanted = stream.tell() + math.prod(shape) * dtype.itemsize
    if wanted != info.file_size:
        raise DataError(f"{path}: {info.filename} is {info.file_size} bytes, its header asks for {wanted}")


def read_csv(
    path: Path, *, target: str | int | None, header: bool | None, target_kind: TargetKind, max_bytes: int
) -> Data:
    """Read a table of numbers with one target column.

    Args:
        path: UTF-8 text, separated by commas, semicolons or tabs (whichever the first line holds).
        target: Name or number of the target column; None means the last.
        header: Whether the first row names the columns; None finds out: it does when ``target`` is a name, or when
            none of its cells outside the target column is a number (a gap in a first row of data is an error).
        target_kind: ``"labels"`` maps the distinct values, sorted, to 0, 1, …; ``"values"`` reads floats; ``"auto"``
            takes whole numbers ≥ 0 as labels as they stand, other numbers as values, and words as labels, sorted.
        max_bytes: Largest file.

    Returns:
        Inputs ``float32 [n, columns − 1]``; targets int64 ``[n]`` (labels) or float32 ``[n, 1]`` (values).

    Raises:
        DataError: A cell that is no finite number or a row of another length, with row (from 1) and column.
        UnknownNameError: No such column, with the nearest.
        InputError: A column number out of range, or another ``target_kind``.
    """
    if target_kind not in ("auto", "labels", "values"):
        raise InputError(f"target_kind is {target_kind!r}; wanted 'auto', 'labels' or 'values'")
    rows = _rows(path, max_bytes)
    start, first = next(rows, (0, []))
    if not first:
        raise DataError(f"{path}: no rows; wanted one sample a line, the target in the last column")
    width = len(first)
    if width < 2:
        raise DataError(f"{path}: one column only; wanted at least one input and one target column")
    column = _target_column(first, target, path)
    if header is None:
        header = isinstance(target, str) or all(_number(c) is None for i, c in enumerate(first) if i != column)
    names = first if header else [str(i + 1) for i in range(width)]
    values, targets, lines = array.array("d"), [], []
    for row, cells in rows if header else itertools.chain([(start, first)], rows):
        if len(cells) != width:
            raise DataError(f"{path}, row {row}: {len(cells)} cells, the rows before have {width}")
        for i, cell in enumerate(cells):
            if i == column:
                targets.append(cell.strip())
                lines.append(row)
                continue
            value = _number(cell)
            if value is None or not math.isfinite(value):
                raise DataError(f"{path}, row {row}, column {names[i]}: {cell!r} is not a finite number")
            values.append(value)
    if not targets:
        raise DataError(f"{path}: a header but no rows below it")
    inputs = torch.from_numpy(np.array(values, dtype=np.float64).astype(np.float32).reshape(len(targets), width - 1))
    encoded, labels = _encode(targets, lines, target_kind, f"column {names[column]}", path)
    return Data(inputs, encoded, name=path.name, label_names=labels)


def _rows(path: Path, max_bytes: int) -> Iterator[tuple[int, list[str]]]:
    """Yield line numbers and cells, skipping empty lines."""
    try:
        size = path.stat().st_size
        if size > max_bytes:
            raise DataError(f"{path}: {size} bytes, the limit is {max_bytes} (max_bytes=)")
        with path.open(encoding="utf-8-sig", newline="") as stream:
            line = stream.readline()
            delimiter = next((sign for sign in ",;\t" if sign in line), ",")
            stream.seek(0)
            reader = csv.reader(stream, delimiter=delimiter)
            for cells in reader:
                if cells and any(cell.strip() for cell in cells):
                    yield reader.line_num, cells
    except (UnicodeDecodeError, csv.Error, io.UnsupportedOperation) as error:
        raise DataError(f"{path}: not a UTF-8 table ({error})") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error


def _target_column(first: list[str], target: str | int | None, path: Path) -> int:
    if target is None:
        return len(first) - 1
    if isinstance(target, str):
        names = [cell.strip() for cell in first]
        if target not in names:
            raise unknown_name(f"column of {path.name}", target, names)
        return names.index(target)
    if not -len(first) <= target < len(first):
        raise InputError(f"{path}: target column {target} is out of range, there are {len(first)} columns")
    return target % len(first)


def _number(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None


def _encode(
    cells: list[str], lines: list[int], kind: TargetKind, where: str, path: Path
) -> tuple[torch.Tensor, tuple[str, ...] | None]:
    """Turn target cells into labels or values."""
    for row, cell in zip(lines, cells, strict=True):
        value = _number(cell)
        if not cell or (value is not None and not math.isfinite(value)):
            raise DataError(f"{path}, row {row}, {where}: target {cell!r} is missing or not finite")
    numbers = [_number(cell) for cell in cells]
    if kind == "values" or (kind == "auto" and None not in numbers):
        for row, cell, number in zip(lines, cells, numbers, strict=True):
            if number is None:
                raise DataError(f"{path}, row {row}, {where}: {cell!r} is not a number (target_kind='values')")
        exact = [number for number in numbers if number is not None]
        if kind == "values" or not all(number >= 0 and number.is_integer() for number in exact):
            return torch.tensor(exact, dtype=torch.float64).to(torch.float32)[:, None], None
        return torch.tensor([int(number) for number in exact]), None
    # Numbers sort as numbers, and 1 and 1.0 are one label; any word among them makes all of them words.
    if None in numbers:
        words = sorted(set(cells))
        index = {word: i for i, word in enumerate(words)}
        return torch.tensor([index[cell] for cell in cells]), tuple(words)
    distinct = sorted({number for number in numbers if number is not None})
    place = {number: i for i, number in enumerate(distinct)}
    codes = [place[number] for number in numbers if number is not None]
    return torch.tensor(codes), tuple(f"{number:g}" for number in distinct)
