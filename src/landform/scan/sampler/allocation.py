"""How many samples each node of a level gets: from a pilot, once, for the variance of the *value* that is wanted."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float64, Int64
from torch import Tensor


def share(costs: Sequence[float], counts: Sequence[int], least: int, variance: float) -> float:
    r"""Return the part of a variance that the first of several levels may take.

    Level j has Σ_v σ_v² = ``costs[j]`` over ``counts[j]`` nodes. With a variance b_j for its surpluses it takes
    Σ_v σ_v²/b_j samples; the least total with Σ_j b_j = V has b_j ∝ √costs[j]. Levels for which that gives fewer than
    ``least`` samples a node use only their mean σ²/least, and leave the rest to the others.

    Args:
        costs: Sums of variances of the levels to come, the present one first.
        counts: Their nodes.
        least: Smallest prefix.
        variance: V.

    Returns:
        The part, in (0, 1].

    References:
        M. B. Giles, *Multilevel Monte Carlo methods*, Acta Numerica 24 (2015), §1.3.

    Example:
        >>> share([4.0, 1.0], [1, 1], 1, 0.3)  # √4 : √1
        0.666...
        >>> share([4.0, 1.0], [1, 100], 1, 0.3)  # the second level uses 0.01 with one sample a node
        0.966...
    """
    left, open_ = variance, list(range(len(costs)))
    while True:
        total = sum(math.sqrt(costs[j]) for j in open_)
        idle = [j for j in open_[1:] if left * math.sqrt(costs[j]) * least * counts[j] >= costs[j] * total]
        if not idle or left <= 0:
            break
        left -= sum(costs[j] / counts[j] / least for j in idle)
        open_ = [j for j in open_ if j not in idle]
    if total <= 0 or left <= 0:
        return 1.0
    return min(1.0, left * math.sqrt(costs[0]) / total / variance)


def forecast(costs: Sequence[float], levels: int) -> list[float]:
    """Continue sums of variances geometrically over the levels to come.

    Args:
        costs: Sums of the levels so far, the present one last.
        levels: How many are to come.

    Returns:
        The present sum and those to come. The ratio is that of the last two levels, kept within [0.15, 0.9]; 0.35, what
        is typical of a plane (4 times the nodes at a twelfth of the variance), where there are not two.

    Example:
        >>> forecast([8.0, 4.0], 2)
        [4.0, 2.0, 1.0]
    """
    ratio = 0.35
    if len(costs) > 1 and costs[-2] > 0:
        ratio = min(max(costs[-1] / costs[-2], 0.15), 0.9)
    return [costs[-1] * ratio**j for j in range(levels + 1)]


def rungs_for(
    variance: Float64[Tensor, " nodes"], budget: Float64[Tensor, " nodes"], sizes: Sequence[int]
) -> Int64[Tensor, " nodes"]:
    """Return the first prefix at which the variance of a mean is within its budget.

    The variance of the mean of n out of N is σ²·(1/n − 1/N), so n = 1 / (budget/σ² + 1/N).

    Args:
        variance: σ² of the per-sample surpluses.
        budget: Variance allowed.
        sizes: Prefix sizes, the last of them N.

    Returns:
        Indices into ``sizes``.

    Example:
        >>> rungs_for(torch.tensor([1.0, 1.0, 0.0]).double(), torch.tensor([0.1, 0.0, 0.0]).double(), (8, 16, 100))
        tensor([1, 2, 0])
    """
    total = sizes[-1]
    wanted = 1 / (budget.clamp_min(0) / variance.clamp_min(1e-300) + 1 / total)
    wanted = torch.where(variance > 0, wanted, 0.0)
    return torch.searchsorted(torch.tensor(sizes, dtype=torch.float64), wanted * (1 - 1e-12)).clamp_max(len(sizes) - 1)
