"""The means that norms over groups subtract, as the verifier bounds them: from what the channels hold, point by point.

A norm computes y = a(x − μ̂) + β, x = Wr + b. The rows of a group add up to zero but for what storing them rounded, so
whatever r is, its errors included, the mean of the *computed* x̂ = x + δ is at most

    (|ΣW||r| + |Σb| + Σ|δ|)/D

for groups of D channels, δ being the rounding of x's own sum. What is summed to find it is x̂, not its terms: a sum
of N numbers in any order passes at most N partial sums, none of them beyond A, the sum of its positive or that of its
negative terms, which are equal here. A channel has the same number at P = N/D positions, so none is beyond A/P: a sum
of m of them is at most m·A/P, and so is one of all but m. In any order at most N − m partial sums are of more than m
numbers, so their sizes add up to (N − P)·A at most, and |μ̂ − mean| ≤ u·(N/2)·(1 − 1/D)·mean|x̂|. For Welford's
running means this is the same, and their quotients add (3 + 3·ln N)·u·mean|x̂| (N. J. Higham, *Accuracy and Stability
of Numerical Algorithms*, 2nd ed., SIAM 2002, §4.2).

|x̂| is convex between nodes where x is affine, so bounds at the nodes hold between them. Units that share a group with
others that are small where they matter lose little.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
import scipy.sparse as sp


@dataclass(frozen=True)
class Means:
    """Means over groups of channels of a map.

    Args:
        weight: Rows of the channels that are averaged, as stored, ``[members, inputs]``.
        bias: Their constants.
        inexact: |weight| where products round.
        member: Which channels a group has, ``[groups, members]``.
        left: |ΣW| of each group, with the rounding of that sum, ``[groups, inputs]``.
        level: |Σb| of each group.
        back: By what a unit multiplies the sum over its group, a/D, ``[units, groups]``.
        count: N, how many numbers are averaged.
        reach: Bounds of the inputs.
        beside: Bounds of what inputs that were left out add to a channel.
        joint: Whether one bound shall hold for all units.
    """

    weight: sp.csr_matrix
    bias: np.ndarray
    inexact: sp.csr_matrix
    member: sp.csr_matrix
    left: sp.csr_matrix
    level: np.ndarray
    back: sp.csr_matrix
    count: float
    reach: np.ndarray
    beside: np.ndarray
    joint: bool = False

    @property
    def live(self) -> np.ndarray:
        """Which channels are averaged with others that are not zero, ``[units]``."""
        active = self.member @ (np.diff(self.weight.indptr) + (self.bias != 0))
        return np.asarray(abs(self.back) @ active > 0)

    def rows(self, units: np.ndarray) -> "Means":
        """Return the means that some of the units subtract."""
        back = self.back[units].tocsr()
        return replace(self, back=back).groups(np.unique(back.indices[back.data != 0]))

    def groups(self, groups: np.ndarray) -> "Means":
        """Return the part of the means that comes from some of the groups."""
        member = self.member[groups].tocsr()
        members = np.unique(member.indices)
        return replace(
            self,
            weight=self.weight[members],
            bias=self.bias[members],
            inexact=self.inexact[members],
            member=member[:, members].tocsr(),
            left=self.left[groups],
            level=self.level[groups],
            back=self.back[:, groups].tocsr(),
            beside=self.beside[members],
        )

    def columns(self, units: np.ndarray) -> "Means":
        """Return the same means for some of the inputs; those that are left out are counted by their bounds."""
        others = self.reach.copy()
        others[units] = 0.0
        return replace(
            self,
            weight=self.weight[:, units].tocsr(),
            inexact=self.inexact[:, units].tocsr(),
            left=self.left[:, units].tocsr(),
            level=self.level + self.left @ others,
            beside=self.beside + abs(self.weight) @ others,
            reach=self.reach[units],
        )

    def embedded(self, at: np.ndarray, width: int) -> "Means":
        """Return the means where the inputs lie at positions ``at`` of a vector."""
        weight, inexact, left = (_embedded(m, at, width) for m in (self.weight, self.inexact, self.left))
        reach = np.zeros(width)
        reach[at] = self.reach
        return replace(self, weight=weight, inexact=inexact, left=left, reach=reach)

    def rescaled(self, units: np.ndarray, inputs: np.ndarray) -> "Means":
        """Return the means for inputs multiplied by 1/``inputs``, whose units are multiplied by ``units``."""
        weight, inexact, left = ((m @ sp.diags(inputs)).tocsr() for m in (self.weight, self.inexact, self.left))
        back = (sp.diags(units) @ self.back).tocsr()
        return replace(self, weight=weight, inexact=inexact, left=left, back=back, reach=self.reach / inputs)

    def largest(self) -> "Means":
        """Return the same means, one bound for all units."""
        return replace(self, joint=True)

    def totals(
        self, size: np.ndarray, own: np.ndarray, fuzz: np.ndarray, left: np.ndarray, roundoff: float
    ) -> np.ndarray:
        """Bound D·|μ̂|.

        Args:
            size: |x| of the members, in exact arithmetic, ``[members, …]``.
            own: How much its own sum rounds x.
            fuzz: How far its inputs' errors take x.
            left: |ΣW||r| of the groups, ``[groups, …]``.
            roundoff: Unit roundoff of the network's dtype.

        Returns:
            The bound, ``[groups, …]``.
        """
        tail = (slice(None),) + (None,) * (size.ndim - 1)
        beside = self.beside[tail]
        own = own + (np.diff(self.weight.indptr)[tail] + 3) * roundoff * beside
        sums = 3 * math.log(self.count) + 8
        exact, off = self.member @ (size + beside), self.member @ (own + fuzz)
        partial = self.count / 2 * (1 - 1 / np.diff(self.member.indptr)[tail])
        rounded = (partial + sums) * exact + (self.count + sums) * off
        out: np.ndarray = (self.member @ own + roundoff * rounded + left + self.level[tail]) * (1 + 1e-3)
        return out

    def subtracted(self, totals: np.ndarray) -> np.ndarray:
        """Bound what each unit subtracts, ``[units, …]``, or any of them, ``[1, …]``."""
        out: np.ndarray = abs(self.back) @ totals
        return out.max(axis=0, keepdims=True) if self.joint else out


def _embedded(rows: sp.csr_matrix, at: np.ndarray, width: int) -> sp.csr_matrix:
    entries = rows.tocoo()
    return sp.csr_matrix((entries.data, (entries.row, at[entries.col])), shape=(rows.shape[0], width))
