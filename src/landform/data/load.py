"""`load_data`: one function for every place that data come from."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from landform.data.bundled import BUNDLED, bundled, split_indices
from landform.data.collect import collect
from landform.data.columns import is_columns
from landform.data.data import Data
from landform.data.files import TargetKind, read_csv, read_npz
from landform.data.idx import idx_folder, named_idx
from landform.data.reading import check_allow
from landform.data.user import call_loader
from landform.errors import DataError, InputError, unknown_name

NAMES = (*BUNDLED, "fashion-mnist", "mnist")
"""Data sets that `load_data` knows by name."""

MAX_BYTES = 1 << 33
"""Most bytes that are read into memory by default: 8 GiB."""

SPLITS = ("train", "training", "test", "validation", "valid", "val", "dev", "eval")
"""Names that a mapping of tensors may have and yet be one of several data sets."""

_ALIASES = {"fashion": "fashion-mnist", "fashion_mnist": "fashion-mnist", "breast-cancer": "breast_cancer"}


def load_data(
    source: object,
    *,
    split: str | None = None,
    root: str | Path | None = None,
    target: str | int | None = None,
    header: bool | None = None,
    target_kind: TargetKind = "auto",
    allow: str | Sequence[str] = (),
    max_bytes: int = MAX_BYTES,
    spill: str | Path | None = None,
) -> Data:
    """Load a data set by name, from a file, from the user's own code, or from Python objects.

    Args:
        source: One of

            - a name: ``"digits"``, ``"wine"``, ``"breast_cancer"``, ``"diabetes"`` (bundled with scikit-learn),
              ``"fashion-mnist"`` (or ``"fashion"``), ``"mnist"`` (idx files, see ``root``);
            - a path: ``.npz`` with ``x`` and ``y`` (bytes are scaled to [0, 1]), ``.csv``, or a folder of idx files;
            - ``"module:loader"``: the user's own function, imported and called; it returns anything listed here;
            - ``(X, y)`` of tensors or arrays, a mapping of arrays (``{"input_ids": …, "attention_mask": …, "labels":
              …}``), a tensor of tokens ``[n, tokens]``, a torch ``Dataset`` or ``DataLoader``, a Hugging Face
              ``Dataset`` or ``DatasetDict``, any iterable of ``(inputs, targets)`` batches or of mappings; a `Data`
              passes through.
        split: ``"train"``, ``"test"`` or ``"all"``. None, the default, means ``"train"`` where the source has parts
            of its own (names, idx folders, ``x_train`` in an archive, a loader with a parameter ``split``) and
            everything elsewhere. A source without parts is divided 80 : 20 when a part is asked for: of each class
            every fifth sample, in data order, is the test part.
        root: Folder of the idx files of ``"fashion-mnist"`` and ``"mnist"``; None looks in the folder named by the
            environment variable LANDFORM_DATA, then where Debian's package installs them.
        target: CSV only: name or number of the target column; None means the last.
        header: CSV only: whether the first row holds names; None finds out.
        target_kind: CSV only: ``"labels"``, ``"values"`` or ``"auto"``, which takes whole numbers ≥ 0 and words as
            labels.
        allow: ``"augmentation"``: take one draw of data that differ in every read; ``"shuffle"``: one pass of a loader
            that visits other samples in every pass. Refused by default: the loss would be one of other data each time.
        max_bytes: Most bytes that are held in memory, 8 GiB by default; for arrays in files, and iterables that have
            no length and may be endless, a limit. Other Python objects (loaders, data sets) that are larger are read
            once, as always, and kept in files from which samples are read when they are needed.
        spill: Folder for those files, which has room; with it iterables without a length may be larger too. None for
            the system's temporary folder. The files vanish with the data.

    Returns:
        The data set, checked. Images of idx files are ``float32 [n, 1, rows, columns]`` in [0, 1]: a perceptron for
        them starts with ``nn.Flatten()``.

    Raises:
        UnknownNameError: An unknown name, with the nearest.
        DataError: Absent (with the lines that install it), damaged, empty or inconsistent data.
        InputError: An option out of range.

    Cost:
        One pass over the source, and the whole set in memory, or beyond ``max_bytes`` on the disk.

    Example:
        >>> load_data("digits", split="test")
        Data('digits', 'test', inputs float32 [355, 64], targets int64 [355], 10 classes)
        >>> import torch
        >>> load_data((torch.zeros(3, 2), torch.tensor([0, 1, 1])))
        Data('arrays', 'all', inputs float32 [3, 2], targets int64 [3], 2 classes)
    """
    accepted = check_allow(allow, ("augmentation", "shuffle"))
    if isinstance(source, Mapping) and is_splits(source):
        return load_data(_pick(source, split), allow=accepted, max_bytes=max_bytes, spill=spill)
    if split not in (None, "train", "test", "all"):
        raise InputError(f"split is {split!r}; wanted 'train', 'test' or 'all'")
    if isinstance(source, Data):
        return source if split in (None, source.split) else _part(source, split)
    if isinstance(source, str):
        name = _ALIASES.get(source.lower(), source.lower())
        if name in BUNDLED:
            return bundled(name, split=split or "train")
        if name in NAMES:
            return named_idx(name, split=split or "train", root=root, max_bytes=max_bytes)
        if not Path(source).exists() and re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*", source):
            found, own = call_loader(source, split=split)
            if isinstance(found, str | Path):
                raise DataError(f"{source} returned the text {str(found)!r}; wanted data: (X, y) or batches")
            data = (
                found
                if isinstance(found, Data)
                else dataclasses.replace(collect(found, max_bytes=max_bytes, allow=accepted, spill=spill), name=source)
            )
            if own:
                return data if isinstance(found, Data) else dataclasses.replace(data, split=split or "train")
            return data if split in (None, data.split) else _part(data, split)
        if not Path(source).exists() and not _looks_like_path(source):
            raise unknown_name("data set", source, NAMES)
    if isinstance(source, str | Path):
        path = Path(source)
        if not path.exists():
            raise DataError(f"{path}: no such file or folder (in {Path.cwd()})")
        if path.is_dir():
            return idx_folder(path, split=split or "train", max_bytes=max_bytes)
        if path.suffix.lower() == ".npz":
            inputs, targets, own = read_npz(path, split=split, max_bytes=max_bytes)
            if inputs.dtype == np.uint8:  # images, as everywhere: to [0, 1]
                inputs = inputs.astype(np.float32) / 255
            data = dataclasses.replace(collect((inputs, targets), max_bytes=max_bytes), name=path.name)
            if own:
                return dataclasses.replace(data, split=split or "train")
        elif path.suffix.lower() == ".csv":
            data = read_csv(path, target=target, header=header, target_kind=target_kind, max_bytes=max_bytes)
        else:
            raise DataError(
                f"{path}: unknown kind of file; wanted .npz (arrays x and y), .csv, or a folder of idx files"
            )
        return data if split is None else _part(data, split)
    data = collect(source, max_bytes=max_bytes, allow=accepted, spill=spill)
    return data if split is None else _part(data, split)


def is_splits(source: Mapping[Any, Any]) -> bool:
    """Whether a mapping holds one data set a name, as against one array a name.

    Args:
        source: The mapping.

    Returns:
        True for ``{"train": …, "test": …}`` and a Hugging Face ``DatasetDict``.
    """
    return bool(source) and (not is_columns(source) or all(key in SPLITS for key in source))


def _pick(source: Mapping[Any, Any], split: str | None) -> object:
    if split in source:
        return source[split]
    if split is None and len(source) == 1:
        return next(iter(source.values()))
    raise DataError(
        f"a mapping of several data sets ({', '.join(map(str, source))})"
        + (f", none of them called {split!r}" if split else f"; say which one, e.g. split={next(iter(source))!r}")
    )


def _part(data: Data, split: str | None) -> Data:
    """Divide a set that has no parts of its own."""
    if split is None or split == data.split:
        return data
    if data.split != "all":
        raise DataError(f"{data.name}: split {split!r} wanted from data that are already its {data.split!r} part")
    return data.subset(split_indices(data.targets, split), split=split)


def _looks_like_path(source: str) -> bool:
    return any(sign in source for sign in "/\\") or bool(Path(source).suffix)
