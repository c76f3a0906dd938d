"""From a loss, by name, module or function, and targets to its response."""

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from landform.errors import InputError, unknown_name
from landform.response.base import AbstractResponse, as_list
from landform.response.bce_with_logits import BinaryCrossEntropy
from landform.response.constant import LossFunction
from landform.response.cross_entropy import CrossEntropy
from landform.response.gaussian_nll import GaussianNLL
from landform.response.generic import CallableResponse
from landform.response.mse import MeanSquaredError
from landform.response.multi_margin import MultiMargin
from landform.response.offset import OffsetResponse
from landform.response.per_sample import PerSampleResponse
from landform.response.poisson_nll import PoissonNLL
from landform.response.robust import Robust
from landform.response.token_offset import TokenOffsetResponse

_BUILD: dict[str, Callable[..., AbstractResponse]] = {
    "cross_entropy": CrossEntropy.from_targets,
    "mse": MeanSquaredError.from_targets,
    "l1": partial(Robust.from_targets, name="l1"),
    "smooth_l1": partial(Robust.from_targets, name="smooth_l1"),
    "huber": partial(Robust.from_targets, name="huber"),
    "bce_with_logits": BinaryCrossEntropy.from_targets,
    "multi_margin": MultiMargin.from_targets,
    "poisson_nll": PoissonNLL.from_targets,
    "gaussian_nll": GaussianNLL.from_targets,
}
_DEFAULTS: dict[str, dict[str, Any]] = {"l1": {}, "smooth_l1": {"beta": 1.0}, "huber": {"delta": 1.0}}
_FAMILIES: dict[str, type[AbstractResponse]] = {
    "cross_entropy": CrossEntropy,
    "mse": MeanSquaredError,
    "l1": Robust,
    "smooth_l1": Robust,
    "huber": Robust,
    "bce_with_logits": BinaryCrossEntropy,
    "multi_margin": MultiMargin,
    "poisson_nll": PoissonNLL,
    "gaussian_nll": GaussianNLL,
}
_BESIDE: dict[str, type[AbstractResponse]] = {
    "offset": OffsetResponse,
    "token_offset": TokenOffsetResponse,
    "per_sample": PerSampleResponse,
}
"""Responses of trained networks (Theorem 2), which labels alone do not give."""
LOSSES = tuple(_BUILD)
"""Names of the losses with a proved response."""

_MODULES: dict[type[nn.Module], tuple[str, tuple[str, ...]]] = {
    nn.CrossEntropyLoss: ("cross_entropy", ("weight", "ignore_index", "label_smoothing")),
    nn.MSELoss: ("mse", ()),
    nn.L1Loss: ("l1", ()),
    nn.SmoothL1Loss: ("smooth_l1", ("beta",)),
    nn.HuberLoss: ("huber", ("delta",)),
    nn.BCEWithLogitsLoss: ("bce_with_logits", ("weight", "pos_weight")),
    nn.MultiMarginLoss: ("multi_margin", ("p", "margin", "weight")),
    nn.PoissonNLLLoss: ("poisson_nll", ("log_input", "full", "eps")),
    nn.GaussianNLLLoss: ("gaussian_nll", ("full", "eps")),
}
_FUNCTIONS: dict[Any, str] = {
    functional.cross_entropy: "cross_entropy",
    functional.mse_loss: "mse",
    functional.l1_loss: "l1",
    functional.smooth_l1_loss: "smooth_l1",
    functional.huber_loss: "huber",
    functional.binary_cross_entropy_with_logits: "bce_with_logits",
    functional.multi_margin_loss: "multi_margin",
    functional.poisson_nll_loss: "poisson_nll",
}


def respond(
    loss: str | nn.Module | LossFunction,
    targets: Any,
    *,
    outputs: int | None = None,
    convex: bool = False,
    weights: Any = None,
    **options: Any,
) -> AbstractResponse:
    """Return the response of a data set: its loss as a function of a constant output (Lemma 1 of arXiv 1912.07559).

    Args:
        loss: A name of `LOSSES`, the torch.nn module (its options are read), the torch.nn.functional function with
            default options, or any ``loss(outputs, targets)``; the last needs `outputs`.
        targets: The data set's targets, first dimension samples.
        outputs: Output size of the network; default what the targets imply (for class indices the largest + 1).
        convex: For a callable: declare it convex along its ray, which makes the result certified under that assumption.
        weights: One weight ≥ 0 per sample, for a re-weighted data set.
        options: Options of the named loss, as in torch, e.g. ``label_smoothing=0.1``.

    Returns:
        The response.

    Raises:
        UnknownNameError: If there is no loss of that name.
        DataError: If the targets do not fit the loss.
        InputError: If an option is unknown or out of range, or the reduction is not ``"mean"``.

    Example:
        >>> response = respond("cross_entropy", torch.tensor([0, 0, 1, 1]))
        >>> response
        CrossEntropy(cross_entropy, outputs=2, floor=0.693147 nat, excess=0, output=0, sign=+1, certified)
        >>> t = torch.tensor([1.0], dtype=torch.float64)
        >>> float((response.along(response.inverse(t)) - t).abs()) < 1e-15
        True
    """
    if isinstance(loss, str):
        if loss not in _BUILD:
            raise unknown_name("loss", loss, LOSSES)
        return _named(loss, targets, outputs, weights, options)
    if isinstance(loss, nn.Module) and type(loss) in _MODULES:
        if options:
            raise InputError(f"options {sorted(options)} were given beside a loss module; set them on the module")
        name, keys = _MODULES[type(loss)]
        _check_reduction(loss, ("mean",))
        read = {key: getattr(loss, key) for key in keys}
        return _named(name, targets, outputs, weights, {k: v for k, v in read.items() if v is not None})
    if not callable(loss):
        raise InputError(f"loss must be a name, a torch.nn loss or a callable, got {type(loss).__name__}")
    for function, name in _FUNCTIONS.items():
        if loss is function:
            return _named(name, targets, outputs, weights, options)
    if options:
        raise InputError(f"options {sorted(options)} were given beside a callable; bind them with functools.partial")
    if outputs is None:
        raise InputError("a callable loss does not tell the size of its input; pass outputs=")
    _check_reduction(loss, ("mean", "none"))
    return CallableResponse.from_targets(targets, loss, outputs=outputs, weights=weights, convex=convex)


