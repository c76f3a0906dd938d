"""A map and the norm behind it that takes mean and spread over groups of channels, as the verifier reads them.

y = a(x − μ) + β with x = Wr + b and a = γ/√(v + eps). The compiler makes the rows of each group add up to zero, and x
so small that v is nothing beside eps. Neither is trusted: the sums are taken of the rows as stored, and what is left of
them, the rounding of the products and that of the mean are bounded (`means`). The variance differs from 0 by at most
twice the mean of x², its rounding included; a by half of that beside eps.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
import scipy.sparse as sp

from landform.certify.means import Means
from landform.certify.network import NORM_ROUNDINGS, inexact
from landform.certify.proof_error import ProofError
from landform.certify.rounding import U64
from landform.imprint.lower.graph import Graph, Op

SMALLEST = 2.0**-10
"""The largest variance beside eps that is followed."""
TINY = 2.0**-148
"""What a number far below 1 may lose in float32."""


@dataclass(frozen=True)
class Normed:
    """A map and its norm as one map.

    Args:
        weight: diag(a)·W.
        bias: diag(a)·b + β.
        shift: β.
        inexact: |weight| where W's products round.
        roundings: Roundings of a·x, in units of |a·x|.
        offset: Roundings of constants.
        means: What is subtracted.
    """

    weight: sp.csr_matrix
    bias: np.ndarray
    shift: np.ndarray
    inexact: sp.csr_matrix
    roundings: float
    offset: np.ndarray
    means: Means


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
    inputs: np.ndarray,
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
        inputs: Bounds of |r|.
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
    still = float(shared) * U64  # of the sums of rows, here
    means = Means(
        weight,
        bias,
        inexact(weight),
        member,
        (abs(member @ weight) + still * (member @ abs(weight))).tocsr(),
        np.abs(member @ bias) + still * (member @ np.abs(bias)),
        (sp.diags(a / shared) @ member.T).tocsr(),
        count,
        inputs,
        np.zeros(channels),
    )
    # where nothing is read, β is added to a mean alone
    constants = np.where(gain == 0, 0.0, 2 * np.abs(shift)) + np.abs(a) * (count + 8) * TINY / roundoff
    return Normed(
        (sp.diags(a) @ weight).tocsr(),
        a * bias + shift,
        shift,
        (sp.diags(np.abs(a)) @ inexact(weight)).tocsr(),
        NORM_ROUNDINGS + (2 * U64 + float(spread.max())) / roundoff,  # a·W is taken in float64
        constants,
        means,
    )
