"""A network as stages: what a scheduler needs to know, and what `write.py` writes into. `grouping.py` makes them.

A network is a list of pieces, each of which turns one tensor of registers into the next:

- `Plain`: a map, norms, an activation. All channels are written anew: a register that is still needed takes a unit.
- `Entry`: norms and activations on what is there already (networks that normalise before each block). Everything is
  carried.
- `Branch`: a fork that ends in a residual sum (``merge="add"``) or in a concatenation (``"cat"``). Registers go along
  the identity path for nothing, while the units of the branch's first activation compute; its last map writes what is
  needed of them into empty channels, or adds it to a register. Where the sum has a map on its other path as well, the
  activation after the sum is a stage of its own that reads both.
- `Shift`: a concatenation without identity path; one branch is used, its channels come to lie at an offset. Empty
  channels that are put beside the others do the same.
- `Scale`: a gate that is a constant.

`rooms` lists, stage by stage, how many units may bend and how many registers are carried beside them: all that the
scheduler knows of an architecture. Channels that a stage leaves alone are exactly zero, and so free for other uses.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from landform.imprint.lower.graph import Op
from landform.program.room import Room


@dataclass(frozen=True)
class Plain:
    """A map, norms, and an activation (slope 1 where there is none).

    Args:
        map: Name of the map.
        norms: Names of the norms between map and activation.
        inputs: Channels that it reads.
        width: Channels that it makes.
        slope: Slope of the activation left of 0.
        cap: Where the activation stops growing.
        groups: Groups of the map.
        times: Factor of a gate behind it.
        shared: Over how many channels together its first norm takes the mean; 0 where that has its own.
        start: Where the activation begins to grow; ``cap`` is counted from there.
        low: Its value up to there.
        rise: Its slope from there.
    """

    map: str
    norms: tuple[str, ...]
    inputs: int
    width: int
    slope: float = 1.0
    cap: float = float("inf")
    groups: int = 1
    times: float = 1.0
    shared: int = 0
    start: float = 0.0
    low: float = 0.0
    rise: float = 1.0

    @property
    def clips(self) -> bool:
        """Whether its activation is low + rise·min(relu(t − start), cap), and not just min(relu(t), cap)."""
        return (self.start, self.low, self.rise) != (0.0, 0.0, 1.0)

    @property
    def bends(self) -> bool:
        """Whether units of this stage can be hinges."""
        return self.slope < 1.0 and self.groups == 1

    def slots(self, count: int | None = None) -> np.ndarray:
        """Return the channels that hold ``count`` units, or all that may hold something, in order."""
        return slots(self.width, self.shared, count)

    @property
    def room(self) -> int:
        """How many channels may hold something."""
        return len(self.slots())


@dataclass(frozen=True)
class Entry:
    """Norms (by name, in order) and activations on the registers that are there."""

    norms: tuple[str, ...]
    acts: int
    slope: float
    cap: float


@dataclass(frozen=True)
class Shift:
    """The used branch's channels lie at ``offset`` of ``width``."""

    offset: int
    width: int


@dataclass(frozen=True)
class Branch:
    """A fork around an identity path (or one map), and the sum or concatenation at its end.

    Args:
        entry: Norms and activations at the head of the branch; its first map reads through them.
        hidden: The stages of the branch but for its last map.
        exit: The last map, without activation.
        skip: The map on the other path, None for the identity.
        merge: ``"add"`` or ``"cat"``.
        offset: Where the identity's channels lie in a concatenation, or in a sum that has more channels.
        written: Where the branch's channels lie in a concatenation.
        inputs: Channels before the fork.
        width: Channels after it.
        slope: Slope of the activation after the merge (1: none).
        cap: Where that activation stops growing.
        bent: Whether an activation bends what a map alone adds to a concatenation before another map reads it.
    """

    entry: Entry
    hidden: tuple[Plain, ...]
    exit: Plain
    skip: Plain | None
    merge: str
    offset: int
    written: int
    inputs: int
    width: int
    slope: float = 1.0
    cap: float = float("inf")
    bent: bool = True

    @property
    def units(self) -> int:
        """Units that the branch's first activation may bend; for a map alone, those that later activations bend."""
        if not self.hidden:
            return self.exit.room if self.adds_units and self.bent and self.exit.groups == 1 else 0
        if not self.hidden[0].bends:
            return 0
        return min(stage.room for stage in self.hidden)

    @property
    def adds_units(self) -> bool:
        """Whether a map alone adds channels to a concatenation, behind an activation as it stands before all others."""
        return not self.hidden and self.merge == "cat" and self.entry.acts > 0

    @property
    def joins(self) -> bool:
        """Whether the activation after the merge is a stage that reads both paths."""
        return self.skip is not None and self.slope < 1.0 and self.skip.groups == 1 and self.exit.groups == 1

    @property
    def shared(self) -> int:
        """Over how many channels together the stage after the merge takes the mean: the fewer of both paths."""
        return min((plain.shared for plain in (self.exit, self.skip) if plain is not None and plain.shared), default=0)

    @property
    def room(self) -> int:
        """How many channels of the stage after the merge may hold something on both paths."""
        return len(slots(self.width, self.shared))


@dataclass(frozen=True)
class Scale:
    """A gate that is a constant factor."""

    times: float


Piece = Plain | Entry | Branch | Shift | Scale
GATE = 0.5  # a sigmoid of zero


