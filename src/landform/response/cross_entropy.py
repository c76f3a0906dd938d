"""Cross-entropy: indices or soft labels, smoothing, class weights, ignored labels, torch's own weighted mean."""

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
from landform.response.targets import read_classes, read_scales, read_targets, read_weights


@final
class CrossEntropy(AbstractResponse):
    """σ(p) = Σ_c a_c·(−log softmax(p)_c), with all that the data and the options say in the coefficients a.

    With A = Σ a_c and π = a/A the floor is A·H(π), attained at p0 = log π. A class with a_c = 0 gets the output
    `absent_output` instead of −∞, at the cost of `excess`. The ray raises the rarest present class c:
    ρ(s) − ρ(0) = A·(log(1 − π_c + π_c·e^s) − π_c·s), increasing and convex. With a single present class ρ would fall
    along that ray, so it raises an absent class.

    The statistics are one row: a.
    """

    def __init__(self, statistics: np.ndarray, *, absent_output: float = -32.0, **options: Any) -> None:
        a = np.asarray(statistics, dtype=np.float64).reshape(-1)
        if not absent_output < 0:
            raise InputError(f"absent_output must be negative, got {absent_output}; -32 costs 1e-14 nat per class")
        total = float(a.sum())
        share = a / total
        present = np.flatnonzero(a > 0)
        ghosts = (len(a) - len(present)) * math.exp(absent_output)
        best = np.full(len(a), absent_output)
        best[present] = np.log(share[present])
        if len(present) > 1:
            ray = int(present[np.argmin(a[present])])
            # absent classes take a little probability; this keeps softmax(p0) at the ray's class equal to its share,
            # so that ρ'(0) = 0
            lift = math.log1p(ghosts / (1.0 - share[ray]))
            best[ray] += lift
            self._q = float(share[ray])
            excess = total * (math.log1p(ghosts + share[ray] * math.expm1(lift)) - share[ray] * lift)
        else:
            ray = int(np.flatnonzero(a == 0)[0])
            self._q = math.exp(absent_output) / (1.0 + ghosts)
            excess = total * math.log1p(ghosts)
        super().__init__(
            name="cross_entropy",
            unit="nat",
            floor_name="label entropy",
            statistics=a[None, :],
            options={"absent_output": absent_output, **options},
            best=torch.from_numpy(best),
            output=ray,
            floor=-float(np.sum(a[present] * np.log(share[present]))) + 0.0,
            excess=excess,
        )
        self._a = torch.from_numpy(a.copy())
        self._total = total
        self._share = float(share[ray])

    @classmethod
    def from_targets(
        cls,
        targets: Any,
        *,
        outputs: int | None = None,
        weights: Any = None,
        weight: Any = None,
        ignore_index: int = -100,
        label_smoothing: float = 0.0,
        absent_output: float = -32.0,
    ) -> "CrossEntropy":
        """Build the response of a data set's labels, as ``torch.nn.functional.cross_entropy`` would average them.

        Args:
            targets: Class indices of shape [N] or [N, ...] (flattened), or class probabilities [N, classes, ...].
            outputs: Number of classes; default the length of weight, else the largest label + 1.
            weights: One weight per sample, for a re-weighted data set (as if sample i occurred weights[i] times).
            weight: Class weights as in torch: they also divide the mean for class indices, but not for probabilities.
            ignore_index: Label that does not count.
            label_smoothing: As in torch, in [0, 1].
            absent_output: Output given to classes that do not occur. −32 keeps the excess near 1e-14 nat a class and is
                exact in every float format.

        Returns:
            The response.

        Raises:
            DataError: If labels are missing, out of range, of a wrong dtype, negative, or all ignored.
            InputError: If an option is out of range.

        Example:
            >>> response = CrossEntropy.from_targets(torch.arange(10))
            >>> round(response.floor, 6)
            2.302585
        """
        if not 0.0 <= label_smoothing <= 1.0:
            raise InputError(f"label_smoothing must be in [0, 1], got {label_smoothing}")
        tensor = read_targets(targets, "cross_entropy")
        if outputs is None and weight is not None:
            outputs = len(weight)
        if tensor.is_floating_point() and tensor.ndim >= 2:
            if ignore_index >= 0:
                raise InputError(f"ignore_index={ignore_index} has no meaning for class probabilities; leave it out")
            sums, count = _soft_labels(tensor, outputs, weights)
            scale = read_scales(weight, "weight", len(sums))
            norm = count
        else:
            sums = read_classes(tensor, "cross_entropy", outputs, weights, ignore_index=ignore_index)
            count = float(sums.sum())
            scale = read_scales(weight, "weight", len(sums))
            norm = float(np.sum(scale * sums))
        a = scale * ((1.0 - label_smoothing) * sums + label_smoothing / len(sums) * count)
        if not a.sum() > 0 or not norm > 0:
            raise DataError("cross_entropy: every sample has weight 0; give the present classes a positive weight")
        return cls(
            a[None, :] / norm,
            absent_output=absent_output,
            weight=as_list(weight),
            ignore_index=ignore_index,
            label_smoothing=label_smoothing,
        )

    @classmethod
    def from_state(cls, config: Mapping[str, Any], statistics: np.ndarray) -> "CrossEntropy":
        """Rebuild from `config` and `statistics`.

        Args:
            config: What `config` returned.
            statistics: The coefficients a, one row.

        Returns:
            An equal response.
        """
        return cls(statistics, **config["options"])

    @property
    def shares(self) -> Float64[Tensor, " outputs"]:
        """π = a/A: the label marginal as the loss weighs it."""
        return self._a / self._total

    def probability(self, s: float) -> float:
        """Return softmax(p0 + s·v) at the ray's class.

        Args:
            s: Position on the ray.

        Returns:
            A probability.
        """
        return self._q / (self._q + (1.0 - self._q) * math.exp(-s)) if s > -700 else 0.0

    def signal(self, probability: float) -> float:
        """Return the s at which the ray's class has this probability: the inverse of `probability`.

        Args:
            probability: A number in [0, 1].

        Returns:
            s, −∞ or +∞ at the ends.
        """
        if probability <= 0.0 or probability >= 1.0:
            return math.copysign(math.inf, probability - 0.5)
        return math.log(probability / self._q) - math.log1p(-probability) + math.log1p(-self._q)

    def _loss(self, outputs: Float64[Tensor, "points outputs"]) -> Float64[Tensor, " points"]:
        return -(torch.log_softmax(outputs, dim=1) @ self._a)

    def _rise(self, s: Float64[Tensor, " points"]) -> Float64[Tensor, " points"]:
        return self._total * log_rise(s, self._q, self._share)

    def _slope(self, s: Float64[Tensor, " points"]) -> Float64[Tensor, " points"]:
        return self._total * log_slope(s, self._q, self._share)

    def _unrise(self, rise: Float64[Tensor, " points"]) -> Float64[Tensor, " points"]:
        return solve_rise(self._rise, self._slope, rise, base=self.lowest)


def _soft_labels(tensor: Tensor, outputs: int | None, weights: Any) -> tuple[np.ndarray, float]:
    classes = tensor.shape[1]
    if outputs is not None and classes != outputs:
        raise DataError(
            f"cross_entropy got probabilities of {classes} classes for a network with {outputs} outputs; "
            "the two must be equal"
        )
    if classes < 2:
        raise DataError("cross_entropy over 1 output is constant; pass class probabilities [N, classes >= 2]")
    rows = tensor.to(torch.float64).movedim(1, -1)
    if bool((rows < 0).any()):
        raise DataError(f"cross_entropy got a class probability {float(rows.min()):.4g}; they must be >= 0")
    share = read_weights(weights, rows.shape[:-1])
    return share @ rows.reshape(-1, classes).numpy(), float(share.sum())
