"""Write beside an identity path: a residual branch, or new channels of a concatenation.

The carried units stay where they are on the identity path (a register is a *reading* of channels, so nothing moves),
the others are computed in the branch, and its last map writes what the next layer reads of them: a functional that is
added to a register goes onto that register's channel, any other into an empty channel.
"""

from dataclasses import replace

import numpy as np
import scipy.sparse as sp

from landform.errors import CapacityError
from landform.imprint.lower.placing import Placing
from landform.imprint.lower.registers import (
    Functionals,
    Registers,
    compress,
    embed,
    require_bent,
    same_column,
    shifted,
)
from landform.imprint.lower.stages import Branch, Plain
from landform.imprint.lower.writer import Writer, spare
from landform.program.program import Layer

FEW = 16  # functionals for which a register to add them to is looked for


def write_branch(writer: Writer, piece: Branch, state: Registers) -> Registers:
    """Write a branch and what goes beside it."""
    layer = writer.layer() if piece.units else None
    through = writer.entry(piece.entry, state)
    if layer is None:
        for stage in (*piece.hidden, piece.exit):
            writer.pen.silence_stage(stage)
        if piece.skip is None or not piece.joins:
            return _require_below_cap(piece, _beside(writer, piece, state))
        return _joined(writer, piece, piece.skip, state, None)
    new, kept = np.flatnonzero(~layer.carried), np.flatnonzero(layer.carried)
    following = writer.following()
    pre = following.weight[:, kept] @ state.read[kept]
    offset = following.bias + following.weight[:, kept] @ state.offset[kept]
    rows = following.weight[:, new].tocsr()
    beside = replace(state, read=pre.tocsr(), offset=offset)
    if not piece.hidden:
        return _appended(writer, piece, layer, new, rows, through, beside)
    require_bent(through, piece.hidden[0].map)
    back = _carried_on(writer, piece, writer.hinges(piece.hidden[0], layer, new, through))
    if piece.joins and piece.skip is not None:
        return _joined(writer, piece, piece.skip, beside, (rows @ back).tocsr())
    return _summed(writer, piece, beside, rows, back, writer.sizes[writer.next - 1][new])


def _carried_on(writer: Writer, piece: Branch, placed: Placing) -> sp.csr_matrix:
    """Carry the branch's units through its other stages; return how they are recovered from the last one's channels."""
    times = piece.hidden[0].times
    back, top, at = (placed.back / times).tocsr(), placed.top * times, placed.at
    for stage in piece.hidden[1:]:
        rows = sp.identity(back.shape[1], format="csr")
        if writer.stages.per_hinge > 1 and stage.groups == 1:  # a leaky pair is joined first: no sign survives
            rows, back = back, sp.identity(back.shape[0], format="csr")
        elif writer.stages.per_hinge > 1:
            raise CapacityError(f"'{stage.map}' is grouped behind a leaky activation, and would bend its units again")
        count = rows.shape[0]
        if stage.groups > 1 and stage.shared:
            raise CapacityError(
                f"'{stage.map}' is grouped, so that it cannot make the mean 0 that '{stage.norms[0]}' takes; use"
                " BatchNorm there"
            )
        if stage.groups > 1 and not np.array_equal(writer.in_groups(stage, at), at):
            raise CapacityError(f"'{stage.map}' moves registers between groups; landform needs them in place")
        to = at if stage.groups > 1 else stage.slots(count)
        writer.pen.require(count, stage.room, stage.map)
        read = embed(rows, np.arange(count), at, (count, stage.inputs))
        writer.pen.write(stage, read, np.zeros(count), to)
        at = to
        if (top > stage.cap).any():
            raise CapacityError(f"registers up to {top.max():.3g} meet an activation that stops at {stage.cap:g}")
        back, top = (back / stage.times).tocsr(), top * stage.times
    return embed(back, np.arange(back.shape[0]), at, (back.shape[0], piece.exit.inputs))


def _joined(writer: Writer, piece: Branch, skip: Plain, beside: Registers, read: sp.csr_matrix | None) -> Registers:
    """Write the stage after a sum of two maps: all units of a layer, reading both paths."""
    require_bent(beside, skip.map)
    layer = writer.layer()
    rows = np.arange(layer.units)
    placed = writer.placed(piece, layer, rows, piece.slope, piece.cap, piece.exit.map or skip.map)
    scaled, at, unit = placed.rows, placed.at, writer.pen.unit(layer, beside)
    writer.pen.write(skip, scaled @ beside.read, scaled @ beside.offset, at, unit, placed.shift)
    if read is not None:
        writer.pen.write_wide(piece.exit, (scaled @ read / piece.exit.times).tocsr(), at)
    return writer.after(writer.following(), placed, 1.0, piece.width, writer.pen.one(skip, spare(at, piece.width)))


