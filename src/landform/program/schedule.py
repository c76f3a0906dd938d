"""Scheduling: spread the units of a pattern over layers of given widths, so that depth buys resolution.

Two schedules for hats (all registers are ≥ 0, so a ReLU carries them unchanged):

- **carry**: one layer of hinges; the layers after it carry the hinges and an accumulator, and spend what is left on
  hats;
- **recompute**: every layer carries only (h, accumulator); hinges are made again for each chunk of hats, while the hats
  of the chunk before are summed. Width about 4 + z + channels suffices for any resolution, depth grows with it.

Strips and sums carry theirs likewise. A schedule uses a prefix of the widths it is given; what it packs is a lower
bound on what the widths can hold.
"""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from landform.errors import CapacityError
from landform.program.basis import Basis
from landform.program.hats import Block, HatFamily, resolve
from landform.program.program import Layer, Program, Stack, Units
from landform.program.room import Room, Width, rooms
from landform.program.strips import hinge_keys, hinge_units, strips

MANY_HINGES = 256  # a sum of more hinges than this gets a layer with one register an axis, if there is one


@dataclass(frozen=True)
class Open:
    """A stack whose pattern register is still an affine read of its last layer: ``Σ block @ group + bias``."""

    stack: Stack
    terms: list[tuple[str, np.ndarray]]
    bias: np.ndarray
    schedule: str

    @property
    def layers(self) -> int:
        """Layers used after the injection."""
        return len(self.stack.layers) - 1

    @property
    def begins(self) -> int:
        """Layers that carry h before anything is computed."""
        behind = self.stack.layers[1:]
        return next((number for number, layer in enumerate(behind) if layer.role != "carry"), len(behind))


def closed(state: Open) -> Program:
    """Return the program whose output is the register itself."""
    return state.stack.finish(state.terms, bias=state.bias, form="", schedule="", basis=0)


def _accumulator(state: Open, channels: int, top: np.ndarray | float) -> Units:
    """Return the group that sums what has been read so far into one carried register a channel, at most ``top``."""
    terms: list[tuple[str, np.ndarray | None, np.ndarray | float]] = [(g, None, block) for g, block in state.terms]
    return Units("sum", channels, terms, state.bias, carried=True, top=top)


class LeftOverError(CapacityError):
    """Something is left after the last layer: beginning later cannot help."""


def _need(what: str, layer: int, wanted: int, width: int) -> CapacityError:
    return CapacityError(
        f"{what} needs {wanted} units in hidden layer {layer + 2}, which has {width}; lower the resolution, choose"
        " another form, or use a wider or deeper network"
    )


def delayed(
    make: Callable[[Sequence[Width]], Open],
    widths: Sequence[Width],
    z: int,
    check: Callable[[Open], None] | None = None,
    begin: int = 0,
    late: bool = False,
) -> Open:
    """Schedule as early as possible, carrying h through layers that are too narrow to begin in; or as late.

    Args:
        make: Schedules from a first layer on.
        widths: Rooms of the hidden layers after the injection.
        z: Coordinates to carry.
        check: Raises `CapacityError` where a schedule does not fit for other reasons than its units.
        begin: A number of layers to carry h through that is likely to do; it is tried first.
        late: Begin in the last layer in which one can: where layers average over positions, the last have fewest.

    Returns:
        The open stack, with the layers that carry h.

    Raises:
        CapacityError: As the first try, if none fits.
    """

    def tried(start: int) -> Open:
        state = make(widths[start:])
        identity = Layer(sp.identity(z, format="csr"), np.zeros(z), np.ones(z, dtype=bool), "carry")
        state.stack.layers[1:1] = [identity] * start
        if check is not None:
            check(state)
        return state

    every = rooms(widths)
    if 0 < begin < len(every) and all(room.holds(z, 0) for room in every[:begin]):
        with contextlib.suppress(CapacityError):
            return tried(begin)
    first: CapacityError | None = None
    carry = next((n for n, room in enumerate(every) if not room.holds(z, 0)), len(every))
    for start in range(min(carry, len(every) - 1), 0, -1) if late else ():
        with contextlib.suppress(CapacityError):
            return tried(start)
    for start in range(len(widths)):
        if start and not every[start - 1].holds(z, 0):
            break
        try:
            return tried(start)
        except CapacityError as error:
            first = first or error
            if isinstance(error, LeftOverError):
                break
    if first is None:
        return make(widths)
    raise first


