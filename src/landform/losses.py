"""Losses as ratios of sums, so that the loss over a data set is exact whatever the batches.

A mean of batch means is not the mean over the data set when batches differ in size, in class weights or in the number
of ignored labels. Each sample therefore gives a numerator and a denominator, in float64, and the data-set loss is
Σ w_i num_i / Σ w_i den_i.
"""

import copy
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  the name everyone knows
from jaxtyping import Float64, Shaped
from torch import Tensor, nn

from landform.errors import DataError, InputError, unknown_name

Terms = tuple[Float64[Tensor, "n ..."], Float64[Tensor, "n ..."]]
"""Numerators and denominators, one entry for each sample and position."""

LossLike = str | nn.Module | Callable[[Any, Any], Any]
"""What a user may call a loss: a name, a module, or any function of ``(outputs, targets)``."""


@dataclasses.dataclass(frozen=True, eq=False)
class Loss:
    """A loss in a form that adds up over batches.

    Attributes:
        name: ``"cross_entropy"``, …, or the name of the user's own function or class.
        options: What the module was built with, where it differs from the default (``weight``, ``label_smoothing``,
            ``beta``, …); tensors as lists, so that it can be written as JSON.
        known: Whether landform knows the loss's formula; then `terms` never returns None.
    """

    name: str
    options: Mapping[str, Any]
    known: bool
    _terms: Callable[[Tensor, Tensor], Terms] | None = dataclasses.field(repr=False, default=None)
    _function: Callable[[Any, Any], Any] | None = dataclasses.field(repr=False, default=None)

    def terms(
        self, outputs: Shaped[Tensor, "n ..."], targets: Shaped[Tensor, "n ..."]
    ) -> tuple[Float64[Tensor, " n"], Float64[Tensor, " n"]] | None:
        """Return each sample's numerator and denominator, or None for a function that gives one number a batch.

        Args:
            outputs: What the model returned, any float dtype.
            targets: As in the data set.

        Returns:
            Two float64 vectors; the loss over these samples is the ratio of their sums.

        Raises:
            InputError: Shapes or dtypes that do not fit each other; a function that returns something else.
            DataError: Labels out of range.
        """
        outputs, targets = _double(outputs, targets)
        if self._terms is not None:
            numerator, denominator = self._terms(outputs, targets)
        else:
            value = self._call(outputs, targets)
            if value.ndim == 0:
                return None
            if value.shape[0] != len(outputs):
                raise InputError(
                    f"loss {self.name} returned shape {list(value.shape)} for {len(outputs)} samples; "
                    "wanted a scalar, or one value a sample in the first dimension"
                )
            numerator, denominator = value, torch.ones_like(value)
        n = len(outputs)
        return numerator.reshape(n, -1).sum(1), denominator.reshape(n, -1).sum(1)

    def _call(self, outputs: Tensor, targets: Tensor) -> Float64[Tensor, "..."]:
        """Call the user's function in float64, or in float32 if it holds float32 tensors of its own."""
        assert self._function is not None
        try:
            value = self._function(outputs, targets)
        except RuntimeError as error:
            if "dtype" not in str(error) and "scalar type" not in str(error):
                raise
            single = targets.float() if targets.is_floating_point() else targets
            value = self._function(outputs.float(), single)
        if not isinstance(value, Tensor):
            raise InputError(f"loss {self.name} returned a {type(value).__name__}; wanted a tensor")
        return value.to(torch.float64)


