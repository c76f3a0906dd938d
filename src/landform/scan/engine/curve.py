"""Curves, by whatever engine suits the plane they lie in."""

from jaxtyping import Float64
from torch import Tensor

from landform.scan.engine.base import AbstractEngine, Sums, Terms
from landform.subspace.curve import Curve


class CurveEngine(AbstractEngine):
    """Measures a `landform.subspace.curve.Curve` at (2t(1 − t), t²) of its plane.

    Args:
        plane: An engine for the plane.
        curve: The curve.
    """

    def __init__(self, plane: AbstractEngine, curve: Curve) -> None:
        self._plane = plane
        self._curve = curve

    @property
    def plane(self) -> AbstractEngine:
        """The engine for the plane, which has the name by which this one can be built again."""
        return self._plane

    @property
    def quantities(self) -> tuple[str, ...]:
        """Names of the quantities."""
        return self._plane.quantities

    @property
    def n(self) -> int:
        """Number of samples."""
        return self._plane.n

    @property
    def held(self) -> int:
        """Bytes that the plane's engine holds."""
        return self._plane.held

    def terms(self, h: Float64[Tensor, "points z"], start: int, stop: int) -> Terms:
        """Compute the terms of samples at points of the curve; see `AbstractEngine.terms`."""
        return self._plane.terms(self._curve.coordinates(h), start, stop)

    def sums(self, h: Float64[Tensor, "points z"], start: int = 0, stop: int | None = None) -> Sums:
        """Compute sums at points of the curve; see `AbstractEngine.sums`."""
        return self._plane.sums(self._curve.coordinates(h), start, stop)
