"""The ask/tell interface between what wants to be known and what computes it."""

import abc
from dataclasses import dataclass

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from landform.scan.engine.base import Sums, Terms


def bring_forward(front: Int64[Tensor, " some"] | None, n: int) -> Int64[Tensor, " n"]:
    """Return the numbers below n with some of them first, and the others in their order.

    Example:
        >>> bring_forward(torch.tensor([3, 1]), 5).tolist()
        [3, 1, 0, 2, 4]
    """
    if front is None:
        return torch.arange(n)
    others = torch.ones(n, dtype=torch.bool)
    others[front] = False
    return torch.cat([front, others.nonzero()[:, 0]])


@dataclass(frozen=True, eq=False)
class Request:
    """A round of work: the same range of samples at many points.

    The runner may cut the points into tiles, compute them anywhere and in any order, and tells the whole round.

    Attributes:
        h: Points, shape ``[points, z]``.
        start: First sample, in the engine's order.
        stop: One past the last.
        per_sample: Whether `Terms` are wanted, or `Sums` will do.
        front: Samples, by their positions in the engine's order as it was built, that come before all others now; the
            others keep their order. None: that order as it is. It changes at most once in a scan.
    """

    h: Float64[Tensor, "points z"]
    start: int
    stop: int
    per_sample: bool
    front: Int64[Tensor, " some"] | None = None

    def samples(self, n: int) -> Int64[Tensor, " samples"]:
        """Return the samples asked for, of n in all, by their positions in the engine's order as it was built.

        Example:
            >>> Request(torch.zeros(1, 2), 1, 4, per_sample=False, front=torch.tensor([5, 2])).samples(6).tolist()
            [2, 0, 1]
        """
        return bring_forward(self.front, n)[self.start : self.stop]

    @property
    def evaluations(self) -> int:
        """Sample evaluations that it costs."""
        return len(self.h) * (self.stop - self.start)


@dataclass(frozen=True, eq=False)
class Estimate:
    """What is known about the quantities at the points of a scan.

    Attributes:
        value: Shape ``[points, quantities]``; NaN where nothing was computed.
        stderr: Standard error of each, 0 where all samples were used, NaN where none is claimed.
        samples: Samples used at each point, ``[points]``; 0 where the value is interpolated or missing.
        critical: Factor per quantity with which ``value ± critical·stderr`` holds at all points at once at the
            confidence asked for; NaN where no interval is claimed.
        level: Level of refinement of each point, ``[points]``; 0 for a plain grid.
        notes: Numbers and words to be recorded with the surface (truncation estimate, check points, …).
        lower: Lower ends ``[points, quantities]`` of intervals that are not all multiples of standard errors; NaN where
            none is claimed. None: value ∓ critical·stderr.
        upper: Upper ends.
    """

    value: Float64[Tensor, "points quantities"]
    stderr: Float64[Tensor, "points quantities"]
    samples: Int64[Tensor, " points"]
    critical: Float64[Tensor, " quantities"]
    level: Int64[Tensor, " points"]
    notes: dict[str, object]
    lower: Float64[Tensor, "points quantities"] | None = None
    upper: Float64[Tensor, "points quantities"] | None = None

    def ends(self) -> tuple[Float64[Tensor, "points quantities"], Float64[Tensor, "points quantities"]]:
        """Return lower and upper ends of the intervals; NaN where none is claimed.

        Example:
            >>> one, two = torch.ones(1, 1).double(), torch.tensor([2])
            >>> found = Estimate(one, 0.1 * one, two, torch.tensor([2.0]).double(), two, {})
            >>> [round(float(end), 3) for end in found.ends()]
            [0.8, 1.2]
        """
        if self.lower is not None and self.upper is not None:
            return self.lower, self.upper
        half = torch.where(self.stderr == 0, 0.0, self.critical * self.stderr)
        return self.value - half, self.value + half


class AbstractSampler(abc.ABC):
    """Decides what to evaluate. Deterministic: the same answers give the same questions, so a run can be replayed.

    `ask` gives the same round again until it is told, and samplers know nothing of models: points and numbers only.
    """

    @abc.abstractmethod
    def ask(self) -> Request | None:
        """Return the next round, or None when done."""

    @abc.abstractmethod
    def tell(self, request: Request, found: Terms | Sums) -> None:
        """Take the answer to the round last asked for."""

    def tell_part(  # noqa: B027 - a sampler may leave it out
        self, rows: Int64[Tensor, " rows"], found: Terms | Sums | None
    ) -> None:
        """Take the answers to some points of the round last asked for, when a run ends before the round is complete.

        A run that is interrupted between rounds tells no rows, so that rounds which belong together can be made use of.
        After this only `estimate` is of use: it makes what it can of them. By default nothing.

        Args:
            rows: Which points of ``request.h`` were computed; there may be none.
            found: Their answers, in the order of ``rows``; None without any.
        """

    @abc.abstractmethod
    def estimate(self) -> Estimate:
        """Return what is known now; usable at any moment, also after an interruption."""

    @property
    @abc.abstractmethod
    def uncertainty(self) -> float:
        """Half-width of the widest interval now, as a fraction of the robust range, for the progress bar; NaN early."""

    @property
    @abc.abstractmethod
    def expected(self) -> int:
        """Sample evaluations that this scan is expected to take in all, as known now, for the time left."""
