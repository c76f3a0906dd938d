"""Theorem 2, per sample (the paper's form): the loss of every sample that the network tells apart is the pattern.

One hidden layer of 2C units is put before the outputs: logit_c = relu(u_c) − relu(u_c − a(h)), with scores u_c(x) that
tell the classes apart by more than |a|. A sample's own class then has logit a, the others 0, and its loss is
log(1 + (C − 1)e^(−a)) = T(h), the same for all (Czarnecki et al., arXiv 1912.07559, Theorem 2).
The scores are linear in the last hidden layer, one against the rest: fitted to the labels (``scores="refit"``, which
serves most), or to the network's own predictions (``"predictions"``, which keeps them where it serves).
"""

import copy
import math
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor, nn

from landform.errors import InputError, unknown_name
from landform.imprint.beside import Trunk, columns, gamma
from landform.imprint.constant import Options
from landform.imprint.imprint import Imprint
from landform.imprint.offset import bounds_above, fit, trained, write
from landform.imprint.reserve import reserve
from landform.imprint.widen import widen_trunk
from landform.pattern import Pattern, SumPattern
from landform.response.per_sample import PerSampleResponse
from landform.subspace import Subspace
from landform.task import Task

SCORES = ("refit", "predictions")
LEAST = 0.05
"""Least loss that "auto" asks for: below it, a grows without bound, and scores and rounding with it."""
REACH = {torch.float32: 1e3, torch.float64: 1e8}
"""Largest score: scores are differences of rounded numbers of that size."""


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
    roomy, wide, need = model, trunk, None
    channels: list[list[int]] = [[] for _ in trunk.hidden]
    while True:
        features, logits = seen(roomy, wide, task)
        live = live_columns(roomy, wide, channels)
        goal = targets if scores == "refit" else logits.argmax(dim=1)
        weight, bias = one_against_rest(features[:, live], goal, trunk.outputs)
        raw = features[:, live] @ weight.T + bias
        error = float((raw.argmax(dim=1) != targets).double().mean())
        bounds = range_of(error, trunk.outputs, options.range)
        response, factor = scaled(raw, weight, bias, features[:, live], task, bounds)
        program, direct, notes = fit(pattern, response, bounds, network, model, options)
        costs = program.costs(network.per_hinge)
        if need is not None and all(cost <= held for cost, held in zip(costs, need, strict=True)):
            break
        need = list(costs) if need is None else [max(pair) for pair in zip(costs, need, strict=True)]
        if units == "widen":
            roomy, wide, channels = widen_trunk(model, trunk, need)
        else:
            (roomy, channels), wide = reserve(model, trunk, need, task), trunk
    signal = float(response.inverse(torch.tensor([bounds[1]], dtype=torch.float64))) if direct else None
    stem = with_scores(roomy, wide, live, factor * weight, factor * bias, response.top)
    ray = torch.cat([torch.zeros(trunk.outputs), torch.ones(trunk.outputs)]).double()
    space, spline = write(stem, wide, channels, program, ray, signal, task)
    big = with_tail(stem, wide.head, trunk.outputs)
    origin = {name: parameter.detach() for name, parameter in big.named_parameters()}
    served = response.served(*bounds, slack_of(response, big, wide))
    if not bool(served.any()):
        raise InputError(
            f"no sample is told apart by enough: {int((response.margins() > 0).sum())} of {len(served)} have their"
            " scores on the right sides, none by the margin that this range needs; train the network better"
        )
    predictions = response.scores.argmax(dim=1)
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
            "widths": [layer.width for layer in wide.hidden] + [2 * trunk.outputs],
            "injected": next(iter(space.moved)),
            "sample": list(task.data.inputs.shape[1:]),
            "heads": [None],
            "served": float(served.double().mean()),
            "error": error,
            "accuracy_given": float((logits.argmax(dim=1) == targets).double().mean()),
            "accuracy": 1 - error,
            "predictions_kept": float((predictions == logits.argmax(dim=1)).double().mean()),
            "notes": [
                *notes,
                (
                    f"{int(served.sum())} of {len(served)} samples are served; scores '{scores}' have accuracy"
                    f" {1 - error:.4f} and agree with the network on"
                    f" {float((predictions == logits.argmax(dim=1)).double().mean()):.4f} of the samples"
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
    table = np.concatenate([np.ones((1, 2)), np.zeros((1, classes))], axis=1)
    lowest = PerSampleResponse(table, top=700.0, magnitudes=[1.0] * classes)
    lo, hi = bounds_above(lowest, wanted)
    if lo <= 0:
        raise InputError(f"a sample's loss is above 0, got a range from {lo}")
    return lo, hi


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
    return torch.cat(features), torch.cat(outputs).double()


def live_columns(model: nn.Module, trunk: Trunk, channels: list[list[int]]) -> Tensor:
    """Return the columns of the head that the pattern does not use."""
    head: Any = model.get_submodule(trunk.head)
    keep = torch.ones(head.weight.shape[1], dtype=torch.bool)
    keep[columns(head, channels[-1], trunk.hidden[-1].width)] = False
    return keep.nonzero()[:, 0]


def one_against_rest(features: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Fit linear scores, positive for a sample's class and negative for the others, by a squared hinge (L-BFGS).

    Deterministic; the features are standardised for it, and a ridge of 1e-6 makes the minimum unique.
    """
    mean, spread = features.mean(dim=0), features.std(dim=0) + 1e-3
    x = ((features - mean) / spread).numpy()
    sign = 2 * torch.nn.functional.one_hot(labels, classes).double().numpy() - 1

    def value(flat: np.ndarray) -> tuple[float, np.ndarray]:
        w = flat.reshape(x.shape[1] + 1, classes)
        short = np.maximum(1 - sign * (x @ w[:-1] + w[-1]), 0.0)
        pull = -2 * sign * short / len(x)
        gradient = np.concatenate([x.T @ pull + 2e-6 * w[:-1], pull.sum(axis=0)[None]])
        return float((short**2).sum() / len(x) + 1e-6 * (w[:-1] ** 2).sum()), gradient.reshape(-1)

    start = np.zeros((x.shape[1] + 1) * classes)
    found = minimize(value, start, jac=True, method="L-BFGS-B", options={"maxiter": 400, "maxcor": 20}).x
    w = torch.from_numpy(found.reshape(x.shape[1] + 1, classes))
    weight = (w[:-1] / spread[:, None]).T
    return weight, w[-1] - weight @ mean


def scaled(
    raw: Tensor, weight: Tensor, bias: Tensor, features: Tensor, task: Task, bounds: tuple[float, float]
) -> tuple[PerSampleResponse, float]:
    """Scale the scores so that as many samples as rounding allows exceed what the range needs; build the response."""
    n, classes = raw.shape
    dtype = task.data.inputs.dtype if task.data.inputs.is_floating_point() else torch.float32
    share = torch.ones(n, dtype=torch.float64) if task.data.weights is None else task.data.weights.double()
    rows = torch.cat([share[:, None], task.data.targets.double()[:, None], raw], dim=1)
    size = features.abs() @ weight.abs().T + bias.abs()
    largest = size.amax(dim=0)
    top = math.log(classes - 1) - math.log(math.expm1(bounds[0]))
    plain = PerSampleResponse(rows.numpy(), top=top, magnitudes=largest.tolist())
    a = plain.logit(torch.tensor(bounds, dtype=torch.float64)).abs().max()
    margins = plain.margins()
    positive = margins[margins > 0]
    if not len(positive):
        raise InputError(
            "no sample has its scores on the right sides; the network's features do not tell classes apart"
        )
    reach = REACH[dtype] / float(largest.max())
    factor = min(1.01 * float(a) / float(positive.min()), max(reach, 4 * float(a) / float(positive.max())))
    rows[:, 2:] *= factor
    return PerSampleResponse(rows.numpy(), top=top, magnitudes=(factor * largest).tolist()), factor


def with_scores(model: nn.Module, trunk: Trunk, live: Tensor, weight: Tensor, bias: Tensor, top: float) -> nn.Module:
    """Return a copy whose head is the 2C pre-activations u and u − A."""
    stem = copy.deepcopy(model)
    old: Any = stem.get_submodule(trunk.head)
    classes = len(bias)
    head = _empty(old.weight.shape[1], 2 * classes, old.weight.dtype)
    with torch.no_grad():
        head.weight.zero_()
        head.weight[:, live] = torch.cat([weight, weight]).to(head.weight.dtype)
        head.bias.copy_(torch.cat([bias, bias - top]))
    replace_module(stem, trunk.head, head)
    return stem.eval()


def with_tail(stem: nn.Module, name: str, classes: int) -> nn.Module:
    """Return a copy whose head goes on: ReLU, then logit_c = unit_c − unit_(C + c)."""
    big = copy.deepcopy(stem)
    first: Any = big.get_submodule(name)
    last = _empty(2 * classes, classes, first.weight.dtype)
    with torch.no_grad():
        last.weight.copy_(torch.cat([torch.eye(classes), -torch.eye(classes)], dim=1))
        last.bias.zero_()
    replace_module(big, name, nn.Sequential(first, nn.ReLU(), last))
    return big.eval()


def without_tail(model: nn.Module, name: str) -> nn.Module:
    """Return a copy that ends in the 2C pre-activations, as `with_scores` made it.

    Raises:
        InputError: If its end is another.
    """
    tail = model.get_submodule(name)
    parts = list(tail.children())
    if len(parts) != 3 or not (isinstance(parts[0], nn.Linear) and isinstance(parts[1], nn.ReLU)):
        raise InputError(f"'{name}' is not Linear, ReLU, Linear as a per-sample imprint ends")
    stem = copy.deepcopy(model)
    replace_module(stem, name, copy.deepcopy(parts[0]))
    return stem


def replace_module(model: nn.Module, name: str, module: nn.Module) -> None:
    """Put a module in the place of another."""
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent) if parent else model, last, module)


def _empty(inputs: int, outputs: int, dtype: torch.dtype) -> nn.Linear:
    """Return a Linear without random initialisation, which would move the caller's generator."""
    with torch.device("meta"):
        made = nn.Linear(inputs, outputs, dtype=dtype)
    return made.to_empty(device="cpu")


def slack_of(response: PerSampleResponse, model: nn.Module, trunk: Trunk) -> float:
    """Return how far scores may be off by rounding, for any order of summation."""
    first: Any = next(model.get_submodule(trunk.head).children())
    weight = first.weight
    return gamma(weight.shape[1] + 2, weight.dtype) * 2 * (float(response.magnitudes.max()) + abs(response.top))
