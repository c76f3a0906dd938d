"""Theorem 2, offset: the loss of a trained network as a function of how far its outputs are moved along one ray."""

import math
from collections.abc import Iterator, Mapping
from typing import Any, final

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from landform.errors import DataError, InputError
from landform.response.sampled import AbstractSampledResponse

OFFSET_LOSSES = ("cross_entropy", "mse", "bce_with_logits")
"""Losses with an offset response."""
_CHUNK = 1 << 22


@final
class OffsetResponse(AbstractSampledResponse):
    """ρ(s) = 1/W Σ_i w_i ℓ(f(x_i) + s·v, y_i): outputs f of a trained network, moved by s along v.

    p here is the signal s alone (one output). ρ is convex where ℓ is, ρ(0) is the trained loss, and v is chosen so
    that ρ'(0) ≥ 0: s = 0 is the least of all s ≥ 0.

    The statistics are one row a sample: its weight, f(x_i), its target (a label, or a number an output), and, where
    rounding of the trained part is known, of how many terms its sums in the last layer are and how far each output may
    be from what is stored, whatever the order of summation.

    Args:
        statistics: As above.
        loss: One of `OFFSET_LOSSES`.
        ray: v, one number an output.
    """

    def __init__(self, statistics: np.ndarray, *, loss: str, ray: list[float]) -> None:
        if loss not in OFFSET_LOSSES:
            raise InputError(f"offset covers {', '.join(OFFSET_LOSSES)}, got {loss}")
        table = torch.from_numpy(np.array(statistics, dtype=np.float64))
        self.outputs = len(ray)
        self.of = loss
        self.v = torch.tensor(ray, dtype=torch.float64)
        known = 1 + self.outputs + (1 if loss == "cross_entropy" else self.outputs)
        if table.shape[1] not in (known, known + 1 + self.outputs):
            raise InputError(
                f"an offset response to {loss} of {self.outputs} outputs has rows of {known} numbers, or of"
                f" {known + 1 + self.outputs} with rounding; got {table.shape[1]}"
            )
        self.logits = table[:, 1 : 1 + self.outputs]
        self.targets = table[:, 1 + self.outputs : known]
        self.terms = table[:, known] if table.shape[1] > known else None
        self.radii = table[:, known + 1 :] if table.shape[1] > known else None
        self.share = table[:, 0] / table[:, 0].sum()
        if loss == "cross_entropy":
            self._labels = self.targets[:, 0].long()
            self._p = self.logits.softmax(dim=1)
            self._lead = float(self.share @ self.v[self._labels])
        floor = float(self.share @ self.sample_losses(torch.zeros(1, dtype=torch.float64))[0])
        super().__init__(
            name="offset",
            unit="loss" if loss == "mse" else "nat",
            floor_name="trained loss",
            statistics=statistics,
            options={"loss": loss, "ray": list(ray)},
            best=torch.zeros(1, dtype=torch.float64),
            output=0,
            floor=floor,
            assumptions=(
                (
                    "the trained part hands the last layer the numbers that it did when the imprint was made, bit for"
                    " bit (the last layer may add them in any order; what else another batch size or machine moves the"
                    " trained outputs by comes on top)"
                ),
            ),
        )

    @classmethod
    def build(
        cls,
        logits: Tensor,
        targets: Tensor,
        loss: str,
        weights: Tensor | None = None,
        *,
        rounding: tuple[Tensor, Tensor] | None = None,
    ) -> "OffsetResponse":
        """Choose v and build the response.

        v starts as one output, the rarest class present (of MSE and BCE: the first), and loses its part along the mean
        residual r = ∇_p mean ℓ, so that ρ'(0) = ⟨v, r⟩ = 0. Where that leaves a ray along which the loss does not rise
        (two classes: only their difference matters), it stays as it was, with the sign that makes ρ'(0) ≥ 0.

        Args:
            logits: f(x_i), ``[n, outputs]``.
            targets: Targets as the loss takes them.
            loss: One of `OFFSET_LOSSES`.
            weights: One weight a sample.
            rounding: How many terms each sample's sums have, ``[n]``, and how far each output may be off,
                ``[n, outputs]``; None where nothing is to be proved.

        Returns:
            The response.

        Raises:
            DataError: If targets and outputs do not fit.
        """
        n, size = logits.shape
        table = targets.double().reshape(n, -1)
        share = torch.ones(n, dtype=torch.float64) if weights is None else weights.double()
        if loss == "cross_entropy" and (targets.is_floating_point() or table.shape[1] != 1):
            raise DataError(f"offset needs class indices for cross-entropy, got targets of shape {list(targets.shape)}")
        if loss == "cross_entropy" and (int(targets.max()) >= size or int(targets.min()) < 0):
            raise DataError(f"labels run from {int(targets.min())} to {int(targets.max())} for {size} outputs")
        if loss != "cross_entropy" and table.shape[1] != size:
            raise DataError(f"targets have {table.shape[1]} numbers a sample and the network {size} outputs")
        parts = [share[:, None], logits.double(), table]
        if rounding is not None:
            parts += [rounding[0].double()[:, None], rounding[1].double()]
        rows = torch.cat(parts, dim=1).numpy()
        first, residual = _residual(logits.double(), table, share / share.sum(), loss)
        v = torch.zeros(size, dtype=torch.float64)
        v[first] = 1.0
        square = float(residual @ residual)
        projected = v - (float(residual[first]) / square) * residual if square > 0 else v
        if float(projected[first]) > 1e-3:
            projected = projected / projected[first]
            spread = float(projected.max() - projected.min()) if loss == "cross_entropy" else 1.0
            if size > 1 and spread > 1e-3:
                return cls(rows, loss=loss, ray=projected.tolist())
        v *= 1.0 if float(residual[first]) >= 0 else -1.0
        return cls(rows, loss=loss, ray=v.tolist())

    @classmethod
    def from_state(cls, config: Mapping[str, Any], statistics: np.ndarray) -> "OffsetResponse":
        """Rebuild from `config` and `statistics`.

        Args:
            config: What `config` returned.
            statistics: What `statistics` returned.

        Returns:
            An equal response.
        """
        options = config["options"]
        if not isinstance(options.get("ray"), list) or statistics.shape[1] < 2 + len(options["ray"]):
            raise InputError(f"an offset response of {statistics.shape} statistics lacks targets or a ray")
        return cls(statistics, loss=options["loss"], ray=options["ray"])

    def on(self, logits: Tensor, targets: Tensor, weights: Tensor | None = None) -> "OffsetResponse":
        """Return ρ̃ of another data set: the same ray, its own outputs and targets.

        Args:
            logits: The same network's outputs there.
            targets: Its targets.
            weights: One weight a sample.

        Returns:
            Its response; ρ̃'(0) may be negative.
        """
        n = len(logits)
        share = torch.ones(n, dtype=torch.float64) if weights is None else weights.double()
        rows = torch.cat([share[:, None], logits.double(), targets.double().reshape(n, -1)], dim=1).numpy()
        return OffsetResponse(rows, loss=self.of, ray=self.v.tolist())

    def sample_losses(self, s: Float64[Tensor, " points"]) -> Float64[Tensor, "points samples"]:
        """Return every sample's loss at signals s: ℓ(f(x_i) + s·v, y_i)."""
        moved = self.logits + s[:, None, None] * self.v
        if self.of == "mse":
            return (moved - self.targets).square().mean(dim=2)
        if self.of == "bce_with_logits":
            return (torch.nn.functional.softplus(moved) - self.targets * moved).mean(dim=2)
        chosen = moved.gather(2, self._labels.expand(len(s), -1)[:, :, None])[:, :, 0]
        return moved.logsumexp(dim=2) - chosen

    def moved_by(
        self, still: Float64[Tensor, "samples outputs"], growth: Float64[Tensor, "samples outputs"], top: float
    ) -> float:
        """Bound how far the mean loss moves, for any s in [0, top], when output c moves by |δ_ic| ≤ still + growth·s.

        Of a sample with probabilities p and label y, cross-entropy moves by at most log(1 + Σ_{c≠y} p_c (exp(δ_c + δ_y)
        − 1)): upwards by definition, downwards because log Σ exp is convex. So what is all but certain hardly counts.
        Between the places where p is computed, p_c grows at most by exp(|Δs|·(max v − min v)).

        Args:
            still: What the outputs may move by at s = 0.
            growth: What is added for each unit of s.
            top: Greatest s.

        Returns:
            The bound, in loss units.

        Cost:
            129 evaluations of all samples' outputs.
        """
        grid = torch.linspace(0.0, top, 129, dtype=torch.float64)
        half = 0.5000001 * float(grid[1])
        found = [self._moved(part, half, still, growth) for part in torch.split(grid, self._few)]
        return float(torch.cat(found).max()) * (1 + 1e-12)

    def _moved(self, s: Tensor, half: float, still: Tensor, growth: Tensor) -> Tensor:
        noise = still + growth * (s + half)[:, None, None]
        moved = self.logits + s[:, None, None] * self.v
        if self.of == "cross_entropy":
            own = self._labels.expand(len(s), -1)[:, :, None]
            rise = torch.expm1(noise + noise.gather(2, own)) * moved.softmax(dim=2)
            rise.scatter_(2, own, 0.0)
            spread = float(self.v.max() - self.v.min())
            return torch.log1p(math.exp(spread * half) * rise.sum(dim=2)) @ self.share
        if self.of == "bce_with_logits":
            away = (torch.sigmoid(moved) - self.targets).abs() + self.v.abs() * half / 4 + noise / 8
        else:
            away = 2 * ((moved - self.targets).abs() + self.v.abs() * half) + noise
        return (away * noise).mean(dim=2) @ self.share

    @property
    def _near(self) -> float:
        """Signals up to which exp(s·v) neither overflows nor cancels: beyond, logarithms are needed, and cost more."""
        return 10.0 / max(float(self.v.abs().max()), 1e-300)

    def _tilted(self, s: Tensor) -> Iterator[Tensor]:
        """Yield log p_c + s·(v_c − v_y), point by sample by output, for some points at a time."""
        away = self.v - self.v[self._labels][:, None]
        for part in torch.split(s, self._few):
            yield self.logits.log_softmax(dim=1) + part[:, None, None] * away

    @property
    def _at_once(self) -> int:
        return max(1, _CHUNK // (len(self.share) * (1 if self.of == "cross_entropy" else self.outputs)))

    @property
    def _few(self) -> int:
        return max(1, _CHUNK // self.logits.numel())

    def _rise_of(self, s: Tensor) -> Tensor:
        if self.of == "mse":
            residual = self.share @ (self.logits - self.targets)
            return (2 * s * (residual @ self.v) + s.square() * self.v.square().sum()) / self.outputs
        if self.of == "bce_with_logits":
            return (self.sample_losses(s) - self.sample_losses(torch.zeros_like(s[:1]))) @ self.share
        out, far = torch.empty_like(s), s.abs() > self._near
        grown = torch.expm1(s[~far] * self.v[:, None])  # [outputs, points]
        out[~far] = self.share @ torch.log1p(self._p @ grown) - s[~far] * self._lead
        out[far] = self._joined([torch.logsumexp(part, dim=2) for part in self._tilted(s[far])])
        return out

    def _slope_of(self, s: Tensor) -> Tensor:
        if self.of == "mse":
            residual = self.share @ (self.logits - self.targets)
            return 2 * (residual @ self.v + s * self.v.square().sum()) / self.outputs
        if self.of == "bce_with_logits":
            moved = self.logits + s[:, None, None] * self.v
            return ((torch.sigmoid(moved) - self.targets) * self.v).mean(dim=2) @ self.share
        out, far = torch.empty_like(s), s.abs() > self._near
        grown = torch.exp(s[~far] * self.v[:, None])
        mean = (self._p @ (self.v[:, None] * grown)) / (self._p @ grown)
        out[~far] = self.share @ mean - self._lead
        away = self.v - self.v[self._labels][:, None]
        out[far] = self._joined([(part.softmax(dim=2) * away).sum(dim=2) for part in self._tilted(s[far])])
        return out

    def _joined(self, parts: list[Tensor]) -> Tensor:
        return torch.cat(parts) @ self.share


def _residual(logits: Tensor, table: Tensor, share: Tensor, loss: str) -> tuple[int, Tensor]:
    """Return the output that the ray starts as, and the gradient of the mean loss over a constant added to outputs."""
    if loss == "cross_entropy":
        labels = table[:, 0].long()
        counts = torch.bincount(labels, weights=share, minlength=logits.shape[1])
        first = int(torch.where(counts > 0, counts, float("inf")).argmin())
        return first, share @ (logits.softmax(dim=1) - torch.nn.functional.one_hot(labels, logits.shape[1]))
    if loss == "mse":
        return 0, 2 * (share @ (logits - table)) / logits.shape[1]
    return 0, share @ (torch.sigmoid(logits) - table) / logits.shape[1]
