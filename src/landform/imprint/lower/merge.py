"""Where branches meet: residual sums, concatenation of channels, and gates.

A sum with an identity path carries every register of that path, and what the other path writes is added to it: into an
empty channel, or onto a register that accumulates. A concatenation keeps the registers of all its inputs side by side.

A gate (sigmoid or Hardsigmoid of a branch, times the channels, as in squeeze-and-excitation) has weights set to zero:
it is then exactly 1/2, whatever comes in. x·sigmoid(x) is SiLU.

Carries: all registers of the identity path, for nothing. Computes: sums. Holds: nothing of its own.
"""

import operator
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from landform.errors import ArchitectureError
from landform.imprint.lower.activation import HARDSWISH, SIXTHS
from landform.imprint.lower.graph import Call, Op, Ref

COVERS = "residual sums, concatenation of channels, sigmoid gates"
SUMS: tuple[Any, ...] = (operator.add, operator.iadd, torch.add, "add", "add_")
_MULTIPLY: tuple[Any, ...] = (operator.mul, operator.imul, torch.mul, torch.multiply, "mul", "mul_")
_GATES: tuple[Any, ...] = (torch.sigmoid, functional.sigmoid, functional.hardsigmoid, "sigmoid")
_CAT: tuple[Any, ...] = (torch.cat, torch.concat, torch.concatenate)


def read(call: Call) -> Op | None:
    """Return a sum or a concatenation."""
    if isinstance(call.module, (nn.Sigmoid, nn.Hardsigmoid)) or (call.module is None and call.target in _GATES):
        gate = Op("gate", call.name, call.inputs[:1], call.channels[0])
        hard = isinstance(call.module, nn.Hardsigmoid) or call.target is functional.hardsigmoid
        return replace(gate, cap=6.0, start=-3.0, rise=1 / 6) if hard else gate  # behind which no product is: a clip
    if call.module is not None:
        return None
    if call.target in _MULTIPLY:
        return _product(call)
    if call.target in SUMS:
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


def _product(call: Call) -> Op:
    """Return a product of channels and their gate; of a tensor and its own sigmoid: SiLU."""
    gates = [n for n, source in enumerate(call.sources) if _gate(source)]
    if len(call.sources) != 2 or len(gates) != 1 or len(set(call.channels)) > 1:
        raise ArchitectureError(
            f"'{call.name}' is a product; landform covers channels times a gate, the sigmoid of a branch: x *"
            " torch.sigmoid(branch(x))"
        )
    gate, value = gates[0], 1 - gates[0]
    if call.sources[gate].kind == "gate" and call.sources[gate].inputs[0] == call.inputs[value]:
        # SiLU, or Hardswish: the larger distance holds for both
        return Op("act", call.name, (call.inputs[value],), call.channels[0], slope=0.0, smooth=HARDSWISH, far=SIXTHS)
    return Op("mul", call.name, (call.inputs[value], call.inputs[gate]), call.channels[0])


def _gate(op: Op) -> bool:
    return op.kind == "gate" or op.gated
