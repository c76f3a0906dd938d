"""What changes nothing in eval mode: dropout, flattening and views, identity.

Flattening keeps the positions of a channel together, so that a Linear after it reads channel c at c·positions.

Carries: any register. Computes: nothing. Holds: nothing.
"""

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from landform.errors import ArchitectureError
from landform.imprint.lower.graph import Call, Op

COVERS = "Dropout, Flatten, Identity, views"
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
_CALLS: tuple[Any, ...] = (torch.flatten, torch.squeeze, "view", "reshape", "flatten", "contiguous", "squeeze")
_DROPOUT: tuple[Any, ...] = (functional.dropout, functional.dropout1d, functional.dropout2d, functional.dropout3d)


def read(call: Call) -> Op | None:
    """Return an operation that keeps what it gets."""
    keep = Op("keep", call.name, call.inputs[:1], call.channels[0] if call.channels else 0)
    if isinstance(call.module, _MODULES) or (call.module is None and call.target in _CALLS):
        _require_channels(call)
        return keep
    if call.target in _DROPOUT:
        # traced in eval mode: training=self.training reads False, a missing argument means True
        if call.argument(2, "training", True):
            raise ArchitectureError(
                f"'{call.name}' drops units in eval mode too; write dropout(x, p, training=self.training) and call"
                " model.eval(), or use nn.Dropout"
            )
        return keep
    return None


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
