"""Importing what is needed, without Python's collector walking through all of PyTorch in the meantime."""

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def loading() -> Iterator[None]:
    """Keep the garbage collector out of imports.

    What a module makes when it is imported lives as long as the process, so there is nothing to collect; but after some
    ten thousand new objects the collector visits all that there are, half a million with PyTorch. That is a fifth of
    the time in which xarray and pandas are imported. Here it is switched off, and what was made joins the oldest
    objects unseen. Where the caller has switched it off, or has frozen objects of their own, that stays so.

    Yields:
        Nothing; the collector is as it was afterwards.

    Example:
        >>> with loading():
        ...     import json
        ...
        ...     gc.isenabled()
        False
        >>> gc.isenabled()
        True
    """
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        if not gc.get_freeze_count():
            gc.freeze()
            gc.unfreeze()
        gc.enable()
