"""How far a dot product may be rounded, in any order of summation.

Of k non-zero terms, fused or not: the last addition errs by at most u·|result|, each of the k − 2 before it by u·P,
where P = max(sum of positive terms, sum of negative terms) bounds every partial sum; a product by a power of two is
exact, any other errs by u·|w·x|; adding an exact zero is exact. The verifier's own float64 arithmetic is bounded by the
same rule, more coarsely.
"""

import numpy as np

U64 = 2.0**-53
SLACK = 1.01  # second-order terms: k·u < 0.001 for every k that occurs
CARRIED = 1 + 2.0**-9  # the same, for what only passes through a sum: registers pass dozens


def rounding(
    pre: np.ndarray,
    partial: np.ndarray,
    carried: np.ndarray,
    products: np.ndarray | float,
    terms: np.ndarray,
    roundoff: float,
) -> np.ndarray:
    """Bound the error of dot products (see the module's text).

    Args:
        pre: Values.
        partial: Bounds of every partial sum.
        carried: |W|·(error of the inputs).
        products: Sum of the magnitudes that round once more: inexact products, normalisation.
        terms: Number of non-zero terms.
        roundoff: Unit roundoff of the network's dtype.

    Returns:
        The bound, with the verifier's own rounding.
    """
    partial = partial + carried
    own = (terms >= 2) * np.abs(pre) + np.maximum(terms - 2, 0) * partial + products
    underflow = (2.0**-148 if roundoff > 2.0**-30 else 2.0**-1073) * (terms + 1) * (partial > 0)
    bound: np.ndarray = SLACK * (roundoff * own + U64 * (terms + 3) * partial + carried) + underflow
    return bound
