"""What engines ask of a subspace."""

from collections.abc import Mapping
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from landform.subspace import Subspace


class AnySpace(Protocol):
    """A set of parameters with coordinates: an affine `landform.subspace.Subspace`, or a curve."""

    @property
    def z(self) -> int:
        """Number of coordinates."""
        ...

    @property
    def origin(self) -> Mapping[str, Tensor]:
        """Every parameter by name, at one point."""
        ...

    @property
    def moved(self) -> tuple[str, ...]:
        """Names of the parameters that change."""
        ...

    def at(self, h: Float[Tensor, " z"]) -> Mapping[str, Tensor]:
        """Return parameters at one point, fit for `torch.func.functional_call`."""
        ...


def parameters_at(subspace: AnySpace, h: Float[Tensor, " z"]) -> Mapping[str, Tensor]:
    """Return parameters at one point, those of half precision in float32.

    A task computes such models in float32; rounding its points to half precision would make stairs of the surface.

    Args:
        subspace: Where.
        h: Coordinates.

    Returns:
        Parameters by name.

    Example:
        >>> line = Subspace({"w": torch.ones(1).bfloat16()}, ({"w": torch.ones(1)},))
        >>> float(parameters_at(line, torch.tensor([0.001]))["w"])
        1.00100004673...
    """
    if isinstance(subspace, Subspace):
        half = (torch.float16, torch.bfloat16)
        dtypes = {value.dtype for value in subspace.origin.values() if value.is_floating_point()}
        if dtypes & set(half):
            return subspace.at(h, dtype=torch.float64 if torch.float64 in dtypes else torch.float32)
    return subspace.at(h)
