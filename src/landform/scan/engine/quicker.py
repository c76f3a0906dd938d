"""Jobs that cores share, or that they do side by side: whichever this machine, as it is now, does in less time."""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

import torch

from landform.scan.engine.spread import spread

J = TypeVar("J")
R = TypeVar("R")

AGAIN = 64
"""Jobs for each core after which both ways are tried again, as the machine may have become quiet, or loaded."""
CLEARLY = 0.7
"""Time of jobs side by side, as a part of that of shared ones, below which cores go on so."""


class Way(Protocol):
    """How jobs are gone through: `map`, `landform.scan.engine.spread.spread` or a `Quicker`."""

    def __call__(self, function: Callable[[Any], Any], jobs: Sequence[Any], /) -> Iterator[Any]:
        """Yield the results in order."""
        ...


class Quicker:
    """Does some jobs with all cores on each, some side by side, and the others in the way that took clearly less time.

    Cores that share a convolution wait for each other at every layer. On a machine of their own that costs little, and
    their caches hold one block instead of several; where other processes want the same cores, each wait is one for a
    turn of the system's scheduler: a small convolutional network was ten times as fast side by side there. What is
    computed is the same.

    Args:
        clock: Tells the time, in seconds.

    Example:
        >>> list(Quicker()(abs, [-1, -2, 3]))
        [1, 2, 3]
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._alone = False
        self._left = 0

    def __call__(self, function: Callable[[J], R], jobs: Sequence[J], /) -> Iterator[R]:
        """Yield the results of a function on jobs of about the same work, in order."""
        cores = torch.get_num_threads()
        done = 0
        if self._left <= 0 and len(jobs) >= 2 * cores > 2:
            begin = self._clock()
            found = [function(job) for job in jobs[:cores]]
            shared = self._clock() - begin
            yield from found
            begin = self._clock()
            found = list(spread(function, jobs[cores : 2 * cores]))
            self._alone = self._clock() - begin < CLEARLY * shared
            yield from found
            self._left, done = AGAIN * cores, 2 * cores
        self._left -= len(jobs) - done
        yield from (spread if self._alone else map)(function, jobs[done:])
