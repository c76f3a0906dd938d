"""Angles between directions: making them right, and measuring what they are."""

import math

import torch
from jaxtyping import Float64
from torch import Tensor

from landform.errors import InputError
from landform.subspace.subspace import Subspace


def orthonormal(vectors: Float64[Tensor, "z blocks numbers"]) -> Float64[Tensor, "z blocks numbers"]:
    """Make vectors orthogonal to the earlier ones and of length 1, block by block.

    Gram–Schmidt, each projection taken twice, so that rounding does not grow with the angle. The first vector keeps its
    direction. A block of m numbers has room for m vectors: the (m + 1)-th and later ones are zero there.

    Args:
        vectors: z vectors, cut into blocks of equal size; linearly independent within each block as far as there is
            room.

    Returns:
        The same shape, float64.

    Example:
        >>> three = torch.tensor([[[3.0, 0.0]], [[5.0, 2.0]], [[1.0, 1.0]]], dtype=torch.float64)
        >>> orthonormal(three).squeeze(1).tolist()
        [[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]
    """
    basis = torch.zeros_like(vectors)
    for i in range(min(len(vectors), vectors.shape[-1])):
        vector = vectors[i]
        for _ in range(2):
            for earlier in basis[:i]:
                vector = vector - (earlier * vector).sum(-1, keepdim=True) * earlier
        basis[i] = vector / vector.norm(dim=-1, keepdim=True)
    return basis


def cosine(subspace: Subspace) -> Float64[Tensor, "z z"]:
    """Return the cosine of the angle between each pair of directions.

    cos_ij = ⟨d_i, d_j⟩ / (‖d_i‖·‖d_j‖) over all parameters, tied ones once, computed in float64 from the directions as
    they are stored. Zero off the diagonal means that distances in a plot over the subspace, each axis in units of its
    direction, are not skewed.

    Args:
        subspace: The subspace.

    Returns:
        A symmetric matrix with ones on the diagonal.

    Raises:
        InputError: If a direction is zero or not finite, so that it has no angle.

    Cost:
        z² products of vectors; memory for float64 copies of one parameter.

    Example:
        >>> origin = {"b": torch.zeros(2)}
        >>> skewed = Subspace(origin, ({"b": torch.tensor([2.0, 0.0])}, {"b": torch.tensor([3.0, 4.0])}))
        >>> [[round(value, 12) for value in row] for row in cosine(skewed).tolist()]
        [[1.0, 0.6], [0.6, 1.0]]
    """
    products = torch.zeros(subspace.z, subspace.z, dtype=torch.float64)
    for name in subspace.moved:
        moving = [i for i, direction in enumerate(subspace.directions) if name in direction]
        values = torch.stack([subspace.directions[i][name].detach().cpu().double().flatten() for i in moving])
        products[torch.tensor(moving)[:, None], torch.tensor(moving)] += values @ values.T
    lengths = products.diagonal().sqrt()
    for number, length in enumerate(lengths.tolist(), start=1):
        if not (length > 0 and math.isfinite(length)):
            raise InputError(f"direction {number} has length {length}, so it has no angle; wanted a finite length > 0")
    result = products / (lengths[:, None] * lengths)
    result.fill_diagonal_(1.0)
    return result
