"""Patterns: the functions T on the unit box that landform turns into loss surfaces.

A `Pattern` holds nodal values on a Kuhn mesh; a `SumPattern` is a sum of one-dimensional functions and so works in any
number of dimensions.

Example:
    >>> from landform.pattern import Pattern
    >>> Pattern.parse("formula:sphere", resolution=8).values.shape
    torch.Size([9, 9])
"""

from landform.pattern.formula import formulas
from landform.pattern.pattern import Pattern
from landform.pattern.resampling import ResamplingError, resampling_error
from landform.pattern.sum import SumPattern

__all__ = [
    "Pattern",
    "ResamplingError",
    "SumPattern",
    "formulas",
    "resampling_error",
]
