"""Linear and convolutions: any matrix between channels.

A convolution whose kernel is zero but at one tap is a matrix applied at every position by itself. The tap must read
inside the input wherever the output lies, or padding would show at the edges: with kernel k, zeros p before and q
behind, and dilation d, tap t reads position i·stride + t·d − p, so p ≤ t·d ≤ d(k − 1) − q is needed (p = q: the
centre). A transposed convolution with stride s writes position i·s + t − p with tap t, so every output position is
written by one of any s taps in a row; the same matrix stands at all of them. A Linear on flattened positions reads one
of them, since all are equal. Grouped convolutions carry registers inside their groups.

Carries: any registers (the matrix is free). Computes: the affine part of hinges. Holds: as many registers as channels.
"""

import itertools
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor, nn

from landform.errors import ArchitectureError, InputError
from landform.imprint.lower.graph import Call, Op

COVERS = "Linear, Conv1d, Conv2d, Conv3d, ConvTranspose1d, 2d, 3d"
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, *TRANSPOSED)
KINDS = (nn.Linear, *CONVOLUTIONS)
Taps = tuple[tuple[int, ...], ...]


def read(call: Call) -> Op | None:
    """Return a map for the modules covered."""
    module = call.module
    if not isinstance(module, KINDS):
        return None
    if isinstance(module, nn.Linear):
        return _linear(call, module)
    if call.last:
        raise ArchitectureError(f"'{call.name}' reads a tensor with channels last; permute it back before")
    pads = call.sources[0].pads if call.sources else ()
    found = taps(module, call.name, pads) if call.channels[0] else ()  # the first layer's weights are zero, anyway
    return Op("map", call.name, call.inputs[:1], module.out_channels, groups=module.groups, taps=found)


def _linear(call: Call, module: nn.Linear) -> Op:
    channels, shape = call.channels[0], call.shapes[0]
    flat = shape is None or len(shape) == 2
    if channels and module.in_features % channels:
        raise ArchitectureError(
            f"'{call.name}' reads {module.in_features} features of a tensor with {channels} channels; flatten keeps"
            " all positions of a channel together"
        )
    if channels and not flat and not call.last:
        raise ArchitectureError(
            f"'{call.name}' reads the last dimension of shape {shape}; flatten to [batch, features] first"
        )
    if channels and call.sources and call.sources[0].pads:
        raise ArchitectureError(f"'{call.name}' reads a tensor padded with zeros, whose edges differ")
    still = call.last and (module.in_features == channels if shape is None else not flat)
    return Op("map", call.name, call.inputs[:1], module.out_features, last=still, fast=call.last)


