"""The numbers of the nodes of one level while it is being evaluated, segment by segment."""

import torch
from jaxtyping import Bool, Float32, Float64, Int64
from torch import Tensor


class Work:
    """Per-sample numbers of some nodes, over prefixes that grow rung by rung.

    Args:
        nodes: The nodes.
        goal: The rung that each shall reach.
        quantities: Number of quantities.
        steering: How many of them, from the first, decide whether going on makes sense.
        rungs: Prefix sizes, of the samples that are not apart.
        apart: Samples that every node is evaluated on, which come first.

    Attributes:
        rung: The rung that each node has reached, −1 before the first.
        fixed: Part of the mean over all samples that those apart make up, in float64, ``[nodes, quantities]``.
        total: Sums of the other numbers, times their part of all samples, in float64, ``[nodes, quantities]``.
        bad: Where a number that is not finite was seen, ``[nodes, quantities]``.
    """

    def __init__(
        self,
        nodes: Int64[Tensor, " nodes"],
        goal: Int64[Tensor, " nodes"],
        quantities: int,
        steering: int,
        rungs: tuple[int, ...],
        apart: int = 0,
    ) -> None:
        self.nodes, self.goal, self.rungs = nodes, goal.clone(), rungs
        self.rung = torch.full((len(nodes),), -1)
        self.total = torch.zeros(len(nodes), quantities, dtype=torch.float64)
        self.fixed = torch.zeros_like(self.total)
        self._apart, self._n = apart, apart + rungs[-1]
        self.bad = torch.zeros(len(nodes), quantities, dtype=torch.bool)
        self._steering = steering
        self._rows = torch.full((len(rungs), len(nodes)), -1)
        self._tables: list[list[Tensor]] = [[] for _ in rungs]
        self._count = [0] * len(rungs)

    @property
    def hopeless(self) -> Bool[Tensor, " nodes"]:
        """Nodes whose means cannot be finite whatever comes: every steering quantity has met a number that is not."""
        return self.bad[:, : self._steering].all(1)

    def due(self) -> list[tuple[int, int, Int64[Tensor, " some"]]]:
        """Return (rung reached, rung to reach, places of the nodes) for everything that is still to be evaluated."""
        open_ = (self.rung < self.goal) & ~self.hopeless
        size = len(self.rungs)
        code = torch.where(open_, (self.rung + 1) * size + self.goal, -1)
        found = torch.bincount(code[open_]).nonzero()[:, 0].tolist()
        return [(pair // size - 1, pair % size, (code == pair).nonzero()[:, 0]) for pair in found]

    def add(self, places: Int64[Tensor, " some"], rung: int, numbers: Float64[Tensor, "some quantities n"]) -> None:
        """Take the numbers of nodes up to ``rung``. A node with one that is not finite goes on to all samples.

        The first time they begin with those of the samples apart. The others are kept times their part of all samples,
        so that ``fixed`` and their mean add up to the mean over all.
        """
        start = self.rungs[int(self.rung[places[0]])] if int(self.rung[places[0]]) >= 0 else 0
        if self._apart:
            if not start:
                self.fixed[places] = numbers[..., : self._apart].sum(-1) / self._n
                numbers = numbers[..., self._apart :]
            numbers = numbers * (self.rungs[-1] / self._n)
        first, offset = int(self.rung[places[0]]) + 1, start
        for k in range(first, rung + 1):
            part = numbers[..., start - offset : self.rungs[k] - offset]
            self._rows[k, places] = self._count[k] + torch.arange(len(places))
            self._tables[k].append(part.float())
            self._count[k] += len(places)
            start = self.rungs[k]
        total = numbers.sum(-1)
        self.rung[places] = rung
        self.total[places] += total
        self.bad[places] |= ~torch.isfinite(total + self.fixed[places])
        self.goal[self.bad.any(1)] = len(self.rungs) - 1

    def numbers(self, places: Int64[Tensor, " some"], rung: int) -> Float32[Tensor, "some quantities n"]:
        """Return the numbers of nodes over the prefix ``rung``, which they must have reached."""
        parts = []
        for k in range(rung + 1):
            if len(self._tables[k]) > 1:
                self._tables[k][:] = [torch.cat(self._tables[k])]
            parts.append(self._tables[k][0][self._rows[k, places]])
        return torch.cat(parts, -1)

    def groups(self) -> list[tuple[int, Int64[Tensor, " some"]]]:
        """Return the rungs reached and the places of the nodes that have reached each."""
        return [(int(k), (self.rung == k).nonzero()[:, 0]) for k in sorted(set(self.rung.tolist())) if k >= 0]
