"""Accounting: by how much each sample's loss misses the pattern, the question a careful reader of Theorem 2 asks.

With ε_i(h) = |ℓ_i(h) − T(h)| for sample i (of a language model: token i), |L(h) − T(h)| ≤ 1/N Σ_i ε_i(h). In an
offset imprint only the mean follows the pattern, and the ε_i are as large as the losses differ; in a per-sample
imprint they are tiny for all samples served.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from landform.data import Data, load_data
from landform.errors import DataError, InputError
from landform.imprint.beside import head_columns, trunk_of
from landform.imprint.imprint import Imprint
from landform.imprint.lower.network import read
from landform.imprint.offset import effective_weights
from landform.imprint.scores import stored, without_tail
from landform.imprint.token_accounting import token_response, token_terms
from landform.pattern import Pattern
from landform.response.offset import OffsetResponse
from landform.response.per_sample import PerSampleResponse
from landform.response.token_offset import TokenOffsetResponse

POINTS = 64
SERVED = 1e-3


@dataclass(frozen=True, eq=False, repr=False)
class Accounting:
    """Errors of every sample at some points, on one data set.

    Attributes:
        name: Which data.
        h: Points, ``[points, z]``.
        target: T at the points, in loss units.
        worst: max over the points of ε_i(h), one a sample.
        mean: 1/N Σ_i ε_i(h), one a point (weighted as the loss is).
        difference: |L(h) − T(h)|, one a point; never above ``mean`` but for rounding.
        tolerance: A sample is served if its ``worst`` is at most this.
        unit: Unit of all of them.
        of: What the samples are: ``"samples"``, or the ``"tokens"`` of a language model.
    """

    name: str
    h: Float64[Tensor, "points z"]
    target: Float64[Tensor, " points"]
    worst: Float64[Tensor, " samples"]
    mean: Float64[Tensor, " points"]
    difference: Float64[Tensor, " points"]
    tolerance: float
    unit: str
    of: str = "samples"

    @property
    def served(self) -> float:
        """Share of the samples whose loss follows the pattern at all points."""
        return float((self.worst <= self.tolerance).double().mean())

    @property
    def row(self) -> Mapping[str, Any]:
        """The numbers of the table: maximum over samples, mean, largest |L − T|, share served."""
        kept = self.worst[self.worst <= self.tolerance]
        return {
            "data": self.name,
            "samples": len(self.worst),
            "max": float(self.worst.max()),
            "max_served": float(kept.max()) if len(kept) else float("nan"),
            "mean": float(self.mean.max()),
            "loss": float(self.difference.max()),
            "served": self.served,
        }

    def histogram(self) -> tuple[np.ndarray, np.ndarray]:
        """Return counts of samples by the decade of their worst error, and the edges (the first bin holds all below).

        Returns:
            Counts ``[bins]`` and edges ``[bins + 1]``: 0, 1e-8, 1e-7, … up to the largest.
        """
        top = max(-7, int(np.ceil(np.log10(max(float(self.worst.max()), 1e-8)))) + 1)
        edges = np.concatenate([[0.0], 10.0 ** np.arange(-8, top + 1)])
        counts, _ = np.histogram(self.worst.numpy(), edges)
        return counts, edges

    def __str__(self) -> str:
        """Show the table and the histogram."""
        r = self.row
        lines = [
            (
                f"{r['data']}: {r['samples']} {self.of} at {len(self.h)} points, {100 * r['served']:.2f} % served"
                f" (error at most {self.tolerance:g} {self.unit})"
            ),
            (
                f"  max_i {r['max']:.2e} (of those served {r['max_served']:.2e}) | mean {r['mean']:.2e}"
                f" | |L - T| {r['loss']:.2e}"
            ),
        ]
        counts, edges = self.histogram()
        for count, low, high in zip(counts, edges[:-1], edges[1:], strict=True):
            bar = "#" * round(40 * count / len(self.worst))
            lines.append(f"  {low:7.0e} … {high:7.0e} {count:7d} {bar}")
        return "\n".join(lines)

    __repr__ = __str__


def account(
    imprint: Imprint,
    data: object = None,
    *,
    points: Float64[Tensor, "points z"] | None = None,
    tolerance: float | None = None,
    seed: int = 0,
) -> Accounting:
    """Measure every sample's error against the pattern.

    Args:
        imprint: Any imprint with a task.
        data: Another data set (a test split); None for the imprint's own.
        points: Where, ``[points, z]``; None takes 32 random nodes and 32 random points.
        tolerance: Error up to which a sample counts as served, in loss units; None: 1e-3 of the range.
        seed: Of the points.

    Returns:
        The accounting; it prints as a table with a histogram.

    Raises:
        DataError: If there are no data.
        InputError: If the loss does not come sample by sample.

    Cost:
        One pass over the data a point.

    Example:
        >>> import landform as lf
        >>> made = lf.imprint(lf.Pattern.from_formula("sphere", resolution=4), "digits", certify=False)
        >>> found = account(made)
        >>> bool((found.difference <= found.mean + 1e-9).all())
        True
    """
    task = imprint.task
    if task is None:
        raise DataError("the imprint was loaded without data; lf.load(path, data=…)")
    other = None if data is None else load_data(data)
    if other is not None:
        task = task.replace(data=other)
    if points is None:
        points = _points(imprint, seed)
    if points.ndim != 2 or points.shape[1] != imprint.z:
        raise InputError(f"points of this imprint have shape [points, {imprint.z}], got {tuple(points.shape)}")
    dtype = next(iter(imprint.subspace.origin.values())).dtype
    h = points.to(dtype).double()
    target = imprint.target(h).reshape(len(h), -1)[:, 0]
    tokens = isinstance(imprint.response, TokenOffsetResponse)
    worst = torch.zeros((), dtype=torch.float64)
    mean, difference = torch.zeros(len(h), dtype=torch.float64), torch.zeros(len(h), dtype=torch.float64)
    for number, point in enumerate(h):
        losses, counts = token_terms(imprint, task, point) if tokens else _terms(imprint, task, point)
        share = counts / counts.sum()
        each = torch.where(counts > 0, losses / counts.clamp(min=1e-300), target[number])
        error = (each - target[number]).abs()
        worst = torch.maximum(worst, error)
        mean[number] = share @ error
        difference[number] = (losses.sum() / counts.sum() - target[number]).abs()
    allowed = SERVED * (imprint.range[1] - imprint.range[0]) if tolerance is None else tolerance
    return Accounting(
        f"{task.data.name} ({task.data.split})",
        h,
        target,
        worst,
        mean,
        difference,
        allowed,
        imprint.response.unit,
        "tokens" if tokens else "samples",
    )


def _terms(imprint: Imprint, task: Any, point: Tensor) -> tuple[Tensor, Tensor]:
    parameters = imprint.subspace.at(point)
    found = []
    with task.mode():
        for start in range(0, task.data.n, 1024):
            batch = task.batch(slice(start, min(start + 1024, task.data.n)))
            found.append(task.terms_at(parameters, batch))
    return torch.cat([a[0] for a, _ in found]), torch.cat([b[0] for _, b in found])


def _points(imprint: Imprint, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    h = torch.rand(POINTS // 2, imprint.z, generator=generator, dtype=torch.float64)
    if not isinstance(imprint.pattern, Pattern):
        return h
    nodes = imprint.pattern.mesh.nodes()
    return torch.cat([nodes[torch.randperm(len(nodes), generator=generator)[: POINTS // 2]], h])


@dataclass(frozen=True, eq=False)
class OffsetTransfer:
    """What an offset imprint's surface becomes on other data, predicted from the outputs there.

    Attributes:
        response: ρ, of the imprint's own data.
        other: ρ̃, of the other data.
        start: ρ̃'(0). Where it is negative, the least loss on the other data lies at some s > 0.
        monotone: Whether ρ̃ is increasing over the range, so that level sets are the same.
        turning_point: Loss on the first data at which ρ̃ turns; None where it is monotone.
    """

    response: OffsetResponse | TokenOffsetResponse
    other: OffsetResponse | TokenOffsetResponse
    start: float
    monotone: bool
    turning_point: float | None

    def remap(self, t: Float64[Tensor, "*shape"]) -> Float64[Tensor, "*shape"]:
        """Return ρ̃(ρ⁻¹(t)): the loss on the other data where the first have loss t."""
        s = self.response.inverse(t.clamp(min=self.response.lowest))
        return self.other.loss(s.reshape(-1, 1)).reshape(t.shape)

    @property
    def order(self) -> str:
        """``"kept"`` or ``"folded"``."""
        return "kept" if self.monotone else "folded"

    @property
    def condition(self) -> str:
        """The decision in words."""
        if self.monotone:
            return f"rho~'(0) = {self.start:.2e} >= 0: the other data's loss rises with s, level sets are the same"
        return (
            f"rho~'(0) = {self.start:.2e} < 0: below {self.turning_point:.4g} on the first data the other data's loss"
            " falls as the first rises"
        )


def offset_transfer(imprint: Imprint, data: object) -> OffsetTransfer:
    """Predict the surface of an offset imprint on other data: heights go from t to ρ̃(ρ⁻¹(t)).

    Args:
        imprint: Made with ``method="offset"``.
        data: The other data, anything that `landform.data.load_data` takes.

    Returns:
        The prediction.

    Raises:
        InputError: For an imprint of another method.

    Cost:
        One pass over the other data.
    """
    response = imprint.response
    if not isinstance(response, (OffsetResponse, TokenOffsetResponse)):
        raise InputError("this prediction is for method='offset'; landform.transfer predicts constant imprints")
    other: Data = load_data(data)
    moved: OffsetResponse | TokenOffsetResponse
    if isinstance(response, TokenOffsetResponse):
        moved = token_response(imprint, other)
    else:
        by_class = imprint.task.loss_form.options.get("weight") if imprint.task is not None else None
        weights = effective_weights(by_class, other.targets, other.weights)
        moved = response.on(untouched(imprint, other.inputs), other.targets, weights)
    start = moved.start()
    s = torch.linspace(0.0, float(response.inverse(torch.tensor([imprint.range[1]]).double())), 513).double()
    low = s[int(moved.loss(s[:, None]).argmin())]
    turning = None if start >= 0 else float(response.loss(low.reshape(1, 1)))
    return OffsetTransfer(response, moved, start, start >= 0, turning)


def untouched(imprint: Imprint, inputs: Tensor) -> Float64[Tensor, "n outputs"]:
    """Return the trained network's outputs f(x): the imprint's, the pattern's columns of the head left out."""
    model = imprint.model
    trunk = trunk_of(read(model, imprint.meta.get("sample")))
    name = f"{trunk.head}.weight"
    weight = imprint.subspace.origin[name].clone()
    weight[:, head_columns(model, trunk, imprint.meta["channels"])] = 0
    parameters = {**imprint.subspace.origin, name: weight}
    dtype = weight.dtype
    found = []
    with torch.no_grad():
        for start in range(0, len(inputs), 1024):
            x = inputs[start : start + 1024]
            x = x.to(dtype) if x.is_floating_point() else x
            found.append(torch.func.functional_call(model, parameters, (x,)))
    return torch.cat(found).double()


