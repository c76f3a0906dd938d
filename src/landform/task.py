"""`Task`: a model, a loss and a data set, which is what a loss surface is a surface of."""

from collections.abc import Iterator, Mapping

import torch
from jaxtyping import Float, Float64, Shaped
from torch import Tensor, nn

from landform.calling import Model, as_found, explain_misfit, model_hash, split_heads, state_at
from landform.data import Data, load_data
from landform.errors import DataError, InputError
from landform.losses import Loss, LossLike, LossSum, resolve_loss

__all__ = ["DEFAULT_BATCH", "Model", "Task", "model_hash", "outputs_probe"]

DEFAULT_BATCH = 1024
"""Samples a forward pass: large enough for matrix products at full speed, small enough for convolutions."""


class Task:
    """A model, a loss and a data set.

    The loss of a task is the loss over the *data set*, Σ_i w_i ℓ_i / Σ_i w_i d_i with the loss's own normaliser d_i
    (class weights, ignored labels), never a mean of batch means. Outputs are computed in the model's dtype, the loss
    from them in float64. A model that returns several heads (a tuple, list or mapping) has one loss a head, on the
    same targets.

    The model is held, not copied, and every method leaves it as it was found: parameters, buffers, the mode of every
    submodule, ``requires_grad`` and PyTorch's random state. Methods evaluate in evaluation mode.

    Args:
        model: A module, or a function of one batch of inputs.
        loss: A name (`landform.losses.LOSS_NAMES`), a module with ``reduction="mean"``, or a function of
            ``(outputs, targets)``; cross-entropy by default, as most classifiers have it. A function that returns one
            value a sample is averaged exactly; one that returns a number is called on all outputs at once. A module is
            read when the task is built.
        data: Anything that `landform.data.load_data` takes; None for a task whose data come later (`replace`).
        name: What to call the task; the model's class by default.

    Raises:
        InputError: The model or the loss is nothing that can be called.
        UnknownNameError: Unknown name of a loss or data set.
        DataError: Data that are absent or inconsistent.

    Example:
        >>> model = nn.Linear(2, 4)
        >>> _ = nn.init.zeros_(model.weight), nn.init.zeros_(model.bias)
        >>> task = Task(model, data=(torch.randn(5, 2), torch.tensor([0, 1, 2, 3, 3])))
        >>> round(task.evaluate().item(), 9)  # log 4
        1.386294361
    """

    __slots__ = ("__weakref__", "_data", "_heads", "_loss", "_model", "_name", "_resolved")

    def __init__(
        self, model: Model, loss: LossLike = "cross_entropy", data: object = None, *, name: str | None = None
    ) -> None:
        if isinstance(model, type) or not callable(model):
            hint = f"; build it first: {model.__name__}(…)" if isinstance(model, type) else ""
            raise InputError(f"model is {model!r}; wanted a torch.nn.Module or a function of a batch{hint}")
        self._model = model
        self._loss = loss
        self._resolved = resolve_loss(loss)
        self._data = None if data is None else load_data(data)
        self._name = name or str(getattr(model, "__name__", type(model).__name__))
        self._heads: tuple[str, ...] | None = None

    @property
    def model(self) -> Model:
        """The model, as given."""
        return self._model

    @property
    def loss(self) -> LossLike:
        """The loss, as given: a name, a module or a function."""
        return self._loss

    @property
    def loss_form(self) -> Loss:
        """The loss in a form that adds up over batches, with its name and options."""
        return self._resolved

    @property
    def name(self) -> str:
        """What the task is called."""
        return self._name

    @property
    def has_data(self) -> bool:
        """Whether the task has a data set."""
        return self._data is not None

    @property
    def data(self) -> Data:
        """The data set.

        Raises:
            DataError: The task was built without one.
        """
        if self._data is None:
            raise DataError(f"task {self.name} has no data; build it with data=…, or use task.replace(data=…)")
        return self._data

    def __repr__(self) -> str:
        """Show model, loss and data in one line."""
        return f"Task({type(self.model).__name__}, loss={self._resolved.name!r}, data={self._data!r})"

    def replace(
        self,
        *,
        model: Model | None = None,
        loss: LossLike | None = None,
        data: object = None,
        name: str | None = None,
    ) -> "Task":
        """Build a task that differs in some parts, e.g. the same model on test data.

        Args:
            model: Another model, or None for this one.
            loss: Another loss, or None for this one.
            data: Other data, or None for these.
            name: Another name; None keeps this one.

        Returns:
            The new task.
        """
        return Task(
            self.model if model is None else model,
            self.loss if loss is None else loss,
            self._data if data is None else data,
            name=name or self.name,
        )

    def heads(self) -> tuple[str, ...]:
        """Name the model's heads, found by a pass over one sample.

        Returns:
            ``("output",)`` for a single tensor (or the ``.logits`` of an object that has them); the keys of a mapping;
            the field names of a named tuple; ``("0", "1", …)`` for a tuple or list.

        Raises:
            InputError: The model and the data do not fit each other.
        """
        if self._heads is None:
            outputs = self.outputs(inputs=self.data.inputs[:1])
            self._heads = ("output",) if isinstance(outputs, Tensor) else tuple(outputs)
        return self._heads

    def outputs(
        self,
        parameters: Mapping[str, Tensor] | None = None,
        *,
        inputs: Shaped[Tensor, "n ..."] | None = None,
        batch_size: int | None = None,
        dtype: torch.dtype | None = None,
    ) -> Float[Tensor, "n ..."] | dict[str, Float[Tensor, "n ..."]]:
        """Compute the model's outputs, without gradients.

        Args:
            parameters: As in `evaluate`.
            inputs: Other inputs than the data set's.
            batch_size: As in `evaluate`.
            dtype: As in `evaluate`.

        Returns:
            The outputs of all samples in the model's dtype, or a dict of them for several heads.

        Raises:
            InputError: As `evaluate`.
        """
        inputs = self.data.inputs if inputs is None else inputs
        with as_found(self.model), torch.no_grad():
            parts = list(self._forward(inputs, parameters, batch_size, dtype))
        joined = {name: torch.cat([heads[name] for heads, _ in parts]) for name in parts[0][0]}
        return joined["output"] if parts[0][1] else joined

    def losses_from_outputs(
        self,
        outputs: Shaped[Tensor, "n ..."] | Mapping[str, Tensor] | tuple[Tensor, ...] | list[Tensor],
        targets: Shaped[Tensor, "n ..."] | None = None,
    ) -> Float64[Tensor, "*heads"]:
        """Compute the loss from given outputs, in float64, keeping gradients.

        Rounding of a float32 mean over samples does not enter.

        Args:
            outputs: One row a sample, or several heads of them.
            targets: Targets for these outputs; None takes the data set's, with its weights.

        Returns:
            A float64 scalar, or ``[heads]`` where outputs are a mapping, tuple or list.

        Raises:
            InputError: Shapes that do not fit.
            DataError: Labels out of range, or no data.

        Example:
            >>> task = Task(nn.Identity(), "mse", (torch.zeros(2, 1), torch.tensor([[1.0], [3.0]])))
            >>> task.losses_from_outputs(torch.zeros(2, 1)).item()
            5.0
        """
        weights = self.data.weights if targets is None else None
        targets = self.data.targets if targets is None else targets
        heads, single = split_heads(outputs, len(targets), "outputs")
        values = []
        for output in heads.values():
            total = LossSum(self._resolved)
            total.add(output, targets, weights)
            values.append(total.value())
        return values[0] if single else torch.stack(values)

    def evaluate(
        self,
        parameters: Mapping[str, Tensor] | None = None,
        *,
        batch_size: int | None = None,
        dtype: torch.dtype | None = None,
    ) -> Float64[Tensor, "*heads"]:
        """Compute the loss over the data set at given parameters, without gradients.

        Args:
            parameters: Values by name for some or all parameters (and buffers); the others are the model's own. Tied
                parameters may be given under any of their names.
            batch_size: Samples a forward pass; None means 1024. The result depends on it by float rounding only (each
                matrix product may be summed in another order).
            dtype: Compute the outputs in this dtype instead of the model's (parameters, buffers and inputs are
                converted on the way), e.g. float64 to see how much of a surface is rounding.

        Returns:
            A float64 scalar, or ``[heads]`` for a model with several heads. Not finite where the loss is not: such
            values are data, and are not replaced.

        Raises:
            InputError: Model and data or loss do not fit, a parameter of another shape, parameters for a function.
            UnknownNameError: A parameter that the model does not have, with the nearest.
            ArchitectureError: Parameters without values (meta device, uninitialised).

        Cost:
            One pass over the data; memory for one batch and a copy of the buffers (of everything with ``dtype``).
        """
        data = self.data
        totals: dict[str, LossSum] = {}
        scalar, start = True, 0
        with as_found(self.model), torch.no_grad():
            for heads, single in self._forward(data.inputs, parameters, batch_size, dtype):
                part = slice(start, start + len(next(iter(heads.values()))))
                for name, output in heads.items():
                    weights = None if data.weights is None else data.weights[part]
                    totals.setdefault(name, LossSum(self._resolved)).add(output, data.targets[part], weights)
                scalar, start = single, part.stop
            values = [total.value() for total in totals.values()]
        return values[0] if scalar else torch.stack(values)

    def _forward(
        self,
        inputs: Tensor,
        parameters: Mapping[str, Tensor] | None,
        batch_size: int | None,
        dtype: torch.dtype | None,
    ) -> Iterator[tuple[dict[str, Tensor], bool]]:
        """Yield the heads of each batch; the caller sees to it that the model is left as found."""
        if batch_size is not None and batch_size < 1:
            raise InputError(f"batch_size is {batch_size}; wanted at least 1")
        if dtype is not None and not dtype.is_floating_point:
            raise InputError(f"dtype is {dtype}; wanted a floating-point dtype")
        state = state_at(self.model, parameters, dtype)
        lead = next((value for value in state.values() if value.is_floating_point()), None)
        want = dtype if dtype is not None or lead is None else lead.dtype
        for batch in torch.split(inputs, batch_size or DEFAULT_BATCH):
            if want is not None and batch.is_floating_point():
                batch = batch.to(want)
            if lead is not None:
                batch = batch.to(lead.device)
            try:
                if isinstance(self.model, nn.Module):
                    found = torch.func.functional_call(self.model, state, (batch,))
                else:
                    found = self.model(batch)
            except torch.OutOfMemoryError:
                raise
            except (RuntimeError, ValueError, IndexError, TypeError) as error:
                raise InputError(explain_misfit(self.model, state, batch, error)) from error
            yield split_heads(found, len(batch), f"model {type(self.model).__name__}")


