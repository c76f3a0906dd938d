"""Theorem 2, per sample: the loss of every sample that is told apart, as a function of one signal."""

import math
from collections.abc import Mapping
from typing import Any, final

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from landform.errors import InputError
from landform.response.base import AbstractResponse


@final
class PerSampleResponse(AbstractResponse):
    """ρ(s) = log(1 + (C − 1)·e^(s − A)): cross-entropy of logit a = A − s for the own class and 0 for the others.

    With scores u_c(x), logit_c = relu(u_c) − relu(u_c − a) is a where u_c ≥ max(a, 0) and 0 where u_c ≤ min(a, 0), so
    the loss of every sample whose scores are that far apart is ρ(s), whatever the sample. The network cuts scores off
    at B ≥ a (`landform.imprint.scores`); stored is by how much they would exceed it.

    The statistics are one row a sample: its weight, its label, its scores.

    Args:
        statistics: As above.
        top: A, the logit at s = 0.
        cap: B.
        magnitudes: max over samples of Σ_k |w_ck||x_k| + |b_c| of what the scores are made of, one a class: what
            rounding is measured by.
        groups: How many units speak against a class.
    """

    def __init__(
        self, statistics: np.ndarray, *, top: float, cap: float, magnitudes: list[float], groups: int = 1
    ) -> None:
        table = torch.from_numpy(np.array(statistics, dtype=np.float64))
        self.outputs = table.shape[1] - 2
        self.top = float(top)
        self.cap = float(cap)
        self.groups = int(groups)
        self.magnitudes = torch.tensor(magnitudes, dtype=torch.float64)
        self.share = table[:, 0] / table[:, 0].sum()
        self.labels = table[:, 1].long()
        self.scores = table[:, 2:]
        if self.outputs < 2 or len(magnitudes) != self.outputs:
            raise InputError(f"per-sample statistics of {self.outputs} classes and {len(magnitudes)} magnitudes")
        super().__init__(
            name="per_sample",
            unit="nat",
            floor_name="least loss asked for",
            statistics=statistics,
            options={"top": self.top, "cap": self.cap, "magnitudes": list(magnitudes), "groups": self.groups},
            best=torch.zeros(1, dtype=torch.float64),
            output=0,
            floor=math.log1p((self.outputs - 1) * math.exp(-self.top)),
            assumptions=("the scores of the samples are those stored with the imprint, bit for bit",),
        )

    @classmethod
    def from_state(cls, config: Mapping[str, Any], statistics: np.ndarray) -> "PerSampleResponse":
        """Rebuild from `config` and `statistics`.

        Args:
            config: What `config` returned.
            statistics: What `statistics` returned.

        Returns:
            An equal response.
        """
        return cls(statistics, **config["options"])

    def logit(self, t: Float64[Tensor, "*shape"]) -> Float64[Tensor, "*shape"]:
        """Return a = log((C − 1)/(e^t − 1)), the logit that makes the loss t."""
        return math.log(self.outputs - 1) - torch.log(torch.expm1(t))

    def right(self) -> Tensor:
        """Say of each sample whether nothing speaks against its own class, and something against every other."""
        own, others = self._sides()
        return (own >= self.cap) & (others < self.cap)

    def served(self, lo: float, hi: float, slack: float = 0.0) -> Tensor:
        """Say of each sample whether its loss is ρ(s) for all t in [lo, hi], with scores known to within ``slack``."""
        a = self.logit(torch.tensor([lo, hi], dtype=torch.float64))
        own, others = self._sides()
        return (own >= self.cap + slack) & (others <= min(float(a.min()), 0.0) - slack)

    def _sides(self) -> tuple[Tensor, Tensor]:
        """Return the score of each sample's own class, and the largest of the others."""
        own = self.scores.gather(1, self.labels[:, None])
        return own[:, 0], self.scores.scatter(1, self.labels[:, None], -math.inf).amax(dim=1)

    def sample_losses(self, s: Float64[Tensor, " points"]) -> Float64[Tensor, "points samples"]:
        """Return every sample's loss, served or not, from its scores."""
        a = (self.top - s)[:, None, None]
        logits = self.scores.clamp(min=0.0) - (self.scores - a).clamp(min=0.0)
        own = logits.gather(2, self.labels.expand(len(s), -1)[:, :, None])[:, :, 0]
        return logits.logsumexp(dim=2) - own

    def _loss(self, outputs: Float64[Tensor, "points outputs"]) -> Float64[Tensor, " points"]:
        return torch.log1p((self.outputs - 1) * torch.exp(outputs[:, 0] - self.top))

    def _rise(self, s: Float64[Tensor, " points"]) -> Float64[Tensor, " points"]:
        base = (self.outputs - 1) * math.exp(-self.top)
        return torch.log1p(base * torch.expm1(s) / (1 + base))

    def _slope(self, s: Float64[Tensor, " points"]) -> Float64[Tensor, " points"]:
        return torch.sigmoid(s - self.top + math.log(self.outputs - 1))

    def _unrise(self, rise: Float64[Tensor, " points"]) -> Float64[Tensor, " points"]:
        base = (self.outputs - 1) * math.exp(-self.top)
        return torch.log1p(torch.expm1(rise) * (1 + base) / base)
