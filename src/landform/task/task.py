"""`Task`: a model, a loss and a data set, which is what a loss surface is a surface of."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Float64, Int64, Shaped
from torch import Tensor

from landform.calling import Model, split_heads
from landform.errors import InputError, unknown_name
from landform.losses import LossLike, LossSum
from landform.metrics import MetricLike
from landform.task.batch import Batch
from landform.task.caller import DEFAULT_BATCH
from landform.task.curvature import gradients, top_eigenvalues
from landform.task.memory import in_halves
from landform.task.probed import Probed
from landform.task.summing import add_up, parts_of, weighted


class Task(Probed):
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
            read when the task is built. ``"model"``: the loss that the model computes itself when it is given labels,
            as those of Hugging Face do; its formula is found by comparing numbers (next token, masked token, class, …),
            so that it is exact over tokens and known sample by sample; where none fits it is a number a batch.
        data: Anything that `landform.data.load_data` takes, or a mapping of several such (``{"train": …, "test": …}``:
            the first is the task's own, the others are reached by `split`); None for a task whose data come later
            (`replace`). With a step, batches may have any structure.
        step: Instead of a loss: a function ``step(model, batch)`` of the model and a batch as the loader gives it, as
            in a training loop. It returns one loss a sample, shape ``[n]``, or one number, or a mapping of such with
            ``"loss"`` among them; the others are metrics.
        output: For a model that returns several outputs: the name, key or number of the one that the loss gets, e.g.
            ``2`` or ``"logits"``. None, the default: all of them, each with a loss of its own.
        metrics: What to measure beside the loss: `landform.metrics.resolve_metrics`.
        device: Where to compute: ``"cpu"``, ``"cuda"``, ``"mps"``, …; None for where the model is. The model itself
            stays where it is.
        dtype: In which dtype to compute; None for the model's own, but float32 for weights in half precision, so that
            steps far below their resolution are seen.
        autocast: True (bfloat16), a half-precision dtype or its name for an autocast region around the model; weights
            stay in ``dtype``.
        batch_norm: What BatchNorm normalises by. ``"frozen"``: the model's running statistics, at every point, as in
            most papers. ``"recalibrate"``: statistics of the network at each point, recomputed over the data (of the
            first split) before each evaluation, which doubles the cost. ``"batch"``: the statistics of each batch, as
            in training. With the latter two a few samples do not estimate the loss, so no sampling is offered.
        allow: What a probe shall accept: ``"augmentation"``, ``"shuffle"`` (of data: `landform.data.load_data`);
            ``"dropout"``, ``"random"``, ``"batch_norm"``, ``"coupled"`` (of models: `check`). What is random is drawn
            anew for each batch from a fixed seed, the same at every point.
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

    __slots__ = ()

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
        kept = None if self._step is not None and self.loss != "model" else self.loss
        task = Task(
            self.model if model is None else model,
            loss if loss is not None else kept,
            self._splits if data is None and len(self._splits) > 1 else self._data if data is None else data,
            step=self._step if loss is None and kept is None else None,
            output=self._output,
            device=self._settings.device,
            dtype=self._settings.dtype,
            autocast=self._settings.autocast or False,
            batch_norm=self._settings.batch_norm,
            allow=self._settings.allow,
            metrics=self._wanted if metrics is None else metrics,
            name=name or self.name,
        )
        if any(data is part for part in self._splits.values()):
            task._calibration = self._calibration
        return task

    def quantities(self) -> tuple[str, ...]:
        """Name everything that is measured as a ratio of sums over samples: the loss first, then the metrics.

        Returns:
            ``("loss", "accuracy", …)``; for several heads ``("loss:left", "loss:right", "accuracy:left", …)``.
        """
        if self._step is not None:
            if self._stepped is None:
                self._stepped = tuple(self.stepped(None, self.batch(slice(0, min(2, self.n)))))
            return self._stepped
        names = ["loss", *(metric.name for metric in self._metrics[0])]
        heads = self.heads()
        return tuple(name if heads == ("output",) else f"{name}:{head}" for name in names for head in heads)

    def shares(self) -> tuple[str, ...]:
        """Name the quantities that are shares of hits, such as accuracy; none of a ``step`` of the user's own.

        Example:
            >>> Task(torch.nn.Linear(64, 10), data="digits", metrics=["accuracy", "mse"]).shares()
            ('accuracy',)
        """
        if self._step is not None:
            return ()
        names = {metric.name for metric in self._metrics[0] if metric.share}
        return tuple(name for name in self.quantities() if name.partition(":")[0] in names)

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
        heads = self.split_heads(outputs, batch)
        found = [self._resolved.terms(output, batch.targets) for output in heads.values()]
        if None in found:
            raise self._no_terms()
        found += [m.terms(self._resolved, output, batch.targets) for m in self._metrics[0] for output in heads.values()]
        return weighted(found, batch.weights)

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
        parts = in_halves(lambda part: self._terms_at(parameters, part), batch, divisible=self.frozen)
        if len(parts) == 1:
            return parts[0]
        return torch.cat([num for num, _ in parts], dim=1), torch.cat([den for _, den in parts], dim=1)

    def _terms_at(self, parameters: Mapping[str, Tensor] | None, batch: Batch) -> tuple[Tensor, Tensor]:
        if self._step is None:
            return self.terms(self.run(parameters, batch), batch)
        values = self.stepped(parameters, batch)
        if not all(value.ndim for value in values.values()):
            raise self._no_terms()
        return weighted([(value, torch.ones_like(value)) for value in values.values()], batch.weights)

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
        with self.mode(dtype):
            return add_up(self, parameters, index, batch_size, self._metrics[0])

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
            MemoryLimitError: Not enough memory for one sample. Where there is not enough for a batch, halves are tried,
                with a warning.

        Cost:
            One pass over the data; memory for one batch and a copy of the buffers (of everything with ``dtype``).
        """
        with self.mode(dtype):
            num, den = add_up(self, parameters, None, batch_size, ())
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
            state = session.state(self.prepare(parameters))
            for part in parts_of(n, DEFAULT_BATCH if batch_size is None else batch_size, even=not self.frozen):
                some = inputs[part] if isinstance(inputs, Tensor) else {k: v[part] for k, v in inputs.items()}
                found = session.call(self._model, state, some)
                parts.append(split_heads(found, part.stop - part.start, self._who, self._output))
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

    def gradient(self, parameters: Mapping[str, Tensor] | None = None, *, head: int = 0) -> dict[str, Tensor]:
        """Compute the gradient of the data-set loss by all floating-point parameters.

        Args:
            parameters: As in `evaluate`.
            head: Number of the head, for a model with several.

        Returns:
            Float64 tensors by name, on the CPU; tied parameters once.

        Raises:
            InputError: A loss that cannot be differentiated.

        Cost:
            A forward and a backward pass over the data.

        Example:
            >>> from torch import nn
            >>> task = Task(nn.Linear(1, 1, bias=False), "mse", (torch.ones(4, 1), torch.zeros(4, 1)))
            >>> task.gradient({"weight": torch.tensor([[3.0]])})  # of w², at w = 3
            {'weight': tensor([[6.]], dtype=torch.float64)}
        """
        return gradients(self, parameters)[head]

    def node_quantities(self) -> tuple[str, ...]:
        """Name what `node_values` computes: each metric of a point, for each head."""
        heads = ("output",) if self._step is not None else self.heads()
        names = self.node_metrics
        return tuple(name if heads == ("output",) else f"{name}:{head}" for name in names for head in heads)

    def node_values(self, parameters: Mapping[str, Tensor] | None = None) -> Float64[Tensor, " metrics"]:
        """Compute the metrics of a point, which are no means over samples, over all data.

        ``gradient_norm`` is the Euclidean norm of the gradient by all floating-point parameters,
        ``top_hessian_eigenvalue`` the largest eigenvalue of the Hessian. No interval belongs to either.

        Args:
            parameters: As in `evaluate`.

        Returns:
            One float64 number for each of `node_quantities`; not finite where the loss is not.

        Cost:
            A forward and a backward pass for the norm; for the eigenvalue some 10 to 40 times four passes.
        """
        values: list[float] = []
        for name in self.node_metrics:
            if name == "gradient_norm":
                found = gradients(self, parameters)
                squares = [sum(float(value.square().sum()) for value in part.values()) for part in found]
                values += [square**0.5 for square in squares]
            else:
                values += top_eigenvalues(self, parameters)
        return torch.tensor(values, dtype=torch.float64)

    def _no_terms(self) -> InputError:
        return InputError(
            f"loss {self._resolved.name} returns one number a batch, so there are no losses of single samples; let it "
            "return one value a sample (reduction='none')"
        )
