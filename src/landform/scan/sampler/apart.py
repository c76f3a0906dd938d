r"""Samples that every node is evaluated on, because prefixes of a random order would miss what they carry.

Where few samples make up most of the difference between nodes and their parents, a prefix of some dozens holds one of
them, or none, and then thinks itself exact. Survey statistics takes such units always: a *take-all* stratum. The levels
that are evaluated on the whole data set show which they are, so the choice owes nothing to the random order.
"""

import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from landform.scan.sampler.ledger import Ledger
from landform.scan.sampler.work import Work


def take_all(shares: Float64[Tensor, " n"], least: int) -> Bool[Tensor, " n"]:
    r"""Return which samples to take always, beside a random part of ``least`` of the others.

    To take sample i always costs one evaluation a node. It takes the part q_i/Σ_j q_j from the variance of the others,
    so as many of ``least`` random samples fewer give the same error. So the largest are taken, one after the other, as
    long as

        least · q_i ≥ Σ_j q_j,    the sum over those that are not taken before i.

    What is left has no sample with more than 1/least of the variance.

    Args:
        shares: q_i ≥ 0, proportional to the part of the variance that each sample makes up.
        least: Size of the smallest random part.

    Returns:
        True for those to take; at least ``least`` are left.

    References:
        M. A. Hidiroglou, *The construction of a self-representing stratum of large units in survey design*, The
        American Statistician 40 (1986); C.-E. Särndal, B. Swensson, J. Wretman, *Model Assisted Survey Sampling*
        (1992), §3.6.

    Example:
        Of 1,000 equal samples none, of two that carry most both.

        >>> even = torch.ones(1000).double()
        >>> heavy = even.clone()
        >>> heavy[[3, 8]] = torch.tensor([900.0, 40.0]).double()
        >>> take_all(even, 32).any().item(), take_all(heavy, 32).nonzero()[:, 0].tolist()
        (False, [3, 8])
    """
    value, place = shares.sort(descending=True)
    left = value.flip(0).cumsum(0).flip(0)
    count = int(((least * value >= left) & (value > 0)).long().cumprod(0).sum())
    taken = torch.zeros(len(shares), dtype=torch.bool)
    taken[place[: max(0, min(count, len(shares) - least))]] = True
    return taken


def heavy_samples(books: Ledger, work: Work, steering: int, least: int) -> Int64[Tensor, " some"]:
    """Return the samples to take always, by what the nodes that have all samples show.

    A sample's share is the mean over these nodes of its part of the variance of surpluses there: each node counts the
    same, since intervals are to hold at each. Samples that are not finite at a node are taken if they are ``least`` or
    fewer, by the same rule: there they are all that matters.

    Args:
        books: What is known, with the coarse levels settled.
        work: Their numbers.
        steering: How many quantities, from the first, are losses; each has samples of its own.
        least: Size of the smallest prefix.

    Returns:
        Positions of the samples, in increasing order.

    Cost:
        A few passes over the numbers of the coarse nodes.
    """
    taken = torch.zeros(books.n, dtype=torch.bool)
    nodes = ((books.tree.level > 0) & (books.store.rung == books.top)).nonzero()[:, 0]
    nodes = nodes[books.limit(nodes) == books.top]
    shares = torch.zeros(steering, books.n, dtype=torch.float64)
    for node in nodes.tolist():
        spread = books.surpluses(torch.tensor([node]), books.top)[0, :steering].double()
        spread = (spread - spread.mean(-1, keepdim=True)).square()
        shares += spread / spread.sum(-1, keepdim=True).clamp_min(1e-300)
    for share in shares:
        taken |= take_all(share, least)
    for place in work.bad[:, :steering].any(1).nonzero()[:, 0].tolist():
        wild = ~torch.isfinite(work.numbers(torch.tensor([place]), books.top)[0, :steering]).all(0)
        if int(wild.sum()) <= least:
            taken |= wild
    return taken.nonzero()[:, 0]