def hats_by_carrying(basis: Basis, widths: Sequence[Width], per_hinge: int = 1) -> Open:
    """Schedule hats with the hinges carried along (z = 1, 2; z = 3, 4 when the whole pattern fits one block).

    Args:
        basis: The hats.
        widths: Units of the hidden layers after the injection.
        per_hinge: Network units that a ReLU takes: 1, or 2 in a LeakyReLU network.

    Returns:
        The open stack; it has used the first ``.layers`` widths.

    Raises:
        CapacityError: If the widths do not hold the pattern.
    """
    family = HatFamily(basis.mesh.cells, clear=basis.clear, corner=basis.corner)
    block = family.block(basis.index, basis.step)
    carried, hinges = block.hinge_units()
    every = rooms(widths)
    if not every or not every[0].holds(carried, hinges, per_hinge):
        raise _need("the hinge layer", 0, carried + per_hinge * hinges, every[0].units if every else 0)
    stack = Stack(family.z)
    stack.add("hinges", family.hinge_layer(block.hinges))
    if family.z > 2:
        return _one_block(stack, block, basis, every, per_hinge)
    total, done = basis.size, 0
    state = Open(stack, [], basis.offset.copy(), "hinges carried through {} layer(s) of hats")
    for number, width in enumerate(every[1:], start=1):
        sums = basis.channels if done else 0
        last = width.holds(sums, total - done, per_hinge)
        room = total - done if last else width.left(sums + carried + hinges) // per_hinge
        if room <= 0 and not last:
            raise _need("carrying the hinges", number, carried + hinges + sums + per_hinge, width.units)
        part = slice(done, done + min(room, total - done))
        state = _add_hats(state, family, block.hinges, basis, part, keep=() if last else tuple(block.hinges))
        done = part.stop
        if last:
            return Open(state.stack, state.terms, state.bias - basis.offset + basis.base, state.schedule.format(number))
    raise LeftOverError(
        f"{total - done} of {total} hats are left after the last hidden layer; lower the resolution, choose another"
        " form, or use a wider or deeper network"
    )


def _add_hats(
    state: Open, family: HatFamily, hinges: dict[str, np.ndarray], basis: Basis, part: slice, keep: Sequence[str]
) -> Open:
    """Append a layer with the hats of ``part``, the sum so far, and the groups to keep."""
    stack = state.stack
    expression = family.block(basis.index[part], basis.step[part]).hats
    units = [stack.carry(group) for group in keep]
    terms: list[tuple[str, np.ndarray]] = []
    bias = state.bias
    if state.terms:
        units.append(_accumulator(state, basis.channels, basis.top))
        terms.append(("sum", np.eye(basis.channels)))
        bias = np.zeros(basis.channels)
    units.append(Units("hats", expression.size, resolve(expression, hinges), expression.bias))
    terms.append(("hats", basis.coefficient[part].T))
    stack.add("hats", units)
    return Open(stack, terms, bias, state.schedule)


def _one_block(stack: Stack, block: Block, basis: Basis, widths: Sequence[Room], per_hinge: int) -> Open:
    """Place the inner layers and the hats of one block (z = 3, 4), hinges already there."""
    kept = list(block.hinges)
    for number, inner in enumerate(block.inner):
        kept = [g for g in [*kept] if g in block.needed_from(number + 1)]
        units = [stack.carry(group) for group in kept]
        units += [Units(n, e.size, resolve(e, block.hinges), e.bias) for n, e in inner.items()]
        require_room(units, number + 1, widths, per_hinge)
        stack.add("max-tree", units)
        kept += list(inner)
    units = [Units("hats", block.hats.size, resolve(block.hats, block.hinges), block.hats.bias)]
    require_room(units, len(block.inner) + 1, widths, per_hinge)
    stack.add("hats", units)
    return Open(stack, [("hats", basis.coefficient.T)], np.zeros(basis.channels) + basis.base, "one block")


def require_room(units: Sequence[Units], layer: int, widths: Sequence[Room], per_hinge: int) -> None:
    """Raise `CapacityError` if a layer does not hold these units."""
    carried = sum(u.size for u in units if u.carried)
    hinges = sum(u.size for u in units if not u.carried)
    if layer >= len(widths) or not widths[layer].holds(carried, hinges, per_hinge):
        available = widths[layer].units if layer < len(widths) else 0
        raise _need("this pattern", layer, carried + per_hinge * hinges, available)