class LossSum:
    """Adds up one loss over batches.

    For a function that returns one number a batch, outputs are kept and the function is called once on all of them,
    which makes its own normaliser right; above 2^24 output numbers it is called on chunks of that size, whose values
    are averaged by their numbers of samples.

    Example:
        >>> total = LossSum(resolve_loss("mse"))
        >>> total.add(torch.zeros(1, 1), torch.full((1, 1), 2.0))
        >>> total.add(torch.zeros(3, 1), torch.zeros(3, 1))
        >>> total.value().item()
        1.0
    """

    def __init__(self, loss: Loss, *, limit: int = 1 << 24) -> None:
        self._loss = loss
        self._limit = limit
        self._numerator: Tensor | float = 0.0
        self._denominator: Tensor | float = 0.0
        self._kept: list[tuple[Tensor, Tensor]] = []

    def add(
        self,
        outputs: Shaped[Tensor, "n ..."],
        targets: Shaped[Tensor, "n ..."],
        weights: Float64[Tensor, " n"] | None = None,
    ) -> None:
        """Count one batch.

        Args:
            outputs: What the model returned.
            targets: The batch's targets.
            weights: One weight a sample, or None for 1.

        Raises:
            InputError: Shapes that do not fit, or sample weights with a loss that gives one number a batch.
            DataError: Labels out of range.
        """
        if len(outputs) != len(targets):
            raise InputError(f"{len(outputs)} outputs for {len(targets)} targets; the model must keep one row a sample")
        terms = None if self._kept else self._loss.terms(outputs, targets)
        if terms is None:
            if weights is not None:
                raise InputError(
                    f"loss {self._loss.name} returns one number a batch, so sample weights cannot enter; "
                    "let it return one value a sample (reduction='none')"
                )
            self._kept.append(_double(outputs, targets))
            if sum(kept.numel() for kept, _ in self._kept) >= self._limit:
                self._flush()
            return
        numerator, denominator = terms
        if weights is not None:
            weights = weights.to(numerator.device)
            # A sample of weight 0 is left out even where its loss is infinite.
            numerator = torch.where(weights > 0, weights * numerator, 0.0)
            denominator = weights * denominator
        self._numerator = self._numerator + numerator.sum()
        self._denominator = self._denominator + denominator.sum()

    def value(self) -> Float64[Tensor, ""]:
        """Return the loss over everything added; NaN where nothing counts (all labels ignored), as in PyTorch."""
        self._flush()
        return torch.as_tensor(self._numerator, dtype=torch.float64) / torch.as_tensor(self._denominator)

    def _flush(self) -> None:
        if not self._kept:
            return
        outputs = torch.cat([kept for kept, _ in self._kept])
        targets = torch.cat([kept for _, kept in self._kept])
        self._kept.clear()
        self._numerator = self._numerator + self._loss._call(outputs, targets) * len(outputs)
        self._denominator = self._denominator + float(len(outputs))


