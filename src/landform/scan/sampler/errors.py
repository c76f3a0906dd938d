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
        if not self._tables:
            return torch.zeros(len(parents), len(self._maxima))
        if len(self._tables) > 1:
            self._tables[:] = [torch.cat(self._tables)]
        rows = self._row[parents]
        used = torch.where(rows >= 0, weights, 0.0).float()
        bags: Tensor = torch.nn.functional.embedding_bag(
            rows.clamp_min(0), self._tables[0], per_sample_weights=used, mode="sum"
        )
        return bags

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
        spread = (torch.linalg.vector_norm(shown, dim=1) / math.sqrt(shown.shape[1])).clamp_min(least)
        self.stderr[nodes] = spread.double()
        small = torch.finfo(torch.float32).tiny
        largest = (shown / spread.clamp_min(small)[:, None]).abs_().amax(0)
        torch.maximum(self._maxima, largest, out=self._maxima)
        if keep:
            self._row[nodes] = self._count + torch.arange(len(nodes))
            self._tables.append(draws)
            self._count += len(nodes)

    def critical(self, confidence: float) -> float:
        """Return the quantile over draws of the largest |error| / stderr of any node so far; 0 where all are exact."""
        return upper_quantile(self._maxima, confidence)
