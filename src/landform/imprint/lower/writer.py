"""What writes one program into one network: layers of the program, and the pieces that do not fork.

At a `Plain` stage all units of the layer take channels of their own. Everything that is not used is zero: weights,
gains and constants, so channels left alone are exactly zero.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor, nn

from landform.errors import CapacityError
from landform.imprint.lower.groupnorm import everywhere
from landform.imprint.lower.pen import Pen
from landform.imprint.lower.placing import Placing, among_groups, single
from landform.imprint.lower.registers import (
    Registers,
    compress,
    embed,
    power_of_two,
    require_bent,
    unit_bounds,
    unit_tops,
)
from landform.imprint.lower.stages import Branch, Entry, Plain, Scale, Stages
from landform.program.bend import padded
from landform.program.program import Layer, Program


@dataclass
class Writer:
    """Writes a program into the stages of a network with a `Pen`; it remembers which layer comes next."""

    stages: Stages
    program: Program
    model: nn.Module
    pen: Pen
    directions: tuple[dict[str, Tensor], ...] = ()

    def __post_init__(self) -> None:
        rooms = self.stages.rooms
        if len(self.program.layers) > len(rooms):
            raise CapacityError(
                f"the program has {len(self.program.layers)} layers and the network {len(rooms)} stages with room"
            )
        self.program = padded(self.program, len(rooms) - len(self.program.layers))
        self.next = 0  # number of the layer that comes next
        self.sizes = unit_bounds(self.program)

    @cached_property
    def tops(self) -> list[np.ndarray]:
        """The largest value of every unit, not just a bound."""
        return unit_tops(self.program)

    # --- layers of the program ------------------------------------------------------------------------------------

    def layer(self) -> Layer:
        """Return the layer of the program that comes next, and go on to the one behind it."""
        layer = self.program.layers[self.next]
        self.next += 1
        return layer

    def following(self) -> Layer:
        """Return the layer behind the one that was returned last, or the readout."""
        return self.program.layers[self.next] if self.next < len(self.program.layers) else self.program.readout

    def units_of(self, layer: Layer, slope: float, rows: np.ndarray) -> tuple[sp.csr_matrix, sp.csr_matrix]:
        """Return the maps from pre-activations of some units to network units, and from network units back to units."""
        identity = sp.identity(len(rows), format="csr")
        if slope in (0.0, 1.0):
            return identity, identity
        hinge = ~layer.carried[rows]
        expand = sp.vstack([identity, -identity[hinge]]).tocsr()
        gain = np.where(hinge, 1 / (1 - slope**2), 1.0)
        back = sp.hstack([sp.diags(gain), identity[:, hinge] * (slope / (1 - slope**2))]).tocsr()
        return expand, back

    # --- pieces ---------------------------------------------------------------------------------------------------

    def inject(self) -> Registers:
        """Set the first stage to zero weights and let its constants be the coordinates."""
        stage, layer = self.stages.first, self.layer()
        if stage.slope == 1.0 and not layer.carried.all():
            raise CapacityError("the first stage has no activation, so it can only carry h; use axis_aligned=True")
        rows = np.arange(layer.units)
        expand, back = self.units_of(layer, self.pen.slope(stage.slope), rows)
        count = expand.shape[0]
        self.pen.require(count, stage.width, stage.map)
        top = np.asarray(abs(expand) @ self.sizes[0])
        factor = self.pen.factor(top, stage.cap)
        scaled = sp.diags(factor) @ expand
        name = injection(self.stages, self.model)
        inside = name == f"{stage.map}.bias"  # then the norms are identities; else the first one is the constant
        scale = self.pen.scale_for(stage) if inside and stage.cap < 1.0 else 1.0  # far below the norm's mean
        if not self.pen.dry:
            parameter = dict(self.model.named_parameters())[name]
            size = parameter.shape[0]
            constant = np.zeros(size)
            constant[:count] = scale * (scaled @ layer.bias + stage.start)
            dense = np.zeros((size, self.program.z))
            dense[:count] = scale * (scaled @ layer.weight).toarray()
            self.directions = tuple(
                {name: everywhere(torch.from_numpy(dense[:, i].copy()).to(self.pen.dtype), parameter)}
                for i in range(self.program.z)
            )
            self.pen.silence(stage.map)
            used, shift = np.arange(stage.width) < count, np.zeros(stage.width)
            for position, norm in enumerate(stage.norms):
                if inside or position:
                    self.pen.set_norm(norm, used, shift, 1.0 if position else scale)
                else:
                    self.pen.silence(norm)
            self.pen.parameters[name] = everywhere(torch.from_numpy(constant).to(self.pen.dtype), parameter)
        recover = (back @ sp.diags(1 / factor)).tocsr()
        placed = single((sp.diags(factor) @ expand).tocsr(), recover, np.arange(count), factor * top)
        unit = self.pen.one(stage, count)
        return self.after(self.following(), moved(stage, placed), stage.times, stage.width, unit)

    def after(self, layer: Layer, placed: Placing, times: float, width: int, unit: int | None = None) -> Registers:
        """Return how a layer reads the channels that hold the units before it, times the factor of a gate."""
        at, back = placed.at, (layer.weight @ placed.back / times).tocsr()
        read = embed(back, np.arange(layer.units), at, (layer.units, width))
        tops, empty, none = np.zeros(width), np.ones(width, dtype=bool), np.zeros(width)
        tops[at], empty[at] = times * placed.top, False
        if unit is not None:
            empty[unit], tops[unit] = False, self.pen.gain
        offset = layer.bias + layer.weight @ placed.level
        return Registers(read, offset, empty, tops, none, np.zeros(width, dtype=bool), unit)

    def plain(self, stage: Plain, state: Registers) -> Registers:
        """Write all units of a layer into channels of their own."""
        require_bent(state, stage.map)
        layer = self.layer()
        rows = np.arange(layer.units)
        placed = self.hinges(stage, layer, rows, state)
        unit = self.pen.one(stage, spare(placed.at, stage.width))
        return self.after(self.following(), placed, stage.times, stage.width, unit)

    def hinges(self, stage: Plain, layer: Layer, rows: np.ndarray, state: Registers) -> Placing:
        """Write some units of a layer into a stage; return where."""
        placed = self.placed(stage, layer, rows, stage.slope, stage.cap, stage.map)
        if not self.pen.skips(stage):
            unit, scaled = self.pen.unit(layer, state), placed.rows
            constant = scaled @ state.offset[rows] + stage.start
            self.pen.write(stage, scaled @ state.read[rows], constant, placed.at, unit, placed.shift)
        return moved(stage, placed)

    def placed(
        self, stage: Plain | Branch, layer: Layer, rows: np.ndarray, slope: float, cap: float, name: str
    ) -> Placing:
        """Return which channels of a stage, called ``name``, some units of the last layer take."""
        expand, back = self.units_of(layer, self.pen.slope(slope), rows)
        count = expand.shape[0]
        self.pen.require(count, stage.room, name)
        top = np.asarray(abs(expand) @ self.sizes[self.next - 1][rows])
        factor = self.pen.factor(top, cap)
        if layer.role == "spline" and count:
            factor[:] = factor.min()  # all read one register, as the proof wants to see
        recover = (back @ sp.diags(1 / factor)).tocsr()
        found = single((sp.diags(factor) @ expand).tocsr(), recover, np.arange(count), factor * top)
        return among_groups(layer, rows, expand, found, stage.width, stage.shared, cap) if stage.shared else found

    def copy(self, stage: Plain, state: Registers) -> Registers:
        """Carry what is needed through a stage that computes nothing: no activation, or grouped."""
        require_bent(state, stage.map)
        needed = state.needed
        if stage.groups > 1 and stage.shared:
            raise CapacityError(
                f"'{stage.map}' is grouped, so that it cannot make the mean 0 that '{stage.norms[0]}' takes; use"
                " BatchNorm there"
            )
        if stage.groups > 1:
            to = self.in_groups(stage, needed)
            parts = sp.csr_matrix(
                (np.ones(len(needed)), (np.arange(len(needed)), needed)), (len(needed), state.channels)
            )
            mix = state.read[:, needed].tocsr()
        else:
            found = compress(state.read)
            parts, mix = found.parts, found.mix
            self.pen.require(parts.shape[0], stage.room, stage.map)
            to = stage.slots(parts.shape[0])
        top = np.asarray(parts @ state.top)
        factor = power_of_two(top, stage.cap)
        self.pen.write(stage, (sp.diags(factor) @ parts).tocsr(), np.zeros(len(to)), to)
        factor = stage.times * factor
        read = embed((mix @ sp.diags(1 / factor)).tocsr(), np.arange(mix.shape[0]), to, (mix.shape[0], stage.width))
        empty, tops = np.ones(stage.width, dtype=bool), np.zeros(stage.width)
        empty[to], tops[to] = False, factor * top
        unit = self.pen.one(stage, int(np.flatnonzero(empty)[-1])) if empty.any() else None
        if unit is not None:
            empty[unit], tops[unit] = False, self.pen.gain
        none = np.zeros(stage.width)
        return Registers(read, state.offset, empty, tops, none, np.zeros(stage.width, dtype=bool), unit)

    def in_groups(self, stage: Plain, channels: np.ndarray) -> np.ndarray:
        """Return a channel of the same group for each channel."""
        inside, outside = stage.inputs // stage.groups, stage.width // stage.groups
        group = channels // inside
        place = np.zeros(len(channels), dtype=int)
        for number in np.unique(group):
            mine = np.flatnonzero(group == number)
            if len(mine) > outside:
                raise CapacityError(
                    f"'{stage.map}' has {outside} channels a group and {len(mine)} registers to carry in one of them;"
                    " lower the resolution or widen it"
                )
            place[mine] = number * outside + np.arange(len(mine))
        return place

    def entry(self, entry: Entry, state: Registers) -> Registers:
        """Carry all channels through norms and activations; constants that wait for a norm go into the first."""
        raw = state.raw
        used = ~state.empty
        if state.unit is not None:
            used[state.unit] = False
        for name in entry.norms:
            self.pen.require_large(name, state.top[used])
            constant = raw.copy()
            if state.unit is not None:
                constant[state.unit] = self.pen.gain
            self.pen.set_norm(name, used, constant)
            raw = np.zeros(state.channels)
        if (state.top > entry.cap).any():
            raise CapacityError(f"registers up to {state.top.max():.3g} meet an activation that stops at {entry.cap:g}")
        if entry.norms:
            state = replace(state, raw=np.zeros(state.channels))
        return replace(state, waits=np.zeros(state.channels, dtype=bool)) if entry.acts else state

    def scaled(self, piece: Scale, state: Registers) -> Registers:
        """Read registers through a constant factor."""
        if state.waits.any() or state.raw.any():
            raise CapacityError("a gate multiplies registers that wait for an activation; put it behind that")
        read = (state.read / piece.times).tocsr()
        return replace(state, read=read, top=state.top * piece.times, unit=None)


def moved(stage: Plain, placed: Placing) -> Placing:
    """Return where units are behind an activation that is low + rise·min(relu(t − start), cap)."""
    if not stage.clips:
        return placed
    back = (placed.back / stage.rise).tocsr()
    level = placed.level - stage.low * np.asarray(back.sum(axis=1)).ravel()
    top = np.maximum(abs(stage.low), np.abs(stage.low + stage.rise * placed.top))
    return replace(placed, back=back, level=level, top=top)


def spare(taken: np.ndarray, width: int) -> int:
    """Return the first channel that is not taken, ``width`` if all are."""
    free = np.ones(width + 1, dtype=bool)
    free[taken] = False
    return int(np.flatnonzero(free)[0])


def injection(stages: Stages, model: nn.Module) -> str:
    """Return the parameter that the coordinates move: the first map's bias, or its norm's β where it has none.

    Raises:
        CapacityError: If there is neither.
    """
    first, modules = stages.first, dict(model.named_modules())
    if first.shared:  # the norm takes the mean of what the map emits
        return f"{first.norms[0]}.bias"
    if getattr(modules[first.map], "bias", None) is not None:
        return f"{first.map}.bias"
    if first.norms:
        return f"{first.norms[0]}.bias"
    raise CapacityError(
        f"layer '{first.map}' has no bias that the pattern is injected into, and no BatchNorm after it; use bias=True"
    )
