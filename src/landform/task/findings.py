"""What a task does that would make its surface another one in every pass: found by a probe, named, and refused."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from landform.randomness import seed_all
from landform.task.normalisation import batch_norms

if TYPE_CHECKING:
    from landform.task.task import Task

SAMPLES = 8
"""Samples that the probe passes through the model."""
ROUNDING = 16
"""Units of rounding, relative to the largest loss, up to which two passes count as equal: kernels of attention and of
convolutions add in another order when memory lies elsewhere, which no model can help."""
COUPLED = 1e-3
"""Change of a loss, relative to the largest, from which a sample is said to depend on its batch; far above rounding."""
COUPLED_HALF = 0.1
"""The same where the arithmetic is of half precision."""


@dataclass(frozen=True)
class Finding:
    """One thing that a probe found.

    Attributes:
        name: What ``allow=`` calls it: ``"dropout"``, ``"random"``, ``"batch_norm"`` or ``"coupled"``.
        text: What was found, and what to do.
    """

    name: str
    text: str


def probe(task: "Task") -> tuple[Finding, ...]:
    """Pass a few samples through a task several times, and compare.

    Two passes differ if they do by more than `ROUNDING`.

    - ``"dropout"``: two passes differ, and dropout is active in evaluation mode, as with ``F.dropout(x)``, whose
      ``training`` is True by default.
    - ``"random"``: two passes differ for another reason.
    - ``"batch_norm"``: a BatchNorm layer without running statistics (or called functionally with ``training=True``)
      normalises by the batch in evaluation mode.
    - ``"coupled"``: the loss of a sample depends on the others in its batch for another reason.

    Args:
        task: The task, with data.

    Returns:
        Findings; none for most models.

    Cost:
        Six passes over 8 samples, and one over the data where statistics are recalibrated.
    """
    batch = task.batch(slice(0, min(SAMPLES, task.n)))
    found: list[Finding] = []
    with task.mode():
        ready = task.prepare(None)  # recalibration normalises by the batch, which is not what is looked for
        _values(task, ready, batch, 0)  # and whether losses are separable is found by a pass that recalibrates, too
        with _Recorder() as recorder:
            first = _values(task, ready, batch, 0)
        others = [_values(task, ready, batch, seed) for seed in (0, 1, 2)]
        change = max(_change(first, other) for other in others)
        rounding = _rounding(task)
        if change > rounding:
            found.append(_randomness(recorder.dropouts, change, _change(first, others[0]) > rounding))
        if task.settings.batch_norm == "batch":
            return tuple(found)
        layers = [layer for layer in batch_norms(task.model) if layer.running_mean is None]
        if layers or recorder.batch_norm:
            what = f"{type(layers[0]).__name__} without running statistics" if layers else "F.batch_norm(training=True)"
            found.append(
                Finding(
                    "batch_norm",
                    f"{what} normalises by the batch in evaluation mode, so a sample has no loss of its own; pass "
                    "batch_norm='batch' if that is meant, or give the layer track_running_stats=True",
                )
            )
        elif not found and not task.settings.noisy and batch.size > 1 and task.separable:
            half = task.batch(slice(0, batch.size // 2))
            alone = _values(task, ready, half, 0)
            change = _change(first[:, : half.size], alone)
            loose = task.settings.autocast is not None or task.settings.dtype in (torch.float16, torch.bfloat16)
            if change > (COUPLED_HALF if loose else COUPLED):
                found.append(_coupling(half.size, change))
    return tuple(found)


def _values(task: "Task", ready: Mapping[str, Tensor] | None, batch: Any, seed: int) -> Tensor:
    """Compute the losses of samples, or what there is of them, with the random state at a seed."""
    separable = task.separable  # found by a pass that may draw
    seed_all(seed)
    if separable:
        return task.terms_at(ready, batch)[0]
    if task.step is not None:
        return torch.stack([value.reshape(-1)[:1] for value in task.stepped(ready, batch).values()])
    outputs = task.run(ready, batch)
    return torch.cat(
        [head.reshape(batch.size, -1).T.double().cpu() for head in task.split_heads(outputs, batch).values()]
    )


def _change(a: Tensor, b: Tensor) -> float:
    """Return the largest difference relative to the largest value; what is not finite counts where it moves."""
    if not torch.equal(a.isfinite(), b.isfinite()):
        return 1.0
    kept = a.isfinite()
    if not bool(kept.any()):
        return 0.0
    scale = float(torch.cat([a[kept].abs(), b[kept].abs()]).max())
    return float((a[kept] - b[kept]).abs().max()) / scale if scale > 0 else 0.0


def _rounding(task: "Task") -> float:
    """Return the change that rounding explains, in the coarsest arithmetic that the task computes in."""
    settings = task.settings
    kinds = {kind for kind in (settings.autocast, settings.dtype) if kind is not None}
    if isinstance(task.model, torch.nn.Module) and not kinds:
        kinds = {value.dtype for value in task.model.parameters() if value.dtype == torch.float64}
    return ROUNDING * max((torch.finfo(kind).eps for kind in kinds), default=torch.finfo(torch.float32).eps)


def _coupling(n: int, change: float) -> Finding:
    return Finding(
        "coupled",
        f"the losses of {n} samples change by {change:.1g} of the largest when others are in their batch, so a sample "
        "has no loss of its own; pass allow='coupled' to measure with batches as they are, all samples at every point",
    )


def _randomness(dropouts: list[str], change: float, same_seed: bool) -> Finding:
    if dropouts:
        return Finding(
            "dropout",
            f"{dropouts[0]} is active in evaluation mode, two passes differ by {change:.1g} of the largest loss; "
            "let it heed self.training, or pass allow='dropout' to measure with draws that are the same at every point",
        )
    why = "even with the same random state" if same_seed else "by a random draw"
    return Finding(
        "random",
        f"two passes over the same samples differ by {change:.1g} of the largest loss, {why}; make the model "
        "deterministic in evaluation mode, or pass allow='random' to measure with the same draws at every point",
    )


class _Recorder(TorchFunctionMode):
    """Notes calls of dropout and of BatchNorm that are in training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.dropouts: list[str] = []
        self.batch_norm = False

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        named = kwargs or {}
        name = str(getattr(func, "__name__", ""))
        if name.endswith(("dropout", "dropout1d", "dropout2d", "dropout3d")):
            given = dict(zip(("input", "p", "training"), args, strict=False)) | named
            if given.get("training", given.get("train", True)) and given.get("p", 0.5):
                self.dropouts.append(f"{name}(p={given.get('p', 0.5)})")
        elif name == "scaled_dot_product_attention":
            rate = named.get("dropout_p", args[4] if len(args) > 4 else 0.0)
            if rate:
                self.dropouts.append(f"{name}(dropout_p={rate})")
        elif name == "batch_norm":
            given = dict(zip(("input", "mean", "var", "weight", "bias", "training"), args, strict=False)) | named
            self.batch_norm |= bool(given.get("training", False))
        return func(*args, **named)
