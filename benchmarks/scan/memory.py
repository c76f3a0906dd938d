"""Memory of a scan of a large model, beside that of a forward pass of the model as it is."""

import gc
import tempfile
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

import landform as lf
from benchmarks.measure import peak_memory
from benchmarks.report import Table
from benchmarks.scan.workloads import IMAGE, mlp
from landform.task import model_hash

CASES: dict[str, dict[str, Any]] = {
    "full": {"width": 5632, "dense": 2816},
    "quick": {"width": 512, "dense": 256},
}
SAMPLES = 64


def run(width: int, dense: int) -> list[Table]:
    """Compare the peak of whole scans (choice of engine, surface) with that of a forward pass."""
    return [seeded(width), tensors(dense)]


def seeded(width: int) -> Table:
    """Directions made from a seed, which a scan makes too; a small batch, so that parameters are all that counts."""
    task, model, total, allowed = _subject(width, SAMPLES)
    hashed = model_hash(model)
    engines: list[str] = []

    def scan(z: int, **options: Any) -> Callable[[], None]:
        def call() -> None:
            plane = lf.random_plane(task, z=z, seed=0, seeded=True)
            surface = lf.scan(task, plane, progress=False, **options)
            engines.append(str(surface.attrs["engine"]))

        return call

    small = lf.Task(mlp(784, 10), data=task.data)  # what is imported on the way is not counted
    lf.scan(small, lf.random_plane(small, seed=0, seeded=True), grid=2, progress=False)
    gc.collect()
    bare = peak_memory(task.evaluate)
    box, rows = [(-1.0, 1.0)] * 2, []
    with tempfile.TemporaryDirectory() as folder:
        calls = [
            ("2×2", 2, scan(2, grid=2, ranges=box)),
            ("3×2", 2, scan(2, grid=(3, 2), ranges=box)),
            ("1 point", 6, scan(6, points=torch.full((1, 6), 0.5))),
            ("1 point, into a store", 2, scan(2, points=torch.full((1, 2), 0.5), store=folder + "/s")),
        ]
        for what, z, call in calls:
            took = peak_memory(call)
            row: dict[str, Any] = {"grid": what, "directions": z, "engine": engines[-1], "scan, MB": took / 2**20}
            row["beyond the forward pass, MB"] = (took - bare) / 2**20
            row["of what is allowed"] = (took - bare) / allowed
            row["origin the same, bit for bit"] = model_hash(model) == hashed
            rows.append(row)
    return Table("Whole scans, directions made from a seed", rows, _notes(model, total, SAMPLES, bare, allowed))


def tensors(width: int) -> Table:
    """Directions kept as tensors, which like the model are not counted; samples as in use."""
    samples = 1024
    task, model, total, allowed = _subject(width, samples)
    hashed = model_hash(model)
    plane = lf.random_plane(task, seed=0, seeded=False)
    task.evaluate()
    gc.collect()
    bare, rows = peak_memory(task.evaluate), []
    for engine in ("auto", "affine"):
        found: list[Any] = []

        def call(engine: str = engine, found: list[Any] = found) -> None:
            found.append(lf.scan(task, plane, grid=2, ranges=[(-1.0, 1.0)] * 2, engine=engine, progress=False))

        took = peak_memory(call)
        row = {"engine": f"{found[0].attrs['engine']}, {'chosen' if engine == 'auto' else 'forced'}"}
        row |= {"scan, MB": took / 2**20, "beyond the forward pass, MB": (took - bare) / 2**20}
        row |= {"of what is allowed": (took - bare) / allowed, "of the parameters": (took - bare) / total}
        rows.append(row | {"origin the same, bit for bit": model_hash(model) == hashed})
    return Table("Whole scans, directions kept as tensors", rows, _notes(model, total, samples, bare, allowed))


def _subject(width: int, samples: int) -> tuple[lf.Task, nn.Module, int, float]:
    """Return a perceptron's task, the perceptron, its bytes, and those that a scan may take beyond a forward pass."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = mlp(784, width, width, width, width, 10).eval()
        inputs, targets = torch.randn(samples, *IMAGE), torch.randint(10, (samples,))
    sizes = [value.nbytes for value in model.parameters()]
    return lf.Task(model, data=(inputs, targets)), model, sum(sizes), 0.2 * sum(sizes) + max(sizes)


def _notes(model: nn.Module, total: int, samples: int, bare: int, allowed: float) -> list[str]:
    count, mb = sum(value.numel() for value in model.parameters()), 2**20
    size = f"{count:,} parameters, {total / mb:,.0f} MB"
    return [
        f"perceptron of {size}, {samples:,} samples; its forward pass grows the process by {bare / mb:.3g} MB",
        f"allowed beyond it: 0.2 × parameters + the largest tensor, {allowed / mb:,.0f} MB, whatever the scan",
        "growth of the resident set at its peak; the model itself is not counted",
    ]
