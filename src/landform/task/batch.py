"""`Batch`: some samples of a task's data, as its model, its loss and its training step take them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float64
from torch import Tensor


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

    def __repr__(self) -> str:
        """Say how many samples there are."""
        return f"Batch({self.size} samples)"
