"""Calls of a task's model, or of its step, at given parameters."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from landform.calling import as_found, split_heads
from landform.errors import InputError
from landform.losses import LossSum
from landform.randomness import seed_all
from landform.task import stepping
from landform.task.batch import Batch
from landform.task.held import Held
from landform.task.normalisation import averaging, by_batch
from landform.task.running import Prepared, Session
from landform.task.summing import parts_of

DEFAULT_BATCH = 1024
"""Samples a forward pass: large enough for matrix products at full speed, small enough for convolutions."""


class Caller(Held):
    """A task that can be run; see `Task`."""

    __slots__ = ()

    @contextlib.contextmanager
    def mode(self, dtype: torch.dtype | None = None) -> Iterator[None]:
        """Enter evaluation once for many calls of `run`, `terms_at` and `sums`, which makes each of them cheaper.

        Within it the model's own parameters must not be changed: they were read when it was entered.

        Args:
            dtype: Compute in this dtype meanwhile.

        Yields:
            Nothing.
        """
        before = self._session
        if before is not None and dtype in (None, before.dtype):
            yield
            return
        with as_found(self._model), torch.no_grad(), contextlib.ExitStack() as stack:
            if self._settings.batch_norm == "batch":
                stack.enter_context(by_batch(self._model))
            try:
                self._session = Session(self._model, self._settings, dtype)
                yield
            finally:
                self._session = before

    def run(self, parameters: Mapping[str, Tensor] | None, batch: Batch) -> Any:
        """Call the model once at given parameters, without gradients.

        Args:
            parameters: As in `evaluate`.
            batch: Samples.

        Returns:
            What the model returns.

        Raises:
            InputError: As `evaluate`.
        """
        return self._call(self._model, self.prepare(parameters), batch.inputs, batch.seed)

    def prepare(self, parameters: Mapping[str, Tensor] | None) -> Mapping[str, Tensor] | None:
        """Recalibrate BatchNorm at given parameters, where that is the task's policy, once for many calls there.

        Args:
            parameters: As in `evaluate`.

        Returns:
            The same, with running statistics among them, fit for `run`, `terms_at` and `sums`.

        Cost:
            A pass over the data with ``batch_norm="recalibrate"``, otherwise none.
        """
        if self._settings.batch_norm != "recalibrate" or isinstance(parameters, Prepared):
            return parameters
        data = self._calibration
        if data is None:
            return parameters
        with self.mode(), by_batch(self._model):
            session = self._session
            assert session is not None
            state = session.state(parameters)
            size = min(DEFAULT_BATCH, data.n)
            sizes = ((part.stop - part.start, part) for part in parts_of(data.n, size, even=True))
            for part in averaging(self._model, sizes):
                if self._step is None:
                    session.call(self._model, state, data.take(part)[0])
                else:
                    session.call(self._step, state, data.raw(part))
        return Prepared({**(parameters or {}), **{name: state[name] for name in session.buffers}})

    def stepped(self, parameters: Mapping[str, Tensor] | None, batch: Batch) -> dict[str, Tensor]:
        """Call the step at given parameters.

        Args:
            parameters: As in `evaluate`.
            batch: Samples.

        Returns:
            Float64 values by quantity, the loss first: ``[n]``, or a number for the whole batch.

        Raises:
            InputError: The step returned something else, or there is none.
        """
        if self._step is None:
            raise InputError(f"task {self.name} has a loss, no step; use terms_at or evaluate")
        found = self._call(self._step, self.prepare(parameters), batch.raw, batch.seed)
        return stepping.values_of(found, batch.size, self._resolved.name)

    def differentiable(
        self, parameters: Mapping[str, Tensor] | None, batch: Batch, head: int = 0
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Compute a batch's part of the loss of one head, to be differentiated; called inside `torch.enable_grad`.

        Args:
            parameters: As in `evaluate`.
            batch: Samples.
            head: Number of the head.

        Returns:
            Numerator and denominator, and the parameters that the numerator is a function of, by name.
        """
        with self.mode(), torch.enable_grad():
            session = self._session
            assert session is not None
            state = session.state(parameters)
            leaves = {
                name: value.detach().requires_grad_()
                for name, value in state.items()
                if name not in session.buffers and value.is_floating_point()
            }
            if self._settings.noisy:
                seed_all(batch.seed)
            if self._step is not None:
                found = session.call(self._step, state | leaves, batch.raw)
                values = stepping.values_of(found, batch.size, self._resolved.name)
                num, den = stepping.sums_of({"loss": values["loss"]}, batch)
                return num[0], den[0], leaves
            heads = self.split_heads(session.call(self._model, state | leaves, batch.inputs), batch)
            total = LossSum(self._resolved)
            total.add(list(heads.values())[head], batch.targets, batch.weights)
            return *total.sums(), leaves

    def split_heads(self, outputs: Any, batch: Batch) -> dict[str, Tensor]:
        """Name the heads of what the model returned for a batch.

        Args:
            outputs: What it returned.
            batch: The samples.

        Returns:
            Tensors by head, ``"output"`` for a single one.

        Raises:
            InputError: No tensors, or a tensor without one row a sample.
        """
        return split_heads(outputs, batch.size, self._who, self._output)[0]

    def _call(self, function: Any, parameters: Mapping[str, Tensor] | None, inputs: Any, seed: int) -> Any:
        with self.mode():
            session = self._session
            assert session is not None
            if self._settings.noisy:
                seed_all(seed)  # the same draws at every point; put back on leaving the mode
            return session.call(function, session.state(parameters), inputs)
