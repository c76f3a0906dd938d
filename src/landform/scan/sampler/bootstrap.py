"""Simultaneous critical values: how many standard errors make an interval that holds at all points at once."""

import math

import torch
from jaxtyping import Float64
from torch import Tensor

DRAWS = 1000
"""Bootstrap draws: the tail beyond a 99 % critical value is then known to ±0.3 %."""

BLOCKS = 1024
"""Most rows of multipliers: longer prefixes share one multiplier among consecutive samples, which costs no bias."""


def block_sums(values: Tensor, most: int = BLOCKS) -> Tensor:
    """Sum consecutive samples, so that at most ``most`` columns remain.

    The samples come in random order, so sums of consecutive ones are exchangeable too, and a bootstrap over them
    estimates the same covariances at a fraction of the cost.

    Args:
        values: Shape ``[…, samples]``.
        most: Most columns of the result.

    Returns:
        Shape ``[…, blocks]``.

    Example:
        >>> block_sums(torch.arange(5.0), 2)
        tensor([3., 7.])
    """
    n = values.shape[-1]
    size = math.ceil(n / most)
    if size == 1:
        return values
    padded = torch.nn.functional.pad(values, (0, -n % size))
    return padded.reshape(*values.shape[:-1], -1, size).sum(-1)


def resampling_weights(n: int, seed: int, draws: int = DRAWS) -> Tensor:
    """Return how often each of n samples occurs in each of ``draws`` samples of n with replacement, ``[n, draws]``.

    Example:
        >>> resampling_weights(5, seed=0, draws=3).sum(0)
        tensor([5., 5., 5.])
    """
    generator = torch.Generator().manual_seed(seed)
    picks = torch.randint(n, (n, draws), generator=generator)
    counts: Tensor = torch.zeros(n, draws).scatter_add_(0, picks, torch.ones(n, draws))
    return counts


def t_draws(rows: Tensor, weights: Tensor) -> Tensor:
    """Return |t| of every row under every resampling of its columns.

    Args:
        rows: Centred numbers, ``[points, n]``, no row all zero.
        weights: From `resampling_weights`, ``[n, draws]``.

    Returns:
        ``[points, draws]``: |t*|, where t* is a resampled mean over its own standard error. It is some √1e4 where a
        resample has next to no spread.
    """
    n = rows.shape[-1]
    scaled = (rows / rows.norm(dim=-1, keepdim=True)).float()
    total, squares = scaled @ weights, scaled.square() @ weights
    spread = (squares - total.square() / n).clamp_min(1e-4) * (n / max(n - 1, 1))
    found: Tensor = (total / spread.sqrt()).abs()
    return found


def normal(confidence: float) -> float:
    """Return the two-sided critical value of a single normal mean.

    Example:
        >>> round(normal(0.95), 3)
        1.96
    """
    return math.sqrt(2) * float(torch.erfinv(torch.tensor(confidence, dtype=torch.float64)))


def upper_quantile(maxima: Tensor, confidence: float) -> float:
    """Return the order statistic ⌈(B + 1)·confidence⌉ of B draws: at least the quantile, up to chance.

    Example:
        >>> upper_quantile(torch.arange(1.0, 100.0), 0.9)
        90.0
    """
    order = min(len(maxima), math.ceil((len(maxima) + 1) * confidence - 1e-9))
    return float(maxima.sort().values[order - 1])


def student(critical: float, samples: int) -> float:
    """Widen a normal critical value for a standard error estimated from ``samples`` samples (Student's t).

    Example:
        >>> round(student(1.959964, 10), 3), round(student(1.959964, 10_000), 3)
        (2.262, 1.96)
    """
    from scipy import special

    if not math.isfinite(critical) or samples < 2:
        return critical
    return float(-special.stdtrit(samples - 1, special.ndtr(-critical)))


def robust_range(values: Float64[Tensor, "..."], low: float = 0.01, high: float = 0.99) -> float:
    """Return the width between the 1 % and the 99 % quantile of the finite values; NaN without any.

    Example:
        >>> robust_range(torch.arange(101.0).double())
        98.0
    """
    finite = values[torch.isfinite(values)].sort().values
    if not len(finite):
        return math.nan
    lo, hi = ((len(finite) - 1) * q for q in (low, high))

    def at(position: float) -> float:
        below = math.floor(position)
        above = min(below + 1, len(finite) - 1)
        return float(finite[below] + (finite[above] - finite[below]) * (position - below))

    return at(hi) - at(lo)
