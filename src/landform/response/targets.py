"""Read targets: check them and reduce them to the numbers that σ needs."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from landform.errors import DataError, InputError

_MOST_CLASSES = 10_000_000
_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def read_targets(targets: Any, loss: str) -> Tensor:
    """Return targets as a CPU tensor with at least one sample.

    Args:
        targets: A tensor, array or nested sequence; the first dimension counts samples.
        loss: Name of the loss, for the error.

    Returns:
        The detached tensor, of its own dtype.

    Raises:
        DataError: If there is no sample, or an entry is no number, NaN, infinite or complex.
    """
    if isinstance(targets, Tensor):
        tensor = targets.detach().cpu()
    else:
        try:
            tensor = torch.as_tensor(np.asarray(targets))
        except (TypeError, ValueError) as error:
            raise DataError(f"{loss} got targets that are no array of numbers: {error}; pass a tensor") from error
    if tensor.ndim == 0 or tensor.numel() == 0:
        raise DataError(f"{loss} got targets of shape {list(tensor.shape)}: no samples; pass at least one")
    if tensor.is_complex():
        raise DataError(f"{loss} got targets of dtype {tensor.dtype}; pass real numbers")
    if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
        bad = (~torch.isfinite(tensor.reshape(len(tensor), -1))).any(1).nonzero()[:, 0]
        raise DataError(
            f"{loss} got targets that are NaN or infinite in {len(bad)} samples, the first at index {int(bad[0])}; "
            "remove these samples or repair them"
        )
    return tensor


def read_weights(weights: Any, shape: Sequence[int]) -> Float64[np.ndarray, " samples"]:
    """Return one non-negative weight per target, flattened; all ones when none are given.

    Args:
        weights: None, or numbers of shape [samples] or of the targets' full shape.
        shape: Shape of the targets (without a class dimension).

    Returns:
        Weights in float64.

    Raises:
        InputError: If the shape does not fit, or a weight is negative or not finite, or all are 0.
    """
    if weights is None:
        return np.ones(int(np.prod(shape)))
    array = np.asarray(weights.detach().cpu() if isinstance(weights, Tensor) else weights, dtype=np.float64)
    if array.shape not in (tuple(shape), tuple(shape[:1])):
        raise InputError(f"weights have shape {list(array.shape)}; pass one per sample: [{shape[0]}]")
    if not np.isfinite(array).all() or (array < 0).any() or not array.sum() > 0:
        raise InputError("weights must be finite, >= 0 and not all 0; drop the samples that should not count")
    array = array.reshape(array.shape + (1,) * (len(shape) - array.ndim))
    return np.broadcast_to(array, shape).reshape(-1).copy()


def read_elements(
    targets: Any, loss: str, outputs: int | None, weights: Any
) -> tuple[Float64[np.ndarray, "samples outputs"], Float64[np.ndarray, " samples"]]:
    """Read real-valued targets: one row per sample, trailing dimensions flattened.

    Args:
        targets: Numbers of shape [samples, ...].
        loss: Name of the loss, for errors.
        outputs: Expected row length, or None for whatever the targets have.
        weights: None, or one weight per sample.

    Returns:
        Targets in float64 and weights that sum to the number of samples or to their own total.

    Raises:
        DataError: If targets are unusable, or their size is not `outputs`.
    """
    tensor = read_targets(targets, loss)
    values = tensor.reshape(len(tensor), -1).to(torch.float64).numpy()
    if outputs is not None and values.shape[1] != outputs:
        raise DataError(
            f"{loss} got targets of {values.shape[1]} numbers per sample for a network with {outputs} outputs; "
            "the two must be equal"
        )
    share = read_weights(weights, [len(values)])
    return values[share > 0], share[share > 0]


def read_classes(
    targets: Any, loss: str, outputs: int | None, weights: Any, *, ignore_index: int | None = None
) -> Float64[np.ndarray, " outputs"]:
    """Count class indices, weighted; all dimensions are flattened.

    Args:
        targets: Integer class indices of any shape.
        loss: Name of the loss, for errors.
        outputs: Number of classes, or None for the largest label + 1.
        weights: None, or one weight per sample.
        ignore_index: A label that does not count, or None.

    Returns:
        The weight of each class.

    Raises:
        DataError: If labels are not integers, out of range, or all ignored, or there are fewer than two outputs.
    """
    tensor = read_targets(targets, loss)
    if tensor.dtype not in _INTEGERS:
        raise DataError(
            f"{loss} got targets of dtype {tensor.dtype} and shape {list(tensor.shape)}; pass integer class indices"
            + (" [N], or class probabilities [N, classes]" if loss == "cross_entropy" else " [N] (use .long())")
        )
    share = read_weights(weights, tensor.shape)
    labels = tensor.reshape(-1).to(torch.int64).numpy()
    if ignore_index is not None:
        share, labels = share[labels != ignore_index], labels[labels != ignore_index]
        if not share.sum() > 0:
            raise DataError(f"{loss}: every label equals ignore_index={ignore_index}; nothing is left to count")
    classes = int(labels.max()) + 1 if outputs is None else outputs
    if outputs is None and classes > _MOST_CLASSES:
        raise DataError(
            f"{loss} got label {classes - 1}: too many classes to guess; pass outputs= as the network's output size"
        )
    wrong = labels[(labels < 0) | (labels >= classes)]
    if len(wrong):
        raise DataError(
            f"{loss} got label {wrong[0]} ({len(wrong)} labels are out of range); allowed are 0..{classes - 1}: "
            "relabel, or pass outputs= as the network's output size"
        )
    if classes < 2:
        raise DataError(f"{loss} over {classes} output is constant; pass outputs= as the network's output size (>= 2)")
    return np.bincount(labels, weights=share, minlength=classes).astype(np.float64)


def read_scales(values: Any, name: str, classes: int) -> Float64[np.ndarray, " outputs"]:
    """Read an option that holds one non-negative number per output; None means ones, one number means all.

    Args:
        values: The option.
        name: Its name, for the error.
        classes: Number of outputs.

    Returns:
        The numbers in float64.

    Raises:
        InputError: If their number is wrong, or one is negative or not finite.
    """
    if values is None:
        return np.ones(classes)
    array = torch.as_tensor(values, dtype=torch.float64).detach().cpu().numpy().reshape(-1)
    array = np.repeat(array, classes) if array.size == 1 and classes > 1 else array
    if array.shape != (classes,) or not np.isfinite(array).all() or (array < 0).any():
        raise InputError(
            f"{name} must hold {classes} finite numbers >= 0, one per output; got {array.size} with least "
            f"{array.min() if array.size else 'none'}"
        )
    return array
