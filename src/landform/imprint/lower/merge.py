"""Where branches meet: residual sums, and concatenation of channels.

A sum with an identity path carries every register of that path, and what the other path writes is added to it: into an
empty channel, or onto a register that accumulates. A concatenation keeps the registers of all its inputs side by side.

Carries: all registers of the identity path, for nothing. Computes: sums. Holds: nothing of its own.
"""

import operator
from typing import Any

import torch

from landform.errors import ArchitectureError
from landform.imprint.lower.graph import Call, Op, Ref

COVERS = "residual sums, concatenation of channels"
_ADD: tuple[Any, ...] = (operator.add, operator.iadd, torch.add, "add", "add_")
_CAT: tuple[Any, ...] = (torch.cat, torch.concat, torch.concatenate)


def read(call: Call) -> Op | None:
    """Return a sum or a concatenation."""
    if call.module is not None:
        return None
    if call.target in _ADD:
        first, second = call.args[:2]
        if not (isinstance(first, Ref) and isinstance(second, Ref)) or call.kwargs.get("alpha", 1) != 1:
            raise ArchitectureError(f"'{call.name}' adds a constant or scales; landform covers sums of two tensors")
        if len(set(call.channels)) > 1:
            raise ArchitectureError(f"'{call.name}' adds tensors of {call.channels} channels by broadcasting")
        return Op("add", call.name, call.inputs, call.channels[0])
    if call.target in _CAT:
        dim = call.argument(1, "dim", 0)
        shape = call.shapes[0]
        if dim != 1 and (shape is None or dim % len(shape) != 1):
            raise ArchitectureError(f"'{call.name}' concatenates along dimension {dim}; landform covers channels (1)")
        if 0 in call.channels:
            raise ArchitectureError(f"'{call.name}' concatenates the network's input; put a layer before it")
        return Op("cat", call.name, call.inputs, sum(call.channels))
    return None
