"""Reuse what does not depend on the point, and what depends on it affinely, between all points."""

import operator
from collections.abc import Iterator
from dataclasses import dataclass, replace
from queue import SimpleQueue
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from landform.scan.engine.blocks import AbstractBlocks, Part
from landform.scan.engine.buffered import buffer_bytes, buffered
from landform.scan.engine.cut import Cut, Frontier, Scratch
from landform.scan.engine.fold import fold
from landform.scan.engine.moving import moving_copy
from landform.scan.engine.own import Theta
from landform.scan.engine.quicker import Quicker, Way
from landform.scan.engine.reading import Reading
from landform.scan.engine.source import Block
from landform.scan.engine.spread import parts, spread
from landform.scan.engine.stacked import Buffers, Early, Stack
from landform.scan.engine.trace import classify, trace
from landform.subspace import Subspace
from landform.task import Task
from landform.task.running import moved

CACHE = 512 << 20
"""Bytes of blocks kept ready: enough for the first samples of a multilevel scan, not for feature maps of a data set."""
BATCH = (32, 1024)
"""Samples a block at least and at most: weights are written anew for each, which many rows of products outweigh."""
NUMBERS = 1 << 20
"""Numbers of the largest value of a block, where all cores share it and every point writes many weights (4 MB)."""
CONVOLVED = 1 << 21
"""The same where cores share convolutions: these wait for each other at every layer, less often if it is large."""
ALONE = 1 << 19
"""The same where each core has a block of its own in its second-level cache."""
LANES = 1 << 22
"""Numbers written a point (16 MB in float32) up to which each core has tensors of its own, and computes other points;
from there on products are large enough for all cores to share one."""
SMALL = 1 << 15
"""Numbers written a point up to which stacks of points are faster: products of 128 × 128 and less."""
STACK = 1 << 16
"""Output numbers that are collected before losses are computed from them, so that calls on few samples are few."""


@dataclass(eq=False)
class _Ready:
    """A block of samples, prepared."""

    block: Block
    frontier: Frontier
    reading: Reading | None = None
    early: list[Early] | None = None


@dataclass(eq=False)
class _Lane:
    """What one thread needs of its own to compute points."""

    rest: nn.Module
    theta: Theta
    scratch: Scratch

    @property
    def bytes(self) -> int:
        """Memory of values that it writes again and again; moved parameters are not counted."""
        return self.scratch.bytes + buffer_bytes(self.rest)

    def outputs(self, frontier: Frontier, h: tuple[float, ...]) -> Any:
        """Compute the model's outputs at a point."""
        self.theta.write(h)
        return self.scratch.loose(self.rest(*self.scratch.at(frontier, h)))


