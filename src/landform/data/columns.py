"""Data sets in columns: mappings of arrays, and Hugging Face ``datasets``."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from landform.data.pieces import Piece, as_piece, pad_columns
from landform.data.tensors import to_tensor
from landform.errors import DataError

ROWS = 1000
"""Rows of a Hugging Face data set read at a time."""


def is_hugging_face(source: object) -> bool:
    """Whether an object is a data set of the ``datasets`` package, which is not imported for it.

    Args:
        source: Anything.

    Returns:
        True for ``Dataset`` and ``IterableDataset``.
    """
    return type(source).__module__.split(".")[0] == "datasets" and hasattr(source, "with_format")


def is_columns(source: object) -> bool:
    """Whether a mapping holds one array a name, as against one data set a name.

    Args:
        source: Anything.

    Returns:
        True for a mapping of tensors or arrays.
    """
    return isinstance(source, Mapping) and bool(source) and all(hasattr(v, "__array__") for v in source.values())


def column_piece(source: Mapping[Any, Any]) -> Piece:
    """Read a mapping of arrays as one batch.

    Args:
        source: Arrays by name.

    Returns:
        The batch.

    Raises:
        DataError: No input or target among them, or no numbers.
    """
    return as_piece({str(key): to_tensor(value, str(key)) for key, value in source.items()}, type(source).__name__)


def hugging_face_columns(source: Any, *, targets: Sequence[str] = ()) -> Iterator[dict[str, Tensor]]:
    """Read a Hugging Face data set a thousand rows at a time.

    Columns of text and other things that are no numbers are left out, as a model takes none. The columns of a format
    that was set (``set_format(columns=…)``) are those that are read; a transform of one's own is applied. Sequences of
    different lengths are padded on the right, with an ``attention_mask``. What ``IterableDataset.batch(…)`` returned is
    read batch by batch.

    Args:
        source: A ``Dataset`` or ``IterableDataset``.
        targets: Names of columns that must not be left out: text in one of them is an error, since only who trained the
            model knows the number of each word.

    Yields:
        Tensors by name.

    Raises:
        DataError: No column of numbers, text in the place of labels, or ragged columns that are no tokens.
    """
    in_batches = _in_batches(source)
    form = getattr(source, "format", None) or {}
    if form.get("type") != "custom":
        source = source.with_format("torch", **({"columns": form["columns"]} if form.get("columns") else {}))
    rows = (
        iter(source)
        if in_batches
        else source.iter(batch_size=ROWS)
        if not hasattr(source, "__len__")
        else (source[start : start + ROWS] for start in range(0, len(source), ROWS))
    )
    for batch in rows:
        columns = {str(key): found for key, value in batch.items() if (found := _numbers(value)) is not None}
        lost = [key for key in targets if key in batch and key not in columns]
        if lost and not any(key in columns for key in targets):
            raise _text_labels(type(source).__name__, lost[0], batch[lost[0]])
        if not columns:
            raise DataError(f"{type(source).__name__}: only text in {', '.join(map(str, batch))}; tokenize first")
        yield _rectangular(columns)


def _numbers(value: Any) -> Tensor | list[Tensor] | None:
    """Return a column as a tensor, or as a list of ragged rows; None where it holds no numbers."""
    if isinstance(value, Tensor):
        return value
    if isinstance(value, list) and value and all(isinstance(row, Tensor) for row in value):
        same = all(row.shape == value[0].shape and row.dtype == value[0].dtype for row in value)
        return torch.stack(value) if same else value
    try:
        return to_tensor(value, "column")
    except DataError:
        return None


def _in_batches(source: Any) -> bool:
    """Whether the rows of a streamed data set are batches; the package keeps no other trace of that."""
    made_by = getattr(getattr(source, "_ex_iterable", None), "function", None)
    own = getattr(made_by, "__module__", "").startswith("datasets.")
    return own and getattr(made_by, "__name__", "").lstrip("_").startswith("batch_")


def _text_labels(name: str, key: str, values: Iterable[Any]) -> DataError:
    words = sorted({repr(value) for value in values})
    some = ", ".join(words[:3]) + (", …" if len(words) > 3 else "")
    return DataError(
        f"{name}: column {key} holds no numbers ({some}), and which number the model has for each is not "
        f"known; make it numbers, with data.class_encode_column({key!r}) in alphabetical order, or by the model's "
        f"config.label2id, or leave it out with data.remove_columns({key!r})"
    )


def _rectangular(columns: dict[str, Tensor | list[Tensor]]) -> dict[str, Tensor]:
    ragged = [key for key, value in columns.items() if isinstance(value, list)]
    if not ragged:
        return {key: value for key, value in columns.items() if isinstance(value, Tensor)}
    rows = {key: [row[None] for row in value] for key, value in columns.items()}
    found = pad_columns(rows, lengths=True)
    for key, values in found.items():
        if any(value.shape != values[0].shape for value in values):
            raise DataError(
                f"column {key} has rows of shapes {list(values[0].shape[1:])}, "
                f"{list(next(v for v in values if v.shape != values[0].shape).shape[1:])}, …; pad or crop to one shape "
                "(if rows are batches, made by data.batch(…), pass the data set as it was before)"
            )
    return {key: torch.cat(values) for key, values in found.items()}
