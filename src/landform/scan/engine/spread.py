"""Small jobs side by side, each on one core: for operations too short to be shared out between cores themselves."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

J = TypeVar("J")
R = TypeVar("R")


def parts(count: int, most: int) -> list[range]:
    """Divide jobs among cores: ranges of nearly equal length, as many for each core.

    Args:
        count: How many jobs.
        most: Jobs of a range at most.

    Returns:
        The ranges, in order.

    Example:
        >>> before = torch.get_num_threads()
        >>> torch.set_num_threads(2)
        >>> parts(9, 3)
        [range(0, 2), range(2, 4), range(4, 6), range(6, 9)]
        >>> torch.set_num_threads(before)
    """
    cores = torch.get_num_threads()
    number = -(-count // (most * cores)) * cores
    return [range(count * k // number, count * (k + 1) // number) for k in range(number)]


def spread(function: Callable[[J], R], jobs: Sequence[J]) -> Iterator[R]:
    """Run a function on jobs, in as many threads as PyTorch would use within an operation; yield results in order.

    An operation of some 50 µs hardly gains from a second core and, where something else wants that core, waits for it
    a hundred times as long. Each thread computes on one core alone, however many there are, so that digits do not
    depend on their number.

    Args:
        function: What to run, without gradients; PyTorch's operations and NumPy's run beside each other.
        jobs: Its arguments.

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

    pool = ThreadPoolExecutor(cores, initializer=torch.set_num_threads, initargs=(1,))
    try:
        yield from pool.map(run, jobs)
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(cores)  # MKL's number is one for all threads
