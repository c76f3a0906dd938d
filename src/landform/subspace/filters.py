"""A weight seen as filters: one row for each output unit."""

import math
from dataclasses import dataclass

from jaxtyping import Shaped
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd


@dataclass(frozen=True)
class Filters:
    """How a weight is cut into one row for each output unit.

    The unit is the first index of a weight, as in linear, convolution and embedding layers (there a token); transposed
    convolutions have it second, within each of their groups.

    Attributes:
        shape: Shape of the weight.
        groups: Groups of a transposed convolution; 0 for other layers.

    Example:
        >>> import torch
        >>> weight = torch.arange(6).reshape(2, 3, 1)  # [in, out, kernel] of a transposed convolution
        >>> filters = Filters((2, 3, 1), groups=1)
        >>> filters.rows(weight).tolist(), torch.equal(filters.weight(filters.rows(weight)), weight)
        ([[0, 3], [1, 4], [2, 5]], True)
    """

    shape: tuple[int, ...]
    groups: int = 0

    @property
    def size(self) -> int:
        """Numbers in a filter."""
        return math.prod(self.shape) // (self.shape[1] * self.groups if self.groups else self.shape[0])

    def rows(self, weight: Shaped[Tensor, "*shape"]) -> Shaped[Tensor, "units size"]:
        """Return the filters of a weight."""
        if self.groups:
            inputs, outputs = self.shape[:2]
            weight = weight.reshape(self.groups, inputs // self.groups, outputs, -1).transpose(1, 2)
        return weight.reshape(-1, self.size)

    def weight(self, rows: Shaped[Tensor, "units size"]) -> Shaped[Tensor, "*shape"]:
        """Return the weight of filters, the inverse of `rows`."""
        if self.groups:
            inputs, outputs = self.shape[:2]
            rows = rows.reshape(self.groups, outputs, inputs // self.groups, -1).transpose(1, 2)
        return rows.reshape(self.shape)


def filters_of(model: nn.Module) -> dict[str, Filters]:
    """Say for each parameter with two dimensions or more how it is cut into filters.

    Args:
        model: The model. Only its registered parameters are read: computed weights (spectral normalisation) may change
            a buffer when they are looked at.

    Returns:
        By name of the parameter.

    Example:
        >>> {name: found.size for name, found in filters_of(nn.Conv2d(3, 8, 5)).items()}
        {'weight': 75}
    """
    layers = [layer for layer in model.modules() if isinstance(layer, _ConvTransposeNd)]
    groups = {id(layer._parameters.get("weight")): layer.groups for layer in layers}
    parameters = [(name, value) for name, value in model.named_parameters() if value.ndim > 1 and value.numel()]
    return {name: Filters(tuple(value.shape), groups.get(id(value), 0)) for name, value in parameters}