def taps(module: nn.Module, name: str, pads: tuple[tuple[int, int], ...] = ()) -> Taps:
    """Return the taps of the kernel that never read padding, along each axis: one, or a stride of them if transposed.

    Args:
        module: The convolution.
        name: Its name.
        pads: Zeros around the input before it gets here, (before, behind) along each axis.

    Raises:
        ArchitectureError: If there are none.
    """
    assert isinstance(module, CONVOLUTIONS)
    dims = len(module.kernel_size)
    around = pads or ((0, 0),) * dims
    if isinstance(module, TRANSPOSED):
        if any(p != (0, 0) for p in around):
            raise ArchitectureError(f"'{name}' reads a tensor padded with zeros, whose edges differ")
        return tuple(_transposed(module, name, axis) for axis in range(dims))
    padding: Any = module.padding
    if padding == "valid" or module.padding_mode != "zeros":  # other modes repeat numbers that are there
        padding = (0,) * dims
    if padding == "same":
        total = [d * (k - 1) for k, d in zip(module.kernel_size, module.dilation, strict=True)]
        own = [(t // 2, t - t // 2) for t in total]
    else:
        own = [(p, p) for p in padding]
    found = []
    for k, d, (p, q), (a, b) in zip(module.kernel_size, module.dilation, own, around, strict=True):
        t = -(-(p + a) // d)
        if t * d > d * (k - 1) - q - b:
            raise ArchitectureError(
                f"'{name}' pads by {max(p + a, q + b)} with a kernel of {k} (dilation {d}): every tap reads padding"
                f" somewhere; use padding of at most {d * (k - 1) // 2}"
            )
        found.append((t,))
    return tuple(found)


def _transposed(module: nn.Module, name: str, axis: int) -> tuple[int, ...]:
    """Return a stride of taps such that one of them writes each position of the output, edges included."""
    assert isinstance(module, TRANSPOSED)
    k, s, d = module.kernel_size[axis], module.stride[axis], module.dilation[axis]
    p, more = int(module.padding[axis]), module.output_padding[axis]
    reach = d * (k - 1) - p + more  # behind the last input's first tap
    if s == 1:
        t = p // d
        if t * d >= reach and t < k:
            return (t,)
    elif d == 1:
        t = min(p, k - s)
        if t >= 0 and t + s - 1 >= reach:
            return tuple(range(t, t + s))
    raise ArchitectureError(
        f"'{name}' is transposed with kernel {k}, stride {s}, padding {p}, output_padding {more}, dilation {d}: some"
        " positions of its output see no tap that all others see; use dilation 1 and kernel − 1 − padding +"
        " output_padding < stride + min(padding, kernel − stride), such as kernel = stride, padding 0"
    )


def block(module: nn.Module, op: Op, matrix: sp.csr_matrix) -> Tensor:
    """Return a weight that applies a matrix ``[out, in]`` between channels and is zero elsewhere."""
    assert isinstance(module, KINDS)
    weight = torch.zeros(module.weight.shape, dtype=module.weight.dtype)  # zero pages of the system cost nothing
    entries = matrix.tocoo()
    numbers = weight.numpy()
    if isinstance(module, nn.Linear):
        stride = 1 if op.fast else max(1, module.in_features // max(1, matrix.shape[1]))
        numbers[entries.row, entries.col * stride] = entries.data
        return weight
    for tap in itertools.product(*op.taps):
        if isinstance(module, TRANSPOSED):
            numbers[(entries.col, entries.row % (module.out_channels // module.groups), *tap)] = entries.data
        else:
            numbers[(entries.row, entries.col % (module.in_channels // module.groups), *tap)] = entries.data
    return weight


def matrix_of(module: nn.Module, op: Op, weight: Tensor, channels: int) -> sp.csr_matrix:
    """Read a weight back as a matrix between channels, entries exactly as stored.

    Args:
        module: The map.
        op: Its operation.
        weight: Its weight as saved.
        channels: Channels it reads.

    Returns:
        Shape ``[out, channels]``.

    Raises:
        InputError: If it reads other taps, or several positions of one channel: those differ at edges, or add up.
    """
    assert isinstance(module, KINDS)
    dense = weight.detach()
    if isinstance(module, nn.Linear):
        where = dense.nonzero(as_tuple=True)
        rows, columns = where[0].numpy(), where[1].numpy()
        columns = columns % channels if op.fast else columns // (module.in_features // channels)
        if len(np.unique(rows * channels + columns)) != len(rows):
            raise InputError(f"'{op.name}.weight' reads several positions of one channel; the proof covers one")
        data = dense[where].double().numpy()
        return sp.csr_matrix((data, (rows, columns)), shape=(dense.shape[0], channels))
    if isinstance(module, TRANSPOSED):
        dense = _across(dense, module.groups)
    chosen = list(itertools.product(*op.taps))
    kernel = _at(dense, chosen[0])
    for tap in chosen[1:]:
        if not torch.equal(_at(dense, tap), kernel):
            raise InputError(f"'{op.name}.weight' differs between its taps {chosen[0]} and {tap}")
    if int(dense.count_nonzero()) != len(chosen) * int(kernel.count_nonzero()):
        beside = chosen[0] if len(chosen) == 1 else tuple(chosen)
        raise InputError(f"'{op.name}.weight' is not zero beside its tap {beside}")
    where = kernel.nonzero(as_tuple=True)
    rows = where[0].numpy()
    per_group = module.in_channels // module.groups
    columns = where[1].numpy() + rows // (module.out_channels // module.groups) * per_group
    return sp.csr_matrix((kernel[where].double().numpy(), (rows, columns)), shape=(module.out_channels, channels))


def _at(weight: Tensor, tap: tuple[int, ...]) -> Tensor:
    """Return the matrix at one tap of a kernel."""
    index: Any = (slice(None), slice(None), *tap)
    return weight[index]


def _across(weight: Tensor, groups: int) -> Tensor:
    """Return a transposed convolution's weight ``[in, out/groups, …]`` as ``[out, in/groups, …]``."""
    inputs, outputs = weight.shape[:2]
    parts = weight.reshape(groups, inputs // groups, outputs, *weight.shape[2:]).transpose(1, 2)
    return parts.reshape(groups * outputs, inputs // groups, *weight.shape[2:])
