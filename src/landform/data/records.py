"""`Records`: samples of any structure, for a training step that knows what is in them."""

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils.data import DataLoader, Dataset, IterableDataset

from landform.data.collect import has_length, ordered
from landform.data.columns import hugging_face_columns, is_columns, is_hugging_face
from landform.data.data import Data
from landform.data.hashing import hash_tensors
from landform.data.pieces import pad_columns
from landform.data.reading import PROBED, refuse_augmentation
from landform.data.spill import Spill
from landform.data.tensors import to_tensor
from landform.errors import DataError
from landform.randomness import random_as_found, seed_all


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Records(Data):
    """Samples of any structure: a tensor, or tensors in tuples, lists and mappings, one row a sample in each.

    ``inputs`` and ``targets`` are the first and the last tensor, whatever they mean.

    Attributes:
        tree: All samples as one batch.

    Example:
        >>> records = Records.of({"a": torch.zeros(3), "b": (torch.ones(3, 2),)}, name="mine")
        >>> records.n, records.raw(slice(0, 2))["b"][0].shape
        (3, torch.Size([2, 2]))
    """

    tree: Any = None

    @classmethod
    def of(cls, tree: Any, *, name: str, split: str = "all") -> "Records":
        """Build records from all samples as one batch.

        Args:
            tree: The batch.
            name: What to call the data.
            split: Which part this is.

        Returns:
            The records.

        Raises:
            DataError: Tensors of different lengths, no samples, or something that is no tensor.
        """
        leaves = tensors_of(tree, name)
        return cls(leaves[0], leaves[-1], name=name, split=split, tree=tree)

    def __post_init__(self) -> None:
        """Check lengths; values are the step's business."""
        if not len(self.inputs):
            raise DataError(f"{self.name}: no samples; a data set needs at least one")

    def __repr__(self) -> str:
        """Show the shapes, never the values."""
        shapes = ", ".join(
            f"{str(t.dtype).removeprefix('torch.')} {list(t.shape)}" for t in pytree.tree_leaves(self.tree)
        )
        return f"Records({self.name!r}, {self.split!r}, {shapes})"

    @property
    def hash(self) -> str:
        """SHA-256 over structure, dtypes, shapes and bytes; 64 hex digits."""
        leaves, spec = pytree.tree_flatten(self.tree)
        return hash_tensors([(f"{spec} {i}", leaf) for i, leaf in enumerate(leaves)])

    def raw(self, index: slice | Int64[Tensor, " m"]) -> Any:
        """Take samples as a loader gives them.

        Args:
            index: A slice, or sample numbers.

        Returns:
            The same structure.
        """
        return pytree.tree_map(lambda leaf: leaf[index], self.tree)

    def subset(self, indices: Sequence[int] | Int64[Tensor, " m"], *, split: str | None = None) -> "Records":
        """Take some samples, in the order given.

        Args:
            indices: Sample numbers.
            split: What to call the part; None keeps the name of this one.

        Returns:
            New records.
        """
        chosen = torch.as_tensor(indices).to(torch.int64)
        return Records.of(self.raw(chosen), name=self.name, split=self.split if split is None else split)


def collect_records(source: object, *, max_bytes: int, allow: tuple[str, ...] = ()) -> Data:
    """Read batches of any structure.

    Args:
        source: A batch of everything (tensors, or tuples and mappings of them), a torch or Hugging Face data set, a
            loader, or an iterable of batches.
        max_bytes: Most bytes that are held in memory; a source that has a length goes on in files (`Spill`), for one
            that may be endless this is a limit.
        allow: What is random about the data and shall be frozen at one draw.

    Returns:
        The records; `Data` stay as they are.

    Raises:
        DataError: Nothing there, batches that do not fit each other, or something that is no tensor.
    """
    if isinstance(source, Data):
        return source
    name, ends = type(source).__name__, has_length(source)
    if isinstance(source, Tensor) or is_columns(source) or (isinstance(source, tuple) and _arrays_only(source)):
        return Records.of(pytree.tree_map(lambda leaf: to_tensor(leaf, name), source), name=name)
    with random_as_found():
        if isinstance(source, DataLoader):
            name, source = type(source.dataset).__name__, ordered(source, allow)
        elif is_hugging_face(source):
            source = hugging_face_columns(source)
        elif isinstance(source, Dataset) and not isinstance(source, IterableDataset):
            rows: Any = source
            if not isinstance(source, Sized):
                raise DataError(f"{name} has no len(); pass a DataLoader over it, or an iterable of batches")
            few = range(min(PROBED, len(source)))
            refuse_augmentation(lambda: [rows[i] for i in few], name, allow)
            source = DataLoader(source, batch_size=64)
        if not isinstance(source, Iterable) or isinstance(source, str | bytes | Mapping):
            raise DataError(f"cannot read batches from {name}; wanted a loader, a data set, or an iterable of batches")
        seed_all(0)
        return Records.of(_joined(source, name, max_bytes, ends=ends), name=name)


