"""L1, smooth L1 and Huber: one family, a parabola of half-width w continued by lines."""

from collections.abc import Mapping
from typing import Any, final

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from landform.errors import InputError
from landform.response.base import AbstractResponse
from landform.response.piecewise import ConvexHalf, convex_half
from landform.response.targets import read_elements

Array = np.ndarray


@final
class Robust(AbstractResponse):
    """σ(p) = scale/D Σ_d mean_i ℓ_w(p_d − y_id), with ℓ_w(x) = x²/(2w) for |x| ≤ w, else |x| − w/2.

    w = 0 is L1 (best: the median), w = beta smooth L1, w = scale = delta Huber. Of the minimisers, an interval when the
    loss is flat there, the last is taken. The ray raises output 0; ρ is piecewise quadratic and inverted exactly.

    The statistics are one row per sample (or distinct target, for a single output): its weight, then its targets.
    """

    def __init__(self, statistics: np.ndarray, *, name: str, **options: float) -> None:
        width, scale, key = 0.0, 1.0, {"smooth_l1": "beta", "huber": "delta"}.get(name)
        if key is not None:
            width = float(options[key])
            scale = width if name == "huber" else 1.0
            if not (np.isfinite(width) and (width > 0 or (width == 0 and name == "smooth_l1"))):
                raise InputError(f"{key} of {name} must be positive, got {width}")
        share, rows = np.asarray(statistics[:, 0], dtype=np.float64), np.asarray(statistics[:, 1:], dtype=np.float64)
        weight = share / share.sum() * scale / rows.shape[1]
        self._best = np.array([_minimiser(y, share, width) for y in rows.T])
        away = rows - self._best
        self._right = [_half(x, weight, width) for x in away.T]
        self._left = [_half(-x, weight, width) for x in away.T]
        floor = float(np.sum(weight @ _robust(away, width)))
        super().__init__(
            name=name,
            unit="loss",
            floor_name="spread of the targets about their best constant",
            statistics=statistics,
            options=options,
            best=torch.from_numpy(self._best.copy()),
            output=0,
            floor=floor,
        )

    @classmethod
    def from_targets(
        cls, targets: Any, *, name: str, outputs: int | None = None, weights: Any = None, **options: float
    ) -> "Robust":
        """Build the response of a data set's targets.

        Args:
            targets: Numbers of shape [N, ...]; trailing dimensions are flattened to D.
            name: ``"l1"``, ``"smooth_l1"`` or ``"huber"``.
            outputs: Expected D, or None.
            weights: One weight per sample, for a re-weighted data set.
            options: ``beta`` of smooth L1, ``delta`` of Huber.

        Returns:
            The response.

        Raises:
            DataError: If targets are missing, not finite, or not of size `outputs`.
            InputError: If beta or delta is not positive.

        Example:
            >>> response = Robust.from_targets(torch.tensor([0.0, 1.0, 5.0]), name="l1")
            >>> response.best.tolist(), round(response.floor, 6)
            ([1.0], 1.666667)
        """
        values, share = read_elements(targets, name, outputs, weights)
        if values.shape[1] == 1:
            distinct, index = np.unique(values[:, 0], return_inverse=True)
            values, share = distinct[:, None], np.bincount(index, weights=share)
        return cls(np.column_stack([share, values]), name=name, **options)

    @classmethod
    def from_state(cls, config: Mapping[str, Any], statistics: np.ndarray) -> "Robust":
        """Rebuild from `config` and `statistics`.

        Args:
            config: What `config` returned.
            statistics: Weights and targets, one row each.

        Returns:
            An equal response.
        """
        return cls(statistics, name=config["name"], **config["options"])

    def _loss(self, outputs: Float64[Tensor, "points outputs"]) -> Float64[Tensor, " points"]:
        total = torch.full_like(outputs[:, 0], self.floor)
        for d, (right, left) in enumerate(zip(self._right, self._left, strict=True)):
            u = outputs[:, d] - float(self._best[d])
            total = total + torch.where(u >= 0, right.value(u.clamp(min=0)), left.value((-u).clamp(min=0)))
        return total

    def _rise(self, s: Float64[Tensor, " points"]) -> Float64[Tensor, " points"]:
        return self._right[0].value(s)

    def _slope(self, s: Float64[Tensor, " points"]) -> Float64[Tensor, " points"]:
        return self._right[0].slope(s)

    def _unrise(self, rise: Float64[Tensor, " points"]) -> Float64[Tensor, " points"]:
        return self._right[0].inverse(rise)

    def _kinks(self) -> Float64[Tensor, " kinks"]:
        return self._right[0].kinks()


def _robust(x: Array, width: float) -> Array:
    size: Array = np.abs(x)
    if width > 0:
        size = np.where(size <= width, size * size / (2 * width), size - width / 2)
    return size


def _half(away: Array, weight: Array, width: float) -> ConvexHalf:
    """g(u) = Σ weight·[ℓ_w(u − away) − ℓ_w(−away)] for u ≥ 0."""
    none, terms = np.zeros_like(weight), float(weight.sum())
    if width == 0:
        slope = float(np.sum(np.where(away <= 0, weight, -weight)))
        return convex_half(slope=slope, curvature=0.0, positions=away, jumps=2 * weight, bends=none, terms=terms)
    start, stop = away - width, away + width
    active = (start <= 0) & (stop > 0)
    return convex_half(
        slope=float(np.sum(weight * np.clip(-away / width, -1.0, 1.0))),
        curvature=float(np.sum(weight[active])) / width,
        positions=np.concatenate([start, stop]),
        jumps=np.concatenate([none, none]),
        bends=np.concatenate([weight, -weight]) / width,
        terms=terms,
    )


def _minimiser(y: Array, share: Array, width: float) -> float:
    """Return the last minimiser of Σ share·ℓ_w(p − y)."""
    total, slack = float(share.sum()), 64 * float(np.finfo(np.float64).eps)
    if width == 0:
        order = np.argsort(y, kind="stable")
        return float(y[order][np.searchsorted(np.cumsum(share[order]), total * (0.5 + slack), side="right")])
    where = np.concatenate([y - width, y + width])
    order = np.argsort(where, kind="stable")
    where = where[order]
    bend = np.concatenate([share, -share])[order].astype(np.longdouble) / width
    curvature = np.cumsum(bend)
    slope = np.concatenate([[0.0], np.cumsum(curvature[:-1] * np.diff(where))]) - total
    last = int(np.flatnonzero(slope <= slack * total)[-1])
    step = -slope[last] / curvature[last] if slope[last] < -slack * total else 0.0
    return float(where[last] + step)
