"""Metrics beside the loss: per-sample ones, which add up over samples as the loss does."""

import dataclasses
import re
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor

from landform.errors import InputError, unknown_name
from landform.losses import LOSS_NAMES, Loss, double, resolve_loss

MetricLike = str | Callable[[Any, Any], Any]
"""What a user may call a metric: a name, or a function of ``(outputs, targets)`` with one value a sample."""

NODE_METRICS = ("gradient_norm", "top_hessian_eigenvalue")
"""Metrics of a point, not of samples: computed at nodes that are evaluated in full, without an interval."""

METRIC_NAMES = ("accuracy", "error", "top5", *LOSS_NAMES, *NODE_METRICS)
"""Metrics known by name; ``top5`` stands for ``top1``, ``top2``, ….  The name of a loss is that loss as a metric."""


@dataclasses.dataclass(frozen=True, eq=False)
class Metric:
    """A metric in a form that adds up over samples.

    Attributes:
        name: What its values are called.
    """

    name: str
    _terms: Callable[[Loss, Tensor, Tensor], tuple[Tensor, Tensor]] = dataclasses.field(repr=False)

    @property
    def share(self) -> bool:
        """Whether it is a share of hits, so that each numerator lies between 0 and its denominator."""
        return isinstance(self._terms, _Top) or self._terms in (_accuracy, _error)

    def terms(
        self, loss: Loss, outputs: Tensor, targets: Tensor
    ) -> tuple[Float64[Tensor, " n"], Float64[Tensor, " n"]]:
        """Return each sample's numerator and denominator; the metric is the ratio of their sums.

        Args:
            loss: The task's loss, which says where the classes are, whether labels are shifted, and which to ignore.
            outputs: One row a sample.
            targets: As in the data set.

        Returns:
            Two float64 vectors. NaN where a sample's outputs are.

        Raises:
            InputError: Shapes that do not fit; a function that gives no value for each sample.
        """
        outputs, targets = double(outputs, targets)
        num, den = self._terms(loss, outputs, targets)
        n = len(outputs)
        return num.reshape(n, -1).sum(1).to(torch.float64), den.reshape(n, -1).sum(1).to(torch.float64)


def resolve_metrics(metrics: MetricLike | Sequence[MetricLike]) -> tuple[tuple[Metric, ...], tuple[str, ...]]:
    """Bring names and functions to metrics.

    - ``"accuracy"``: share of labels that have the largest output; on logits of ``bce_with_logits`` the share of
      outputs on the right side of 0. Of tokens, where the loss is one of tokens; ignored labels do not count; class
      weights do not enter. ``"error"`` is 1 − accuracy.
    - ``"top5"``, ``"top3"``, …: share of labels among so many largest outputs.
    - the name of a loss: that loss with its default options, e.g. ``"cross_entropy"`` beside one with label smoothing.
    - a function of ``(outputs, targets)``, in float64, that returns one value a sample.
    - ``"gradient_norm"``, ``"top_hessian_eigenvalue"``: of a point, not of samples.

    Args:
        metrics: One or several.

    Returns:
        The per-sample metrics, and the names of those of a point.

    Raises:
        UnknownNameError: Unknown name, with the nearest.
        InputError: Neither name nor function; two of one name.

    Example:
        >>> (accuracy,), at_nodes = resolve_metrics(["accuracy", "gradient_norm"])
        >>> accuracy.terms(resolve_loss("cross_entropy"), torch.eye(3), torch.tensor([0, 1, 1]))[0].tolist(), at_nodes
        ([1.0, 1.0, 0.0], ('gradient_norm',))
    """
    listed = [metrics] if isinstance(metrics, str) or callable(metrics) else list(metrics)
    found: list[Metric] = []
    at_nodes: list[str] = []
    for metric in listed:
        if isinstance(metric, str) and metric in NODE_METRICS:
            at_nodes.append(metric)
        else:
            found.append(_resolve(metric))
    names = [metric.name for metric in found] + at_nodes
    twice = sorted({name for name in names if names.count(name) > 1 or name == "loss"})
    if twice:
        raise InputError(f"metrics: the name {twice[0]!r} is taken twice; give the function another __name__")
    return tuple(found), tuple(at_nodes)


