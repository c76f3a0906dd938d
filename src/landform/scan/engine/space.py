"""What engines ask of a subspace."""

from collections.abc import Mapping
from typing import Protocol

from jaxtyping import Float
from torch import Tensor


class AnySpace(Protocol):
    """A set of parameters with coordinates: an affine `landform.subspace.Subspace`, or a curve."""

    @property
    def z(self) -> int:
        """Number of coordinates."""
        ...

    def at(self, h: Float[Tensor, " z"]) -> Mapping[str, Tensor]:
        """Return parameters at one point, fit for `torch.func.functional_call`."""
        ...
