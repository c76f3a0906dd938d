"""ψ ≈ ρ^{-1}: the last hidden layer, which bends the pattern into the signal."""

from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

from landform.errors import CapacityError, InputError
from landform.response.base import AbstractResponse
from landform.response.gap import check_range, chord_gap
from landform.response.knots import KnotTable


@dataclass(frozen=True)
class Spline:
    """A piecewise linear ψ on [0, 1]: ``s = end − Σ_k coefficients_k · relu(knots_k − τ)``.

    τ is the pattern value, t = lo + (hi − lo)·τ the loss wanted. ψ interpolates ρ^{-1} at 0 and at every knot. As
    ρ^{-1} is concave for convex ρ, every coefficient is ≥ 0 and the sum does not cancel.

    Attributes:
        knots: Pattern values in (0, 1], ascending, the last one 1.
        coefficients: One per knot, in units of s.
        end: s at τ = 1.
        gap: sup over τ in [0, 1] of |ρ(ψ(τ)) − t|, in loss units: an upper bound up to rounding for convex ρ, else
            measured.
        lo: Loss at τ = 0.
        hi: Loss at τ = 1.
    """

    knots: Float64[Tensor, " units"]
    coefficients: Float64[Tensor, " units"]
    end: float
    gap: float
    lo: float
    hi: float

    @property
    def units(self) -> int:
        """Number of hidden units, m."""
        return len(self.knots)

    @property
    def relative_gap(self) -> float:
        """The gap as a fraction of the range hi − lo."""
        return self.gap / (self.hi - self.lo)

    def __call__(self, tau: Float64[Tensor, "*shape"]) -> Float64[Tensor, "*shape"]:
        """Return ψ(τ).

        Args:
            tau: Pattern values in [0, 1].

        Returns:
            Signals s, same shape.
        """
        return _evaluate(self.knots, self.coefficients, self.end, tau.to(torch.float64))


def fit_spline(
    response: AbstractResponse,
    lo: float,
    hi: float,
    *,
    epsilon: float = 1e-4,
    units: int | None = None,
    required: Float64[Tensor, " required"] | None = None,
    max_units: int = 4096,
) -> Spline:
    """Fit ψ with the fewest knots for which ``sup |ρ(ψ(τ)) − t| ≤ epsilon·(hi − lo)``, then even out its gaps.

    Between two knots the error is the gap between ρ and its chord over the two signals. The longest interval within a
    given gap, taken again and again from the left, needs the fewest knots; then the gap is lowered as far as that
    number allows, so every interval has nearly the same. Working in s makes the square-root end of ρ^{-1} at the floor
    harmless, and knots fall on the kinks of ρ, so for L1 a few make the gap 0.

    Args:
        response: Gives ρ.
        lo: Loss at τ = 0; the floor itself is allowed.
        hi: Loss at τ = 1.
        epsilon: Allowed error as a fraction of the range. 1e-4 takes 42 units for 10 balanced classes and is a
            fortieth of a grey level of an 8-bit picture.
        units: Take this many knots instead, with the least gap, whatever epsilon is.
        required: Pattern values that must be knots, so that ψ is exact there (for instance a pattern's nodal values).
        max_units: Most knots to use; 4096 reaches about 1e-8 for cross-entropy.

    Returns:
        The spline, with its gap.

    Raises:
        FloorError: If lo is below the floor.
        InputError: If the range is empty, or epsilon, units or required are out of range.
        CapacityError: If more than max_units knots are needed.

    Cost:
        A few ms for 64 knots, about 1 s for 4096.

    Example:
        >>> from landform.response import respond
        >>> response = respond("mse", torch.tensor([0.0, 2.0]))  # ρ(s) = 1 + s², chord gap h²/4
        >>> spline = fit_spline(response, 1.0, 2.0, units=10)
        >>> round(spline.gap, 5), [round(x, 3) for x in spline.knots[:3].tolist()]
        (0.0025, [0.01, 0.04, 0.09])
    """
    check_range(lo, hi)
    if not epsilon > 0:
        raise InputError(f"epsilon must be positive, got {epsilon}")
    if units is not None and not 1 <= units <= max_units:
        raise InputError(f"units must be in 1..{max_units} (max_units), got {units}")
    inner = _required(required)
    ends = response.inverse(torch.cat([inner.new_tensor([lo]), lo + (hi - lo) * inner, inner.new_tensor([hi])]))
    if units is not None and len(inner) + 1 > units:
        raise CapacityError(f"{len(inner)} required knots need {len(inner) + 1} units, more than units={units}")
    allowed = epsilon * (hi - lo)
    target, spline = allowed, None
    for _ in range(4):
        table = KnotTable.build(response, ends, allowed=target, units=units, max_units=max_units)
        chosen = table.choose(target) if units is None else table.choose_units(units)
        if chosen is None:
            break
        spline = _spline(response, lo, hi, chosen, ends, inner)
        if units is not None or spline.gap <= allowed:
            return spline
        target *= 0.98 * min(1.0, allowed / spline.gap)
    reached = f"; {spline.units} units reach {spline.relative_gap:.2g}" if spline is not None else ""
    raise CapacityError(
        f"epsilon={epsilon:g} of the range {lo:.4g}..{hi:.4g} needs more than max_units={max_units} units with "
        f"{len(inner)} required knots{reached}; raise epsilon or max_units"
    )


def _required(required: Tensor | None) -> Tensor:
    if required is None:
        return torch.empty(0, dtype=torch.float64)
    tau: Tensor = torch.unique(required.to(torch.float64).reshape(-1))
    if len(tau) and not bool(((tau >= 0) & (tau <= 1)).all()):
        raise InputError(f"required knots must be in [0, 1], got {float(tau.min())} .. {float(tau.max())}")
    return tau[(tau > 0) & (tau < 1)]


def _spline(response: AbstractResponse, lo: float, hi: float, chosen: Tensor, ends: Tensor, inner: Tensor) -> Spline:
    # the knot of a signal is the loss it gives; the required ones keep their exact τ
    tau = (response.along(chosen) - lo) / (hi - lo)
    tau[0], tau[-1] = 0.0, 1.0
    if len(inner):
        at = torch.searchsorted(chosen, ends[1:-1].contiguous())
        tau[at] = inner
    keep = torch.cat([tau.new_ones(1, dtype=torch.bool), tau.diff() > 0])
    keep &= tau < 1.0
    keep[-1] = True
    tau, s = tau[keep], chosen[keep]
    steep = s.diff() / tau.diff()
    coefficients = steep - torch.cat([steep[1:], steep.new_zeros(1)])
    if response.convex:
        coefficients = coefficients.clamp(min=0.0)
    knots, end = tau[1:], float(s[-1])
    # the gap of what these numbers give in float64, not of what they stand for: chords between the values at the knots,
    # plus how far those values are off
    made = _evaluate(knots, coefficients, end, tau).clamp(min=0.0).cummax(0).values
    off = (response.along(made) - (lo + (hi - lo) * tau)).abs()
    gap = chord_gap(response, made[:-1], made[1:]) + torch.maximum(off[:-1], off[1:])
    return Spline(knots, coefficients, end, float(gap.max()), lo, hi)


def _evaluate(knots: Tensor, coefficients: Tensor, end: float, tau: Tensor) -> Tensor:
    flat = tau.reshape(-1)
    step = max(1, 2**22 // len(knots))
    parts = [(knots - flat[i : i + step, None]).clamp(min=0.0) @ coefficients for i in range(0, len(flat), step)]
    return end - torch.cat([*parts, flat[:0]]).reshape(tau.shape)
