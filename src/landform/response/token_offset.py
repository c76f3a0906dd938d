"""Theorem 2, offset, token by token: a language model's loss as a function of how far its logits are moved.

A signal that enters a residual stream reaches the head through the last norm, which divides it by each token's own σ_i.
So the logits of token i are f_i + g_i·s·v with gains g_i that are known, and the loss is

    ρ(s) = Σ_i w_i ℓ(f_i + g_i s v, y_i) / Σ_i w_i,

which is convex in s whatever the gains. What makes s = 0 its least value is one condition on v: it must be orthogonal
to the *gain-weighted* mean residual r = Σ_i w_i g_i (softmax(f_i) − y_i), for ρ'(0) = ⟨v, r⟩. Two entries of v that
are not zero suffice for that, and then a token costs two exponentials, however large the vocabulary.
"""

from collections.abc import Mapping, Sequence
from typing import Any, final

import numpy as np
import torch
from jaxtyping import Float64, Int64
from torch import Tensor, nn

from landform.errors import DataError, InputError
from landform.response.sampled import AbstractSampledResponse
from landform.response.token_rounding import KINDS, POINTS, SINGLE, TokenRounding, shares_between

_CHUNK = 1 << 18
FIXED = 4
"""Columns of the statistics before the probabilities: weight, gain, loss, which moved class is the label."""
CANDIDATES = 16
"""Classes tried beside the first, those of largest mean residual."""
RISES = 1e-3
"""Least curvature ρ''(0), relative to Σ w g², with which two entries count as a ray along which the loss rises."""


