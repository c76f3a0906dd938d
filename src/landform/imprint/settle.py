"""Make the signal exactly 0 where the pattern is: at h* the trained network must be left as it was, bit for bit.

ψ is written with hinges from its right end, so its value at 0 is a difference of rounded numbers. With a layer to spare
a last unit relu(s − δ) cuts off what rounding leaves, and ψ is δ higher behind its first knot to make up for it;
without one, ψ is rewritten with hinges that open upwards, all of which are 0 at τ = 0.
"""

from dataclasses import replace

import numpy as np
import scipy.sparse as sp
import torch
from jaxtyping import Float64
from torch import Tensor

from landform.program.program import Layer, Program


def clamped(
    program: Program, zeros: Float64[Tensor, "points z"], dtype: torch.dtype, *, further: float = 0.0
) -> Program:
    """Append a layer relu(s − δ), δ above what rounding makes of s = 0.

    Behind its first knot ψ has δ added beforehand, so that only what lies below that knot is lowered: there s is steep
    and the loss nearly flat.

    Args:
        program: Its output is s ≥ 0, one channel.
        zeros: Points where s must be 0.
        dtype: Arithmetic of the network.
        further: What δ must be beyond that: how far left of its knot a smooth hinge is exactly 0.
    """
    bias, terms = program.readout.bias, program.readout.weight
    unit = torch.finfo(dtype).eps / 2
    delta = 2 * (terms.nnz + 2) * unit * float(np.abs(bias).max())
    if len(zeros):
        seen = program(zeros.to(dtype))
        delta += 4 * max(0.0, float(seen.double().max()))
    delta += further
    steeper = _steeper(program, delta)
    terms, bias = (terms, bias - delta) if steeper is None else (steeper, bias)
    last = Layer(terms, bias, np.zeros(1, dtype=bool), "clamp")
    out = Layer(sp.identity(1, format="csr"), np.zeros(1), np.zeros(1, dtype=bool), "readout")
    return replace(program, layers=(*program.layers, last), readout=out)


def _steeper(program: Program, delta: float) -> sp.csr_matrix | None:
    """Return the readout of ψ whose first piece starts δ lower, or None where ψ is more than one layer of hinges."""
    found = _hinges(program)
    if found is None:
        return None
    knots, coefficient = found
    first = int(knots.argmin())
    rise = knots[first] - _origin(program, np.sort(knots), coefficient[np.argsort(knots)])
    if not rise > 0:
        return None
    steeper = program.readout.weight.toarray()
    steeper[0, first] -= delta / rise
    return sp.csr_matrix(steeper)


def _hinges(program: Program) -> tuple[np.ndarray, np.ndarray] | None:
    """Return knots (less the register's own constant) and coefficients of a one-layer ψ, in the order of its units."""
    last = program.layers[-1]
    coefficient = -program.readout.weight.toarray()[0]
    rows = last.weight.toarray()
    if last.role != "spline" or len(coefficient) < 1 or not np.array_equal(rows, np.tile(rows[:1], (len(rows), 1))):
        return None
    return last.bias, coefficient


def opened(program: Program) -> Program:
    """Rewrite a one-layer ψ, end − Σ c_k relu(k_k − τ), as Σ d_k relu(τ − l_k) with l_0 = 0, or leave it as it is.

    The slopes fall from steep to flat, so the d_k alternate in sign: rounding is larger by the ratio of the slopes, but
    at τ = 0 nothing is left to round.
    """
    found = _hinges(program)
    if found is None:
        return program
    order = np.argsort(found[0])
    knots, coefficient = found[0][order], found[1][order]
    slopes = coefficient[::-1].cumsum()[::-1]  # slope of ψ left of each knot
    left = np.concatenate([[_origin(program, knots, coefficient)], knots[:-1]])
    change = np.diff(slopes, prepend=0.0)
    weight = sp.csr_matrix(-program.layers[-1].weight)
    carried = np.zeros(len(left), dtype=bool)
    layer = Layer(weight, -left, carried, "spline")
    readout = replace(program.readout, weight=sp.csr_matrix(change[None]), bias=np.zeros(1))
    return replace(program, layers=(*program.layers[:-1], layer), readout=readout)


def _origin(program: Program, knots: np.ndarray, coefficient: np.ndarray) -> float:
    """Return where ψ is 0, left of the first knot."""
    value = float(program.readout.bias[0] - coefficient @ (knots - knots[0]))  # ψ at the first knot
    return float(knots[0] - value / coefficient.sum())
