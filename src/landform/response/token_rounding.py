"""How far a token's loss moves when the norm and the head before it round in another way.

Cross-entropy moves by ⟨r, δ⟩ when logits move by δ, r = p − e_y, and by at most (max δ − min δ)²/8 more. A bound of
|⟨r, δ⟩| is convex in p, and along the ray p stays in a simplex: its corners are the trained p, all of one class (where
v > 0), and p without one class (where v < 0). So numbers at the corners, kept once, bound it for every signal.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

KINDS, SINGLE = 3, 4
"""Columns a corner, and columns a token beside them."""
POINTS = 513
"""Signals at which the bound is computed; between them it is carried on from the nearer one."""


@dataclass(frozen=True)
class TokenRounding:
    """What moves the loss of every token, by corner of its simplex.

    Attributes:
        still: Sup |⟨r, δ⟩| of all that norm and head may round, whatever the order of sums, ``[tokens, corners]``.
        scale: |⟨r, f⟩| of the part f of the logits that 1/σ multiplies.
        shift: |⟨r, ∂f/∂mean⟩|: what a movement of the stream's mean does.
        reach: max_c Σ_k |W_ck|(|G_k|(|x_k| + mean |x|)/σ + |b_k|), ``[tokens]``.
        slope: max_c |∂f_c/∂mean|.
        size: Σ (x − mean)² of the stream before the last norm.
        slip: How far the mean itself may be off.
    """

    still: Float64[Tensor, "tokens corners"]
    scale: Float64[Tensor, "tokens corners"]
    shift: Float64[Tensor, "tokens corners"]
    reach: Float64[Tensor, " tokens"]
    slope: Float64[Tensor, " tokens"]
    size: Float64[Tensor, " tokens"]
    slip: Float64[Tensor, " tokens"]

    @classmethod
    def of_columns(cls, table: Tensor) -> "TokenRounding":
        """Read `columns`."""
        corners = (table.shape[1] - SINGLE) // KINDS
        parts = torch.split(table, [corners] * KINDS + [1] * SINGLE, dim=1)
        return cls(*parts[:KINDS], *(part[:, 0] for part in parts[KINDS:]))

    def columns(self) -> Tensor:
        """Return all of it as one table."""
        singles = [part[:, None] for part in (self.reach, self.slope, self.size, self.slip)]
        return torch.cat([self.still, self.scale, self.shift, *singles], dim=1)


def corners(p: Tensor, classes: list[int], ray: list[float]) -> list[Tensor]:
    """Return the corners of the simplex in which p(s) stays, ``[tokens, outputs]`` each.

    Args:
        p: Trained probabilities.
        classes: The classes that the ray moves.
        ray: v there; one of them is negative at most.

    Returns:
        p, and one corner a class.
    """
    found = [p]
    for number, v in zip(classes, ray, strict=True):
        corner = torch.zeros_like(p)
        if v > 0:
            corner[:, number] = 1.0
        else:
            corner = p.clone()
            corner[:, number] = 0.0
            corner /= corner.sum(1, keepdim=True).clamp(min=torch.finfo(p.dtype).tiny)
        found.append(corner)
    return found


def shares_between(
    p: Float64[Tensor, "tokens classes"],
    gains: Float64[Tensor, " tokens"],
    ray: Float64[Tensor, " classes"],
    s: Float64[Tensor, " points"],
    half: float,
) -> Float64[Tensor, "points tokens corners"]:
    """Bound the barycentric coordinates of p(s') in these corners, for all s' within ``half`` of s.

    p(s) = [e_- p + (1 − e_-)(1 − p_b)(p without b) + p_a(e_+ − 1) e_a]/Z, with e_+ = exp(g s v_a) and e_- = exp(g s
    v_b), v_a > 0 > v_b. The numerators are monotone in s, and Z changes by a factor of exp(g max |v| half) at most.
    """
    low, high = (s - half).clamp(min=0), s + half
    grown = [torch.exp(at[:, None, None] * gains[:, None] * ray) for at in (s, low, high)]
    up = ray > 0
    total = 1 + ((grown[0] - 1) * p).sum(2)
    stays = torch.where(up, torch.ones_like(grown[1]), grown[1]).prod(2)
    moves = torch.where(up, (grown[2] - 1) * p, (1 - grown[2]) * (1 - p))
    slack = torch.exp(half * float(ray.abs().max()) * gains)
    return torch.cat([stays[:, :, None], moves], dim=2) * (slack / total)[:, :, None]
