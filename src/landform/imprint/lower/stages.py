"""Group the operations of a graph into stages: what a scheduler needs to know, and what `write.py` writes into.

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

`rooms` lists, stage by stage, how many units may bend and how many registers are carried beside them: all that the
scheduler knows of an architecture. Channels that a stage leaves alone are exactly zero, and so free for other uses.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from landform.errors import ArchitectureError
from landform.imprint.lower.graph import Graph, Op
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
    """

    map: str
    norms: tuple[str, ...]
    inputs: int
    width: int
    slope: float = 1.0
    cap: float = float("inf")
    groups: int = 1

    @property
    def bends(self) -> bool:
        """Whether units of this stage can be hinges."""
        return self.slope < 1.0 and self.groups == 1


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

    @property
    def units(self) -> int:
        """Units that the branch's first activation may bend; for a map alone, those that later activations bend."""
        if not self.hidden:
            return self.exit.width if self.merge == "cat" and self.entry.acts and self.exit.groups == 1 else 0
        if not self.hidden[0].bends:
            return 0
        return min(stage.width for stage in self.hidden)

    @property
    def joins(self) -> bool:
        """Whether the activation after the merge is a stage that reads both paths."""
        return self.skip is not None and self.slope < 1.0 and self.skip.groups == 1 and self.exit.groups == 1


Piece = Plain | Entry | Branch | Shift


@dataclass(frozen=True)
class Head:
    """One output: its key, its map, its outputs, and the channels that the map reads."""

    key: str | int | None
    linear: str
    outputs: int
    inputs: int


@dataclass(frozen=True)
class Stages:
    """A network as pieces. The first is the `Plain` that the pattern is injected into.

    Args:
        pieces: What happens, in order.
        heads: The outputs.
        silent: Names of maps, norms and slopes that are not used; they are set to zero.
        maps: The operation of every map, by name.
        widths: Channels of every stage with room for units, for people.
    """

    pieces: tuple[Piece, ...]
    heads: tuple[Head, ...]
    silent: tuple[str, ...]
    maps: Mapping[str, Op]

    @property
    def rooms(self) -> tuple[Room, ...]:
        """What each stage can hold, in order; the injected stage first."""
        return _rooms(self.pieces)

    @property
    def room_maps(self) -> tuple[str, ...]:
        """Name of the map that computes the units of each stage."""
        names = [self.first.map]
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
        """Units that a hinge takes: two where an activation is leaky."""
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


def _rooms(pieces: Sequence[Piece]) -> tuple[Room, ...]:
    rooms: list[Room] = []
    for number, piece in enumerate(pieces):
        if isinstance(piece, Plain):
            if piece.bends or not number:
                rooms.append(Room(piece.width, stream=False))
            elif rooms and not rooms[-1].beside:
                rooms[-1] = Room(min(rooms[-1].units, piece.width), stream=False)
        elif isinstance(piece, Branch):
            if piece.units:
                rooms.append(Room(piece.units, beside=piece.inputs, stream=True))
            if piece.joins:
                rooms.append(Room(piece.width, curve=False, stream=False))
    return tuple(rooms)


def _only_shifts(run: Sequence[Piece]) -> bool:
    return bool(run) and all(isinstance(piece, Shift) for piece in run)


def stages(graph: Graph) -> Stages:
    """Group the operations of a graph.

    Args:
        graph: The graph.

    Returns:
        The stages.

    Raises:
        ArchitectureError: If the branches of the network do not nest, or it does not begin with a map; what is in the
            way is named.
    """
    return _Parser(graph).parse()


