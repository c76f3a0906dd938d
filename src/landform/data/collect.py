"""Data sets from Python objects: arrays, torch data sets, loaders, columns, any iterable of batches."""

from collections.abc import Iterable, Iterator, Mapping, Sized
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from landform.data.columns import column_piece, hugging_face_columns, is_columns, is_hugging_face
from landform.data.data import Data
from landform.data.pieces import TARGET_KEYS, Piece, as_piece, join, own_labels
from landform.data.reading import PROBED, in_order, refuse_augmentation
from landform.data.tensors import to_tensor
from landform.errors import DataError
from landform.randomness import random_as_found, seed_all


def collect(source: object, *, max_bytes: int, allow: tuple[str, ...] = (), spill: str | Path | None = None) -> Data:
    """Turn a Python object into `Data`.

    Accepted: ``(X, y)`` of tensors, arrays or nested lists of numbers; a mapping of arrays; a tensor of tokens
    ``[n, tokens]``, which are their own labels; a torch ``Dataset``; a ``DataLoader``; a Hugging Face ``Dataset``; any
    iterable of batches ``(inputs, targets)`` or mappings with an input and one target (``inputs``, ``x``,
    ``input_ids``, …; ``targets``, ``labels``, ``y``, …), whose other keys are further arguments of the model. Batches
    are joined along their first dimension; those of token sequences are padded where there is an ``attention_mask``.

    A loader that shuffles or drops its last batch is read through its data set instead, in order and completely. The
    global random states are left as they were; what is random by permission is drawn from seed 0.

    Args:
        source: The object.
        max_bytes: Most bytes that are held in memory. A source that has a length goes on in files (`Spill`); for one
            that may be endless this is a limit.
        allow: ``"augmentation"``, ``"shuffle"``: what is random about the data and shall be frozen at one draw.
        spill: Folder for those files, also for sources of unknown length; None for the system's temporary one.

    Returns:
        The data set, called after the type of the object.

    Raises:
        DataError: Nothing there, not of this kind, samples of different shapes, beyond the limit, or two reads of the
            same samples that differ.
    """
    if isinstance(source, Data):
        return source
    pair = _arrays(source)
    if pair is not None:
        return Data(to_tensor(pair[0], "inputs"), to_tensor(pair[1], "targets"), name="arrays")
    if isinstance(source, Tensor) and source.ndim == 2 and not source.is_floating_point():
        return Data(source.detach(), own_labels(source.detach(), None), name="tokens")
    if type(source) is TensorDataset:  # a subclass may do more than hold tensors
        if len(source.tensors) != 2:
            raise DataError(f"TensorDataset of {len(source.tensors)} tensors; wanted two, inputs and targets")
        return Data(*source.tensors, name=type(source).__name__)
    with random_as_found():
        name, pieces = _pieces(source, allow)
        what = "sample" if _map_style(source) else "batch"
        return join(pieces, name, max_bytes, what=what, spill=spill, ends=has_length(source))


def _pieces(source: object, allow: tuple[str, ...]) -> tuple[str, Iterable[Piece]]:
    name = type(source).__name__
    if is_hugging_face(source):
        rows: Any = source
        if hasattr(rows, "__len__"):
            refuse_augmentation(lambda: rows[: min(PROBED, len(rows))], name, allow)
        seed_all(0)
        return name, (as_piece(columns, name) for columns in hugging_face_columns(source, targets=TARGET_KEYS))
    if isinstance(source, Mapping) and is_columns(source):
        return name, [column_piece(source)]
    if _map_style(source):
        rows = source
        if not isinstance(source, Sized):
            raise DataError(f"{name} has no len(); pass a DataLoader over it, or an iterable of batches")
        first = range(min(PROBED, len(source)))
        refuse_augmentation(lambda: [rows[i] for i in first], name, allow)
        seed_all(0)
        return name, _samples(rows)
    if isinstance(source, DataLoader):
        name, source = type(source.dataset).__name__, ordered(source, allow)
        seed_all(0)
    if not isinstance(source, Iterable) or isinstance(source, str | bytes | Mapping):
        raise DataError(
            f"cannot read data from {name}; wanted (X, y), a mapping of arrays, a torch Dataset or DataLoader, a "
            "Hugging Face Dataset, an iterable of (inputs, targets) batches, a path, the name of a data "
            "set, or 'module:loader'"
        )
    return name, (_piece(batch, f"batch {i}") for i, batch in enumerate(source))


def ordered(loader: "DataLoader[Any]", allow: tuple[str, ...]) -> "DataLoader[Any]":
    """Probe a loader for what is random about it, and return one that reads its data set in order.

    Args:
        loader: The loader.
        allow: As of `collect`.

    Returns:
        As of `landform.data.reading.in_order`.

    Raises:
        DataError: As of `collect`.
    """
    found = in_order(loader, allow)
    rows: Any = loader.dataset
    if _map_style(rows) and isinstance(rows, Sized) and len(rows):
        few = range(min(PROBED, len(rows)))
        name, get = type(rows).__name__, loader.dataset.__getitem__
        if loader.batch_size is None and loader.batch_sampler is None:
            refuse_augmentation(lambda: [get(i) for i in few], name, allow)
        else:
            refuse_augmentation(lambda: loader.collate_fn([get(i) for i in few]), name, allow)
    return found


def has_length(source: object) -> bool:
    """Say whether a source has a length, and so ends."""
    try:
        return len(source) >= 0  # type: ignore[arg-type]
    except (TypeError, NotImplementedError):
        return False


def _map_style(source: object) -> bool:
    return isinstance(source, Dataset) and not isinstance(source, IterableDataset)


def _arrays(source: object) -> tuple[object, object] | None:
    """Recognise ``(X, y)``, as against a list of two batches."""
    if not isinstance(source, tuple | list) or len(source) != 2:
        return None
    if all(hasattr(part, "__array__") for part in source):
        return source[0], source[1]
    if isinstance(source, tuple) and all(hasattr(part, "__array__") or isinstance(part, list) for part in source):
        flat = [part for part in source if isinstance(part, list)]
        if not any(hasattr(item, "__array__") for part in flat for item in part):
            return source[0], source[1]
    return None


def _samples(source: Any) -> Iterator[Piece]:
    """Read a map-style data set one sample at a time, each as a batch of one."""
    for i in range(len(source)):
        found = _piece(source[i], f"sample {i}", single=True)
        extras = {key: value[None] for key, value in found.extras.items()}
        yield Piece(found.inputs[None], found.targets[None], extras, found.keys)


def _piece(batch: object, what: str, *, single: bool = False) -> Piece:
    """Find inputs and targets in a pair or mapping; refuse parts that would be lost without a word."""
    if isinstance(batch, Mapping):
        columns = {str(key): to_tensor(value, f"{what}, {key}") for key, value in batch.items()}
        if single:  # one row: labels are made from two dimensions, as of a batch
            found = as_piece({key: value[None] for key, value in columns.items()}, what)
            extras = {key: value[0] for key, value in found.extras.items()}
            return Piece(found.inputs[0], found.targets[0], extras, found.keys)
        return as_piece(columns, what)
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        size = f" of {len(batch)}" if isinstance(batch, Sized) else ""
        raise DataError(
            f"{what} is a {type(batch).__name__}{size}; wanted (inputs, targets), or a mapping of the model's "
            "arguments with one target among them"
        )
    return Piece(to_tensor(batch[0], f"{what}, inputs"), to_tensor(batch[1], f"{what}, targets"))
