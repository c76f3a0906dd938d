"""How far a pattern is from what it was sampled from.

This is the error made *before* any network: between the piecewise-linear pattern and the picture or formula behind it.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float64
from torch import Tensor

from landform.errors import InputError
from landform.mesh import Mesh
from landform.pattern.original import Function, Pixels
from landform.pattern.pattern import Pattern
from landform.pattern.sum import SumPattern

_CHUNK = 1 << 19  # points evaluated at a time
_SAMPLES = 1_000_000
_EPS = torch.finfo(torch.float64).eps


@dataclass(frozen=True)
class ResamplingError:
    """The supremum over the box (and over channels) of |pattern − original|.

    Attributes:
        value: The supremum, in the pattern's units; NaN where it is unknown.
        kind: ``"certified"``: an upper bound, tight to within about 1e-11. ``"measured"``: the greatest difference on
            a dense grid of points, a lower estimate. ``"unknown"``: the original was not kept.
    """

    value: float
    kind: Literal["certified", "measured", "unknown"]


def resampling_error(pattern: Pattern | SumPattern) -> ResamplingError:
    """Compare a pattern with its original over the whole box.

    Pictures, text and QR codes are compared with the bilinear interpolant of their pixels (pixel centres at
    ((c + 1/2)/W, (r + 1/2)/H), extended constantly to the border). On each piece of the overlay of Kuhn triangles and
    pixel rectangles the difference is linear minus bilinear. Its Hessian has zero diagonal, so inside a piece it has
    saddles only, along horizontal and vertical edges it is linear, and along a triangle's diagonal quadratic: the
    supremum is attained at a vertex of the overlay or at the peak of one of those quadratics. All are evaluated, and
    an allowance for rounding is added: the result is certified.

    Formulas and callables are compared on a grid of up to a million points: measured. Arrays are themselves the
    nodal values, and nothing was resampled: 0, certified.

    Args:
        pattern: The pattern.

    Returns:
        The error and its kind.

    Raises:
        InputError: If the pattern is of another type.

    Cost:
        For W × H pixels and N1 × N2 cells, (W + N1)(H + N2) + 6 (N1 + N2)(W + H + N1 + N2) evaluations of both.

    Example:
        Two pixels, black and white, on two cells; their bilinear interpolant has kinks at 1/4 and 3/4.

        >>> pixels = Pixels(torch.tensor([[0.0], [1.0]], dtype=torch.float64))
        >>> ramp = Pattern(torch.tensor([[0.0, 0.0], [0.5, 0.5], [1.0, 1.0]], dtype=torch.float64), original=pixels)
        >>> error = resampling_error(ramp)
        >>> round(error.value, 9), error.kind
        (0.25, 'certified')
    """
    if isinstance(pattern, SumPattern):
        return _of_sum(pattern)
    if not isinstance(pattern, Pattern):
        raise InputError(f"wanted a Pattern or SumPattern, got {type(pattern).__name__}")
    original = pattern.original
    if isinstance(original, Pixels):
        worst = max(_on_crossings(pattern, original), _on_diagonals(pattern, original))
        lines = sum(original.values.shape[:2]) + sum(pattern.resolution)
        scale = max(1.0, float(original.values.abs().max()))
        # a point rounded by eps moves a function of slope ≤ scale · lines by that much
        return ResamplingError(worst + 32 * _EPS * scale * lines, "certified")
    if isinstance(original, Function):
        fine = _fine_grid(pattern.mesh)
        worst = 0.0
        for start in range(0, fine.n_nodes, _CHUNK):
            h = _nodes(fine, start, min(start + _CHUNK, fine.n_nodes))
            worst = max(worst, _greatest(pattern(h) - original(h)))
        return ResamplingError(worst, "measured")
    return _without_original(pattern)


def _without_original(pattern: Pattern | SumPattern) -> ResamplingError:
    if pattern.source.get("kind") in ("array", "npy", "sum"):
        return ResamplingError(0.0, "certified")
    return ResamplingError(math.nan, "unknown")


def _greatest(difference: Float64[Tensor, "..."]) -> float:
    """Return max |difference|; NaN where the original is not finite somewhere, since numeric failure is data."""
    return float(difference.abs().max()) if difference.numel() else 0.0


def _lines(cells: int, pixels: int) -> Float64[Tensor, "lines"]:
    """Return the coordinates of the mesh's lines and of the pixel centres along one axis."""
    mesh = torch.arange(cells + 1, dtype=torch.float64) / cells
    centres = (torch.arange(pixels, dtype=torch.float64) + 0.5) / pixels
    return torch.cat([mesh, centres]).sort().values


