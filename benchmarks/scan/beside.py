"""Scans of a pattern beside a trained network: the engines made for it, against the one for any traced model."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import landform as lf
from benchmarks.measure import Spread, alternate
from benchmarks.report import Table
from landform.scan.engine.base import AbstractEngine
from landform.scan.plan import build_engine, engine_name
from landform.testing.networks import ResNet

CASES: dict[str, dict[str, Any]] = {
    "full": {"samples": 1200, "cells": 16, "points": 200, "few": 3, "repeats": 3, "steps": 60},
    "quick": {"samples": 60, "cells": 2, "points": 4, "few": 1, "repeats": 1, "steps": 60},
}


def run(samples: int, cells: int, points: int, few: int, repeats: int, steps: int) -> list[Table]:
    """Compare a point of every network and form: ``points`` by the engine that is chosen, ``few`` by the other."""
    digits = lf.load_data("digits", split="all")
    images = digits.inputs[:samples].reshape(-1, 1, 8, 8)
    data = images, digits.targets[:samples]
    pattern = lf.Pattern.from_formula("sphere", resolution=cells)
    h = torch.rand(few, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    rows = []
    for name, model in networks().items():
        trained(model, data, steps)
        for method in ("offset", "per-sample"):
            made = lf.imprint(pattern, lf.Task(model, data=data), method=method, scores="own", certify=False)
            assert made.task is not None
            chosen, any_other = (build_engine(made.task, made.subspace, engine=e) for e in ("auto", "affine"))
            away = (chosen.sums(h).num - any_other.sums(h).num).abs().max() / samples
            took = alternate({"chosen": on_new(chosen, points), "affine": on_new(any_other, few)}, repeats)
            fast, slow = Spread.of([t / points for t in took["chosen"]]), Spread.of([t / few for t in took["affine"]])
            rows.append(
                {
                    "network": name,
                    "form": method,
                    "parameters": made.parameters,
                    "engine": engine_name(chosen),
                    "ms per point": 1e3 * fast.median,
                    "affine, ms per point": 1e3 * slow.median,
                    "times as fast": slow.median / fast.median,
                    "losses differ by": float(away),
                }
            )
            print(rows[-1], flush=True)
    note = (
        f"digits, {samples:,} samples, a sphere of {cells} × {cells} cells, float32; medians of {repeats} turns of"
        f" {points} new points, engines built and the trained part computed before; affine: {few} points"
    )
    return [Table("A pattern beside a trained network", rows, [note])]


def on_new(engine: AbstractEngine, points: int) -> Callable[[], object]:
    """Return what sums all samples at so many random points, others at every call."""
    generator = torch.Generator().manual_seed(0)
    return lambda: engine.sums(torch.rand(points, 2, dtype=torch.float64, generator=generator))


def networks() -> dict[str, nn.Module]:
    """Return untrained networks for images of 8 × 8."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = [part for _ in range(5) for part in (nn.Linear(128, 128), nn.ReLU())]
        chain = [nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        tail = [nn.Flatten(), nn.Linear(256, 64), nn.ReLU(), nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 10)]
        return {
            "perceptron": nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), *layers, nn.Linear(128, 10)),
            "chain of convolutions": nn.Sequential(*chain, *tail),
            "ResNet of 6 blocks": nn.Sequential(nn.Conv2d(1, 3, 1), ResNet(16, ((16, 1), (32, 2)), blocks=3)),
        }


def trained(model: nn.Module, data: tuple[Tensor, Tensor], steps: int) -> None:
    """Train a little, on all of the data at once."""
    optimizer = torch.optim.Adam(model.train().parameters(), lr=5e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(data[0]), data[1]).backward()
        optimizer.step()
    model.eval()
