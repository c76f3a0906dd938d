"""How cost grows with grid, samples and directions; memory at 100 M parameters; the price of an error bar."""

import gc
from typing import Any

import numpy as np
import torch

import landform as lf
from benchmarks.measure import alternate, peak_memory
from benchmarks.report import Table
from benchmarks.scan.workloads import IMAGE, mlp
from landform.scan.plan import build_engine
from landform.task import model_hash

CASES: dict[str, dict[str, Any]] = {
    "full": {"width": 5632, "repeats": 3, "grid": 257, "checks": 200},
    "quick": {"width": 1024, "repeats": 1, "grid": 33, "checks": 20},
}


def run(width: int, repeats: int, grid: int, checks: int) -> list[Table]:
    """Measure all three."""
    return [exponents(repeats), memory(width), accuracy(grid, checks)]


def exponents(repeats: int) -> Table:
    """Fit cost ~ size^exponent over the larger half of the sizes; 1 is proportional."""
    torch.manual_seed(0)
    model = mlp(784, 128, 128, 10)
    inputs, targets = torch.randn(8192, *IMAGE), torch.randint(10, (8192,))
    rows = []

    def seconds(points: int, samples: int, z: int) -> float:
        task = lf.Task(model, data=(inputs[:samples], targets[:samples]))
        engine = build_engine(task, lf.random_plane(task, z=z, seed=0))
        h = torch.rand(points, z, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) - 0.5
        return float(np.median(alternate({"it": lambda: engine.sums(h)}, repeats)["it"]))

    for what, sizes, call in (
        ("points", (64, 128, 256, 512), lambda n: seconds(n, 1024, 2)),
        ("samples", (1024, 2048, 4096, 8192), lambda n: seconds(64, n, 2)),
        ("directions", (2, 4, 8, 16), lambda n: seconds(64, 1024, n)),
    ):
        times = [call(n) for n in sizes]
        slope = float(np.polyfit(np.log(sizes), np.log(times), 1)[0])
        rows.append({"of": what, "sizes": str(sizes), "s": ", ".join(f"{t:.3g}" for t in times), "exponent": slope})
    return Table("How cost grows (MLP 784-128-128-10)", rows)


def memory(width: int) -> Table:
    """Compare the peak of a scan with that of a forward pass of the model as it is."""
    torch.manual_seed(0)
    model = mlp(784, width, width, width, width, 10).eval()
    numbers = sum(value.numel() for value in model.parameters())
    largest = max(value.numel() for value in model.parameters())
    task = lf.Task(model, data=(torch.randn(64, *IMAGE), torch.randint(10, (64,))))
    hashed = model_hash(model)
    gc.collect()
    bare = peak_memory(task.evaluate)
    plane = lf.random_plane(task, seed=0, seeded=True)
    engine = build_engine(task, plane, engine="inplace")
    rows = []
    for points in (2, 6):
        h = torch.rand(points, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        took = peak_memory(lambda h=h: engine.sums(h))
        allowed = 0.2 * numbers + largest
        rows.append(
            {
                "parameters": numbers,
                "points": points,
                "forward pass, MB": bare / 2**20,
                "scan, MB": took / 2**20,
                "beyond the forward pass / (0.2 x parameters + largest tensor)": (took - bare) / 4 / allowed,
                "origin is the same, bit for bit": model_hash(model) == hashed,
            }
        )
    return Table("Memory of a large model, directions made from a seed", rows)


def accuracy(grid: int, checks: int) -> Table:
    """Measure to half a percent of the range at 99 %, and check random nodes against all samples."""
    task = _trained()
    plane = lf.random_plane(task, seed=0)
    ranges = [(-1.0, 1.0)] * 2
    sampled = lf.scan(task, plane, grid=grid, ranges=ranges, tolerance=0.005, confidence=0.99, seed=0, progress=False)
    generator = torch.Generator().manual_seed(0)
    h = 2 * torch.rand(checks, 2, dtype=torch.float64, generator=generator) - 1
    engine = build_engine(task, plane)
    times = alternate({"full": lambda: engine.sums(h[:8])}, 3)["full"]
    full = float(np.median(times)) / 8 * grid**2
    exact = engine.sums(h)
    truth = (exact.num[:, 0] / exact.den[0]).numpy()
    surface = sampled.landform.to_grid(grid).loss if "node" in sampled.dims else sampled.loss
    found = surface.interp(h1=("p", h[:, 0].numpy()), h2=("p", h[:, 1].numpy())).values
    low, high = np.nanquantile(surface.values, [0.01, 0.99])
    spent = float(sampled.attrs["evaluations"])
    row = {
        "grid": f"{grid} x {grid}",
        "evaluations of full points": spent,
        "cheaper in evaluations": grid**2 / spent,
        "s": float(sampled.attrs["seconds"]),
        "cheaper in time (full: extrapolated from 8 points)": full / float(sampled.attrs["seconds"]),
        "largest error at random points / range": float(np.abs(found - truth).max() / (high - low)),
        "median error / range": float(np.median(np.abs(found - truth)) / (high - low)),
    }
    return Table("Half a percent of the range at 99 % (MLP 784-512-512-10, trained)", [row])


def _trained() -> lf.Task:
    """Train the MLP for an epoch on Fashion-MNIST where it is, on random labels of its shape elsewhere."""
    torch.manual_seed(0)
    model = mlp(784, 512, 512, 10)
    try:
        data = lf.load_data("fashion-mnist")
        inputs, targets = data.inputs.float(), data.targets
    except lf.LandformError:
        inputs, targets = torch.randn(10_000, *IMAGE), torch.randint(10, (10_000,))
    optimiser = torch.optim.Adam(model.parameters(), 1e-3)
    for part in torch.randperm(min(len(inputs), 10_000)).split(128):
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(model(inputs[part]), targets[part]).backward()
        optimiser.step()
    return lf.Task(model.eval(), data=(inputs[:10_000], targets[:10_000]))
