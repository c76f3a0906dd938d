"""The losses that landform knows: a numerator and a denominator for each sample and position, in float64."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  the name everyone knows
from jaxtyping import Float64
from torch import Tensor

from landform.errors import DataError, InputError

Terms = tuple[Float64[Tensor, "n ..."], Float64[Tensor, "n ..."]]
"""Numerators and denominators, one entry for each sample and position."""


def double(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Bring both to float64 (labels stay integers) on one device that has it."""
    if outputs.device.type == "mps":
        outputs = outputs.cpu()
    outputs = outputs.to(torch.float64)
    return outputs, targets.to(outputs.device, torch.float64 if targets.is_floating_point() else targets.dtype)


def _aligned(outputs: Tensor, targets: Tensor, name: str) -> Tensor:
    """Bring targets to the outputs' shape where they differ by dimensions of size 1 only; never broadcast."""
    if targets.shape != outputs.shape:
        if [s for s in outputs.shape[1:] if s != 1] != [s for s in targets.shape[1:] if s != 1]:
            raise InputError(
                f"{name}: outputs have shape {list(outputs.shape)}, targets {list(targets.shape)}; "
                "they must agree (broadcasting would compare every sample with every other)"
            )
        targets = targets.reshape(outputs.shape)
    return targets.to(torch.float64)


def _labels(outputs: Tensor, targets: Tensor, name: str, ignore: int | None) -> Tensor:
    """Check integer labels against the number of outputs; return where they count."""
    if targets.is_floating_point() or targets.shape != outputs.shape[:1] + outputs.shape[2:] or outputs.ndim < 2:
        tokens = outputs.ndim == 3 and targets.shape == outputs.shape[:2] and not targets.is_floating_point()
        raise InputError(
            f"{name}: outputs have shape {list(outputs.shape)}, targets {list(targets.shape)} of {targets.dtype}; "
            f"wanted outputs [n, classes] (further dimensions after the classes) with integer labels [n]"
            + (", or soft labels of the outputs' shape" if name == "cross_entropy" else "")
            + (
                "; for tokens, whose classes come last, use loss='token_cross_entropy', 'causal_lm', or 'model'"
                if tokens
                else ""
            )
        )
    classes = outputs.shape[1]
    counts = torch.ones_like(targets, dtype=torch.bool) if ignore is None else targets != ignore
    wrong = counts & ((targets < 0) | (targets >= classes))
    if bool(wrong.any()):
        raise DataError(
            f"{name}: {int(wrong.sum())} labels such as {int(targets[wrong][0])} are outside 0 … {classes - 1}; "
            f"the model has {classes} outputs"
            + (f", and {ignore} marks a label to ignore" if ignore is not None else "")
        )
    return counts


def cross_entropy(outputs: Tensor, targets: Tensor, **options: Any) -> Terms:
    """Cross-entropy on labels, or on soft labels of the outputs' shape."""
    weight = options.get("weight")
    weight = None if weight is None else weight.to(outputs)
    smoothing = options.get("label_smoothing", 0.0)
    if targets.is_floating_point() and targets.shape == outputs.shape:
        value = F.cross_entropy(outputs, targets, weight=weight, label_smoothing=smoothing, reduction="none")
        return value, torch.ones_like(value)
    return _nll(F.cross_entropy, outputs, targets, "cross_entropy", **{**options, "weight": weight})


def _nll(function: Callable[..., Tensor], outputs: Tensor, targets: Tensor, name: str, **options: Any) -> Terms:
    """Cross-entropy on labels: the denominator is the class weight of each label that counts."""
    ignore = options.setdefault("ignore_index", -100)
    counts = _labels(outputs, targets, name, ignore)
    value = function(outputs, targets, reduction="none", **options)
    weight = options.get("weight")
    each = counts.to(torch.float64)
    if weight is not None:
        each = each * weight.to(outputs)[torch.where(counts, targets, 0)]
    return value, each


def multi_margin(outputs: Tensor, targets: Tensor, **options: Any) -> Terms:
    """Multi-class hinge loss."""
    _labels(outputs, targets, "multi_margin", None)
    if options.get("weight") is not None:
        options["weight"] = options["weight"].to(outputs)
    value = F.multi_margin_loss(outputs, targets, reduction="none", **options)
    return value, torch.ones_like(value)


