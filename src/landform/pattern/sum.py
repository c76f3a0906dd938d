"""Patterns that are sums of one-dimensional functions, in any number of dimensions.

T(h) = Σ_i f_i(h_i) needs z·(n + 1) numbers where a grid needs (n + 1)^z, so z = 100 costs no more than a picture.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, final

import torch
from jaxtyping import Float64
from torch import Tensor

from landform.errors import InputError
from landform.mesh import Mesh
from landform.pattern.array import as_float64
from landform.pattern.catalogue import CATALOGUE
from landform.pattern.formula import domain_of, look_up
from landform.pattern.function import evaluate
from landform.pattern.normalise import require_finite
from landform.pattern.pattern import Pattern
from landform.pattern.resolution import LIMITS, check_cells, whole

Axis = Float64[Tensor, "_"]  # axes may differ in length


@final
@dataclass(frozen=True, eq=False, repr=False)
class SumPattern:
    """A function T(h) = Σ_i f_i(h_i) from [0,1]^z to [0,1], each f_i piecewise linear.

    The minima are attained independently of each other, so min f_i = 0 for every i and Σ_i max f_i = 1 make T's range
    over the whole box exactly [0,1] (to within rounding, 1e-12).

    Attributes:
        axes: Nodal values of each f_i, ``axes[i][j]`` = f_i(j/N_i).
        name: A short name.
        source: Where it comes from, in JSON types; ``range`` holds (lo, hi), the values of the original sum that
            became 0 and 1.
        original: The functions sampled, in the units of ``axes``, or None where the nodal values are the original.

    Raises:
        InputError: If there is no axis, or the nodal values are not finite or not normalised as above.

    Example:
        >>> bowl = SumPattern.from_formula("sphere", z=100)
        >>> corner = torch.ones(1, 100, dtype=torch.float64)
        >>> [round(float(bowl(h)), 12) for h in (corner, corner / 2)]
        [1.0, 0.0]
    """

    axes: tuple[Axis, ...]
    name: str = "sum"
    source: Mapping[str, Any] = field(default_factory=dict)
    original: tuple[Callable[[Axis], Axis], ...] | None = field(default=None, repr=False)
    channels: ClassVar[None] = None

    def __post_init__(self) -> None:
        """Check the promises made by the class docstring."""
        if not self.axes:
            raise InputError("a sum needs at least one axis")
        for i, axis in enumerate(self.axes):
            if not isinstance(axis, Tensor) or axis.dtype != torch.float64 or axis.ndim != 1:
                raise InputError(f"axis {i} must be a float64 tensor [nodes]; SumPattern.from_axes converts")
            check_cells((axis.shape[0] - 1,))
            require_finite(axis, f"axis {i}")
            if float(axis.min()) != 0:
                raise InputError(f"axis {i} has minimum {float(axis.min())}, wanted 0; SumPattern.from_axes normalises")
        total = sum(float(axis.max()) for axis in self.axes)
        if abs(total - 1) > 1e-12:
            raise InputError(f"the maxima of the axes sum to {total}, wanted 1; SumPattern.from_axes normalises")

    @property
    def z(self) -> int:
        """Number of dimensions."""
        return len(self.axes)

    def __repr__(self) -> str:
        """Say what it is in one line."""
        return f"SumPattern({self.name!r}, z={self.z})"

    @property
    def resolution(self) -> tuple[int, ...]:
        """Cells per axis."""
        return tuple(axis.shape[0] - 1 for axis in self.axes)

    @property
    def floor(self) -> float:
        """Least value over the box: 0."""
        return 0.0

    @property
    def ceiling(self) -> float:
        """Greatest value over the box: 1."""
        return 1.0

    @property
    def is_constant(self) -> bool:
        """Always False: a constant sum cannot be normalised."""
        return False

    def __call__(self, h: Float64[Tensor, "points z"]) -> Float64[Tensor, "points"]:
        """Evaluate T.

        Args:
            h: Points of [0,1]^z.

        Returns:
            T(h) for each point.

        Raises:
            InputError: If h has another shape or leaves the box.

        Cost:
            One interpolation per axis, O(points · z).
        """
        if h.ndim != 2 or h.shape[1] != self.z:
            raise InputError(f"points must have shape [points, {self.z}], got {tuple(h.shape)}")
        total = torch.zeros(h.shape[0], dtype=torch.float64)
        for i, axis in enumerate(self.axes):
            total += Mesh((axis.shape[0] - 1,)).interpolate(axis, h[:, i : i + 1])
        return total.clamp(0.0, 1.0)  # removes rounding only

    def to_grid(self) -> Pattern:
        """Write the sum out on a grid.

        Returns:
            The same function: Σ f_i is linear on every simplex of the grid's Kuhn mesh.

        Raises:
            InputError: If z > 4, or the cells exceed a grid's limits.

        Example:
            >>> SumPattern.from_axes([[0.0, 1.0], [0.0, 3.0]]).to_grid().values.tolist()
            [[0.0, 0.75], [0.25, 1.0]]
        """
        if self.z > max(LIMITS):
            raise InputError(f"a sum in z = {self.z} dimensions has no grid: grids go up to z = {max(LIMITS)}")
        check_cells(self.resolution)
        values = torch.zeros((), dtype=torch.float64)
        for axis in self.axes:
            values = values[..., None] + axis
        return Pattern(values.clamp(0.0, 1.0), name=self.name, source=dict(self.source))

    @classmethod
    def from_axes(cls, axes: Sequence[Any], *, name: str = "sum") -> "SumPattern":
        """Take nodal values of each f_i and normalise their sum to [0,1].

        Args:
            axes: For each axis a sequence, array or tensor of real numbers, two at least; axes may differ in length.
            name: The pattern's name.

        Returns:
            The pattern (Σ f_i − lo)/(hi − lo), lo = Σ min f_i, hi = Σ max f_i.

        Raises:
            InputError: If an axis is unfit, or all are constant.

        Example:
            >>> [axis.tolist() for axis in SumPattern.from_axes([[1, 2], [0, -3, 0]]).axes]
            [[0.0, 0.25], [0.75, 0.0, 0.75]]
        """
        return _normalised([as_float64(axis) for axis in axes], None, name, {"kind": "sum"})

    @classmethod
    def from_callables(
        cls, functions: Sequence[Callable[[Any], Any]], *, resolution: int | Sequence[int] = 64, name: str = "sum"
    ) -> "SumPattern":
        """Sample one vectorised function per axis at the nodes, and normalise their sum to [0,1].

        Args:
            functions: Each takes a float64 tensor ``[points]`` of numbers in [0,1] and returns ``[points]``.
            resolution: Cells on every axis, or one number per axis. Default 64.
            name: The pattern's name.

        Returns:
            The pattern.

        Raises:
            InputError: If a result has another shape or is not finite, or all functions are constant.

        Example:
            >>> SumPattern.from_callables([lambda t: t, lambda t: -t], resolution=2).axes[1].tolist()
            [0.5, 0.25, 0.0]
        """
        cells = _cells(resolution, len(functions))
        source = {"kind": "sum of callables"}
        return _normalised([_sampled(f, n) for f, n in zip(functions, cells, strict=True)], functions, name, source)

    @classmethod
    def from_formula(
        cls,
        name: str,
        *,
        z: int,
        resolution: int | Sequence[int] = 64,
        domain: tuple[float | int, float | int] | None = None,
    ) -> "SumPattern":
        """Take a formula that is a sum over its coordinates: sphere, rastrigin or styblinski-tang.

        Args:
            name: The formula.
            z: Number of dimensions, any.
            resolution: Cells on every axis, or one number per axis. Default 64.
            domain: (low, high) for every axis in place of the customary domain.

        Returns:
            The pattern; for equal cells on all axes and z ≤ 4 it equals `Pattern.from_formula`.

        Raises:
            UnknownNameError: If there is no such formula.
            InputError: If the formula is no sum, or z is not positive.

        Example:
            >>> SumPattern.from_formula("rastrigin", z=100).z
            100
        """
        formula = look_up(name)
        if formula.axis is None:
            sums = ", ".join(key for key, entry in CATALOGUE.items() if entry.axis is not None)
            raise InputError(f"formula {name} is no sum over its coordinates; these are: {sums}")
        cells = _cells(resolution, whole(z, "z"))
        low, high = domain_of(formula, name, 1, domain)[0]
        axis = formula.axis
        ends = torch.tensor([low, high], dtype=torch.float64)

        def along(t: Axis) -> Axis:
            return axis(torch.lerp(ends[0], ends[1], t))

        by_cells = {n: _sampled(along, n) for n in set(cells)}
        source = {"kind": "formula", "formula": name, "domain": [[low, high]] * len(cells)}
        return _normalised([by_cells[n] for n in cells], [along] * len(cells), f"formula:{name}", source)


def _cells(resolution: int | Sequence[int], z: int) -> tuple[int, ...]:
    if z < 1:
        raise InputError(f"a sum needs at least one axis, got {z}")
    entries = resolution if isinstance(resolution, Sequence) else (resolution,) * z
    cells = tuple(whole(entry, "resolution") for entry in entries)
    if len(cells) != z:
        raise InputError(f"resolution has {len(cells)} entries for {z} axes; give one number, or one per axis")
    for n in cells:
        check_cells((n,))
    return cells


def _sampled(function: Callable[[Any], Any], cells: int) -> Axis:
    return evaluate(function, Mesh((cells,)).nodes()[:, 0])


def _normalised(
    axes: Sequence[Axis], functions: Sequence[Callable[[Any], Any]] | None, name: str, source: Mapping[str, Any]
) -> SumPattern:
    """Subtract each minimum and divide by the sum of the ranges."""
    for i, axis in enumerate(axes):
        if axis.ndim != 1 or axis.shape[0] < 2:
            raise InputError(f"axis {i} has shape {tuple(axis.shape)}; wanted [nodes] with at least 2 nodes")
        require_finite(axis, f"axis {i}")
    lows = [float(axis.min()) for axis in axes]
    width = sum(float(axis.max()) - low for axis, low in zip(axes, lows, strict=True))
    if axes and not 0 < width < float("inf"):
        raise InputError(f"the sum has range {width}, so it cannot be normalised to [0, 1]")

    def in_units(function: Callable[[Any], Any], low: float) -> Callable[[Axis], Axis]:
        return lambda t: (evaluate(function, t) - low) / width

    original = None if functions is None else tuple(map(in_units, functions, lows))
    return SumPattern(
        tuple((axis - low) / width for axis, low in zip(axes, lows, strict=True)),
        name=name,
        source={**source, "range": [sum(lows), sum(lows) + width]},
        original=original,
    )
