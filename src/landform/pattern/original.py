"""What a pattern was sampled from, kept so that the resampling error can be stated.

Both kinds are functions on the unit box, in the pattern's own units and orientation (h1 right, h2 up).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Pixels:
    """The pixels of a picture and the bilinear function through them.

    Pixel (c, r) sits at its centre ((c + 1/2)/W, (r + 1/2)/H); beyond the outermost centres the function is
    extended constantly to the border.

    Attributes:
        values: Pixel values, column first, rows counted from the bottom, with a trailing channel dim or without.

    Example:
        >>> pixels = Pixels(torch.tensor([[0.0], [1.0]], dtype=torch.float64))  # black left, white right
        >>> pixels(torch.tensor([[0.1, 0.5], [0.5, 0.5], [0.625, 0.9]], dtype=torch.float64)).tolist()
        [0.0, 0.5, 0.75]
    """

    values: Float64[Tensor, "columns rows *channels"]

    def __call__(self, h: Float64[Tensor, "points 2"]) -> Float64[Tensor, "points *channels"]:
        """Evaluate the bilinear interpolant.

        Args:
            h: Points of [0,1]^2.

        Returns:
            One value, or one per channel, for each point.
        """
        low, high, fraction = [], [], []
        for axis in range(2):
            size = self.values.shape[axis]
            u = (h[:, axis] * size - 0.5).clamp(0.0, size - 1.0)
            i = u.long()
            low.append(i)
            high.append((i + 1).clamp(max=size - 1))
            fraction.append((u - i).reshape(-1, *(1,) * (self.values.ndim - 2)))
        v, (x, y) = self.values, fraction
        left = torch.lerp(v[low[0], low[1]], v[low[0], high[1]], y)
        right = torch.lerp(v[high[0], low[1]], v[high[0], high[1]], y)
        return torch.lerp(left, right, x)


@dataclass(frozen=True, eq=False)
class Function:
    """The function whose values at the nodes make the pattern, normalised as the pattern is.

    Attributes:
        function: Points ``[points, z]`` of the unit box to values ``[points]`` or ``[points, channels]``.

    Example:
        >>> Function(lambda h: h[:, 0])(torch.ones(2, 1, dtype=torch.float64)).tolist()
        [1.0, 1.0]
    """

    function: Callable[[Float64[Tensor, "points z"]], Float64[Tensor, "points *channels"]]

    def __call__(self, h: Float64[Tensor, "points z"]) -> Float64[Tensor, "points *channels"]:
        """Evaluate the function at points of the unit box."""
        return self.function(h)