@final
class TokenOffsetResponse(AbstractSampledResponse):
    """ρ(s) = 1/W Σ_i w_i [ℓ_i + log(1 + Σ_k p_ik (exp(g_i s v_k) − 1)) − g_i s v_(y_i)], k over the moved classes.

    p here is the signal s alone (one output). The statistics are one row a token that counts: its weight w_i, its gain
    g_i, its trained loss ℓ_i, the position of its label among the moved classes (−1: none), the trained probabilities
    p_ik of these classes, and, where something is to be proved, what rounding behind the trained blocks may do to its
    loss (`landform.response.token_rounding`).

    Args:
        statistics: As above.
        classes: The classes that the ray moves.
        ray: v there.
        outputs: Size of the vocabulary.
        about: Numbers of the trained network on these data that a certificate needs: ``least`` and ``largest``, of Σ
            (x − mean)² in a token's stream; ``mean``, the largest |mean x|.
    """

    def __init__(
        self,
        statistics: np.ndarray,
        *,
        classes: list[int],
        ray: list[float],
        outputs: int,
        about: Mapping[str, float] | None = None,
    ) -> None:
        table = torch.from_numpy(np.array(statistics, dtype=np.float64))
        known = FIXED + len(ray)
        more = KINDS * (1 + len(ray)) + SINGLE
        if len(classes) != len(ray) or table.shape[1] not in (known, known + more) or not 0 < len(ray) <= outputs:
            raise InputError(
                f"a token response has {FIXED} numbers and one a moved class in each row, and {more} with rounding"
                f" beside them; got rows of {table.shape[1]} for classes {classes} of {outputs} and a ray of {len(ray)}"
            )
        self.outputs, self.classes = outputs, list(classes)
        self.about = dict(about or {})
        self.v = torch.zeros(outputs, dtype=torch.float64)
        self.v[self.classes] = torch.tensor(ray, dtype=torch.float64)
        self.share = table[:, 0] / table[:, 0].sum()
        self.gains = table[:, 1]
        self.losses = table[:, 2]
        self.probabilities = table[:, FIXED:known]
        self.entries = list(ray)
        self.rounding = TokenRounding.of_columns(table[:, known:]) if table.shape[1] > known else None
        self._along = torch.tensor(ray, dtype=torch.float64)
        self._own = own = table[:, 3].long()
        self._lead = torch.where(own >= 0, self._along[own.clamp(min=0)], 0.0)
        super().__init__(
            name="token_offset",
            unit="nat",
            floor_name="trained loss",
            statistics=statistics,
            options={"classes": list(classes), "ray": list(ray), "outputs": outputs, "about": self.about},
            best=torch.zeros(1, dtype=torch.float64),
            output=0,
            floor=float(self.share @ self.losses),
            assumptions=(
                "the trained blocks hand the last norm the numbers they did when the imprint was made, bit for bit",
            ),
        )

    @classmethod
    def build(
        cls,
        logits: Float64[Tensor, "tokens outputs"],
        labels: Int64[Tensor, " tokens"],
        gains: Float64[Tensor, " tokens"],
        weights: Float64[Tensor, " tokens"] | None = None,
        *,
        dtype: torch.dtype = torch.float64,
        about: Mapping[str, float] | None = None,
    ) -> "TokenOffsetResponse":
        """Choose v and build the response.

        v is 1 at one class a and t at another b with r_a + t·r_b = 0, so ρ'(0) = 0. Of the classes whose logit alone
        bends the loss most (a: Σ w g² p(1 − p)) and those with the largest residuals (b) it is the pair with |t| ≤ 1 of
        largest curvature: the least signal, the fewest knots. Where no pair makes the loss rise (two classes: only
        their difference matters) v is one-hot, with the sign that makes ρ'(0) ≥ 0.

        Args:
            logits: f_i.
            labels: y_i.
            gains: g_i > 0.
            weights: w_i > 0; None: 1.
            dtype: Of the network: t is rounded to it, towards ρ'(0) ≥ 0.
            about: See the class.

        Returns:
            The response.

        Raises:
            DataError: Labels and logits that do not fit, or no tokens.
        """
        logits = logits.double()
        _check(logits, labels)
        weights = torch.ones(len(labels), dtype=torch.float64) if weights is None else weights.double()
        share, gains = weights / weights.sum(), gains.double()
        p = logits.softmax(dim=1)
        weighted = share * gains
        residual = weighted @ p - torch.zeros(p.shape[1], dtype=torch.float64).index_add_(0, labels, weighted)
        bends = (share * gains.square()) @ (p * (1 - p))
        classes, ray = _pair(residual, bends, lambda v, at: _curvature(p[:, at], v, share * gains.square()), dtype)
        rows = _rows(logits, labels, gains, weights, classes)
        return cls(rows, classes=classes, ray=ray, outputs=p.shape[1], about=about)

    @classmethod
    def from_state(cls, config: Mapping[str, Any], statistics: np.ndarray) -> "TokenOffsetResponse":
        """Rebuild from `config` and `statistics`.

        Args:
            config: What `config` returned.
            statistics: What `statistics` returned.

        Returns:
            An equal response.
        """
        options = config["options"]
        if not {"classes", "ray", "outputs"} <= set(options) or not isinstance(options["ray"], list):
            raise InputError(f"a token response needs classes, ray and outputs, got {sorted(options)}")
        return cls(statistics, **options)

    def on(
        self,
        logits: Float64[Tensor, "tokens outputs"],
        labels: Int64[Tensor, " tokens"],
        gains: Float64[Tensor, " tokens"],
        weights: Float64[Tensor, " tokens"] | None = None,
    ) -> "TokenOffsetResponse":
        """Return ρ̃ of other data: the same ray, their own logits, labels and gains; ρ̃'(0) may be negative.

        Args:
            logits: The same network's logits there.
            labels: Its labels.
            gains: Its gains.
            weights: One weight a token.

        Returns:
            Its response.
        """
        logits = logits.double()
        _check(logits, labels)
        weights = torch.ones(len(labels), dtype=torch.float64) if weights is None else weights.double()
        rows = _rows(logits, labels, gains.double(), weights, self.classes)
        return TokenOffsetResponse(rows, classes=self.classes, ray=self._along.tolist(), outputs=self.outputs)

    def with_rounding(self, rounding: TokenRounding) -> "TokenOffsetResponse":
        """Return the same response, with what rounding may do to each token's loss."""
        known = self.statistics()[:, : FIXED + len(self.entries)]
        rows = np.concatenate([known, rounding.columns().numpy()], axis=1)
        return TokenOffsetResponse(rows, classes=self.classes, ray=self.entries, outputs=self.outputs, about=self.about)

    def sample_losses(self, s: Float64[Tensor, " points"]) -> Float64[Tensor, "points tokens"]:
        """Return every token's loss at signals s: ℓ(f_i + g_i·s·v, y_i)."""
        return self.losses + self._risen(s)

    def _risen(self, s: Tensor) -> Tensor:
        """Return every token's rise, ``[points, tokens]``."""
        moved = s[:, None] * self.gains
        total = torch.zeros_like(moved)
        for p, v in zip(self.probabilities.T, self._along, strict=True):
            total += p * torch.expm1(moved * v)
        return torch.log1p(total) - moved * self._lead

    def steepness(self, s: Float64[Tensor, " points"]) -> Float64[Tensor, " segments"]:
        """Return Σ_i w_i |ℓ_i'| / W at most between neighbouring signals, one number a segment.

        What single tokens' signals are off by moves the loss by no more than that, whatever the signs;
        ℓ_i' is monotone.
        """
        found = []
        for part in torch.split(torch.arange(len(s) - 1), self._at_once):
            ends = self._slopes(s[int(part[0]) : int(part[-1]) + 2]).abs()
            found.append(torch.maximum(ends[:-1], ends[1:]) @ self.share)
        return torch.cat(found)

    @property
    def bend(self) -> float:
        """Bound of Σ_i w_i g_i² (max v − min v)²/4 / W: an error δ of the signal adds up to δ² times that."""
        spread = max(0.0, *self.entries) - min(0.0, *self.entries)
        return float(self.share @ self.gains.square() * spread**2 / 4)

    def moved_by(
        self,
        top: float,
        *,
        factor: Float64[Tensor, " tokens"],
        shift: float,
        ends: Float64[Tensor, " tokens"],
        roundoff: float,
    ) -> float:
        """Bound how far rounding in the last norm and the head, and what these feel of registers, move the mean loss.

        Args:
            top: Greatest signal.
            factor: What a token's 1/σ may change by, relatively.
            shift: What the mean of the stream may change by.
            ends: How large the two terms of the head's sums that carry the signal are at s = 0, together.
            roundoff: γ of these sums.

        Returns:
            The bound.

        Raises:
            InputError: The response does not know what rounds.

        Cost:
            `POINTS` evaluations of all tokens.
        """
        known = self.rounding
        if known is None:
            raise InputError("the response does not say what the trained network may round; make the imprint again")
        if sum(v < 0 for v in self.entries) > 1:
            raise InputError("more than one class is moved downwards, which the bound of rounding does not cover")
        still = known.still + factor[:, None] * known.scale + shift * known.shift
        grid = torch.linspace(0.0, max(top, 1e-9), POINTS, dtype=torch.float64)
        half = 0.5000001 * float(grid[1])
        found = []
        for part in torch.split(grid, max(1, self._at_once // (1 + len(self.entries)))):
            moved = (shares_between(self.probabilities, self.gains, self._along, part, half) * still).sum(2)
            signal = (part[:, None] + half) * self.gains + ends
            moved = moved + roundoff * signal * self._weights(part, half)
            found.append(moved @ self.share)
        largest = roundoff * (known.reach + (top * self.gains + ends) * float(self._along.abs().max()))
        largest = largest + factor * known.reach + (shift + known.slip) * known.slope
        return float(torch.cat(found).max() + self.share @ (2 * largest).square()) * (1 + 1e-12)

    def _weights(self, s: Tensor, half: float) -> Tensor:
        """Bound Σ_k |p_k(s) − [k is the label]||v_k| within ``half`` of s, ``[points, tokens]``."""
        grown = self.probabilities * torch.exp(s[:, None, None] * self.gains[:, None] * self._along)
        p = grown / (1 + (grown - self.probabilities).sum(2, keepdim=True))
        own = nn.functional.one_hot(self._own.clamp(min=0), len(self.entries)) * (self._own >= 0)[:, None]
        spread = max(0.0, *self.entries) - min(0.0, *self.entries)
        # p_k' = p_k(1 − p_k)·g·(a difference of entries of v)
        apart = (p - own).abs() + half * spread / 4 * self.gains[:, None]
        found: Tensor = apart @ self._along.abs()
        return found

    def _slopes(self, s: Tensor) -> Tensor:
        """Return every token's ℓ_i', ``[points, tokens]``."""
        moved = s[:, None] * self.gains
        above, below = torch.zeros_like(moved), torch.ones_like(moved)
        for p, v in zip(self.probabilities.T, self._along, strict=True):
            grown = p * torch.exp(moved * v)
            above += v * grown
            below += grown - p
        return (above / below - self._lead) * self.gains

    @property
    def _at_once(self) -> int:
        return max(1, _CHUNK // len(self.share))

    def _rise_of(self, s: Tensor) -> Tensor:
        return self._risen(s) @ self.share

    def _slope_of(self, s: Tensor) -> Tensor:
        return self._slopes(s) @ self.share


def _check(logits: Tensor, labels: Tensor) -> None:
    if logits.ndim != 2 or len(logits) != len(labels) or not len(labels):
        raise DataError(
            f"logits of shape {list(logits.shape)} and labels of shape {list(labels.shape)}; wanted one row of logits"
            " for each label that counts, and at least one"
        )
    if int(labels.min()) < 0 or int(labels.max()) >= logits.shape[1]:
        raise DataError(f"labels run from {int(labels.min())} to {int(labels.max())} for {logits.shape[1]} outputs")


def _rows(logits: Tensor, labels: Tensor, gains: Tensor, weights: Tensor, classes: Sequence[int]) -> np.ndarray:
    """Return the statistics."""
    logs = logits.log_softmax(dim=1)
    losses = -logs.gather(1, labels[:, None])[:, 0]
    own = torch.full((len(labels),), -1.0, dtype=torch.float64)
    for position, number in enumerate(classes):
        own[labels == number] = position
    columns = [weights[:, None], gains[:, None], losses[:, None], own[:, None], logs[:, list(classes)].exp()]
    found: np.ndarray = torch.cat(columns, dim=1).numpy()
    return found


def _curvature(p: Tensor, v: Tensor, weights: Tensor) -> float:
    """Return Σ w g² Var_p(v), ρ''(0)."""
    return float(weights @ (p @ v.square() - (p @ v).square()))


def _pair(residual: Tensor, bends: Tensor, curvature: Any, dtype: torch.dtype) -> tuple[list[int], list[float]]:
    """Return two classes and v there, or one where no pair makes the loss rise."""
    first = bends.argsort(descending=True)[: CANDIDATES // 2].tolist()
    second = residual.abs().argsort(descending=True)[:CANDIDATES].tolist()
    best, found = 0.0, None
    for a in first:
        for b in second:
            if a == b or not residual[b].abs() > 0 or not residual[a].abs() <= residual[b].abs():
                continue
            t = _rounded(-float(residual[a] / residual[b]), float(residual[a]), float(residual[b]), dtype)
            bend = curvature(torch.tensor([1.0, t], dtype=torch.float64), [a, b])
            if bend > best:
                best, found = bend, ([a, b], [1.0, t])
    top = first[0]
    if found is None or best < RISES * float(bends[top]) or len(residual) < 3:
        return [top], [1.0 if float(residual[top]) >= 0 else -1.0]
    return found


def _rounded(t: float, a: float, b: float, dtype: torch.dtype) -> float:
    """Round t so that a + t·b ≥ 0 with 1 and t as the network stores them."""
    value = torch.tensor(t, dtype=dtype)
    towards = torch.tensor(float("inf") if b > 0 else float("-inf"), dtype=dtype)
    for _ in range(4):
        if a + float(value) * b >= 0:
            break
        value = torch.nextafter(value, towards)
    return float(value)
