"""Small jobs side by side, each on one core: for operations too short to be shared out between cores themselves."""

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TypeVar

import torch

J = TypeVar("J")
R = TypeVar("R")

JOBS = 32
"""Jobs of a call at least, where there is so much to do: the last ones leave other cores idle for half a job."""
AHEAD = 3
"""Jobs under way for each core, so that none waits for the one who reads the results."""


def parts(count: int, most: int, times: int = 1) -> list[range]:
    """Divide points into jobs: ranges of nearly equal length, the same whatever the number of cores.

    Args:
        count: How many points.
        most: Points of a range at most.
        times: How often the ranges are gone through, once for each block of samples.

    Returns:
        The ranges, in order.

    Example:
        >>> parts(4, 3)  # few: cores share out the points one by one
        [range(0, 1), range(1, 2), range(2, 3), range(3, 4)]
        >>> parts(4, 3, times=16)
        [range(0, 2), range(2, 4)]
    """
    size = min(most, max(1, count * times // JOBS))
    number = -(-count // size)
    return [range(count * k // number, count * (k + 1) // number) for k in range(number)]


class _Threads:
    """Threads of one core each that stay: what libraries keep for a thread, such as MKL's buffers, stays with them."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Begin anew, as in a process that was forked: threads stay behind."""
        self._lock = threading.Lock()
        self._pools: dict[int, ThreadPoolExecutor] = {}
        self._users = 0

    def enter(self, cores: int) -> ThreadPoolExecutor:
        """Begin to use so many threads."""
        with self._lock:
            self._users += 1
            if cores not in self._pools:
                names = f"landform-{cores}"
                self._pools[cores] = ThreadPoolExecutor(cores, names, torch.set_num_threads, (1,))
            pool = self._pools[cores]
        pool.submit(torch.set_num_threads, 1).result()  # MKL's number is one for all threads, and the caller's yet
        return pool

    def leave(self, cores: int) -> None:
        """End the use; the last one gives MKL its number back."""
        with self._lock:
            self._users -= 1
            if not self._users:
                torch.set_num_threads(cores)


_threads = _Threads()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_threads.forget)


def spread(function: Callable[[J], R], jobs: Iterable[J]) -> Iterator[R]:
    """Run a function on jobs, in as many threads as PyTorch would use within an operation; yield results in order.

    An operation of some 50 µs hardly gains from a second core and, where something else wants that core, waits for it
    a hundred times as long. Each thread computes on one core alone, however many there are, so that digits do not
    depend on their number.

    Args:
        function: What to run, without gradients; PyTorch's operations and NumPy's run beside each other.
        jobs: Its arguments; a few more than are computed are asked for ahead.

    Yields:
        Results.
    """
    cores = torch.get_num_threads()
    if cores == 1:
        yield from map(function, jobs)
        return

    def run(job: J) -> R:
        with torch.inference_mode():
            return function(job)

    pool = _threads.enter(cores)
    waiting: deque[Future[R]] = deque()
    try:
        for job in jobs:
            waiting.append(pool.submit(run, job))
            if len(waiting) >= AHEAD * cores:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        wait([future for future in waiting if not future.cancel()])
        _threads.leave(cores)
