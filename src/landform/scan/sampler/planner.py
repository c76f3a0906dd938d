"""Which nodes of a level to evaluate, on how many samples each, and what leaving the others out is expected to cost."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from landform.scan.sampler.allocation import forecast, rungs_for, share
from landform.scan.sampler.bootstrap import normal
from landform.scan.sampler.hierarchy import Hierarchy
from landform.scan.sampler.ledger import CHUNK, Ledger
from landform.scan.sampler.truncation import Predicted, predict
from landform.scan.sampler.work import Work

SAMPLING = 0.75
"""Part of the tolerance planned for sampling; the rest is for interpolation. Samples cost its inverse square."""

LIMIT = 0.95
"""Part of the tolerance that sampling may take before a node gets all samples, because its parents have no more."""

RESERVE = 0.1
"""Part of the variance taken to be left where coarser levels have used all of it: a little more than planned."""

EFFECTIVE = 500
"""Nodes as good as independent, for the critical value to plan with before the bootstrap gives one."""

CHECKED = 0.1
"""Part of the work that the check points may add."""


def planned_critical(confidence: float) -> float:
    """Return the critical value to plan with: that of `EFFECTIVE` independent normal errors (Bonferroni).

    Example:
        >>> round(planned_critical(0.99), 2)
        4.26
    """
    return normal(1 - (1 - confidence) / EFFECTIVE)


class Planner:
    """Plans the levels of a multilevel scan from its books; see `Multilevel` for the rules.

    Args:
        tree: The hierarchy.
        books: What is known.
        steering: How many quantities, from the first, are losses.
        target: ``"data"`` or ``"population"``.
        confidence: Simultaneous confidence of the intervals.
        minimum: Level up to which no node is left out.

    Attributes:
        predicted: For each quantity the surpluses expected on the next level; None before the first is closed.
        left: For each quantity the largest estimate of what interpolation costs at the nodes left out so far.
    """

    def __init__(
        self,
        tree: Hierarchy,
        books: Ledger,
        *,
        steering: int,
        target: str,
        confidence: float,
        minimum: int,
    ) -> None:
        self._tree, self._books = tree, books
        self._steering, self._target, self._confidence, self._minimum = steering, target, confidence, minimum
        self._planned_critical = planned_critical(confidence)
        self._spent: dict[tuple[int, int], Tensor] = {}
        self._costs: list[list[float]] = [[] for _ in range(books.count)]
        self.predicted: list[Predicted | None] = [None] * books.count
        self.left = [0.0] * books.count

    def active(self, level: int) -> Int64[Tensor, " some"]:
        """Return the nodes of a level to evaluate: all at first; later those where interpolation will not do."""
        here = self._tree.level == level
        used = self._tree.weights > 0
        beside = (self._books.broken[self._tree.parents] & used).any(1)
        if level > self._minimum:
            wanted = torch.zeros_like(here)
            for q in range(self._steering):
                predicted = self.predicted[q]
                assert predicted is not None
                wanted |= predicted.remainder > (1 - SAMPLING) * self._books.absolute(q)
            possible = ((self._books.samples[self._tree.parents] > 0) | ~used).all(1)
            here = here & ((wanted & possible) | beside)
        return here.nonzero()[:, 0]

    def skip(self, level: int, nodes: Int64[Tensor, " some"]) -> None:
        """Note what interpolation is expected to cost at the nodes of a level that are not evaluated."""
        skipped = self._tree.level == level
        skipped[nodes] = False
        for q, predicted in enumerate(self.predicted):
            assert predicted is not None
            rest = predicted.remainder[skipped]
            if level > self._tree.depth:  # between the finest nodes
                finest = self._tree.level == self._tree.depth
                rest = self._books.surplus[finest, q] * predicted.decay / (1 - predicted.decay)
            rest = rest[torch.isfinite(rest)]
            self.left[q] = max(self.left[q], float(rest.max()) if len(rest) else 0.0)

    def pilot(self, level: int, nodes: Int64[Tensor, " some"]) -> Int64[Tensor, " some"]:
        """Return the pilot's rungs: half of what the variances one level up, and their decay, let expect."""
        goal = torch.zeros(len(nodes), dtype=torch.int64)
        growth = 2 ** len(self._tree.shape)
        for q in range(self._steering):
            costs = self._costs[q]
            decay = min(max(forecast(costs, 1)[1] / max(costs[-1], 1e-300) / growth, 0.03), 0.5)
            expected = self._books.above(level, q, nodes) * decay
            budget, _ = self._budget(level, q, nodes, float(expected.sum()))
            goal = torch.maximum(goal, rungs_for(expected, budget, self._books.rungs) - 1)
        return torch.minimum(goal.clamp(0, max(self._books.top - 1, 0)), self._books.limit(nodes).clamp_min(0))

    def goals(self, level: int, work: Work, least: Float64[Tensor, "nodes count"]) -> Int64[Tensor, " nodes"]:
        """Decide, once, how many samples each node gets."""
        limit = self._books.limit(work.nodes)
        goal = torch.zeros_like(work.goal)
        for q in range(self._steering):
            own = self._books.variance[work.nodes, q].nan_to_num(nan=0.0)
            variance = torch.maximum(least[:, q], own)
            budget, most = self._budget(level, q, work.nodes, float(variance.sum()))
            wanted = rungs_for(variance, budget, self._books.rungs)
            enough = rungs_for(variance, most, self._books.rungs) <= limit
            goal = torch.maximum(goal, torch.where((wanted > limit) & enough, limit, wanted))
        return torch.where(goal > limit, self._books.top, goal)

    def _budget(
        self, level: int, q: int, nodes: Int64[Tensor, " some"], cost: float
    ) -> tuple[Float64[Tensor, " some"], Float64[Tensor, " some"]]:
        """Return the variance that the surpluses of a level may add to each node's value: as planned, and at most."""
        errors, tree = self._books.errors[q], self._tree
        spent = self._inherited(level, q, nodes)
        critical = max(errors.critical(self._confidence), self._planned_critical)
        allowed = (SAMPLING * self._books.absolute(q) / critical) ** 2
        if self._target == "population":  # what all samples cannot give, fewer need not try
            allowed = max(allowed, 1.2 * float(errors.stderr.nan_to_num(nan=0.0).max()) ** 2)
        left = (allowed - spent).clamp_min(RESERVE * allowed)
        most = ((LIMIT / SAMPLING) ** 2 * allowed - spent).clamp_min(0)
        finer, growth = tree.depth - level, 2 ** len(tree.shape)
        costs = forecast([*self._costs[q], cost], finer)
        counts = [len(nodes) * growth**j for j in range(finer + 1)]
        return left * share(costs, counts, self._books.rungs[0], float(left.mean())), most

    def _inherited(self, level: int, q: int, nodes: Int64[Tensor, " some"]) -> Float64[Tensor, " some"]:
        """Return the variances that the nodes of a level inherit; worked out once for its pilot and its goals."""
        if (level, q) not in self._spent:
            errors, tree = self._books.errors[q], self._tree
            draws = (errors.inherited(tree.parents[part], tree.weights[part]) for part in torch.split(nodes, CHUNK))
            squares = [torch.linalg.vector_norm(found, dim=1).double().square() / found.shape[1] for found in draws]
            self._spent = {key: known for key, known in self._spent.items() if key[0] == level}
            self._spent[level, q] = torch.cat(squares)
        return self._spent[level, q]

    def close(self, level: int) -> None:
        """Take stock of a level: costs, and the prediction for the next one."""
        books, here = self._books, self._tree.level == level
        for q in range(books.count):
            self._costs[q].append(float(books.variance[here, q].nan_to_num(nan=0.0, posinf=0.0).sum()))
            self.predicted[q] = predict(self._tree, level, books.surplus[:, q], self.predicted[q])

    def wide(self) -> Int64[Tensor, " some"]:
        """Return the nodes that are known less well than the tolerance asks for, and would be better on all samples.

        Rare samples that a pilot did not see make some; and the critical value is known only at the end. Towards the
        population, a node on all samples has an error, so nodes that are no worse than such ones are left.
        """
        some = (self._books.samples > 0) & (self._books.samples < self._books.n)
        wide = torch.zeros_like(some)
        for q in range(self._steering):
            errors = self._books.errors[q]
            most = self._books.absolute(q) / max(errors.critical(self._confidence), 1e-300)
            whole = errors.stderr[self._books.samples == self._books.n].nan_to_num(nan=0.0)
            if self._target == "population" and len(whole):
                most = max(most, 1.2 * float(whole.max()))
            wide |= errors.stderr > most  # False where there is no error to speak of
        return (wide & some).nonzero()[:, 0]

    def foresee(self, level: int, work: Work) -> int:
        """Forecast the sample evaluations that are still to come."""
        sizes = torch.tensor(self._books.rungs)
        done = torch.where(work.rung >= 0, sizes[work.rung.clamp_min(0)], 0)
        total, samples = float((sizes[work.goal] - done).sum()), float(sizes[work.goal].double().mean())
        predicted = self.predicted[0]
        assert predicted is not None
        size = float(predicted.remainder.nan_to_num(nan=0.0).max())
        for k in range(level + 1, self._tree.depth + 1):
            size, samples = size * predicted.decay, max(samples * 0.3, self._books.rungs[0])
            if k > self._minimum and size <= (1 - SAMPLING) * self._books.absolute(0):
                break
            total += int((self._tree.level == k).sum()) * (samples + self._books.apart)
        return math.ceil(total)


def check_count(spent: int, n: int) -> int:
    """Return how many random points to check by default: as many as add a tenth of the work, 4 to 64.

    Example:
        >>> check_count(180_000, 1000), check_count(10, 1000)
        (18, 4)
    """
    return min(max(round(CHECKED * spent / n), 4), 64)


def level_counts(tree: Hierarchy, known: Tensor) -> tuple[Sequence[int], Sequence[int]]:
    """Return how many nodes each level has, and how many of them are known.

    Example:
        >>> from landform.scan.sampler.hierarchy import build_hierarchy
        >>> level_counts(build_hierarchy((5,)), torch.tensor([True, False, True, False, True]))
        ([2, 1, 2], [2, 1, 0])
    """
    size = tree.depth + 1
    return (
        torch.bincount(tree.level, minlength=size).tolist(),
        torch.bincount(tree.level[known], minlength=size).tolist(),
    )
