"""What every engine computes: per-sample terms, or their sums, of a task's quantities at points of a subspace."""

import abc
from dataclasses import dataclass

from jaxtyping import Float64
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Terms:
    """Numerators and denominators of every quantity, sample by sample.

    A quantity (the loss of a head, the accuracy, …) over a set S of samples is Σ_{i∈S} num_i / Σ_{i∈S} den_i. Sample
    weights, class weights and ignored labels are in both already; ``den`` is 1 for a plain mean. Values that are not
    finite are kept.

    Attributes:
        num: Shape ``[points, quantities, samples]``, float64, on the CPU.
        den: Shape ``[quantities, samples]``: denominators depend on the data alone, not on the point.
    """

    num: Float64[Tensor, "points quantities samples"]
    den: Float64[Tensor, "quantities samples"]


@dataclass(frozen=True, eq=False)
class Sums:
    """Sums of `Terms` over a range of samples; the quantity is ``num / den``.

    Attributes:
        num: Shape ``[points, quantities]``, float64, on the CPU.
        den: Shape ``[quantities]``.
    """

    num: Float64[Tensor, "points quantities"]
    den: Float64[Tensor, " quantities"]


class AbstractEngine(abc.ABC):
    """Computes a task's quantities at points of a subspace.

    All engines give the numbers of the plain loop (``task`` at ``subspace.at(h)``, sample by sample) up to float
    rounding; they differ in the work that they share between points. Samples are addressed by their position in the
    engine's own order, a permutation of the data set that is fixed when the engine is built, so that a prefix of it is
    a random sample.

    An engine may hold caches and write into its own copy of the model; it is used by one thread at a time. The caller's
    model is not touched.
    """

    @property
    @abc.abstractmethod
    def quantities(self) -> tuple[str, ...]:
        """Names of the quantities, in the order of the ``quantities`` dimension; the loss (of each head) first."""

    @property
    @abc.abstractmethod
    def n(self) -> int:
        """Number of samples."""

    @property
    def held(self) -> int:
        """Bytes of copies and caches that it holds now, beside the caller's model and data."""
        return 0

    @abc.abstractmethod
    def terms(self, h: Float64[Tensor, "points z"], start: int, stop: int) -> Terms:
        """Compute the terms of samples ``start … stop − 1`` (in the engine's order) at points.

        Args:
            h: Points, shape ``[points, z]``.
            start: First sample.
            stop: One past the last.

        Returns:
            The terms.

        Raises:
            InputError: If the loss gives one number a batch, so that there are no per-sample terms.
        """

    def sums(self, h: Float64[Tensor, "points z"], start: int = 0, stop: int | None = None) -> Sums:
        """Compute sums over a range of samples, all by default; the full evaluation of a point.

        Args:
            h: Points, shape ``[points, z]``.
            start: First sample.
            stop: One past the last; None for all.

        Returns:
            The sums.
        """
        found = self.terms(h, start, self.n if stop is None else stop)
        return Sums(found.num.sum(-1), found.den.sum(-1))
