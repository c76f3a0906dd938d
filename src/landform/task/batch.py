"""`Batch`: some samples of a task's data, as its model, its loss and its training step take them."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxtyping import Float64
from torch import Tensor
from torch.utils._pytree import tree_map

from landform.data import Data, load_data
from landform.data.load import MAX_BYTES, is_splits
from landform.data.records import collect_records

DATA_FINDINGS = ("augmentation", "shuffle")


def load_splits(source: object, allow: tuple[str, ...], *, step: bool) -> dict[str, Data]:
    """Load one data set, or several in a mapping.

    Args:
        source: As of `Task`; None for none.
        allow: As of `Task`.
        step: Whether batches are for a step, and may have any structure.

    Returns:
        Data sets by name of the split.

    Raises:
        DataError: Data that are absent or inconsistent, or no data set in the mapping.
    """
    if source is None:
        return {}
    accepted = tuple(name for name in allow if name in DATA_FINDINGS)
    if isinstance(source, Mapping) and is_splits(source):
        found = {}
        for name, part in source.items():
            named = isinstance(part, str | Path) and name in ("train", "test", "all")
            data = load_data(part, split=name, allow=accepted) if named else _load(part, accepted, step)
            found[str(name)] = data if data.split == name else dataclasses.replace(data, split=str(name))
        return found
    data = _load(source, accepted, step)
    return {data.split: data}


def _load(source: object, allow: tuple[str, ...], step: bool) -> Data:
    if step and not isinstance(source, str | Path):
        return collect_records(source, max_bytes=MAX_BYTES, allow=allow)
    return load_data(source, allow=allow)


@dataclass(frozen=True, eq=False, repr=False)
class Batch:
    """Some samples.

    Attributes:
        inputs: What the model takes: a tensor, or a mapping of all its arguments by name.
        targets: One row a sample.
        weights: One weight a sample, or None for 1 each.
        size: Number of samples.
        raw: What a loader gives, and a ``step`` gets.
        seed: Number of the first sample; what is random by permission (`Task`'s ``allow``) is drawn from it.
    """

    inputs: Tensor | Mapping[str, Tensor]
    targets: Tensor
    weights: Float64[Tensor, " n"] | None
    size: int
    raw: Any
    seed: int = 0

    def halves(self) -> tuple["Batch", "Batch"]:
        """Divide into two, in order."""
        middle = self.size // 2
        return self._part(0, middle), self._part(middle, self.size)

    def _part(self, start: int, stop: int) -> "Batch":
        def cut(value: Any) -> Any:
            return tree_map(lambda leaf: leaf[start:stop] if isinstance(leaf, Tensor) else leaf, value)

        weights = None if self.weights is None else self.weights[start:stop]
        seed = self.seed + start
        return Batch(cut(self.inputs), self.targets[start:stop], weights, stop - start, cut(self.raw), seed)

    def __repr__(self) -> str:
        """Say how many samples there are."""
        return f"Batch({self.size} samples)"
