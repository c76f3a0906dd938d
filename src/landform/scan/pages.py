"""Memory that a worker keeps for the next operation, where its environment gives every page back at once."""

import contextlib
import ctypes
import os
import threading

TRIM, MMAP = -1, -3
"""``M_TRIM_THRESHOLD`` and ``M_MMAP_THRESHOLD`` of glibc's ``mallopt``."""
KEPT = 1 << 28
"""Bytes of free memory that a process keeps: the values of some layers of a batch (256 MB)."""
MAPPED = 1 << 25
"""Bytes from which on a value has pages of its own; glibc takes no more than 32 MB."""
DEFAULT_MAPPED = 1 << 17
VARIABLE = "MALLOC_TRIM_THRESHOLD_"

_lock = threading.Lock()
_holders: list[None] = []


def hold_pages() -> bool:
    """Keep freed memory in this process until `release_pages`, where glibc was told to give it back at once.

    ``dask worker`` sets ``MALLOC_TRIM_THRESHOLD_=65536``, which also ends glibc's habit of raising its thresholds with
    the sizes it sees. Each value of a layer then takes fresh pages from the system, which zeroes them: half of the time
    of a small convolutional network, a tenth of a perceptron's. Processes without that variable are left alone.

    Returns:
        Whether memory is kept.

    Example:
        >>> kept = hold_pages()
        >>> release_pages()
        >>> kept == ("MALLOC_TRIM_THRESHOLD_" in os.environ)
        True
    """
    with _lock:
        _holders.append(None)
        return _set(KEPT, MAPPED)


def release_pages() -> None:
    """Undo `hold_pages`; the last one that held gives the pages back."""
    with _lock:
        del _holders[-1:]
        if not _holders and _set(int(os.environ.get(VARIABLE, KEPT)), DEFAULT_MAPPED):
            ctypes.CDLL(None).malloc_trim(0)


def _set(trim: int, mapped: int) -> bool:
    if VARIABLE not in os.environ:
        return False
    with contextlib.suppress(AttributeError, OSError, TypeError):  # other systems, other libraries of C
        mallopt = ctypes.CDLL(None).mallopt
        return bool(mallopt(TRIM, trim)) and bool(mallopt(MMAP, mapped))
    return False