class AffineEngine(AbstractBlocks):
    """Computes only what h changes, in the way that h changes it.

    The model is traced and cut (`landform.scan.engine.cut`). What no direction reaches, such as frozen early layers, is
    computed once for a block of samples; the first moved Linear, convolution or embedding is affine in h, so its z + 1
    products serve every point; the rest runs at each point, on the engine's own tensors, written in place.

    Args:
        task: The task; its model must be a module that `torch.fx` can trace.
        subspace: An affine subspace.
        order: Order of the samples; None for the data's.
        batch_size: Samples a block; None for what caches hold, 32 to 1024.
        cache: Bytes of prepared blocks to keep.

    Raises:
        UnsupportedError: The model cannot be traced or copied, or the subspace is no affine one.

    Cost:
        z + 1 products of the first moved layer for each block; the layers after it for each point; memory for one
        block a core, the cache, and z + 1 times the moved parameters after the cut, and twice more for each core.

    Example:
        >>> origin = {"weight": torch.zeros(1, 1), "bias": torch.zeros(1)}
        >>> line = Subspace(origin, ({"bias": torch.ones(1)},))
        >>> task = Task(nn.Linear(1, 1), "mse", (torch.zeros(2, 1), torch.tensor([[0.0], [2.0]])))
        >>> AffineEngine(task, line).terms(torch.tensor([[1.0]]), 0, 2).num.tolist()  # (h − 0)², (h − 2)²
        [[[1.0, 1.0]]]
    """

    def __init__(
        self,
        task: Task,
        subspace: Subspace,
        *,
        order: Int64[Tensor, " n"] | None = None,
        batch_size: int | None = None,
        cache: int = CACHE,
    ) -> None:
        super().__init__(task, order, batch_size)
        self._stack: Stack | None = None
        self._quicker = Quicker()
        self._limit = cache
        self._blocks: dict[tuple[int, int], _Ready] = {}
        model, tensors, steps = moving_copy(task, subspace)
        graph = trace(model)
        fold(graph, tensors, steps)
        self.cut = Cut(graph, classify(graph, set(steps)), steps, subspace.z)
        late = {name: value for name, value in tensors.items() if id(value) in self.cut.used}
        self._theta = Theta(late, steps, subspace.z)
        self._lanes = [_Lane(buffered(self.cut.rest), self._theta, Scratch())]
        self._lead = next((value for value in tensors.values() if value.is_floating_point()), None)
        with torch.inference_mode(), task.mode():
            early = self.cut.early(self._inputs(self._source.block(0, 1)))
            self._theta.write((0.0,) * subspace.z)
            self.widest = self.cut.widest(early)
        # by structure alone: on any number of cores blocks are the same, and so are the last digits
        numbers = CONVOLVED if self.cut.convolves else ALONE if self.written <= LANES else NUMBERS
        fit = 1 << max(0, numbers // self.widest).bit_length() - 1 if self.widest <= numbers else 1
        self._size = batch_size or min(max(fit, BATCH[0]), BATCH[1])

    @property
    def written(self) -> int:
        """Numbers that are written at every point."""
        return self._theta.numel

    @property
    def held(self) -> int:
        """Bytes of moved parameters and of layers' values, for each core, and of prepared blocks."""
        blocks = sum(ready.frontier.bytes for ready in self._blocks.values())
        return self._theta.bytes(len(self._lanes)) + sum(lane.bytes for lane in self._lanes) + blocks

    def _forget(self) -> None:
        """Let go of prepared blocks, and of what each core has."""
        self._blocks.clear()
        self._lanes = [replace(self._lanes[0], scratch=Scratch())]

    def _parts(self, h: Tensor, start: int, stop: int) -> Iterator[Part]:
        """Prepare blocks with all cores; those that are ready then go to the cores together, job by job."""
        keep = range(start, stop)
        compute = self._points if self._stack is None else self._stacks
        waiting: list[_Ready] = []
        for first in range(start, stop, self.batch_size):
            last = min(first + self.batch_size, stop)
            if waiting and (first, last) not in self._blocks:
                yield from compute(waiting, h)
                waiting = []
            waiting.append(self._ready(first, last, keep))
        yield from compute(waiting, h)

    def _stacks(self, blocks: list[_Ready], h: Tensor) -> Iterator[Part]:
        stack = self._stack
        assert stack is not None
        for ready in blocks:
            if ready.early is None:
                ready.early = [Early(value) for value in ready.frontier.values]
            if ready.reading is None:
                # how wide the layers are is not known before; the point is computed again with the others, so that
                # digits do not depend on what was computed before, in this process or by another worker
                outputs = stack.outputs(ready.early, h[:1], Buffers())
                ready.reading = Reading(self._source, ready.block, tree_map(lambda value: value[0], outputs))
        idle: list[Buffers] = []

        def compute(job: tuple[_Ready, range]) -> Tensor:
            ready, part = job
            reading, early = ready.reading, ready.early
            assert reading is not None
            assert early is not None
            try:
                buffers = idle.pop()
            except IndexError:
                buffers = Buffers()
            try:
                outputs = stack.outputs(early, h[part.start : part.stop], buffers)
                if reading.stackable:
                    return reading.many(outputs)
                each = [tree_map(operator.itemgetter(number), outputs) for number in range(len(part))]
                return torch.stack([reading.one(one) for one in each])
            finally:
                idle.append(buffers)

        jobs = []
        for ready in blocks:
            size = stack.size(ready.block.stop - ready.block.start)
            jobs += [(ready, range(n, min(n + size, len(h)))) for n in range(0, len(h), size)]
        for (ready, part), found in zip(jobs, spread(compute, jobs), strict=True):
            assert ready.reading is not None
            yield ready.block, list(part), found, ready.reading.den

    def _points(self, blocks: list[_Ready], h: Tensor) -> Iterator[Part]:
        rows, sequence = along_lines(h)
        idle = SimpleQueue[_Lane]()
        for ready in blocks:
            if ready.reading is None:  # what it holds does not depend on the point
                ready.reading = Reading(self._source, ready.block, self._lanes[0].outputs(ready.frontier, rows[0]))
        jobs = []
        for ready in blocks:
            assert ready.reading is not None
            most = max(1, STACK // ready.reading.numel) if ready.reading.stackable else 1
            jobs += [(ready, part) for part in parts(len(sequence), most, len(blocks))]
        go_through = self._way(len(jobs))
        for lane in self._lanes:
            idle.put(lane)

        def compute(job: tuple[_Ready, range]) -> Tensor:
            ready, part = job
            reading = ready.reading
            assert reading is not None
            lane = idle.get()
            try:  # outputs may lie in what is the lane's own
                found = [lane.outputs(ready.frontier, rows[sequence[number]]) for number in part]
                if reading.stackable:
                    return reading.many(torch.stack(found))
                return torch.stack([reading.one(one) for one in found])
            finally:
                idle.put(lane)

        for (ready, part), found in zip(jobs, go_through(compute, jobs), strict=True):
            assert ready.reading is not None
            yield ready.block, [sequence[number] for number in part], found, ready.reading.den

    def _way(self, jobs: int) -> Way:
        """Say whether cores share each job, or have tensors of their own, which are made at need, and other jobs."""
        cores = torch.get_num_threads()
        if cores == 1 or jobs < cores or self.written > LANES or (self._lead is not None and self._lead.is_cuda):
            return map
        while len(self._lanes) < cores:
            theta, rest = self._lanes[0].theta.twin(self._lanes[0].rest)
            self._lanes.append(_Lane(rest, theta, Scratch()))
        return self._quicker if self.cut.convolves else spread

    def _ready(self, start: int, stop: int, keep: range) -> _Ready:
        """Return a block, prepared; keep it, if need be in place of blocks outside the samples in use.

        Blocks in use are not given up for others in use: they are visited in turn, so the oldest is needed next.
        """
        key = (start, stop)
        if key in self._blocks:
            return self._blocks[key]
        block = self._source.block(start, stop)
        found = _Ready(block, self.cut.block(self._inputs(block)))
        total = found.frontier.bytes + sum(kept.frontier.bytes for kept in self._blocks.values())
        for other in list(self._blocks):
            if total <= self._limit:
                break
            if other[0] not in keep:
                total -= self._blocks.pop(other).frontier.bytes
        if total <= self._limit:
            self._blocks[key] = found
        return found

    def _inputs(self, block: Block) -> Any:
        lead = self._lead
        inputs = block.batch.inputs
        return inputs if lead is None else moved(inputs, lead.device, lead.dtype)


class StackedEngine(AffineEngine):
    """`AffineEngine` that computes many points in one call, for small MLPs (`landform.scan.engine.stacked`)."""

    def __init__(
        self,
        task: Task,
        subspace: Subspace,
        *,
        order: Int64[Tensor, " n"] | None = None,
        batch_size: int | None = None,
        cache: int = CACHE,
    ) -> None:
        super().__init__(task, subspace, order=order, batch_size=batch_size, cache=cache)
        self._pile()

    @classmethod
    def of(cls, engine: AffineEngine) -> "StackedEngine":
        """Take over what another engine has traced and cut, which is not to be used any more.

        Args:
            engine: The other.

        Returns:
            An engine for the same task and subspace.

        Raises:
            UnsupportedError: As for `StackedEngine`; the other is left as it was.
        """
        made = cls.__new__(cls)
        vars(made).update(vars(engine))
        made._pile()
        return made

    def _pile(self) -> None:
        with torch.inference_mode(), self._source.task.mode():
            self._stack = Stack(self.cut, self._theta, self.cut.early(self._inputs(self._source.block(0, 1))))


def along_lines(h: Tensor) -> tuple[list[tuple[float, ...]], list[int]]:
    """Return points as tuples, and an order in which those that differ in the last coordinate only are together."""
    rows = [tuple(row) for row in h.tolist()]
    return rows, sorted(range(len(rows)), key=rows.__getitem__)
