"""A smooth function of one number, tabulated: exact where few values are asked for, interpolated where thousands are.

A response over many samples costs a pass over all of them for each value; choosing the knots of ψ asks for hundreds of
thousands. Cubic Hermite interpolation between exact values and slopes serves those. Whatever proves or measures asks
for exact values.
"""

from collections.abc import Callable
from functools import cached_property

import torch
from jaxtyping import Float64
from torch import Tensor

FEW = 64
"""Up to so many values are computed as they come."""
TABLE = 4096
REACH = 4.0
"""Rise that is tabulated; what lies above is computed as it comes."""

Kernel = Callable[[Tensor], Tensor]


class Tabulated:
    """A function g on s ≥ 0 with g(0) = 0, and its slope.

    Args:
        rise: g at points ``[points]``, exactly.
        slope: g' at points, exactly.

    Example:
        >>> square = Tabulated(lambda s: s * s, lambda s: 2 * s)
        >>> s = torch.linspace(0, 3, 100, dtype=torch.float64)
        >>> bool((square.rise(s) - s * s).abs().max() < 1e-12)
        True
    """

    def __init__(self, rise: Kernel, slope: Kernel) -> None:
        self._rise, self._slope = rise, slope

    def rise(self, s: Float64[Tensor, " points"]) -> Float64[Tensor, " points"]:
        """Return g, exactly for up to `FEW` points, else to some 1e-11."""
        return self._rise(s) if len(s) <= FEW else self._interpolated(s)[0]

    def slope(self, s: Float64[Tensor, " points"]) -> Float64[Tensor, " points"]:
        """Return g', as `rise`."""
        return self._slope(s) if len(s) <= FEW else self._interpolated(s)[1]

    def _interpolated(self, s: Tensor) -> tuple[Tensor, Tensor]:
        node, rise, slope = self._table
        inside = s.clamp(max=float(node[-1]))
        step = float(node[1] - node[0])
        cell = (inside / step).long().clamp(max=len(node) - 2)
        t = inside / step - cell
        a, b, p, q = rise[cell], rise[cell + 1], slope[cell] * step, slope[cell + 1] * step
        bend, twist = b - a - p, q - p
        value = a + t * (p + t * ((3 * bend - twist) + t * (twist - 2 * bend)))
        grown = (p + t * (2 * (3 * bend - twist) + 3 * t * (twist - 2 * bend))) / step
        beyond = s > node[-1]
        if bool(beyond.any()):
            value[beyond] = self._rise(s[beyond])
            grown[beyond] = self._slope(s[beyond])
        return value.clamp(min=0.0), grown

    @cached_property
    def _table(self) -> tuple[Tensor, Tensor, Tensor]:
        reach = torch.ones(1, dtype=torch.float64)
        while float(self._rise(reach)[0]) < REACH and float(reach) < 512:
            reach = 2 * reach
        node = torch.linspace(0.0, float(reach), TABLE + 1, dtype=torch.float64)
        return node, self._rise(node), self._slope(node)