def _on_crossings(pattern: Pattern, original: Pixels) -> float:
    """Compare at every crossing of a vertical and a horizontal line."""
    across, up = (_lines(pattern.resolution[k], original.values.shape[k]) for k in range(2))
    worst, step = 0.0, max(1, _CHUNK // len(up))
    for start in range(0, len(across), step):
        h = torch.cartesian_prod(across[start : start + step], up)
        worst = max(worst, _greatest(pattern(h) - original(h)))
    return worst


def _on_diagonals(pattern: Pattern, original: Pixels) -> float:
    """Compare on the diagonals N1·x − N2·y = k: at their crossings with lines, and at the peaks between them."""
    n1, n2 = pattern.resolution
    across, up = (_lines(pattern.resolution[k], original.values.shape[k]) for k in range(2))
    every = torch.arange(1 - n2, n1, dtype=torch.float64)
    worst, step = 0.0, max(1, _CHUNK // (len(across) + len(up)))
    for start in range(0, len(every), step):
        k = every[start : start + step, None]
        crossings = torch.cat([across.expand(len(k), -1), (k + n2 * up) / n1], dim=1)
        low, high = (k / n1).clamp(min=0.0), ((k + n2) / n1).clamp(max=1.0)
        x = crossings.clamp(low, high).sort(dim=1).values

        def difference(x: Float64[Tensor, "diagonals points"], k: Tensor = k) -> Float64[Tensor, "..."]:
            h = torch.stack([x, ((n1 * x - k) / n2).clamp(0.0, 1.0)], dim=-1).reshape(-1, 2)
            return (pattern(h) - original(h)).reshape(*x.shape, -1)

        ends, middle = difference(x), difference((x[:, 1:] + x[:, :-1]) / 2)
        first, last = ends[:, :-1], ends[:, 1:]
        # D(s) = first + slope·s + bend·s² on s in [0, 1], peak at s = −slope/(2·bend)
        bend, slope = 2 * (first + last - 2 * middle), 4 * middle - 3 * first - last
        inside = (slope * bend < 0) & (slope.abs() < 2 * bend.abs())
        peak = first - torch.where(inside, slope**2 / (4 * torch.where(inside, bend, 1.0)), 0.0)
        worst = max(worst, _greatest(ends), _greatest(peak))
    return worst


def _fine_grid(mesh: Mesh) -> Mesh:
    """Cut each cell in an even number of parts, so that midpoints are among them, as the budget of samples allows."""
    times = 2
    while times < 64 and math.prod(n * (times + 2) + 1 for n in mesh.cells) <= _SAMPLES:
        times += 2
    return Mesh(tuple(n * times for n in mesh.cells))


def _nodes(mesh: Mesh, start: int, stop: int) -> Float64[Tensor, "points z"]:
    """Return the nodes start … stop of a mesh without making them all."""
    flat, columns = torch.arange(start, stop), []
    for nodes in reversed(mesh.shape):
        columns.append((flat % nodes).double() / (nodes - 1))
        flat = flat // nodes
    return torch.stack(columns[::-1], dim=1)


def _of_sum(pattern: SumPattern) -> ResamplingError:
    """Add up the extremes of the axes, which are attained independently."""
    if pattern.original is None:
        return _without_original(pattern)
    above = below = 0.0
    for cells, nodal, function in zip(pattern.resolution, pattern.axes, pattern.original, strict=True):
        mesh = Mesh((cells,))
        t = _fine_grid(mesh).nodes()
        difference = mesh.interpolate(nodal, t) - function(t[:, 0])
        above, below = above + float(difference.max()), below - float(difference.min())
    return ResamplingError(max(above, below), "measured")
