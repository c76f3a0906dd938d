"""Devices and autocast: what a user may ask for, checked before anything runs."""

import torch

from landform.errors import InputError


def check_device(device: str | torch.device | None) -> torch.device | None:
    """Check that a device is there.

    Args:
        device: ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``, …; None for where the model is.

    Returns:
        The device.

    Raises:
        InputError: Unknown, or not on this machine, with what is.

    Example:
        >>> check_device("cpu")
        device(type='cpu')
    """
    if device is None:
        return None
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise InputError(f"device is {device!r}; wanted 'cpu', 'cuda', 'cuda:0' or 'mps'") from error
    if found.type == "meta":
        raise InputError("device is 'meta', which holds no values; wanted 'cpu', 'cuda', 'cuda:0' or 'mps'")
    if found.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if not count:
            built = "this PyTorch is built without CUDA" if torch.version.cuda is None else "PyTorch sees no NVIDIA GPU"
            raise InputError(f"device={device!r} asked for, but {built} ({torch.__version__}); use device='cpu'")
        if (found.index or 0) >= count:
            raise InputError(f"device={device!r} asked for, but there are {count} GPUs: cuda:0 … cuda:{count - 1}")
    if found.type == "mps" and not torch.backends.mps.is_available():
        raise InputError(f"device={device!r} asked for, but PyTorch sees no Apple GPU; use device='cpu'")
    return found


_HALF = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def check_autocast(autocast: bool | str | torch.dtype) -> torch.dtype | None:
    """Read what an autocast region shall use.

    Args:
        autocast: False for none, True for bfloat16, or a dtype or its name.

    Returns:
        The dtype, or None.

    Raises:
        InputError: No half-precision dtype.

    Example:
        >>> check_autocast("bfloat16"), check_autocast(False)
        (torch.bfloat16, None)
    """
    if isinstance(autocast, bool):
        return torch.bfloat16 if autocast else None
    found = _HALF.get(autocast) if isinstance(autocast, str) else autocast
    if found not in _HALF.values():
        raise InputError(f"autocast is {autocast!r}; wanted True, 'bfloat16' or 'float16'")
    return found


def check_dtype(dtype: torch.dtype | None) -> torch.dtype | None:
    """Check that a dtype can hold weights.

    Args:
        dtype: A dtype, or None for the model's own.

    Returns:
        The same.

    Raises:
        InputError: No floating-point dtype.
    """
    if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise InputError(f"dtype is {dtype}; wanted a floating-point dtype")
    return dtype
