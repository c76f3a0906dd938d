"""Choose the knots of ψ: a fine table of ρ, and greedy steps over it."""

import math
from bisect import bisect_right
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from landform.response.base import AbstractResponse

_FINE = 48
"""Table points per knot: a greedy step then falls short of the best one by at most 1/48 of its length."""
_MOST = 400_000


@dataclass(frozen=True)
class KnotTable:
    """Points of ρ dense enough to choose knots among.

    Attributes:
        s: Signals, ascending.
        rise: ρ(s) − ρ(s_0).
        slope: Right derivatives, ascending where ρ is convex.
        stops: Indices into s that must be knots, the last point among them.
        convex: Whether ρ is known to be convex.
        max_units: Most knots to try.
    """

    s: list[float]
    rise: list[float]
    slope: list[float]
    stops: list[int]
    convex: bool
    max_units: int

    @classmethod
    def build(
        cls,
        response: AbstractResponse,
        ends: Float64[Tensor, " stops"],
        *,
        allowed: float,
        units: int | None,
        max_units: int,
    ) -> "KnotTable":
        """Tabulate ρ between the first and the last of ends, densely where it bends: equal steps of ∫ √ρ''.

        Args:
            response: Gives ρ.
            ends: Signals that must be knots, ascending.
            allowed: The gap aimed at, in loss units; it says how many knots to expect.
            units: How many knots will be asked for, if that is fixed.
            max_units: Most knots that will be used.

        Returns:
            The table.

        Example:
            >>> from landform.response import respond
            >>> ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
            >>> table = KnotTable.build(respond("mse", ends), ends, allowed=0.01, units=None, max_units=9)
            >>> len(table.choose(0.03))  # ρ'' = 2: intervals of √(4·0.03) = 0.35
            4
        """
        low, high = float(ends[0]), float(ends[-1])
        kinks = response.kinks()
        kinks = kinks[(kinks > low) & (kinks < high)]
        kinks = kinks if len(kinks) <= 4 * max_units else kinks[:0]
        even = torch.linspace(0.0, 1.0, 2049, dtype=torch.float64)
        levels = response.along(ends[[0, -1]])
        rough = response.inverse((levels[0] + (levels[1] - levels[0]) * even[1:-1]).clamp(min=response.lowest))
        coarse = torch.unique(torch.cat([low + (high - low) * even, rough.clamp(low, high)]))
        bend = (response.slope(coarse).diff().abs() * coarse.diff()).clamp(min=0.0).sqrt()
        total = torch.cat([bend.new_zeros(1), bend.cumsum(0)]).numpy()
        expected = math.ceil(total[-1] / math.sqrt(8.0 * allowed)) if units is None else units
        count = min(_MOST, max(4096, _FINE * min(expected, 2 * max_units) + 2))
        fine = np.interp(np.linspace(0.0, total[-1], count), total, coarse.numpy()) if total[-1] > 0 else coarse
        s = torch.unique(torch.cat([torch.as_tensor(fine, dtype=torch.float64), kinks, coarse, ends])).clamp(low, high)
        s = torch.unique(s)
        rise = (response.along(s) - response.along(s[:1])).cummax(0).values
        slope = response.slope(s)
        if response.convex:
            slope = slope.cummax(0).values
        stops = torch.unique(torch.searchsorted(s, ends.contiguous()))[1:]
        return cls(s.tolist(), rise.tolist(), slope.tolist(), stops.tolist(), response.convex, max_units)

    def choose(self, gap: float) -> Float64[Tensor, " knots"] | None:
        """Return the fewest knots within a gap, evened out, or None if they are more than `max_units`.

        Args:
            gap: Largest allowed chord gap, in loss units.

        Returns:
            Signals, the first and last of the table among them.
        """
        chosen = self._walk(gap, self.max_units)
        return None if chosen is None else self._even(chosen, gap)

    def choose_units(self, units: int) -> Float64[Tensor, " knots"] | None:
        """Return at most this many knots with the least gap, or None if that is not possible.

        Args:
            units: Number of knots after the first point.

        Returns:
            Signals, the first and last of the table among them.
        """
        gap = self.rise[-1] or 1.0
        chosen = self._walk(2.0 * gap, units)
        if chosen is None:
            return None
        # a first guess by halving: the gap falls like units⁻²
        while gap > 1e-18 * (self.rise[-1] or 1.0) and (better := self._walk(0.25 * gap, units)) is not None:
            chosen, gap = better, 0.25 * gap
        return self._even(chosen, gap, units)

    def _even(self, chosen: list[int], gap: float, units: int | None = None) -> Tensor:
        """Lower the gap as far as the number of knots allows: bisection in its logarithm."""
        units = len(chosen) - 1 if units is None else units
        exact = self._walk(0.0, units)
        if exact is not None:
            return self._signals(exact)
        low, high = gap / 16.0, gap
        for _ in range(8):  # the gap is then within 1 % of the least
            middle = math.sqrt(low * high)
            better = self._walk(middle, units)
            if better is None:
                low = middle
            else:
                chosen, high = better, middle
        return self._signals(chosen)

    def _signals(self, chosen: list[int]) -> Tensor:
        return torch.tensor([self.s[i] for i in chosen], dtype=torch.float64)

    def _walk(self, gap: float, most: int) -> list[int] | None:
        """Take the longest step within the gap again and again; None if that takes more than `most` steps."""
        # differences of ρ carry this much rounding
        gap = max(gap, 4e-16 * (1.0 + self.rise[-1]))
        path, step = [0], 1
        for stop in self.stops:
            while path[-1] < stop:
                if len(path) > most:
                    return None
                here = path[-1]
                good, bad = here + 1, stop + 1
                probe = min(here + step, stop)
                while good < bad - 1:
                    if self._gap(here, probe) <= gap:
                        good = probe
                        probe = min(here + 2 * (probe - here), stop) if bad > stop else (good + bad) // 2
                        if good == stop:
                            break
                    else:
                        bad = probe
                        probe = (good + bad) // 2
                path.append(good)
                step = max(1, good - here)
        return path

    def _gap(self, i: int, j: int) -> float:
        if j <= i + 1:
            return 0.0
        s, rise = self.s, self.rise
        kappa = (rise[j] - rise[i]) / (s[j] - s[i])
        if self.convex:
            # the first point whose right derivative exceeds the chord's slope, and its neighbours
            k = min(max(bisect_right(self.slope, kappa, i, j), i + 1), j)
            return max(rise[i] + kappa * (s[n] - s[i]) - rise[n] for n in (k - 1, k))
        inside = range(i + 1, j, max(1, (j - i) // 64))
        return max(abs(rise[i] + kappa * (s[n] - s[i]) - rise[n]) for n in inside)
