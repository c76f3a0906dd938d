"""Poisson negative log-likelihood, for log rates or rates."""

from collections.abc import Mapping
from typing import Any, final

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from landform.errors import DataError, InputError
from landform.response.base import AbstractResponse
from landform.response.solve import solve_rise
from landform.response.targets import read_elements


@final
class PoissonNLL(AbstractResponse):
    """σ(p) = 1/D Σ_d [e^{p_d} − mean(y_d)·p_d] for log rates, 1/D Σ_d [p_d − mean(y_d)·log(p_d + eps)] for rates.

    Best are p = log mean y, or mean y − eps. Where every target is 0 the log rate is `absent_output` (excess
    e^{absent_output}/D) and the rate 0 (the infimum −eps lies at the end of its domain). `full` adds torch's Stirling
    term, a constant. The ray raises output 0: e^s − 1 − s, scaled, for log rates.

    The statistics are two rows: the means and the mean Stirling terms.
    """

    def __init__(
        self,
        statistics: np.ndarray,
        *,
        log_input: bool = True,
        full: bool = False,
        eps: float = 1e-8,
        absent_output: float = -32.0,
    ) -> None:
        if not eps > 0:
            raise InputError(f"eps must be positive, got {eps}")
        if not absent_output < 0:
            raise InputError(f"absent_output must be negative, got {absent_output}; -32 costs 1e-14")
        mean, stirling = np.asarray(statistics, dtype=np.float64)
        none = mean == 0
        log_mean = np.log(np.where(none, 1.0, mean))
        rest = np.where(none, np.exp(absent_output) if log_input else eps, 0.0)
        if log_input:
            best, low = np.where(none, absent_output, log_mean), mean - mean * log_mean
        else:
            best = np.where(none, 0.0, mean - eps)
            low = np.where(none, -eps, mean - eps - mean * log_mean)
        self._mean = torch.from_numpy(mean.copy())
        self._log_input, self._eps, self._size = log_input, eps, len(mean)
        self._ray_mean = float(mean[0])
        self._ray_rate = float(rest[0] if none[0] and log_input else mean[0])
        self._constant = float(np.mean(stirling)) if full else 0.0
        super().__init__(
            name="poisson_nll",
            unit="nat",
            floor_name="least Poisson loss of a constant rate",
            statistics=statistics,
            options={"log_input": log_input, "full": full, "eps": eps, "absent_output": absent_output},
            best=torch.from_numpy(best),
            output=0,
            floor=float(np.mean(low)) + self._constant,
            excess=float(np.mean(rest)),
        )

    @classmethod
    def from_targets(
        cls,
        targets: Any,
        *,
        outputs: int | None = None,
        weights: Any = None,
        log_input: bool = True,
        full: bool = False,
        eps: float = 1e-8,
        absent_output: float = -32.0,
    ) -> "PoissonNLL":
        """Build the response of a data set's counts.

        Args:
            targets: Numbers ≥ 0 of shape [N, ...]; trailing dimensions are flattened to D.
            outputs: Expected D, or None.
            weights: One weight per sample, for a re-weighted data set.
            log_input: Whether the network answers log rates, as in torch.
            full: Whether Stirling's term counts, as in torch.
            eps: Added to a rate before its logarithm, as in torch (for rates only).
            absent_output: Log rate of an output whose targets are all 0.

        Returns:
            The response.

        Raises:
            DataError: If targets are missing, not finite, negative, or not of size `outputs`.

        Example:
            >>> PoissonNLL.from_targets(torch.tensor([0, 2])).floor
            1.0
        """
        values, share = read_elements(targets, "poisson_nll", outputs, weights)
        if (values < 0).any():
            raise DataError(f"poisson_nll got a target {values.min():.4g}; counts must be >= 0")
        share = share / share.sum()
        above = np.where(values > 1, values, 2.0)
        stirling = np.where(values > 1, above * np.log(above) - above + 0.5 * np.log(2 * np.pi * above), 0.0)
        statistics = np.stack([share @ values, share @ stirling])
        return cls(statistics, log_input=log_input, full=full, eps=eps, absent_output=absent_output)

    @classmethod
    def from_state(cls, config: Mapping[str, Any], statistics: np.ndarray) -> "PoissonNLL":
        """Rebuild from `config` and `statistics`.

        Args:
            config: What `config` returned.
            statistics: Means and mean Stirling terms, two rows.

        Returns:
            An equal response.
        """
        return cls(statistics, **config["options"])

    def _loss(self, outputs: Float64[Tensor, "points outputs"]) -> Float64[Tensor, " points"]:
        if self._log_input:
            each = outputs.exp() - self._mean * outputs
        else:
            each = outputs - torch.xlogy(self._mean, outputs + self._eps)
        return each.mean(dim=1) + self._constant

    def _rise(self, s: Float64[Tensor, " points"]) -> Float64[Tensor, " points"]:
        if self._log_input:
            return (self._ray_rate * torch.expm1(s) - self._ray_mean * s) / self._size
        if self._ray_mean == 0:
            return s / self._size
        return (s - self._ray_mean * torch.log1p(s / self._ray_mean)) / self._size

    def _slope(self, s: Float64[Tensor, " points"]) -> Float64[Tensor, " points"]:
        if self._log_input:
            return (self._ray_rate * torch.expm1(s) + (self._ray_rate - self._ray_mean)) / self._size
        return s / (s + self._ray_mean) / self._size if self._ray_mean else torch.full_like(s, 1.0 / self._size)

    def _unrise(self, rise: Float64[Tensor, " points"]) -> Float64[Tensor, " points"]:
        return solve_rise(self._rise, self._slope, rise, base=self.lowest)
