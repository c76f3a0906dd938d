"""`Piece`: one batch of a data set, and how pieces are put together."""

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812  the name everyone knows
from torch import Tensor

from landform.data.data import IGNORE_INDEX, Data
from landform.data.spill import Spill
from landform.errors import DataError

INPUT_KEYS = ("inputs", "input", "x", "input_ids", "pixel_values", "image", "images", "features", "input_values")
TARGET_KEYS = ("targets", "target", "labels", "label", "y")
TOKENS = "input_ids"
MASK = "attention_mask"


@dataclass(frozen=True, eq=False)
class Piece:
    """One batch: inputs and targets, further inputs by name, and what a mapping calls the first two."""

    inputs: Tensor
    targets: Tensor
    extras: Mapping[str, Tensor] = field(default_factory=dict)
    keys: tuple[str, str] | None = None

    def parts(self) -> dict[str, Tensor]:
        """Return all tensors by the role they have in messages."""
        return {"inputs": self.inputs, "targets": self.targets} | dict(self.extras)


def own_labels(tokens: Tensor, mask: Tensor | None) -> Tensor:
    """Make tokens the labels of a model that predicts them; what is masked does not count.

    Args:
        tokens: Shape ``[n, tokens]``.
        mask: 1 for what is there, 0 for padding; or None.

    Returns:
        Labels, −100 where there is padding.
    """
    labels = tokens.to(torch.int64)
    return labels if mask is None or mask.shape != tokens.shape else torch.where(mask > 0, labels, IGNORE_INDEX)


def as_piece(columns: Mapping[str, Tensor], what: str) -> Piece:
    """Find inputs and targets among named tensors; all others are further inputs of the model.

    Token sequences without labels are their own labels, as in next-token prediction, with padding left out.

    Args:
        columns: Tensors by name.
        what: What to call them in errors.

    Returns:
        The piece.

    Raises:
        DataError: No input, or not exactly one target.
    """
    inputs = [key for key in columns if key in INPUT_KEYS]
    targets = [key for key in columns if key in TARGET_KEYS]
    if not targets and inputs and inputs[0] == TOKENS and columns[TOKENS].ndim > 0:
        labels = own_labels(columns[TOKENS], columns.get(MASK))
        columns = dict(columns) | {"labels": labels}
        targets = ["labels"]
    if not inputs or len(targets) != 1:
        raise DataError(
            f"{what} has keys {', '.join(map(str, columns))}; wanted exactly one target ({', '.join(TARGET_KEYS)}) and "
            f"an input ({', '.join(INPUT_KEYS)}), other keys being further arguments of the model; yield "
            "(inputs, targets) instead, or use a step"
        )
    x, y = inputs[0], targets[0]
    extras = {key: value for key, value in columns.items() if key not in (x, y)}
    return Piece(columns[x], columns[y], extras, (x, y))


def pad_columns(columns: Mapping[str, Sequence[Tensor]], *, lengths: bool) -> dict[str, list[Tensor]]:
    """Pad batches of token sequences on the right to one length, where a mask says what is padding.

    Tokens and masks are filled with 0, labels with −100; a model that heeds its mask gives the same losses.

    Args:
        columns: For every name one tensor a batch, ``[n, tokens, …]``.
        lengths: Whether to make a mask of the lengths where there is none: right only if no batch holds padding.

    Returns:
        The same, padded; unchanged where nothing has to be, or where there is nothing to tell padding by.
    """
    found = {key: list(values) for key, values in columns.items()}
    tokens = found.get(TOKENS, [])
    sizes = [value.shape[1] if value.ndim == 2 else -1 for value in tokens]
    if len(set(sizes)) < 2 or -1 in sizes or not (MASK in found or lengths):
        return found
    if MASK not in found:
        found[MASK] = [torch.ones_like(value) for value in tokens]
    longest = max(sizes)
    for key, values in found.items():
        if not all(value.ndim == 2 and value.shape[1] == size for value, size in zip(values, sizes, strict=True)):
            continue
        fill = IGNORE_INDEX if key in TARGET_KEYS and not values[0].is_floating_point() else 0
        found[key] = [F.pad(value, (0, longest - value.shape[1]), value=fill) for value in values]
    return found


