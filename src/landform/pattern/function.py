"""Patterns from any vectorised function of h."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

from jaxtyping import Float64
from torch import Tensor

from landform.errors import InputError
from landform.mesh import Mesh
from landform.pattern.array import as_float64, into_unit
from landform.pattern.normalise import require_finite, to_unit
from landform.pattern.original import Function
from landform.pattern.pattern import Pattern
from landform.pattern.resolution import cells_of


def sample(
    function: Callable[[Any], Any],
    *,
    resolution: int | Sequence[int] | None,
    z: int,
    channels: int | None,
    normalise: bool | None,
    name: str | None,
) -> Pattern:
    """Do the work of `Pattern.from_callable`.

    Example:
        >>> sample(lambda h: 3 * h[:, 0], resolution=2, z=1, channels=None, normalise=None, name="r").values.tolist()
        [0.0, 0.5, 1.0]
    """
    if not callable(function):
        raise InputError(f"wanted a function of h, got {type(function).__name__}")
    mesh = Mesh(cells_of(resolution, z))
    tail = () if channels is None else (channels,)
    name = str(getattr(function, "__name__", type(function).__name__)) if name is None else name
    nodal = evaluate(function, mesh.nodes(), tail).reshape(*mesh.shape, *tail)
    require_finite(nodal, f"the values of {name}")
    values, lo, hi = into_unit(nodal, normalise, f"the function {name}")
    return Pattern(
        values,
        name=name,
        channels=channels,
        source={"kind": "callable", "function": name, "range": [lo, hi]},
        original=Function(lambda h: to_unit(evaluate(function, h, tail), lo, hi)),
    )


def evaluate(
    function: Callable[[Any], Any], h: Float64[Tensor, "points *z"], tail: tuple[int, ...] = ()
) -> Float64[Tensor, "points *tail"]:
    """Call a function of torch tensors, or failing that of NumPy arrays, and check the shape it returns.

    Args:
        function: The function.
        h: Its argument; the function gets a copy.
        tail: Shape wanted beyond the points.

    Returns:
        Its values, float64.

    Raises:
        InputError: If the shape is another, or the values are no real numbers.

    Example:
        >>> import torch
        >>> evaluate(lambda h: h.sum(), torch.ones(3, 2, dtype=torch.float64))
        Traceback (most recent call last):
        landform.errors.InputError: the function returned shape () for 3 points; wanted (3,): one value for each row ...
    """
    try:
        with warnings.catch_warnings():  # NumPy's functions take tensors, with a remark on how they do it
            warnings.filterwarnings("ignore", message="__array_wrap__", category=DeprecationWarning)
            result = function(h.clone())
    except (TypeError, AttributeError):
        result = function(h.numpy().copy())  # written for NumPy; a fault of the function's own comes up again here
    values = as_float64(result)
    wanted = (h.shape[0], *tail)
    if tuple(values.shape) != wanted:
        raise InputError(
            f"the function returned shape {tuple(values.shape)} for {h.shape[0]} points; wanted {wanted}: "
            f"one value{' per channel' if tail else ''} for each row of its argument, of shape {tuple(h.shape)}"
        )
    return values