def hats_by_recomputing(basis: Basis, widths: Sequence[Width], per_hinge: int = 1) -> Open:
    """Schedule hats with only (h, accumulator) carried and hinges made afresh for each chunk.

    For z = 1, 2 the hinges of the next chunk share a layer with the hats of this one; for z = 3, 4 chunks follow each
    other in blocks of hinges, max-tree and hats. Arguments and errors as in `hats_by_carrying`.
    """
    family = HatFamily(basis.mesh.cells, clear=basis.clear, corner=basis.corner)
    stack, z, channels = Stack(family.z), family.z, basis.channels
    state = Open(stack, [], basis.offset.copy(), "hinges made again for each of {} chunks of hats")
    done, number, count = 0, 0, 0
    top = basis.top
    overhead = z + channels  # h and the accumulator
    every = rooms(widths)
    pending: slice | None = None
    hinges: dict[str, np.ndarray] = {}
    while done < basis.size or pending is not None:
        if number >= len(every):
            raise LeftOverError(
                f"{basis.size - (pending.start if pending else done)} of {basis.size} hats are left after the last"
                " hidden layer; lower the resolution, choose another form, or use a wider or deeper network"
            )
        hats = pending.stop - pending.start if pending else 0
        room = every[number].left(overhead) - per_hinge * hats
        # the units left in all layers of the block that this chunk would enter
        left = [room] + [w.left(overhead) for w in every[number + 1 : number + family.depth]]
        size = 0
        if z <= 2 or pending is None:
            size = _largest_chunk(family, basis, done, left, per_hinge)
        if not size and pending is None:
            raise _need("one hat with its hinges", number, overhead + 4 * per_hinge, every[number].units)
        units = [stack.carry("h")] if "h" in stack.groups else []
        if state.terms:
            units.append(_accumulator(state, channels, top))
        terms: list[tuple[str, np.ndarray]] = [("sum", np.eye(channels))] if state.terms else []
        bias = np.zeros(channels) if state.terms else state.bias
        if pending is not None:
            expression = family.block(basis.index[pending], basis.step[pending]).hats
            units.append(Units("hats", expression.size, resolve(expression, hinges), expression.bias))
            terms.append(("hats", basis.coefficient[pending].T))
        pending = None
        block = None
        if size:
            pending = slice(done, done + size)
            block = family.block(basis.index[pending], basis.step[pending])
            hinges = block.hinges
            units += family.hinge_layer(hinges)
            done += size
            count += 1
        if done >= basis.size:  # nothing after this layer reads h
            units = [u for u in units if u.name != "h"]
        stack.add("hats and hinges", units)
        state = Open(stack, terms, bias, state.schedule)
        number += 1
        if block is not None and block.inner:
            state, number = _inner_layers(state, block, channels, number, basis.top)
    return Open(stack, state.terms, state.bias - basis.offset + basis.base, state.schedule.format(count))


def _inner_layers(state: Open, block: Block, channels: int, number: int, top: np.ndarray | float) -> tuple[Open, int]:
    """Append the max-tree layers of a block, carrying h, the accumulator and the hinges still needed."""
    stack, kept = state.stack, list(block.hinges)
    for depth, inner in enumerate(block.inner):
        kept = [g for g in kept if g in block.needed_from(depth + 1)]
        units = [stack.carry("h")] if "h" in stack.groups else []
        terms: list[tuple[str, np.ndarray]] = []
        if state.terms:
            units.append(_accumulator(state, channels, top))
            terms, state = [("sum", np.eye(channels))], Open(stack, [], np.zeros(channels), state.schedule)
        units += [stack.carry(group) for group in kept]
        units += [Units(n, e.size, resolve(e, block.hinges), e.bias) for n, e in inner.items()]
        stack.add("max-tree", units)
        kept += list(inner)
        state = Open(stack, terms, state.bias, state.schedule)
        number += 1
    return state, number


