"""``loss="model"``: the loss that a model computes itself when it is given labels, as those of Hugging Face do."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from landform.calling import Model, as_found
from landform.data import Data
from landform.errors import DataError, InputError
from landform.losses import resolve_loss
from landform.task.running import Session, Settings

CANDIDATES = ("causal_lm", "token_cross_entropy", "cross_entropy", "bce_with_logits", "mse")
"""Formulas that are tried on a model's outputs and labels."""
SAMPLES = 4
"""Samples in each of the two batches on which a formula must give the model's own number."""
SAME = 1e-4
"""Relative difference that float32 may make."""


@dataclass(frozen=True)
class OwnLoss:
    """A step that takes the loss from the model's output.

    Attributes:
        inputs: What the model calls its inputs.
        labels: What it calls its labels.
        keys: What the data call inputs and targets.
    """

    inputs: str
    labels: str
    keys: tuple[str, str] | None

    @property
    def __name__(self) -> str:
        """Name it in messages."""
        return "model"

    def named(self, inputs: Tensor | Mapping[str, Tensor], targets: Tensor) -> dict[str, Tensor]:
        """Name all arguments of the model, labels included."""
        given = dict(inputs) if isinstance(inputs, Mapping) else {self.inputs: inputs}
        return given | {self.labels: targets}

    def __call__(self, model: Any, batch: Any) -> Any:
        """Run the model on a batch as a loader gives it, and return its own loss."""
        if isinstance(batch, Mapping):
            assert self.keys is not None
            inputs = {key: value for key, value in batch.items() if key != self.keys[1]}
            return loss_of(model(**self.named(inputs, batch[self.keys[1]])))
        return loss_of(model(**self.named(*batch)))


def loss_of(found: Any) -> Tensor | None:
    """Return the ``loss`` of what a model returned, or None.

    Args:
        found: The output.

    Returns:
        A number.
    """
    loss = found.get("loss") if isinstance(found, Mapping) else getattr(found, "loss", None)
    return loss if isinstance(loss, Tensor) else None


def recognise(model: Model, data: Data | None, settings: Settings) -> tuple[str | None, OwnLoss, bool]:
    """Find the formula of a model's own loss by comparing numbers on two small batches.

    Args:
        model: The model.
        data: Data with labels.
        settings: How the model is run.

    Returns:
        The name of the loss that gives the model's own numbers, or None where none does; how to call the model with
        labels; and whether it also runs without.

    Raises:
        DataError: No data.
        InputError: The model takes no labels, or returns no loss for them.
    """
    if data is None:
        raise DataError("loss='model' needs data, to see what the model makes of labels; build the task with data=…")
    own = _naming(model, data)
    found: set[str] = set(CANDIDATES)
    without = True
    with as_found(model), torch.no_grad():
        session = Session(model, settings)
        state = session.state(None)
        for part in (slice(0, SAMPLES), slice(max(data.n - SAMPLES - 1, 0), data.n)):
            inputs, targets = data.take(part)
            output = session.call(model, state, own.named(inputs, targets))
            wanted = loss_of(output)
            if wanted is None:
                raise InputError(f"model {type(model).__name__} returns no loss when it is given {own.labels}")
            logits = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
            found &= _matching(logits, targets, float(wanted)) if isinstance(logits, Tensor) else set()
            without = without and _runs(session, state, inputs)
    # A formula with fewer tokens comes first: on labels that are all ignored but one they may agree.
    name = next((name for name in CANDIDATES if name in found), None)
    return name, own, without


def _naming(model: Model, data: Data) -> OwnLoss:
    function = model.forward if isinstance(model, nn.Module) else model
    names = list(inspect.signature(function).parameters)
    keys = data.keys
    labels = next((name for name in ("labels", keys[1] if keys else "label") if name in names), None)
    if labels is None:
        raise InputError(
            f"loss='model' is for models that compute their loss when they are given labels; {type(model).__name__} "
            f"takes {', '.join(names)}: name a loss, or use step="
        )
    return OwnLoss(keys[0] if keys else names[0], labels, keys)


def _matching(output: Tensor, targets: Tensor, wanted: float) -> set[str]:
    found = set()
    for name in CANDIDATES:
        try:
            terms = resolve_loss(name).terms(output, targets)
        except (InputError, DataError):
            continue
        assert terms is not None
        value = float(terms[0].sum() / terms[1].sum())
        if abs(value - wanted) <= SAME * max(abs(wanted), 1e-3) or (value != value and wanted != wanted):
            found.add(name)
    return found


def _runs(session: Session, state: Mapping[str, Tensor], inputs: Any) -> bool:
    try:
        session.call(session.model, state, inputs)
    except Exception:  # whatever a model raises that misses its labels
        return False
    return True
