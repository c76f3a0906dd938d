"""SHA-256 of tensors: what a bundle records to tell one data set or model from another."""

import hashlib
import sys
from collections.abc import Iterable

import torch
from torch import Tensor

_CHUNK = 1 << 22  # elements turned into bytes at a time


def hash_tensors(named: Iterable[tuple[str, Tensor]]) -> str:
    """Hash names, dtypes, shapes and bytes of tensors, in the order given.

    The digest depends on neither machine, device, strides nor the order of bytes in memory: values are read as
    little-endian, row by row. ``0.0`` and ``-0.0`` differ, as their bytes do.

    Args:
        named: Pairs of a name and a dense tensor of any dtype, shape and device.

    Returns:
        64 hexadecimal digits.

    Cost:
        One pass over the bytes (about 1 GB/s); beyond a contiguous copy of a strided tensor, 4 Mi elements of memory.

    Example:
        >>> x = torch.arange(6.0).reshape(2, 3)
        >>> hash_tensors([("x", x)]) == hash_tensors([("x", x.T.contiguous().T)])
        True
        >>> hash_tensors([("x", x)]) == hash_tensors([("x", x.reshape(3, 2))])
        False
    """
    digest = hashlib.sha256(b"landform-tensors-1")
    for name, tensor in named:
        header = f"\0{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0"
        digest.update(header.encode())
        flat = tensor.detach().reshape(-1)
        for start in range(0, flat.numel(), _CHUNK):
            chunk = flat[start : start + _CHUNK].cpu().contiguous()
            raw = chunk.view(torch.uint8).numpy()
            if sys.byteorder == "big":  # pragma: no cover
                raw = raw.reshape(-1, chunk.element_size())[:, ::-1].copy()
            digest.update(raw.data)
    return digest.hexdigest()
