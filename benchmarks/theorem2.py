"""Theorem 2: how exact, what widening costs, what reserving costs, on an MLP trained on the digits."""

import time
from typing import Any

import torch
from torch import nn

import landform as lf
from benchmarks.report import Table
from landform.imprint.beside import trunk_of
from landform.imprint.lower.network import read
from landform.imprint.reserve import reserve

CASES: dict[str, dict[str, Any]] = {
    "tiny": {"cells": (4,), "shares": (0.1,), "steps": 60, "width": 24, "points": 2},
    "quick": {"cells": (4,), "shares": (0.1,), "steps": 60, "width": 32, "points": 4},
    "full": {"cells": (8, 16), "shares": (0.05, 0.1, 0.2, 0.4), "steps": 300, "width": 64, "points": 16},
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


def exactness(cells: tuple[int, ...], width: int, steps: int, points: int) -> Table:
    """Offset and per-sample: certified against measured, share served, parameters and time of a pass."""
    rows = []
    for dtype in (torch.float32, torch.float64):
        task, test = trained(dtype, width, steps)
        before = sum(p.numel() for p in task.model.parameters())  # type: ignore[union-attr]
        plain = _pass(task.model, task)
        for n in cells:
            pattern = lf.Pattern.from_formula("sphere", resolution=n)
            for method in ("offset", "per-sample"):
                begin = time.perf_counter()
                made = lf.imprint(pattern, task, method=method, epsilon=1e-5)
                seconds = time.perf_counter() - begin
                h = torch.rand(points, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
                own, other = lf.account(made, points=h), lf.account(made, test, points=h)
                proof = made.certificate
                assert proof is not None
                row = {
                    "dtype": str(dtype).removeprefix("torch."),
                    "method": method,
                    "n": n,
                    "certified": proof.bound,
                    "of that ψ": proof.curve,
                    "mean loss off by": float(own.difference.max()),
                    "served sample off by": own.row["max_served"] if method == "per-sample" else "",
                    "served": own.served if method == "per-sample" else "",
                    "served (test)": other.served if method == "per-sample" else "",
                    "parameters ×": made.parameters / before,
                    "pass ×": _pass(made.model, task) / plain,
                    "seconds": seconds,
                }
                rows.append(row)
    notes = (f"sphere, five hidden layers of {width}, 1,200 digits; epsilon 1e-5; measured at {points} random points",)
    return Table("Theorem 2: exactness and the cost of widening", rows, notes)


def reserving(shares: tuple[float, ...], width: int, steps: int) -> Table:
    """Accuracy before and after freeing a share of every layer's channels."""
    task, (x, y) = trained(torch.float32, width, steps)
    model = task.model
    assert isinstance(model, nn.Module)
    trunk = trunk_of(read(model))
    rows = []
    for share in (0.0, *shares):
        count = round(share * width)
        freed, _ = reserve(model, trunk, [count] * len(trunk.hidden), task)
        with torch.no_grad():
            own = float((freed(task.data.inputs).argmax(dim=1) == task.data.targets).double().mean())
            other = float((freed(x).argmax(dim=1) == y).double().mean())
        loss = float(task.replace(model=freed).evaluate())
        row = {"share": share, "channels a layer": count, "accuracy": own, "accuracy (test)": other, "loss": loss}
        rows.append(row)
    return Table("Theorem 2: reserving channels", rows, (f"{len(trunk.hidden)} hidden layers of {width}",))


def _pass(model: Any, task: lf.Task) -> float:
    """Return the least seconds of ten passes over the data."""
    found = []
    with torch.no_grad():
        for _ in range(10):
            begin = time.perf_counter()
            model(task.data.inputs)
            found.append(time.perf_counter() - begin)
    return min(found)


def run(cells: tuple[int, ...], shares: tuple[float, ...], steps: int, width: int, points: int) -> list[Table]:
    """Run both."""
    return [exactness(cells, width, steps, points), reserving(shares, width, steps)]
