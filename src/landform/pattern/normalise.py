"""Bring values into [0, 1], and refuse those that cannot be."""

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from landform.errors import InputError


def require_finite(values: Float64[Tensor, "..."], what: str) -> None:
    """Raise an InputError that counts the values that are NaN or infinite and names the first.

    Example:
        >>> require_finite(torch.tensor([1.0, float("nan")], dtype=torch.float64), "the array")
        Traceback (most recent call last):
        landform.errors.InputError: the array: 1 of 2 values are not finite, the first at index (1,) (nan); ...
    """
    bad = ~torch.isfinite(values)
    count = int(bad.sum())
    if count:
        first = tuple(int(i) for i in np.unravel_index(int(bad.flatten().int().argmax()), tuple(bad.shape)))
        raise InputError(
            f"{what}: {count} of {values.numel()} values are not finite, the first at index {first} "
            f"({float(values[first])}); replace them before making a pattern"
        )


def span(values: Float64[Tensor, "..."], what: str) -> tuple[float, float]:
    """Return (least, greatest), or raise an InputError where they are equal and cannot be told apart.

    Example:
        >>> span(torch.tensor([2.0, 6.0], dtype=torch.float64), "the array")
        (2.0, 6.0)
    """
    lo, hi = float(values.min()), float(values.max())
    if lo == hi:
        raise InputError(f"{what} is constant ({lo}), so it has no range to normalise to [0, 1]")
    return lo, hi


def to_unit(values: Float64[Tensor, "*shape"], lo: float, hi: float) -> Float64[Tensor, "*shape"]:
    """Map lo to 0 and hi to 1: (v − lo)/(hi − lo), without clipping.

    Example:
        >>> to_unit(torch.tensor([2.0, 3.0, 6.0], dtype=torch.float64), 2.0, 6.0).tolist()
        [0.0, 0.25, 1.0]
    """
    if np.isinf(hi - lo):  # the difference of two finite numbers overflows: halve first
        values, lo, hi = values / 2, lo / 2, hi / 2
    return (values - lo) / (hi - lo)