def _summed(
    writer: Writer, piece: Branch, beside: Registers, rows: sp.csr_matrix, back: sp.csr_matrix, sizes: np.ndarray
) -> Registers:
    """Write what the next layer reads of the branch's units into the stream: onto a register, or beside it."""
    placed = _beside(writer, piece, beside)
    found = compress(rows)
    count = found.parts.shape[0]
    if not count:
        writer.pen.silence_stage(piece.exit)
        return _require_below_cap(piece, placed)
    window = np.zeros(piece.width, dtype=bool)
    window[piece.written : piece.written + piece.exit.width] = True
    place = _places(writer, piece, placed, found, window)
    bounds, fresh = np.asarray(found.parts @ sizes), placed.empty[place]
    factor = np.where(fresh, writer.pen.factor(bounds, piece.cap), writer.pen.gain)
    tops, empty = placed.top.copy(), placed.empty.copy()
    tops[place] += bounds * factor
    empty[place] = False
    _require_below_cap(piece, replace(placed, top=tops))
    if not writer.pen.skips(piece.exit):
        full = embed(found.parts, place - piece.written, np.arange(len(sizes)), (piece.exit.width, len(sizes)))
        gains = np.zeros(piece.exit.width)
        gains[place - piece.written] = factor
        written = (sp.diags(gains / piece.exit.times) @ full @ back).tocsr()
        writer.pen.write_wide(piece.exit, written, np.arange(piece.exit.width))
    wanted = (found.mix[:, fresh] @ sp.diags(1 / factor[fresh])).tocsr()
    added = embed(wanted, np.arange(wanted.shape[0]), place[fresh], placed.read.shape)
    return replace(placed, read=(placed.read + added).tocsr(), empty=empty, top=tops)


def _beside(writer: Writer, piece: Branch, state: Registers) -> Registers:
    """Carry registers past a branch: through a map, small enough for what bends the sum, or where they are."""
    if piece.skip is None:
        return _placed(piece, state)
    return writer.copy(replace(piece.skip, cap=min(piece.skip.cap, piece.cap)), state)


def _require_below_cap(piece: Branch, placed: Registers) -> Registers:
    """Refuse registers that an activation behind the sum would cut off."""
    if (placed.top > piece.cap).any():
        raise CapacityError(f"registers up to {placed.top.max():.3g} meet an activation that stops at {piece.cap:g}")
    return placed


def _places(writer: Writer, piece: Branch, placed: Registers, found: Functionals, window: np.ndarray) -> np.ndarray:
    """Choose a channel for each functional."""
    count = found.parts.shape[0]
    free = list(np.flatnonzero(placed.empty & window))
    columns, mix = placed.read.tocsc(), found.mix.tocsc()
    place = np.full(count, -1)
    shared = piece.exit.shared or 1
    left = np.full(piece.exit.width // shared, max(piece.exit.shared - 1, 1))  # channels that a group may still write
    if piece.exit.shared:  # evenly and neighbours beside each other, as in `slots`
        even = piece.written + np.arange(piece.exit.width).reshape(-1, shared).T.reshape(-1)
        even = even[np.isin(even, free)]
        free = [*np.sort(even[:count]), *even[count:]]
    for part in range(count):
        if piece.merge == "add" and count <= FEW:  # only sums are few
            place[part] = same_column(columns, mix[:, [part]] / writer.pen.gain, placed, window, place)
            if place[part] >= 0 and not left[(place[part] - piece.written) // shared]:
                place[part] = -1
        if place[part] < 0:
            while free and not left[(free[0] - piece.written) // shared]:
                free.pop(0)
            if not free:
                raise CapacityError(
                    f"'{piece.exit.map}' has no empty channel left for the {count} registers that it must write;"
                    " lower the resolution, choose another form, or widen it"
                )
            place[part] = free.pop(0)
        left[(place[part] - piece.written) // shared] -= 1
    return place


def _appended(
    writer: Writer,
    piece: Branch,
    layer: Layer,
    new: np.ndarray,
    rows: sp.csr_matrix,
    through: Registers,
    beside: Registers,
) -> Registers:
    """Write pre-activations into the new channels of a concatenation; every later activation bends them."""
    expand, back = writer.units_of(layer, writer.pen.slope(piece.entry.slope), new)
    count = expand.shape[0]
    writer.pen.require(count, piece.exit.room, piece.exit.map)
    top = np.asarray(abs(expand) @ writer.sizes[writer.next - 1][new])
    factor = writer.pen.factor(top, piece.entry.cap)
    times = piece.exit.times
    scaled = (sp.diags(factor / times) @ expand).tocsr()
    constant = scaled @ through.offset[new]
    own = piece.exit.slots(count)
    waiting, unit = np.zeros(piece.exit.width), writer.pen.unit(layer, through)
    if piece.exit.norms or writer.pen.has_bias(piece.exit.map) or unit is not None:
        writer.pen.write(piece.exit, scaled @ through.read[new], constant, own, unit)
    else:
        writer.pen.write(piece.exit, scaled @ through.read[new], np.zeros(count), own)
        waiting[own] = times * constant
    placed = _placed(piece, beside)
    at = piece.written + own
    read = (rows @ back @ sp.diags(1 / factor)).tocsr()
    empty, tops, raw = placed.empty.copy(), placed.top.copy(), placed.raw.copy()
    waits = placed.waits.copy()
    empty[at], tops[at], waits[at] = False, factor * top, True
    raw[piece.written : piece.written + piece.exit.width] = waiting
    added = embed(read, np.arange(read.shape[0]), at, placed.read.shape)
    return replace(placed, read=(placed.read + added).tocsr(), empty=empty, top=tops, raw=raw, waits=waits)


def _placed(piece: Branch, state: Registers) -> Registers:
    """Return the registers of the identity path where they lie after the merge."""
    return state if piece.width == state.channels else shifted(piece.offset, piece.width, state)
