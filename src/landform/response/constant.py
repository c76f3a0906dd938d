"""Evaluate a callable loss on constant outputs, each distinct target once where the loss allows it."""

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float64
from torch import Tensor

from landform.errors import InputError

LossFunction = Callable[[Tensor, Tensor], Tensor]
Mode = Literal["per_sample", "mapped", "single", "batch"]
"""per_sample: the loss returns [N]; mapped: a mean, by vmap; single: a mean, in a loop; batch: no mean of samples."""

_CHUNK = 2**20


def constant_loss(
    function: LossFunction, targets: Tensor, counts: Float64[Tensor, " targets"], mode: Mode
) -> Callable[[Tensor], Tensor]:
    """Return σ: [points, outputs] → [points], the loss of each constant output.

    Args:
        function: ``loss(outputs, targets)``.
        targets: Distinct targets, one a row.
        counts: Weight of each.
        mode: How the loss may be evaluated; see `find_mode`.

    Returns:
        The function σ, differentiable if the loss is.

    Example:
        >>> one = torch.ones(1, dtype=torch.float64)
        >>> sigma = constant_loss(lambda p, y: ((p - y) ** 2).mean(), one[:, None], one, "single")
        >>> sigma(torch.tensor([[3.0]], dtype=torch.float64)).tolist()
        [4.0]
    """
    share = counts / counts.sum()
    if mode == "batch":
        repeats = torch.repeat_interleave(targets, counts.to(torch.int64), dim=0)

        def batch(points: Tensor) -> Tensor:
            return torch.stack([_real(function(p.expand(len(repeats), -1), repeats)).mean() for p in points])

        return batch

    def sigma(points: Tensor) -> Tensor:
        step = max(1, _CHUNK // (len(targets) * points.shape[1]))
        parts = [points[i : i + step] for i in range(0, len(points), step)]
        return torch.cat([pairs(function, p, targets, mode) @ share for p in parts])

    return sigma


def pairs(function: LossFunction, points: Tensor, targets: Tensor, mode: Mode) -> Float64[Tensor, "points targets"]:
    """Return the loss of every constant output on every target.

    Args:
        function: ``loss(outputs, targets)``.
        points: Constant outputs, one a row.
        targets: Distinct targets, one a row.
        mode: Any mode but ``"batch"``.

    Returns:
        A matrix of losses.

    Example:
        >>> pairs(lambda p, y: (p[:, 0] - y) ** 2, torch.ones(1, 1), torch.tensor([1.0, 3.0]), "per_sample").tolist()
        [[0.0, 4.0]]
    """
    count, size = len(points), len(targets)
    if mode == "mapped":

        def one(p: Tensor, y: Tensor) -> Tensor:
            return _real(function(p[None], y[None])).mean()

        over_targets = torch.func.vmap(one, in_dims=(None, 0))
        return torch.func.vmap(over_targets, in_dims=(0, None))(points, targets)
    if mode == "single":
        losses = [_real(function(p[None], y[None])).mean() for p in points for y in targets]
        return torch.stack(losses).reshape(count, size)
    outputs = points[:, None, :].expand(count, size, -1).reshape(count * size, -1)
    labels = targets[None].expand(count, *targets.shape).reshape(count * size, *targets.shape[1:])
    return _real(function(outputs, labels)).reshape(count, size)


def find_mode(function: LossFunction, targets: Tensor, counts: Float64[Tensor, " targets"], outputs: int) -> Mode:
    """Find out how a loss may be evaluated, by comparing with the whole batch at three fixed random outputs.

    Args:
        function: ``loss(outputs, targets)``.
        targets: Distinct targets, one a row.
        counts: Weight of each.
        outputs: Output size.

    Returns:
        The cheapest mode that agrees with the whole batch to 1e-9.

    Raises:
        InputError: If the loss fails on constant outputs or is not finite there.

    Example:
        >>> find_mode(lambda p, y: ((p - y) ** 2).mean(), torch.ones(2, 1), torch.ones(2).double(), 1)
        'mapped'
    """
    points = torch.randn(3, outputs, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    whole = bool((counts == counts.round()).all()) and float(counts.sum()) < 1e7
    sample = torch.repeat_interleave(targets, counts.to(torch.int64), dim=0) if whole else targets
    try:
        losses = [_real(function(p.expand(len(sample), -1), sample)) for p in points]
    except Exception as error:
        raise InputError(
            f"the loss failed on outputs of shape {[len(sample), outputs]} (float64) and targets of shape "
            f"{list(sample.shape)} ({sample.dtype}): {error}; check outputs= and the targets' shape"
        ) from error
    if losses[0].shape not in ((), (1,), (len(sample),)):
        raise InputError(
            f"the loss returned shape {list(losses[0].shape)}; it must return a scalar mean or [{len(sample)}] losses"
        )
    want = torch.stack([x.mean() for x in losses])
    if not bool(torch.isfinite(want).all()):
        raise InputError(f"the loss is {float(want[~torch.isfinite(want)][0])} on a constant output; it must be finite")
    share = (counts if whole else torch.ones_like(counts)) / (counts.sum() if whole else len(counts))
    modes: tuple[Mode, ...] = ("per_sample",) if losses[0].shape == (len(sample),) != (1,) else ()
    for mode in (*modes, *_SINGLE):
        try:
            got = pairs(function, points, targets, mode) @ share
        except Exception:  # noqa: S112 - vmap refuses some losses; the next mode is tried
            continue
        if torch.allclose(got, want, rtol=1e-9, atol=1e-12):
            return mode
    return "batch"


_SINGLE: tuple[Mode, ...] = ("mapped", "single")


def _real(value: Tensor) -> Tensor:
    return value.to(torch.float64)
