"""Gaussian negative log-likelihood: the network answers a mean and a log variance."""

import math
from collections.abc import Mapping
from typing import Any, final

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from landform.errors import InputError
from landform.response.base import AbstractResponse
from landform.response.mse import moments
from landform.response.targets import read_elements


@final
class GaussianNLL(AbstractResponse):
    """σ(μ, λ) = 1/(2D) Σ_d [log v_d + (Var(y_d) + (μ_d − mean y_d)²)/v_d], v = max(e^λ, eps), plus ½·log 2π if full.

    The output vector is [μ_1 … μ_D, λ_1 … λ_D] with λ = log variance, since torch's loss takes mean and variance apart:
    ``gaussian_nll_loss(out[:, :D], y, out[:, D:].exp())``. Best are μ = mean y and v = max(Var y, eps). σ is not convex
    in (μ, λ) together; the ray raises μ_1 with every variance fixed, where ρ(s) = floor + s²/(2·D·v_1) is.

    The statistics are two rows: means and (population) variances.
    """

    def __init__(self, statistics: np.ndarray, *, full: bool = False, eps: float = 1e-6) -> None:
        if not eps > 0:
            raise InputError(f"eps must be positive, got {eps}")
        mean, variance = np.asarray(statistics, dtype=np.float64)
        best = np.maximum(variance, eps)
        self._size = len(mean)
        self._mean, self._variance = torch.from_numpy(mean.copy()), torch.from_numpy(variance.copy())
        self._constant = 0.5 * math.log(2.0 * math.pi) if full else 0.0
        self._eps = eps
        self._gain = 2.0 * self._size * float(best[0])
        super().__init__(
            name="gaussian_nll",
            unit="nat",
            floor_name="entropy of a Gaussian with the targets' variance",
            statistics=statistics,
            options={"full": full, "eps": eps},
            best=torch.from_numpy(np.concatenate([mean, np.log(best)])),
            output=0,
            floor=float(0.5 * np.mean(np.log(best) + variance / best)) + self._constant,
        )

    @classmethod
    def from_targets(
        cls, targets: Any, *, outputs: int | None = None, weights: Any = None, full: bool = False, eps: float = 1e-6
    ) -> "GaussianNLL":
        """Build the response of a data set's targets.

        Args:
            targets: Numbers of shape [N, ...]; trailing dimensions are flattened to D.
            outputs: Expected 2·D, or None.
            weights: One weight per sample, for a re-weighted data set.
            full: Whether the constant ½·log 2π counts, as in torch.
            eps: Least variance, as in torch.

        Returns:
            The response.

        Raises:
            DataError: If targets are missing or not finite, or outputs is not twice their size.
            InputError: If outputs is odd or eps not positive.

        Example:
            >>> GaussianNLL.from_targets(torch.tensor([-1.0, 1.0])).floor
            0.5
        """
        if outputs is not None and outputs % 2:
            raise InputError(
                f"gaussian_nll needs a mean and a log variance per target, got outputs={outputs}; pass an even number"
            )
        values, share = read_elements(targets, "gaussian_nll", None if outputs is None else outputs // 2, weights)
        return cls(moments(values, share), full=full, eps=eps)

    @classmethod
    def from_state(cls, config: Mapping[str, Any], statistics: np.ndarray) -> "GaussianNLL":
        """Rebuild from `config` and `statistics`.

        Args:
            config: What `config` returned.
            statistics: Means and variances, two rows.

        Returns:
            An equal response.
        """
        return cls(statistics, **config["options"])

    def _loss(self, outputs: Float64[Tensor, "points outputs"]) -> Float64[Tensor, " points"]:
        mean, log_variance = outputs[:, : self._size], outputs[:, self._size :]
        variance = log_variance.exp().clamp(min=self._eps)
        spread = (self._variance + (mean - self._mean).square()) / variance
        return 0.5 * (variance.log() + spread).mean(dim=1) + self._constant

    def _rise(self, s: Float64[Tensor, " points"]) -> Float64[Tensor, " points"]:
        return s * s / self._gain

    def _slope(self, s: Float64[Tensor, " points"]) -> Float64[Tensor, " points"]:
        return 2.0 * s / self._gain

    def _unrise(self, rise: Float64[Tensor, " points"]) -> Float64[Tensor, " points"]:
        return (rise * self._gain).sqrt()
