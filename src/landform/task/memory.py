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
        True for `torch.OutOfMemoryError`, MemoryError, and the CPU allocator's RuntimeError.
    """
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and ("not enough memory" in text or "out of memory" in text)


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
        if not out_of_memory(error) or isinstance(error, MemoryLimitError):
            raise
        text = str(error).splitlines()[0] if str(error) else type(error).__name__
    # Here the failed attempt is gone, with all that its traceback held.
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if batch.size < 2 or not divisible:
        why = "of one sample" if batch.size < 2 else f"of {batch.size} samples, which belong together"
        raise MemoryLimitError(
            f"not enough memory for a forward pass {why} ({text}); use a smaller batch_size=, autocast=True, a device "
            "with more memory, or a smaller model"
        )
    first, second = batch.halves()
    warnings.warn(
        f"not enough memory for {batch.size} samples at once; going on with {first.size}. Pass batch_size={first.size} "
        "to save the attempt",
        stacklevel=2,
    )
    return in_halves(compute, first, divisible=divisible) + in_halves(compute, second, divisible=divisible)
