"""Shapes of phantoms, and the smooth ones."""

from landform.testing.phantoms.shapes import SHAPES, Critical, Shape
from landform.testing.phantoms.smooth import SignedSquares, quadratic

__all__ = ["SHAPES", "Critical", "Shape", "SignedSquares", "quadratic"]
