"""Per-sample numbers of the nodes that finer ones are interpolated from: a table for every prefix size."""

import torch
from jaxtyping import Float32, Float64, Int64
from torch import Tensor


class Prefixes:
    """Keeps the numbers of nodes over their prefixes, and gives weighted sums of them over shorter ones.

    Args:
        nodes: Number of nodes of the grid.
        rungs: Number of prefix sizes.

    Cost:
        4 bytes × quantities × the samples of each node kept.
    """

    def __init__(self, nodes: int, rungs: int) -> None:
        self.rung = torch.full((nodes,), -1)
        self._row = torch.full((nodes,), -1)
        self._tables: list[list[Tensor]] = [[] for _ in range(rungs)]
        self._count = [0] * rungs

    def keep(self, nodes: Int64[Tensor, " some"], rung: int, numbers: Float32[Tensor, "some quantities n"]) -> None:
        """Keep the numbers of nodes over the prefix ``rung``."""
        self.rung[nodes] = rung
        self._row[nodes] = self._count[rung] + torch.arange(len(nodes))
        self._tables[rung].append(numbers)
        self._count[rung] += len(nodes)

    def weighted(
        self, parents: Int64[Tensor, "some parents"], weights: Float64[Tensor, "some parents"], start: int, stop: int
    ) -> Float32[Tensor, "some quantities n"]:
        """Return ``Σ_k weights[:, k] · numbers of parents[:, k]`` over samples ``start … stop − 1``.

        Every parent with a weight must have been kept over at least ``stop`` samples.
        """
        out: Tensor | None = None
        for rung, tables in enumerate(self._tables):
            if not tables:
                continue
            if len(tables) > 1:
                tables[:] = [torch.cat(tables)]
            if tables[0].shape[-1] < stop:
                continue
            table = tables[0]
            if out is None:
                out = torch.zeros(len(parents), table.shape[1], stop - start)
            for k in range(parents.shape[1]):
                here = ((self.rung[parents[:, k]] == rung) & (weights[:, k] > 0)).nonzero()[:, 0]
                if len(here):
                    rows = table[self._row[parents[here, k]], :, start:stop]
                    out.index_add_(0, here, rows * weights[here, k, None, None].float())
        assert out is not None
        return out