def join(
    pieces: Iterable[Piece],
    name: str,
    max_bytes: int,
    *,
    what: str,
    spill: str | Path | None = None,
    ends: bool = False,
) -> Data:
    """Concatenate batches after checking that they fit each other.

    Args:
        pieces: The batches.
        name: What to call the data.
        max_bytes: Most bytes that are held in memory.
        what: What a piece is called: batch or sample.
        spill: Folder for what is beyond that; None for the system's temporary one.
        ends: Whether it is known that the pieces end. If not, ``max_bytes`` is a limit unless there is a folder.

    Returns:
        The data set.

    Raises:
        DataError: Nothing there, pieces that do not fit each other, more than the limit, or no room on the disk.
    """
    with contextlib.ExitStack() as stack:
        held: list[Piece] = []
        size = samples = 0
        away: Spill | None = None
        for i, piece in enumerate(pieces):
            size += sum(value.nbytes for value in piece.parts().values())
            _check(piece, i, name, what)
            samples += len(piece.inputs)
            if size > max_bytes and away is None:
                if spill is None and not ends:
                    raise DataError(
                        f"{name}: more than {max_bytes} bytes after {samples} samples; is it endless? Pass a smaller "
                        "set, a larger max_bytes if memory has room, or spill= with a folder to keep it in"
                    )
                away = stack.enter_context(Spill(spill, name))
                for number, earlier in enumerate(held):
                    _same_shapes(held[0], earlier, number, name, what)
                    away.add(earlier.parts())
                del held[1:]
            if not held or away is None:
                held.append(piece)
            if away is not None or piece.keys is None or TOKENS not in piece.keys:
                _same_shapes(held[0], piece, i, name, what)
            if away is not None:
                away.add(piece.parts())
        if not held:
            raise DataError(f"{name}: no samples; it yielded nothing (a generator that was used up before?)")
        if away is not None:
            return _data(away.tensors(), name, held[0].keys)
    if held[0].keys is not None and TOKENS in held[0].keys:
        held = _padded(held)
        for i, piece in enumerate(held):
            _same_shapes(held[0], piece, i, name, what)
    parts = {role: torch.cat([piece.parts()[role] for piece in held]) for role in held[0].parts()}
    return _data(parts, name, held[0].keys)


def _data(parts: dict[str, Tensor], name: str, keys: tuple[str, str] | None) -> Data:
    return Data(parts.pop("inputs"), parts.pop("targets"), name=name, extras=parts, keys=keys)


def _padded(held: list[Piece]) -> list[Piece]:
    keys = held[0].keys
    assert keys is not None
    names = {"inputs": keys[0], "targets": keys[1]}
    if any(piece.parts().keys() != held[0].parts().keys() for piece in held):
        return held
    columns = {names.get(role, role): [piece.parts()[role] for piece in held] for role in held[0].parts()}
    found = pad_columns(columns, lengths=False)
    return [as_piece({key: values[i] for key, values in found.items()}, "batch") for i in range(len(held))]


def _check(piece: Piece, i: int, name: str, what: str) -> None:
    for role, value in piece.parts().items():
        if value.ndim == 0:
            raise DataError(f"{name}: {role} of {what} {i} are a single number; wanted one row for each sample")
    for role, value in piece.parts().items():
        if len(value) != len(piece.inputs):
            raise DataError(f"{name}: {what} {i} has {len(piece.inputs)} inputs but {len(value)} {role}")


def _same_shapes(first: Piece, piece: Piece, i: int, name: str, what: str) -> None:
    before, now = first.parts(), piece.parts()
    if before.keys() != now.keys() or first.keys != piece.keys:
        raise DataError(
            f"{name}: {what} {i} has {', '.join(now)} ({piece.keys}), those before {', '.join(before)} ({first.keys})"
        )
    for role, value in now.items():
        if value.shape[1:] != before[role].shape[1:] or value.dtype != before[role].dtype:
            hint = f", or give an {MASK}, and they are padded" if role in ("inputs", "targets") and piece.keys else ""
            raise DataError(
                f"{name}: {role} of {what} {i} have sample shape {list(value.shape[1:])} ({value.dtype}), those "
                f"before {list(before[role].shape[1:])} ({before[role].dtype}); pad or crop to one shape{hint}"
            )
