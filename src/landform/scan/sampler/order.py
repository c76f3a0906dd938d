"""The random order of the samples, of which every scan uses prefixes; balanced between classes where there are any."""

import torch
from jaxtyping import Int64
from torch import Tensor

from landform.errors import InputError


def sample_order(n: int, seed: int, strata: Int64[Tensor, " n"] | None = None) -> Int64[Tensor, " n"]:
    """Return a random order of the samples, every prefix of which has the classes in their proportions.

    Within a class the order is uniform; the k-th of its m samples comes at the place (k + U)/m of the whole, with one U
    per class. A prefix of n samples is then, up to one sample a class, a stratified sample with proportional
    allocation: its mean has at most the variance of a simple random one (up to terms of order 1/n), so intervals for
    simple random samples stay valid, and no class is missed by all small prefixes at once.

    Args:
        n: Number of samples.
        seed: Seed.
        strata: Class of each sample, or None for a simple random order. More than n/2 different ones tell nothing, and
            are passed over.

    Returns:
        A permutation: sample ``order[i]`` comes i-th.

    Raises:
        InputError: If there are not n classes.

    References:
        W. G. Cochran, *Sampling Techniques* (1977), §5.6.

    Example:
        >>> order = sample_order(8, 0, torch.tensor([0, 0, 0, 0, 1, 1, 1, 1]))
        >>> sorted(order.tolist()), int((order[:4] < 4).sum())
        ([0, 1, 2, 3, 4, 5, 6, 7], 2)
    """
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(n, generator=generator)
    if strata is None:
        return order
    if tuple(strata.shape) != (n,):
        raise InputError(f"classes have shape {list(strata.shape)}; wanted one for each of {n} samples")
    classes, member = torch.unique(strata[order], return_inverse=True)
    if 2 * len(classes) > n:
        return order
    shift = torch.rand(len(classes), dtype=torch.float64, generator=generator)
    count = torch.bincount(member)
    by_class = member.argsort(stable=True)
    rank = torch.empty(n, dtype=torch.int64)
    rank[by_class] = torch.arange(n) - (count.cumsum(0) - count).repeat_interleave(count)
    place = (rank + shift[member]) / count[member]
    return order[place.argsort(stable=True)]
