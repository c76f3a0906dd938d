"""The loss of a task as a differentiable function of some of its parameters."""

import contextlib
from collections.abc import Iterator, Mapping

import torch
from jaxtyping import Float64
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from landform.calling import as_found, split_heads
from landform.errors import InputError
from landform.losses import LossSum
from landform.task import Task
from landform.task.batch import Batch
from landform.task.running import Session


class Objective:
    """The loss over a data set, or a random part of it, with gradients.

    Evaluation mode, the task's device and dtype, the loss in float64; the model is left as it was found. For several
    heads it is the sum of their losses. A loss that gives one number a batch is weighted by the batches' sizes.

    Use it within `active`.

    Args:
        task: The task, with data.
        samples: How many samples, drawn from ``seed``; None for all.
        seed: Seed of the draw.
        batch_size: Samples a pass; None for the task's choice.
    """

    def __init__(self, task: Task, *, samples: int | None = None, seed: int = 0, batch_size: int | None = None) -> None:
        if not isinstance(task, Task):
            raise InputError(f"got a {type(task).__name__}; wanted a Task: a gradient needs the loss and the data")
        if not isinstance(task.model, nn.Module):
            raise InputError(f"the model of task {task.name} is a function; wanted a torch.nn.Module with parameters")
        if samples is not None and (isinstance(samples, bool) or not isinstance(samples, int) or samples < 1):
            raise InputError(f"samples is {samples!r}; wanted at least 1, or None for all")
        if batch_size is not None and batch_size < 1:
            raise InputError(f"batch_size is {batch_size}; wanted at least 1")
        self.task = task
        self.model = task.model
        self.n = task.n if samples is None else min(samples, task.n)
        self._index = None
        if self.n < task.n:
            drawn = torch.randperm(task.n, generator=torch.Generator().manual_seed(seed))
            self._index = drawn[: self.n].sort().values
        self._size = batch_size or task.batch_size()
        self._session: Session | None = None
        first = {id(value): name for name, value in self.model.named_parameters()}
        everything = self.model.named_parameters(remove_duplicate=False)
        self._first = {name: first[id(value)] for name, value in everything}

    @contextlib.contextmanager
    def active(self, dtype: torch.dtype | None = None) -> Iterator[None]:
        """Enter evaluation with gradients, in an attention kernel that can be differentiated twice and forward."""
        with as_found(self.model), torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            self._session = Session(self.model, self.task.settings, dtype)
            try:
                yield
            finally:
                self._session = None

    def batches(self) -> Iterator[Batch]:
        """Iterate over the samples."""
        for start in range(0, self.n, self._size):
            stop = min(start + self._size, self.n)
            yield self.task.batch(slice(start, stop) if self._index is None else self._index[start:stop])

    def start(self, names: tuple[str, ...]) -> dict[str, Tensor]:
        """Return copies of the model's parameters, as they are run (half precision in float32), as leaves."""
        session = self._session
        assert session is not None
        own = session.state(None)
        return {name: own[name].detach().clone().requires_grad_() for name in names}

    def _state(self, session: Session, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Put parameters, which keep their graph, in the place of the model's own."""
        state = session.state(None)
        for name, value in parameters.items():
            own = state[self._first[name]]
            state[self._first[name]] = value.to(own.device, own.dtype)
        return state

    def outputs(self, parameters: Mapping[str, Tensor], batch: Batch) -> object:
        """Call the model, keeping the graph."""
        session = self._session
        assert session is not None
        return session.call(self.model, self._state(session, parameters), batch.inputs)

    def loss_of(self, outputs: object, batch: Batch) -> tuple[Float64[Tensor, ""], Float64[Tensor, ""]]:
        """Add up the loss of a batch from outputs; numerator and denominator."""
        heads, _ = split_heads(outputs, batch.size, f"model {type(self.model).__name__}", self.task.output)
        sums = []
        for output in heads.values():
            total = LossSum(self.task.loss_form)
            total.add(output, batch.targets, batch.weights)
            sums.append(total.sums())
        return torch.stack([num for num, _ in sums]).sum(), sums[0][1]

    def sums(self, parameters: Mapping[str, Tensor], batch: Batch) -> tuple[Float64[Tensor, ""], Float64[Tensor, ""]]:
        """Add up the loss of a batch at parameters: numerator, with its graph, and denominator."""
        step = self.task.step
        if step is None:
            return self.loss_of(self.outputs(parameters, batch), batch)
        session = self._session
        assert session is not None
        found = session.call(step, self._state(session, parameters), batch.raw)
        value = found["loss"] if isinstance(found, Mapping) else found
        if not isinstance(value, Tensor):
            raise InputError(f"step {self.task.loss_form.name} returned a {type(value).__name__}; wanted a tensor")
        weights = torch.ones(batch.size) if batch.weights is None else batch.weights
        each = value.double().expand(batch.size) if value.ndim == 0 else value.double().flatten()
        return (weights.to(each) * each).sum(), weights.double().sum()

    def value(self, parameters: Mapping[str, Tensor]) -> float:
        """Compute the loss at parameters."""
        with torch.no_grad():
            pairs = [self.sums(parameters, batch) for batch in self.batches()]
        return float(sum(float(num) for num, _ in pairs) / sum(float(den) for _, den in pairs))

    def gradient(self, parameters: Mapping[str, Tensor]) -> tuple[float, dict[str, Tensor]]:
        """Compute the loss and its gradient at parameters that require one.

        Args:
            parameters: Leaves by name.

        Returns:
            The loss, and gradients by name, zero for a parameter that the loss does not depend on.

        Raises:
            InputError: A loss or gradient that is not finite.
        """
        leaves = list(parameters.values())
        totals = [torch.zeros_like(leaf) for leaf in leaves]
        num = den = 0.0
        for batch in self.batches():
            value, count = self.sums(parameters, batch)
            if not value.requires_grad:
                raise InputError(f"loss {self.task.loss_form.name} has no gradient: does it detach its result?")
            found = torch.autograd.grad(value, leaves, allow_unused=True)
            for total, part in zip(totals, found, strict=True):
                if part is not None:
                    total += part
            num, den = num + float(value.detach()), den + float(count)
        gradient = {name: total / den for name, total in zip(parameters, totals, strict=True)}
        for name, value in gradient.items():
            if not bool(torch.isfinite(value).all()):
                raise InputError(f"the gradient in '{name}' is not finite (the loss is {num / den:g})")
        return num / den, gradient
