"""Hinges in networks whose only activation is tanh: two layers each, in which one gates the other.

No finite sum of tanh's is a hinge, but a gate is one. Of every pre-activation t the first layer makes two numbers,

    lin = tanh(σ·t) = σ·t    (σ so small that this is exact to within a rounding)
    gate = tanh(κ·t) = ±1    (κ so large that it is, but for |t| < SATURATED/κ)

and the second one two more,

    p = tanh((s/σ)·lin + B/2·gate − B/2),   q = tanh(B/2·gate − B/2).

Where t < 0 both are tanh(−B) = −1; where t > 0 they are tanh(s·t) and 0. So (p − q)/s is relu(t), but for
(s·t)³/(3·s), for roundings of −1 and B, which are 1/s times larger than those of a ReLU, and for |t| < SATURATED/κ. s
is chosen between the first two: errors are about 1e-9 of a unit's range in float64, 6e-4 in float32.

Carries: any register, at σ. Computes: a hinge in two channels of two layers. Holds: nothing. After Theorem 1 of
Czarnecki et al., arXiv 1912.07559, which asks for no more than a universal approximator.
"""

import numpy as np
import scipy.sparse as sp
import torch

from landform.imprint.lower.activation import STRAIGHT
from landform.imprint.lower.placing import single
from landform.imprint.lower.registers import Registers, power_of_two
from landform.imprint.lower.stages import Plain
from landform.imprint.lower.writer import Writer

SATURATED = {torch.float32: 16.0, torch.float64: 32.0}
"""B, a power of two: tanh(±B) = ±1 in the dtype (it is from 9.02 and 19.07 on), and B/2·gate is exact."""
SIZE = {torch.float32: 2.0**-5, torch.float64: 2.0**-16}
"""s·t at most: (s·t)³/3 grows as its square beside t, rounding as its inverse."""
STEEP = {torch.float32: 2.0**40, torch.float64: 2.0**70}
"""κ·t at most."""

SPREAD = 4.0
"""Units that are this much smaller than others are no larger beside their errors, which are those of what they read."""


def write_gated(writer: Writer, stages: tuple[Plain, Plain], state: Registers) -> Registers:
    """Write a layer of the program into two stages.

    Args:
        writer: Knows which layer comes next.
        stages: The two, both with tanh behind them.
        state: What the first one reads.

    Returns:
        What the next layer of the program reads of the second stage.

    Raises:
        CapacityError: Too few channels.
    """
    first, second = stages
    before = writer.sizes[writer.next - 1]
    layer = writer.layer()
    pen, hinge = writer.pen, np.flatnonzero(~layer.carried)
    units, bends = layer.units, len(hinge)
    taken = np.arange(units + bends)
    for stage in stages:
        pen.require(units + bends, stage.width, stage.map)
    top = np.maximum(writer.sizes[writer.next - 1], 1e-30)
    low = np.asarray(layer.weight.minimum(0) @ before).ravel() + layer.bias
    small = power_of_two(np.maximum(top, -low), STRAIGHT["tanh"])  # σ
    if layer.role == "spline":
        small[:] = small.min()  # all read one register, as the proof wants to see
    largest = top if pen.dry else np.maximum(writer.tops[writer.next - 1], 1e-30)  # intervals overrate cancelling sums
    whole = np.exp2(np.ceil(np.log2(np.maximum(largest, largest.max() / SPREAD))))
    if not pen.dry:
        steep = STEEP[pen.dtype] / whole[hinge]
        scale = sp.vstack([sp.diags(small), _chosen(steep, hinge, units)]).tocsr()
        pen.write(first, (scale @ state.read).tocsr(), scale @ state.offset, taken)
    size = np.where(layer.carried, small, SIZE[pen.dtype] / whole)
    half = SATURATED[pen.dtype] / 2
    if not pen.dry:
        own = sp.diags(size / small)
        gates = sp.csr_matrix((np.full(bends, half), (hinge, np.arange(bends))), shape=(units, bends))
        rows = sp.bmat([[own, gates], [None, half * sp.identity(bends)]]) if bends else own
        constant = np.concatenate([np.where(layer.carried, 0.0, -half), np.full(bends, -half)])
        pen.write(second, embedded(rows.tocsr(), first.width), constant, taken)
    back = sp.hstack([sp.diags(1 / size), -_chosen(1 / size[hinge], hinge, units).T]).tocsr()
    tops = np.concatenate([np.where(layer.carried, size * top, 1.0), np.ones(bends)])
    return writer.after(writer.following(), single(back.T.tocsr(), back, taken, tops), 1.0, second.width)


def embedded(rows: sp.csr_matrix, width: int) -> sp.csr_matrix:
    """Return rows over the first channels of a wider tensor."""
    entries = rows.tocoo()
    return sp.csr_matrix((entries.data, (entries.row, entries.col)), shape=(rows.shape[0], width))


def _chosen(values: np.ndarray, units: np.ndarray, count: int) -> sp.csr_matrix:
    """Return rows that read single units, times a value each."""
    return sp.csr_matrix((values, (np.arange(len(units)), units)), shape=(len(units), count))
