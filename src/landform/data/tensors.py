"""From arrays and lists to tensors."""

import numpy as np
import torch
from torch import Tensor

from landform.errors import DataError


def to_tensor(values: object, role: str) -> Tensor:
    """Convert without a copy where possible; refuse what has no numbers in it.

    Args:
        values: A tensor, an array, or nested lists of numbers.
        role: What to call it in errors.

    Returns:
        The tensor, detached; integers of more than a byte as int64.

    Raises:
        DataError: Ragged lists, or no numbers.
    """
    if isinstance(values, Tensor):
        return values.detach()
    try:
        found = np.asarray(values)
    except ValueError as error:
        raise DataError(f"{role}: samples of different lengths ({error})") from error
    if found.dtype.kind not in "biuf":
        kind = type(values).__name__ if found.ndim == 0 else f"an array of {found.dtype}"
        raise DataError(f"{role}: wanted numbers, got {kind}; convert them first")
    if found.dtype.kind in "ui" and found.dtype.itemsize > 1:
        found = found.astype(np.int64)
    if found.dtype.kind == "f" and found.dtype.itemsize > 8:
        found = found.astype(np.float64)
    # A copy where torch could not share the memory safely: read-only, strided backwards, foreign byte order.
    found = found.astype(found.dtype.newbyteorder("="), copy=False)
    if not found.flags.writeable or any(stride < 0 for stride in found.strides):
        found = found.copy()
    return torch.from_numpy(found) if found.ndim else torch.as_tensor(found.item())
