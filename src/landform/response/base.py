"""The response: a data set's loss as a function of a constant output (Lemma 1 made computable)."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from landform.errors import FloorError, InputError

ULPS = 8 * torch.finfo(torch.float64).eps
"""How far, relative to the loss, a value may fall short of the floor and still count as the floor."""


class AbstractResponse(ABC):
    """The loss over a data set of a network whose output p does not depend on its input.

    ``σ(p) = 1/N Σ_i ℓ(p, y_i)`` with the normaliser of the loss itself, and along a ray
    ``ρ(s) = σ(p0 + s·v)``, s ≥ 0, where p0 is a best constant output and v a signed unit vector. Where ℓ is convex in p
    so is ρ; s = 0 is its last minimiser, so ρ is increasing and has a continuous inverse on [ρ(0), ∞):
    the right inverse that Lemma 1 of arXiv 1912.07559 asks for.

    Subclasses are final, one per family of losses; they state σ (`loss`) and the rise ``ρ(s) − ρ(0)`` in a form that
    does not cancel near s = 0. Everything is float64, and nothing is random.

    Attributes:
        name: Name of the loss, e.g. ``"cross_entropy"``; accepted by `respond`.
        unit: ``"nat"`` for log losses, else ``"loss"``.
        n_outputs: Length of p, the output size of the network.
        floor: inf σ over all constant outputs (for absent classes the infimum, which is not attained).
        excess: σ(p0) − floor; 0 unless a class was absent or labels one-sided.
        best: p0, shape [outputs].
        ray: v, shape [outputs]; always ±1 at one output and 0 elsewhere.
        output: Index of the output that the ray moves.
        sign: +1.0 or −1.0, the ray's entry there.
        convex: Whether ρ is convex: proved for the family, or declared by the user.
        kind: ``"certified"``, or ``"measured"`` where convexity is only observed.
        assumptions: What a certificate that uses this response must list.
        options: JSON-able options of the loss, as `respond` takes them.
    """

    def __init__(
        self,
        *,
        name: str,
        unit: Literal["nat", "loss"],
        floor_name: str,
        statistics: np.ndarray,
        options: Mapping[str, Any],
        best: Float64[Tensor, " outputs"],
        output: int,
        sign: float = 1.0,
        floor: float,
        excess: float = 0.0,
        convex: bool = True,
        kind: Literal["certified", "measured"] = "certified",
        assumptions: tuple[str, ...] = (),
    ) -> None:
        self.name = name
        self.unit = unit
        self.n_outputs = len(best)
        self.floor = float(floor)
        self.excess = float(excess)
        self.best = best
        self.output = int(output)
        self.sign = float(sign)
        self.ray = torch.zeros(len(best), dtype=torch.float64)
        self.ray[self.output] = self.sign
        self.convex = convex
        self.kind: Literal["certified", "measured"] = kind
        self.assumptions = assumptions
        self.options = dict(options)
        self._floor_name = floor_name
        self._statistics = np.ascontiguousarray(statistics, dtype=np.float64)

    @abstractmethod
    def _loss(self, outputs: Float64[Tensor, "points outputs"]) -> Float64[Tensor, " points"]:
        """Return σ of each row, differentiable by autograd (right derivatives at kinks)."""

    @abstractmethod
    def _rise(self, s: Float64[Tensor, " points"]) -> Float64[Tensor, " points"]:
        """Return ρ(s) − ρ(0) for s ≥ 0."""

    @abstractmethod
    def _slope(self, s: Float64[Tensor, " points"]) -> Float64[Tensor, " points"]:
        """Return the right derivative ρ'(s) for s ≥ 0."""

    @abstractmethod
    def _unrise(self, rise: Float64[Tensor, " points"]) -> Float64[Tensor, " points"]:
        """Return s ≥ 0 with ρ(s) − ρ(0) = rise, for rise ≥ 0."""

    @classmethod
    @abstractmethod
    def from_state(cls, config: Mapping[str, Any], statistics: np.ndarray) -> "AbstractResponse":
        """Rebuild a response from `config` and `statistics`.

        Args:
            config: What `config` returned.
            statistics: What `statistics` returned.

        Returns:
            An equal response.
        """

    @property
    def lowest(self) -> float:
        """σ(p0), the least value on the ray: floor + excess."""
        return self.floor + self.excess

    def loss(self, outputs: Float64[Tensor, "points outputs"]) -> Float64[Tensor, " points"]:
        """Return σ(p) for each row p.

        Args:
            outputs: Constant outputs, shape [points, outputs].

        Returns:
            The data-set loss of each, in loss units, shape [points].

        Raises:
            InputError: If the rows do not have `n_outputs` entries.
        """
        if outputs.ndim != 2 or outputs.shape[1] != self.n_outputs:
            raise InputError(
                f"outputs have shape {list(outputs.shape)}, but {self.name} was built for rows of "
                f"{self.n_outputs}; pass [points, {self.n_outputs}]"
            )
        return self._loss(outputs.to(torch.float64))

    def along(self, s: Float64[Tensor, "*shape"]) -> Float64[Tensor, "*shape"]:
        """Return ρ(s) = σ(p0 + s·v).

        Args:
            s: Positions on the ray; negative ones are served through `loss`.

        Returns:
            The loss there, same shape, in loss units.
        """
        flat = s.to(torch.float64).reshape(-1)
        value = self.lowest + self._rise(flat.clamp(min=0.0))
        if bool((flat < 0).any()):
            value = torch.where(flat < 0, self._loss(self.best + flat[:, None] * self.ray), value)
        return value.reshape(s.shape)

    def slope(self, s: Float64[Tensor, "*shape"]) -> Float64[Tensor, "*shape"]:
        """Return the right derivative ρ'(s), for s ≥ 0.

        Args:
            s: Positions on the ray, none negative.

        Returns:
            Loss per unit of s, same shape; it does not decrease where `convex` holds.

        Raises:
            InputError: If some s is negative.
        """
        flat = s.to(torch.float64).reshape(-1)
        if bool((flat < 0).any()):
            raise InputError(f"slope is defined for s >= 0, got {float(flat.min())}; clamp s at 0")
        return self._slope(flat).reshape(s.shape)

    def inverse(self, t: Float64[Tensor, "*shape"]) -> Float64[Tensor, "*shape"]:
        """Return ρ^{-1}(t) on [σ(p0), ∞): the s ≥ 0 with ρ(s) = t.

        ``|ρ(ρ^{-1}(t)) − t|`` is a few units in the last place of t, or what one of s makes of it where ρ is steep (a
        Poisson loss at s = 30); s itself is only good to √eps beside the floor.

        Args:
            t: Losses, in loss units.

        Returns:
            Positions on the ray, same shape.

        Raises:
            FloorError: If some t is below σ(p0).
            InputError: If some t is not finite, or is never reached along the ray.

        Cost:
            Closed form, or 6 to 15 vectorised evaluations of ρ and ρ'.
        """
        flat = t.to(torch.float64).reshape(-1)
        if not bool(torch.isfinite(flat).all()):
            raise InputError(f"losses to invert must be finite, got {flat[~torch.isfinite(flat)][0]}")
        if not len(flat):
            return flat.reshape(t.shape)
        least = float(flat.min())
        if least < self.lowest - ULPS * max(abs(self.lowest), abs(least), self.excess):
            raise FloorError(self._below(least))
        return self._unrise((flat - self.lowest).clamp(min=0.0)).reshape(t.shape)

    def _below(self, least: float) -> str:
        floor, unit = show(self.lowest), "nat" if self.unit == "nat" else "loss units"
        return (
            f"pattern floor {show(least)} is below the {self._floor_name} {floor} {unit}, which no "
            "input-independent output can beat; pass range='auto', or a range that starts above it"
        )

    def kinks(self) -> Float64[Tensor, " kinks"]:
        """Return the s > 0 at which ρ' jumps, ascending; none for a smooth loss."""
        return self._kinks()

    def _kinks(self) -> Float64[Tensor, " kinks"]:
        return torch.empty(0, dtype=torch.float64)

    def statistics(self) -> np.ndarray:
        """Return all that σ needs of the data, a float64 matrix; the family's docstring says what its rows are."""
        return self._statistics.copy()

    def config(self) -> dict[str, Any]:
        """Return the JSON-able rest: ``name``, ``outputs`` and ``options``; see `response_from_state`."""
        return {"name": self.name, "outputs": self.n_outputs, "options": dict(self.options)}

    def auto_range(self, other: "AbstractResponse | None" = None, *, margin: float = 0.05) -> tuple[float, float]:
        """Choose the range (lo, hi) that a pattern in [0, 1] is mapped to.

        lo = σ(p0) + margin and hi = lo + 1. If the level sets of this range would fold on a second data set, lo is
        raised to the point from which they transfer (`transfer`).

        Args:
            other: The response of a second data set under the same loss.
            margin: Distance of lo from the floor, in loss units. At the floor itself ρ' = 0: ρ^{-1} has a square-root
                end, which costs knots, and the slightest change of label shares folds the lowest level sets. 0.05
                takes both away (with 10 balanced classes the level sets transfer to any set where the ray's class has a
                share below 0.22) and keeps the picture near the bottom.

        Returns:
            (lo, hi) in loss units.

        Raises:
            InputError: If margin is negative, or other belongs to another loss.
        """
        if not margin >= 0.0:
            raise InputError(f"margin must be >= 0, got {margin}")
        lo = self.lowest + margin
        if other is not None:
            from landform.response.transfer import transfer

            turning = transfer(self, other, lo, lo + 1.0).turning_point
            lo = lo if turning is None else max(lo, turning)
        return lo, lo + 1.0

    def __repr__(self) -> str:
        """Show the loss, its size and its floor."""
        return (
            f"{type(self).__name__}({self.name}, outputs={self.n_outputs}, floor={self.floor:.6g} {self.unit}, "
            f"excess={self.excess:.2g}, output={self.output}, sign={self.sign:+.0f}, {self.kind})"
        )


def show(value: float) -> str:
    """Format a loss for an error: four digits, always recognisable as a real number.

    Args:
        value: The number.

    Returns:
        Its text.

    Example:
        >>> show(0.0), show(2.302585)
        ('0.0', '2.303')
    """
    text = f"{value:.4g}"
    return text if any(mark in text for mark in ".en") else text + ".0"


def as_list(values: Tensor | Sequence[float] | None) -> list[float] | None:
    """Return numbers as a JSON-able list, or None.

    Args:
        values: A tensor or sequence of numbers, or None.

    Returns:
        A flat list.
    """
    if values is None:
        return None
    numbers: list[float] = torch.as_tensor(values, dtype=torch.float64).reshape(-1).tolist()
    return numbers
