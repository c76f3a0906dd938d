"""Checks of what samplers are given."""

import math
from collections.abc import Sequence

from jaxtyping import Float64
from torch import Tensor

from landform.errors import InputError, unknown_name

TARGETS = ("data", "population")


def check_common(
    h: Float64[Tensor, "points z"], n: int, quantities: Sequence[str], confidence: float, target: str
) -> None:
    """Check what all samplers are given."""
    if h.ndim != 2 or not len(h):
        raise InputError(f"points have shape {list(h.shape)}; wanted [points, z], at least one point")
    if n < 1 or not quantities:
        raise InputError(f"there are {n} samples and {len(quantities)} quantities; wanted at least one of each")
    if not 0 < confidence < 1:
        raise InputError(f"confidence is {confidence}; wanted a number between 0 and 1, such as 0.99")
    if target not in TARGETS:
        raise unknown_name("target", target, TARGETS)


def check_shape(h: Float64[Tensor, "nodes z"], shape: Sequence[int]) -> None:
    """Check that points can be the nodes of a grid."""
    if math.prod(shape) != len(h) or min(shape) < 2:
        wanted = "as many nodes as shape says, at least 2 along each axis"
        raise InputError(f"a grid of shape {tuple(shape)} comes with {len(h)} nodes; wanted {wanted}")


def parse_tolerance(tolerance: float | tuple[str, float]) -> tuple[bool, float]:
    """Return whether a tolerance is relative to the robust range, and its number.

    Example:
        >>> parse_tolerance(0.005), parse_tolerance(("absolute", 0.1))
        ((True, 0.005), (False, 0.1))
    """
    kind, number = tolerance if isinstance(tolerance, tuple) else ("relative", tolerance)
    if kind not in ("relative", "absolute"):
        raise unknown_name("kind of tolerance", kind, ("relative", "absolute"))
    if not (number > 0 and math.isfinite(number)):
        raise InputError(f"tolerance is {number}; wanted a positive number, or FullGrid for every node on all samples")
    return kind == "relative", float(number)
