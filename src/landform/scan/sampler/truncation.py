"""What is left between nodes: an estimate from the decay of surpluses, and a statement from random points."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

from landform.scan.sampler.hierarchy import Hierarchy, box_max

SAFETY = 1.5
"""Factor on the measured decay of surpluses: their extremes decay more slowly than their mean squares."""

SLOWEST, FASTEST = 0.7, 0.25
"""Bounds on the decay a level: a smooth surface has 1/4, a kink 1/2."""


@dataclass(frozen=True, eq=False)
class Predicted:
    """What the surpluses of a level are expected to be at most, judged by the level before.

    Attributes:
        size: For each node of the grid; NaN where not predicted.
        decay: Factor from level to level.
    """

    size: Float64[Tensor, " nodes"]
    decay: float

    @property
    def remainder(self) -> Float64[Tensor, " nodes"]:
        """The sum over this level and all finer ones, ``size / (1 − decay)``."""
        return self.size / (1 - self.decay)


def predict(tree: Hierarchy, level: int, surplus: Float64[Tensor, " nodes"], before: Predicted | None) -> Predicted:
    """Predict the surpluses of the level after ``level``.

    The largest |surplus| of the neighbours on this level, times the decay: the ratio of what was found on this level to
    what its neighbours had on the one before (root mean squares), times `SAFETY`.

    Args:
        tree: The hierarchy.
        level: The last level that was evaluated.
        surplus: |surplus| of every node, less its sampling error; NaN where none.
        before: What was predicted for this level.

    Returns:
        The prediction.
    """
    here = tree.subgrid(level)
    nodes = here.reshape(-1)
    known = torch.where((tree.level[nodes] == level) & torch.isfinite(surplus[nodes]), surplus[nodes], 0.0)
    around = box_max(known.reshape(here.shape)).reshape(-1)
    spread = torch.full_like(surplus, math.nan)
    spread[nodes] = around
    decay = 0.5
    if before is not None:
        both = torch.isfinite(surplus) & torch.isfinite(before.size) & (tree.level == level)
        expected = float(before.size[both].square().sum()) / before.decay**2
        if expected > 0:
            decay = SAFETY * math.sqrt(float(surplus[both].square().sum()) / expected)
    decay = min(max(decay, FASTEST), SLOWEST)
    finer = (tree.level == level + 1).nonzero()[:, 0]
    size = torch.full_like(surplus, math.nan)
    reach = spread[tree.parents[finer]].nan_to_num(nan=0.0)
    size[finer] = decay * torch.where(tree.weights[finer] > 0, reach, 0.0).amax(1)
    return Predicted(size, decay)


def volume_beyond(outside: int, points: int, confidence: float) -> float:
    """Bound the part of the volume that lies outside, from random points (Clopper and Pearson, one-sided).

    Args:
        outside: How many of the points lie outside.
        points: How many were looked at.
        confidence: Confidence of the bound.

    Returns:
        The bound; with none outside it is ``1 − (1 − confidence)^(1/points)``.

    Example:
        >>> round(volume_beyond(0, 44, 0.99), 3), round(volume_beyond(2, 44, 0.99), 3)
        (0.099, 0.178)
    """
    from scipy import special

    if points == 0 or outside >= points:
        return 1.0
    return float(special.betaincinv(outside + 1, points - outside, confidence))


def random_points(
    h: Float64[Tensor, "nodes z"], shape: tuple[int, ...], count: int, seed: int
) -> tuple[Tensor, Tensor]:
    """Draw points uniformly from the box of a grid.

    Args:
        h: Nodes of the grid in C order, evenly spaced along each axis.
        shape: Nodes along each axis.
        count: Number of points.
        seed: Seed.

    Returns:
        The points ``[count, z of h]`` and their place ``[count, len(shape)]`` in the unit box.
    """
    generator = torch.Generator().manual_seed(seed)
    unit = torch.rand(count, len(shape), dtype=torch.float64, generator=generator)
    strides = [math.prod(shape[k + 1 :]) for k in range(len(shape))]
    edges = torch.stack([h[(n - 1) * stride] - h[0] for n, stride in zip(shape, strides, strict=True)])
    return h[0] + unit @ edges, unit


def kuhn_values(values: Float64[Tensor, "nodes"], shape: tuple[int, ...], unit: Tensor) -> Tensor:
    """Return the piecewise-linear surface at points of the unit box."""
    from landform.mesh import Mesh

    return Mesh(tuple(n - 1 for n in shape)).interpolate(values.reshape(shape), unit)


def compare(
    values: Float64[Tensor, "nodes"],
    shape: tuple[int, ...],
    unit: Float64[Tensor, "points z"],
    truth: Float64[Tensor, "points"],
    tolerance: float,
    confidence: float,
) -> dict[str, float]:
    """Compare the piecewise-linear surface with what was found at random points.

    Args:
        values: The surface at the nodes, in C order.
        shape: Nodes along each axis.
        unit: Places of the points in the unit box.
        truth: What was found there.
        tolerance: Difference that is allowed.
        confidence: Of the bound on the volume.

    Returns:
        ``check_points``, ``check_outside`` (how many differ by more than the tolerance; points where both are not
        finite agree), ``check_largest`` (difference) and ``volume_beyond``.

    Example:
        >>> unit = torch.tensor([[0.25], [0.5]]).double()
        >>> found = compare(torch.tensor([0.0, 1.0]).double(), (2,), unit, torch.tensor([0.25, 0.9]).double(), 0.1, 0.9)
        >>> found["check_outside"], round(found["check_largest"], 3)
        (1, 0.4)
    """
    surface = kuhn_values(values, shape, unit)
    gap = (surface - truth).abs()
    fits = (gap <= tolerance) | ~(torch.isfinite(surface) | torch.isfinite(truth))
    outside = int((~fits).sum())
    return {
        "check_points": len(truth),
        "check_outside": outside,
        "check_largest": float(gap.nan_to_num(nan=0.0, posinf=0.0).max()),
        "volume_beyond": volume_beyond(outside, len(truth), confidence),
    }
