"""What is known about the nodes of a multilevel scan: values, surpluses, variances, and correlated errors."""

import math
from typing import Literal

import torch
from jaxtyping import Float32, Float64, Int64
from torch import Tensor

from landform.scan.sampler.bootstrap import DRAWS, robust_range
from landform.scan.sampler.errors import Errors
from landform.scan.sampler.hierarchy import Hierarchy, box_mean
from landform.scan.sampler.multipliers import Noise, build_multipliers, ladder
from landform.scan.sampler.prefixes import Prefixes
from landform.scan.sampler.work import Work

CHUNK = 4096
"""Nodes whose bootstrap draws are made at once, 16 MB."""

POOLED = 512
"""Up to this many samples a variance is taken to be at least that of its neighbours, times `HEAVY`."""

HEAVY = 1.5
"""Factor on the neighbours' variance: all see the same prefix, and miss the same rare samples."""

KINK = 0.25
"""Factor a level on the variance that the pilot cannot see: a kink's surplus falls to a half, a smooth one's faster."""

SMALL = 6.0
"""Variances of means of n are raised by 1 + SMALL/n: Student's t at 4.5 standard errors, to first order."""

NARROWEST = 0.2
"""No interval from a part of the samples is narrower than this part of the tolerance: rare samples are not seen."""


