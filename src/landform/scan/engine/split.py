"""Where sample and point stay apart until late: one pass over the samples in all, and one sample a point."""

from collections.abc import Iterator

import torch
from jaxtyping import Float64, Int64
from torch import Tensor, fx

from landform.scan.engine.blocks import AbstractBlocks, Part
from landform.scan.engine.moving import moving_copy
from landform.scan.engine.own import Theta, UnsupportedError
from landform.scan.engine.reach import reaches
from landform.scan.engine.source import Block
from landform.scan.engine.trace import touched, trace
from landform.scan.engine.units import Moves
from landform.subspace import Subspace
from landform.task import Task
from landform.task.running import moved

KEPT = 1 << 28
"""Bytes of features of samples that are kept from call to call, and as many of points."""


class SplitEngine(AbstractBlocks):
    """Computes features of samples once, features of points on one sample, and only what reads both at each point.

    A pattern beside a trained network has channels of its own: they read and feed each other alone, so no sample
    reaches them, and no point reaches the trained channels, up to the last layer. The model is cut at the last value of
    which no channel depends on both (`landform.scan.engine.reach`). What comes before is run on all samples at the
    origin, and on one sample at every point; a channel is taken from the one or the other, and what comes behind is run
    on these.

    Args:
        task: The task; its model must be a module that `torch.fx` can trace.
        subspace: An affine subspace.
        order: Order of the samples; None for the data's.
        batch_size: Samples a block.

    Raises:
        UnsupportedError: There is no such value, or no product before it.

    Cost:
        All of the model once for every sample, and once for one sample a point; what is behind the cut for every sample
        at every point.

    Example:
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 1))
        >>> origin = {"0.weight": torch.tensor([[1.0], [0.0]]), "0.bias": torch.zeros(2)}
        >>> origin |= {"2.weight": torch.ones(1, 2), "2.bias": torch.zeros(1)}
        >>> line = Subspace(origin, ({"0.bias": torch.tensor([0.0, 1.0])},))
        >>> task = Task(net, "mse", (torch.tensor([[1.0], [2.0]]), torch.zeros(2, 1)))
        >>> SplitEngine(task, line).terms(torch.tensor([[2.0]]), 0, 2).num.tolist()  # (1 + 2)², (2 + 2)²
        [[[9.0, 16.0]]]
    """

    def __init__(
        self,
        task: Task,
        subspace: Subspace,
        *,
        order: Int64[Tensor, " n"] | None = None,
        batch_size: int | None = None,
    ) -> None:
        super().__init__(task, order, batch_size)
        model, tensors, steps = moving_copy(task, subspace)
        moves = {key: step.parts for key, step in steps.items()}
        graph = trace(model)
        cut, self._point = _last_apart(graph, moves)
        self._head, self._tail = _halves(graph, cut)
        late = {name: value for name, value in tensors.items() if id(value) in steps}
        lead = next(value for value in tensors.values() if value.is_floating_point())
        self._place = lead.device, lead.dtype
        self._theta = Theta(late, steps, subspace.z)
        self._origin = (0.0,) * subspace.z
        self._points: dict[tuple[float, ...], Tensor] = {}
        self._samples: Tensor | None = None
        self._known = torch.zeros(self.n, dtype=torch.bool)

    @property
    def held(self) -> int:
        """Bytes of the moved tensors, and of features that are kept."""
        samples = 0 if self._samples is None else self._samples.nbytes
        return self._theta.bytes(1) + samples + sum(value.nbytes for value in self._points.values())

    def _forget(self) -> None:
        self._points.clear()
        self._samples, self._known = None, torch.zeros_like(self._known)

    def _parts(self, h: Float64[Tensor, "points z"], start: int, stop: int) -> Iterator[Part]:
        of_points = self._features_of_points(h, start)
        for first in range(start, stop, self.batch_size):
            block = self._source.block(first, min(first + self.batch_size, stop))
            features = self._features(block)
            mask = self._point.reshape(1, -1, *[1] * (features.ndim - 2)).to(features.device)
            for place, (point, own) in enumerate(zip(h.tolist(), of_points, strict=True)):
                self._theta.write(tuple(point))
                num, den = self._source.task.terms(self._tail(torch.where(mask, own, features)), block.batch)
                yield block, [place], num[None], den

    def _features(self, block: Block) -> Tensor:
        """Return what samples alone decide, at the origin; each is computed once where all of them can be kept."""
        span = slice(block.start, block.stop)
        if bool(self._known[span].all()) and self._samples is not None:
            return self._samples[span]
        self._theta.write(self._origin)
        found: Tensor = self._head(moved(block.batch.inputs, *self._place))
        if self._samples is None and found[0].nbytes * self.n <= KEPT:
            self._samples = found.new_empty(self.n, *found.shape[1:])
        if self._samples is not None:
            self._samples[span], self._known[span] = found, True
        return found

    def _features_of_points(self, h: Tensor, start: int) -> list[Tensor]:
        """Return what points alone decide, on one sample."""
        points = [tuple(point) for point in h.tolist()]
        if any(point not in self._points for point in points):
            if sum(value.nbytes for value in self._points.values()) > KEPT:
                self._points.clear()
            one = moved(self._source.block(start, start + 1).batch.inputs, *self._place)
            for point in points:
                if point not in self._points:
                    self._theta.write(point)
                    self._points[point] = self._head(one)
        return [self._points[point] for point in points]


def _last_apart(graph: fx.GraphModule, moves: Moves) -> tuple[fx.Node, Tensor]:
    """Find the last value through which everything goes, and of which no channel depends on sample and point.

    Returns:
        The node, and which of its channels depend on the point.
    """
    found = reaches(graph, moves)
    nodes = [node for node in graph.graph.nodes if node.op not in ("output", "get_attr")]
    if sum(node.op == "placeholder" for node in nodes) != 1:
        raise UnsupportedError("the model reads more than one input")
    for place in range(len(nodes) - 1, 0, -1):
        node = nodes[place]
        late = {*nodes[place + 1 :], *(n for n in graph.graph.nodes if n.op == "output")}
        read = {source for n in late for source in n.all_input_nodes if source.op != "get_attr"} - late
        if read == {node} and found[node].apart:
            if not any(touched(graph, n) for n in nodes[: place + 1]):
                break
            return node, found[node].point
    raise UnsupportedError("no value tells what samples reach from what points reach")


def _halves(graph: fx.GraphModule, cut: fx.Node) -> tuple[fx.GraphModule, fx.GraphModule]:
    """Return what comes up to a node, and what comes behind it; they share the modules."""
    head, tail = fx.Graph(), fx.Graph()
    before: dict[fx.Node, fx.Node] = {}
    behind: dict[fx.Node, fx.Node] = {}
    late = False
    for node in graph.graph.nodes:
        if node.op == "get_attr":
            before[node] = head.node_copy(node)
            if behind:
                behind[node] = tail.node_copy(node)
        elif late:
            for source in node.all_input_nodes:
                if source not in behind:  # a parameter that was fetched early
                    behind[source] = tail.node_copy(source)
            behind[node] = tail.node_copy(node, behind.__getitem__)
        else:
            before[node] = head.node_copy(node, before.__getitem__)
        if node is cut:
            late = True
            head.output(before[node])
            behind[node] = tail.placeholder("features")
    return fx.GraphModule(graph, head), fx.GraphModule(graph, tail)
