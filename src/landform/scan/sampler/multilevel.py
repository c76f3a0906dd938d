"""A surface from few samples: surpluses over a hierarchy of nodes, each on as many samples as its variance asks for."""

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from landform.errors import InputError
from landform.scan.engine.base import Sums, Terms
from landform.scan.sampler.base import AbstractSampler, Estimate, Request
from landform.scan.sampler.checks import check_common, check_shape, parse_tolerance
from landform.scan.sampler.course import Course, Part
from landform.scan.sampler.hierarchy import build_hierarchy
from landform.scan.sampler.ledger import Ledger
from landform.scan.sampler.multipliers import ladder
from landform.scan.sampler.planner import Planner, level_counts, planned_critical

LEAST = 32
"""Smallest number of samples a node: surpluses have heavy tails, and fewer do not even show them."""

MINIMUM_LEVEL = {1: 5, 2: 4, 3: 3}
"""Levels that are always evaluated: 33 nodes on a line, 17×17, 9×9×9; 3 in more dimensions."""


class Multilevel(AbstractSampler):
    r"""Evaluates coarse nodes on all samples, finer ones on few, the finest not at all.

    Nodes come in levels (`landform.scan.sampler.hierarchy`); a node v is interpolated from coarser parents p with
    weights w_p, two halves on a dyadic grid. With ℓ_{v,i} the loss of sample i at v, its value is built up from

        value(v) = (1/n_v) Σ_{i<n_v} s_{v,i} + Σ_p w_p·value(p),      s_{v,i} = ℓ_{v,i} − Σ_p w_p·ℓ_{p,i}

    over the first n_v samples of one random order, n_v ≤ n_p. It is unbiased for every choice of n. The per-sample
    surpluses s are small where the surface is smooth, and their spread falls about 3.5 times a level, so that the
    samples needed fall twelve times while nodes become four times as many. Nodes with n_v = N have no sampling error.

    *How many samples.* Each level first gets a pilot: half of what the variances one level up let expect, at least 32.
    From the pilot's variances, those of neighbours included, all n_v of a level are decided once; nothing is stopped
    because of what values look like. What a level may add to the variance of a *value* follows multilevel Monte Carlo:
    in proportion to √(Σ_v σ_v²) over the levels to come.

    *Errors.* Values are linear in the samples, so a bootstrap with the same random multipliers at all nodes carries
    every correlation of nested prefixes and inherited errors; the multipliers have the covariances of sampling from a
    finite set exactly (`landform.scan.sampler.multipliers`). The critical value is the quantile of the largest
    |error|/stderr of all evaluated nodes. Since means of few heavy-tailed numbers are not normal, variances from up to
    512 samples are raised to 1.5 times those of neighbours, here and one level up, and no interval is narrower than a
    fifth of the tolerance. What the samples of a pilot lack of the variance one level up is taken to fall fourfold a
    level only, as at a kink.

    *Few heavy samples.* The coarse levels show every sample. Those that make up so much of the surpluses there that it
    is cheaper to take them always (`landform.scan.sampler.apart`) are evaluated at every node, and prefixes are of the
    others: value(v) = (Σ_heavy s + N_rest·mean of the prefix)/N + Σ_p w_p·value(p). The choice depends on the data
    alone, so values stay unbiased and intervals hold. ``samples_apart`` in the notes says how many there are.

    *Refinement.* All nodes of the coarse levels are evaluated; finer ones only where the surpluses nearby, continued
    with their measured decay, exceed a quarter of the tolerance. The others are interpolated and have no interval: what
    interpolation costs is an *estimate* (``loss_truncation`` in the notes). Random points, evaluated on all samples at
    the end, add a statement that needs no assumption: with confidence 1 − α at most the part ``loss_volume_beyond`` of
    the volume differs from the surface by more than the tolerance.

    *The promise.* A node whose interval is wider than the tolerance in the end, since rare samples showed up late, is
    evaluated on all samples. So with the target ``"data"`` no interval of a loss is wider than the tolerance. Towards
    the population even all samples may not be enough: ``loss_reached`` is then False.

    The notes have ``loss_tolerance``, ``loss_half_width`` (of the widest interval), ``loss_reached`` (whether it is
    within the tolerance, and all that was planned was done), ``loss_truncation``, ``loss_decay``
    (of surpluses, a level), ``loss_check_points``, ``loss_check_outside``, ``loss_check_largest`` (difference),
    ``loss_volume_beyond``, and the same for other quantities; ``level_nodes`` and ``level_evaluated``.

    A node that is not finite is recorded so, its children are evaluated directly on all samples.

    Args:
        h: Nodes of an evenly spaced grid in C order, shape ``[nodes, z]``.
        shape: Nodes along each axis that varies.
        n: Samples in the data set.
        quantities: Names; those that are ``"loss"`` or begin with ``"loss:"`` come first and steer, the others get the
            samples that come, and intervals of their own.
        tolerance: Error allowed at all nodes at once: a fraction of the robust range (1–99 % quantiles over the area),
            or ``("absolute", x)`` in loss units.
        confidence: Simultaneous confidence of the intervals, 0.99 by default.
        target: ``"data"``, the loss over this data set, or ``"population"``; then coarse nodes have errors too.
        check: Number of random points to evaluate in full; by default as many as add a tenth of the work, 4 to 64.
        minimum_level: Level up to which no node is left out; 4 on a plane (17×17) by default.
        least: Smallest number of samples a node.
        seed: Seed of multipliers and check points.

    Raises:
        InputError: If shape and nodes do not fit, or the tolerance is not positive (`FullGrid` is for 0).
        UnknownNameError: For another target or kind of tolerance.

    Cost:
        Of its own, 4 kB a node for the draws of errors (1,000 of them) and 4 bytes per sample evaluated, for nodes
        that have children; for 257×257 some 0.4 s, or 1.5 s and 0.5 GB if no node is left out.

    References:
        M. B. Giles, *Multilevel Monte Carlo methods*, Acta Numerica 24 (2015); H. Yserentant, *On the multi-level
        splitting of finite element spaces*, Numer. Math. 49 (1986); V. Chernozhukov, D. Chetverikov, K. Kato, *Gaussian
        approximations and multiplier bootstrap for maxima of sums of high-dimensional random vectors*, Ann. Statist. 41
        (2013).

    Example:
        A loss that is affine in h has no surpluses: the least number of samples does on the finer levels.

        >>> h = torch.linspace(0, 1, 65).double()[:, None]
        >>> sampler = Multilevel(h, (65,), 1000, ("loss",), tolerance=0.01)
        >>> offset = torch.arange(1000).double() / 1000
        >>> while (request := sampler.ask()) is not None:
        ...     num = (request.h + offset[request.start : request.stop])[:, None]
        ...     sampler.tell(request, Terms(num, torch.ones(1, num.shape[-1]).double()))
        >>> found = sampler.estimate()
        >>> torch.allclose(found.value[:, 0], h[:, 0] + offset.mean())
        True
        >>> found.notes["evaluations"] < 40
        True
    """

    def __init__(
        self,
        h: Float64[Tensor, "nodes z"],
        shape: Sequence[int],
        n: int,
        quantities: Sequence[str],
        *,
        tolerance: float | tuple[str, float],
        confidence: float = 0.99,
        target: Literal["data", "population"] = "data",
        check: int | None = None,
        minimum_level: int | None = None,
        least: int = LEAST,
        seed: int = 0,
    ) -> None:
        check_common(h, n, quantities, confidence, target)
        check_shape(h, shape)
        relative, number = parse_tolerance(tolerance)
        self._n, self._names, self._confidence, self._target = n, tuple(quantities), confidence, target
        self._tree = build_hierarchy(shape)
        self._steering = max(1, sum(name == "loss" or name.startswith("loss:") for name in self._names))
        self._books = Ledger(
            self._tree,
            ladder(n, least),
            len(self._names),
            self._steering,
            target,
            tolerance=number,
            relative=relative,
            critical=planned_critical(confidence),
            seed=seed,
        )
        floor = MINIMUM_LEVEL.get(len(shape), 3) if minimum_level is None else minimum_level
        about: dict[str, Any] = {"steering": self._steering, "target": target, "confidence": confidence}
        self._planner = Planner(self._tree, self._books, **about, minimum=min(floor, self._tree.depth))
        self._course = Course(h, self._names, self._books, self._planner, **about, check=check, least=least, seed=seed)
        self._rounds = self._course.run()
        self._pending: Request | None = next(self._rounds)

    def ask(self) -> Request | None:
        """Return the next round."""
        return self._pending

    def tell(self, request: Request, found: Terms | Sums) -> None:
        """Take the answer to it."""
        if request.per_sample and not isinstance(found, Terms):
            raise InputError("a multilevel scan needs per-sample terms, got sums; FullGrid does with sums")
        self._course.spent += request.evaluations
        self._go_on(found)

    def tell_part(self, rows: Int64[Tensor, " rows"], found: Terms | Sums | None) -> None:
        """Take what is there of a level that will not be finished.

        Nodes have the samples that they have come to: of the pilot, or all that were planned; those without any stay
        interpolated. That the scan ends does not depend on their values, so intervals hold as ever. Check points that
        were evaluated count, the others do not.
        """
        if self._pending is not None:
            self._course.spent += len(rows) * (self._pending.stop - self._pending.start)
            self._go_on(Part(rows, found))

    def _go_on(self, found: Terms | Sums | Part) -> None:
        try:
            self._pending = self._rounds.send(found)
        except StopIteration:
            self._pending = None

    @property
    def uncertainty(self) -> float:
        """Half-width of the widest interval of the loss, as a fraction of the robust range."""
        return self._course.uncertainty

    @property
    def expected(self) -> int:
        """Sample evaluations in all, as forecast from the levels so far."""
        return max(self._course.expected, self._course.spent)

    def estimate(self) -> Estimate:
        """Return what is known; nodes without samples are interpolated and have no interval."""
        books = self._books
        known = books.samples > 0
        critical = torch.tensor([e.critical(self._confidence) for e in books.errors], dtype=torch.float64)
        if not bool(known.any()):
            critical[:] = math.nan
        stderr = torch.stack([errors.stderr for errors in books.errors], 1)
        half = (critical * stderr).nan_to_num(nan=0.0)
        nodes, evaluated = level_counts(self._tree, known)
        notes: dict[str, object] = {
            "sampler": "multilevel",
            "confidence": self._confidence,
            "target": self._target,
            "sample_evaluations": self._course.spent,
            "evaluations": self._course.spent / self._n,
            "samples_apart": books.apart,
            "level_nodes": nodes,
            "level_evaluated": evaluated,
            "tolerance_reached": self._course.refined
            and all(float(half[:, q].max()) <= books.absolute(q) for q in range(self._steering)),
        }
        for q, name in enumerate(self._names):
            if (predicted := self._planner.predicted[q]) is not None:
                about = {
                    "tolerance": books.absolute(q),
                    "half_width": float(half[:, q].max()),
                    "truncation": self._planner.left[q] if self._course.refined else math.nan,
                    "decay": predicted.decay,
                } | self._course.checked.get(name, {})
                notes |= {f"{name.replace(':', '_')}_{key}": number for key, number in about.items()}
        value = self._tree.fill(books.value, known)
        return Estimate(value, stderr, books.samples.clone(), critical, self._tree.level.clone(), notes)
