"""Write a `Program` into the stages of a network: which register goes to which channel.

One program layer to each stage with room. At a `Plain` stage all units of the layer take channels of their own. Beside
a `Branch` the carried units stay where they are on the identity path (a register is a *reading* of channels, so nothing
moves), the others are computed in the branch, and its last map writes what the next layer reads of them: a functional
that is added to a register goes onto that register's channel, any other into an empty channel. Everything that is not
used is zero: weights, gains and constants, so channels left alone are exactly zero.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor, nn

from landform.errors import CapacityError
from landform.imprint.lower.linear import Lowered
from landform.imprint.lower.pen import LARGE, Pen
from landform.imprint.lower.registers import (
    Functionals,
    Registers,
    compress,
    embed,
    power_of_two,
    require_bent,
    same_column,
    shifted,
    unit_bounds,
)
from landform.imprint.lower.stages import Branch, Entry, Plain, Scale, Shift, Stages
from landform.program.bend import padded
from landform.program.program import Layer, Program

FEW = 16  # functionals for which a register to add them to is looked for


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
        writer = _Writer(stages, program, model, _pen(stages, model))
        registers = writer.run()
    except CapacityError:  # without channels that are one there is more room, and more rounding
        writer = _Writer(stages, program, model, _pen(stages, model, ones=False))
        registers = writer.run()
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
        _Writer(stages, program, model, _pen(stages, model, dry=True, ones=False)).run()

    return check


def _pen(stages: Stages, model: nn.Module, *, dry: bool = False, ones: bool = True) -> Pen:
    gain = LARGE[next(model.parameters()).dtype] if stages.smooth else 1.0
    return Pen(model, stages.maps, gain, dry=dry, ones=ones)


@dataclass
class _Writer:
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

    def run(self) -> Registers:
        """Write every piece; return how the heads read the last tensor."""
        state = self._inject()
        for piece in self.stages.pieces[1:]:
            if isinstance(piece, Plain):
                state = self._plain(piece, state) if piece.bends else self._copy(piece, state)
            elif isinstance(piece, Entry):
                state = self._entry(piece, state)
            elif isinstance(piece, Scale):
                state = self._scaled(piece, state)
            elif isinstance(piece, Shift):
                state = shifted(piece.offset, piece.width, state)
            else:
                state = self._branch(piece, state)
        return state

    # --- layers of the program ------------------------------------------------------------------------------------

    def _layer(self) -> Layer:
        layer = self.program.layers[self.next]
        self.next += 1
        return layer

    def _following(self) -> Layer:
        return self.program.layers[self.next] if self.next < len(self.program.layers) else self.program.readout

    def _units(self, layer: Layer, slope: float, rows: np.ndarray) -> tuple[sp.csr_matrix, sp.csr_matrix]:
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

    def _inject(self) -> Registers:
        """Set the first stage to zero weights and let its constants be the coordinates."""
        stage, layer = self.stages.first, self._layer()
        if stage.slope == 1.0 and not layer.carried.all():
            raise CapacityError("the first stage has no activation, so it can only carry h; use axis_aligned=True")
        rows = np.arange(layer.units)
        expand, back = self._units(layer, self.pen.slope(stage.slope), rows)
        count = expand.shape[0]
        self.pen.require(count, stage.width, stage.map)
        top = np.asarray(abs(expand) @ self.sizes[0])
        factor = self.pen.factor(top, stage.cap)
        scaled = sp.diags(factor) @ expand
        name = injection(self.stages, self.model)
        if not self.pen.dry:
            size = dict(self.model.named_parameters())[name].shape[0]
            constant = np.zeros(size)
            constant[:count] = scaled @ layer.bias
            dense = np.zeros((size, self.program.z))
            dense[:count] = (scaled @ layer.weight).toarray()
            self.directions = tuple(
                {name: torch.from_numpy(dense[:, i].copy()).to(self.pen.dtype)} for i in range(self.program.z)
            )
            self.pen.silence(stage.map)
            used, shift = np.arange(stage.width) < count, np.zeros(stage.width)
            inside = name == f"{stage.map}.bias"  # then the norms are identities; else the first one is the constant
            for position, norm in enumerate(stage.norms):
                if inside or position:
                    self.pen.set_norm(norm, used, shift)
                else:
                    self.pen.silence(norm)
            self.pen.parameters[name] = torch.from_numpy(constant).to(self.pen.dtype)
        recover = (back @ sp.diags(1 / (stage.times * factor))).tocsr()
        tops = stage.times * factor * top
        return self._after(self._following(), recover, tops, stage.width, self.pen.one(stage, count))

    def _after(
        self, layer: Layer, recover: sp.csr_matrix, top: np.ndarray, width: int, unit: int | None = None
    ) -> Registers:
        """Return how a layer reads channels from which the units before it are recovered; the rest is empty."""
        count = recover.shape[1]
        read = embed((layer.weight @ recover).tocsr(), np.arange(layer.units), np.arange(count), (layer.units, width))
        tops = np.zeros(width)
        tops[:count] = top
        empty, none = np.arange(width) >= count, np.zeros(width)
        if unit is not None:
            empty[unit], tops[unit] = False, self.pen.gain
        return Registers(read, layer.bias.astype(float), empty, tops, none, np.zeros(width, dtype=bool), unit)

    def _plain(self, stage: Plain, state: Registers) -> Registers:
        """Write all units of a layer into channels of their own."""
        require_bent(state, stage.map)
        layer = self._layer()
        rows = np.arange(layer.units)
        back, top = self._hinges(stage, layer, rows, state)
        unit = self.pen.one(stage, back.shape[1])
        return self._after(self._following(), back, top, stage.width, unit)

    def _hinges(
        self, stage: Plain, layer: Layer, rows: np.ndarray, state: Registers
    ) -> tuple[sp.csr_matrix, np.ndarray]:
        """Write some units of a layer into the first channels of a stage; return how to recover them, and bounds."""
        expand, back = self._units(layer, self.pen.slope(stage.slope), rows)
        self.pen.require(expand.shape[0], stage.width, stage.map)
        top = np.asarray(abs(expand) @ self.sizes[self.next - 1][rows])
        factor = self.pen.factor(top, stage.cap)
        scaled = (sp.diags(factor) @ expand).tocsr()
        self.pen.write(stage, scaled @ state.read[rows], scaled @ state.offset[rows], self.pen.unit(layer, state))
        return (back @ sp.diags(1 / (stage.times * factor))).tocsr(), stage.times * factor * top

    def _copy(self, stage: Plain, state: Registers) -> Registers:
        """Carry what is needed through a stage that computes nothing: no activation, or grouped."""
        require_bent(state, stage.map)
        needed = state.needed
        if stage.groups > 1:
            to = self._in_groups(stage, needed)
            parts = sp.csr_matrix(
                (np.ones(len(needed)), (np.arange(len(needed)), needed)), (len(needed), state.channels)
            )
            mix = state.read[:, needed].tocsr()
        else:
            found = compress(state.read)
            parts, mix, to = found.parts, found.mix, np.arange(found.parts.shape[0])
        self.pen.require(len(to), stage.width, stage.map)
        top = np.asarray(parts @ state.top)
        factor = power_of_two(top, stage.cap)
        rows = embed((sp.diags(factor) @ parts).tocsr(), to, np.arange(state.channels), (stage.width, state.channels))
        self.pen.write(stage, rows, np.zeros(stage.width))
        factor = stage.times * factor
        read = embed((mix @ sp.diags(1 / factor)).tocsr(), np.arange(mix.shape[0]), to, (mix.shape[0], stage.width))
        empty, tops = np.ones(stage.width, dtype=bool), np.zeros(stage.width)
        empty[to], tops[to] = False, factor * top
        unit = self.pen.one(stage, int(np.flatnonzero(empty)[-1])) if empty.any() else None
        if unit is not None:
            empty[unit], tops[unit] = False, self.pen.gain
        none = np.zeros(stage.width)
        return Registers(read, state.offset, empty, tops, none, np.zeros(stage.width, dtype=bool), unit)

    def _in_groups(self, stage: Plain, channels: np.ndarray) -> np.ndarray:
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

    def _entry(self, entry: Entry, state: Registers) -> Registers:
        """Carry all channels through norms and activations; constants that wait for a norm go into the first."""
        raw = state.raw
        used = ~state.empty
        if state.unit is not None:
            used[state.unit] = False
        for name in entry.norms:
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

    def _scaled(self, piece: Scale, state: Registers) -> Registers:
        """Read registers through a constant factor."""
        if state.waits.any() or state.raw.any():
            raise CapacityError("a gate multiplies registers that wait for an activation; put it behind that")
        read = (state.read / piece.times).tocsr()
        return replace(state, read=read, top=state.top * piece.times, unit=None)

    def _branch(self, piece: Branch, state: Registers) -> Registers:
        """Write a branch and what goes beside it."""
        layer = self._layer() if piece.units else None
        through = self._entry(piece.entry, state)
        if layer is None:
            for stage in (*piece.hidden, piece.exit):
                self.pen.silence_stage(stage)
            if piece.skip is None:
                return self._placed(piece, state)
            if not piece.joins:
                return self._copy(piece.skip, state)
            return self._joined(piece, piece.skip, state, None)
        new, kept = np.flatnonzero(~layer.carried), np.flatnonzero(layer.carried)
        following = self._following()
        pre = following.weight[:, kept] @ state.read[kept]
        offset = following.bias + following.weight[:, kept] @ state.offset[kept]
        rows = following.weight[:, new].tocsr()
        beside = replace(state, read=pre.tocsr(), offset=offset)
        if not piece.hidden:
            return self._appended(piece, layer, new, rows, through, beside)
        require_bent(through, piece.hidden[0].map)
        back, top = self._hinges(piece.hidden[0], layer, new, through)
        back = self._carried_on(piece, back, top)
        if piece.joins and piece.skip is not None:
            return self._joined(piece, piece.skip, beside, (rows @ back).tocsr())
        return self._summed(piece, beside, rows, back, self.sizes[self.next - 1][new])

    def _carried_on(self, piece: Branch, back: sp.csr_matrix, top: np.ndarray) -> sp.csr_matrix:
        """Carry the branch's units through its other stages; return how they are recovered from the last."""
        for stage in piece.hidden[1:]:
            rows = sp.identity(back.shape[1], format="csr")
            if self.stages.per_hinge > 1 and stage.groups == 1:  # a leaky pair is joined first: no sign survives
                rows, back = back, sp.identity(back.shape[0], format="csr")
            elif self.stages.per_hinge > 1:
                raise CapacityError(
                    f"'{stage.map}' is grouped behind a leaky activation, and would bend its units again"
                )
            count = rows.shape[0]
            if stage.groups > 1 and not np.array_equal(self._in_groups(stage, np.arange(count)), np.arange(count)):
                raise CapacityError(f"'{stage.map}' moves registers between groups; landform needs them in place")
            self.pen.require(count, stage.width, stage.map)
            self.pen.write(
                stage, embed(rows, np.arange(count), np.arange(rows.shape[1]), (count, stage.inputs)), np.zeros(count)
            )
            if (top > stage.cap).any():
                raise CapacityError(f"registers up to {top.max():.3g} meet an activation that stops at {stage.cap:g}")
            back, top = (back / stage.times).tocsr(), top * stage.times
        return back

    def _joined(self, piece: Branch, skip: Plain, beside: Registers, read: sp.csr_matrix | None) -> Registers:
        """Write the stage after a sum of two maps: all units of a layer, reading both paths."""
        require_bent(beside, skip.map)
        layer = self._layer()
        rows = np.arange(layer.units)
        expand, back = self._units(layer, self.pen.slope(piece.slope), rows)
        self.pen.require(expand.shape[0], piece.width, piece.exit.map)
        top = np.asarray(abs(expand) @ self.sizes[self.next - 1])
        factor = self.pen.factor(top, piece.cap)
        scaled = (sp.diags(factor) @ expand).tocsr()
        self.pen.write(skip, scaled @ beside.read, scaled @ beside.offset, self.pen.unit(layer, beside))
        if read is not None:
            self.pen.write_wide(piece.exit, (scaled @ read / piece.exit.times).tocsr())
        recover = (back @ sp.diags(1 / factor)).tocsr()
        unit = self.pen.one(skip, expand.shape[0])
        return self._after(self._following(), recover, factor * top, piece.width, unit)

    def _summed(
        self, piece: Branch, beside: Registers, rows: sp.csr_matrix, back: sp.csr_matrix, sizes: np.ndarray
    ) -> Registers:
        """Write what the next layer reads of the branch's units into the stream: onto a register, or beside it."""
        placed = self._copy(piece.skip, beside) if piece.skip is not None else self._placed(piece, beside)
        found = compress(rows)
        count = found.parts.shape[0]
        if not count:
            self.pen.silence_stage(piece.exit)
            return placed
        window = np.zeros(piece.width, dtype=bool)
        window[piece.written : piece.written + piece.exit.width] = True
        place = self._places(piece, placed, found, window)
        bounds, fresh = np.asarray(found.parts @ sizes), placed.empty[place]
        factor = np.where(fresh, self.pen.factor(bounds, piece.cap), self.pen.gain)
        tops, empty = placed.top.copy(), placed.empty.copy()
        tops[place] += bounds * factor
        empty[place] = False
        if (tops > piece.cap).any():
            raise CapacityError(f"registers up to {tops.max():.3g} meet an activation that stops at {piece.cap:g}")
        full = embed(found.parts, place - piece.written, np.arange(len(sizes)), (piece.exit.width, len(sizes)))
        gains = np.zeros(piece.exit.width)
        gains[place - piece.written] = factor
        self.pen.write_wide(piece.exit, (sp.diags(gains / piece.exit.times) @ full @ back).tocsr())
        wanted = (found.mix[:, fresh] @ sp.diags(1 / factor[fresh])).tocsr()
        added = embed(wanted, np.arange(wanted.shape[0]), place[fresh], placed.read.shape)
        return replace(placed, read=(placed.read + added).tocsr(), empty=empty, top=tops)

    def _places(self, piece: Branch, placed: Registers, found: Functionals, window: np.ndarray) -> np.ndarray:
        """Choose a channel for each functional."""
        count = found.parts.shape[0]
        free = list(np.flatnonzero(placed.empty & window))
        columns, mix = placed.read.tocsc(), found.mix.tocsc()
        place = np.full(count, -1)
        for part in range(count):
            if piece.merge == "add" and count <= FEW:  # only sums are few
                place[part] = same_column(columns, mix[:, [part]] / self.pen.gain, placed, window, place)
            if place[part] < 0:
                if not free:
                    raise CapacityError(
                        f"'{piece.exit.map}' has no empty channel left for the {count} registers that it must write;"
                        " lower the resolution, choose another form, or widen it"
                    )
                place[part] = free.pop(0)
        return place

    def _appended(
        self, piece: Branch, layer: Layer, new: np.ndarray, rows: sp.csr_matrix, through: Registers, beside: Registers
    ) -> Registers:
        """Write pre-activations into the new channels of a concatenation; every later activation bends them."""
        expand, back = self._units(layer, self.pen.slope(piece.entry.slope), new)
        count = expand.shape[0]
        self.pen.require(count, piece.exit.width, piece.exit.map)
        top = np.asarray(abs(expand) @ self.sizes[self.next - 1][new])
        factor = self.pen.factor(top, piece.entry.cap)
        times = piece.exit.times
        scaled = (sp.diags(factor / times) @ expand).tocsr()
        constant = scaled @ through.offset[new]
        waiting, unit = np.zeros(piece.exit.width), self.pen.unit(layer, through)
        if piece.exit.norms or self.pen.has_bias(piece.exit.map) or unit is not None:
            self.pen.write(piece.exit, scaled @ through.read[new], constant, unit)
        else:
            self.pen.write(piece.exit, scaled @ through.read[new], np.zeros(count))
            waiting[:count] = times * constant
        placed = self._placed(piece, beside)
        at = piece.written + np.arange(count)
        read = (rows @ back @ sp.diags(1 / factor)).tocsr()
        empty, tops, raw = placed.empty.copy(), placed.top.copy(), placed.raw.copy()
        waits = placed.waits.copy()
        empty[at], tops[at], waits[at] = False, factor * top, True
        raw[piece.written : piece.written + piece.exit.width] = waiting
        added = embed(read, np.arange(read.shape[0]), at, placed.read.shape)
        return replace(placed, read=(placed.read + added).tocsr(), empty=empty, top=tops, raw=raw, waits=waits)

    def _placed(self, piece: Branch, state: Registers) -> Registers:
        """Return the registers of the identity path where they lie after the merge."""
        return state if piece.width == state.channels else shifted(piece.offset, piece.width, state)


def injection(stages: Stages, model: nn.Module) -> str:
    """Return the parameter that the coordinates move: the first map's bias, or its norm's β where it has none.

    Raises:
        CapacityError: If there is neither.
    """
    first, modules = stages.first, dict(model.named_modules())
    if getattr(modules[first.map], "bias", None) is not None:
        return f"{first.map}.bias"
    if first.norms:
        return f"{first.norms[0]}.bias"
    raise CapacityError(
        f"layer '{first.map}' has no bias that the pattern is injected into, and no BatchNorm after it; use bias=True"
    )
