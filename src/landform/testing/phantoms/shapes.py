"""Shapes in closed form over [0, 1]^z, in loss units above a base, with their critical points.

A shape is sampled at the nodes of a Kuhn mesh, and the piecewise-linear interpolant is what a network realises. What a
shape says of itself is about that interpolant: a minimum is a node below all its neighbours.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from jaxtyping import Float64
from torch import Tensor

from landform.errors import InputError

Formula = Callable[[Float64[Tensor, "points z"]], Float64[Tensor, " points"]]
Kind = Literal["minimum", "maximum", "saddle", "flat", "ring", "jump"]


@dataclass(frozen=True)
class Critical:
    """A critical point, or a set of them.

    Attributes:
        kind: ``"minimum"``, ``"maximum"``, ``"saddle"``; ``"flat"``: a ball of minima of this radius; ``"ring"``: a
            sphere of minima of this radius; ``"jump"``: the middle of a steep rise.
        h: Where, or the centre.
        height: Loss there, in loss units (of a shape: above the base).
        index: Number of independent descending directions: 0 for a minimum, z for a maximum.
        curvature: Second derivatives of the closed form along the axes (of a sampled shape: its second differences
            along the axes over any step, which are the same), or None where it has none.
        radius: Of a ball or sphere.
        principal: Of a quadratic shape: the principal curvatures, eigenvalues of the Hessian, ascending. Those of a
            ravine are its curvature across and along, whatever its angle.
    """

    kind: Kind
    h: tuple[float, ...]
    height: float
    index: int = 0
    curvature: tuple[float, ...] | None = None
    radius: float | None = None
    principal: tuple[float, ...] | None = None

    def raised(self, base: float) -> "Critical":
        """Return the same point with its height above another zero."""
        return replace(self, height=self.height + base)


@dataclass(frozen=True)
class Shape:
    """A function above its base, and what is known of it.

    Attributes:
        formula: Values ≥ 0 in loss units above the base, or None where only nodal values exist (`nodal`).
        critical: Its critical points.
        nodal: Nodal values, for shapes that are random or bound to the mesh.
        hessian: The matrix of second derivatives, for quadratic shapes.
        centre: Where a quadratic shape is stationary.
        minima: How many strict local minima there are; None: not a finite number, or not known in advance.
    """

    formula: Formula | None
    critical: tuple[Critical, ...]
    nodal: Float64[Tensor, "..."] | None = None
    hessian: Float64[Tensor, "z z"] | None = None
    centre: tuple[float, ...] = field(default=())
    minima: int | None = None


def bowl(
    cells: tuple[int, ...], *, curvatures: float | Sequence[float] = 8.0, centre: float | Sequence[float] = 0.5
) -> Shape:
    """½ Σ κ_i (h_i − c_i)²: one minimum, curvature κ_i along axis i."""
    z = len(cells)
    kappa, c = _several(curvatures, z, "curvatures"), _on_nodes(centre, cells, "centre")
    if min(kappa) <= 0:
        raise InputError(f"curvatures of a bowl are positive, got {list(kappa)}; a flat axis is a plateau")
    return _quadratic(torch.diag(torch.tensor(kappa, dtype=torch.float64)), c, 0.0)


def ravine(
    cells: tuple[int, ...],
    *,
    curvature: float = 16.0,
    condition: float = 64.0,
    angle: float = 45.0,
    centre: float | Sequence[float] = 0.5,
) -> Shape:
    """A long valley: curvature κ across and κ/condition along, the valley at an angle (degrees) from h1; z = 2."""
    if len(cells) != 2:
        raise InputError(f"a ravine has z = 2, got {len(cells)}; a bowl of unequal curvatures has any z")
    if not (curvature > 0 and condition >= 1):
        raise InputError(f"wanted curvature > 0 and condition ≥ 1, got {curvature} and {condition}")
    turn = math.radians(angle)
    along = torch.tensor([math.cos(turn), math.sin(turn)], dtype=torch.float64)
    across = torch.tensor([-math.sin(turn), math.cos(turn)], dtype=torch.float64)
    matrix = curvature * (torch.outer(across, across) + torch.outer(along, along) / condition)
    return _quadratic(matrix, _on_nodes(centre, cells, "centre"), 0.0)


def saddle(
    cells: tuple[int, ...], *, index: int = 1, curvature: float = 8.0, centre: float | Sequence[float] = 0.5
) -> Shape:
    """½κ (Σ_up (h_i − c_i)² − Σ_down (h_i − c_i)²), the last ``index`` axes going down."""
    z, c = len(cells), _on_nodes(centre, cells, "centre")
    if not 1 <= index < z:
        raise InputError(f"a saddle in z = {z} has index 1 … {z - 1}, got {index}")
    if curvature <= 0:
        raise InputError(f"curvature must be positive, got {curvature}")
    sign = [1.0] * (z - index) + [-1.0] * index
    lowest = 0.5 * curvature * sum(max(x, 1 - x) ** 2 for x in c[z - index :])
    return _quadratic(curvature * torch.diag(torch.tensor(sign, dtype=torch.float64)), c, lowest)


def minima(
    cells: tuple[int, ...],
    *,
    positions: Sequence[Sequence[float]] | None = None,
    depths: Sequence[float] | None = None,
    curvature: float = 32.0,
    rim: float | None = None,
) -> Shape:
    """min(rim, min_k depth_k + ½κ|h − p_k|²): k wells of given heights at given places, a flat rim between them."""
    z = len(cells)
    places = [_on_nodes(p, cells, "positions") for p in (positions or [[0.25] * z, [0.75] * z])]
    heights = _several([0.0] + [0.25] * (len(places) - 1) if depths is None else depths, len(places), "depths")
    top = max(heights) + 0.75 if rim is None else float(rim)
    if min(heights) < 0 or curvature <= 0 or top <= max(heights):
        raise InputError(
            f"depths must be ≥ 0 and below the rim, curvature positive; got {list(heights)}, {top}, {curvature}"
        )
    centres, base = torch.tensor(places, dtype=torch.float64), torch.tensor(heights, dtype=torch.float64)

    def formula(h: Tensor) -> Tensor:
        wells = base + 0.5 * curvature * (h[:, None, :] - centres).square().sum(dim=2)
        return wells.amin(dim=1).clamp(max=top)

    for k, value in enumerate(formula(centres).tolist()):
        if value < heights[k]:
            raise InputError(f"well {k} at {places[k]} lies inside a deeper one; set them further apart")
    found = tuple(
        Critical("minimum", place, height, 0, (curvature,) * z) for place, height in zip(places, heights, strict=True)
    )
    return Shape(formula, found, minima=len(found))


def plateau(
    cells: tuple[int, ...], *, radius: float = 0.25, slope: float = 2.0, centre: float | Sequence[float] = 0.5
) -> Shape:
    """slope·max(0, |h − c| − radius): a flat bottom, every direction of which has curvature 0."""
    c = _on_nodes(centre, cells, "centre")
    if not (radius > 0 and slope > 0):
        raise InputError(f"radius and slope must be positive, got {radius} and {slope}")
    at = torch.tensor(c, dtype=torch.float64)
    return Shape(
        lambda h: slope * ((h - at).norm(dim=1) - radius).clamp(min=0.0),
        (Critical("flat", c, 0.0, 0, (0.0,) * len(c), radius),),
    )


def ring(
    cells: tuple[int, ...], *, radius: float = 0.25, curvature: float = 32.0, centre: float | Sequence[float] = 0.5
) -> Shape:
    """½κ (|h − c| − radius)²: minima on a circle (sphere), a peak in its middle."""
    c = _on_nodes(centre, cells, "centre")
    if not (radius > 0 and curvature > 0):
        raise InputError(f"radius and curvature must be positive, got {radius} and {curvature}")
    at = torch.tensor(c, dtype=torch.float64)
    peak = 0.5 * curvature * radius**2
    return Shape(
        lambda h: 0.5 * curvature * ((h - at).norm(dim=1) - radius).square(),
        (Critical("ring", c, 0.0, 0, None, radius), Critical("maximum", c, peak, len(c))),
    )


def step(cells: tuple[int, ...], *, at: float = 0.5, height: float = 1.0) -> Shape:
    """0 left of a cliff across h1 and ``height`` right of it; the rise takes the one cell that holds ``at``."""
    if not (0 < at < 1 and height > 0):
        raise InputError(f"wanted 0 < at < 1 and height > 0, got {at} and {height}")
    cell = min(int(at * cells[0]), cells[0] - 1)
    middle = ((cell + 0.5) / cells[0], *[0.5] * (len(cells) - 1))
    return Shape(
        lambda h: height * (h[:, 0] * cells[0] - cell).clamp(0.0, 1.0), (Critical("jump", middle, height / 2),)
    )


def noise(cells: tuple[int, ...], *, slope: float = 2.0, amplitude: float = 1.0, seed: int = 0) -> Shape:
    """A Gaussian random field of power |k|^(−slope) at the nodes, its values from 0 to ``amplitude``.

    0 is white, 2 brown, 4 smooth. The spectrum is that of the nodal values; the mean (k = 0) is left out.
    """
    if not (amplitude > 0 and math.isfinite(slope)):
        raise InputError(f"wanted a positive amplitude and a finite slope, got {amplitude} and {slope}")
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise InputError(f"seed must be an integer, got {seed!r}")
    generator = torch.Generator().manual_seed(seed)
    white = torch.randn(*[n + 1 for n in cells], generator=generator, dtype=torch.float64)
    frequency = torch.meshgrid(*(torch.fft.fftfreq(n + 1, 1 / (n + 1)).double() for n in cells), indexing="ij")
    k = sum((f.square() for f in frequency), start=torch.zeros_like(white)).sqrt()
    gain = torch.where(k > 0, k.clamp(min=1.0).pow(-slope / 2), 0.0)
    values = torch.fft.ifftn(torch.fft.fftn(white) * gain).real
    values = (values - values.min()) / (values.max() - values.min()) * amplitude
    size = torch.tensor(cells, dtype=torch.float64)

    def place(flat: int) -> tuple[float, ...]:
        where = torch.stack(torch.unravel_index(torch.tensor(flat), values.shape))
        return tuple((where / size).tolist())

    low, high = place(int(values.argmin())), place(int(values.argmax()))
    found = (Critical("minimum", low, 0.0), Critical("maximum", high, amplitude, len(cells)))
    return Shape(None, found, nodal=values)


def constant(cells: tuple[int, ...]) -> Shape:
    """0 everywhere: what an instrument reads on it is its noise."""
    z = len(cells)
    middle = (0.5,) * z
    flat = Critical("flat", middle, 0.0, 0, (0.0,) * z, 0.5)
    return Shape(
        lambda h: torch.zeros(len(h), dtype=torch.float64),
        (flat,),
        hessian=torch.zeros(z, z, dtype=torch.float64),
        centre=middle,
    )


SHAPES: dict[str, Callable[..., Shape]] = {
    "bowl": bowl,
    "ravine": ravine,
    "minima": minima,
    "saddle": saddle,
    "plateau": plateau,
    "ring": ring,
    "step": step,
    "noise": noise,
    "constant": constant,
}


def _quadratic(matrix: Tensor, centre: tuple[float, ...], offset: float) -> Shape:
    at = torch.tensor(centre, dtype=torch.float64)
    principal = tuple(torch.linalg.eigvalsh(matrix).tolist())
    index = sum(value < 0 for value in principal)

    def formula(h: Tensor) -> Tensor:
        away = h - at
        return offset + 0.5 * ((away @ matrix) * away).sum(dim=1)

    kind: Kind = "saddle" if index else "minimum"
    point = Critical(kind, centre, offset, index, tuple(matrix.diagonal().tolist()), None, principal)
    return Shape(formula, (point,), hessian=matrix, centre=centre, minima=None if index else 1)


def _several(values: float | Sequence[float], count: int, name: str) -> tuple[float, ...]:
    found = (float(values),) * count if isinstance(values, (int, float)) else tuple(float(v) for v in values)
    if len(found) != count or not all(math.isfinite(v) for v in found):
        raise InputError(f"{name} must be one finite number or {count} of them, got {values!r}")
    return found


def _on_nodes(place: float | Sequence[float], cells: tuple[int, ...], name: str) -> tuple[float, ...]:
    """Return a place whose coordinates are inner nodes: only there can a P1 function be stationary."""
    found = _several(place, len(cells), name)
    for x, n in zip(found, cells, strict=True):
        if not 0 < x < 1 or abs(x * n - round(x * n)) > 1e-9:
            near = min(max(round(x * n), 1), n - 1) / n
            raise InputError(f"{name}: {x} is no inner node of {n} cells; the nearest is {near}")
    return tuple(round(x * n) / n for x, n in zip(found, cells, strict=True))
