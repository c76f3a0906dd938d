"""How far a convex response leaves its chords: the one-dimensional certificate."""

import torch
from jaxtyping import Float64
from torch import Tensor

from landform.errors import InputError
from landform.response.base import AbstractResponse

_SAMPLES = 65
_NOTHING = 1e-17
"""A slack this small, relative to the loss, is far below one rounding of ρ."""


def chord_gap(
    response: AbstractResponse, s_left: Float64[Tensor, " intervals"], s_right: Float64[Tensor, " intervals"]
) -> Float64[Tensor, " intervals"]:
    """Return ``max over s in [a, b] of |chord(s) − ρ(s)|`` on each interval.

    For convex ρ the maximum lies where the chord's slope κ is in ∂ρ. That point is bisected on the right derivative
    down to an interval [l, r]; the result is the gap at l plus (κ − ρ'(l))·(r − l), which bounds the maximum from above
    (the gap is concave), up to rounding. It needs no second derivative, so kinks are served. Where ρ is not known to
    be convex the result is the maximum over 65 points: measured, not a bound.

    Args:
        response: Gives ρ and ρ'.
        s_left: Left ends a, ≥ 0.
        s_right: Right ends b ≥ a.

    Returns:
        The gaps, ≥ 0, in loss units.

    Raises:
        InputError: If an interval is reversed.

    Cost:
        About 25 evaluations of ρ' (54 beside kinks), 3 of ρ, vectorised.

    Example:
        >>> from landform.response import respond
        >>> ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
        >>> response = respond("mse", torch.tensor([0.0, 2.0]))  # ρ(s) = 1 + s²
        >>> chord_gap(response, ends[:1], ends[1:]).tolist()
        [0.25]
    """
    a, b = s_left.to(torch.float64), s_right.to(torch.float64)
    if bool((b < a).any()):
        raise InputError("an interval is reversed: s_left must be <= s_right")
    base, top = response.along(a), response.along(b)
    width = b - a
    if not response.convex:
        share = torch.linspace(0.0, 1.0, _SAMPLES, dtype=torch.float64)
        inner = response.along(a[:, None] + width[:, None] * share)
        return (base[:, None] + (top - base)[:, None] * share - inner).abs().amax(dim=1)
    kappa = torch.where(width > 0, (top - base) / width, torch.zeros_like(width))
    low, high, left = a.clone(), b.clone(), response.slope(a)
    slack = (kappa - left).clamp(min=0.0) * width
    for _ in range(54):
        if bool((slack <= _NOTHING * top.abs()).all()):
            break
        middle = 0.5 * (low + high)
        steep = response.slope(middle)
        before = steep <= kappa
        low, high = torch.where(before, middle, low), torch.where(before, high, middle)
        left = torch.where(before, steep, left)
        slack = (kappa - left).clamp(min=0.0) * (high - low)
    gap = base + kappa * (low - a) - response.along(low) + slack
    return torch.where(width > 0, gap.clamp(min=0.0), torch.zeros_like(gap))


def direct_gap(
    response: AbstractResponse,
    lo: float,
    hi: float,
    tau_left: Float64[Tensor, " edges"],
    tau_right: Float64[Tensor, " edges"],
) -> float:
    """Return the gap of the direct form, in which the hats carry s = ρ^{-1}(t) itself and there is no ψ.

    On a simplex both the signal and the pattern are affine, so the loss leaves the pattern by Jensen's gap of ρ at the
    vertices, and that is largest on an edge: the maximum of `chord_gap` over the mesh's edges.

    Args:
        response: Gives ρ.
        lo: Loss at pattern value 0.
        hi: Loss at pattern value 1.
        tau_left: Pattern value in [0, 1] at one end of each edge.
        tau_right: The same at the other end.

    Returns:
        The gap in loss units.

    Raises:
        InputError: If hi ≤ lo or a pattern value is outside [0, 1].
        FloorError: If lo is below the floor.

    Cost:
        One `chord_gap` over the distinct edges.

    Example:
        >>> from landform.response import respond
        >>> ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
        >>> direct_gap(respond("mse", torch.tensor([0.0, 2.0])), 1.0, 2.0, ends[:1], ends[1:])
        0.25
    """
    check_range(lo, hi)
    ends = torch.stack([tau_left, tau_right], dim=1).to(torch.float64)
    if bool(((ends < 0) | (ends > 1)).any()):
        raise InputError(f"pattern values must be in [0, 1], got {float(ends.min())} .. {float(ends.max())}")
    ends = torch.unique(ends.sort(dim=1).values, dim=0)
    ends = ends[ends[:, 0] < ends[:, 1]]
    if not len(ends):
        return 0.0
    values, index = torch.unique(ends, return_inverse=True)
    s = response.inverse(lo + (hi - lo) * values)[index]
    return float(chord_gap(response, s[:, 0], s[:, 1].maximum(s[:, 0])).max())


def check_range(lo: float, hi: float) -> None:
    """Refuse an empty or infinite range.

    Args:
        lo: Loss at pattern value 0.
        hi: Loss at pattern value 1.

    Raises:
        InputError: If not lo < hi, both finite.

    Example:
        >>> check_range(0.0, 1.0)
    """
    if not (torch.isfinite(torch.tensor([lo, hi], dtype=torch.float64)).all() and lo < hi):
        raise InputError(f"the range must have lo < hi, both finite, got lo={lo}, hi={hi}; pass range='auto'")
