"""How cost grows with points, samples and directions, and how that of a tolerance does with the grid."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

import landform as lf
from benchmarks.growth import fitted
from benchmarks.measure import Spread, alternate
from benchmarks.report import Table
from benchmarks.scan.workloads import IMAGE, mlp
from landform.scan.plan import build_engine

CASES: dict[str, dict[str, Any]] = {
    "full": {
        "sides": (8, 12, 16, 24, 32),
        "samples": (1024, 2048, 4096, 8192),
        "z": (2, 4, 8, 16),
        "grids": (17, 33, 65, 129, 257),
        "repeats": 3,
    },
    "quick": {"sides": (2, 4), "samples": (64, 128), "z": (1, 2), "grids": (3, 5, 9), "repeats": 1},
}


def run(
    sides: Sequence[int], samples: Sequence[int], z: Sequence[int], grids: Sequence[int], repeats: int
) -> list[Table]:
    """Measure both."""
    return [full(sides, samples, z, repeats), tolerance(grids)]


def full(sides: Sequence[int], samples: Sequence[int], z: Sequence[int], repeats: int) -> Table:
    """Fit seconds ~ size^exponent; 1 is proportional."""
    model = _model()
    inputs, targets = _data(max(samples))
    rows = []

    def call(side: int, count: int, z: int) -> Callable[[], object]:
        task = lf.Task(model, data=(inputs[:count], targets[:count]))
        engine = build_engine(task, lf.random_plane(task, z=z, seed=0), engine="affine")
        h = torch.rand(side * side, z, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) - 0.5
        return lambda: engine.sums(h)

    for what, sizes, calls in (
        ("points", [side**2 for side in sides], [call(side, samples[0], 2) for side in sides]),
        ("samples", samples, [call(sides[0], n, 2) for n in samples]),
        ("directions", z, [call(sides[0], samples[0], n) for n in z]),
    ):
        took = alternate({str(n): one for n, one in zip(sizes, calls, strict=True)}, repeats)
        times = [Spread.of(took[str(n)]).median for n in sizes]
        exponent, r2 = fitted(list(sizes), times)
        shown = ", ".join(f"{n:,}: {t:.3g}" for n, t in zip(sizes, times, strict=True))
        rows.append({"of": what, "s": shown, "exponent": exponent, "R²": r2})
    fixed = f"{sides[0] ** 2} points, {samples[0]:,} samples and 2 directions where they are not varied"
    notes = [
        f"perceptron 784-128-128-10; {fixed}; medians of {repeats} turns, the engine built before",
        "a direction adds a product to what the first layer shares, and a term to each tensor that is put together",
    ]
    return Table("All samples at all points", rows, notes)


def tolerance(grids: Sequence[int]) -> Table:
    """Count what half a percent of the range at 99 % takes, as the grid grows; counts do not depend on load."""
    task = lf.Task(_trained(), data=_digits())
    plane = lf.random_plane(task, seed=0)
    spent = []
    for grid in grids:
        surface = lf.scan(
            task, plane, grid=grid, ranges=[(-1.0, 1.0)] * 2, tolerance=0.005, confidence=0.99, seed=0, progress=False
        )
        spent.append(float(surface.attrs["evaluations"]))
    points = [grid**2 for grid in grids]
    rows = [
        {"grid": f"{grid}×{grid}", "evaluations of all samples": cost, "nodes / evaluations": n / cost}
        for grid, n, cost in zip(grids, points, spent, strict=True)
    ]
    half = len(grids) // 2
    exponent, _ = fitted(points[half:], spent[half:])
    note = f"perceptron 64-64-10, trained on 1,797 digits; exponent over the larger half of the grids: {exponent:.2g}"
    return Table("With a tolerance of 0.5 % of the range, at 99 %", rows, [note])


def _model() -> torch.nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return mlp(784, 128, 128, 10)


def _data(samples: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(samples, *IMAGE, generator=generator), torch.randint(10, (samples,), generator=generator)


def _digits() -> tuple[torch.Tensor, torch.Tensor]:
    data = lf.load_data("digits")
    return data.inputs.float(), data.targets


def _trained() -> torch.nn.Module:
    inputs, targets = _digits()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = mlp(64, 64, 10)
        weights = list(model.parameters())
        for _ in range(20):
            for part in torch.randperm(len(inputs)).split(128):
                loss = torch.nn.functional.cross_entropy(model(inputs[part]), targets[part])
                for value, slope in zip(weights, torch.autograd.grad(loss, weights), strict=True):
                    value.data.sub_(slope, alpha=0.1)
    return model.eval()
