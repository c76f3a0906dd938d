"""Memory that a process keeps for the next operation while it measures, where it would give the pages back at once."""

import contextlib
import ctypes
import os
import threading

TRIM, MMAP = -1, -3
"""``M_TRIM_THRESHOLD`` and ``M_MMAP_THRESHOLD`` of glibc's ``mallopt``."""
KEPT = 1 << 28
"""Bytes of free memory that a process keeps: the values of some layers of a batch (256 MB)."""
MAPPED = 9 << 20
"""Bytes from which on a value has pages of its own meanwhile (9 MB): those of a block have 8 MB at most. Larger ones
would leave gaps between each other, and take twice the memory that they need."""
RAISED = 1 << 25
"""The same where glibc's own habit raised it to what it takes at most (32 MB)."""
DEFAULT_MAPPED = 1 << 17
TRIM_VARIABLE, MMAP_VARIABLE = "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"

_lock = threading.Lock()
_holders: list[None] = []


def hold_pages() -> bool:
    """Keep freed memory in this process until `release_pages`, on systems with glibc.

    Each value of a layer that takes fresh pages from the system has them zeroed first. glibc gives pages back once free
    memory exceeds twice the largest value that it saw freed, so that networks whose layers add up to more pay for them
    at every point: a transformer a seventh of its time. ``dask worker`` sets ``MALLOC_TRIM_THRESHOLD_=65536``, which
    also ends glibc's habit of raising its thresholds with the sizes it sees: there it is half of the time of a small
    convolutional network, and a tenth of a perceptron's.

    Returns:
        Whether memory is kept.

    Example:
        >>> kept = hold_pages()
        >>> release_pages()
    """
    with _lock:
        _holders.append(None)
        return _set(KEPT, MAPPED)


def release_pages() -> None:
    """Undo `hold_pages`; the last one that held gives the pages back.

    Thresholds become those of the environment. Where it says nothing they become what glibc's own habit raises them to
    at most: that habit cannot be switched on again.
    """
    with _lock:
        del _holders[-1:]
        if _holders:
            return
        told = os.environ.get(TRIM_VARIABLE)
        mapped = os.environ.get(MMAP_VARIABLE) or (DEFAULT_MAPPED if told else RAISED)
        if _set(int(told or 2 * RAISED), int(mapped)) and told:
            ctypes.CDLL(None).malloc_trim(0)


def _set(trim: int, mapped: int) -> bool:
    with contextlib.suppress(AttributeError, OSError, TypeError):  # other systems, other libraries of C
        mallopt = ctypes.CDLL(None).mallopt
        return bool(mallopt(TRIM, trim)) and bool(mallopt(MMAP, mapped))
    return False
