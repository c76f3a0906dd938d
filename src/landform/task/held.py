"""What a task consists of: model, loss or step, data, metrics, and how the model is run."""

from collections.abc import Callable, Sequence
from typing import Any, get_args

import torch
from jaxtyping import Int64
from torch import Tensor

from landform.calling import Model, unwrap
from landform.data import Data
from landform.data.reading import check_allow
from landform.data.records import Records
from landform.errors import DataError, InputError, unknown_name
from landform.losses import Loss, LossLike, resolve_loss
from landform.metrics import MetricLike, resolve_metrics
from landform.task import stepping
from landform.task.batch import Batch, load_splits
from landform.task.findings import Finding
from landform.task.own_loss import OwnLoss, recognise
from landform.task.places import check_autocast, check_device, check_dtype
from landform.task.running import FINDINGS, BatchNorm, Session, Settings


class Held:
    """What a task holds; see `Task` for the arguments."""

    __slots__ = (
        "__weakref__",
        "_calibration",
        "_data",
        "_findings",
        "_heads",
        "_labelled",
        "_loss",
        "_metrics",
        "_model",
        "_name",
        "_output",
        "_resolved",
        "_separable",
        "_session",
        "_settings",
        "_size",
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
        output: str | int | None = None,
        metrics: MetricLike | Sequence[MetricLike] = (),
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        autocast: bool | str | torch.dtype = False,
        batch_norm: BatchNorm = "frozen",
        allow: str | Sequence[str] = (),
        name: str | None = None,
    ) -> None:
        if isinstance(model, type) or not callable(model):
            hint = f"; build it first: {model.__name__}(…)" if isinstance(model, type) else ""
            raise InputError(f"model is {model!r}; wanted a torch.nn.Module or a function of a batch{hint}")
        if isinstance(model, torch.jit.ScriptModule):
            raise InputError(
                f"model {type(model).__name__} is a TorchScript module, whose parameters cannot be set for a call; "
                "pass the module that it was scripted or traced from"
            )
        if step is not None and (loss is not None or not callable(step)):
            raise InputError("step= computes the loss by itself: pass a function step(model, batch), and no loss=")
        if output is not None and (isinstance(output, bool) or not isinstance(output, (str, int))):
            raise InputError(f"output is {output!r}; wanted the name, key or number of one of the model's outputs")
        if output is not None and (step is not None or loss == "model"):
            raise InputError(
                f"output={output!r} says what the loss gets; here the loss is computed elsewhere, leave it out"
            )
        self._output = output
        self._model = unwrap(model)
        self._wanted = metrics
        self._metrics = resolve_metrics(metrics)
        if batch_norm not in get_args(BatchNorm):
            raise unknown_name("batch_norm", str(batch_norm), get_args(BatchNorm))
        self._settings = Settings(
            device=check_device(device),
            dtype=check_dtype(dtype),
            autocast=check_autocast(autocast),
            batch_norm=batch_norm,
            allow=check_allow(allow, FINDINGS),
        )
        self._splits = load_splits(data, self._settings.allow, step=step is not None)
        self._data = next(iter(self._splits.values()), None)
        self._loss: LossLike = step if step is not None else "cross_entropy" if loss is None else loss
        self._labelled: OwnLoss | None = None
        form: LossLike | None = self._loss
        if step is None and isinstance(form, str) and form == "model":
            form, own, runs_without = recognise(self._model, self._data, self._settings)
            step = own if form is None else None
            self._labelled = None if runs_without else own
        self._step = step
        self._resolved = stepping.as_loss(step) if step is not None else resolve_loss(form or "cross_entropy")
        if step is not None and self._metrics[0]:
            raise InputError(
                f"metrics {', '.join(m.name for m in self._metrics[0])} need outputs, which a step keeps to itself; "
                "let it return a mapping: {'loss': …, 'accuracy': …}"
            )
        self._name = name or str(getattr(self._model, "__name__", type(self._model).__name__))
        self._heads: tuple[str, ...] | None = None
        self._separable: bool | None = None
        self._size: int | None = None
        self._findings: tuple[Finding, ...] | None = None
        self._calibration = self._data
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
    def output(self) -> str | int | None:
        """Which of the model's outputs the loss gets, as given; None for all."""
        return self._output

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

    @property
    def n(self) -> int:
        """Number of samples in the data set."""
        return self.data.n

    @property
    def node_metrics(self) -> tuple[str, ...]:
        """Names of the metrics of a point that are no sums over samples (gradient norm, curvature)."""
        return self._metrics[1]

    @property
    def frozen(self) -> bool:
        """Whether BatchNorm keeps the model's running statistics."""
        return self._settings.batch_norm == "frozen"

    def batch(self, index: slice | Int64[Tensor, " m"]) -> Batch:
        """Take some samples.

        Args:
            index: A slice, which copies nothing, or sample numbers in any order.

        Returns:
            The samples as model, loss and step take them.
        """
        data = self.data
        inputs, targets = data.take(index)
        raw = data.raw(index) if isinstance(data, Records) else data.as_raw(inputs, targets)
        if self._labelled is not None:  # a model that does not run without labels
            inputs = self._labelled.named(inputs, targets)
        weights = None if data.weights is None else data.weights[index]
        first = index.start or 0 if isinstance(index, slice) else int(index[0]) if len(index) else 0
        return Batch(inputs, targets, weights, len(targets), raw, first)

    @property
    def _who(self) -> str:
        return f"model {type(self._model).__name__}"

    def __repr__(self) -> str:
        """Show model, loss and data in one line."""
        return f"Task({type(self.model).__name__}, loss={self._resolved.name!r}, data={self._data!r})"
