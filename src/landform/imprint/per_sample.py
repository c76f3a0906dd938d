"""Theorem 2, per sample (the paper's form): the loss of every sample that the network tells apart is the pattern.

Two hidden layers are put before the outputs: guards, which are 0 where nothing speaks against a class, and 2C units,
logit_c = relu(u_c) − relu(u_c − a(h)), with scores u_c(x) that tell the classes apart by more than |a|. A sample's own
class then has logit a, the others 0, and its loss is log(1 + (C − 1)e^(−a)) = T(h), the same for all (Czarnecki et al.,
arXiv 1912.07559, Theorem 2). `landform.imprint.scores` has the choices of u.
"""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from landform.errors import InputError, unknown_name
from landform.imprint.beside import Trunk, head_columns
from landform.imprint.constant import Options
from landform.imprint.imprint import Imprint
from landform.imprint.offset import bounds_above, constant_loss, fit_beside, room_for, trained, write
from landform.imprint.scores import SCORES, respond_to, scores_of, slack_of, with_scores, with_tail
from landform.pattern import Pattern, SumPattern
from landform.response.per_sample import PerSampleResponse
from landform.subspace import Subspace
from landform.task import Task

LEAST = 0.05
"""Least loss that "auto" asks for: below it, a grows without bound, and scores and rounding with it."""
FEW = 0.1
"""Share of samples below which it is no longer "every sample" that follows the pattern, but chance."""


def imprint_per_sample(pattern: Pattern | SumPattern, task: Task, options: Options, units: str, scores: str) -> Imprint:
    """Compile a pattern into every sample's loss; see `landform.imprint`."""
    if scores not in SCORES:
        raise unknown_name("scores", str(scores), SCORES)
    model, network, trunk = trained(task, pattern, units)
    targets = task.data.targets
    if task.loss_form.name != "cross_entropy" or task.loss_form.options or targets.is_floating_point():
        raise InputError("method='per-sample' is built for cross-entropy on class indices without further options")
    if trunk.outputs < 2 or int(targets.max()) >= trunk.outputs:
        raise InputError(f"labels go up to {int(targets.max())}, the network has {trunk.outputs} outputs")
    dtype = next(model.parameters()).dtype
    share = torch.ones(task.data.n) if task.data.weights is None else task.data.weights
    share = share.double() / share.double().sum()
    roomy, wide = model, trunk
    need: list[int] | None = None
    channels: list[list[int]] = [[] for _ in trunk.hidden]
    repaired: dict[str, float] = {}
    while True:
        features, logits = seen(roomy, wide, task)
        live = live_columns(roomy, wide, channels)
        features, last = features[:, live], head_over(roomy, wide, live)
        found = scores_of(scores, features, targets, logits, last)
        chosen = found(features).amax(dim=2).argmin(dim=1)
        error = float(share @ (chosen != targets).double())
        bounds = range_of(error, trunk.outputs, options.range)
        if need is None:
            require_better_than_chance(logits, task, share)
        response, found = respond_to(found, features, targets, share, bounds, dtype)
        fitted = fit_beside(pattern, response, bounds, trunk, network, model, options, units, need, settled=False)
        program, direct, notes = fitted.program, fitted.direct, fitted.notes
        if need is not None and all(cost <= held for cost, held in zip(fitted.need, need, strict=True)):
            break
        need = fitted.need if need is None else [max(pair) for pair in zip(fitted.need, need, strict=True)]
        roomy, wide, channels, repaired = room_for(need, model, trunk, task, units, options.repair)
    signal = float(response.inverse(torch.tensor([bounds[1]], dtype=torch.float64))) if direct else None
    stem = with_scores(roomy, wide.head, live, found)
    ray = torch.cat([torch.zeros(len(found.bias)), torch.ones(1)]).double()
    space, spline = write(stem, wide, channels, program, ray, signal, task)
    big = with_tail(stem, wide.head, response)
    origin = {name: parameter.detach() for name, parameter in big.named_parameters()}
    served = response.served(*bounds, slack_of(response, origin[f"{wide.head}.0.weight"].shape[1], dtype))
    if float(served.double().mean()) < FEW:
        count = int(served.sum())
        raise InputError(
            f"too few samples are told apart by enough: {int(response.right().sum())} of {len(served)} have their"
            f" scores on the right sides, {count or 'none'} by the margin that this range needs; train the network"
            " better, give the data that it was trained on, or use method='offset', where only the mean follows"
        )
    kept = float((chosen == logits.argmax(dim=1)).double().mean())
    added = [len(found.bias) + 1, 2 * trunk.outputs]
    return Imprint(
        model=big,
        subspace=Subspace(origin, space.directions),
        pattern=pattern,
        task=Task(big, task.loss, task.data, name=task.name),
        responses=(response,),
        range=bounds,
        spline_stage=spline,
        meta={
            "method": "per-sample",
            "units_from": units,
            "scores": scores,
            "tail": wide.head,
            "channels": [list(part) for part in channels],
            "form": program.form,
            "schedule": program.schedule,
            "units": list(program.widths),
            "basis": program.basis,
            "nonzeros": program.nonzeros,
            "direct": direct,
            "widths": [layer.width for layer in wide.hidden] + added,
            "injected": next(iter(space.moved)),
            "sample": list(task.data.inputs.shape[1:]),
            "heads": [None],
            "served": float(served.double().mean()),
            "error": error,
            "accuracy_given": float((logits.argmax(dim=1) == targets).double().mean()),
            "accuracy": 1 - error,
            "predictions_kept": kept,
            **repaired,
            "notes": [
                *notes,
                (
                    f"{int(served.sum())} of {len(served)} samples are served; scores '{scores}' have accuracy"
                    f" {1 - error:.4f} and agree with the network on {kept:.4f} of the samples; two layers of"
                    f" {added[0]} and {added[1]} units are added before the outputs"
                ),
            ],
        },
    )


