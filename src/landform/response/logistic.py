"""The one-output curve shared by cross-entropy and binary cross-entropy."""

import torch
from jaxtyping import Float64
from torch import Tensor


def log_rise(s: Float64[Tensor, " points"], q: float, share: float) -> Float64[Tensor, " points"]:
    """Return log(1 − q + q·e^s) − share·s, the rise of a log loss when one logit is raised by s ≥ 0.

    Args:
        s: Amounts, ≥ 0.
        q: Probability of that output at s = 0.
        share: Share of its label; equal to q at a minimum.

    Returns:
        The rise in nat; finite for every finite s.

    Example:
        >>> log_rise(torch.tensor([0.0, 1000.0], dtype=torch.float64), 0.5, 0.5).round(decimals=6).tolist()
        [0.0, 499.306853]
    """
    near = torch.log1p(q * torch.expm1(s.clamp(max=600.0)))
    far = s + torch.log(q + (1.0 - q) * torch.exp(-s))
    return torch.where(s <= 600.0, near, far) - share * s


def log_slope(s: Float64[Tensor, " points"], q: float, share: float) -> Float64[Tensor, " points"]:
    """Return the derivative of `log_rise`, without cancellation near s = 0.

    Args:
        s: Amounts, ≥ 0.
        q: Probability of that output at s = 0.
        share: Share of its label.

    Returns:
        Nat per unit of s.

    Example:
        >>> log_slope(torch.tensor([0.0, 1000.0], dtype=torch.float64), 0.5, 0.5).tolist()
        [0.0, 0.5]
    """
    fade = torch.exp(-s)
    gone = -torch.expm1(-s)
    return (q - share) + q * (1.0 - q) * gone / (fade + q * gone)