def outputs_probe(task: Task, n: int = 2) -> dict[str, tuple[int, ...]]:
    """Pass a few samples through model and loss, to find shapes and misfits before anything expensive.

    Args:
        task: The task.
        n: Samples; two by default, so that a model that loses the sample dimension is found out.

    Returns:
        The shape of each head's output, samples first, by the head's name.

    Raises:
        InputError: Model and data, or outputs and targets, do not fit; shapes are named, and what is likely missing.
        DataError: Labels that the loss cannot take.

    Example:
        >>> outputs_probe(Task(nn.Linear(64, 10), data="digits"))
        {'output': (2, 10)}
    """
    data = task.data.subset(range(min(n, task.data.n)))
    outputs = task.outputs(inputs=data.inputs)
    heads = {"output": outputs} if isinstance(outputs, Tensor) else outputs
    for name, output in heads.items():
        task.losses_from_outputs(output, data.targets)
        labels = not data.targets.is_floating_point() and task.loss_form.name in (
            "cross_entropy",
            "multi_margin",
            "nll",
        )
        if labels and data.classes is not None and output.shape[1] < data.classes:
            raise InputError(
                f"model {type(task.model).__name__} gives {output.shape[1]} outputs ({name}) but {data.name} has "
                f"{data.classes} classes; make the last layer {data.classes} wide"
            )
    return {name: tuple(output.shape) for name, output in heads.items()}
