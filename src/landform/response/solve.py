"""Invert an increasing function on [0, ∞), vectorised: Newton in the square root, kept safe by a bracket."""

from collections.abc import Callable

import torch
from jaxtyping import Float64
from torch import Tensor

from landform.errors import InputError

Curve = Callable[[Tensor], Tensor]


def solve_rise(
    rise: Curve, slope: Curve, target: Float64[Tensor, " points"], *, base: float = 0.0
) -> Float64[Tensor, " points"]:
    """Solve g(s) = target for s ≥ 0, where g is increasing and g(0) = 0.

    A response leaves its floor quadratically, so Newton's method is applied to √g(s) = √target, which is nearly linear
    there; a step that leaves the bracket, or follows one that did not halve the error, is replaced by the midpoint.

    Args:
        rise: g, vectorised.
        slope: g', vectorised.
        target: Values to reach, none negative.
        base: What the values are added to; half an ulp of the sum is close enough.

    Returns:
        s with base + g(s) = base + target up to rounding.

    Raises:
        InputError: If g does not reach a target before s = 2^40.

    Cost:
        6 to 15 evaluations of g and g' for smooth g, at most 200.

    Example:
        >>> s = solve_rise(lambda s: s * s, lambda s: 2 * s, torch.tensor([0.0, 4.0], dtype=torch.float64))
        >>> [round(x, 12) for x in s.tolist()]
        [0.0, 2.0]
    """
    low, high = _bracket(rise, target)
    eps = torch.finfo(torch.float64).eps
    root, enough = target.sqrt(), 0.5 * eps * (abs(base) + target)
    s, answer = high.clone(), high.clone()
    residual = torch.full_like(s, float("inf"))
    previous, finished = residual, target == 0.0
    for _ in range(200):
        g = rise(s)
        error = (g - target).abs()
        better = error < residual
        answer, residual = torch.where(better, s, answer), torch.where(better, error, residual)
        above = g >= target
        low, high = torch.where(above, low, s), torch.where(above, s, high)
        height = g.clamp(min=0.0).sqrt()
        newton = s - 2.0 * height * (height - root) / slope(s)
        # where g is all but 0 the step is 0 as well, and says nothing
        still = ((newton - s).abs() <= 2.0 * eps * s) & (error < 0.5 * target)
        finished |= still | (high - low <= 2.0 * eps * high) | (residual <= enough)
        if bool(finished.all()):
            break
        safe = (newton > low) & (newton < high) & (error <= 0.5 * previous)
        s, previous = torch.where(safe, newton, 0.5 * (low + high)), error
    return torch.where(target == 0.0, torch.zeros_like(answer), answer)


def _bracket(rise: Curve, target: Tensor) -> tuple[Tensor, Tensor]:
    low, high = torch.zeros_like(target), torch.ones_like(target)
    for _ in range(41):
        short = ~(rise(high) >= target)
        if not bool(short.any()):
            return low, high
        low, high = torch.where(short, high, low), torch.where(short, 2.0 * high, high)
    raise InputError(
        f"the loss never rises by {float(target[short].min()):.4g} along its ray (s up to 1e12); lower the range's "
        "upper end"
    )
