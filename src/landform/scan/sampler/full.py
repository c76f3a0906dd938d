"""Every point on the same samples: all of them, or a random subset with its standard error."""

import dataclasses
import math
from collections.abc import Collection, Sequence
from typing import Literal

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from landform.errors import InputError
from landform.scan.engine.base import Sums, Terms
from landform.scan.sampler.base import AbstractSampler, Estimate, Request
from landform.scan.sampler.bootstrap import (
    DRAWS,
    block_sums,
    normal,
    resampling_weights,
    robust_range,
    student,
    t_draws,
    upper_quantile,
)
from landform.scan.sampler.checks import check_common, check_shape
from landform.scan.sampler.hierarchy import build_hierarchy, coarse_first
from landform.scan.sampler.shares import share_ends

WILD = 20.0
"""A resampled |t| that only comes of a resample without spread, which lacks the few samples that make up the mean."""

CHUNK = 4096
"""Points whose resamplings are made at once, 16 MB."""

MAX_NUMBERS = 1 << 24
"""Per-sample numbers in one round, 128 MB: rounds that need them are split into blocks of points."""


class FullGrid(AbstractSampler):
    r"""Evaluates every point on all samples, or on the first ``subset`` of the engine's random order.

    With a subset S of m samples, a quantity is the ratio estimate R = Σ_S num / Σ_S den. Its error is, to first order,
    the mean of the influences d_i = (num_i − R·den_i) / (Σ_S den / m), so

        stderr² = (1 − m/N) · Σ_S d_i² / ((m − 1)·m)

    where the finite population correction 1 − m/N belongs to the target "this data set of N samples" and is left out
    for the population that they were drawn from. The bias of the ratio is of order 1/m and zero where den is constant.
    All points use the same samples, so their errors are strongly correlated; the critical value is the quantile of the
    largest |t| of any point under a bootstrap of the samples, each draw with its own standard error. (With normal
    multipliers instead, skewed losses are covered far too seldom: log-normal ones of unit spread in 100 samples at 85 %
    in place of 99 %; so, at 93 %. No interval from a hundred samples cures tails that are much heavier.)

    At a point where all samples of the subset are equal, or a few make up the whole mean, so that a tenth of
    1 − confidence of the resamples have no spread, nothing can be claimed: it has no interval, and the others are not
    made useless by it. Shares (accuracy) have exact intervals there too, from counts
    (`landform.scan.sampler.shares.share_ends`, Bonferroni over the points).

    *Stopped early.* The nodes of a grid are visited from coarse to fine, so that a scan that is stopped has the whole
    box, more coarsely. Nodes that it did not reach are interpolated from those that it did: they have no samples and no
    interval, and are NaN where a node that they lie between is missing or not finite.

    Args:
        h: Points, shape ``[points, z]``.
        n: Samples in the data set.
        quantities: Names of the quantities; only their number matters here.
        shape: Nodes along each axis that varies, if the points are those of a grid in C order; they are visited in
            their order without.
        subset: Samples to use; None, the default, for all.
        confidence: Simultaneous confidence of the intervals; 0.99 by default, since a surface is looked at as a whole.
        target: What the intervals are about: ``"data"``, the mean over this data set (then all samples have no error),
            or ``"population"``, the mean over what the samples were drawn from.
        shares: Names of the quantities that are shares: each sample's numerator lies between 0 and its denominator.
        seed: Seed of the bootstrap.

    Raises:
        InputError: If there is no point or no sample, the subset has fewer than 2 or more than ``n`` samples, or the
            confidence is not between 0 and 1.
        UnknownNameError: For another target.

    Cost:
        points × samples evaluations. With standard errors, also points × min(samples, 1024) × 1000 multiplications.

    References:
        W. G. Cochran, *Sampling Techniques* (1977), §2.6 and §6.4; P. Hall, *The Bootstrap and Edgeworth Expansion*
        (1992), §3.5, for the bootstrap of t.

    Example:
        >>> sampler = FullGrid(torch.zeros(1, 2, dtype=torch.float64), 4, ("loss",))
        >>> request = sampler.ask()
        >>> request.evaluations, request.per_sample
        (4, False)
        >>> sampler.tell(request, Sums(torch.tensor([[6.0]]).double(), torch.tensor([4.0]).double()))
        >>> sampler.ask() is None, float(sampler.estimate().value)
        (True, 1.5)
    """

    def __init__(
        self,
        h: Float64[Tensor, "points z"],
        n: int,
        quantities: Sequence[str],
        *,
        shape: Sequence[int] | None = None,
        subset: int | None = None,
        confidence: float = 0.99,
        target: Literal["data", "population"] = "data",
        shares: Collection[str] = (),
        seed: int = 0,
    ) -> None:
        check_common(h, n, quantities, confidence, target)
        if subset is not None and not 2 <= subset <= n:
            raise InputError(
                f"subset is {subset} of {n} samples; wanted 2 or more, for a standard error, and at most {n}"
            )
        if shape is not None:
            check_shape(h, shape)
        self._shape = None if shape is None else tuple(shape)
        self._order = torch.arange(len(h)) if shape is None else coarse_first(shape)
        self._h, self._n, self._names = h, n, tuple(quantities)
        self._m = n if subset is None else subset
        self._confidence, self._target, self._seed = confidence, target, seed
        exact = self._m == n and target == "data"
        self._per_sample = not exact
        self._correction = 0.0 if exact else 1 - self._m / n if target == "data" else 1.0
        block = max(1, MAX_NUMBERS // (self._m * len(self._names))) if self._per_sample else len(h)
        self._starts = list(range(0, len(h), block))
        self._block, self._round = block, 0
        count = len(self._names)
        self._value = torch.full((len(h), count), math.nan, dtype=torch.float64)
        self._stderr = self._value.clone()
        self._samples = torch.zeros(len(h), dtype=torch.int64)
        self._lower, self._upper = self._value.clone(), self._value.clone()
        self._counted = torch.zeros(len(h), count, dtype=torch.bool)
        self._claimed = torch.ones(len(h), count, dtype=torch.bool)
        self._shares = frozenset(shares)
        self._maxima = torch.zeros(count, DRAWS)
        self._weights: Tensor | None = None

    def ask(self) -> Request | None:
        """Return the next block of points; one round for all where sums will do."""
        if self._round == len(self._starts):
            return None
        start = self._starts[self._round]
        return Request(self._h[self._order[start : start + self._block]], 0, self._m, self._per_sample)

    def tell(self, request: Request, found: Terms | Sums) -> None:
        """Take the answer to a block."""
        start = self._starts[self._round]
        self._take(self._order[start : start + len(request.h)], found)
        self._round += 1

    def tell_part(self, rows: Int64[Tensor, " rows"], found: Terms | Sums | None) -> None:
        """Take part of a block; the other points are not known."""
        if found is not None and len(rows):
            self._take(self._order[self._starts[self._round] + rows], found)

    def _take(self, nodes: Tensor, found: Terms | Sums) -> None:
        self._samples[nodes] = self._m
        if isinstance(found, Sums):
            if self._per_sample:
                raise InputError("the standard error of a subset needs per-sample terms, got sums")
            self._value[nodes] = found.num / found.den
            self._stderr[nodes] = 0.0
        else:
            self._value[nodes] = found.num.sum(-1) / found.den.sum(-1)
            for k in range(len(self._names)):
                self._take_errors(nodes, k, found.num[:, k], found.den[k])
        self._stderr[nodes] = self._stderr[nodes].where(torch.isfinite(self._value[nodes]), torch.nan)

    def _take_errors(self, nodes: Tensor, k: int, num: Tensor, den: Tensor) -> None:
        value = self._value[nodes, k, None]
        influence = (num - value * den) / den.mean()
        squares = influence.square().sum(-1)
        self._stderr[nodes, k] = (self._correction * squares / ((self._m - 1) * self._m)).sqrt()
        if self._names[k] in self._shares:
            each = 1 - (1 - self._confidence) / len(self._h)
            ends = share_ends(num, den, self._n if self._target == "data" else None, each)
            if ends is not None:
                self._lower[nodes, k], self._upper[nodes, k] = ends
                self._counted[nodes, k] = True
                return
        rows = block_sums(influence)
        if self._weights is None:
            self._weights = resampling_weights(rows.shape[-1], self._seed)
        self._claimed[nodes, k] = False
        usable = (torch.isfinite(squares) & (squares > 0)).nonzero()[:, 0]
        for part in torch.split(usable, CHUNK):
            found = t_draws(rows[part], self._weights)
            calm = (found > WILD).sum(1) <= 0.1 * (1 - self._confidence) * DRAWS
            self._claimed[nodes[part], k] = calm
            if bool(calm.any()):
                self._maxima[k] = torch.maximum(self._maxima[k], found[calm].amax(0))

    def _critical(self, k: int) -> float:
        if not self._per_sample or not bool(self._maxima[k].any()):
            return 0.0
        return max(upper_quantile(self._maxima[k], self._confidence), student(normal(self._confidence), self._m))

    def estimate(self) -> Estimate:
        """Return values, standard errors and critical values of the points told so far."""
        critical = torch.tensor([self._critical(k) for k in range(len(self._names))], dtype=torch.float64)
        notes: dict[str, object] = {
            "sampler": "full",
            "confidence": self._confidence,
            "target": self._target,
            "sample_evaluations": int(self._samples.sum()),
            "evaluations": int(self._samples.sum()) / self._n,
        }
        level = torch.zeros(len(self._h), dtype=torch.int64)
        known = self._samples > 0
        value = self._value.clone()
        if self._shape is not None and bool(known.any()) and not bool(known.all()):
            value = build_hierarchy(self._shape).fill(value, known)
        plain = Estimate(value, self._stderr.clone(), self._samples.clone(), critical, level, notes)
        if not self._per_sample:
            return plain
        lower, upper = (torch.where(self._claimed, end, math.nan) for end in plain.ends())
        return dataclasses.replace(
            plain,
            critical=torch.where(self._counted.any(0), math.nan, critical),
            lower=torch.where(self._counted, self._lower, lower),
            upper=torch.where(self._counted, self._upper, upper),
        )

    @property
    def uncertainty(self) -> float:
        """Half-width of the widest interval of the first quantity, as a fraction of the robust range."""
        if not self._per_sample:
            return 0.0 if bool(self._samples.any()) else math.nan
        widest = self._stderr[:, 0].nan_to_num(nan=0.0).max()
        scale = robust_range(self._value[:, 0])
        if not self._round or not scale > 0:
            return math.nan
        return float(widest) * self._critical(0) / scale

    @property
    def expected(self) -> int:
        """Sample evaluations in all, known from the start."""
        return len(self._h) * self._m
