"""Convex functions on [0, ∞) made of parabolas and lines, with exact inverse: L1, Huber, margin losses."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

_ZERO = 64 * float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class ConvexHalf:
    """A convex, non-decreasing, piecewise quadratic g on [0, ∞) with g(0) = 0.

    On [knots_k, knots_{k+1}], with x = u − knots_k: g(u) = values_k + slopes_k·x + ½·curvatures_k·x². Every number is
    ≥ 0 and is accumulated outwards from 0, so nothing cancels.

    Attributes:
        knots: Left ends of the pieces, the first one 0.
        values: g there.
        slopes: Right derivatives there.
        curvatures: Second derivative on each piece.
    """

    knots: Float64[Tensor, " pieces"]
    values: Float64[Tensor, " pieces"]
    slopes: Float64[Tensor, " pieces"]
    curvatures: Float64[Tensor, " pieces"]

    def value(self, u: Float64[Tensor, " points"]) -> Float64[Tensor, " points"]:
        """Return g(u) for u ≥ 0; differentiable, with right derivatives at kinks.

        Args:
            u: Positions.

        Returns:
            Values.
        """
        k = self._piece(u)
        x = u - self.knots[k]
        return self.values[k] + x * (self.slopes[k] + 0.5 * self.curvatures[k] * x)

    def slope(self, u: Float64[Tensor, " points"]) -> Float64[Tensor, " points"]:
        """Return the right derivative g'(u).

        Args:
            u: Positions, ≥ 0.

        Returns:
            Slopes.
        """
        k = self._piece(u)
        return self.slopes[k] + self.curvatures[k] * (u - self.knots[k])

    def inverse(self, value: Float64[Tensor, " points"]) -> Float64[Tensor, " points"]:
        """Return the last u with g(u) = value.

        Args:
            value: Values, ≥ 0.

        Returns:
            Positions; infinite where g stays below.
        """
        k = torch.searchsorted(self.values, value, right=True) - 1
        rest = value - self.values[k]
        slope = self.slopes[k]
        x = 2.0 * rest / (slope + (slope * slope + 2.0 * self.curvatures[k] * rest).sqrt())
        x = torch.where(rest <= 0.0, torch.zeros_like(x), x)
        end = torch.cat([self.knots[1:], self.knots.new_full((1,), float("inf"))])[k]
        return torch.minimum(self.knots[k] + x, end)

    def flat(self) -> float:
        """Return the last u with g(u) = 0."""
        k = int((self.values <= 0.0).sum()) - 1
        return float(self.knots[k])

    def kinks(self) -> Float64[Tensor, " kinks"]:
        """Return the u > 0 at which g' jumps."""
        before = self.slopes[:-1] + self.curvatures[:-1] * self.knots.diff()
        jump = self.slopes[1:] - before
        return self.knots[1:][jump > _ZERO * self.slopes[1:]]

    def _piece(self, u: Tensor) -> Tensor:
        return (torch.searchsorted(self.knots, u.detach().contiguous(), right=True) - 1).clamp(min=0)


def convex_half(
    *,
    slope: float,
    curvature: float,
    positions: Float64[np.ndarray, " events"],
    jumps: Float64[np.ndarray, " events"],
    bends: Float64[np.ndarray, " events"],
    terms: float,
) -> ConvexHalf:
    """Add up a convex function from what happens at each position.

    Args:
        slope: Right derivative at 0; within a rounding error of `terms` it counts as 0.
        curvature: Second derivative right of 0.
        positions: Where something changes; those ≤ 0 are taken to be in slope and curvature already.
        jumps: Change of the slope at each position, ≥ 0.
        bends: Change of the curvature at each position.
        terms: Sum of the absolute values that slope was added up from.

    Returns:
        The function.

    Example:
        >>> kink = convex_half(slope=0.0, curvature=0.0, positions=np.ones(1), jumps=np.ones(1), bends=np.zeros(1),
        ...                    terms=0.0)
        >>> kink.value(torch.tensor([0.5, 3.0], dtype=torch.float64)).tolist(), kink.flat()
        ([0.0, 2.0], 1.0)
    """
    later = positions > 0
    where, index = np.unique(positions[later], return_inverse=True)
    jump = np.bincount(index, weights=jumps[later], minlength=len(where))
    bend = np.bincount(index, weights=bends[later], minlength=len(where))
    knots = np.concatenate([[0.0], where])
    wide = np.longdouble
    curvatures = np.cumsum(np.concatenate([[curvature], bend]).astype(wide))
    curvatures[curvatures <= _ZERO * (abs(curvature) + np.abs(bends).sum())] = 0.0
    if abs(slope) <= _ZERO * terms:
        slope = 0.0
    assert slope >= 0.0, f"slope {slope} right of a minimiser"
    width = np.diff(knots.astype(wide))
    slopes = np.cumsum(np.concatenate([[slope], curvatures[:-1] * width + jump]).astype(wide))
    steps = width * (slopes[:-1] + 0.5 * curvatures[:-1] * width)
    values = np.cumsum(np.concatenate([[0.0], steps]).astype(wide))
    return ConvexHalf(*(torch.from_numpy(x.astype(np.float64)) for x in (knots, values, slopes, curvatures)))
