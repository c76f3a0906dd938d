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

from landform.data import load_data
from landform.errors import DataError, InputError
from landform.imprint.imprint import Imprint
from landform.imprint.token_accounting import token_terms
from landform.pattern import Pattern
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

    def batches(self, size: int) -> Mapping[str, float]:
        """Say how far the surface of a random batch may be from the pattern.

        A batch B of m samples (drawn without replacement, weighted alike) has |L_B(h) − T(h)| ≤ 1/m Σ_{i∈B} max_h ε_i:
        nothing where all of B are served, but for their own small errors. With S of N samples served that has the
        probability C(S, m)/C(N, m); over all batches the bound has the mean of the N errors as its mean, and the mean
        of the m largest as its greatest value.

        Args:
            size: m, at most the number of samples.

        Returns:
            ``served``, the share of batches all of whose samples are served; ``mean`` and ``max`` of the bound.

        Raises:
            InputError: For a size that no batch has.

        Example:
            >>> errors = torch.tensor([0.0, 0.0, 0.0, 0.4]).double()
            >>> h = torch.zeros(1, 2).double()
            >>> found = Accounting("four", h, h[:, 0], errors, h[:, 0] + 0.1, h[:, 0] + 0.1, 1e-3, "nat")
            >>> {key: round(value, 3) for key, value in found.batches(2).items()}
            {'served': 0.5, 'mean': 0.1, 'max': 0.2}
        """
        count = len(self.worst)
        if not 1 <= size <= count:
            raise InputError(f"a batch of these data has 1 to {count} {self.of}, got {size}")
        served = int((self.worst <= self.tolerance).sum())
        return {
            "served": math.prod((served - k) / (count - k) for k in range(size)) if served >= size else 0.0,
            "mean": float(self.worst.mean()),
            "max": float(self.worst.topk(size).values.mean()),
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
        best = f" (of those served {r['max_served']:.2e})" if r["served"] else ""
        lines = [
            (
                f"{r['data']}: {r['samples']} {self.of} at {len(self.h)} points, {100 * r['served']:.2f} % served"
                f" (error at most {self.tolerance:g} {self.unit})"
            ),
            (f"  max_i {r['max']:.2e}{best} | mean {r['mean']:.2e} | |L - T| {r['loss']:.2e}"),
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
