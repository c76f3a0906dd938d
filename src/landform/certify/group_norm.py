"""A map and the norm behind it that takes mean and spread over groups of channels, as the verifier reads them.

y = a(x − μ) + β with x = Wr + b and a = γ/√(v + eps). The compiler makes the rows of each group add up to zero, and x
so small that v is nothing beside eps. Neither is trusted: the sums are taken of the rows as stored, and what is left of
them, the rounding of the products and that of the mean over N numbers are bounded as

    |μ| ≤ Σ_group (|ΣW||r| + |Σb|)/D + u·Σ_group (k + N + 4·log2 N + 8)(|W||r| + |b|)/D

for rows of k terms and groups of D channels. It holds for sums in any order, and for Welford's running mean, whose
quotients add (3 + 3·ln N)·u. The variance differs from 0 by at most twice the mean of x², its rounding included; a by
half of that beside eps.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
import scipy.sparse as sp

from landform.certify.network import NORM_ROUNDINGS
from landform.certify.propagate import U64, ProofError
from landform.imprint.lower.graph import Graph, Op

MORE_ROUNDINGS = 5.0
"""Beside those of any norm: eps in the network's dtype, the constant −aμ + β and its sum, a·W in float64 (2)."""
SMALLEST = 2.0**-10
"""The largest variance beside eps that is followed."""


@dataclass(frozen=True)
class Normed:
    """A map and its norm as one map.

    Args:
        weight: diag(a)·W.
        bias: diag(a)·b + β.
        roundings: Roundings of the products, in units of |weight||r|.
        offset: Roundings of constants.
        mean: What r adds to the rounding by way of the mean, in units of the roundoff, ``[channels, inputs]``.
    """

    weight: sp.csr_matrix
    bias: np.ndarray
    roundings: float
    offset: np.ndarray
    mean: sp.csr_matrix


def joined(graph: Graph) -> tuple[Graph, dict[int, int]]:
    """Let norms over groups read what the map before them reads; return the graph, and these maps."""
    ops, maps = list(graph.ops), {}
    for number, op in enumerate(ops):
        if op.kind == "norm" and op.shared:
            at = op.inputs[0]
            while ops[at].kind == "keep":
                at = ops[at].inputs[0]
            if ops[at].kind != "map":
                raise ProofError(f"'{op.name}' does not stand right behind a map")
            maps[number] = at
            ops[number] = replace(op, inputs=ops[at].inputs)
    return replace(graph, ops=tuple(ops)), maps


def normed(
    op: Op,
    weight: sp.csr_matrix,
    bias: np.ndarray,
    reach: np.ndarray,
    gain: np.ndarray,
    shift: np.ndarray,
    eps: float,
    roundoff: float,
) -> Normed:
    """Return a map and its norm as one map.

    Args:
        op: The norm.
        weight: W as stored.
        bias: b as stored.
        reach: Bounds of |x|.
        gain: γ.
        shift: β.
        eps: The norm's eps.
        roundoff: Unit roundoff of the network's dtype.

    Raises:
        ProofError: If the number of positions is not known, or the spread is not small beside eps.
    """
    if not op.terms:
        raise ProofError(f"how many numbers '{op.name}' averages depends on the input's shape, which is unknown")
    channels, shared = op.channels, op.shared
    count = float(op.terms * shared)
    a = gain / math.sqrt(eps)
    group = np.arange(channels) // shared
    member = sp.csr_matrix((np.ones(channels), (group, np.arange(channels))))
    spread = 2 * np.bincount(group, reach**2) / shared / eps
    spread = np.where(np.bincount(group, np.abs(gain)) > 0, spread, 0.0)
    if not spread.max() < SMALLEST:
        raise ProofError(
            f"the spread of what '{op.name}' normalises may reach {spread.max():.2g} of its eps; the proof needs it far"
            " below"
        )
    size, terms = abs(weight), np.diff(weight.indptr) + (bias != 0)
    rounds = terms + count + 4 * math.log2(count) + 8 + shared * U64 / roundoff
    left = abs(member @ weight) / roundoff + member @ (sp.diags(rounds) @ size)
    level = np.abs(member @ bias) / roundoff + member @ (rounds * np.abs(bias))
    back = sp.diags(np.abs(a) / shared) @ member.T
    # where nothing is read, β is added to a mean alone
    quiet = np.where(gain == 0, 0.0, 2 * np.abs(shift) + 4 * np.abs(a * bias))
    roundings = NORM_ROUNDINGS + MORE_ROUNDINGS + float(spread.max()) / roundoff
    return Normed(
        (sp.diags(a) @ weight).tocsr(),
        a * bias + shift,
        roundings,
        quiet + back @ level + np.abs(a * bias) * roundings,
        (back @ left).tocsr(),
    )
