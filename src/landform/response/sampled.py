"""A response that is a mean over many samples, each moved by the signal: what both offset forms of Theorem 2 share."""

from abc import abstractmethod
from functools import cached_property

import torch
from jaxtyping import Float64
from torch import Tensor

from landform.response.base import AbstractResponse
from landform.response.solve import solve_rise
from landform.response.tabulated import Tabulated


class AbstractSampledResponse(AbstractResponse):
    """ρ(s) = Σ_i w_i ℓ_i(s) / Σ_i w_i, convex, where one value costs a pass over all samples.

    A subclass states the mean rise and slope for a few signals at once, and how many those may be. Choosing knots asks
    for hundreds of thousands of values: they are interpolated (`Tabulated`); whatever proves or measures asks for few,
    and gets them exactly. p here is the signal s alone (one output).
    """

    @abstractmethod
    def _rise_of(self, s: Float64[Tensor, " points"]) -> Float64[Tensor, " points"]:
        """Return ρ(s) − ρ(0), exactly."""

    @abstractmethod
    def _slope_of(self, s: Float64[Tensor, " points"]) -> Float64[Tensor, " points"]:
        """Return ρ'(s), exactly."""

    @property
    @abstractmethod
    def _at_once(self) -> int:
        """For how many signals the two above may be asked at once."""

    def start(self) -> float:
        """Return ρ'(0)."""
        return float(self._slope_of(torch.zeros(1, dtype=torch.float64))[0])

    def _loss(self, outputs: Float64[Tensor, "points outputs"]) -> Float64[Tensor, " points"]:
        return self.floor + self._exact_rise(outputs[:, 0])

    def _rise(self, s: Float64[Tensor, " points"]) -> Float64[Tensor, " points"]:
        return self._table.rise(s)

    def _slope(self, s: Float64[Tensor, " points"]) -> Float64[Tensor, " points"]:
        return self._table.slope(s)

    def _unrise(self, rise: Float64[Tensor, " points"]) -> Float64[Tensor, " points"]:
        return solve_rise(self._rise, self._slope, rise, base=self.floor)

    @cached_property
    def _table(self) -> Tabulated:
        return Tabulated(self._exact_rise, self._exact_slope)

    def _exact_rise(self, s: Tensor) -> Tensor:
        return torch.cat([self._rise_of(part) for part in torch.split(s, self._at_once)])

    def _exact_slope(self, s: Tensor) -> Tensor:
        return torch.cat([self._slope_of(part) for part in torch.split(s, self._at_once)])
