"""Binary cross-entropy with logits: many outputs, positive weights, weights, soft and one-sided labels."""

import math
from collections.abc import Mapping
from typing import Any, final

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from landform.errors import DataError, InputError
from landform.response.base import AbstractResponse, as_list
from landform.response.logistic import log_rise, log_slope
from landform.response.solve import solve_rise
from landform.response.targets import read_elements, read_scales


@final
class BinaryCrossEntropy(AbstractResponse):
    """σ(p) = Σ_d [α_d·softplus(−p_d) + β_d·softplus(p_d)], α and β the weights of the positive and negative labels.

    Best is p_d = log(α_d/β_d); an output whose labels are all on one side gets ±`absent_output`, at the cost of
    `excess`. The ray moves the output with the most even labels, upwards (downwards if its labels are all positive).

    The statistics are two rows: α and β.
    """

    def __init__(self, statistics: np.ndarray, *, absent_output: float = -32.0, **options: Any) -> None:
        if not absent_output < 0:
            raise InputError(f"absent_output must be negative, got {absent_output}; -32 costs 1e-14 nat per output")
        alpha, beta = np.asarray(statistics, dtype=np.float64)
        mass = alpha + beta
        both = (alpha > 0) & (beta > 0)
        odds = np.log(np.where(both, alpha, 1.0)) - np.log(np.where(both, beta, 1.0))
        best = np.where(both, odds, np.where(alpha > 0, -absent_output, absent_output))
        entropy = np.where(both, alpha * np.log1p(np.exp(-odds)) + beta * np.log1p(np.exp(odds)), 0.0)
        ray = int(np.argmax(np.minimum(alpha, beta))) if both.any() else int(np.argmax(mass))
        sign = 1.0 if beta[ray] > 0 else -1.0
        near = beta[ray] if sign < 0 else alpha[ray]
        self._mass = float(mass[ray])
        self._share = float(near / mass[ray])
        self._q = self._share or math.exp(absent_output) / (1.0 + math.exp(absent_output))
        self._alpha, self._beta = torch.from_numpy(alpha.copy()), torch.from_numpy(beta.copy())
        super().__init__(
            name="bce_with_logits",
            unit="nat",
            floor_name="label entropy",
            statistics=statistics,
            options={"absent_output": absent_output, **options},
            best=torch.from_numpy(best),
            output=ray,
            sign=sign,
            floor=float(entropy.sum()),
            excess=float(np.sum(np.where(both, 0.0, mass)) * math.log1p(math.exp(absent_output))),
        )

    @classmethod
    def from_targets(
        cls,
        targets: Any,
        *,
        outputs: int | None = None,
        weights: Any = None,
        weight: Any = None,
        pos_weight: Any = None,
        absent_output: float = -32.0,
    ) -> "BinaryCrossEntropy":
        """Build the response of a data set's labels.

        Args:
            targets: Labels in [0, 1] of shape [N, ...]; trailing dimensions are flattened to D.
            outputs: Expected D, or None.
            weights: One weight per sample, for a re-weighted data set.
            weight: As in torch, one per output (one per sample is `weights` here).
            pos_weight: As in torch, weight of the positive label at each output.
            absent_output: Logit, up to sign, of an output whose labels are all 0 or all 1.

        Returns:
            The response.

        Raises:
            DataError: If labels are missing, outside [0, 1], not of size `outputs`, or all of weight 0.
            InputError: If weight or pos_weight do not fit.

        Example:
            >>> round(BinaryCrossEntropy.from_targets(torch.tensor([0.0, 1.0])).floor, 6)
            0.693147
        """
        values, share = read_elements(targets, "bce_with_logits", outputs, weights)
        if (values < 0).any() or (values > 1).any():
            raise DataError(
                f"bce_with_logits got labels in [{values.min():.4g}, {values.max():.4g}]; allowed is [0, 1]"
            )
        size = values.shape[1]
        scale = read_scales(weight, "weight", size) / (share.sum() * size)
        alpha = scale * read_scales(pos_weight, "pos_weight", size) * (share @ values)
        beta = scale * (share @ (1.0 - values))
        if not (alpha + beta).sum() > 0:
            raise DataError("bce_with_logits: every label has weight 0; give some output a positive weight")
        return cls(
            np.stack([alpha, beta]),
            absent_output=absent_output,
            weight=as_list(weight),
            pos_weight=as_list(pos_weight),
        )

    @classmethod
    def from_state(cls, config: Mapping[str, Any], statistics: np.ndarray) -> "BinaryCrossEntropy":
        """Rebuild from `config` and `statistics`.

        Args:
            config: What `config` returned.
            statistics: α and β, two rows.

        Returns:
            An equal response.
        """
        return cls(statistics, **config["options"])

    def _loss(self, outputs: Float64[Tensor, "points outputs"]) -> Float64[Tensor, " points"]:
        log_sigmoid = torch.nn.functional.logsigmoid
        return -(log_sigmoid(outputs) @ self._alpha + log_sigmoid(-outputs) @ self._beta)

    def _rise(self, s: Float64[Tensor, " points"]) -> Float64[Tensor, " points"]:
        return self._mass * log_rise(s, self._q, self._share)

    def _slope(self, s: Float64[Tensor, " points"]) -> Float64[Tensor, " points"]:
        return self._mass * log_slope(s, self._q, self._share)

    def _unrise(self, rise: Float64[Tensor, " points"]) -> Float64[Tensor, " points"]:
        return solve_rise(self._rise, self._slope, rise, base=self.lowest)
