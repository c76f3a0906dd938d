"""The same network on another data set: which level sets survive, and where their heights go."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float64
from torch import Tensor

from landform.errors import InputError
from landform.response.base import AbstractResponse
from landform.response.cross_entropy import CrossEntropy
from landform.response.gap import check_range

_SLIVER = 1e-9
"""A fold confined to this fraction of the range is rounding: ρ̃ changes there by 1e-18 of its bend."""

Order = Literal["kept", "reversed", "folded"]


@dataclass(frozen=True)
class Transfer:
    """What a pattern made for one data set becomes on another.

    At h the other set's loss is ρ̃(s(h)), ρ̃(s) = σ̃(p0 + s·v) with the *first* set's p0 and v. Its level sets are unions
    of the old ones, and the same ones iff ρ̃ is injective on the range of s.

    Attributes:
        response: The data set that the pattern was made for.
        other: The other data set.
        lo: Least loss of the pattern on the first set.
        hi: Greatest loss there.
        order: ``"kept"`` (ρ̃ increasing), ``"reversed"`` (decreasing) or ``"folded"``.
        turning_point: Where folded, the loss t on the first set at which ρ̃ turns; else None.
        condition: The decision in words, with its two numbers.
    """

    response: AbstractResponse
    other: AbstractResponse
    lo: float
    hi: float
    order: Order
    turning_point: float | None
    condition: str

    @property
    def identical(self) -> bool:
        """Whether the level sets on the other data set are the same."""
        return self.order != "folded"

    def remap(self, t: Float64[Tensor, "*shape"]) -> Float64[Tensor, "*shape"]:
        """Return ρ̃(ρ^{-1}(t)): the loss on the other set where the first set has loss t.

        Args:
            t: Losses on the first set, ≥ its floor.

        Returns:
            Losses on the other set, same shape.
        """
        return _curve(self.response, self.other)(self.response.inverse(t).reshape(-1)).reshape(t.shape)


def transfer(response: AbstractResponse, other: AbstractResponse, lo: float, hi: float) -> Transfer:
    """Predict the surface on another data set from its labels alone.

    For cross-entropy the level sets are identical iff softmax(p0 + s_lo·v)_c ≥ π̃_c (order kept) or
    softmax(p0 + s_hi·v)_c ≤ π̃_c (order reversed), c the ray's class and π̃ the other set's label shares. Other
    convex losses are decided by the minimisers of ρ̃, found by bisecting its derivative; a response not known to be
    convex on a grid of 1025 points.

    Args:
        response: The data set that the pattern was made for.
        other: The other data set under the same loss, with as many outputs.
        lo: Least loss of the pattern.
        hi: Greatest loss of the pattern.

    Returns:
        The prediction.

    Raises:
        InputError: If the losses differ or the range is empty.
        FloorError: If lo is below the first set's floor.

    Example:
        >>> from landform.response import respond
        >>> even, skew = torch.tensor([0, 1, 2, 3]), torch.tensor([0, 0, 0, 1, 2, 3])
        >>> first = respond("cross_entropy", even)
        >>> print(transfer(first, respond("cross_entropy", skew), 1.39, 2.39).condition)
        level sets fold: softmax(p0 + s·v)_0 runs from 0.288 to 0.87 and passes the other set's share 0.5
    """
    check_range(lo, hi)
    if other.name != response.name or other.n_outputs != response.n_outputs:
        raise InputError(
            f"transfer compares one loss on two data sets, got {response.name} with {response.n_outputs} outputs and "
            f"{other.name} with {other.n_outputs}; build the second with respond_like(first, targets)"
        )
    s_lo, s_hi = response.inverse(torch.tensor([lo, hi], dtype=torch.float64)).tolist()
    if isinstance(response, CrossEntropy) and isinstance(other, CrossEntropy):
        order, turn, condition = _cross_entropy(response, other, s_lo, s_hi)
    elif other.convex:
        order, turn, condition = _convex(_curve(response, other), s_lo, s_hi)
    else:
        order, turn, condition = _grid(_curve(response, other), s_lo, s_hi)
    turning = None if turn is None else float(response.along(torch.tensor([turn], dtype=torch.float64)))
    return Transfer(response, other, lo, hi, order, turning, condition)


Verdict = tuple[Order, float | None, str]


def _curve(response: AbstractResponse, other: AbstractResponse) -> Callable[[Tensor], Tensor]:
    return lambda s: other.loss(response.best + s[:, None] * response.ray)


def _cross_entropy(response: CrossEntropy, other: CrossEntropy, s_lo: float, s_hi: float) -> Verdict:
    c = response.output
    share = float(other.shares[c])
    low, high = response.probability(s_lo), response.probability(s_hi)
    turn, slack = response.signal(share), _SLIVER * (s_hi - s_lo)
    where = f"the other set's share {share:.3g} of class {c}"
    if turn <= s_lo + slack:
        return "kept", None, f"level sets are identical: softmax(p0 + s_lo·v)_{c} = {low:.3g} >= {where} (order kept)"
    if turn >= s_hi - slack:
        text = f"level sets are identical: softmax(p0 + s_hi·v)_{c} = {high:.3g} <= {where} (order reversed)"
        return "reversed", None, text
    text = f"level sets fold: softmax(p0 + s·v)_{c} runs from {low:.3g} to {high:.3g} and passes the other set's share"
    return "folded", turn, f"{text} {share:.3g}"


def _convex(curve: Callable[[Tensor], Tensor], s_lo: float, s_hi: float) -> Verdict:
    slack = _SLIVER * (s_hi - s_lo)
    first, last = s_lo + slack, s_hi - slack
    low, high = _derivative(curve, first), _derivative(curve, last)
    # where a slope is only rounding the curve is flat, which is not injective
    level = 1e-13 * float(curve(torch.tensor([s_lo, s_hi], dtype=torch.float64)).abs().max()) / (s_hi - s_lo)
    ends = f"the slope of the other set's response is {low:.3g} at s_lo and {high:.3g} at s_hi"
    if low > level:
        return "kept", None, f"level sets are identical: {ends} (order kept)"
    if high < -level:
        return "reversed", None, f"level sets are identical: {ends} (order reversed)"
    for _ in range(80):
        middle = 0.5 * (first + last)
        if _derivative(curve, middle) > level:
            last = middle
        else:
            first = middle
    return "folded", last, f"level sets fold: {ends}"


def _derivative(curve: Callable[[Tensor], Tensor], s: float) -> float:
    position = torch.tensor([s], dtype=torch.float64, requires_grad=True)
    with torch.enable_grad():
        (slope,) = torch.autograd.grad(curve(position).sum(), position)
    return float(slope)


def _grid(curve: Callable[[Tensor], Tensor], s_lo: float, s_hi: float) -> Verdict:
    s = torch.linspace(s_lo, s_hi, 1025, dtype=torch.float64)
    with torch.no_grad():
        step = curve(s).diff()
    ends = f"over 1025 points the other set's response steps by {float(step.min()):.3g} to {float(step.max()):.3g}"
    if bool((step > 0).all()):
        return "kept", None, f"level sets are identical: {ends} (order kept, measured)"
    if bool((step < 0).all()):
        return "reversed", None, f"level sets are identical: {ends} (order reversed, measured)"
    turn = math.nan
    wrong = (step <= 0).nonzero()[:, 0]
    turn = float(s[int(wrong[-1]) + 1])
    return "folded", turn, f"level sets fold: {ends} (measured)"
