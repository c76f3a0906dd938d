"""The runner: asks a sampler, cuts its rounds into tiles, has them computed and kept, and tells the answers."""

import contextlib
import math
import signal
import threading
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from landform.scan.engine.base import Sums, Terms
from landform.scan.executor import AbstractPool
from landform.scan.sampler.base import AbstractSampler, Estimate, Request
from landform.scan.store import Round, ScanStore
from landform.scan.worker import Answer, Item

TILE_WORK = 4e9
"""Multiply-adds of a tile: some tenths of a second on a core, so that scheduling costs little, and so does a crash."""
TILE_NUMBERS = 1 << 22
"""Numbers in the answer of a tile at most (32 MB)."""
TILE_POINTS = 1 << 12


@dataclass(frozen=True, eq=False)
class Run:
    """What came of a run.

    Attributes:
        estimate: What is known.
        complete: Whether the sampler was satisfied; False after Ctrl-C.
        rounds: Rounds that were told.
        computed: Sample evaluations computed in this run.
        reused: Sample evaluations found in the store.
        seconds: Time that it took.
    """

    estimate: Estimate
    complete: bool
    rounds: int
    computed: int
    reused: int
    seconds: float


class Tiling(Protocol):
    """How a round is cut; it must depend on the round alone, never on workers or clocks."""

    def __call__(self, request: Request, quantities: int, /) -> int:
        """Return points a tile."""
        ...