def range_of(error: float, classes: int, wanted: tuple[float, float] | str) -> tuple[float, float]:
    """Return (lo, hi): lo ≥ t* = −log(1 − e), where the mean loss is least, and hi below log C.

    Raises:
        InputError: If nothing is left between, or the range wanted reaches below 0.
    """
    least = -math.log1p(-error) if error < 1 else math.inf
    if wanted == "auto":
        lo = max(least, LEAST)
        hi = min(lo + 1.0, 0.9 * math.log(classes))
        if not lo < hi:
            raise InputError(
                f"the scores are wrong on {100 * error:.1f} % of the samples, so the mean loss falls until T = {lo:.3g}"
                f" and log C is {math.log(classes):.3g}: labels are too noisy, or the network is not trained"
            )
        return lo, hi
    if isinstance(wanted, (tuple, list)) and len(wanted) == 2 and not float(wanted[0]) > 0:
        raise InputError(f"a sample's loss is above 0, got a range from {wanted[0]}; start above {LEAST} for rounding")
    table = np.concatenate([np.ones((1, 2)), np.zeros((1, classes))], axis=1)
    lowest = PerSampleResponse(table, top=700.0, cap=700.0, magnitudes=[1.0] * classes)
    return bounds_above(lowest, wanted)


def require_better_than_chance(logits: Tensor, task: Task, share: Tensor) -> None:
    """Refuse a network that knows nothing of these data, though scores fitted to their labels might serve some of them.

    A network that learnt them has a loss below that of a constant output or, where it is too sure of what it gets
    wrong, more right than the most frequent class by three standard errors.

    Raises:
        InputError: With both losses and both accuracies.
    """
    targets = task.data.targets
    losses = nn.functional.cross_entropy(logits, targets, reduction="none")
    loss, constant = float(share @ losses), constant_loss(task, "cross_entropy")
    right = float(share @ (logits.argmax(dim=1) == targets).double())
    chance = float(torch.zeros(logits.shape[1]).double().index_add(0, targets, share).max())
    if not loss < constant and not right > chance + 3 * math.sqrt(chance * (1 - chance) / len(targets)):
        raise InputError(
            f"the network's loss on these data is {loss:.4g}, and a constant output has {constant:.4g}; it gets"
            f" {100 * right:.1f} % right, and its most frequent class is {100 * chance:.1f} %: it is not trained, or"
            " not on these data. Train it first, or use method='constant'"
        )


def seen(model: nn.Module, trunk: Trunk, task: Task) -> tuple[Tensor, Tensor]:
    """Return what the head reads and the outputs, for all data, in float64."""
    features: list[Tensor] = []
    hook = model.get_submodule(trunk.head).register_forward_pre_hook(
        lambda _module, inputs: features.append(inputs[0].detach().double())
    )
    try:
        with torch.no_grad():
            outputs = [model(task.data.inputs[i : i + 1024]) for i in range(0, task.data.n, 1024)]
    finally:
        hook.remove()
    logits = torch.cat(outputs).double()
    if not bool(torch.isfinite(logits).all()):
        raise InputError("the network's outputs on these data are not finite")
    return torch.cat(features), logits


def live_columns(model: nn.Module, trunk: Trunk, channels: list[list[int]]) -> Tensor:
    """Return the columns of the head that the pattern does not use."""
    head: Any = model.get_submodule(trunk.head)
    keep = torch.ones(head.weight.shape[1], dtype=torch.bool)
    keep[head_columns(model, trunk, channels)] = False
    return keep.nonzero()[:, 0]


def head_over(model: nn.Module, trunk: Trunk, live: Tensor) -> tuple[Tensor, Tensor]:
    """Return weight and bias of the network's own head over some columns."""
    head: Any = model.get_submodule(trunk.head)
    return head.weight.detach()[:, live], head.bias.detach()
