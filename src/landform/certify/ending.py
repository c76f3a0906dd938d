"""What a softmax behind a head rounds, in units of the loss.

The proof follows a network to the logits z of its heads. Behind a head that ends in a softmax the loss gets p or log p,
computed in the network's dtype. With Z = max|z_c| over the box and C classes every log p_c is off by at most

    E = u·(8·(2Z + log C) + C + 16),

u the unit roundoff: z_c − max z and the last difference round by less than 2u(2Z + log C) each, the exponentials are
off by a few ulp and by what their arguments are, the sum of C of them rounds C − 1 times in any order, the logarithm
and the quotient a few times. That holds while no exponential underflows, 2Z + log C ≤ 80 (700 in float64).

The loss −Σ_c a_c·log p_c/… is then off by at most A·E, A = Σ a_c, and twice that where it takes logarithms for logits.
"""

import math
from dataclasses import replace

import torch

from landform.certify.proof_error import ProofError
from landform.certify.prove import Parts
from landform.response import AbstractResponse

REACH = {2.0**-24: 80.0, 2.0**-53: 700.0}
"""How far below the largest an exponential may be, by unit roundoff: then it is a normal number."""


def behind(parts: Parts, end: str, response: AbstractResponse, bounds: tuple[float, float], roundoff: float) -> Parts:
    """Return the parts of a bound with what the end of a head rounds.

    Args:
        parts: For the logits.
        end: ``"softmax"``, ``"log_softmax"``, or ``""``, which rounds nothing.
        response: The cross-entropy of the logits.
        bounds: (lo, hi) of the range.
        roundoff: Unit roundoff of the network's dtype.

    Returns:
        The parts.

    Raises:
        ProofError: If probabilities may underflow.

    Example:
        >>> from landform.response import respond
        >>> response = respond("cross_entropy", torch.tensor([0, 1]))
        >>> found = behind(Parts(0.0, 0.0, 0.0), "softmax", response, (0.8, 1.8), 2.0**-24)
        >>> 2e-6 < found.rounding < 2e-5
        True
    """
    if not end or not math.isfinite(parts.total):
        return parts
    classes = response.n_outputs
    spread = 2 * largest_logit(response, bounds[1] + parts.total) + math.log(classes)
    if spread > REACH[roundoff]:
        raise ProofError(
            f"logits differ by up to {spread:.3g}, so that probabilities may underflow behind the {end}; a smaller"
            " range needs smaller ones, or take the softmax off"
        )
    each = roundoff * (8 * spread + classes + 16)
    each *= 1 + 2 * each
    return replace(parts, rounding=parts.rounding + 2 * float(response.statistics().sum()) * each)


def largest_logit(response: AbstractResponse, top: float) -> float:
    """Bound |z_c| where the loss along the ray is at most ``top``; where that is so is an interval, as it is convex.

    Raises:
        ProofError: If the loss does not come above ``top`` on one side.
    """
    top += 1e-3  # logits as stored may be off by a rounding
    ends = [float(response.inverse(torch.tensor([top], dtype=torch.float64)))]
    for step in (1.0, 4.0, 16.0, 64.0, 256.0):
        if float(response.along(torch.tensor([-step], dtype=torch.float64))) > top:
            ends.append(step)
            break
    else:
        raise ProofError("the loss does not rise on the other side of its ray, so logits are not bounded")
    return float(response.best.abs().max()) + max(ends) + 1e-3