class Ledger:
    """The books of a multilevel scan; see `Multilevel` for the formulas.

    Args:
        tree: The hierarchy.
        rungs: Prefix sizes.
        count: Number of quantities.
        steering: How many of them, from the first, are losses.
        target: ``"data"`` or ``"population"``.
        tolerance: Tolerance, relative to the robust range or absolute.
        relative: Which of them.
        critical: Critical value to plan with before there is one.
        seed: Seed.
    """

    def __init__(
        self,
        tree: Hierarchy,
        rungs: tuple[int, ...],
        count: int,
        steering: int,
        target: Literal["data", "population"],
        *,
        tolerance: float,
        relative: bool,
        critical: float,
        seed: int,
    ) -> None:
        nodes = len(tree.level)
        self.tree, self.rungs, self.top, self.count, self.target = tree, rungs, len(rungs) - 1, count, target
        self._steering, self._tolerance, self._relative, self._critical = steering, tolerance, relative, critical
        self.n, self.apart, self._seed = rungs[-1], 0, seed
        self._multipliers = build_multipliers(rungs, target=target, draws=DRAWS, seed=seed)
        self._noise = Noise(min(nodes, CHUNK), DRAWS, seed=seed + 1)
        self.errors = [Errors(nodes, DRAWS) for _ in range(count)]
        self.store = Prefixes(nodes, len(rungs))
        self.value = torch.full((nodes, count), math.nan, dtype=torch.float64)
        self.surplus, self.variance = self.value.clone(), self.value.clone()
        self.fixed = torch.zeros_like(self.value)
        self.filled = self.value
        self._ranges = [math.nan] * count
        self.samples = torch.zeros(nodes, dtype=torch.int64)
        self.broken = torch.zeros(nodes, dtype=torch.bool)
        self.scale = torch.ones(count, dtype=torch.float64)
        self._den: Tensor | None = None
        self._den_draws: Tensor | None = None

    def denominators(self, den: Float64[Tensor, "quantities n"]) -> None:
        """Take the denominators of all samples: with their mean known, numerators over it have a plain mean."""
        if self._den is None:
            self._den, self.scale = den, den.mean(-1)

    def absolute(self, q: int) -> float:
        """Return the tolerance in the units of a quantity; an absolute one is about losses, and scales to others."""
        if self._relative or q >= self._steering:
            own = self._ranges[q]
            if not self._relative:
                own = own / self._ranges[0] if self._ranges[0] else math.inf
            return self._tolerance * own
        return self._tolerance

    @property
    def range(self) -> float:
        """Robust range of the first quantity over the surface as it is; NaN before the first level is closed."""
        return self._ranges[0]

    def set_apart(self, samples: Int64[Tensor, " some"], least: int) -> None:
        """Let every finer node be evaluated on some samples always, and prefixes be drawn from the others.

        Numbers of the others are kept times their part of all samples, as `Work` does, so that their means and those of
        the samples apart, which have no sampling error, add up.

        Args:
            samples: Their positions, so far; then they are the first ones.
            least: Smallest prefix.
        """
        kept = (self.store.rung == self.top).nonzero()[:, 0]
        ones = torch.ones(len(kept), 1, dtype=torch.float64)
        numbers = self.store.weighted(kept[:, None], ones, 0, self.n)
        others = torch.ones(self.n, dtype=torch.bool)
        others[samples] = False
        self.apart, self.rungs = len(samples), ladder(self.n - len(samples), least)
        self.top = len(self.rungs) - 1
        self._multipliers = build_multipliers(self.rungs, target=self.target, draws=DRAWS, seed=self._seed)
        self.fixed[kept] = numbers[..., samples].double().sum(-1) / self.n
        self.store = Prefixes(len(self.samples), len(self.rungs))
        self.store.keep(kept, self.top, numbers[..., others] * (self.rungs[-1] / self.n))

    def limit(self, nodes: Int64[Tensor, " some"]) -> Int64[Tensor, " some"]:
        """Return the longest prefix that all parents have; −1 where one has none, since it was not finite."""
        rungs = self.store.rung[self.tree.parents[nodes]]
        return torch.where(self.tree.weights[nodes] > 0, rungs, self.top).amin(1)

    def pool(self, level: int, variance: Float64[Tensor, " nodes"]) -> Float64[Tensor, " nodes"]:
        """Return means over the nodes of a level within two steps of its grid; 0 elsewhere."""
        grid = self.tree.subgrid(level)
        here = variance[grid]
        present = ((self.tree.level[grid] == level) & torch.isfinite(here)).double()
        out = torch.zeros_like(variance)
        out[grid] = box_mean(here.nan_to_num(nan=0.0, posinf=0.0), present, 2)
        return out

    def above(self, level: int, q: int, nodes: Int64[Tensor, " some"]) -> Float64[Tensor, " some"]:
        """Return the variance of surpluses around the parents of nodes, on the level before theirs."""
        return self._reach(level, self.variance[:, q], nodes)

    def _reach(self, level: int, variance: Tensor, nodes: Int64[Tensor, " some"]) -> Float64[Tensor, " some"]:
        near = self.pool(level - 1, variance)
        return torch.where(self.tree.weights[nodes] > 0, near[self.tree.parents[nodes]], 0.0).amax(1)

    def judge(self, level: int, work: Work) -> Float64[Tensor, "nodes count"]:
        """Estimate the variances of per-sample surpluses from a pilot.

        Args:
            level: The level.
            work: Its nodes, evaluated as far as the pilot goes.

        Returns:
            What variances are taken to be at least: `HEAVY` times the mean of the neighbours, or of the neighbours on
            the level before (from longer prefixes) at the mean decay from level to level; and `KINK` times the part of
            the latter that the samples of the pilot do not show.
        """
        limit = self.limit(work.nodes)
        for rung, places in work.groups():
            usable = places[(limit[places] >= rung) & ~work.bad[places].any(1)]
            for part in torch.split(usable, CHUNK) if len(usable) else ():
                nodes = work.nodes[part]
                surplus = work.numbers(part, rung) - self._interpolated(nodes, rung)
                self.variance[nodes] = surplus.var(-1).double()
        fall, seen = self._decay(level, work, limit)
        least = []
        for q in range(self.count):
            near, above = self.pool(level, self.variance[:, q])[work.nodes], self.above(level, q, work.nodes)
            known = HEAVY * torch.maximum(near, fall[q] * above)
            least.append(torch.maximum(known, KINK * (above - seen[q])))
        return torch.stack(least, 1)

    def _decay(
        self, level: int, work: Work, limit: Int64[Tensor, " nodes"]
    ) -> tuple[list[float], list[Float64[Tensor, " nodes"]]]:
        """Return how variances fall from the level before, and what was there, both on the samples of the least pilot.

        Longer prefixes on the level before may hold rare samples that the pilot lacks; with them, variances would seem
        to fall faster than they do.
        """
        there = (work.rung >= 0) & (limit >= work.rung) & ~work.bad.any(1)
        nothing = torch.zeros(len(work.nodes), dtype=torch.float64)
        if not bool(there.any()):
            return [0.0] * self.count, [nothing] * self.count
        rung = int(work.rung[there].min())
        here, above = torch.full_like(self.variance, math.nan), torch.full_like(self.variance, math.nan)
        for part in torch.split(there.nonzero()[:, 0], CHUNK):
            surplus = work.numbers(part, rung) - self._interpolated(work.nodes[part], rung)
            here[work.nodes[part]] = surplus.var(-1).double()
        before = ((self.tree.level == level - 1) & (self.store.rung >= rung)).nonzero()[:, 0]
        before = before[self.limit(before) >= rung]
        for part in torch.split(before, CHUNK):
            above[part] = self.surpluses(part, rung).var(-1).double()
        fall, seen = [], []
        for q in range(self.count):
            near = self.pool(level, here[:, q])[work.nodes[there]]
            seen.append(self._reach(level, above[:, q], work.nodes))
            fall.append(float(near.sum() / seen[q][there].sum().clamp_min(1e-300)))
        return fall, seen

    def settle(self, level: int, work: Work, least: Float64[Tensor, "nodes count"] | None) -> None:
        """Turn the numbers of a level into values, errors, and what finer levels need."""
        for rung, group in work.groups():
            for places in torch.split(group, CHUNK):
                nodes, n = work.nodes[places], self.rungs[rung]
                numbers, bad = work.numbers(places, rung), work.bad[places]
                broken = bad.any(1)
                self.samples[nodes] = self.apart + n
                self.fixed[nodes] = work.fixed[places]
                self.broken[nodes] = broken
                self.value[nodes] = work.total[places] / n + work.fixed[places]
                if level < self.tree.depth and not bool(broken.all()):
                    self.store.keep(nodes[~broken], rung, numbers[~broken])
                alone = torch.ones_like(broken) if rung == self.top else broken
                for q in range(self.count):
                    mine = alone & ~bad[:, q]
                    self._mean(nodes[mine], rung, numbers[mine, q], level, q)
                if not bool(alone.all()):
                    assert least is not None
                    self._surpluses(nodes[~alone], rung, numbers[~alone], level, least[places[~alone]])

    def look_back(self, level: int) -> None:
        """Compute the variances of surpluses on a level that has all samples."""
        nodes = ((self.tree.level == level) & (self.store.rung == self.top)).nonzero()[:, 0]
        nodes = nodes[self.limit(nodes) == self.top]
        if len(nodes):
            self.variance[nodes] = self.surpluses(nodes, self.top).var(-1).double()

    def close(self, level: int) -> None:
        """Close the books of a level: surpluses where all samples were used, and the surface as it is now."""
        nodes = ((self.tree.level == level) & (self.samples == self.n)).nonzero()[:, 0]
        self.surplus[nodes] = (self.value[nodes] - self.tree.interpolate(self.value, nodes)).abs()
        self.filled = self.tree.fill(self.value, self.samples > 0)
        self._ranges = [robust_range(self.filled[:, q]) for q in range(self.count)]

    def surpluses(self, nodes: Int64[Tensor, " some"], rung: int) -> Float32[Tensor, "some quantities n"]:
        """Return per-sample surpluses over a prefix, of nodes that have it and whose parents do."""
        ones = torch.ones(len(nodes), 1, dtype=torch.float64)
        return self.store.weighted(nodes[:, None], ones, 0, self.rungs[rung]) - self._interpolated(nodes, rung)

    def _interpolated(self, nodes: Int64[Tensor, " some"], rung: int) -> Tensor:
        return self.store.weighted(self.tree.parents[nodes], self.tree.weights[nodes], 0, self.rungs[rung])

    def _mean(self, nodes: Tensor, rung: int, numbers: Tensor, level: int, q: int) -> None:
        """Record errors of plain means, which owe nothing to parents."""
        if not len(nodes):
            return
        if rung == self.top and self.target == "data":
            self.errors[q].exact(nodes)
            return
        numbers = numbers.double()
        draws = self._multipliers.draws(numbers - numbers.mean(-1, keepdim=True), rung)
        self._add(nodes, draws, level, q, 0.0 if rung == self.top else self._narrowest(q))

    def _surpluses(self, nodes: Tensor, rung: int, numbers: Tensor, level: int, least: Tensor) -> None:
        """Record interpolated values plus mean surpluses, and their errors."""
        n = self.rungs[rung]
        surplus = (numbers - self._interpolated(nodes, rung)).double()
        mean = surplus.mean(-1)
        variance = surplus.square().mean(-1).sub(mean.square()).clamp_min(0) * (n / (n - 1))
        rest = 1 / n - (1 / self.rungs[-1] if self.target == "data" else 0.0)
        interpolated = self.tree.interpolate(self.value, nodes)
        whole = mean + (self.fixed[nodes] - self.tree.interpolate(self.fixed, nodes))
        self.value[nodes] = whole + interpolated
        self.variance[nodes] = variance
        self.surplus[nodes] = (whole.square() - variance * rest).clamp_min(0).sqrt()
        for q in range(self.count):
            draws = self.errors[q].inherited(self.tree.parents[nodes], self.tree.weights[nodes])
            centred, factor = surplus[:, q] - mean[:, q, None], math.sqrt(1 + SMALL / n)
            draws = self._multipliers.draws(centred, rung, onto=draws, factor=factor)
            if n <= POOLED:
                gap = ((least[:, q] - variance[:, q]).clamp_min(0) * rest).sqrt().float()
                draws.addcmul_(gap[:, None], self._noise.take(len(nodes)))
            self._add(nodes, draws, level, q, self._narrowest(q))

    def _narrowest(self, q: int) -> float:
        least = NARROWEST * self.absolute(q) / self._critical
        return least if math.isfinite(least) else 0.0

    def _add(self, nodes: Tensor, draws: Tensor, level: int, q: int, least: float) -> None:
        """Record draws; for the population, the denominators have an error too."""
        shown = draws
        if self.target == "population":
            assert self._den is not None
            if self._den_draws is None:
                self._den_draws = self._multipliers.draws(self._den / self.scale[:, None] - 1, self.top)
            shown = draws - self.value[nodes, q, None].float() * self._den_draws[q]
        self.errors[q].add(nodes, draws, shown, least=least, keep=level < self.tree.depth)
