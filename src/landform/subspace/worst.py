"""`worst_direction`: the direction in which the loss is largest at a given distance, beside random ones."""

import math
from collections.abc import Mapping
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from landform.errors import InputError, unknown_name
from landform.subspace.filters import Filters
from landform.subspace.objective import Objective
from landform.subspace.random import random_plane
from landform.subspace.scaling import blocks_of, lengths_in
from landform.subspace.seeded import direction_dtype
from landform.subspace.select import Patterns, module_of, select
from landform.subspace.subspace import Subspace
from landform.task import Task

Ball = Literal["filter", "layer", "model"]
"""What a ball can be made of: one for each filter, each parameter tensor, or all that moves together."""

_GAIN = 1e-4
"""Least relative gain of a step; below it the search has arrived."""
_HALVINGS = 6


def worst_direction(
    task: Task,
    *,
    radius: float = 0.1,
    norm: Ball = "filter",
    steps: int = 30,
    starts: int = 2,
    beside: int = 8,
    samples: int | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    include: Patterns | None = None,
    exclude: Patterns | None = None,
    biases: bool = False,
    adapters: bool = False,
) -> Subspace:
    """Return the line along which the loss is largest at a distance, as far as a search finds it.

    It maximises L(θ + r·d) over all d with ‖d_b‖ = ‖θ_b‖ in every block b: what `random_plane` draws from, so that h
    means the same on both, and the two can be compared. Each step goes towards the direction that is best for the
    gradient there, d_b = ‖θ_b‖·g_b/‖g_b‖, all the way or, if the loss does not rise, half of it, a quarter, …. Where L
    is convex every full step rises; on a quadratic with one block this is power iteration, and finds the eigenvector.

    The value found is a lower bound of the maximum: the search is local.

    Args:
        task: A task with data. The loss is the one it measures, in evaluation mode.
        radius: r, in lengths of the weights: 0.1 moves each filter by a tenth of its length.
        norm: The blocks: ``"filter"`` as for random directions, ``"layer"`` or ``"model"``.
        steps: Most steps from each start.
        starts: The gradient, and ``starts − 1`` random directions more; the best end counts.
        beside: How many random directions to measure at ±r beside it.
        samples: Take the loss over so many samples, drawn from ``seed``; all by default.
        seed: Seed of that draw, of the starts and of the random directions.
        batch_size: Samples a pass; the task's choice by default.
        include: Patterns over parameter names; None for all.
        exclude: Patterns of what to leave out.
        biases: Also biases and parameters of normalisation layers; off by default, as for random directions.
        adapters: Adapters alone, see `landform.subspace.select.select`.

    Returns:
        The line; ``ranges`` are ±2r. ``meta`` has ``loss`` at h = 0, ``worst`` at h = r, and ``random``, the losses of
        the random directions at r and −r, over the samples that were used. `landform.combine` puts it beside a random
        direction in a plane.

    Raises:
        InputError: A radius that is not positive, weights that are all zero, or a loss that is not finite at the model.
        UnknownNameError: A pattern that matches nothing, or an unknown ``norm``.

    Cost:
        About ``starts · steps`` forward and backward passes, a third more for steps that are shortened, and
        ``2 · beside`` forward passes; memory for five copies of what moves.

    References:
        Steps: Journée, Nesterov, Richtárik, Sepulchre, "Generalized power method", arXiv 0811.4724. Worst-case beside
        random perturbations: Foret, Kleiner, Mobahi, Neyshabur, arXiv 2010.01412, and Wu, Xia, Wang, arXiv 2004.05884,
        whose balls are also made of layers or filters.

    Example:
        >>> model = nn.Linear(2, 1, bias=False)
        >>> _ = model.weight.data.copy_(torch.tensor([[1.0, 0.0]]))
        >>> x = torch.tensor([[3.0, 0.0], [0.0, 1.0]])
        >>> line = worst_direction(Task(model, "mse", (x, x[:, :1])), radius=0.5)  # L = 9/2 (w₁ − 1)² + w₂²/2
        >>> [round(abs(v), 2) for v in line.directions[0]["weight"][0].tolist()], round(line.meta["worst"], 3)
        ([1.0, 0.0], 1.125)
    """
    if not (isinstance(radius, int | float) and math.isfinite(radius) and radius > 0):
        raise InputError(f"radius is {radius!r}; wanted a number above 0")
    if norm not in get_args(Ball):
        raise unknown_name("norm", str(norm), get_args(Ball))
    if starts < 1 or steps < 1 or beside < 0:
        raise InputError(f"starts={starts}, steps={steps}, beside={beside}; wanted at least 1, 1 and 0")
    model = module_of(task)
    names = select(model, include=include, exclude=exclude, biases=biases, adapters=adapters)
    objective = Objective(task, samples=samples, seed=seed, batch_size=batch_size)
    origin = {name: value.detach().clone() for name, value in model.named_parameters()}
    draws = [
        random_plane(model, z=1, seed=seed + k, norm=norm, include=names, biases=True).directions[0]
        for k in range(max(beside, starts - 1))
    ]
    with objective.active():
        base = {name: value.detach() for name, value in objective.start(names).items()}
        ball = _Ball(model, base, norm)
        search = _Search(objective, base, ball, float(radius))
        loss, gradient = search.gradient({name: torch.zeros_like(value) for name, value in base.items()})
        if not math.isfinite(loss):
            raise InputError(f"the loss is {loss} at the model itself, so no direction is worse")
        ends = [search.climb(start, steps) for start in [ball.towards(gradient), *draws[: starts - 1]]]
        best, worst = max(ends, key=lambda end: end[1])
        random = [[search.value(draw), search.value({n: -v for n, v in draw.items()})] for draw in draws[:beside]]
    direction = {name: value.to(direction_dtype(origin[name])) for name, value in best.items() if bool(value.any())}
    meta = {
        "kind": "worst",
        "norm": norm,
        "radius": float(radius),
        "seed": seed,
        "samples": objective.n,
        "loss": loss,
        "worst": worst,
        "random": random,
        "gradients": search.count,
    }
    return Subspace(origin, (direction,), meta, ((-2.0 * radius, 2.0 * radius),))


