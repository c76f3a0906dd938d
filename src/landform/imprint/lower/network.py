"""Read a network once, for everything that needs to know what it is: scheduling, writing, proving, measuring.

Chains of Linear layers keep their own way (`chain.py`, `linear.py`); every other network is a graph (`graph.py`) in
stages (`stages.py`). Both answer the same questions here.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch import nn

from landform.errors import ArchitectureError
from landform.imprint.lower import chain as chains
from landform.imprint.lower import linear
from landform.imprint.lower.checks import check_modules, refuse_quantised
from landform.imprint.lower.graph import Graph, chosen, read_graph
from landform.imprint.lower.grouping import stages
from landform.imprint.lower.linear import Lowered
from landform.imprint.lower.stages import Head, Stages
from landform.imprint.lower.write import checker, write_stages
from landform.imprint.lower.writer import injection
from landform.program.program import Program
from landform.program.room import Room


@dataclass(frozen=True)
class Network:
    """A network as landform sees it.

    Args:
        rooms: What each hidden stage holds, the injected one first.
        per_hinge: Network units that a hinge takes.
        heads: The outputs.
        injected: Name of the parameter that the coordinates move: a bias of the first layer, or β of its norm.
        entrance: Name of the module whose output holds the coordinates.
        chain: The chain, for chains of Linear layers.
        graph: The graph, for every other network.
        stages: Its stages.
    """

    rooms: tuple[Room, ...]
    per_hinge: int
    heads: tuple[chains.Head, ...] | tuple[Head, ...]
    injected: str
    entrance: str
    chain: chains.Chain | None = None
    graph: Graph | None = None
    stages: Stages | None = None

    @property
    def ends(self) -> tuple[str, ...]:
        """What each head ends in: ``"softmax"``, ``"log_softmax"``, or ``""`` for its Linear."""
        return tuple(head.end for head in self.heads)

    @property
    def widths(self) -> tuple[int, ...]:
        """Units of each hidden stage."""
        return tuple(room.units for room in self.rooms)

    @property
    def stage_names(self) -> tuple[str, ...]:
        """Name of the module that computes the units of each hidden stage."""
        if self.chain is None:
            assert self.stages is not None
            return self.stages.room_maps
        # a stage without activation copies, and has no room of its own
        return tuple(s.linear for n, s in enumerate(self.chain.stages) if s.slope < 1.0 or not n)

    @property
    def maps(self) -> tuple[str, ...]:
        """Names of the modules that read the network's input: their weights are zero in a constant imprint."""
        if self.chain is not None:
            return (self.chain.stages[0].linear,)
        assert self.graph is not None
        names = [op.name for op in self.graph.ops if op.kind == "map" and _reads_input(self.graph, op.inputs[0])]
        return tuple(names)

    @property
    def averages(self) -> bool:
        """Whether norms take means over groups of channels and all positions."""
        return self.graph is not None and any(op.shared for op in self.graph.ops)

    def check(self, model: nn.Module) -> None:
        """Refuse parameters that cannot be written.

        Raises:
            ArchitectureError: Naming the parameter and what to do.
        """
        if self.chain is not None:
            linear.check_parameters(model, self.chain)
            return
        assert self.graph is not None
        names = [op.name for op in self.graph.ops if op.kind in ("map", "norm") or op.owns]
        check_modules(model, names, [head.linear for head in self.heads])

    def require_theorem_2(self) -> None:
        """Refuse what units beside a trained network are not built for.

        Raises:
            ArchitectureError: Naming the module.
        """
        for head in self.heads:
            if head.end:
                raise ArchitectureError(
                    f"the output of '{head.linear}' goes through a {head.end}; Theorem 2 moves logits: take it off and"
                    " use cross_entropy, which contains it"
                )
        for op in self.graph.ops if self.graph is not None else ():
            transposed = any(len(taps) > 1 for taps in op.taps)
            carries = op.kind == "act" and op.slope == 1.0
            if op.smooth or op.clips or carries or transposed or op.kind in ("gate", "shift"):
                raise ArchitectureError(
                    "Theorem 2 is built for ReLU and its kin, with neither gates, tanh, clips, transposed convolutions"
                    f" nor padded channels; '{op.name}' is one of these: use method='constant' for this network"
                )

    def checker(self, model: nn.Module) -> Callable[[Program], None] | None:
        """Return what says whether a program can be placed, None where its units decide."""
        return None if self.stages is None else checker(self.stages, model)

    def write(
        self,
        program: Program,
        model: nn.Module,
        best: Sequence[np.ndarray],
        ray: Sequence[np.ndarray],
        *,
        scale: Sequence[float] | None = None,
    ) -> Lowered:
        """Compute the parameters that make the network emit ``best + ray · s(h)`` at every head."""
        if self.chain is not None:
            return linear.write(self.chain, program, model, best, ray, scale=scale)
        assert self.stages is not None
        return write_stages(self.stages, program, model, best, ray, scale=scale)


def read(model: nn.Module, sample: Sequence[int] | None = None, *, output: str | int | None = None) -> Network:
    """Read a network.

    Args:
        model: The network.
        sample: Shape of one input without the batch; only the proof needs it, for networks with global pools.
        output: Which of several outputs is meant (`landform.Task`); None for all.

    Returns:
        What it is.

    Raises:
        ArchitectureError: If it has something that is not covered; the module is named.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 8), nn.ReLU(),
        ...                     nn.Linear(8, 10))
        >>> read(net).widths, read(net).injected
        ((4, 8), '0.bias')
    """
    if isinstance(model, nn.Module):
        refuse_quantised(model)
    try:
        return _from_chain(_narrowed(chains.trace(model), output, type(model).__name__))
    except ArchitectureError as error:
        first = error
    try:
        graph = read_graph(model, sample, output)
        found = stages(graph)
    except ArchitectureError as error:
        raise (first if _chainlike(model) else error) from None
    name = injection(found, model)
    return Network(found.rooms, found.per_hinge, found.heads, name, name.rpartition(".")[0], graph=graph, stages=found)


def _narrowed(chain: chains.Chain, output: str | int | None, who: str) -> chains.Chain:
    """Return a chain with the one head that is meant."""
    if output is None:
        return chain
    pairs = chosen([(head.key, head) for head in chain.heads], output, who)
    return replace(chain, heads=tuple(head for _, head in pairs))


def _from_chain(chain: chains.Chain) -> Network:
    widths, per_hinge = linear.capacities(chain)
    first = chain.stages[0].linear
    return Network(tuple(Room(w) for w in widths), per_hinge, chain.heads, f"{first}.bias", first, chain=chain)


def _reads_input(graph: Graph, number: int) -> bool:
    while graph.ops[number].kind in ("keep", "pool"):
        number = graph.ops[number].inputs[0]
    return number == 0


def _chainlike(model: nn.Module) -> bool:
    """Say whether a network has nothing but what chains are made of, so that their errors fit it best."""
    kinds = (nn.Linear, nn.ReLU, nn.LeakyReLU, nn.Dropout, nn.AlphaDropout, nn.Flatten, nn.Unflatten, nn.Identity)
    leaves = [m for m in model.modules() if not any(True for _ in m.children())]
    return all(isinstance(m, (*kinds, nn.BatchNorm1d)) for m in leaves)