def _largest_chunk(family: HatFamily, basis: Basis, start: int, rooms: Sequence[int], per_hinge: int) -> int:
    """Return how many hats from ``start`` on fit the rooms of the layers they need; 0 if none does."""
    if len(rooms) < family.depth:
        return 0

    def fits(size: int) -> bool:
        part = slice(start, start + size)
        block = family.block(basis.index[part], basis.step[part])
        carried, hinges = block.hinge_units()
        if carried + per_hinge * hinges > rooms[0]:
            return False
        for depth, inner in enumerate(block.inner):
            later = block.needed_from(depth + 1)
            kept = sum(len(keys) for group, keys in block.hinges.items() if group in later)
            for before in block.inner[:depth]:
                kept += sum(e.size for name, e in before.items() if name in later)
            if kept + per_hinge * sum(e.size for e in inner.values()) > rooms[depth + 1]:
                return False
        return size * per_hinge <= rooms[family.depth - 1]

    most = basis.size - start
    if family.z <= 2 and most * per_hinge > rooms[1]:
        # leave a share of the next layer for the hinges of the chunk after: hats take about a third in steady state
        most = min(most, max(1, (rooms[1] - 4 * per_hinge) // (3 * per_hinge)))
    return _bisect(fits, most)


def _bisect(fits: Callable[[int], bool], most: int) -> int:
    """Return the largest size in 1 … most that fits (0 if none), for a monotone predicate."""
    low, high = 0, most
    if high and fits(high):
        return high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def strips_by_carrying(values: np.ndarray, widths: Sequence[Width], per_hinge: int = 1) -> Open:
    """Schedule a z = 2 pattern in strip form: hinges, then strips beside the carried linear part.

    Args:
        values: Nodal values, shape ``[n_1 + 1, n_2 + 1, channels]``.
        widths: Units of the hidden layers after the injection.
        per_hinge: Network units that a ReLU takes.

    Returns:
        The open stack.

    Raises:
        CapacityError: If the widths do not hold the pattern.
    """
    cells = (values.shape[0] - 1, values.shape[1] - 1)
    channels = values.shape[2]
    keys = {group: k for group, k in hinge_keys(cells).items() if len(k)}
    hinges = sum(map(len, keys.values())) - 2
    every = rooms(widths)
    if not every or not every[0].holds(2, hinges, per_hinge):
        raise _need("the hinge layer", 0, 2 + per_hinge * hinges, every[0].units if every else 0)
    stack = Stack(2)
    stack.add("hinges", hinge_units(cells))
    forms = [strips(values[..., c]) for c in range(channels)]
    rows = {group: np.concatenate([f.units[group] for f in forms]) for group in keys}
    bias = np.concatenate([f.unit_bias for f in forms])
    owner = np.repeat(np.arange(channels), cells[1] - 1)
    line = {group: np.concatenate([f.line[group] for f in forms]) for group in keys}
    terms: list[tuple[str, np.ndarray]] = []
    total, done = len(bias), 0
    for number, width in enumerate(every[1:], start=1):
        last = width.holds(channels, total - done, per_hinge)
        room = total - done if last else width.left(channels + 2 + hinges) // per_hinge
        if room <= 0 and not last:
            raise _need("carrying the hinges", number, 2 + hinges + channels + per_hinge, width.units)
        part = slice(done, done + min(room, total - done))
        units = [] if last else [stack.carry(group) for group in keys]
        if done:
            units.append(Units("sum", channels, [(g, None, block) for g, block in terms], carried=True))
        else:
            line_bias = np.array([f.line_bias for f in forms])
            units.append(Units("sum", channels, [(g, None, b) for g, b in line.items()], line_bias, carried=True))
        size = part.stop - part.start
        if size:
            units.append(Units("strips", size, [(g, None, b[part]) for g, b in rows.items()], bias[part]))
        stack.add("strips", units)
        terms = [("sum", np.eye(channels))]
        if size:
            terms.append(("strips", (owner[part] == np.arange(channels)[:, None]).astype(float)))
        done = part.stop
        if last:
            offset = np.array([f.offset for f in forms])
            return Open(stack, terms, -offset, f"hinges carried through {number} layer(s) of strips")
    raise LeftOverError(
        f"{total - done} of {total} strips are left after the last hidden layer; lower the resolution, choose another"
        " form, or use a wider or deeper network"
    )


def sums_by_carrying(axes: Sequence[np.ndarray], widths: Sequence[Width], per_hinge: int = 1) -> Open:
    """Schedule Σ_i f_i(h_i), piecewise linear in each coordinate: Σ (n_i − 1) hinges in any dimension.

    Layers carry (h, accumulator) and spend the rest on hinges. z = 1 patterns are the case of one axis.

    Args:
        axes: Nodal values of each f_i, shape ``[n_i + 1, channels]``.
        widths: Units of the hidden layers after the injection.
        per_hinge: Network units that a ReLU takes.

    Returns:
        The open stack.

    Raises:
        CapacityError: If the widths do not hold the pattern.
    """
    z, channels = len(axes), axes[0].shape[1]
    stack = Stack(z)
    owner = np.concatenate([np.full(len(f) - 2, i) for i, f in enumerate(axes)])
    knot = np.concatenate([np.arange(1, len(f) - 1) / (len(f) - 1) for f in axes])
    cells = np.array([len(f) - 1 for f in axes], dtype=float)
    bend = np.concatenate([np.diff(f, n=2, axis=0) for f in axes]).T  # [channels, hinges]
    slope = np.stack([(f[1] - f[0]) * n for f, n in zip(axes, cells, strict=True)], axis=1)  # [channels, z]
    start = sum(f[0] for f in axes)
    total, done = len(owner), 0
    terms: list[tuple[str, np.ndarray]] = []
    offset = np.zeros(channels)
    every = rooms(widths)
    for number, width in enumerate(every):
        sums = channels if done else 0
        last = width.holds(sums if done else z + sums, total - done, per_hinge)
        room = total - done if last else width.left(z + sums) // per_hinge
        if room <= 0 and not last:
            raise _need("carrying h", number, z + sums + per_hinge, width.units)
        part = slice(done, done + min(room, total - done))
        units = []
        if not last or not done:
            units.append(Units("h", z, [("h", np.arange(z), 1.0)], carried=True))
        if done:
            shift = _lowest_partial_sum(axes, owner, part.start) - offset if number == 1 else np.zeros(channels)
            bias = start + shift if number == 1 else np.zeros(channels)
            offset = offset + shift
            units.append(Units("sum", channels, [(g, None, b) for g, b in terms], bias, carried=True))
        size = part.stop - part.start
        if size:
            scale = cells[owner[part]]
            units.append(Units("hinges", size, [("h", owner[part], scale)], -np.round(knot[part] * scale)))
        stack.add("hinges", units)
        terms = [("sum", np.eye(channels))] if done else [("h", slope)]
        if size:
            terms.append(("hinges", bend[:, part]))
        done_before, done = done, part.stop
        if last:
            if not done_before and z > 1 and total > MANY_HINGES and _holds(every, number + 1, z * channels):
                return _summed_by_axis(stack, axes, terms)
            bias = -offset if done_before else start
            return Open(stack, terms, np.asarray(bias, dtype=float), f"hinges over {number + 1} layer(s)")
    raise LeftOverError(
        f"{total - done} of {total} hinges are left after the last hidden layer; lower the resolution or use a wider"
        " or deeper network"
    )


def _holds(widths: Sequence[Room], number: int, registers: int) -> bool:
    return number < len(widths) and widths[number].units >= registers


def _summed_by_axis(stack: Stack, axes: Sequence[np.ndarray], terms: list[tuple[str, np.ndarray]]) -> Open:
    """Append a layer that carries each f_i(h_i) ≥ 0 by itself.

    A dot product of thousands of terms has a rounding bound in proportion; z short ones and one of z terms do not.
    """
    z, channels = len(axes), axes[0].shape[1]
    owner = np.concatenate([np.arange(z), *(np.full(len(f) - 2, i) for i, f in enumerate(axes))])
    joined = np.concatenate([block for _, block in terms], axis=1)  # h first, then the hinges, as in ``terms``
    sizes = [block.shape[1] for _, block in terms]
    rows = [np.where(owner == i, joined[c], 0.0) for i in range(z) for c in range(channels)]
    blocks = np.split(np.stack(rows), np.cumsum(sizes)[:-1], axis=1)
    bias = np.array([axes[i][0, c] for i in range(z) for c in range(channels)])
    names = [group for group, _ in terms]
    units = Units("axes", z * channels, [(g, None, b) for g, b in zip(names, blocks, strict=True)], bias, carried=True)
    stack.add("axes", [units])
    read = np.tile(np.eye(channels), (1, z))
    return Open(stack, [("axes", read)], np.zeros(channels), "hinges, then one register an axis")


def _lowest_partial_sum(axes: Sequence[np.ndarray], owner: np.ndarray, first: int) -> np.ndarray:
    """Return a constant that keeps every later partial sum of the hinge expansions ≥ 0 on the box, per channel."""
    lowest = np.zeros(axes[0].shape[1])
    begin = 0
    for f in axes:
        n = len(f) - 1
        grid = np.arange(n + 1)[:, None]
        partial = f[0] + (f[1] - f[0]) * grid
        worst = np.full(f.shape[1], np.inf)
        for j in range(n):
            if j:
                partial = partial + np.diff(f, n=2, axis=0)[j - 1] * np.maximum(grid - j, 0)
            if begin + j >= min(first, begin + n - 1):
                worst = np.minimum(worst, partial.min(axis=0))
        lowest += worst
        begin += n - 1
    assert begin == len(owner)
    return np.maximum(0.0, -lowest)
