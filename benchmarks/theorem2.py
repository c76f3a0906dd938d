"""Theorem 2: how exact, what widening costs, what reserving costs, on an MLP trained on the digits.

A sample's error has three parts: the response curve ψ, whose gap more knots make as small as asked for; the pattern
register and everything behind it, in the network's arithmetic; the trained part, which guards keep out. The first is
known at every h, ρ(ψ(T(h))) − T(h), so that what is measured can be split.
"""

import itertools
import time
from typing import Any

import torch
from torch import nn

import landform as lf
from benchmarks.report import Table
from landform.imprint.beside import trunk_of
from landform.imprint.lower.network import read
from landform.imprint.repair import repair as repaired
from landform.imprint.repair import reserved
from landform.imprint.scores import SCORES
from landform.response import fit_spline

CASES: dict[str, dict[str, Any]] = {
    "tiny": {"cells": (4,), "epsilons": (1e-4,), "shares": (0.1,), "steps": 60, "width": 24, "points": 2, "repair": 5},
    "quick": {"cells": (4,), "epsilons": (1e-5,), "shares": (0.1,), "steps": 60, "width": 32, "points": 4, "repair": 5},
    "full": {
        "cells": (8, 16, 32),
        "epsilons": (1e-4, 1e-6),
        "shares": (0.05, 0.1, 0.2, 0.4),
        "steps": 300,
        "width": 64,
        "points": 16,
        "repair": 200,
    },
}
DEPTH = 5


def trained(dtype: torch.dtype, width: int, steps: int) -> tuple[lf.Task, tuple[torch.Tensor, torch.Tensor]]:
    """Train an MLP of five hidden layers on the first 1,200 digits; return its task and the other digits."""
    digits = lf.load_data("digits", split="all")
    x, y = digits.inputs.reshape(-1, 64).to(dtype), digits.targets
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential()
        for inputs in (64, *[width] * (DEPTH - 1)):
            model.extend([nn.Linear(inputs, width), nn.ReLU()])
        model.append(nn.Linear(width, 10))
        model = model.to(dtype)
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
        for _ in range(steps):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[:1200]), y[:1200]).backward()
            optimizer.step()
    return lf.Task(model.eval(), data=(x[:1200], y[:1200])), (x[1200:], y[1200:])