class _Parser:
    def __init__(self, graph: Graph) -> None:
        self.ops = list(graph.ops)
        self.graph = graph
        self._nest_cats()
        self.users: list[list[int]] = [[] for _ in self.ops]
        for number, op in enumerate(self.ops):
            for source in op.inputs:
                self.users[source].append(number)
        self.heads = {head.op for head in graph.heads}
        self.silent: list[str] = []

    def parse(self) -> Stages:
        pieces, end = self._run(0)
        readers = [n for n in self.users[end] if n not in self.heads]
        if readers or not self.users[end]:
            raise ArchitectureError(
                f"the value of '{self.ops[end].name}' goes to {self._names(readers)}; the heads must read the same"
                " tensor"
            )
        if not pieces:
            raise ArchitectureError("the network has no hidden layer; Theorem 1 needs an injected layer and one more")
        if not isinstance(pieces[0], Plain):
            raise ArchitectureError(
                "the network's input reaches a branch, norm or activation before any Linear or convolution; put one"
                " before it"
            )
        heads = tuple(Head(h.key, h.linear, h.outputs, self.ops[end].channels) for h in self.graph.heads)
        slopes = [op.name for op in self.ops if op.owns]
        maps = {op.name: op for op in self.ops if op.kind == "map"}
        return Stages(tuple(pieces), heads, (*self.silent, *slopes), maps)

    def _nest_cats(self) -> None:
        """Write cat(a, b, c) as cat(cat(a, b), c) where cat(a, b) exists, so that dense blocks nest."""
        known: dict[tuple[int, ...], int] = {}
        for number, op in enumerate(self.ops):
            if op.kind != "cat":
                continue
            inputs = op.inputs
            for length in range(len(inputs) - 1, 1, -1):
                if inputs[:length] in known:
                    short = (known[inputs[:length]], *inputs[length:])
                    self.ops[number] = Op("cat", op.name, short, op.channels)
                    break
            known[inputs] = number

    def _names(self, numbers: Sequence[int]) -> str:
        return ", ".join(f"'{self.ops[n].name}'" for n in numbers) or "nothing"

    def _run(self, at: int, first: int | None = None) -> tuple[list[Piece], int]:
        """Follow a tensor until it meets another one or the heads; return the pieces and the last tensor.

        Args:
            at: The tensor.
            first: The one of its readers to follow, where there are several.
        """
        pieces: list[Piece] = []
        while True:
            users = self.users[at] if first is None else [first]
            first = None
            if not users or all(n in self.heads for n in users) or any(n in self.heads for n in users):
                return pieces, at
            if len(users) > 1:
                at = self._fork(at, users, pieces)
                continue
            op = self.ops[users[0]]
            if op.kind in ("add", "cat"):
                return pieces, at
            if op.kind in ("keep", "pool"):
                at = users[0]
            elif op.kind == "map":
                piece, at = self._plain(users[0])
                pieces.append(piece)
            elif op.kind == "shift":
                pieces.append(Shift(op.offset, op.channels))
                at = users[0]
            else:
                entry, at = self._entry(users[0])
                pieces.append(entry)

    def _plain(self, number: int) -> tuple[Plain, int]:
        op = self.ops[number]
        norms: list[str] = []
        at = number
        while len(self.users[at]) == 1 and self.users[at][0] not in self.heads:
            after = self.ops[self.users[at][0]]
            if after.kind in ("keep", "pool"):
                pass
            elif after.kind == "norm":
                norms.append(after.name)
            elif after.kind == "act":
                at = self.users[at][0]
                return self._made(op, norms, after), at
            else:
                break
            at = self.users[at][0]
        return self._made(op, norms, None), at

    def _made(self, op: Op, norms: Sequence[str], act: Op | None) -> Plain:
        inputs = self.ops[op.inputs[0]].channels
        slope, cap = (act.slope, act.cap) if act is not None else (1.0, float("inf"))
        return Plain(op.name, tuple(norms), inputs, op.channels, slope, cap, op.groups)

    def _entry(self, number: int) -> tuple[Entry, int]:
        norms: list[str] = []
        acts, slope, cap, at = 0, 0.0, float("inf"), number
        while True:
            op = self.ops[at]
            if op.kind == "norm":
                norms.append(op.name)
            elif op.kind == "act":
                acts, slope, cap = acts + 1, max(slope, op.slope), min(cap, op.cap)
            users = self.users[at]
            if len(users) != 1 or self.ops[users[0]].kind not in ("norm", "act", "keep", "pool"):
                return Entry(tuple(norms), acts, slope, cap), at
            at = users[0]

    def _fork(self, at: int, users: Sequence[int], pieces: list[Piece]) -> int:
        """Add the piece of a fork; return the tensor after its merge."""
        runs = [self._run(at, user) for user in users]
        merges = {self.users[end][0] if end != at else user for (_, end), user in zip(runs, users, strict=True)}
        merge = min(merges) if len(merges) == 1 else None
        name = self.ops[at].name
        if merge is None or any(len(self.users[end]) != 1 for _, end in runs if end != at):
            raise ArchitectureError(
                f"the branches from '{name}' ({self._names(users)}) do not meet in one sum or concatenation"
            )
        op = self.ops[merge]
        if op.kind not in ("add", "cat") or len(op.inputs) != len(users):
            raise ArchitectureError(
                f"'{op.name}' joins branches that do not all begin at '{name}'; landform covers branches that nest"
            )
        order = [op.inputs.index(end) for _, end in runs]
        channels = [self.ops[end].channels for end in op.inputs]
        offsets = [sum(channels[:position]) for position in order] if op.kind == "cat" else [0] * len(order)
        made = self._merge(op, at, [p for p, _ in runs], offsets)
        pieces += made
        following = self.users[merge]
        last = pieces[-1]
        if isinstance(last, Branch) and last.merge == "add" and len(following) == 1:
            act = self.ops[following[0]]
            if act.kind == "act":
                changed = {**last.__dict__, "slope": act.slope, "cap": act.cap}
                pieces[-1] = Branch(**changed)
                return following[0]
        return merge

    def _merge(self, op: Op, at: int, runs: list[list[Piece]], offsets: list[int]) -> list[Piece]:
        """Choose what the branches of a fork are used for."""
        idle = [n for n, run in enumerate(runs) if not run or (op.kind == "add" and _only_shifts(run))]
        maps = [n for n, run in enumerate(runs) if len(run) == 1 and isinstance(run[0], Plain) and run[0].slope == 1.0]
        skip = idle[0] if idle else maps[0] if maps and op.kind == "add" and len(runs) > 1 else None
        if skip is None:
            return self._alone(op, runs, offsets)
        inputs = self.ops[at].channels
        split = [(n, self._split(run)) for n, run in enumerate(runs) if n != skip]
        fitting = [(n, found) for n, found in split if found is not None]
        used = max(fitting, key=lambda f: min((h.width for h in f[1][1]), default=0), default=None)
        for number, run in enumerate(runs):
            if number != skip and (used is None or number != used[0]):
                self._silence(run)
        if _only_shifts(runs[skip]):
            offsets[skip] += sum(piece.offset for piece in runs[skip] if isinstance(piece, Shift))
        other = runs[skip][0] if runs[skip] else None
        other = other if isinstance(other, Plain) else None
        nothing = Entry((), 0, 0.0, float("inf"))
        if used is None:
            written = offsets[next(n for n in range(len(runs)) if n != skip)]
            return [
                Branch(nothing, (), Plain("", (), 0, 0), other, op.kind, offsets[skip], written, inputs, op.channels)
            ]
        entry, hidden, exit_ = used[1]
        return [Branch(entry, hidden, exit_, other, op.kind, offsets[skip], offsets[used[0]], inputs, op.channels)]

    def _alone(self, op: Op, runs: list[list[Piece]], offsets: list[int]) -> list[Piece]:
        """Use one branch where none is an identity: the one that narrows least."""

        def narrowest(number: int) -> int:
            return min((room.units for room in _rooms([Plain("", (), 0, 1 << 40), *runs[number]])), default=0)

        best = max(range(len(runs)), key=narrowest)
        for number, run in enumerate(runs):
            if number != best:
                self._silence(run)
        return [*runs[best], Shift(offsets[best], op.channels)] if op.kind == "cat" else runs[best]

    def _split(self, run: list[Piece]) -> tuple[Entry, tuple[Plain, ...], Plain] | None:
        """Return a branch as entry, hidden stages and last map; None if it has another form."""
        rest = list(run)
        entry = Entry((), 0, 0.0, float("inf"))
        if rest and isinstance(rest[0], Entry):
            entry = rest.pop(0)  # type: ignore[assignment]
        plains = [piece for piece in rest if isinstance(piece, Plain)]
        if len(plains) != len(rest) or not plains or plains[-1].slope < 1.0 or plains[-1].groups > 1:
            return None
        if any(p.slope == 1.0 for p in plains[:-1]):
            return None
        return entry, tuple(plains[:-1]), plains[-1]

    def _silence(self, run: Sequence[Piece]) -> None:
        for piece in run:
            if isinstance(piece, Plain):
                self.silent += [piece.map, *piece.norms]
            elif isinstance(piece, Entry):
                self.silent += piece.norms
            elif isinstance(piece, Branch):
                self._silence([piece.entry, *piece.hidden, piece.exit, *([piece.skip] if piece.skip else [])])