class _Ball:
    """Directions that are as long as the weights, block by block."""

    def __init__(self, model: nn.Module, base: Mapping[str, Tensor], norm: str) -> None:
        self._norm = norm
        self._cuts: dict[str, Filters] = blocks_of(model) if norm == "filter" else {}
        self._base = base
        if not any(bool(value.any()) for value in base.values()):
            raise InputError(
                f"all that moves is zero, and norm='{norm}' makes a ball of its length; move other weights"
            )

    def towards(self, vector: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the direction that has the largest product with a vector; zero in blocks where the vector is."""
        if self._norm == "model":
            want, have = (
                float(torch.stack([value.double().square().sum() for value in side.values()]).sum().sqrt())
                for side in (self._base, vector)
            )
            return {name: value * (want / have if have > 0 else 0.0) for name, value in vector.items()}
        made = {}
        for name, value in vector.items():
            cut = self._cuts.get(name)
            rows = value.reshape(1, -1) if cut is None else cut.rows(value)
            factor = lengths_in(self._base[name], cut) / lengths_in(value, cut)
            rows = rows * torch.where(factor.isfinite(), factor, 0.0).to(rows)
            made[name] = rows.reshape(value.shape) if cut is None else cut.weight(rows)
        return made


class _Search:
    def __init__(self, objective: Objective, base: Mapping[str, Tensor], ball: _Ball, radius: float) -> None:
        self._objective, self._base, self._ball, self._radius = objective, base, ball, radius
        self.count = 0

    def _at(self, direction: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {
            name: value + self._radius * direction[name].to(value) if name in direction else value.clone()
            for name, value in self._base.items()
        }

    def value(self, direction: Mapping[str, Tensor]) -> float:
        return self._objective.value(self._at(direction))

    def gradient(self, direction: Mapping[str, Tensor]) -> tuple[float, dict[str, Tensor]]:
        self.count += 1
        return self._objective.gradient({name: v.requires_grad_() for name, v in self._at(direction).items()})

    def climb(self, start: Mapping[str, Tensor], steps: int) -> tuple[dict[str, Tensor], float]:
        """Go up from a start; a step that would lead to values that are not finite is not taken."""
        here = {name: start[name].to(v) if name in start else torch.zeros_like(v) for name, v in self._base.items()}
        height = self.value(here)
        for _ in range(steps):
            try:
                _, gradient = self.gradient(here)
            except InputError:  # not finite: as bad as it gets
                break
            goal = self._ball.towards(gradient)
            share, better = 1.0, False
            for _ in range(_HALVINGS):
                mixed = {name: (1 - share) * here[name] + share * goal[name] for name in here}
                there = self._ball.towards(mixed)
                value = self.value(there)
                better = math.isfinite(value) and value > height
                if better:
                    break
                share /= 2
            if not better:
                break
            gain, here, height = value - height, there, value
            if gain <= _GAIN * abs(height):
                break
        return here, height
