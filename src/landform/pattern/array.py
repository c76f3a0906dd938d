"""Patterns from nodal values that already exist."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from landform.errors import InputError
from landform.pattern.normalise import require_finite, span, to_unit
from landform.pattern.pattern import Pattern
from landform.pattern.resolution import check_cells


def wrap(values: Any, *, channels: bool, normalise: bool | None, name: str) -> Pattern:
    """Do the work of `Pattern.from_array`.

    Example:
        >>> wrap([[0, 1], [1, 0]], channels=False, normalise=None, name="saddle").values.dtype
        torch.float64
    """
    nodal = as_float64(values)
    check_shape(tuple(nodal.shape), channels=channels, what="the array")
    require_finite(nodal, "the array")
    nodal, lo, hi = into_unit(nodal, normalise, "the array")
    source = {"kind": "array", "normalised": (lo, hi) != (0.0, 1.0), "range": [lo, hi]}
    return Pattern(nodal, name=name, channels=nodal.shape[-1] if channels else None, source=source)


def as_float64(values: Any) -> Float64[Tensor, "..."]:
    """Copy real numbers into a float64 tensor on the CPU; refuse every other kind.

    Example:
        >>> as_float64(["a"])
        Traceback (most recent call last):
        landform.errors.InputError: pattern values must be real numbers, got an array of dtype <U1
    """
    if isinstance(values, Tensor):
        if values.is_complex():
            raise InputError(f"pattern values must be real numbers, got a tensor of dtype {values.dtype}")
        return values.detach().to(device="cpu", dtype=torch.float64, copy=True).contiguous()
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise InputError(f"pattern values must form a rectangular array: {error}") from error
    check_dtype(array.dtype)
    with np.errstate(over="ignore"):  # a long double beyond float64 becomes inf, which is refused with its index
        return torch.from_numpy(np.array(array, dtype=np.float64, order="C"))


def check_dtype(dtype: np.dtype[Any]) -> None:
    """Refuse dtypes that hold no real numbers.

    Example:
        >>> check_dtype(np.dtype("uint8"))
    """
    if dtype.kind not in "buif":
        raise InputError(f"pattern values must be real numbers, got an array of dtype {dtype}")


def check_shape(shape: tuple[int, ...], *, channels: bool, what: str) -> None:
    """Refuse shapes that are no grid within the limits.

    Example:
        >>> check_shape((5, 5, 3), channels=True, what="the array")
    """
    z = len(shape) - channels
    if not 1 <= z <= 4:
        wanted = "2 to 5 dims with channels=True, the last one channels" if channels else "1 to 4 dims"
        raise InputError(f"{what} has shape {shape}, {len(shape)} dims; wanted {wanted}")
    check_cells(tuple(nodes - 1 for nodes in shape[:z]))


def into_unit(
    values: Float64[Tensor, "*shape"], normalise: bool | None, what: str
) -> tuple[Float64[Tensor, "*shape"], float, float]:
    """Bring values into [0,1] by the rule of ``normalise``; return also the originals of 0 and of 1.

    Example:
        >>> into_unit(torch.tensor([0.0, 4.0], dtype=torch.float64), None, "the array")
        (tensor([0., 1.], dtype=torch.float64), 0.0, 4.0)
    """
    outside = bool(((values < 0) | (values > 1)).any())
    if outside and normalise is False:
        raise InputError(
            f"{what} has values in [{float(values.min())}, {float(values.max())}], outside [0, 1]; "
            "scale it or drop normalise=False"
        )
    if not (outside or normalise):
        return values, 0.0, 1.0
    lo, hi = span(values, what)
    return to_unit(values, lo, hi).clamp(0.0, 1.0), lo, hi