def tiling(work: float, *, least: int = 1) -> Tiling:
    """Cut rounds into tiles of about equal work.

    The size is a power of two that follows from the round and from counted work alone. A measured time would be nearer
    to the wish, but then a scan's last digits (sums of products depend on the shapes of matrices) would depend on how
    busy the machine was.

    Args:
        work: Multiply-adds of one sample at one point.
        least: Points a tile at least, where an engine shares work between points.

    Returns:
        The rule.

    Example:
        >>> request = Request(torch.zeros(1000, 2), 0, 10_000, per_sample=False)
        >>> tiling(5e5)(request, 1)  # 5·10⁹ a point
        1
        >>> tiling(5e3)(request, 1)  # 5·10⁷ a point: 64 of them are 3.2·10⁹
        64
    """

    def points(request: Request, quantities: int, /) -> int:
        samples = max(1, request.stop - request.start)
        fit = max(least, TILE_WORK / max(1.0, work * samples))
        numbers = quantities * (samples if request.per_sample else 1)
        most = min(TILE_POINTS, TILE_NUMBERS // numbers, fit)
        return 1 << int(math.log2(max(1, most)))

    return points


def run(
    sampler: AbstractSampler,
    pool: AbstractPool,
    quantities: int,
    *,
    tile: Tiling,
    store: ScanStore | None = None,
    progress: bool | None = None,
) -> Run:
    """Run a sampler until it is satisfied, or until Ctrl-C.

    Args:
        sampler: Decides what to evaluate.
        pool: Where it is computed.
        quantities: How many there are.
        tile: How rounds are cut (`tiling`).
        store: Where answers are kept as they come, and looked up first.
        progress: Show a bar on stderr: points, samples, uncertainty, time left. None: on a terminal, when it takes
            longer than a second.

    Returns:
        The estimate, and whether it is complete.

    Raises:
        StoreError: The store cannot be read or written, or answers other questions.
        ExecutorError: Workers were lost.
        KeyboardInterrupt: Ctrl-C before anything was measured.
    """
    begin = time.perf_counter()
    count = _Count()
    partial: _Partial | None = None
    with _Bar(sampler, progress) as bar:
        try:
            while (request := sampler.ask()) is not None:
                size = tile(request, quantities)
                kept = None if store is None else store.round(count.rounds, request, quantities, size)
                partial = _Partial(request, kept.tile if kept is not None else size)
                with contextlib.closing(_answers(partial, pool, kept, count)) as answers:
                    for answer, fresh in answers:
                        partial.put(answer)
                        bar.advance(partial.items[answer.number], fresh=fresh)
                with _undisturbed():
                    sampler.tell(request, partial.found())
                    count.rounds += 1
                    partial = None
                bar.told()
        except KeyboardInterrupt:
            sampler.tell_part(*(_NOTHING if partial is None else partial.part()))
            estimate = sampler.estimate()
            if not bool((estimate.samples > 0).any()):
                raise
            return Run(estimate, False, count.rounds, count.computed, count.reused, time.perf_counter() - begin)
    return Run(sampler.estimate(), True, count.rounds, count.computed, count.reused, time.perf_counter() - begin)


@dataclass
class _Count:
    rounds: int = 0
    computed: int = 0
    reused: int = 0


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Hold back Ctrl-C while a sampler does its sums: half of them would be of no use. It comes when they are done."""
    main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGINT) if main else None
    if not callable(before):  # another thread, or signals are ignored or not Python's
        yield
        return
    held: list[int] = []
    signal.signal(signal.SIGINT, lambda number, _: held.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if held:
        signal.raise_signal(signal.SIGINT)


_NOTHING: tuple[Int64[Tensor, " rows"], None] = (torch.empty(0, dtype=torch.int64), None)


class _Partial:
    """A round that fills up."""

    def __init__(self, request: Request, tile: int) -> None:
        self.request = request
        h = np.ascontiguousarray(request.h.detach().cpu().double().numpy())
        parts = range(0, len(h), tile)
        front = None if request.front is None else request.front.numpy()
        self.items = [
            Item(number, h[start : start + tile], request.start, request.stop, request.per_sample, front)
            for number, start in enumerate(parts)
        ]
        self._tile = tile
        self._num: Tensor | None = None
        self._den: Tensor | None = None
        self.there = torch.zeros(len(h), dtype=torch.bool)

    def put(self, answer: Answer) -> None:
        num = torch.from_numpy(answer.num)
        if self._num is None:
            self._num = torch.full((len(self.there), *num.shape[1:]), torch.nan, dtype=torch.float64)
            self._den = torch.from_numpy(answer.den)
        start = answer.number * self._tile
        self._num[start : start + len(num)] = num
        self.there[start : start + len(num)] = True

    def found(self) -> Terms | Sums:
        """Return the whole round."""
        _, found = self.part()
        assert found is not None
        assert bool(self.there.all()), "a pool gave fewer answers than it was asked for"
        return found

    def part(self) -> tuple[Int64[Tensor, " rows"], Terms | Sums | None]:
        """Return which points there are, and their answers."""
        if self._num is None or self._den is None:
            return _NOTHING
        rows = self.there.nonzero().reshape(-1)
        num = self._num if len(rows) == len(self.there) else self._num[rows]
        return rows, (Terms if self.request.per_sample else Sums)(num, self._den)


def _answers(
    partial: _Partial, pool: AbstractPool, kept: Round | None, count: _Count
) -> Generator[tuple[Answer, bool]]:
    """Yield the answers of a round, those of the store first; and whether each was computed now."""
    samples = partial.request.stop - partial.request.start
    missing = {item.number: item for item in partial.items}
    for number in kept.done() if kept is not None else ():
        assert kept is not None
        if (stored := kept.read(number)) is not None:
            count.reused += samples * len(missing.pop(number).h)
            yield stored, False
    with contextlib.closing(pool.compute(missing.values())) as computed:
        for answer in computed:
            if kept is not None:
                kept.write(answer)
            count.computed += samples * len(answer.num)
            yield answer, True


class _Bar:
    """The bar on stderr: sample evaluations done of those expected, points, half-width of the widest interval."""

    def __init__(self, sampler: AbstractSampler, progress: bool | None) -> None:
        from tqdm.auto import tqdm

        self._sampler = sampler
        self._points = 0
        self._width = ""
        quiet = {None: None, True: False, False: True}[progress]  # to tqdm, None means: not on a terminal
        self._bar = tqdm(
            total=sampler.expected or None,
            desc="scan",
            unit="sample",
            unit_scale=True,
            disable=quiet,
            delay=0 if progress else 1,
            leave=False,
        )

    def advance(self, item: Item, *, fresh: bool) -> None:
        if self._bar.disable:
            return
        cost = len(item.h) * (item.stop - item.start)
        self._points += len(item.h)
        if not fresh:
            self._bar.initial += cost  # not of this run's speed
        self._bar.set_postfix_str(f"{self._points} points{self._width}", refresh=False)
        self._bar.update(cost)

    def told(self) -> None:
        if not self._bar.disable:
            self._bar.total = max(self._sampler.expected, self._bar.n) or None
            half = self._sampler.uncertainty
            self._width = "" if math.isnan(half) else f", ±{100 * half:.2g} % of the range"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()