def exactness(cells: tuple[int, ...], epsilons: tuple[float, ...], width: int, steps: int, points: int) -> Table:
    """Offset and per-sample: certified against measured, in parts; parameters and time of a pass."""
    rows = []
    for dtype in (torch.float32, torch.float64):
        task, test = trained(dtype, width, steps)
        before = sum(p.numel() for p in task.model.parameters())  # type: ignore[union-attr]
        for n, epsilon, method in itertools.product(cells, epsilons, ("offset", "per-sample")):
            pattern = lf.Pattern.from_formula("sphere", resolution=n)
            begin = time.perf_counter()
            made = lf.imprint(pattern, task, method=method, scores="own", epsilon=epsilon)
            seconds = time.perf_counter() - begin
            h = torch.rand(points, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
            proof = made.certificate
            assert proof is not None
            curve, beyond = parts(made, epsilon, h)
            row = {
                "dtype": str(dtype).removeprefix("torch."),
                "method": method,
                "n": n,
                "ε": epsilon,
                "certified": proof.bound,
                "ψ certified": proof.curve,
                "beyond ψ certified": proof.register + proof.rounding,
                "ψ measured": curve,
                "beyond ψ measured": beyond,
                "served": lf.account(made, points=h[:4]).served if method == "per-sample" else "",
                "served (test)": lf.account(made, test, points=h[:4]).served if method == "per-sample" else "",
                "parameters ×": made.parameters / before,
                "pass ×": _slower(made.model, task),
                "seconds": seconds,
            }
            rows.append(row)
    notes = (
        f"sphere, range of 1 nat, five hidden layers of {width}, 1,200 digits, scores='own'; {points} random points",
        "offset: of the mean loss; per-sample: the largest over samples served; beyond ψ: register, logits, rounding",
    )
    return Table("Theorem 2: exactness and the cost of widening", rows, notes)


def parts(made: lf.Imprint, epsilon: float, h: torch.Tensor) -> tuple[float, float]:
    """Return the largest error that ψ has at some points, and the largest of what a loss is off beyond that."""
    lo, hi = made.range
    stored = h.to(next(iter(made.subspace.origin.values())).dtype).double()
    tau = made.pattern(stored).reshape(-1)
    wanted = made.response.loss(fit_spline(made.response, lo, hi, epsilon=epsilon)(tau)[:, None])
    found = lf.account(made, points=stored)
    off = []
    served = found.worst <= found.tolerance
    for number, point in enumerate(stored):
        parameters = made.subspace.at(point)
        with torch.no_grad():
            outputs = torch.func.functional_call(made.model, parameters, (made.task.data.inputs,))  # type: ignore[union-attr]
        losses = nn.functional.cross_entropy(outputs.double(), made.task.data.targets, reduction="none")  # type: ignore[union-attr]
        if made.meta["method"] == "offset":
            off.append(float((losses.mean() - wanted[number]).abs()))
        else:
            off.append(float((losses[served] - wanted[number]).abs().max()))
    return float((wanted - (lo + (hi - lo) * tau)).abs().max()), max(off)


def scores(width: int, steps: int) -> Table:
    """What each choice of scores serves, keeps and costs, per sample."""
    rows = []
    for dtype in (torch.float32, torch.float64):
        task, test = trained(dtype, width, steps)
        for kind in SCORES:
            made = lf.imprint(lf.Pattern.from_formula("sphere", resolution=4), task, method="per-sample", scores=kind)
            own, other = lf.account(made), lf.account(made, test)
            row = {
                "dtype": str(dtype).removeprefix("torch."),
                "scores": kind,
                "served": own.served,
                "served (test)": other.served,
                "predictions kept": made.meta["predictions_kept"],
                "layers added": 2,
                "units added": " + ".join(map(str, made.meta["widths"][-2:])),
                "largest error of those served": own.row["max_served"],
            }
            rows.append(row)
    return Table("Theorem 2: scores of per-sample imprints", rows, ("sphere, n = 4, 1,200 digits, 64 points",))


def reserving(shares: tuple[float, ...], width: int, steps: int, repair: int) -> Table:
    """Accuracy before and after freeing a share of every layer's channels, and after a short repair."""
    task, (x, y) = trained(torch.float32, width, steps)
    model = task.model
    assert isinstance(model, nn.Module)
    trunk = trunk_of(read(model))
    rows = []
    for share in (0.0, *shares):
        count = round(share * width)
        freed, channels, _ = reserved(model, trunk, [count] * len(trunk.hidden), task, 0)
        row: dict[str, Any] = {"share": share, "channels a layer": count}
        for word, network in (
            ("", freed),
            (" repaired", repaired(freed, trunk, channels, task, steps=repair) if count else freed),
        ):
            with torch.no_grad():
                row[f"accuracy{word}"] = float(
                    (network(task.data.inputs).argmax(dim=1) == task.data.targets).double().mean()
                )
                row[f"test{word}"] = float((network(x).argmax(dim=1) == y).double().mean())
            row[f"loss{word}"] = float(task.replace(model=network).evaluate())
        rows.append(row)
    notes = (f"{len(trunk.hidden)} hidden layers of {width}; repair: {repair} steps of 256 samples",)
    return Table("Theorem 2: reserving channels", rows, notes)


def _slower(model: Any, task: lf.Task) -> float:
    """Return how many times longer a pass of 64 samples takes than that of the task's own model, timed in turn.

    Few samples: with many, what is timed is how the system hands out memory for activations.
    """
    found: list[list[float]] = [[], []]
    with torch.no_grad():
        for _ in range(10):
            for times, network in zip(found, (model, task.model), strict=True):
                begin = time.perf_counter()
                for _ in range(10):
                    network(task.data.inputs[:64])
                times.append(time.perf_counter() - begin)
    return min(found[0]) / min(found[1])


def run(
    cells: tuple[int, ...],
    epsilons: tuple[float, ...],
    shares: tuple[float, ...],
    steps: int,
    width: int,
    points: int,
    repair: int,
) -> list[Table]:
    """Run all three."""
    return [
        exactness(cells, epsilons, width, steps, points),
        scores(width, steps),
        reserving(shares, width, steps, repair),
    ]
