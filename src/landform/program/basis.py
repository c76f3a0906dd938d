"""The hats that a program sums: nodal, or hierarchical with small surpluses dropped.

A hat of level step 2^k is centred at the fine node i and is one on it, zero beyond the neighbours i ± 2^k. Nodal hats
have step 1 and the nodal values as coefficients. Hierarchical ones (Yserentant 1986; Faber 1909 for z = 1) have the
surpluses as coefficients; coarse hats reuse the hinges of the fine mesh, scaled, so dropping small surpluses drops
units, and the error is known exactly because the difference of two P1 functions peaks
at nodes of the finer mesh.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from landform.mesh import Mesh

MOST_SPARED = 0.95  # share of the nodes that have hats beyond which those without are not worth sparing
BAND = 4  # hats that follow each other lie in blocks about this wide


@dataclass(frozen=True)
class Basis:
    """Hats by fine node index, step and coefficient; coarse levels first.

    Args:
        mesh: The finest mesh.
        index: Fine node index of each hat, shape ``[basis, z]``.
        step: Step of each hat in fine cells, shape ``[basis]``.
        coefficient: Shape ``[basis, channels]``.
        offset: A constant per channel that keeps every partial sum ≥ 0, shape ``[channels]``: registers that are
            carried through ReLU layers must not be negative.
        error: max over the box of |kept sum − pattern|, exact.
        base: A constant under the hats, shape ``[channels]``; their coefficients are what lies above or below it.
        clear: Whether hats shall be clearly off beyond their neighbours, for smooth activations.
        corner: Whether the hat whose hinge would be affine on the box has one all the same, not two large ones.
    """

    mesh: Mesh
    index: np.ndarray
    step: np.ndarray
    coefficient: np.ndarray
    offset: np.ndarray
    error: float
    base: np.ndarray | float = 0.0
    clear: bool = False
    corner: bool = False

    @property
    def size(self) -> int:
        """Number of hats."""
        return int(self.step.shape[0])

    @property
    def channels(self) -> int:
        """Number of channels."""
        return int(self.coefficient.shape[1])

    @property
    def top(self) -> np.ndarray | float:
        """What no sum of some of the hats and the offset exceeds, per channel; infinite for hats of several sizes."""
        if (self.step != 1).any():
            return np.inf
        top: np.ndarray = self.offset + np.maximum(self.coefficient.max(axis=0), 0.0)
        return top

    def centred(self) -> "Basis":
        """Return the same pattern over a constant in the middle of its values, where few hats are spared.

        What hats err by counts in proportion to their coefficients, which are then half as large.
        """
        if (self.step != 1).any() or self.size < MOST_SPARED * self.mesh.n_nodes:
            return self
        values = np.zeros((self.mesh.n_nodes, self.channels))
        values[np.ravel_multi_index(tuple(self.index.T), self.mesh.shape)] = self.coefficient
        middle = (values.max(axis=0) + values.min(axis=0)) / 2
        kept = (values != middle).any(axis=1)
        kept[0] |= not kept.any()
        index, rest = self.mesh.indices().numpy()[kept], values[kept] - middle
        return replace(
            self, index=index, step=np.ones(len(index), dtype=int), coefficient=rest, offset=middle, base=middle
        )

    def compact(self) -> "Basis":
        """Return the same hats in an order in which those that follow each other are neighbours, as far as z = 2.

        Rows of `BAND` hats are gone through like a snake, and so are the bands.
        """
        if self.mesh.z != 2 or (self.step != 1).any():  # partial sums over levels must keep their order
            return self
        i, j = self.index.T
        band, row = np.divmod(i, BAND)
        along = np.where(band % 2, -j, j)
        order = np.lexsort((np.where(j % 2, -row, row), along, band))
        return replace(self, index=self.index[order], step=self.step[order], coefficient=self.coefficient[order])


def nodal_basis(mesh: Mesh, values: Float64[Tensor, "..."]) -> Basis:
    """Return one hat for every node whose value is not zero in all channels; values must be ≥ 0."""
    flat = mesh.flatten(values).reshape(mesh.n_nodes, -1).numpy()
    kept = (flat != 0).any(axis=1)
    kept[0] |= not kept.any()  # an all-zero pattern keeps one hat, so that there is something to read
    index = mesh.indices().numpy()[kept]
    return Basis(mesh, index, np.ones(len(index), dtype=int), flat[kept], np.zeros(flat.shape[1]), 0.0)


def compressed_basis(mesh: Mesh, values: Float64[Tensor, "..."], tolerance: float) -> Basis:
    """Keep the hierarchical hats whose surplus exceeds a threshold, the largest threshold that meets a tolerance.

    Args:
        mesh: The mesh of the pattern; it must be halvable at least once to gain anything.
        values: Nodal values in [0, 1].
        tolerance: Largest admitted error over the box, in units of the pattern.

    Returns:
        The kept hats, coarse levels first, with the exact error.

    Cost:
        About 30 inverse surplus transforms (bisection on the threshold).
    """
    flat_shape = (mesh.n_nodes, -1)
    surplus = mesh.surplus(values)
    size = surplus.reshape(flat_shape).abs().amax(dim=1).reshape(mesh.shape)
    mask_shape = (*mesh.shape, *([1] * (values.ndim - mesh.z)))

    def kept(threshold: float) -> Bool[Tensor, "..."]:
        mask = size > threshold
        mask.reshape(-1)[0] = True  # one hat at least, so that there is something to read
        return mask

    def kept_sum(threshold: float) -> Float64[Tensor, "..."]:
        return mesh.from_surplus(surplus * kept(threshold).reshape(mask_shape))

    def error(threshold: float) -> float:
        return float((kept_sum(threshold) - values).abs().max())

    low, high = 0.0, max(tolerance, 0.0)  # dropping all below `tolerance` may err by more: errors of ancestors add up
    for _ in range(30):
        middle = (low + high) / 2
        if error(middle) <= tolerance:
            low = middle
        else:
            high = middle
    if error(high) <= tolerance:
        low = high
    keep = kept(low).reshape(-1)
    level = mesh.levels().reshape(-1)
    order = torch.argsort(level, stable=True)
    order = order[keep[order]]
    step = (1 << (mesh.depth - level[order])).numpy()
    coefficient = surplus.reshape(flat_shape)[order].numpy()
    offset = _partial_sum_floor(mesh, surplus, keep)
    return Basis(mesh, mesh.indices()[order].numpy(), step, coefficient, offset, error(low))


def _partial_sum_floor(mesh: Mesh, surplus: Float64[Tensor, "..."], keep: Tensor) -> np.ndarray:
    """Return how far below zero any partial sum, taken level by level, can reach.

    Adding any subset of one level's hats gives, at each node of that level, either the old or the new value, so the
    minimum over the box is attained by sums of whole levels at nodes.
    """
    level = mesh.levels().reshape(-1)
    flat = surplus.reshape(mesh.n_nodes, -1)
    lowest = torch.zeros(flat.shape[1], dtype=torch.float64)
    for top in range(mesh.depth + 1):
        partial = mesh.from_surplus((flat * (keep & (level <= top))[:, None]).reshape(surplus.shape))
        lowest = torch.minimum(lowest, partial.reshape(mesh.n_nodes, -1).amin(dim=0))
    return (-lowest).numpy() + 0.0
