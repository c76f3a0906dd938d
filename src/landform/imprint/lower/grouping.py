"""Group the operations of a graph into stages: follow forks until they meet, choose a branch, silence the others."""

from collections.abc import Sequence
from dataclasses import replace

from landform.errors import ArchitectureError
from landform.imprint.lower.activation import STRAIGHT
from landform.imprint.lower.graph import Graph, Op
from landform.imprint.lower.stages import GATE, Branch, Entry, Head, Piece, Plain, Scale, Shift, Stages, rooms_of


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
        self._require_gates()
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
        self._require_chain(pieces)
        pieces = [_unbent(piece, pieces[number + 1 :]) for number, piece in enumerate(pieces)]
        heads = tuple(Head(h.key, h.linear, h.outputs, self.ops[end].channels, h.end) for h in self.graph.heads)
        self._require_silence(pieces)
        slopes = [op.name for op in self.ops if op.owns]
        maps = {op.name: op for op in self.ops if op.kind == "map"}
        smooth, gated = self._is_smooth(), self._is_gated(pieces)
        return Stages(tuple(pieces), heads, (*self.silent, *slopes), maps, smooth, gated)

    def _is_gated(self, pieces: Sequence[Piece]) -> bool:
        """Say whether no activation bends; refuse what units that gate each other are not built for."""
        acts = [op for op in self.ops if op.kind == "act"]
        if not acts or any(op.slope < 1.0 for op in acts):
            return False
        for op in acts:
            if op.cap != STRAIGHT["tanh"]:
                raise ArchitectureError(
                    f"'{op.name}' approaches its ends too slowly to be a gate; it can carry, but some layers must"
                    " compute: use Tanh, ReLU, GELU or SiLU in these"
                )
        for op in self.ops:
            if op.kind not in ("input", "map", "act", "keep", "pool") or op.groups > 1:
                raise ArchitectureError(
                    f"'{acts[0].name}' saturates on both sides; where no other activation is, landform covers chains of"
                    f" Linear or convolutions and Tanh, without norms, groups and sums, and '{op.name}' is one of"
                    " these: use ReLU, GELU or SiLU in some layers"
                )
        bare = next((p for p in pieces if not isinstance(p, Plain) or p.cap != STRAIGHT["tanh"]), None)
        if bare is not None:
            name = bare.map if isinstance(bare, Plain) else acts[0].name
            raise ArchitectureError(f"'{name}' is not followed by one Tanh, as every layer of such a network must be")
        if len(pieces) < 3:
            raise ArchitectureError(
                f"the network has {len(pieces)} hidden layers of Tanh; a hinge takes two, and h one more: use a deeper"
                " network, or ReLU"
            )
        return True

    def _require_chain(self, pieces: Sequence[Piece]) -> None:
        """Refuse clips that do not begin at 0 beside identity paths: what is there would be clipped, or moved."""
        clip = next((op for op in self.ops if op.clips), None)
        fork = next((op for op in self.ops if op.kind in ("add", "cat", "mul", "shift")), None)
        if clip is not None and fork is not None:
            raise ArchitectureError(
                f"'{clip.name}' begins to grow at {clip.start:g} with the value {clip.low:g}, and '{fork.name}' is not"
                " part of a chain of layers; use ReLU6 instead of such a clip beside sums, concatenations and gates"
            )
        norm = next((op for op in self.ops if op.shared), None)
        if clip is not None and norm is not None:
            raise ArchitectureError(
                f"'{clip.name}' begins to grow at {clip.start:g}, and '{norm.name}' would take the mean of that; use"
                " BatchNorm, or ReLU6"
            )
        if clip is None:
            return
        for piece in pieces:
            if isinstance(piece, Entry) and piece.acts:
                raise ArchitectureError(f"an activation follows '{clip.name}' without a Linear or convolution between")
            if isinstance(piece, Plain) and piece.groups > 1 and piece.clips:
                raise ArchitectureError(
                    f"'{piece.map}' has {piece.groups} groups and is clipped; use groups=1, or ReLU6"
                )

    def _require_silence(self, pieces: Sequence[Piece]) -> None:
        """Refuse activations that emit constants from channels that are left alone, where these are added to."""
        act = next((op for op in self.ops if op.at_zero), None)
        sums = any(isinstance(p, Branch) and p.merge == "add" and p.skip is None for p in pieces)
        if act is not None and sums:
            raise ArchitectureError(
                f"'{act.name}' is {act.at_zero:.3g} at 0, so that channels left alone are not zero, and residual sums"
                " add to them; use an activation that is 0 at 0 (ReLU, GELU, SiLU, ELU), or no identity paths"
            )

    def _is_smooth(self) -> bool:
        """Say whether units must be large; refuse activations that stop growing beside those that need that."""
        smooth = next((op for op in self.ops if op.smooth), None)
        straight = next((op for op in self.ops if op.kind == "act" and op.slope == 1.0), None)
        if smooth is not None and straight is not None:
            raise ArchitectureError(
                f"'{smooth.name}' is a hinge only for large numbers, and '{straight.name}' the identity only for small"
                " ones; use ReLU in the place of one of them"
            )
        capped = next((op for op in self.ops if op.kind == "act" and op.cap < float("inf")), None)
        if smooth is not None and capped is not None:
            raise ArchitectureError(
                f"'{smooth.name}' is a hinge only for large numbers, and '{capped.name}' stops growing at"
                f" {capped.cap:g}; use the same kind of activation everywhere"
            )
        return smooth is not None

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
            if op.kind in ("add", "cat", "mul"):
                return pieces, at
            if op.kind in ("keep", "pool", "gate"):
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
        at, plain, shared = number, True, 0
        while len(self.users[at]) == 1 and self.users[at][0] not in self.heads:
            after = self.ops[self.users[at][0]]
            if after.kind in ("keep", "pool", "gate"):
                plain &= after.kind == "keep"
            elif after.kind == "norm":
                if after.shared and (norms or not plain):
                    raise self._needs_map(after)
                shared += after.shared
                norms.append(after.name)
            elif after.kind == "act":
                at = self.users[at][0]
                return self._made(op, norms, after, shared), at
            else:
                break
            at = self.users[at][0]
        return self._made(op, norms, None, shared), at

    def _needs_map(self, norm: Op) -> ArchitectureError:
        return ArchitectureError(
            f"'{norm.name}' takes the mean of channels together, which the layer just before it must make 0; landform"
            " covers it right behind a Linear or convolution (use BatchNorm elsewhere)"
        )

    def _made(self, op: Op, norms: Sequence[str], act: Op | None, shared: int) -> Plain:
        inputs = self.ops[op.inputs[0]].channels
        slope, cap = (act.slope, act.cap) if act is not None else (1.0, float("inf"))
        made = Plain(op.name, tuple(norms), inputs, op.channels, slope, cap, op.groups, shared=shared)
        return made if act is None else replace(made, start=act.start, low=act.low, rise=act.rise)

    def _entry(self, number: int) -> tuple[Entry, int]:
        norms: list[str] = []
        acts, slope, cap, at = 0, 0.0, float("inf"), number
        while True:
            op = self.ops[at]
            if op.kind == "norm":
                if op.shared:
                    raise self._needs_map(op)
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
        if op.kind == "mul":
            return self._gated(at, merge, [pieces for pieces, _ in runs], pieces)
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

    def _gated(self, at: int, merge: int, runs: list[list[Piece]], pieces: list[Piece]) -> int:
        """Make a gate a constant; return the tensor behind the product."""
        value, name = self.ops[merge].inputs[0], self.ops[merge].name
        gate = [run for run in runs if run]
        if value != at or len(runs) != 2 or len(gate) != 1 or not any(isinstance(p, Plain) for p in gate[0]):
            raise ArchitectureError(
                f"'{name}' multiplies by a gate that has no map of its own, or that does not begin at the channels that"
                " it multiplies; landform covers x * torch.sigmoid(branch(x)) with a Linear or convolution in branch"
            )
        self._silence(gate[0])
        last = pieces[-1] if pieces else None
        if isinstance(last, Plain):
            pieces[-1] = replace(last, times=last.times * GATE)
        else:
            pieces.append(Scale(GATE))
        return merge

    def _require_gates(self) -> None:
        """Refuse sigmoids that multiply nothing."""
        for number, op in enumerate(self.ops):
            if (op.kind == "gate" or op.gated) and any(
                self.ops[n].kind != "mul" and not self.ops[n].gated for n in self.users[number]
            ):
                raise ArchitectureError(
                    f"'{op.name}' is a sigmoid that gates nothing: it saturates on both sides, so that no sum of its"
                    " units is a hinge; use ReLU, GELU or SiLU"
                )

    def _merge(self, op: Op, at: int, runs: list[list[Piece]], offsets: list[int]) -> list[Piece]:
        """Choose what the branches of a fork are used for."""
        idle = [n for n, run in enumerate(runs) if not run or (op.kind == "add" and _only_shifts(run))]
        maps = [n for n, run in enumerate(runs) if len(run) == 1 and _is_map(run[0])]
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
            return min((room.units for room in rooms_of([Plain("", (), 0, 1 << 40), *runs[number]])), default=0)

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


def _unbent(piece: Piece, behind: Sequence[Piece]) -> Piece:
    """Return a piece without the units that it adds to a concatenation, where no activation bends them in time."""
    if not isinstance(piece, Branch) or not piece.adds_units:
        return piece
    for after in behind:
        if isinstance(after, Entry) and after.acts:
            return piece
        if isinstance(after, (Plain, Scale)) or (isinstance(after, Branch) and (after.skip or not after.entry.acts)):
            break
    return replace(piece, bent=False)


def _is_map(piece: Piece) -> bool:
    return isinstance(piece, Plain) and piece.slope == 1.0 and piece.times == 1.0


def _only_shifts(run: Sequence[Piece]) -> bool:
    return bool(run) and all(isinstance(piece, Shift) for piece in run)
