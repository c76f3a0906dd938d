"""Intervals for shares, such as accuracy, from counts: near 0 and 1 a standard error says nothing."""

import math

import torch
from jaxtyping import Float64
from torch import Tensor

STEPS = 60
"""Halvings of an interval of [0, 1]: to the last bit."""


def share_ends(
    num: Float64[Tensor, "points n"], den: Float64[Tensor, " n"], total: int | None, confidence: float
) -> tuple[Float64[Tensor, " points"], Float64[Tensor, " points"]] | None:
    r"""Return intervals of shares Σ num / Σ den, each at one confidence, from a random subset of the samples.

    Where a sample counts or does not (den 0 or 1, num 0 or den) the count of hits decides: the ends are the shares at
    which so many hits, or so few, have probability (1 − confidence)/2. Hits in a subset of a data set are
    hypergeometric, those in a sample of a population binomial (Clopper and Pearson). Where den is one number c and num
    lies between 0 and c (several labels a sample), Chernoff's bound for means p̂ of n numbers in [0, 1] holds, with or
    without replacement:

        P(p̂ ≤ x) ≤ exp(−n·KL(x ‖ p)),  x ≤ p,   KL(x ‖ p) = x·log(x/p) + (1 − x)·log((1 − x)/(1 − p))

    Nothing is taken to be normal, and no variance is estimated, so intervals hold at 0 and 1 too.

    Args:
        num: Hits of each sample, at each point.
        den: Trials of each sample.
        total: Samples in the data set that the interval is about; None for the population.
        confidence: Of each interval; for ``points`` at once use ``1 − (1 − confidence)/points`` (Bonferroni).

    Returns:
        Lower and upper ends; NaN where a number is not finite. None where the numbers are none of the two kinds.

    Cost:
        Some 20 to 60 evaluations of a distribution for each different value.

    References:
        C. J. Clopper, E. S. Pearson, Biometrika 26 (1934); W. Hoeffding, *Probability inequalities for sums of bounded
        random variables*, J. Amer. Statist. Assoc. 58 (1963), theorem 1 and §6 (without replacement).

    Example:
        >>> lower, upper = share_ends(torch.zeros(1, 100).double(), torch.ones(100).double(), None, 0.95)
        >>> float(lower), round(float(upper), 4)  # 1 − 0.025^(1/100)
        (0.0, 0.0362)
    """
    finite = torch.isfinite(num).all(1)
    known = num[finite]
    trials = float(den.sum())
    if not trials > 0 or bool(((known < 0) | (known > den)).any()):
        return None
    single = bool(((den == 0) | (den == 1)).all() and ((known == 0) | (known == den)).all())
    if not single and bool((den != den[0]).any()):
        return None
    means, place = torch.unique(known.sum(1) / trials, return_inverse=True)
    tail = (1 - confidence) / 2
    if single:
        whole = total if total is not None and trials == len(den) else None  # how many of all count is not known
        ends = _exact((means * trials).round(), int(trials), whole, tail)
    else:
        ends = _chernoff(means, len(den), tail)
    lower = torch.full((len(num),), math.nan, dtype=torch.float64)
    upper = lower.clone()
    lower[finite], upper[finite] = ends[0][place], ends[1][place]
    return lower, upper


def _exact(hits: Tensor, n: int, total: int | None, tail: float) -> tuple[Tensor, Tensor]:
    """Invert the distribution of the number of hits."""
    from scipy import special, stats

    x = hits.numpy()
    if total is None:
        lower = torch.from_numpy(special.betaincinv(x.clip(1), n - x + 1, tail))
        upper = torch.from_numpy(special.betaincinv(x + 1, (n - x).clip(1), 1 - tail))
        return torch.where(hits > 0, lower, 0.0), torch.where(hits < n, upper, 1.0)
    # Fewest and most hits among all samples that do not make the hits seen too rare.
    least, most = hits.clone(), hits + (total - n)
    low, high = least - 1, most.clone()  # P(X ≥ x) grows with the hits among all
    for _ in range(math.ceil(math.log2(total + 2))):
        middle = ((low + high) / 2).floor()
        rare = torch.from_numpy(stats.hypergeom.sf(x - 1, total, middle.clamp_min(0).numpy(), n)) <= tail
        rare |= middle < least
        low, high = torch.where(rare, middle, low), torch.where(rare, high, middle)
    lower = high
    low, high = least.clone(), most + 1
    for _ in range(math.ceil(math.log2(total + 2))):
        middle = ((low + high) / 2).floor()
        rare = torch.from_numpy(stats.hypergeom.cdf(x, total, middle.clamp_max(total).numpy(), n)) <= tail
        rare |= middle > most
        low, high = torch.where(rare, low, middle), torch.where(rare, middle, high)
    return torch.where(hits > 0, lower, least) / total, torch.where(hits < n, low, most) / total


def _chernoff(means: Tensor, n: int, tail: float) -> tuple[Tensor, Tensor]:
    """Invert Chernoff's bound on both sides."""

    def beyond(p: Tensor) -> Tensor:
        inside = torch.special.xlogy(means, means / p) + torch.special.xlogy(1 - means, (1 - means) / (1 - p))
        out: Tensor = ~(n * inside <= -math.log(tail))
        return out  # at p = 0 or 1 it is infinite, or nothing and infinity

    ends = []
    for far in (torch.zeros_like(means), torch.ones_like(means)):
        inner, outer = means.clone(), far
        for _ in range(STEPS):
            middle = (inner + outer) / 2
            out = beyond(middle)
            inner, outer = torch.where(out, inner, middle), torch.where(out, middle, outer)
        ends.append(outer)
    return ends[0], ends[1]