def bce(outputs: Tensor, targets: Tensor, **options: Any) -> Terms:
    """Binary cross-entropy on logits, a mean over samples and outputs."""
    targets = _aligned(outputs, targets, "bce_with_logits")
    if bool(((targets < 0) | (targets > 1)).any()):
        raise DataError(
            f"bce_with_logits: targets reach from {float(targets.min()):g} to {float(targets.max()):g}; "
            "wanted probabilities in [0, 1]"
        )
    tensors = {key: value.to(outputs) for key, value in options.items() if value is not None}
    value = F.binary_cross_entropy_with_logits(outputs, targets, reduction="none", **tensors)
    return value, torch.ones_like(value)


def gaussian_nll(outputs: Tensor, targets: Tensor, **options: Any) -> Terms:
    """Gaussian likelihood; outputs hold the means and then the logarithms of the variances."""
    if outputs.shape[-1] % 2:
        raise InputError(
            f"gaussian_nll: outputs have shape {list(outputs.shape)}; wanted an even last dimension, the means and "
            "then the logarithms of the variances"
        )
    mean, log_variance = outputs.chunk(2, dim=-1)
    targets = _aligned(mean, targets, "gaussian_nll")
    value = F.gaussian_nll_loss(mean, targets, log_variance.exp(), reduction="none", **options)
    return value, torch.ones_like(value)


def elementwise(function: Callable[..., Tensor], name: str) -> Callable[..., Terms]:
    """Make the terms of a loss that compares outputs with targets one by one."""

    def terms(outputs: Tensor, targets: Tensor, **options: Any) -> Terms:
        value = function(outputs, _aligned(outputs, targets, name), reduction="none", **options)
        return value, torch.ones_like(value)

    return terms


def token_cross_entropy(outputs: Tensor, targets: Tensor, **options: Any) -> Terms:
    """Cross-entropy with classes last, ``[n, tokens, classes]`` on labels ``[n, tokens]``: a mean over tokens."""
    if outputs.ndim < 3 or targets.shape != outputs.shape[:-1] or targets.is_floating_point():
        raise InputError(
            f"token_cross_entropy: outputs have shape {list(outputs.shape)}, targets {list(targets.shape)} of "
            f"{targets.dtype}; wanted outputs [n, tokens, classes] with integer labels [n, tokens]"
        )
    return cross_entropy(outputs.movedim(-1, 1), targets, **options)


def causal_lm(outputs: Tensor, targets: Tensor, **options: Any) -> Terms:
    """Cross-entropy of the next token: position t of the outputs is compared with label t + 1."""
    if outputs.ndim != 3 or targets.shape != outputs.shape[:2] or targets.is_floating_point() or targets.shape[1] < 2:
        raise InputError(
            f"causal_lm: outputs have shape {list(outputs.shape)}, targets {list(targets.shape)} of {targets.dtype}; "
            "wanted outputs [n, tokens, vocabulary] with integer labels [n, tokens], at least 2 tokens"
        )
    return cross_entropy(outputs[:, :-1].movedim(-1, 1), targets[:, 1:], **options)


def log_loss(outputs: Tensor, targets: Tensor, **options: Any) -> Terms:
    """Negative logarithm of the probability of the label, on probabilities."""
    if outputs.ndim > 1 and bool((outputs < 0).any() | ((outputs.sum(1) - 1).abs() > 1e-3).any()):
        raise InputError(
            f"log_loss: outputs reach from {float(outputs.min()):g} to {float(outputs.max()):g}, and add up to"
            f" {float(outputs.sum(1).flatten()[0]):g} for the first sample; wanted probabilities, as a softmax gives"
            " them: for logits use 'cross_entropy', for logarithms of probabilities 'nll'"
        )
    return nll(outputs.log(), targets, **options)


def nll(outputs: Tensor, targets: Tensor, **options: Any) -> Terms:
    """Negative log-likelihood on log-probabilities."""
    if options.get("weight") is not None:
        options["weight"] = options["weight"].to(outputs)
    return _nll(F.nll_loss, outputs, targets, "nll", **options)
