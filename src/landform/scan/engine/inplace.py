"""Large models: every parameter is moved when it is read, and let go of when it has been used."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor, nn

from landform.scan.engine.blocks import AbstractBlocks, Part
from landform.scan.engine.memo import Memos, Prepared
from landform.scan.engine.moving import require_plain
from landform.scan.engine.own import UnsupportedError, compute_dtype, moved_names, own_copy
from landform.subspace import Subspace
from landform.task import Task
from landform.task.running import moved, takes_names

LARGE = 1 << 24
"""Moved numbers (64 MB in float32) from which on no copies of parameters are made."""

KEPT = 1 << 29
"""Bytes of directions made from a seed up to which they are kept once made (512 MB): making them for every point and
block takes some seven times as long as everything else."""


class _Point:
    """Where the moving parameters are now."""

    def __init__(self, subspace: Subspace, dtype: torch.dtype | None) -> None:
        self.subspace = subspace
        self.dtype = dtype
        self.h = torch.zeros(subspace.z, dtype=torch.float64)
        self._made: dict[str, Subspace] = {}
        moved = [subspace.origin[name] for name in subspace.moved]
        size = subspace.z * sum(value.numel() * max(4, value.element_size()) for value in moved)
        self._keeps = subspace.seeded and size <= KEPT

    @property
    def bytes(self) -> int:
        """Memory of directions that were made from a seed and are kept."""
        spaces = self._made.values()
        return sum(step.nbytes for space in spaces for direction in space.directions for step in direction.values())

    def tensor(self, name: str) -> Tensor:
        """Return a parameter where it is now."""
        if not self._keeps:
            return self.subspace.tensor(name, self.h, dtype=self.dtype)
        if name not in self._made:
            steps = tuple({name: d[name]} if name in d else {} for d in self.subspace.directions)
            self._made[name] = Subspace({name: self.subspace.origin[name]}, steps)
        return self._made[name].tensor(name, self.h, dtype=self.dtype)


class _Moving(dict[str, "nn.Parameter | None"]):
    """A module's parameters; one that is moved is made anew at the present point whenever it is asked for.

    `torch.nn.Module` looks its parameters up here, so whoever reads ``module.weight`` gets the moved one, and nobody
    keeps it: memory is that of the parameters in use, most often a single one.
    """

    def __init__(self, own: dict[str, nn.Parameter | None], names: dict[str, str], point: _Point) -> None:
        super().__init__(own)
        self._names = names
        self._point = point

    def __getitem__(self, key: str) -> nn.Parameter | None:
        name, dtype = self._names.get(key), self._point.dtype
        if name is not None:
            with torch._C.DisableTorchFunction():  # beside any `Memo`
                return self._point.tensor(name)  # type: ignore[return-value]
        own = super().__getitem__(key)
        return own if own is None or dtype is None else own.to(dtype)  # type: ignore[return-value]

    def get(self, key: str, default: Any = None) -> Any:
        return self[key] if key in self else default  # noqa: SIM401

    def items(self) -> Any:
        return {key: self[key] for key in self}.items()

    def values(self) -> Any:
        return {key: self[key] for key in self}.values()


class InplaceEngine(AbstractBlocks):
    """Runs a structural copy of the model that holds the origin's own tensors and makes moved ones as they are read.

    No copy of the parameters is ever held, whatever the grid and the number of directions: beyond model and activations
    a point takes the largest tensor that is moved. Directions made from a seed are kept from their first use on if they
    take 512 MB at most, as tensors of the caller's would be; larger ones are made for each point and batch, a chunk at
    a time. The origin is only read, so there is nothing to restore, and nothing drifts. Weights of half
    precision are moved, and run, in float32, each made when it is read.

    Args:
        task: The task.
        subspace: An affine subspace, best with directions made from a seed.
        order: Order of the samples; None for the data's.
        batch_size: Samples a forward pass; None for the task's choice. Parameters are made once a pass, so larger
            ones cost less.
        memo: Remember what does not depend on the point (`CachedEngine`).

    Raises:
        UnsupportedError: The model cannot be copied, or its parameters are read in a way that cannot be followed
            (recurrent layers, scripts).

    Cost:
        One pass over the samples a point; z fused additions over the moved parameters a batch.

    Example:
        >>> origin = {"weight": torch.zeros(1, 1), "bias": torch.zeros(1)}
        >>> line = Subspace(origin, ({"bias": torch.ones(1)},))
        >>> task = Task(nn.Linear(1, 1), "mse", (torch.zeros(2, 1), torch.tensor([[0.0], [2.0]])))
        >>> InplaceEngine(task, line).terms(torch.tensor([[1.0]]), 0, 2).num.tolist()  # (h − 0)², (h − 2)²
        [[[1.0, 1.0]]]
    """

    def __init__(
        self,
        task: Task,
        subspace: Subspace,
        *,
        order: Int64[Tensor, " n"] | None = None,
        batch_size: int | None = None,
        memo: bool = False,
    ) -> None:
        super().__init__(task, order, batch_size)
        if not isinstance(subspace, Subspace):
            raise UnsupportedError("only an affine subspace can be read a tensor at a time")
        require_plain(task)
        assert isinstance(task.model, nn.Module)
        _require_readable(task.model)
        dtype = compute_dtype(task.model)
        model, tensors = own_copy(task.model, subspace.origin, dtype=dtype if memo else None)
        under = moved_names(task.model, subspace.moved)
        by_id = {id(tensors[name]): alias for name, alias in under.items()}
        self._point = _Point(subspace, dtype)
        for module in model.modules():
            own = module._parameters
            mine = {key: by_id[id(value)] for key, value in own.items() if id(value) in by_id}
            if mine or dtype is not None:
                module._parameters = _Moving(own, mine, self._point)
            if dtype is not None:
                floats = {key: value for key, value in module._buffers.items() if value is not None}
                module._buffers |= {key: value.to(dtype) for key, value in floats.items() if value.is_floating_point()}
        self._model = model
        lead = next((value for value in tensors.values() if value.is_floating_point()), None)
        self._place = None if lead is None else (lead.device, dtype or lead.dtype)
        self._memos = self._remember(task, by_id, model) if memo else None

    @property
    def held(self) -> int:
        """Bytes of the largest moved tensor, made and on the way, of directions made, and of what is remembered."""
        subspace = self._point.subspace
        largest = max((subspace.origin[name].nbytes for name in subspace.moved), default=0)
        return 2 * largest + self._point.bytes + (0 if self._memos is None else self._memos.bytes)

    def _quiet(self) -> contextlib.AbstractContextManager[object]:
        return torch.inference_mode() if self._memos is None else torch.no_grad()

    def _forget(self) -> None:
        """Let go of what is remembered of blocks."""
        if self._memos is not None:
            self._memos.clear()

    def _parts(self, h: Tensor, start: int, stop: int) -> Iterator[Part]:
        task, memos = self._source.task, self._memos
        for first in range(start, stop, self.batch_size):
            last = min(first + self.batch_size, stop)
            ready = self._prepared(first, last) if memos is None else memos.get(first, last, range(start, stop))
            for place, point in enumerate(h):
                self._point.h = point
                num, den = task.terms(self._outputs(ready), ready.block.batch)
                yield ready.block, [place], num[None], den

    def _prepared(self, start: int, stop: int) -> Prepared:
        block = self._source.block(start, stop)
        inputs = block.batch.inputs if self._place is None else moved(block.batch.inputs, *self._place)
        named = isinstance(inputs, Mapping) and takes_names(self._model, tuple(inputs))
        return Prepared(block, inputs, named)

    def _outputs(self, ready: Prepared) -> Any:
        with contextlib.nullcontext() if ready.memo is None else ready.memo:
            found = self._model(**ready.inputs) if ready.named else self._model(ready.inputs)
        if ready.memo is not None:
            ready.memo.close()
        return found

    def _remember(self, task: Task, moving: Mapping[int, str], model: nn.Module) -> Memos:
        """Look at a few samples: what there is to remember, and of how many samples memory holds it."""
        fixed = [value for value in [*model.parameters(), *model.buffers()] if id(value) not in moving]
        memos = Memos(self._prepared, fixed)
        with torch.no_grad(), task.mode():
            ready = memos.get(0, few := min(2, task.n), range(0))
            self._outputs(ready)
        assert ready.memo is not None
        if not ready.memo.products:
            raise UnsupportedError("every product depends on the point, so there is nothing to remember")
        self._size = max(1, min(self.batch_size, Memos.LIMIT * few // (2 * max(1, ready.memo.bytes))))
        memos.clear()
        return memos


class CachedEngine(InplaceEngine):
    """`InplaceEngine` that computes once a block what no direction reaches, for models that no graph shows.

    The model runs as it is; calls of PyTorch whose arguments are the same tensors at every point are remembered
    (`landform.scan.engine.memo`). So a frozen part is computed once wherever it lies before what is moved, through any
    Python code; a value that is written to in place ends it.

    Args:
        task: The task.
        subspace: An affine subspace.
        order: Order of the samples; None for the data's.
        batch_size: Samples a forward pass; fewer where what is remembered of them takes more than 256 MB.

    Raises:
        UnsupportedError: As `InplaceEngine`; no product is the same at every point.

    Example:
        >>> net = nn.Sequential(nn.Linear(1, 2), nn.Tanh(), nn.Linear(2, 1))
        >>> task = Task(net, "mse", (torch.zeros(2, 1), torch.ones(2, 1)))
        >>> line = Subspace(dict(net.named_parameters()), ({"2.bias": torch.ones(1)},))
        >>> found = CachedEngine(task, line).sums(torch.tensor([[0.0], [1.0]]))
        >>> torch.allclose(found.num, InplaceEngine(task, line).sums(torch.tensor([[0.0], [1.0]])).num)
        True
    """

    def __init__(
        self,
        task: Task,
        subspace: Subspace,
        *,
        order: Int64[Tensor, " n"] | None = None,
        batch_size: int | None = None,
    ) -> None:
        super().__init__(task, subspace, order=order, batch_size=batch_size, memo=True)


def _require_readable(model: nn.Module) -> None:
    for name, module in model.named_modules():
        if isinstance(module, nn.RNNBase | torch.jit.ScriptModule):
            raise UnsupportedError(f"{name or 'the model'} ({type(module).__name__}) keeps its parameters elsewhere")
        if isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.max_norm is not None:
            raise UnsupportedError(f"{name or 'the model'} writes to its own weight (max_norm)")