@dataclass(frozen=True)
class Head:
    """One output: its key, its map, its outputs, the channels that the map reads, and what it ends in."""

    key: str | int | None
    linear: str
    outputs: int
    inputs: int
    end: str = ""


@dataclass(frozen=True)
class Stages:
    """A network as pieces. The first is the `Plain` that the pattern is injected into.

    Args:
        pieces: What happens, in order.
        heads: The outputs.
        silent: Names of maps, norms and slopes that are not used; they are set to zero.
        maps: The operation of every map, by name.
        smooth: Whether an activation is smooth, so that units are written large.
        gated: Whether hinges take two stages each, since there is no activation but tanh.
        widths: Channels of every stage with room for units, for people.
    """

    pieces: tuple[Piece, ...]
    heads: tuple[Head, ...]
    silent: tuple[str, ...]
    maps: Mapping[str, Op]
    smooth: bool = False
    gated: bool = False

    @property
    def pairs(self) -> tuple[tuple[Plain, Plain], ...]:
        """The stages behind the first one, two by two; the last of an odd number is left out."""
        plain = [piece for piece in self.pieces[1 + len(self.pieces[1:]) % 2 :] if isinstance(piece, Plain)]
        return tuple(zip(plain[::2], plain[1::2], strict=True))

    @property
    def rooms(self) -> tuple[Room, ...]:
        """What each stage can hold, in order; the injected stage first."""
        if self.gated:
            return (Room(self.first.width), *(Room(min(a.width, b.width)) for a, b in self.pairs))
        return rooms_of(self.pieces)

    @property
    def room_maps(self) -> tuple[str, ...]:
        """Name of the map that computes the units of each stage."""
        names = [self.first.map]
        if self.gated:
            return (*names, *(first.map for first, _ in self.pairs))
        for piece in self.pieces[1:]:
            if isinstance(piece, Plain) and piece.bends:
                names.append(piece.map)
            elif isinstance(piece, Branch):
                names += [piece.hidden[0].map if piece.hidden else piece.exit.map] * (piece.units > 0)
                if piece.skip is not None and piece.joins:
                    names.append(piece.skip.map)
        return tuple(names)

    @property
    def widths(self) -> tuple[int, ...]:
        """Units of each stage."""
        return tuple(room.units for room in self.rooms)

    @property
    def per_hinge(self) -> int:
        """Units that a hinge takes: two where an activation is leaky, or gates another."""
        if self.gated:
            return 2
        slopes = [p.slope for p in self.pieces if isinstance(p, (Plain, Branch, Entry))]
        for piece in self.pieces:
            if isinstance(piece, Branch):
                slopes += [piece.entry.slope, *(stage.slope for stage in piece.hidden)]
        return 2 if any(0 < slope < 1 for slope in slopes) else 1

    @property
    def first(self) -> Plain:
        """The injected stage."""
        piece = self.pieces[0]
        assert isinstance(piece, Plain)
        return piece


def slots(width: int, shared: int, count: int | None = None, family: np.ndarray | None = None) -> np.ndarray:
    """Return the channels that hold ``count`` units: the first, or but for one of each group that shares a mean.

    Groups are filled evenly, neighbours beside each other: the rounding of a mean grows with all that its group holds,
    and where a hinge or hat matters, its neighbours are small.

    Args:
        width: Channels.
        shared: Channels that share a mean, 0 for none.
        count: How many are wanted, at most as many as there are; all by default.
        family: Number of each unit's family, ascending: units of different ones share no group if there are enough.

    Example:
        >>> slots(6, 3).tolist(), slots(8, 4, 3).tolist()
        ([0, 1, 3, 4], [0, 1, 4])
        >>> slots(8, 4, 3, family=np.array([0, 1, 1])).tolist()
        [0, 4, 5]
    """
    if shared < 2:
        return np.arange(width)[:count]
    groups, room = width // shared, width // shared * (shared - 1)
    units = room if count is None else min(count, room)
    if not units:
        return np.zeros(0, dtype=int)
    sizes = np.array([units]) if family is None else np.unique(family, return_counts=True)[1]
    fills = (f for f in range(1, shared) if (-(-sizes // f)).sum() <= groups)
    most = next(fills, 0)  # units in a group, if families keep apart
    parts = -(-sizes // most) if most and len(sizes) > 1 else np.array([groups])
    held: list[int] = []
    for size, share in zip(sizes if len(parts) > 1 else [units], parts, strict=True):
        held += [int(size) // int(share) + (n < int(size) % int(share)) for n in range(int(share))]
    return np.concatenate([group * shared + np.arange(size) for group, size in enumerate(held)])


def rooms_of(pieces: Sequence[Piece]) -> tuple[Room, ...]:
    """Return what each stage can hold, the injected one first."""
    rooms: list[Room] = []
    for number, piece in enumerate(pieces):
        if isinstance(piece, Plain):
            if piece.bends or not number:
                rooms.append(Room(piece.room if number else piece.width, stream=False))
            elif rooms and not rooms[-1].beside:
                rooms[-1] = Room(min(rooms[-1].units, piece.room), stream=False)
        elif isinstance(piece, Branch):
            if piece.units:
                rooms.append(Room(piece.units, beside=piece.inputs, stream=True))
            if piece.joins:
                rooms.append(Room(piece.room, curve=False, stream=False))
    return tuple(rooms)
