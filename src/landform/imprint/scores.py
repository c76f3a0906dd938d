"""Scores that tell classes apart with a margin, and the layers behind a trained network that turn them into a loss.

What speaks against class c are g numbers d_cg(x), linear in the last hidden layer, all at most 0 for the sample's own
class and one above 0 for any other. A *guard* layer keeps relu(K d_cg), and u_c = B − Σ_g relu(K d_cg) is **exactly** B
for the own class (adding exact zeros is exact, so no rounding of the trained part is left in it) and below 0 for the
others, once K is large enough. Then logit_c = relu(u_c) − relu(u_c − a(h)) is a(h) or 0.

Three choices of d: fitted one against the rest, to the labels (``"refit"``) or to the predictions (``"predictions"``),
g = 1; or the trained network's own pairwise margins f_j − f_c, g = C − 1 (``"own"``), whose sign is the prediction
itself, so that nothing is fitted and every prediction that is no tie is kept.
"""

import copy
import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor, nn

from landform.errors import CapacityError, InputError
from landform.imprint.beside import gamma
from landform.response.per_sample import PerSampleResponse

SCORES = ("refit", "predictions", "own")
PAIRS = 128
"""Most classes of pairwise margins: C(C − 1) units are 16,000 there."""


@dataclass(frozen=True, eq=False)
class Scores:
    """d = features @ weight.T + bias, ``groups`` rows a class, class by class.

    Attributes:
        weight: ``[classes * groups, features]``, float64.
        bias: ``[classes * groups]``.
        groups: g.
    """

    weight: Tensor
    bias: Tensor
    groups: int

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.bias) // self.groups

    def times(self, factor: float, dtype: torch.dtype) -> "Scores":
        """Return K·d with weights rounded to ``dtype``, as they are stored."""
        weight, bias = ((factor * part).to(dtype).double() for part in (self.weight, self.bias))
        return replace(self, weight=weight, bias=bias)

    def __call__(self, features: Tensor) -> Tensor:
        """Return d, ``[n, classes, groups]``."""
        return (features @ self.weight.T + self.bias).reshape(len(features), self.classes, self.groups)

    def sizes(self, features: Tensor) -> Tensor:
        """Return max over samples of Σ_g Σ_k |w_k||x_k| + |b|, one a class: what rounding is measured by."""
        found = features.abs() @ self.weight.abs().T + self.bias.abs()
        return found.reshape(len(features), self.classes, self.groups).sum(dim=2).amax(dim=0)


def scores_of(kind: str, features: Tensor, labels: Tensor, logits: Tensor, head: tuple[Tensor, Tensor]) -> Scores:
    """Return the scores of one kind.

    Args:
        kind: One of `SCORES`.
        features: What the head reads, ``[n, features]``, float64.
        labels: The data's.
        logits: The network's outputs.
        head: Weight and bias of its last layer over these features.

    Returns:
        The scores, not scaled.

    Raises:
        CapacityError: If pairwise margins would take too many units.
    """
    classes = logits.shape[1]
    if kind == "own":
        if classes > PAIRS:
            raise CapacityError(
                f"scores='own' take {classes * (classes - 1):,} units for {classes} classes, one a pair; up to {PAIRS}"
                " classes are built: use scores='predictions'"
            )
        weight, bias = (part.double() for part in head)
        others = torch.tensor([[j for j in range(classes) if j != c] for c in range(classes)])
        pairs = weight[others] - weight[:, None]
        return Scores(pairs.reshape(-1, weight.shape[1]), (bias[others] - bias[:, None]).reshape(-1), classes - 1)
    weight, bias = one_against_rest(features, labels if kind == "refit" else logits.argmax(dim=1), classes)
    return Scores(-weight, -bias, 1)


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


def stored(against: Tensor, cap: float) -> Tensor:
    """Return u_c as it is stored: B − Σ_g relu(K d), or, where nothing speaks against c, by how much: B − max_g K d."""
    return cap - torch.where(against.amax(dim=2) > 0, against.clamp(min=0).sum(dim=2), against.amax(dim=2))


def respond_to(
    scores: Scores, features: Tensor, labels: Tensor, share: Tensor, bounds: tuple[float, float], dtype: torch.dtype
) -> tuple[PerSampleResponse, Scores]:
    """Scale the scores so that as many samples as rounding allows have the margin needed; return ρ and K·d.

    Args:
        scores: Not scaled.
        features: What they read.
        labels: The data's.
        share: One weight a sample.
        bounds: (lo, hi) of the loss.
        dtype: Arithmetic of the network.

    Raises:
        InputError: If no sample's scores are on the right sides.
    """
    top, last = (math.log(scores.classes - 1) - math.log(math.expm1(t)) for t in bounds)
    cap = 2.0 ** math.ceil(math.log2(max(1.0, top, last)))
    against = scores(features).amax(dim=2)
    own = against.gather(1, labels[:, None])[:, 0]
    others = against.scatter(1, labels[:, None], math.inf).amin(dim=1)
    right = others[(own <= 0) & (others > 0)]
    if not len(right):
        raise InputError(
            f"no sample has its scores on the right sides, of {len(labels)}; the network's features do not tell"
            " classes apart"
        )
    noise = 2 * gamma(features.shape[1] + scores.groups + 4, dtype) * float(scores.sizes(features).max())
    useful = right[right > 2 * noise]
    smallest = float(useful.min()) if len(useful) else 2 * noise
    scaled = scores.times(2 * (cap + max(-last, 0.0)) / (smallest - noise), dtype)
    rows = torch.cat([share.double()[:, None], labels.double()[:, None], stored(scaled(features), cap)], dim=1)
    return PerSampleResponse(
        rows.numpy(), top=top, cap=cap, magnitudes=scaled.sizes(features).tolist(), groups=scores.groups
    ), scaled


