"""`Task`: a model, a loss and a data set, which is what a loss surface is a surface of."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Float64, Int64, Shaped
from torch import Tensor

from landform.calling import Model, as_found, split_heads, unwrap
from landform.data import Data
from landform.data.reading import check_allow
from landform.errors import DataError, InputError, unknown_name
from landform.losses import Loss, LossLike, LossSum, resolve_loss
from landform.metrics import Metric, MetricLike, resolve_metrics
from landform.task import stepping
from landform.task.batch import Batch, load_splits
from landform.task.running import FINDINGS, Session, Settings

DEFAULT_BATCH = 1024
"""Samples a forward pass: large enough for matrix products at full speed, small enough for convolutions."""
MAX_NUMBERS = 1 << 24
"""Numbers that the outputs of one batch may hold (128 MB in float64); a language model's batches are smaller for it."""


class Task:
    """A model, a loss and a data set.

    The loss of a task is the loss over the *data set*, Σ_i w_i ℓ_i / Σ_i w_i d_i with the loss's own normaliser d_i
    (class weights, ignored labels, tokens), never a mean of batch means. Outputs are computed in the model's dtype, the
    loss from them in float64. A model that returns several heads (a tuple, list or mapping) has one loss a head, on the
    same targets.

    The model is held, not copied, and every method leaves it as it was found: parameters, buffers, the mode of every
    submodule, ``requires_grad`` and the global random states. Methods evaluate in evaluation mode, one thread at a
    time.

    Args:
        model: A module, or a function of one batch of inputs. Wrappers of ``torch.compile`` and DDP are taken off.
        loss: A name (`landform.losses.LOSS_NAMES`), a module with ``reduction="mean"``, or a function of
            ``(outputs, targets)``; cross-entropy by default, as most classifiers have it. A function that returns one
            value a sample is averaged exactly; one that returns a number is called on all outputs at once. A module is
            read when the task is built.
        data: Anything that `landform.data.load_data` takes, or a mapping of several such (``{"train": …, "test": …}``:
            the first is the task's own, the others are reached by `split`); None for a task whose data come later
            (`replace`). With a step, batches may have any structure.
        step: Instead of a loss: a function ``step(model, batch)`` of the model and a batch as the loader gives it, as
            in a training loop. It returns one loss a sample, shape ``[n]``, or one number, or a mapping of such with
            ``"loss"`` among them; the others are metrics.
        metrics: What to measure beside the loss: `landform.metrics.resolve_metrics`.
        allow: What is random and shall be accepted, frozen at one draw: ``"augmentation"``, ``"shuffle"`` (of data:
            `landform.data.load_data`).
        name: What to call the task; the model's class by default.

    Raises:
        InputError: The model or the loss is nothing that can be called.
        UnknownNameError: Unknown name of a loss, metric or data set.
        DataError: Data that are absent or inconsistent.

    Example:
        >>> from torch import nn
        >>> model = nn.Linear(2, 4)
        >>> _ = nn.init.zeros_(model.weight), nn.init.zeros_(model.bias)
        >>> task = Task(model, data=(torch.randn(5, 2), torch.tensor([0, 1, 2, 3, 3])))
        >>> round(task.evaluate().item(), 9)  # log 4
        1.386294361
        >>> Task(model, data=task.data, metrics="accuracy").quantities()
        ('loss', 'accuracy')
    """

    __slots__ = (
        "__weakref__",
        "_data",
        "_heads",
        "_loss",
        "_metrics",
        "_model",
        "_name",
        "_per_sample",
        "_resolved",
        "_session",
        "_settings",
        "_splits",
        "_step",
        "_stepped",
        "_wanted",
    )

    def __init__(
        self,
        model: Model,
        loss: LossLike | None = None,
        data: object = None,
        *,
        step: Callable[[Any, Any], Any] | None = None,
        metrics: MetricLike | Sequence[MetricLike] = (),
        allow: str | Sequence[str] = (),
        name: str | None = None,
    ) -> None:
        if isinstance(model, type) or not callable(model):
            hint = f"; build it first: {model.__name__}(…)" if isinstance(model, type) else ""
            raise InputError(f"model is {model!r}; wanted a torch.nn.Module or a function of a batch{hint}")
        if step is not None and (loss is not None or not callable(step)):
            raise InputError("step= computes the loss by itself: pass a function step(model, batch), and no loss=")
        self._model = unwrap(model)
        self._step = step
        self._loss: LossLike = step if step is not None else "cross_entropy" if loss is None else loss
        self._resolved = stepping.as_loss(step) if step is not None else resolve_loss(self._loss)
        self._wanted = metrics
        self._metrics = resolve_metrics(metrics)
        if step is not None and self._metrics[0]:
            raise InputError(
                f"metrics {', '.join(m.name for m in self._metrics[0])} need outputs, which a step keeps to itself; "
                "let it return a mapping: {'loss': …, 'accuracy': …}"
            )
        self._settings = Settings(allow=check_allow(allow, FINDINGS))
        self._splits = load_splits(data, self._settings.allow, step=step is not None)
        self._data = next(iter(self._splits.values()), None)
        self._name = name or str(getattr(self._model, "__name__", type(self._model).__name__))
        self._heads: tuple[str, ...] | None = None
        self._per_sample: bool | None = None
        self._stepped: tuple[str, ...] | None = None
        self._session: Session | None = None

    @property
    def model(self) -> Model:
        """The model, as given, without the wrapper of ``torch.compile`` or DDP."""
        return self._model

    @property
    def loss(self) -> LossLike:
        """The loss, as given: a name, a module or a function; the step where there is one."""
        return self._loss

    @property
    def loss_form(self) -> Loss:
        """The loss in a form that adds up over batches, with its name and options."""
        return self._resolved

    @property
    def step(self) -> Callable[[Any, Any], Any] | None:
        """The step, or None for a task with a loss."""
        return self._step

    @property
    def settings(self) -> Settings:
        """How the model is run: device, dtype, autocast, normalisation."""
        return self._settings

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

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the data sets; the first is the task's own."""
        return tuple(self._splits)

    def split(self, name: str) -> "Task":
        """Build the same task on one of its data sets.

        Args:
            name: Which one, of `splits`.

        Returns:
            The task, whose only data set it is.

        Raises:
            UnknownNameError: There is none of this name, with the nearest.

        Example:
            >>> from torch import nn
            >>> task = Task(nn.Linear(64, 10), data={"train": "digits", "test": "digits"})
            >>> task.splits, task.n, task.split("test").n
            (('train', 'test'), 1442, 355)
        """
        if name not in self._splits:
            raise unknown_name("split", name, self._splits)
        return self.replace(data=self._splits[name])

    @property
    def n(self) -> int:
        """Number of samples in the data set."""
        return self.data.n

    @property
    def per_sample(self) -> bool:
        """Whether every quantity is a ratio of sums over samples, so that some estimate it; found by a probe."""
        if self._per_sample is None:
            batch = self.batch(slice(0, min(2, self.n)))
            if self._step is not None:
                self._per_sample = self._stepping(None, batch)[1]
            else:
                heads, _ = split_heads(self.run(None, batch), batch.size, self._who)
                found = [self._resolved.terms(output, batch.targets) for output in heads.values()]
                self._per_sample = None not in found
        return self._per_sample

    @property
    def node_metrics(self) -> tuple[str, ...]:
        """Names of the metrics of a point that are no sums over samples (gradient norm, curvature)."""
        return self._metrics[1]

    @property
    def _who(self) -> str:
        return f"model {type(self._model).__name__}"

    def __repr__(self) -> str:
        """Show model, loss and data in one line."""
        return f"Task({type(self.model).__name__}, loss={self._resolved.name!r}, data={self._data!r})"

    def replace(
        self,
        *,
        model: Model | None = None,
        loss: LossLike | None = None,
        data: object = None,
        metrics: MetricLike | Sequence[MetricLike] | None = None,
        name: str | None = None,
    ) -> "Task":
        """Build a task that differs in some parts, e.g. the same model on test data.

        Args:
            model: Another model, or None for this one.
            loss: Another loss, or None for this one.
            data: Other data, or None for these.
            metrics: Other metrics, or None for these.
            name: Another name; None keeps this one.

        Returns:
            The new task.
        """
        return Task(
            self.model if model is None else model,
            loss if loss is not None or self._step is not None else self.loss,
            self._splits if data is None and len(self._splits) > 1 else self._data if data is None else data,
            step=self._step if loss is None else None,
            allow=self._settings.allow,
            metrics=self._wanted if metrics is None else metrics,
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
            batch = self.batch(slice(0, 1))
            heads, single = split_heads(self.run(None, batch), 1, self._who)
            self._heads = ("output",) if single else tuple(heads)
        return self._heads

    def quantities(self) -> tuple[str, ...]:
        """Name everything that is measured as a ratio of sums over samples: the loss first, then the metrics.

        Returns:
            ``("loss", "accuracy", …)``; for several heads ``("loss:left", "loss:right", "accuracy:left", …)``.
        """
        if self._step is not None:
            if self._stepped is None:
                self._stepped = tuple(self._stepping(None, self.batch(slice(0, min(2, self.n))))[0])
            return self._stepped
        names = ["loss", *(metric.name for metric in self._metrics[0])]
        heads = self.heads()
        return tuple(name if heads == ("output",) else f"{name}:{head}" for name in names for head in heads)

    def batch(self, index: slice | Int64[Tensor, " m"]) -> Batch:
        """Take some samples.

        Args:
            index: A slice, which copies nothing, or sample numbers in any order.

        Returns:
            The samples as model, loss and step take them.
        """
        data = self.data
        inputs, targets = data.take(index)
        weights = None if data.weights is None else data.weights[index]
        first = index.start or 0 if isinstance(index, slice) else int(index[0]) if len(index) else 0
        return Batch(inputs, targets, weights, len(targets), data.raw(index), first)

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
        with as_found(self._model), torch.no_grad():
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
        with self.mode():
            session = self._session
            assert session is not None
            return session.call(self._model, session.state(parameters), batch.inputs)

    def terms(
        self, outputs: Any, batch: Batch
    ) -> tuple[Float64[Tensor, "quantities n"], Float64[Tensor, "quantities n"]]:
        """Compute numerators and denominators of every quantity, sample by sample, from the model's outputs.

        Args:
            outputs: What the model returned for the batch.
            batch: The samples.

        Returns:
            Two float64 tensors on the CPU; a quantity over some samples is the ratio of the sums. Sample weights are in
            both, class weights and ignored labels too. The second depends on the data only.

        Raises:
            InputError: A loss that gives one number a batch (`per_sample` is False), a task with a step, or shapes that
                do not fit.
            DataError: Labels out of range.
        """
        if self._step is not None:
            raise InputError(
                f"task {self.name} has a step, which computes losses itself; use terms_at(parameters, batch)"
            )
        heads, _ = split_heads(outputs, batch.size, self._who)
        found = [self._resolved.terms(output, batch.targets) for output in heads.values()]
        if None in found:
            raise self._no_terms()
        found += [m.terms(self._resolved, output, batch.targets) for m in self._metrics[0] for output in heads.values()]
        return _weighted(found, batch.weights)

    def terms_at(
        self, parameters: Mapping[str, Tensor] | None, batch: Batch
    ) -> tuple[Float64[Tensor, "quantities n"], Float64[Tensor, "quantities n"]]:
        """Compute the terms of every quantity at given parameters: `run`, then `terms`; or the step's losses.

        Args:
            parameters: As in `evaluate`.
            batch: Samples.

        Returns:
            As of `terms`.

        Raises:
            InputError: As of `terms` and `run`.
        """
        if self._step is None:
            return self.terms(self.run(parameters, batch), batch)
        values, per_sample = self._stepping(parameters, batch)
        if not per_sample:
            raise self._no_terms()
        return _weighted([(value, torch.ones_like(value)) for value in values.values()], batch.weights)

    def sums(
        self,
        parameters: Mapping[str, Tensor] | None = None,
        *,
        index: slice | Int64[Tensor, " m"] | None = None,
        batch_size: int | None = None,
        dtype: torch.dtype | None = None,
    ) -> tuple[Float64[Tensor, " quantities"], Float64[Tensor, " quantities"]]:
        """Add up the terms of every quantity, also where the loss gives one number a batch.

        Args:
            parameters: As in `evaluate`.
            index: Which samples; None for all.
            batch_size: As in `evaluate`.
            dtype: As in `evaluate`.

        Returns:
            Numerators and denominators. A loss that gives one number for all outputs is that number times the number
            of samples; a step that gives one number a batch is weighted by the sizes of batches, which is the data-set
            loss only where it is a mean over samples.

        Raises:
            InputError: As `evaluate`.
        """
        return self._sums(parameters, index, batch_size, dtype, self._metrics[0])

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
            batch_size: Samples a forward pass; None means 1024, or fewer where outputs are large. The result depends on
                it by float rounding only (each matrix product may be summed in another order).
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
        num, den = self._sums(parameters, None, batch_size, dtype, ())
        value = num / den
        return value[0] if self._step is not None or self.heads() == ("output",) else value

    def outputs(
        self,
        parameters: Mapping[str, Tensor] | None = None,
        *,
        inputs: Shaped[Tensor, "n ..."] | Mapping[str, Tensor] | None = None,
        batch_size: int | None = None,
        dtype: torch.dtype | None = None,
    ) -> Float[Tensor, "n ..."] | dict[str, Float[Tensor, "n ..."]]:
        """Compute the model's outputs, without gradients.

        Args:
            parameters: As in `evaluate`.
            inputs: Other inputs than the data set's: a tensor, or a mapping of all arguments.
            batch_size: As in `evaluate`.
            dtype: As in `evaluate`.

        Returns:
            The outputs of all samples in the model's dtype, or a dict of them for several heads.

        Raises:
            InputError: As `evaluate`.
        """
        inputs = self.data.take(slice(None))[0] if inputs is None else inputs
        n = len(inputs if isinstance(inputs, Tensor) else next(iter(inputs.values())))
        parts: list[tuple[dict[str, Tensor], bool]] = []
        with self.mode(dtype):
            session = self._session
            assert session is not None
            state = session.state(parameters)
            for part in _slices(n, DEFAULT_BATCH if batch_size is None else batch_size):
                some = inputs[part] if isinstance(inputs, Tensor) else {k: v[part] for k, v in inputs.items()}
                found = session.call(self._model, state, some)
                parts.append(split_heads(found, part.stop - part.start, self._who))
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
            >>> from torch import nn
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

    def batch_size(self) -> int:
        """Choose the samples of a forward pass: 1024, or fewer where the outputs of so many would be very large.

        Returns:
            A number of samples.
        """
        if self._step is not None:
            return DEFAULT_BATCH
        batch = self.batch(slice(0, 1))
        heads, _ = split_heads(self.run(None, batch), 1, self._who)
        largest = max(output[0].numel() for output in heads.values())
        return max(1, min(DEFAULT_BATCH, MAX_NUMBERS // max(largest, 1)))

    def _stepping(self, parameters: Mapping[str, Tensor] | None, batch: Batch) -> tuple[dict[str, Tensor], bool]:
        assert self._step is not None
        with self.mode():
            session = self._session
            assert session is not None
            found = session.call(self._step, session.state(parameters), batch.raw)
        return stepping.values_of(found, batch.size, self._resolved.name)

    def _no_terms(self) -> InputError:
        return InputError(
            f"loss {self._resolved.name} returns one number a batch, so there are no losses of single samples; let it "
            "return one value a sample (reduction='none')"
        )

    def _sums(
        self,
        parameters: Mapping[str, Tensor] | None,
        index: slice | Tensor | None,
        batch_size: int | None,
        dtype: torch.dtype | None,
        metrics: tuple[Metric, ...],
    ) -> tuple[Tensor, Tensor]:
        where = torch.arange(self.n)[index] if index is not None else None
        n = self.n if where is None else len(where)
        with self.mode(dtype):
            if self._heads is None and self._step is None:
                self.heads()
            session = self._session
            assert session is not None
            state = session.state(parameters)
            size = self.batch_size() if batch_size is None else batch_size
            totals: dict[str, LossSum] = {}
            others: list[Tensor] = []
            for part in _slices(n, size):
                batch = self.batch(part if where is None else where[part])
                if self._step is not None:
                    values, _ = stepping.values_of(
                        session.call(self._step, state, batch.raw), batch.size, self._resolved.name
                    )
                    others.append(torch.stack(stepping.sums_of(values, batch)))
                    continue
                heads, _ = split_heads(session.call(self._model, state, batch.inputs), batch.size, self._who)
                for name, output in heads.items():
                    totals.setdefault(name, LossSum(self._resolved)).add(output, batch.targets, batch.weights)
                found = [m.terms(self._resolved, output, batch.targets) for m in metrics for output in heads.values()]
                if found:
                    others.append(torch.stack(_weighted(found, batch.weights)).sum(-1))
            sums = [torch.stack(total.sums()) for total in totals.values()]
        both = torch.stack(sums, dim=1) if sums else torch.empty(2, 0, dtype=torch.float64)
        if others:
            both = torch.cat([both, torch.stack(others).sum(0)], dim=1)
        return both[0], both[1]


def _slices(n: int, size: int) -> Iterator[slice]:
    if size < 1:
        raise InputError(f"batch_size is {size}; wanted at least 1")
    for start in range(0, n, size):
        yield slice(start, min(start + size, n))


def _weighted(found: Sequence[tuple[Tensor, Tensor] | None], weights: Tensor | None) -> tuple[Tensor, Tensor]:
    """Stack terms, and let sample weights into both."""
    pairs = [pair for pair in found if pair is not None]
    num = torch.stack([pair[0].cpu() for pair in pairs])
    den = torch.stack([pair[1].cpu() for pair in pairs])
    if weights is not None:
        # A sample of weight 0 is left out even where its loss is infinite.
        num = torch.where(weights > 0, weights * num, 0.0)
        den = weights * den
    return num, den
