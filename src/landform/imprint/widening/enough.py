"""How many channels more would hold a pattern: asked of the structure, without making a wider network."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from torch import nn

from landform.errors import ArchitectureError, CapacityError
from landform.imprint.lower import linear
from landform.imprint.lower.grouping import stages
from landform.imprint.lower.network import Network
from landform.imprint.lower.post_norm import PostStream, room_after
from landform.imprint.lower.smooth import room_of
from landform.imprint.lower.stream import Stream
from landform.imprint.lower.write import checker
from landform.imprint.widening.channels import Channels
from landform.imprint.widening.graph import wishes
from landform.program.program import Program
from landform.program.room import Room

MOST = 1 << 15
"""More channels are not tried: what does not fit then lacks depth, not width."""

Check = Callable[[Program], None]


def least_extra(network: Network, model: nn.Module, fits: Callable[[Sequence[Room], Check | None], bool]) -> int | None:
    """Return the fewest channels that `landform.widen` has to add everywhere for something to fit.

    Args:
        network: The network, which is too narrow.
        model: Its module.
        fits: Says whether it fits into rooms; the second argument is as in `landform.program.capacity`.

    Returns:
        The number, or None where no number helps or the network cannot be widened.

    Cost:
        A few dozen calls of ``fits`` at most.
    """
    try:
        return least(lambda extra: fits(*rooms_with(network, model, extra)))
    except ArchitectureError:
        return None


def rooms_with(network: Network, model: nn.Module, extra: int) -> tuple[tuple[Room, ...], Check | None]:
    """Return the rooms that a network would have with more channels everywhere, and what checks a program there.

    Raises:
        ArchitectureError: If it cannot be widened.
    """
    if network.chain is not None:
        chain = network.chain
        wider = tuple(replace(stage, width=stage.width + extra) for stage in chain.stages)
        return tuple(Room(width) for width in linear.capacities(replace(chain, stages=wider))[0]), None
    assert network.graph is not None
    found = Channels(network.graph, model)
    more = wishes(found, extra)
    heads = {head.op for head in network.graph.heads}
    ops = []
    for number, op in enumerate(network.graph.ops):
        places = None if number in heads else found.places(number, more)
        if places is None:
            ops.append(op)
            continue
        source = found.places(op.inputs[0], more)
        grown = source is not None and op.groups > 1
        groups = op.groups * source.total // len(source.old) if grown and source is not None else op.groups
        ops.append(replace(op, channels=places.total, groups=groups))
    wide = stages(replace(network.graph, ops=tuple(ops)))
    return wide.rooms, checker(wide, model)


def least_hidden(
    stream: Stream | PostStream, z: int, fits: Callable[[int, list[int], int], bool], repeat: int = 1
) -> int | None:
    """Return the fewest hidden units that every perceptron of a transformer must get; None where none would do.

    Args:
        stream: Its structure.
        z: Coordinates of the pattern.
        fits: Says whether the pattern fits into coordinates, hidden units, and units that a signed value takes.
        repeat: How often each coordinate of the stream shall be there.
    """

    def with_more(extra: int) -> bool:
        mlps = tuple(replace(mlp, up=replace(mlp.up, outputs=mlp.hidden + extra)) for mlp in stream.mlps)
        if isinstance(stream, PostStream):
            return fits(*room_after(replace(stream, mlps=mlps, width=repeat * stream.width), z))
        return fits(*room_of(replace(stream, mlps=mlps, width=repeat * stream.width), z))

    return least(with_more, start=0)


def least(fits: Callable[[int], bool], start: int = 1) -> int | None:
    """Return the least number from ``start`` (0 or 1) on that fits, by doubling and bisection; None beyond `MOST`.

    Example:
        >>> least(lambda n: n >= 37), least(lambda n: False)
        (37, None)
    """

    def tried(number: int) -> bool:
        try:
            return fits(number)
        except CapacityError:
            return False

    if not tried(MOST):
        return None
    if start == 0 and tried(0):
        return 0
    high = 1
    while not tried(high):
        high *= 2
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if tried(middle) else (middle, high)
    return high