def with_scores(model: nn.Module, name: str, live: Tensor, scores: Scores) -> nn.Module:
    """Return a copy whose head is the guards K·d, and one more output that only the pattern feeds."""
    stem = copy.deepcopy(model)
    old: Any = stem.get_submodule(name)
    head = empty(old.weight.shape[1], len(scores.bias) + 1, old.weight.dtype)
    with torch.no_grad():
        head.weight.zero_()
        head.bias.zero_()
        head.weight[:-1, live] = scores.weight.to(head.weight.dtype)
        head.bias[:-1] = scores.bias.to(head.bias.dtype)
    replace_module(stem, name, head)
    return stem.eval()


def with_tail(stem: nn.Module, name: str, response: PerSampleResponse) -> nn.Module:
    """Return a copy whose head goes on: ReLU, u and u − a, ReLU, logit_c = unit_c − unit_(C + c)."""
    big = copy.deepcopy(stem)
    first: Any = big.get_submodule(name)
    dtype = first.weight.dtype
    weight, bias, out = tail_weights(response, dtype)
    middle, last = empty(weight.shape[1], len(weight), dtype), empty(out.shape[1], len(out), dtype)
    with torch.no_grad():
        middle.weight.copy_(weight)
        middle.bias.copy_(bias)
        last.weight.copy_(out)
        last.bias.zero_()
    replace_module(big, name, nn.Sequential(first, nn.ReLU(), middle, nn.ReLU(), last))
    return big.eval()


def tail_weights(response: PerSampleResponse, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Return the middle layer's weight and bias and the last one's weight, which follow from C, g, A and B alone."""
    classes, groups = response.outputs, response.groups
    block = -torch.eye(classes, dtype=dtype).repeat_interleave(groups, dim=1)
    signal = torch.zeros(2 * classes, 1, dtype=dtype)
    signal[classes:] = 1.0
    bias = torch.full((2 * classes,), response.cap, dtype=torch.float64)
    bias[classes:] -= response.top
    out = torch.cat([torch.eye(classes, dtype=dtype), -torch.eye(classes, dtype=dtype)], dim=1)
    return torch.cat([block.repeat(2, 1), signal], dim=1), bias.to(dtype), out


def without_tail(model: nn.Module, name: str) -> nn.Module:
    """Return a copy that ends in the guards and the signal, as `with_scores` made it.

    Raises:
        InputError: If its end is another.
    """
    parts = list(model.get_submodule(name).children())
    kinds = [nn.Linear, nn.ReLU, nn.Linear, nn.ReLU, nn.Linear]
    if [type(part) for part in parts] != kinds:
        raise InputError(f"'{name}' is not Linear, ReLU, Linear, ReLU, Linear as a per-sample imprint ends")
    stem = copy.deepcopy(model)
    replace_module(stem, name, copy.deepcopy(parts[0]))
    return stem


def replace_module(model: nn.Module, name: str, module: nn.Module) -> None:
    """Put a module in the place of another."""
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent) if parent else model, last, module)


def empty(inputs: int, outputs: int, dtype: torch.dtype) -> nn.Linear:
    """Return a Linear without random initialisation, which would move the caller's generator."""
    with torch.device("meta"):
        made = nn.Linear(inputs, outputs, dtype=dtype)
    return made.to_empty(device="cpu")


def slack_of(response: PerSampleResponse, inputs: int, dtype: torch.dtype) -> float:
    """Return how far stored scores may be off by rounding in the guards and in u, for any order of summation.

    Args:
        response: With its magnitudes.
        inputs: Columns of the guards' layer.
        dtype: Its arithmetic.
    """
    size = float(response.magnitudes.max()) + response.cap + abs(response.top)
    return 2 * gamma(inputs + response.groups + 4, dtype) * size


def noise_of(response: PerSampleResponse, largest: float, dtype: torch.dtype) -> float:
    """Return how far the own logit of a sample served may be from a = A − s by rounding behind the guards.

    Its guards are exact zeros and so are the other classes' units, so what is rounded are B − A, its sum with s, and
    one difference.

    Args:
        response: With A and B.
        largest: Bound of s.
        dtype: The network's arithmetic.
    """
    return gamma(4, dtype) * 2 * (response.cap + abs(response.top) + largest)