def _double(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
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
        raise InputError(
            f"{name}: outputs have shape {list(outputs.shape)}, targets {list(targets.shape)} of {targets.dtype}; "
            f"wanted outputs [n, classes] (further dimensions after the classes) with integer labels [n]"
            + (", or soft labels of the outputs' shape" if name == "cross_entropy" else "")
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


def _cross_entropy(outputs: Tensor, targets: Tensor, **options: Any) -> Terms:
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


def _multi_margin(outputs: Tensor, targets: Tensor, **options: Any) -> Terms:
    _labels(outputs, targets, "multi_margin", None)
    if options.get("weight") is not None:
        options["weight"] = options["weight"].to(outputs)
    value = F.multi_margin_loss(outputs, targets, reduction="none", **options)
    return value, torch.ones_like(value)


def _bce(outputs: Tensor, targets: Tensor, **options: Any) -> Terms:
    targets = _aligned(outputs, targets, "bce_with_logits")
    if bool(((targets < 0) | (targets > 1)).any()):
        raise DataError(
            f"bce_with_logits: targets reach from {float(targets.min()):g} to {float(targets.max()):g}; "
            "wanted probabilities in [0, 1]"
        )
    tensors = {key: value.to(outputs) for key, value in options.items() if value is not None}
    value = F.binary_cross_entropy_with_logits(outputs, targets, reduction="none", **tensors)
    return value, torch.ones_like(value)


def _gaussian_nll(outputs: Tensor, targets: Tensor, **options: Any) -> Terms:
    if outputs.shape[-1] % 2:
        raise InputError(
            f"gaussian_nll: outputs have shape {list(outputs.shape)}; wanted an even last dimension, the means and "
            "then the logarithms of the variances"
        )
    mean, log_variance = outputs.chunk(2, dim=-1)
    targets = _aligned(mean, targets, "gaussian_nll")
    value = F.gaussian_nll_loss(mean, targets, log_variance.exp(), reduction="none", **options)
    return value, torch.ones_like(value)


def _elementwise(function: Callable[..., Tensor], name: str) -> Callable[..., Terms]:
    def terms(outputs: Tensor, targets: Tensor, **options: Any) -> Terms:
        value = function(outputs, _aligned(outputs, targets, name), reduction="none", **options)
        return value, torch.ones_like(value)

    return terms


def _nll_module(outputs: Tensor, targets: Tensor, **options: Any) -> Terms:
    if options.get("weight") is not None:
        options["weight"] = options["weight"].to(outputs)
    return _nll(F.nll_loss, outputs, targets, "nll", **options)


@dataclasses.dataclass(frozen=True)
class _Known:
    terms: Callable[..., Terms]
    module: type[nn.Module]
    function: Callable[..., Tensor]
    options: Mapping[str, Any]


_KNOWN: dict[str, _Known] = {
    "cross_entropy": _Known(
        _cross_entropy,
        nn.CrossEntropyLoss,
        F.cross_entropy,
        {"weight": None, "ignore_index": -100, "label_smoothing": 0.0},
    ),
    "mse": _Known(_elementwise(F.mse_loss, "mse"), nn.MSELoss, F.mse_loss, {}),
    "l1": _Known(_elementwise(F.l1_loss, "l1"), nn.L1Loss, F.l1_loss, {}),
    "smooth_l1": _Known(_elementwise(F.smooth_l1_loss, "smooth_l1"), nn.SmoothL1Loss, F.smooth_l1_loss, {"beta": 1.0}),
    "huber": _Known(_elementwise(F.huber_loss, "huber"), nn.HuberLoss, F.huber_loss, {"delta": 1.0}),
    "bce_with_logits": _Known(
        _bce, nn.BCEWithLogitsLoss, F.binary_cross_entropy_with_logits, {"weight": None, "pos_weight": None}
    ),
    "multi_margin": _Known(
        _multi_margin, nn.MultiMarginLoss, F.multi_margin_loss, {"p": 1, "margin": 1.0, "weight": None}
    ),
    "poisson_nll": _Known(
        _elementwise(F.poisson_nll_loss, "poisson_nll"),
        nn.PoissonNLLLoss,
        F.poisson_nll_loss,
        {"log_input": True, "full": False, "eps": 1e-8},
    ),
    "gaussian_nll": _Known(_gaussian_nll, nn.GaussianNLLLoss, F.gaussian_nll_loss, {"full": False, "eps": 1e-6}),
    "nll": _Known(_nll_module, nn.NLLLoss, F.nll_loss, {"weight": None, "ignore_index": -100}),
}

LOSS_NAMES = tuple(name for name in _KNOWN if name != "nll")
"""Losses that `resolve_loss` knows by name."""


def resolve_loss(loss: LossLike) -> Loss:
    """Bring a name, a module or a function into a form that adds up over batches.

    Names and PyTorch's own modules and functions are computed by their formula: exact for class weights,
    ``ignore_index``, label smoothing, soft labels. For ``"gaussian_nll"`` the outputs are ``[mu (D), log var (D)]``
    along the last dimension. Targets may differ from outputs by dimensions of size 1 and are never broadcast.

    Any other module (a copy of it, in evaluation mode and float64) or function is called with float64 outputs. If it
    returns one value a sample, their mean is exact; if it returns one number, it is called on all outputs at once (see
    `LossSum`).

    Args:
        loss: Name, module or function.

    Returns:
        The loss.

    Raises:
        UnknownNameError: Unknown name, with the nearest.
        InputError: Neither of the three, or a module whose reduction is not ``"mean"``.

    Example:
        >>> two = resolve_loss("cross_entropy").terms(torch.zeros(2, 4), torch.tensor([3, -100]))
        >>> [part.tolist() for part in two]
        [[1.3862943611198906, 0.0], [1.0, 0.0]]
    """
    if isinstance(loss, str):
        if loss not in LOSS_NAMES:
            raise unknown_name("loss", loss, LOSS_NAMES)
        return Loss(loss, {}, known=True, _terms=_KNOWN[loss].terms)
    if isinstance(loss, type) or not callable(loss):
        raise InputError(f"loss is {loss!r}; wanted a name ({', '.join(LOSS_NAMES)}), a module or a function")
    reduction = getattr(loss, "reduction", "mean")
    if isinstance(loss, nn.Module) and reduction != "mean":
        raise InputError(
            f"loss {type(loss).__name__} has reduction={reduction!r}; build it with reduction='mean': "
            "the loss over a data set is a mean, whatever the batches"
        )
    for name, known in _KNOWN.items():
        if loss is known.function:
            return Loss(name, {}, known=True, _terms=known.terms)
        if type(loss) is known.module:
            return _from_module(name, known, loss)
    if isinstance(loss, nn.Module):
        own = copy.deepcopy(loss).double().eval()
        if type(loss).__module__ == "torch.nn.modules.loss" and hasattr(own, "reduction"):
            setattr(own, "reduction", "none")  # noqa: B010  mypy knows submodules only
        return Loss(type(loss).__name__, {}, known=False, _function=own)
    return Loss(getattr(loss, "__name__", type(loss).__name__), {}, known=False, _function=loss)


def _from_module(name: str, known: _Known, module: nn.Module) -> Loss:
    """Read a module's options; keep those that differ from the defaults."""
    options: dict[str, Any] = {}
    for key, default in known.options.items():
        value = getattr(module, key)
        if isinstance(value, Tensor):
            options[key] = value.detach().clone().to(torch.float64)
        elif value != default:
            options[key] = value
    terms = known.terms
    plain = {key: value.tolist() if isinstance(value, Tensor) else value for key, value in options.items()}
    return Loss(name, plain, known=True, _terms=lambda outputs, targets: terms(outputs, targets, **options))
