"""`Curve`: a quadratic Bézier curve between two points of parameter space."""

import dataclasses
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from landform.errors import InputError
from landform.subspace.subspace import Ranges, Subspace


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Curve:
    """The curve θ(t) = (1 − t)²·a + 2t(1 − t)·c + t²·b from a over a control point c to b.

    It lies in the plane through a, c and b: with h₁ along c − a and h₂ along b − a it is h(t) = (2t(1 − t), t²). So it
    has one coordinate and is scanned as a line is, and ``plane`` can be scanned with the curve drawn over it.

    Args:
        plane: Origin a, first direction c − a, second b − a.
        meta: Where it comes from.
        ranges: The range of t.

    Raises:
        InputError: A plane that has not two directions.

    Example:
        >>> a, c, b = torch.tensor([0.0, 0.0]), torch.tensor([1.0, 2.0]), torch.tensor([2.0, 0.0])
        >>> curve = Curve(Subspace({"w": a}, ({"w": c - a}, {"w": b - a})))
        >>> [curve.at(torch.tensor([t]))["w"].tolist() for t in (0.0, 0.5, 1.0)]
        [[0.0, 0.0], [1.0, 1.0], [2.0, 0.0]]
    """

    plane: Subspace
    meta: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    ranges: Ranges | None = ((0.0, 1.0),)

    def __post_init__(self) -> None:
        if self.plane.z != 2:
            raise InputError(f"the plane of a curve has two directions, c − a and b − a; this has {self.plane.z}")

    def __repr__(self) -> str:
        """Say what it is in one line."""
        return f"Curve(z=1, in {self.plane!r})"

    @property
    def z(self) -> int:
        """Number of coordinates: one, t."""
        return 1

    @property
    def origin(self) -> Mapping[str, Tensor]:
        """Every parameter at t = 0."""
        return self.plane.origin

    @property
    def moved(self) -> tuple[str, ...]:
        """Names of the parameters that change along the curve."""
        return self.plane.moved

    @cached_property
    def hash(self) -> str:
        """Identity for stores."""
        return f"bezier-{self.plane.hash}"

    def coordinates(self, t: Float[Tensor, "points 1"]) -> Float64[Tensor, "points 2"]:
        """Return where points of the curve lie in its plane.

        Args:
            t: Shape ``[points, 1]``, as a scan has it.

        Returns:
            (2t(1 − t), t²), shape ``[points, 2]``, float64.
        """
        t = t.double().reshape(len(t), 1)
        return torch.cat([2 * t * (1 - t), t * t], dim=1)

    def at(self, h: Float[Tensor, " 1"], *, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
        """Return every parameter at one t; see `Subspace.at`.

        Args:
            h: t, shape ``[1]``.
            dtype: As in `Subspace.at`.

        Returns:
            A dict of all parameters.

        Raises:
            InputError: Not one finite coordinate.
        """
        return self.plane.at(self._point(h), dtype=dtype)

    def write(self, h: Float[Tensor, " 1"], out: Mapping[str, Tensor]) -> None:
        """Write the moved parameters at one t into existing tensors; see `Subspace.write`."""
        self.plane.write(self._point(h), out)

    def _point(self, h: Tensor) -> Tensor:
        if tuple(h.shape) != (1,) or not bool(torch.isfinite(h).all()):
            raise InputError(f"a point of this curve has 1 finite coordinate, got {h.tolist()}")
        return self.coordinates(h[:, None])[0]
