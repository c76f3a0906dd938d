"""What changes no number in eval mode: dropout, flattening and views, permutations, zeros around, identity.

Flattening keeps the positions of a channel together, so that a Linear after it reads channel c at c·positions; behind
a permutation that puts channels last it reads channel c at c. Zeros around are left to the convolution behind.

Carries: any register. Computes: nothing. Holds: nothing.
"""

import operator
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from landform.errors import ArchitectureError
from landform.imprint.lower.graph import Call, Op

COVERS = "Dropout, Flatten, Identity, views, permutations of positions, zero padding"
_MODULES = (
    nn.Dropout,
    nn.Dropout1d,
    nn.Dropout2d,
    nn.Dropout3d,
    nn.AlphaDropout,
    nn.Flatten,
    nn.Unflatten,
    nn.Identity,
)
_CALLS: tuple[Any, ...] = (
    torch.flatten,
    torch.squeeze,
    "view",
    "reshape",
    "flatten",
    "contiguous",
    "squeeze",
    "expand_as",
    "expand",
)
_PERMUTED: tuple[Any, ...] = (torch.permute, torch.transpose, torch.swapaxes, "permute", "transpose", "swapaxes")
_PADS = (nn.ZeroPad1d, nn.ZeroPad2d, nn.ZeroPad3d)
_DROPOUT: tuple[Any, ...] = (functional.dropout, functional.dropout1d, functional.dropout2d, functional.dropout3d)


def read(call: Call) -> Op | None:
    """Return an operation that keeps what it gets."""
    keep = Op("keep", call.name, call.inputs[:1], call.channels[0] if call.channels else 0)
    if isinstance(call.module, _MODULES) or (call.module is None and call.target in _CALLS):
        _require_channels(call)
        return keep
    if call.module is None and call.target in _PERMUTED:
        return replace(keep, last=_permuted(call))
    if isinstance(call.module, _PADS) or call.target is functional.pad:
        return _padded(call, keep)
    if call.target is operator.getitem:
        return _sliced(call, keep)
    if call.target in _DROPOUT:
        # traced in eval mode: training=self.training reads False, a missing argument means True
        if call.argument(2, "training", True):
            raise ArchitectureError(
                f"'{call.name}' drops units in eval mode too; write dropout(x, p, training=self.training) and call"
                " model.eval(), or use nn.Dropout"
            )
        return keep
    return None


def _permuted(call: Call) -> bool:
    """Return whether channels are last after a permutation of dimensions."""
    shape = call.shapes[0]
    if call.target in (torch.permute, "permute"):
        given = call.argument(1, "dims")
        dims = list(given) if isinstance(given, (tuple, list)) else list(call.args[1:])
    else:
        if shape is None:
            raise ArchitectureError(
                f"'{call.name}' swaps dimensions of a tensor of unknown shape; write it as permute(…), or pass data"
            )
        dims = list(range(len(shape)))
        a, b = (int(call.argument(n, f"dim{n - 1}")) % len(shape) for n in (1, 2))
        dims[a], dims[b] = dims[b], dims[a]
    dims = [d % len(dims) for d in dims]
    at = dims.index(len(dims) - 1 if call.last else 1) if len(dims) > 1 else -1
    if dims[0] != 0 or at not in (1, len(dims) - 1):
        raise ArchitectureError(
            f"'{call.name}' permutes dimensions to {tuple(dims)}; landform covers channels in dimension 1 or last"
        )
    return at != 1


def _padded(call: Call, keep: Op) -> Op:
    """Return what zero padding does: to positions, left to the convolution behind, or to channels."""
    shape = call.shapes[0]
    flat: Any = call.module.padding if call.module is not None else call.argument(1, "pad")
    if call.last:
        raise ArchitectureError(f"'{call.name}' pads a tensor with channels last; permute it back before")
    if call.module is None and (
        call.argument(2, "mode", "constant") != "constant" or call.argument(3, "value") not in (None, 0)
    ):
        raise ArchitectureError(f"'{call.name}' pads with other numbers than zero; landform covers zeros")
    if any(not isinstance(n, int) or n < 0 for n in flat):
        raise ArchitectureError(f"'{call.name}' pads by {flat}; landform covers fixed numbers of at least 0")
    pairs = list(zip(flat[-2::-2], flat[-1::-2], strict=True))  # in the order of dimensions
    if isinstance(call.module, _PADS):
        return replace(keep, pads=tuple(pairs))
    if shape is None:
        raise ArchitectureError(f"'{call.name}' pads a tensor of unknown shape; pass data, or use nn.ZeroPad2d")
    pairs = [(0, 0)] * (len(shape) - len(pairs)) + pairs
    (batch, channel), positions = pairs[:2], tuple(pairs[2:])
    if batch != (0, 0) or (channel != (0, 0) and (any(p != (0, 0) for p in positions) or not keep.channels)):
        raise ArchitectureError(f"'{call.name}' pads by {tuple(flat)}; landform covers positions, or channels alone")
    if channel == (0, 0):
        return replace(keep, pads=positions if any(p != (0, 0) for p in positions) else ())
    return Op("shift", call.name, call.inputs[:1], sum(channel) + keep.channels, offset=channel[0])


def _sliced(call: Call, keep: Op) -> Op:
    """Return a choice of positions, all channels of which are kept."""
    index, shape = call.args[1], call.shapes[0]
    parts = index if isinstance(index, tuple) else (index,)
    channel = len(shape) - 1 if call.last and shape is not None else 1
    whole = [n for n, part in enumerate(parts) if isinstance(part, slice) and part == slice(None)]
    plain = all(isinstance(part, (slice, int)) or (part is None and n > 1) for n, part in enumerate(parts))
    if not keep.channels or not plain or 0 not in whole or (channel not in whole and channel < len(parts)):
        raise ArchitectureError(
            f"'{call.name}' takes {index} of a tensor; landform covers slices of positions, of all samples and channels"
        )
    return keep


def _require_channels(call: Call) -> None:
    """Refuse views that mix channels with positions."""
    before, after = call.shapes[0], call.shape
    if not call.channels[0]:
        return
    if before is None or after is None:
        start = getattr(call.module, "start_dim", None if call.module is not None else call.argument(1, "start_dim"))
        if isinstance(call.module, nn.Flatten) and start != 1:
            raise ArchitectureError(f"'{call.name}' flattens from dimension {start}; landform covers start_dim=1")
        return
    kept = after[:2] == before[:2] or (after[0] == before[0] and len(after) == 2)
    if not kept:
        raise ArchitectureError(
            f"'{call.name}' turns shape {before} into {after}, which mixes channels and positions; landform covers"
            " flattening to [batch, features]"
        )
