"""Linear and convolutions: any matrix between channels.

A convolution whose kernel is zero but at one tap is a matrix applied at every position by itself. The tap must read
inside the input wherever the output lies, or padding would show at the edges: with kernel k, padding p and dilation d,
tap t reads position i·stride + t·d − p, so p ≤ t·d ≤ d(k − 1) − p is needed (p = d(k − 1)/2: the centre). A Linear on
flattened positions reads one of them, since all are equal. Grouped convolutions carry registers inside their groups.

Carries: any registers (the matrix is free). Computes: the affine part of hinges. Holds: as many registers as channels.
"""

from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor, nn

from landform.errors import ArchitectureError, InputError
from landform.imprint.lower.graph import Call, Op

COVERS = "Linear, Conv1d, Conv2d, Conv3d"
Map = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d
KINDS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def read(call: Call) -> Op | None:
    """Return a map for the modules covered."""
    module = call.module
    if not isinstance(module, KINDS):
        return None
    if isinstance(module, nn.Linear):
        channels = call.channels[0]
        if channels and module.in_features % channels:
            raise ArchitectureError(
                f"'{call.name}' reads {module.in_features} features of a tensor with {channels} channels; flatten keeps"
                " all positions of a channel together"
            )
        if channels and call.shapes[0] is not None and len(call.shapes[0]) != 2:
            raise ArchitectureError(
                f"'{call.name}' reads the last dimension of shape {call.shapes[0]}; flatten to [batch, features] first"
            )
        return Op("map", call.name, call.inputs[:1], module.out_features)
    if call.channels[0]:  # the first layer's weights are zero, wherever they read
        tap(module, call.name)
    return Op("map", call.name, call.inputs[:1], module.out_channels, groups=module.groups)


def tap(module: nn.Module, name: str) -> tuple[int, ...]:
    """Return the tap of the kernel that never reads padding.

    Raises:
        ArchitectureError: If there is none.
    """
    assert isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d))
    dims = len(module.kernel_size)
    padding: Any = module.padding
    if padding == "valid":
        padding = (0,) * dims
    if padding == "same":
        return tuple((k - 1) // 2 for k in module.kernel_size)
    found = []
    for k, p, d in zip(module.kernel_size, padding, module.dilation, strict=True):
        t = -(-p // d)
        if t * d + p > d * (k - 1):
            raise ArchitectureError(
                f"'{name}' pads by {p} with a kernel of {k} (dilation {d}): every tap reads padding somewhere; use"
                f" padding of at most {d * (k - 1) // 2}"
            )
        found.append(t)
    return tuple(found)


def block(module: nn.Module, name: str, matrix: sp.csr_matrix) -> Tensor:
    """Return a weight that applies a matrix ``[out, in]`` between channels and is zero elsewhere.

    Raises:
        CapacityError: If a grouped convolution is asked to read across groups.
    """
    assert isinstance(module, KINDS)
    weight = torch.zeros(module.weight.shape, dtype=module.weight.dtype)  # zero pages of the system cost nothing
    entries = matrix.tocoo()
    if isinstance(module, nn.Linear):
        stride = max(1, module.in_features // max(1, matrix.shape[1]))
        weight.numpy()[entries.row, entries.col * stride] = entries.data
        return weight
    per_group = module.in_channels // module.groups
    weight.numpy()[(entries.row, entries.col % per_group, *tap(module, name))] = entries.data
    return weight


def matrix_of(module: nn.Module, name: str, weight: Tensor, channels: int) -> sp.csr_matrix:
    """Read a weight back as a matrix between channels, entries exactly as stored.

    Args:
        module: The map.
        name: Its name.
        weight: Its weight as saved.
        channels: Channels it reads.

    Returns:
        Shape ``[out, channels]``.

    Raises:
        InputError: If it reads other taps, or several positions of one channel: those differ at edges, or add up.
    """
    assert isinstance(module, KINDS)
    dense = weight.detach()
    where = dense.nonzero(as_tuple=True)
    data = dense[where].double().numpy()
    rows = where[0].numpy()
    if isinstance(module, nn.Linear):
        positions = module.in_features // channels
        columns = where[1].numpy() // positions
        if len(np.unique(rows * channels + columns)) != len(rows):
            raise InputError(f"'{name}.weight' reads several positions of one channel; the proof covers one")
    else:
        for axis, t in enumerate(tap(module, name)):
            if not bool((where[2 + axis] == t).all()):
                raise InputError(f"'{name}.weight' is not zero beside its tap {tap(module, name)}")
        per_group = module.in_channels // module.groups
        columns = where[1].numpy() + rows // (module.out_channels // module.groups) * per_group
    shape = (dense.shape[0], channels)
    return sp.csr_matrix((data, (rows, columns)), shape=shape)