def respond_like(response: AbstractResponse, targets: Any, *, weights: Any = None) -> AbstractResponse:
    """Return the response of another data set under the same loss, with the same options and output size.

    Args:
        response: The first data set's response.
        targets: The other data set's targets.
        weights: One weight ≥ 0 per sample.

    Returns:
        The response of the other data set (with its own best output and ray; see `transfer`).

    Example:
        >>> first = respond("cross_entropy", torch.tensor([0, 1, 2]), label_smoothing=0.1)
        >>> respond_like(first, torch.tensor([0, 1])).n_outputs
        3
    """
    if isinstance(response, CallableResponse):
        return respond(response.function, targets, outputs=response.n_outputs, convex=response.convex, weights=weights)
    return _named(response.name, targets, response.n_outputs, weights, response.options)


def response_from_state(
    config: Mapping[str, Any], statistics: np.ndarray, loss: LossFunction | None = None
) -> AbstractResponse:
    """Rebuild a response from what `AbstractResponse.config` and `AbstractResponse.statistics` returned.

    Args:
        config: Name, output size and options.
        statistics: The matrix that σ needs.
        loss: The loss itself, for a response made from a callable.

    Returns:
        An equal response.

    Raises:
        UnknownNameError: If there is no loss of that name.
        InputError: If the statistics do not fit, or a callable loss is missing.

    Example:
        >>> first = respond("mse", torch.tensor([0.0, 2.0]))
        >>> response_from_state(first.config(), first.statistics()).floor == first.floor
        True
    """
    name = str(config.get("name"))
    known = [*LOSSES, "callable", *_BESIDE]
    if name not in known:
        raise unknown_name("loss", name, known)
    matrix = np.asarray(statistics)
    if matrix.ndim != 2 or matrix.dtype != np.float64 or matrix.size == 0 or not np.isfinite(matrix).all():
        raise InputError(
            f"the statistics of {name} must be a finite float64 matrix, got {matrix.dtype} {list(matrix.shape)}"
        )
    if name in _BESIDE:
        response: AbstractResponse = _BESIDE[name].from_state(config, matrix)
    elif name == "callable":
        response = CallableResponse.from_state(config, matrix, loss)
    else:
        response = _FAMILIES[name].from_state(config, matrix)
    if response.n_outputs != config.get("outputs"):
        raise InputError(
            f"the statistics of {name} describe {response.n_outputs} outputs, the configuration {config.get('outputs')}"
        )
    return response


def _named(name: str, targets: Any, outputs: int | None, weights: Any, options: Mapping[str, Any]) -> AbstractResponse:
    if outputs is not None and (isinstance(outputs, bool) or not isinstance(outputs, int) or outputs < 1):
        raise InputError(f"outputs must be a positive integer, got {outputs!r}")
    options = {k: as_list(v) if isinstance(v, torch.Tensor) else v for k, v in options.items()}
    default = _DEFAULTS.get(name)
    if default is not None:
        known = list(default)
        options = {**default, **options}
    else:
        parameters = inspect.signature(_BUILD[name]).parameters
        known = [k for k in parameters if k not in ("targets", "outputs", "weights")]
    for key in options:
        if key == "reduction":
            raise InputError("the response is that of the mean over samples; leave reduction out")
        if key not in known:
            raise InputError(f"{name} has no option '{key}'; known: {', '.join(known) or 'none'}")
    return _BUILD[name](targets, outputs=outputs, weights=weights, **options)


def _check_reduction(loss: object, allowed: tuple[str, ...]) -> None:
    got = getattr(loss, "reduction", "mean")
    if got not in allowed:
        raise InputError(
            f"{type(loss).__name__} has reduction='{got}', which grows with the number of samples or is no scalar; "
            "use reduction='mean'"
        )