def _resolve(metric: object) -> Metric:
    if isinstance(metric, str):
        top = re.fullmatch(r"top([1-9]\d*)", metric)
        if top:
            return Metric(metric, _Top(int(top[1])))
        if metric in ("accuracy", "error"):
            return Metric(metric, _accuracy if metric == "accuracy" else _error)
        if metric in LOSS_NAMES:
            return Metric(metric, _Function(metric, resolve_loss(metric)))
        raise unknown_name("metric", metric, METRIC_NAMES)
    if isinstance(metric, type) or not callable(metric):
        raise InputError(f"metric is {metric!r}; wanted a name ({', '.join(METRIC_NAMES)}) or a function")
    loss = resolve_loss(metric)
    return Metric(loss.name, _Function(loss.name, loss))


@dataclasses.dataclass(frozen=True)
class _Function:
    name: str
    loss: Loss

    def __call__(self, _loss: Loss, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        found = self.loss.terms(outputs, targets)
        if found is None:
            raise InputError(f"metric {self.name} returned one number for {len(outputs)} samples; wanted one for each")
        return found


@dataclasses.dataclass(frozen=True)
class _Top:
    k: int

    def __call__(self, loss: Loss, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        scores, labels, counts = _classified(loss, outputs, targets, f"top{self.k}")
        if self.k > scores.shape[1]:
            raise InputError(f"top{self.k}: the model has {scores.shape[1]} outputs; wanted a smaller number")
        own = scores.gather(1, labels[:, None])
        # Of equal scores the first counts as larger, as in argmax; a rank, unlike topk, is the same on every machine.
        place = torch.arange(scores.shape[1], device=scores.device).reshape(-1, *[1] * (scores.ndim - 2))
        ahead = (scores > own) | ((scores == own) & (place < labels[:, None]))
        hit = (ahead.sum(1) < self.k).to(torch.float64)
        hit = torch.where(scores.isnan().any(1), torch.nan, hit)
        return torch.where(counts, hit, 0.0), counts.to(torch.float64)


def _accuracy(loss: Loss, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    if loss.name == "bce_with_logits":
        if outputs[0].numel() != targets[0].numel():
            raise InputError(
                f"accuracy: outputs have shape {list(outputs.shape)}, targets {list(targets.shape)}; they must agree"
            )
        targets = targets.reshape(outputs.shape)
        hit = ((outputs > 0) == (targets > 0.5)).to(torch.float64)
        return torch.where(outputs.isnan(), torch.nan, hit), torch.ones_like(hit)
    return _Top(1)(loss, outputs, targets)


def _error(loss: Loss, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    hit, counts = _accuracy(loss, outputs, targets)
    return counts - hit, counts


def _classified(loss: Loss, outputs: Tensor, targets: Tensor, who: str) -> tuple[Tensor, Tensor, Tensor]:
    """Bring scores to ``[n, classes, …]`` with labels ``[n, …]`` and say which count."""
    if loss.name == "causal_lm":
        outputs, targets = outputs[:, :-1], targets[:, 1:]
    if loss.name in ("causal_lm", "token_cross_entropy"):
        outputs = outputs.movedim(-1, 1)
    if targets.is_floating_point() and targets.shape == outputs.shape and outputs.ndim > 1:
        targets = targets.argmax(1)
    if targets.is_floating_point() or outputs.ndim < 2 or targets.shape != outputs.shape[:1] + outputs.shape[2:]:
        raise InputError(
            f"{who}: outputs have shape {list(outputs.shape)}, targets {list(targets.shape)} of {targets.dtype}; "
            "wanted outputs [n, classes] with integer labels [n]"
        )
    counts = (targets >= 0) & (targets < outputs.shape[1])
    counts &= targets != loss.options.get("ignore_index", -100)
    return outputs, torch.where(counts, targets, 0), counts
