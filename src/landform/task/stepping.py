"""The user's own ``step(model, batch)``: what it may return, and how that adds up over batches."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from landform.errors import InputError
from landform.losses import Loss
from landform.task.batch import Batch


def as_loss(step: Callable[[Any, Any], Any]) -> Loss:
    """Give a step the name and the place of a loss.

    Args:
        step: The function.

    Returns:
        A loss that cannot be computed from outputs.
    """
    name = str(getattr(step, "__name__", type(step).__name__))

    def refuse(_outputs: Any, _targets: Any) -> Any:
        raise InputError(f"step {name} computes the loss itself, from model and batch; there is none of outputs alone")

    return Loss(name, {}, known=False, _function=refuse)


def values_of(found: object, n: int, name: str) -> dict[str, Tensor]:
    """Read what a step returned.

    Args:
        found: One value a sample, one number, or a mapping of such with ``"loss"`` among them.
        n: Samples that went in.
        name: Whom to name in errors.

    Returns:
        Float64 values on the CPU by quantity, the loss first: ``[n]``, or a number for the whole batch.

    Raises:
        InputError: Something else.
    """
    values = dict(found) if isinstance(found, Mapping) else {"loss": found}
    if "loss" not in values:
        raise InputError(f"step {name} returned {', '.join(map(str, values)) or 'nothing'}; wanted 'loss' among them")
    values = {"loss": values["loss"]} | {str(key): value for key, value in values.items()}
    result: dict[str, Tensor] = {}
    for key, value in values.items():
        if isinstance(value, float | int):
            value = torch.tensor(float(value))
        if not isinstance(value, Tensor):
            raise InputError(
                f"step {name} returned a {type(value).__name__} as {key}; wanted one loss a sample, of shape "
                f"[{n}], or a number"
            )
        value = value.cpu().to(torch.float64)
        if value.numel() == 1 and (value.ndim == 0 or n != 1):
            value = value.reshape(())
        if value.ndim > 1 or (value.ndim == 1 and len(value) != n):
            raise InputError(
                f"step {name} returned {key} of shape {list(value.shape)} for {n} samples; wanted [{n}] or a number"
            )
        result[key] = value
    return result


def sums_of(values: Mapping[str, Tensor], batch: Batch) -> tuple[Tensor, Tensor]:
    """Add up one batch; a number for the whole batch counts as the mean over its samples.

    Args:
        values: As of `values_of`.
        batch: The samples.

    Returns:
        Numerators and denominators of each quantity.

    Raises:
        InputError: Sample weights, and a number for the whole batch.
    """
    weights = torch.ones(batch.size, dtype=torch.float64) if batch.weights is None else batch.weights.cpu()
    if batch.weights is not None and not all(value.ndim for value in values.values()):
        raise InputError(
            "the step returns one number a batch, so sample weights cannot enter; let it return [n] losses"
        )
    num = [torch.where(weights > 0, weights * value.expand(batch.size), 0.0).sum() for value in values.values()]
    return torch.stack(num), weights.sum().expand(len(num))
