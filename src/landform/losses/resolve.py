"""`resolve_loss`: from a name, a module or a function to a `Loss`."""

import copy
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  the name everyone knows
from torch import Tensor, nn

from landform.errors import InputError, unknown_name
from landform.losses import formulas
from landform.losses.formulas import Terms
from landform.losses.loss import Loss

LossLike = str | nn.Module | Callable[[Any, Any], Any]
"""What a user may call a loss: a name, a module, or any function of ``(outputs, targets)``."""


@dataclasses.dataclass(frozen=True)
class _Known:
    terms: Callable[..., Terms]
    module: type[nn.Module] | None
    function: Callable[..., Tensor] | None
    options: Mapping[str, Any]


_KNOWN: dict[str, _Known] = {
    "cross_entropy": _Known(
        formulas.cross_entropy,
        nn.CrossEntropyLoss,
        F.cross_entropy,
        {"weight": None, "ignore_index": -100, "label_smoothing": 0.0},
    ),
    "mse": _Known(formulas.elementwise(F.mse_loss, "mse"), nn.MSELoss, F.mse_loss, {}),
    "l1": _Known(formulas.elementwise(F.l1_loss, "l1"), nn.L1Loss, F.l1_loss, {}),
    "smooth_l1": _Known(
        formulas.elementwise(F.smooth_l1_loss, "smooth_l1"), nn.SmoothL1Loss, F.smooth_l1_loss, {"beta": 1.0}
    ),
    "huber": _Known(formulas.elementwise(F.huber_loss, "huber"), nn.HuberLoss, F.huber_loss, {"delta": 1.0}),
    "bce_with_logits": _Known(
        formulas.bce, nn.BCEWithLogitsLoss, F.binary_cross_entropy_with_logits, {"weight": None, "pos_weight": None}
    ),
    "multi_margin": _Known(
        formulas.multi_margin, nn.MultiMarginLoss, F.multi_margin_loss, {"p": 1, "margin": 1.0, "weight": None}
    ),
    "poisson_nll": _Known(
        formulas.elementwise(F.poisson_nll_loss, "poisson_nll"),
        nn.PoissonNLLLoss,
        F.poisson_nll_loss,
        {"log_input": True, "full": False, "eps": 1e-8},
    ),
    "gaussian_nll": _Known(
        formulas.gaussian_nll, nn.GaussianNLLLoss, F.gaussian_nll_loss, {"full": False, "eps": 1e-6}
    ),
    "token_cross_entropy": _Known(
        formulas.token_cross_entropy, None, None, {"weight": None, "ignore_index": -100, "label_smoothing": 0.0}
    ),
    "causal_lm": _Known(formulas.causal_lm, None, None, {"ignore_index": -100}),
    "nll": _Known(formulas.nll, nn.NLLLoss, F.nll_loss, {"weight": None, "ignore_index": -100}),
    "log_loss": _Known(formulas.log_loss, None, None, {}),
}

LOSS_NAMES = tuple(_KNOWN)
"""Losses that `resolve_loss` knows by name."""


def resolve_loss(loss: LossLike) -> Loss:
    """Bring a name, a module or a function into a form that adds up over batches.

    Names and PyTorch's own modules and functions are computed by their formula: exact for class weights,
    ``ignore_index``, label smoothing, soft labels. For ``"gaussian_nll"`` the outputs are ``[mu (D), log var (D)]``
    along the last dimension. Targets may differ from outputs by dimensions of size 1 and are never broadcast.
    ``"token_cross_entropy"`` is the cross-entropy of outputs whose classes come last, as those of language models,
    ``"causal_lm"`` that of the next token (position t is compared with label t + 1); both are means over all labels
    that are not −100, whatever their number in a sequence. ``"nll"`` takes logarithms of probabilities, as a
    ``LogSoftmax`` emits them, ``"log_loss"`` the probabilities themselves, as a ``Softmax`` does (the name is
    scikit-learn's): both are the cross-entropy of what is before it.

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