@dataclass(frozen=True, eq=False)
class PerSampleTransfer:
    """What a per-sample imprint's surface becomes on other data, predicted from the scores there.

    Attributes:
        other: The response with the other data's scores.
        error: e, the share of the samples there whose scores choose another class.
        served: Share of the samples there whose loss is T(h).
    """

    other: PerSampleResponse
    error: float
    served: float

    def remap(self, t: Float64[Tensor, "*shape"]) -> Float64[Tensor, "*shape"]:
        """Return the other data's mean loss where the served samples have loss t, from every score there."""
        s = self.other.inverse(t.reshape(-1).clamp(min=self.other.lowest))
        parts = [self.other.sample_losses(part) @ self.other.share for part in torch.split(s, 64)]
        found: Tensor = torch.cat(parts).reshape(t.shape)
        return found

    def formula(self, t: Float64[Tensor, "*shape"]) -> Float64[Tensor, "*shape"]:
        """Return (1 − e)·t + e·(log(C − 1) − log(1 − e^(−t))): what it would be if every score had its margin."""
        wrong = math.log(self.other.outputs - 1) - torch.log(-torch.expm1(-t))
        found: Tensor = (1 - self.error) * t + self.error * wrong
        return found


def per_sample_transfer(imprint: Imprint, data: object) -> PerSampleTransfer:
    """Predict the surface of a per-sample imprint on other data.

    Args:
        imprint: Made with ``method="per-sample"``.
        data: The other data.

    Returns:
        The prediction.

    Raises:
        InputError: For an imprint of another method.

    Cost:
        One pass over the other data.
    """
    response = imprint.response
    if not isinstance(response, PerSampleResponse):
        raise InputError("this prediction is for method='per-sample'; offset_transfer is for 'offset'")
    other = load_data(data)
    stem = without_tail(imprint.model, imprint.meta["tail"])
    dtype = next(stem.parameters()).dtype
    with torch.no_grad():
        parts = [stem(other.inputs[i : i + 1024].to(dtype)) for i in range(0, len(other.inputs), 1024)]
    against = torch.cat(parts).double()[:, :-1].reshape(other.n, response.outputs, response.groups)
    scores = stored(against, response.cap)
    share = torch.ones(len(scores), dtype=torch.float64) if other.weights is None else other.weights.double()
    rows = torch.cat([share[:, None], other.targets.double()[:, None], scores], dim=1).numpy()
    moved = PerSampleResponse(rows, **response.config()["options"])
    wrong = float(moved.share @ (scores.argmax(dim=1) != other.targets).double())
    return PerSampleTransfer(moved, wrong, float(moved.served(*imprint.range).double().mean()))


def predicted(imprint: Imprint, data: object, target: Float64[Tensor, "*shape"]) -> Float64[Tensor, "*shape"]:
    """Return the other data's losses where the imprint promises ``target`` on its own, for either form of Theorem 2."""
    if isinstance(imprint.response, PerSampleResponse):
        return per_sample_transfer(imprint, data).remap(target)
    return offset_transfer(imprint, data).remap(target)
