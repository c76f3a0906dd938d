"""Out of memory: fewer samples at once are tried, and that is said."""

import warnings
from collections.abc import Callable
from typing import TypeVar

import torch

from landform.errors import MemoryLimitError
from landform.task.batch import Batch

T = TypeVar("T")


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on a GPU or on the CPU.

    Args:
        error: What was raised.

    Returns:
        True for `torch.OutOfMemoryError`, MemoryError, and the CPU allocator's RuntimeError; False for the error that
        says that nothing more can be tried.
    """
    if isinstance(error, MemoryLimitError):
        return False
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error).lower()
    said = ("not enough memory", "out of memory", "can't allocate memory", "cannot allocate memory")
    return isinstance(error, RuntimeError) and any(words in text for words in said)


def in_halves(compute: Callable[[Batch], T], batch: Batch, *, divisible: bool) -> list[T]:
    """Compute something of a batch; where memory runs out, of its halves, and so on.

    Args:
        compute: What to compute.
        batch: The samples.
        divisible: Whether the parts say the same as the whole; otherwise nothing is divided.

    Returns:
        One result a part, in the order of the samples; a single one if memory sufficed.

    Raises:
        MemoryLimitError: Not enough memory for a single sample, or for a batch that may not be divided.
    """
    try:
        return [compute(batch)]
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        failed = error.with_traceback(None)
    # Here the failed attempt is gone, with all that its traceback held.
    fewer(batch.size, failed, divisible=divisible)
    first, second = batch.halves()
    return in_halves(compute, first, divisible=divisible) + in_halves(compute, second, divisible=divisible)


def fewer(samples: int, error: BaseException, *, divisible: bool = True) -> int:
    """Say how many samples to try next after memory ran out, and say it to the user.

    Args:
        samples: How many were tried.
        error: What was raised, without its traceback, so that memory is free again.
        divisible: Whether there may be fewer.

    Returns:
        Half of them.

    Raises:
        MemoryLimitError: It was a single sample, or there may not be fewer.
    """
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if samples < 2 or not divisible:
        why = "of one sample" if samples < 2 else f"of {samples} samples, which belong together"
        raise MemoryLimitError(
            f"not enough memory for a forward pass {why} ({text}); use a smaller batch_size=, autocast=True, a device "
            "with more memory, or a smaller model"
        )
    half = samples // 2
    warnings.warn(
        f"not enough memory for {samples} samples at once; going on with {half}. Pass batch_size={half} to save the "
        "attempt",
        stacklevel=3,
    )
    return half
