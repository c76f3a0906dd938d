r"""Multipliers whose sums over prefixes of a random order have the covariances of errors of prefix means.

The samples come in one random order of a finite data set of N, and means are over nested prefixes n ≤ n' of it. The
errors of the means of two per-sample numbers x and y, against the means over the data set, have

    Cov(x̄_n − X̄, ȳ_n' − Ȳ) = S_xy · (1/n' − 1/N),                  n ≤ n',

with S the covariance in the data set: given the longer prefix, the mean of the shorter one is a random sub-sample's. A
bootstrap must reproduce this from the d_i = x_i − x̄_n that were seen. It does if the i-th multiplier of the prefix n is

    c_{n,i} = (1/n − 1/N) · W_i(1 / (1 − n/N))

with independent Brownian motions W_i: then E[c_{n,i} c_{n',i}] = (1/n' − 1/N)/n, and the sum over the n samples that
both have in common gives the covariance above, exactly, for every pair of prefixes at once. It vanishes at n = N, and
is the ordinary ξ_i/n for N → ∞, which is the choice for the target "population".
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

SEGMENT_BLOCKS = 256
"""Most blocks between two rungs: a variance over 256 and more blocks is good to 9 %, and draws stay cheap."""


def ladder(n: int, least: int) -> tuple[int, ...]:
    """Return the prefix sizes in use: ``least · 2^k``, and all n.

    Args:
        n: Samples in all.
        least: The smallest prefix.

    Returns:
        Increasing sizes, the last of them n. A size above 0.6·n is passed over, since it costs nearly as much as all,
        which have no sampling error.

    Example:
        >>> ladder(1000, 32), ladder(40, 32)
        ((32, 64, 128, 256, 512, 1000), (40,))
    """
    sizes = []
    size = least
    while size <= 0.6 * n:
        sizes.append(size)
        size *= 2
    return (*sizes, n)


@dataclass(frozen=True, eq=False)
class Multipliers:
    """Multipliers for every prefix of a ladder; consecutive samples between two rungs may share one.

    Attributes:
        rungs: Prefix sizes.
        sizes: Length of the blocks that share a multiplier, between each two rungs.
        tables: Multipliers ``[blocks, draws]`` of each prefix, float32.
    """

    rungs: tuple[int, ...]
    sizes: tuple[int, ...]
    tables: tuple[Tensor, ...]

    def draws(self, centred: Tensor, rung: int, *, onto: Tensor | None = None, factor: float = 1.0) -> Tensor:
        """Return bootstrap draws of the errors of prefix means.

        Args:
            centred: Per-sample numbers less their mean, ``[nodes, rungs[rung]]``.
            rung: Which prefix.
            onto: Draws ``[nodes, draws]`` that these are added to, in place.
            factor: By which errors are raised.

        Returns:
            Shape ``[nodes, draws]``, float32.
        """
        n, parts, start = self.rungs[rung], [], 0
        for stop, size in zip(self.rungs[: rung + 1], self.sizes, strict=False):
            part = centred[:, start:stop]
            if size > 1:
                padded = torch.nn.functional.pad(part, (0, -part.shape[1] % size))
                part = padded.reshape(len(part), -1, size).sum(-1)
            parts.append(part)
            start = stop
        factor *= math.sqrt(n / (n - 1)) if n > 1 else 0.0  # d_i are taken from their own mean
        blocks = (torch.cat(parts, 1) * factor).float()
        found: Tensor = blocks @ self.tables[rung] if onto is None else onto.addmm_(blocks, self.tables[rung])
        return found


class Noise:
    """Normal numbers for every node and draw, from a bank that is drawn once.

    Each batch of nodes reads the bank at another shift of the draws, so that no two nodes share a number in one draw
    unless a shift is drawn twice, and none of the nodes of one batch do.

    Args:
        nodes: Most nodes of a batch.
        draws: Draws.
        seed: Seed.

    Example:
        >>> noise = Noise(3, 100, seed=0)
        >>> noise.take(2).shape, bool((noise.take(2) == noise.take(2)).all())
        (torch.Size([2, 100]), False)
    """

    def __init__(self, nodes: int, draws: int, *, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)
        self._nodes, self._draws = nodes, draws
        self._bank: Tensor | None = None

    def take(self, nodes: int) -> Tensor:
        """Return numbers ``[nodes, draws]``: a view of the bank, not to be written to."""
        if self._bank is None:
            self._bank = torch.randn(self._nodes, 2 * self._draws, generator=self._generator)
        shift = int(torch.randint(self._draws, (), generator=self._generator))
        return self._bank[:nodes, shift : shift + self._draws]


def build_multipliers(
    rungs: tuple[int, ...], *, target: Literal["data", "population"], draws: int, seed: int
) -> Multipliers:
    """Draw multipliers.

    Args:
        rungs: Prefix sizes, the last of them all samples.
        target: ``"data"`` for the covariances above, ``"population"`` for those without 1/N.
        draws: Number of draws.
        seed: Seed.

    Returns:
        The multipliers; 4 bytes × draws × blocks, some 10 MB for 10,000 samples and 1,000 draws.
    """
    generator = torch.Generator().manual_seed(seed)
    total = rungs[-1]
    sizes, tables = [], []
    paths = torch.empty(0, draws)
    before, previous = 0.0, 0
    for n in rungs:
        size = math.ceil((n - previous) / SEGMENT_BLOCKS)
        fresh = torch.randn(math.ceil((n - previous) / size), draws, generator=generator)
        if target == "population":
            paths, scale = torch.cat([paths, fresh]), 1 / n
        elif n < total:
            time, scale = 1 / (1 - n / total), 1 / n - 1 / total
            step = torch.randn(paths.shape, generator=generator) * math.sqrt(time - before)
            paths, before = torch.cat([paths + step, fresh * math.sqrt(time)]), time
        else:
            paths, scale = torch.cat([paths, fresh]), 0.0
        sizes.append(size)
        tables.append(paths * scale)
        previous = n
    return Multipliers(rungs, tuple(sizes), tuple(tables))
