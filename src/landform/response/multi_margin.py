"""Multi-class margin loss, linear or squared."""

from collections.abc import Mapping
from typing import Any, final

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from landform.errors import DataError, InputError
from landform.response.base import AbstractResponse, as_list
from landform.response.piecewise import ConvexHalf, convex_half
from landform.response.targets import read_classes, read_scales

Array = np.ndarray


@final
class MultiMargin(AbstractResponse):
    """σ(x) = Σ_y a_y Σ_{j≠y} max(0, margin − x_y + x_j)^p, with a_y = weight_y·(share of class y)/C.

    In units of the margin: for p = 1 σ is the dual of a network flow, so a best x is integer; by exchange it is sorted
    like a, and neighbouring levels differ by 1, which leaves a partition of the sorted classes, found by dynamic
    programming. For p = 2 Newton's method ends on the exact piece (every pair of present classes has an active term, so
    the Hessian is the Laplacian of a complete graph). The ray raises the rarest present class (an absent one if only
    one is present), from the end of the flat piece on; ρ is piecewise linear or quadratic and inverted exactly.

    The statistics are one row: a.
    """

    def __init__(self, statistics: np.ndarray, *, p: int = 1, margin: float = 1.0, **options: Any) -> None:
        if p not in (1, 2):
            raise InputError(f"p of multi_margin must be 1 or 2, got {p}")
        if not (np.isfinite(margin) and margin >= 0):
            raise InputError(f"margin of multi_margin must be >= 0, got {margin}")
        a = np.asarray(statistics, dtype=np.float64).reshape(-1)
        one = 1.0 if margin > 0 else 0.0
        levels = np.zeros(len(a)) if margin == 0 else _levels_linear(a) if p == 1 else _levels_squared(a)
        present = np.flatnonzero(a > 0)
        ray = int(present[np.argmin(a[present])]) if len(present) > 1 else int(np.flatnonzero(a == 0)[0])
        levels[ray] += _half(levels, a, ray, p, one).flat()
        self._unit = margin or 1.0
        self._half = _half(levels, a, ray, p, one)
        self._power, self._margin = p, margin
        self._a = torch.from_numpy(a.copy())
        best = torch.from_numpy(levels * self._unit)
        super().__init__(
            name="multi_margin",
            unit="loss",
            floor_name="least margin loss of a constant output",
            statistics=a[None, :],
            options={"p": p, "margin": margin, **options},
            best=best,
            output=ray,
            floor=float(self._loss(best[None, :])),
        )

    @classmethod
    def from_targets(
        cls,
        targets: Any,
        *,
        outputs: int | None = None,
        weights: Any = None,
        p: int = 1,
        margin: float = 1.0,
        weight: Any = None,
    ) -> "MultiMargin":
        """Build the response of a data set's labels.

        Args:
            targets: Class indices of shape [N].
            outputs: Number of classes; default the length of weight, else the largest label + 1.
            weights: One weight per sample, for a re-weighted data set.
            p: Exponent, 1 or 2, as in torch.
            margin: Margin, ≥ 0, as in torch.
            weight: Class weights, as in torch (they do not divide the mean).

        Returns:
            The response.

        Raises:
            DataError: If labels are missing, out of range or of a wrong dtype, or all of weight 0.
            InputError: If p, margin or weight are out of range.

        Example:
            >>> MultiMargin.from_targets(torch.tensor([0, 0, 0, 1])).floor
            0.25
        """
        if outputs is None and weight is not None:
            outputs = len(weight)
        counts = read_classes(targets, "multi_margin", outputs, weights)
        a = counts / counts.sum() * read_scales(weight, "weight", len(counts)) / len(counts)
        if not a.sum() > 0:
            raise DataError("multi_margin: every sample has weight 0; give the present classes a positive weight")
        return cls(a[None, :], p=p, margin=margin, weight=as_list(weight))

    @classmethod
    def from_state(cls, config: Mapping[str, Any], statistics: np.ndarray) -> "MultiMargin":
        """Rebuild from `config` and `statistics`.

        Args:
            config: What `config` returned.
            statistics: The coefficients a, one row.

        Returns:
            An equal response.
        """
        return cls(statistics, **config["options"])

    def _loss(self, outputs: Float64[Tensor, "points outputs"]) -> Float64[Tensor, " points"]:
        size = len(self._a)
        others = 1.0 - torch.eye(size, dtype=torch.float64)
        parts = []
        step = max(1, 2**22 // size**2)
        for i in range(0, len(outputs), step):
            rows = outputs[i : i + step]
            gap = (self._margin - rows[:, :, None] + rows[:, None, :]).clamp(min=0.0) * others
            parts.append(gap.pow(self._power).sum(dim=2) @ self._a)
        return torch.cat(parts)

    def _rise(self, s: Float64[Tensor, " points"]) -> Float64[Tensor, " points"]:
        return self._half.value(s / self._unit) * self._unit**self._power

    def _slope(self, s: Float64[Tensor, " points"]) -> Float64[Tensor, " points"]:
        return self._half.slope(s / self._unit) * self._unit ** (self._power - 1)

    def _unrise(self, rise: Float64[Tensor, " points"]) -> Float64[Tensor, " points"]:
        return self._half.inverse(rise / self._unit**self._power) * self._unit

    def _kinks(self) -> Float64[Tensor, " kinks"]:
        return self._half.kinks() * self._unit


def _levels_linear(a: Array) -> Array:
    """Return best integer outputs for p = 1, margin 1.

    A pair with gap 0 costs both coefficients, one with gap k ≥ 1 costs 1 + k times the smaller. So with classes sorted
    by falling a, a group (l, r] costs Σ a_q·(r − q) inside, and a boundary after l classes costs l·Σ_{j>l} a_j.
    """
    order = np.argsort(-a, kind="stable")
    size, below = len(a), a[order]
    tail = np.concatenate([np.cumsum(below[::-1])[::-1], [0.0]])
    best, start = np.full(size + 1, np.inf), np.zeros(size + 1, dtype=int)
    best[0] = 0.0
    for left in range(size):
        inside = np.cumsum(np.cumsum(below[left:])) - np.cumsum(below[left:])
        cost = best[left] + left * tail[left] + inside
        better = cost < best[left + 1 :]
        best[left + 1 :][better] = cost[better]
        start[left + 1 :][better] = left
    level, right = np.zeros(size), size
    while right > 0:
        left = start[right]
        level[:left] += 1.0
        right = left
    answer = np.empty(size)
    answer[order] = level
    return answer


def _levels_squared(a: Array) -> Array:
    """Return best outputs for p = 2, margin 1: Newton on the present classes, the absent ones a margin below."""
    present = np.flatnonzero(a > 0)
    b = a[present]
    x = np.zeros(len(b))
    others = 1.0 - np.eye(len(b))

    def gaps(x: Array) -> Array:
        clipped: Array = np.maximum(0.0, 1.0 - x[:, None] + x[None, :])
        return clipped * others

    for _ in range(100):
        h = gaps(x)
        flow = b[:, None] * h
        gradient = 2.0 * (flow.sum(axis=0) - flow.sum(axis=1))
        links = b[:, None] * (h > 0)
        links = 2.0 * (links + links.T)
        laplacian = np.diag(links.sum(axis=1)) - links + b.sum() / len(b)
        step = -np.linalg.solve(laplacian, gradient)
        value, rate = float(np.sum(b[:, None] * h * h)), 1.0
        while rate > 1e-9 and float(np.sum(b[:, None] * gaps(x + rate * step) ** 2)) > value:
            rate *= 0.5
        if rate <= 1e-9 or np.abs(step).max() <= 1e-16 * (1.0 + np.abs(x).max()):
            break
        x = x + rate * step
    levels = np.full(len(a), x.min() - 1.0)
    levels[present] = x
    return levels


def _half(levels: Array, a: Array, ray: int, p: int, margin: float) -> ConvexHalf:
    """Return the rise of σ when output `ray` grows from its level."""
    others = np.arange(len(a)) != ray
    start = levels[others] - margin - levels[ray]
    stop = levels[others] + margin - levels[ray]
    rising, falling = a[others], np.full(len(start), a[ray])
    on, off = start <= 0, stop > 0
    none = np.zeros(2 * len(start))
    terms = 2.0 * float(np.sum(rising[on] * (1.0 - start[on])) + np.sum(falling[off] * (1.0 + stop[off])))
    positions = np.concatenate([start, stop])
    if p == 1:
        slope = float(np.sum(rising[on]) - np.sum(falling[off]))
        changes = np.concatenate([rising, falling])
        return convex_half(slope=slope, curvature=0.0, positions=positions, jumps=changes, bends=none, terms=terms)
    slope = 2.0 * float(np.sum(rising[on] * -start[on]) - np.sum(falling[off] * stop[off]))
    curvature = 2.0 * float(np.sum(rising[on]) + np.sum(falling[off]))
    changes = 2.0 * np.concatenate([rising, -falling])
    return convex_half(slope=slope, curvature=curvature, positions=positions, jumps=none, bends=changes, terms=terms)
