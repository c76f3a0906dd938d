"""Where to look: an origin and directions in parameter space."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from landform.errors import InputError


@dataclass(frozen=True, eq=False, repr=False)
class Subspace:
    """The affine subspace θ(h) = origin + Σ_i h_i · direction_i.

    Args:
        origin: Every parameter by name.
        directions: One mapping a coordinate, holding only the parameters it moves.

    Raises:
        InputError: If a direction moves a parameter that the origin lacks, or has another shape.

    Example:
        >>> space = Subspace({"b": torch.zeros(3)}, ({"b": torch.tensor([1.0, 0.0, 0.0])},))
        >>> space.at(torch.tensor([0.25]))["b"]
        tensor([0.2500, 0.0000, 0.0000])
    """

    origin: Mapping[str, Tensor]
    directions: tuple[Mapping[str, Tensor], ...]

    def __post_init__(self) -> None:
        for number, direction in enumerate(self.directions, start=1):
            for name, value in direction.items():
                if name not in self.origin:
                    raise InputError(f"direction {number} moves '{name}', which is no parameter of the origin")
                if value.shape != self.origin[name].shape:
                    raise InputError(
                        f"direction {number} has shape {tuple(value.shape)} for '{name}', the origin"
                        f" {tuple(self.origin[name].shape)}"
                    )

    def __repr__(self) -> str:
        """Say what it is in one line."""
        size = sum(t.numel() for t in self.origin.values())
        return f"Subspace(z={self.z}, {size:,} parameters, moves {', '.join(self.moved)})"

    @property
    def z(self) -> int:
        """Number of coordinates."""
        return len(self.directions)

    @property
    def moved(self) -> tuple[str, ...]:
        """Names of the parameters that some direction moves."""
        return tuple(dict.fromkeys(name for direction in self.directions for name in direction))

    def at(self, h: Float[Tensor, " z"]) -> dict[str, Tensor]:
        """Return every parameter at one point, fit for `torch.func.functional_call`.

        Args:
            h: Coordinates, shape ``[z]``. Values outside [0, 1] are allowed here (a promise may not hold there).

        Returns:
            A dict of all parameters. Those that no direction moves are the origin's own tensors, not copies.

        Raises:
            InputError: If ``h`` has the wrong length or is not finite.

        Cost:
            One copy of the moved parameters.
        """
        if tuple(h.shape) != (self.z,) or not bool(torch.isfinite(h).all()):
            raise InputError(f"a point of this subspace has {self.z} finite coordinates, got {h.tolist()}")
        out = dict(self.origin)
        for name in self.moved:
            value = out[name].detach().clone()
            for coordinate, direction in zip(h, self.directions, strict=True):
                if name in direction:
                    value += coordinate.to(value.dtype) * direction[name]
            out[name] = value
        return out