def tensors_of(tree: Any, name: str) -> list[Tensor]:
    """List the tensors of a batch and check that each has one row a sample.

    Args:
        tree: The batch.
        name: What to call it in errors.

    Returns:
        Its tensors, in order.

    Raises:
        DataError: No tensor, different lengths, or something that is none.
    """
    leaves = pytree.tree_leaves(tree)
    for leaf in leaves:
        if not isinstance(leaf, Tensor) or leaf.ndim == 0:
            what = "a single number" if isinstance(leaf, Tensor) else f"a {type(leaf).__name__}"
            raise DataError(
                f"{name}: a batch holds {what}; wanted tensors with one row a sample, leave other things out"
            )
    if not leaves or len({len(leaf) for leaf in leaves}) != 1:
        found = ", ".join(str(list(leaf.shape)) for leaf in leaves) or "nothing"
        raise DataError(f"{name}: a batch of tensors of shapes {found}; wanted one row a sample in each")
    return leaves


def _arrays_only(source: tuple[Any, ...]) -> bool:
    """Whether a tuple is one batch: arrays of one length."""
    return bool(source) and all(hasattr(part, "__array__") for part in source)


def _joined(source: Iterable[Any], name: str, max_bytes: int, *, ends: bool) -> Any:
    batches: list[Any] = []
    size = samples = 0
    with contextlib.ExitStack() as stack:
        away: Spill | None = None
        for i, batch in enumerate(source):
            batch = pytree.tree_map(lambda leaf, i=i: to_tensor(leaf, f"batch {i}"), _plain(batch))
            leaves = tensors_of(batch, f"{name}, batch {i}")
            size += sum(leaf.nbytes for leaf in leaves)
            samples += len(leaves[0])
            batches.append(batch)
            if away is None and size > max_bytes:
                if not ends:
                    raise DataError(
                        f"{name}: more than {max_bytes} bytes after {samples} samples; is it endless? Pass a smaller "
                        "set, or one with a length, which goes to files"
                    )
                away = stack.enter_context(Spill(None, name))
                for parts in _alike(batches[:-1], name):
                    away.add({str(number): part for number, part in enumerate(parts)})
            if away is not None:
                parts = list(_alike([batches[0], batch], name, at=i - 1))[1] if i else leaves
                away.add({str(number): part for number, part in enumerate(parts)})
                del batches[1:]
        if not batches:
            raise DataError(f"{name}: no samples; it yielded nothing (a generator that was used up before?)")
        if away is not None:
            return pytree.tree_unflatten(list(away.tensors().values()), pytree.tree_structure(batches[0]))
    if all(isinstance(batch, dict) and batch.keys() == batches[0].keys() for batch in batches) and all(
        isinstance(value, Tensor) for batch in batches for value in batch.values()
    ):
        columns = pad_columns({key: [batch[key] for batch in batches] for key in batches[0]}, lengths=False)
        batches = [{key: values[i] for key, values in columns.items()} for i in range(len(batches))]
    joined = [torch.cat(parts) for parts in zip(*_alike(batches, name), strict=True)]
    return pytree.tree_unflatten(joined, pytree.tree_structure(batches[0]))


def _alike(batches: list[Any], name: str, *, at: int = 0) -> Iterator[list[Tensor]]:
    """Yield the tensors of each batch after a look whether it fits the first; ``at`` is added to its number."""
    first, spec = pytree.tree_flatten(batches[0]) if batches else ([], None)
    for i, batch in enumerate(batches, start=at):
        leaves, other = pytree.tree_flatten(batch)
        same = other == spec and all(
            a.shape[1:] == b.shape[1:] and a.dtype == b.dtype for a, b in zip(leaves, first, strict=True)
        )
        if not same:
            now, before = (", ".join(f"{list(t.shape[1:])} {t.dtype}" for t in tensors) for tensors in (leaves, first))
            raise DataError(
                f"{name}: batch {i} has samples of {now}, those before of {before}; pad or crop to one shape, and give "
                "every batch the same parts"
            )
        yield leaves


def _plain(batch: Any) -> Any:
    """Turn mappings that are no dict (as tokenizers return) into dicts."""
    if isinstance(batch, Mapping):
        return {key: _plain(value) for key, value in batch.items()}
    return batch
