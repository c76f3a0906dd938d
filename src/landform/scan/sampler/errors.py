"""Bootstrap draws of the errors of all node values together, from which standard errors and critical values follow."""

import math

import torch
from jaxtyping import Float32, Float64, Int64
from torch import Tensor

from landform.scan.sampler.bootstrap import upper_quantile


class Errors:
    """Draws of the error of each node's value, for one quantity.

    The errors are linear in the samples: the draws of a value are those of its own surplus plus the weighted draws of
    its parents, all made with the same multipliers, so every correlation between nodes, levels and prefixes is in them.

    Args:
        nodes: Number of nodes of the grid.
        draws: Number of draws.

    Cost:
        4 bytes × draws × nodes kept (those that finer ones are interpolated from and have a sampling error).
    """

    def __init__(self, nodes: int, draws: int) -> None:
        self._row = torch.full((nodes,), -1)
        self._tables: list[Tensor] = []
        self._count = 0
        self._maxima = torch.zeros(draws)
        self.stderr = torch.full((nodes,), math.nan, dtype=torch.float64)

    def inherited(
        self, parents: Int64[Tensor, "some parents"], weights: Float64[Tensor, "some parents"]
    ) -> Float32[Tensor, "some draws"]:
        """Return the draws of the interpolated values, ``Σ_k weights[:, k] · draws of parents[:, k]``."""
        out = torch.zeros(len(parents), len(self._maxima))
        if self._tables:
            if len(self._tables) > 1:
                self._tables[:] = [torch.cat(self._tables)]
            for k in range(parents.shape[1]):
                rows = self._row[parents[:, k]]
                here = ((rows >= 0) & (weights[:, k] > 0)).nonzero()[:, 0]
                out.index_add_(0, here, self._tables[0][rows[here]] * weights[here, k, None].float())
        return out

    def exact(self, nodes: Int64[Tensor, " some"]) -> None:
        """Record nodes without sampling error."""
        self.stderr[nodes] = 0.0

    def add(
        self,
        nodes: Int64[Tensor, " some"],
        draws: Float32[Tensor, "some draws"],
        shown: Float32[Tensor, "some draws"],
        *,
        least: float,
        keep: bool,
    ) -> None:
        """Record the draws of nodes.

        Args:
            nodes: The nodes.
            draws: What finer nodes inherit.
            shown: What standard errors and critical values are taken from.
            least: Smallest standard error to claim.
            keep: Whether there are finer nodes to inherit.
        """
        spread = shown.square().mean(1).sqrt().clamp_min(least)
        self.stderr[nodes] = spread.double()
        small = torch.finfo(torch.float32).tiny
        self._maxima = torch.maximum(self._maxima, (shown.abs() / spread.clamp_min(small)[:, None]).amax(0))
        if keep:
            self._row[nodes] = self._count + torch.arange(len(nodes))
            self._tables.append(draws)
            self._count += len(nodes)

    def critical(self, confidence: float) -> float:
        """Return the quantile over draws of the largest |error| / stderr of any node so far; 0 where all are exact."""
        return upper_quantile(self._maxima, confidence)
