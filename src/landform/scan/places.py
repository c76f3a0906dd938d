"""Where a scan looks: the nodes of a grid over a box, a slice of one, or points of the user's own choice."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from landform.errors import InputError
from landform.mesh import MAX_NODES
from landform.scan.sampler.hierarchy import build_hierarchy, coarse_first

if TYPE_CHECKING:
    from landform.pattern import Pattern, SumPattern

TASK_GRID = {1: 65, 2: 33}
"""Nodes per axis for a plain task, where each node is a pass over the data; by the number of axes."""

FINE_GRID = {1: 257, 2: 129}
"""Nodes per axis with a tolerance, where fine nodes are nearly free and those that are not needed are interpolated."""

MAX_DEFAULT_NODES = 100_000
"""Most nodes that a scan takes without being asked: seconds at 64×64, where a fourth axis would make it days."""


@dataclass(frozen=True, eq=False)
class Places:
    """The points of a scan and the shape in which they are reported.

    Attributes:
        h: Every point, shape ``[points, z]``, float64; for a grid in C order of `shape`.
        axes: Numbers (from 0) of the coordinates that vary; empty for a list of points.
        lines: The coordinates along each of `axes`.
    """

    h: Float64[Tensor, "points z"]
    axes: tuple[int, ...] = ()
    lines: tuple[Float64[Tensor, "_"], ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        """Nodes along each of `axes`, or the number of points of a list."""
        return tuple(len(line) for line in self.lines) if self.axes else (len(self.h),)

    @property
    def order(self) -> Int64[Tensor, " points"]:
        """In which order to visit the points: a grid from coarse to fine, so that an early end leaves the whole box.

        Example:
            >>> grid_places(1, 5).order.tolist(), point_places(1, [[0.5], [0.1]]).order.tolist()
            ([0, 4, 2, 1, 3], [0, 1])
        """
        return coarse_first(self.shape) if self.axes else torch.arange(len(self.h))

    def fill(self, values: Float64[Tensor, "points heads"], known: Bool[Tensor, " points"]) -> Tensor:
        """Interpolate points of a grid that are not known from coarser ones that are.

        Args:
            values: One column a head.
            known: Which of them were measured.

        Returns:
            All values; NaN for points of a list, and where a coarser node is missing or not finite.

        Example:
            >>> values = torch.tensor([[1.0], [0.0], [0.0], [3.0], [2.0]]).double()
            >>> grid_places(1, 5).fill(values, torch.tensor([True, False, False, False, True])).reshape(-1).tolist()
            [1.0, 1.25, 1.5, 1.75, 2.0]
        """
        if not self.axes or bool(known.all()):
            return torch.where(known[:, None], values, torch.nan)
        return build_hierarchy(self.shape).fill(values, known)


def grid_places(
    z: int,
    grid: int | Sequence[int],
    *,
    ranges: Sequence[Sequence[float | int]] | None = None,
    axes: Sequence[int] | None = None,
    at: Sequence[float | int] | Tensor | None = None,
) -> Places:
    """Return the nodes of a grid, ends included.

    Args:
        z: Number of coordinates.
        grid: Nodes on every axis, or one number per axis that varies; at least 2.
        ranges: (lo, hi) of every one of the z coordinates; [0, 1] by default.
        axes: Numbers (from 1, as in h1) of the coordinates that vary; all by default.
        at: All z coordinates of a point through which the grid goes, for those that do not vary; the middle of the
            ranges by default.

    Returns:
        The places. Node i of N + 1 on [0, 1] is exactly the float64 i/N.

    Raises:
        InputError: For wrong counts, a grid too large, an empty range, or an axis that does not exist.

    Example:
        >>> grid_places(2, (2, 3), ranges=((0, 1), (-1, 1))).h.tolist()
        [[0.0, -1.0], [0.0, 0.0], [0.0, 1.0], [1.0, -1.0], [1.0, 0.0], [1.0, 1.0]]
    """
    varying = _axes(z, axes)
    counts = tuple(grid) if isinstance(grid, Sequence) else (grid,) * len(varying)
    if any(isinstance(n, bool) or not isinstance(n, int) or n < 2 for n in counts):
        raise InputError(f"grid is {grid!r}; wanted nodes per axis, whole numbers of at least 2")
    if len(counts) != len(varying):
        raise InputError(f"grid has {len(counts)} entries for {len(varying)} axes; give one number, or one per axis")
    if math.prod(counts) > MAX_NODES:
        raise InputError(
            f"a grid of {'×'.join(map(str, counts))} has {math.prod(counts):,} nodes, more than the limit of"
            f" {MAX_NODES:,}; take fewer per axis, a slice (axes=(1, 2)), or points of your own (points=…)"
        )
    box = _ranges(z, ranges)
    lines = tuple(_line(*box[k], n) for k, n in zip(varying, counts, strict=True))
    base = torch.tensor([0.5 * (lo + hi) for lo, hi in box], dtype=torch.float64) if at is None else _point(z, at)
    nodes = torch.cartesian_prod(*lines).reshape(-1, len(varying))
    h = base.expand(len(nodes), z).clone()
    h[:, list(varying)] = nodes
    return Places(h, varying, lines)


def point_places(z: int, points: Float64[Tensor, "points z"] | Sequence[Sequence[float | int]]) -> Places:
    """Return points of the user's own choice, checked.

    Args:
        z: Number of coordinates.
        points: Shape ``[points, z]``.

    Returns:
        The places.

    Raises:
        InputError: If the shape is another, there are none, or one is not finite.
    """
    try:
        h = torch.as_tensor(points, dtype=torch.float64).detach().cpu()
    except (TypeError, ValueError) as error:
        raise InputError(f"points are {type(points).__name__}; wanted numbers of shape [points, {z}]") from error
    if h.ndim != 2 or h.shape[1] != z or not len(h):
        raise InputError(f"points have shape {list(h.shape)}; wanted [points, {z}], at least one point")
    if not bool(torch.isfinite(h).all()):
        raise InputError(f"point {int((~torch.isfinite(h)).any(1).nonzero()[0])} is not finite")
    return Places(h)


def default_grid(pattern: "Pattern | SumPattern", axes: Sequence[int] | None) -> tuple[int, ...]:
    """Choose the grid for an imprint: the pattern's own nodes, or every 2nd, 4th, … where they are too many.

    Args:
        pattern: The pattern.
        axes: Numbers (from 1) of the coordinates that vary; all by default.

    Returns:
        Nodes per axis that varies.

    Raises:
        InputError: If z ≥ 3 and no such grid has at most `MAX_DEFAULT_NODES` nodes.

    Example:
        >>> from landform.pattern import Pattern
        >>> default_grid(Pattern.from_formula("sphere", z=3, resolution=64), None)
        (33, 33, 33)
    """
    cells = [pattern.resolution[k] for k in _axes(pattern.z, axes)]
    while len(cells) > 2 and math.prod(n + 1 for n in cells) > MAX_DEFAULT_NODES:
        if any(n % 2 for n in cells):
            shown = " × ".join(str(n + 1) for n in cells[:4]) + (" × …" if len(cells) > 4 else "")
            raise InputError(
                f"the pattern's own grid has {shown} nodes in {len(cells)} dimensions, more than {MAX_DEFAULT_NODES:,};"
                f" choose a plane (axes=(1, 2)), points of shape [points, {pattern.z}] (points=…), or nodes (grid=…)"
            )
        cells = [n // 2 for n in cells]
    return tuple(n + 1 for n in cells)


def task_grid(z: int, axes: Sequence[int] | None, *, sampled: bool) -> int:
    """Choose the nodes per axis for a task.

    With a tolerance the surface is refined where that is needed, so the finest level only has to be fine enough. On an
    MLP on digits, ±2 % of the range took 115 passes over the data on 33 × 33 nodes, 134 on 129 × 129 and 135 on
    257 × 257; ±0.5 % took 330, 491 and 498, and 33 × 33 left an estimated error of more than the tolerance between the
    nodes, 129 × 129 a quarter of it.

    Args:
        z: Number of coordinates.
        axes: Numbers (from 1) of those that vary; all by default.
        sampled: Whether there is a tolerance.

    Returns:
        The number.

    Raises:
        InputError: For more than two axes.

    Example:
        >>> task_grid(2, None, sampled=False), task_grid(2, None, sampled=True), task_grid(2, (1,), sampled=True)
        (33, 129, 257)
    """
    varying = len(_axes(z, axes))
    nodes = FINE_GRID if sampled else TASK_GRID
    if varying not in nodes:
        raise InputError(
            f"a grid over {varying} coordinates costs a pass over the data for each of its nodes; choose the nodes per"
            f" axis (grid=…), a plane (axes=(1, 2)) or points of shape [points, {z}] (points=…)"
        )
    return nodes[varying]


def _axes(z: int, axes: Sequence[int] | None) -> tuple[int, ...]:
    if axes is None:
        return tuple(range(z))
    if not axes or len(set(axes)) != len(axes) or any(not isinstance(k, int) or not 1 <= k <= z for k in axes):
        raise InputError(f"axes are {tuple(axes)}; wanted different numbers from 1 to {z}, as in h1 … h{z}")
    return tuple(k - 1 for k in axes)


def _ranges(z: int, ranges: Sequence[Sequence[float | int]] | None) -> list[tuple[float, float]]:
    if ranges is None:
        return [(0.0, 1.0)] * z
    try:
        box = [(float(lo), float(hi)) for lo, hi in ranges]
    except (TypeError, ValueError) as error:
        raise InputError(f"ranges are {ranges!r}; wanted one (lo, hi) for each of {z} coordinates") from error
    if len(box) != z:
        raise InputError(f"there are {len(box)} ranges for {z} coordinates; wanted one (lo, hi) each")
    for lo, hi in box:
        if not (lo < hi and math.isfinite(lo) and math.isfinite(hi)):
            raise InputError(f"range ({lo}, {hi}) is empty or not finite; wanted lo < hi")
    return box


def _line(lo: float, hi: float, nodes: int) -> Float64[Tensor, "_"]:
    steps = torch.arange(nodes, dtype=torch.float64) / (nodes - 1)
    line = lo + (hi - lo) * steps
    line[-1] = hi  # lo + (hi − lo) may round to a neighbour
    return line


def _point(z: int, at: Sequence[float | int] | Tensor) -> Float64[Tensor, " z"]:
    point = torch.as_tensor(at, dtype=torch.float64)
    if tuple(point.shape) != (z,) or not bool(torch.isfinite(point).all()):
        raise InputError(f"at is {point.tolist()}; wanted {z} finite coordinates")
    return point
