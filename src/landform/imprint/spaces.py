"""Which channels belong together: the spaces of a network that branches.

A channel that is to be the pattern's must be so in every tensor that it passes through: an activation or a norm keeps
it, a residual sum adds it to the channel of the same number on the other path, a depthwise convolution hands it on. All
these tensors share a *space* of channels, which is made room in (or taken from the trained network) as a whole; only
maps lead from one space to another. A concatenation has its parts' spaces one behind the other.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from landform.errors import ArchitectureError
from landform.imprint.lower.graph import Graph, Op


@dataclass(frozen=True)
class Hidden:
    """A space of channels (in a chain: one hidden layer): the map that makes it, its norms, its channels."""

    map: str
    norms: tuple[str, ...]
    width: int


@dataclass(frozen=True)
class Member:
    """A module with weights: which spaces it reads and makes, one behind the other.

    Args:
        name: Qualified name.
        kind: A map leads from space to space, a norm has one factor and one constant a channel, an act one slope.
        reads: Numbers of the spaces; none for the network's input.
        makes: Numbers of the spaces; none for the head.
        depthwise: A map with one group a channel, which stays in its space.
        norm: Name of the norm right behind a map, if there is one.
        fast: Whether a Linear reads flattened positions whose channels vary fastest.
    """

    name: str
    kind: Literal["map", "norm", "act"]
    reads: tuple[int, ...]
    makes: tuple[int, ...]
    depthwise: bool = False
    norm: str = ""
    fast: bool = False


@dataclass(frozen=True)
class Spaces:
    """All spaces of a graph, in the order in which they are made, and its modules; the head is not among them."""

    hidden: tuple[Hidden, ...]
    members: tuple[Member, ...]
    read_by_head: tuple[int, ...]


def spaces_of(graph: Graph) -> Spaces:
    """Group the channels of a graph with one head.

    Raises:
        ArchitectureError: If a convolution has groups of several channels, or a sum joins concatenations of different
            parts.

    Example:
        >>> from torch import nn
        >>> from landform.imprint.lower.graph import read_graph
        >>> from landform.testing.networks import Basic
        >>> body = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), Basic(4, 4, 1), nn.Flatten(), nn.Linear(4 * 64, 10))
        >>> found = spaces_of(read_graph(body.eval()))
        >>> [(space.map, space.width) for space in found.hidden]
        [('0', 4), ('2.conv1', 4)]
        >>> [member.makes for member in found.members if member.kind == "map"]
        [(0,), (1,), (0,)]
    """
    head = graph.heads[0].op
    parent: list[int] = []
    widths: list[int] = []
    tensors: list[tuple[int, ...]] = []

    def root(atom: int) -> int:
        while parent[atom] != atom:
            atom = parent[atom]
        return atom

    for number, op in enumerate(graph.ops):
        before = [tensors[i] for i in op.inputs]
        if number == head or op.channels == 0:
            tensors.append(())
        elif op.kind == "map" and op.groups == 1:
            parent.append(len(parent))
            widths.append(op.channels)
            tensors.append((len(parent) - 1,))
        elif op.kind == "map":
            _require_depthwise(graph, op)
            tensors.append(before[0])
        elif op.kind == "cat":
            tensors.append(tuple(atom for part in before for atom in part))
        elif op.kind == "add":
            sizes = {tuple(widths[atom] for atom in part) for part in before}
            if len(sizes) != 1:
                raise ArchitectureError(
                    f"'{op.name}' adds tensors of {_listed(before, widths)} channels; Theorem 2 needs sums of tensors"
                    " that are concatenated alike: use method='constant' for this network"
                )
            for other in before[1:]:
                for left, right in zip(before[0], other, strict=True):
                    low, high = sorted((root(left), root(right)))
                    parent[high] = low
            tensors.append(before[0])
        elif op.kind in ("norm", "act", "pool", "keep"):
            tensors.append(before[0])
        else:
            raise ArchitectureError(
                f"'{op.name}' moves or mixes channels ({op.kind}), by numbers that are in the code; Theorem 2 does not"
                " cover that: use method='constant' for this network"
            )
    new = {atom: place for place, atom in enumerate(n for n in range(len(parent)) if parent[n] == n)}
    spaces = [tuple(new[root(atom)] for atom in part) for part in tensors]
    return _collected(graph, spaces, [widths[atom] for atom in new])


def _collected(graph: Graph, spaces: Sequence[tuple[int, ...]], widths: Sequence[int]) -> Spaces:
    head = graph.heads[0].op
    members: list[Member] = []
    users = graph.users()
    maps, norms = [""] * len(widths), [list[str]() for _ in widths]
    for number, op in enumerate(graph.ops):
        if number == head or op.channels == 0:
            continue
        if op.kind == "map":
            after = graph.ops[users[number][0]] if len(users[number]) == 1 else op
            norm = after.name if after.kind == "norm" else ""
            reads = spaces[op.inputs[0]]
            members.append(Member(op.name, "map", reads, spaces[number], op.groups > 1, norm, op.fast))
            if op.groups == 1 and not maps[spaces[number][0]]:
                maps[spaces[number][0]] = op.name
        elif op.kind == "norm":
            members.append(Member(op.name, "norm", spaces[number], spaces[number]))
            for space in spaces[number]:
                norms[space].append(op.name)
        elif op.owns:
            members.append(Member(op.name, "act", spaces[number], spaces[number]))
    hidden = tuple(Hidden(m, tuple(n), w) for m, n, w in zip(maps, norms, widths, strict=True))
    return Spaces(hidden, tuple(members), spaces[graph.ops[head].inputs[0]])


def _require_depthwise(graph: Graph, op: Op) -> None:
    inputs = graph.ops[op.inputs[0]].channels
    if not op.groups == op.channels == inputs:
        raise ArchitectureError(
            f"'{op.name}' has {op.groups} groups for {inputs} → {op.channels} channels; Theorem 2 covers depthwise"
            " convolutions (as many groups as channels): use method='constant' for this network"
        )


def _listed(parts: Sequence[tuple[int, ...]], widths: Sequence[int]) -> str:
    return " and ".join("+".join(str(widths[atom]) for atom in part) for part in parts)
