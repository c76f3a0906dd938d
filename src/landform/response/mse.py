"""Mean squared error: the mean is the best constant, the variance its floor."""

from collections.abc import Mapping
from typing import Any, final

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from landform.response.base import AbstractResponse
from landform.response.targets import read_elements


@final
class MeanSquaredError(AbstractResponse):
    """σ(p) = 1/D Σ_d [Var(y_d) + (p_d − mean y_d)²] over D outputs, as torch averages over samples and elements.

    The ray raises output 0: ρ(s) = floor + s²/D.

    The statistics are two rows: means and (population) variances.
    """

    def __init__(self, statistics: np.ndarray) -> None:
        self._mean = torch.from_numpy(np.array(statistics[0], dtype=np.float64))
        self._size = len(self._mean)
        super().__init__(
            name="mse",
            unit="loss",
            floor_name="variance of the targets",
            statistics=statistics,
            options={},
            best=self._mean.clone(),
            output=0,
            floor=float(np.mean(statistics[1])),
        )

    @classmethod
    def from_targets(cls, targets: Any, *, outputs: int | None = None, weights: Any = None) -> "MeanSquaredError":
        """Build the response of a data set's targets.

        Args:
            targets: Numbers of shape [N, ...]; trailing dimensions are flattened to D.
            outputs: Expected D, or None.
            weights: One weight per sample, for a re-weighted data set.

        Returns:
            The response.

        Raises:
            DataError: If targets are missing, not finite, or not of size `outputs`.

        Example:
            >>> response = MeanSquaredError.from_targets(torch.tensor([0.0, 2.0]))
            >>> response.floor, response.inverse(torch.tensor([5.0], dtype=torch.float64)).tolist()
            (1.0, [2.0])
        """
        values, share = read_elements(targets, "mse", outputs, weights)
        return cls(moments(values, share))

    @classmethod
    def from_state(cls, config: Mapping[str, Any], statistics: np.ndarray) -> "MeanSquaredError":
        """Rebuild from `config` and `statistics`.

        Args:
            config: What `config` returned.
            statistics: Means and variances, two rows.

        Returns:
            An equal response.
        """
        return cls(statistics, **config["options"])

    def _loss(self, outputs: Float64[Tensor, "points outputs"]) -> Float64[Tensor, " points"]:
        return self.floor + (outputs - self._mean).square().mean(dim=1)

    def _rise(self, s: Float64[Tensor, " points"]) -> Float64[Tensor, " points"]:
        return s * s / self._size

    def _slope(self, s: Float64[Tensor, " points"]) -> Float64[Tensor, " points"]:
        return 2.0 * s / self._size

    def _unrise(self, rise: Float64[Tensor, " points"]) -> Float64[Tensor, " points"]:
        return (rise * self._size).sqrt()


def moments(
    values: Float64[np.ndarray, "samples outputs"], share: Float64[np.ndarray, " samples"]
) -> Float64[np.ndarray, "two outputs"]:
    """Return the weighted mean and population variance of each column, in two passes.

    Args:
        values: One row per sample.
        share: One weight per sample.

    Returns:
        Two rows: means, variances.

    Example:
        >>> moments(np.array([[0.0], [2.0]]), np.array([3.0, 1.0])).tolist()
        [[0.5], [0.75]]
    """
    share = share / share.sum()
    rough = share @ values
    mean = rough + share @ (values - rough)
    return np.stack([mean, share @ np.square(values - mean)])
