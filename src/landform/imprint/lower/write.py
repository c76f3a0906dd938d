"""Write a `Program` into the stages of a network: which register goes to which channel.

One program layer to each stage with room. At a `Plain` stage all units of the layer take channels of their own. Beside
a `Branch` the carried units stay where they are on the identity path (a register is a *reading* of channels, so nothing
moves), the others are computed in the branch, and its last map writes what the next layer reads of them: a functional
that is added to a register goes onto that register's channel, any other into an empty channel. Everything that is not
used is zero: weights, gains and constants, so channels left alone are exactly zero.
"""

from collections.abc import Callable, Sequence

import numpy as np
import scipy.sparse as sp
import torch
from torch import nn

from landform.errors import CapacityError
from landform.imprint.lower.branches import write_branch
from landform.imprint.lower.gated import write_gated
from landform.imprint.lower.linear import Lowered
from landform.imprint.lower.pen import LARGE, MANY, Pen
from landform.imprint.lower.registers import (
    Registers,
    require_bent,
    shifted,
)
from landform.imprint.lower.stages import Entry, Plain, Scale, Shift, Stages
from landform.imprint.lower.writer import Writer
from landform.program.program import Program


def write_stages(
    stages: Stages,
    program: Program,
    model: nn.Module,
    best: Sequence[np.ndarray],
    ray: Sequence[np.ndarray],
    *,
    scale: Sequence[float] | None = None,
) -> Lowered:
    """Compute the parameters that make a network emit ``best + ray · s(h)`` at every head.

    Args:
        stages: The network's stages.
        program: Its output is s, one channel a head (or one channel for all heads).
        model: The network, for shapes, dtypes and statistics; it is not changed.
        best: p0 of each head.
        ray: v of each head.
        scale: In the direct form the program's output is s / scale.

    Returns:
        What to write.

    Raises:
        CapacityError: If the program does not fit; the stage is named.

    Cost:
        A few sparse products, and one pass over the weights.
    """
    try:
        writer = Writer(stages, program, model, _pen(stages, model))
        registers = _run(writer)
    except CapacityError:  # without channels that are one there is more room, and more rounding
        writer = Writer(stages, program, model, _pen(stages, model, ones=_most_ones(stages, program, model)))
        registers = _run(writer)
    require_bent(registers, stages.heads[0].linear)
    readout = writer.program.readout
    for number, head in enumerate(stages.heads):
        row = min(number, readout.units - 1)
        factor = 1.0 if scale is None else scale[row]
        weight = sp.csr_matrix(ray[number][:, None]) @ (registers.read[row] * factor)
        module = writer.pen.modules[head.linear]
        writer.pen.set_weight(head.linear, weight.tocsr())
        bias = best[number] + ray[number] * (registers.offset[row] * factor)
        writer.pen.parameters[f"{head.linear}.bias"] = torch.from_numpy(bias).to(module.weight.dtype)
    for name in stages.silent:
        writer.pen.silence(name)
    spline = next((n for n, layer in enumerate(writer.program.layers) if layer.role == "spline"), None)
    return Lowered(writer.pen.parameters, writer.directions, spline)


def checker(stages: Stages, model: nn.Module) -> Callable[[Program], None]:
    """Return a function that raises `CapacityError` if a program cannot be placed; nothing dense is made."""

    def check(program: Program) -> None:
        _run(Writer(stages, program, model, _pen(stages, model, dry=True, ones=0)))

    return check


def _most_ones(stages: Stages, program: Program, model: nn.Module) -> int:
    """Return how many of the first stages may keep a channel that is one, so that the program still finds room."""
    ones = MANY
    while ones:
        pen = _pen(stages, model, dry=True, ones=ones)
        try:
            _run(Writer(stages, program, model, pen))
        except CapacityError:
            ones = max(pen.made - 1, 0)
        else:
            break
    return ones


def _pen(stages: Stages, model: nn.Module, *, dry: bool = False, ones: int = MANY) -> Pen:
    gain = LARGE[next(model.parameters()).dtype] if stages.smooth else 1.0
    return Pen(model, stages.maps, gain, dry=dry, ones=ones)


def _run(writer: Writer) -> Registers:
    """Write every piece; return how the heads read the last tensor."""
    state = writer.inject()
    if writer.stages.gated:
        pieces = writer.stages.pieces[1:]  # behind h, two by two; the first of an odd number carries h
        odd = pieces[0] if len(pieces) % 2 else None
        state = writer.copy(odd, state) if isinstance(odd, Plain) else state
        for pair in writer.stages.pairs:
            state = write_gated(writer, pair, state)
        return state
    for piece in writer.stages.pieces[1:]:
        if isinstance(piece, Plain):
            state = writer.plain(piece, state) if piece.bends else writer.copy(piece, state)
        elif isinstance(piece, Entry):
            state = writer.entry(piece, state)
        elif isinstance(piece, Scale):
            state = writer.scaled(piece, state)
        elif isinstance(piece, Shift):
            state = shifted(piece.offset, piece.width, state)
        else:
            state = write_branch(writer, piece, state)
    return state
