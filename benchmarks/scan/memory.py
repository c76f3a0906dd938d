"""Memory of a scan of a large model, beside that of a forward pass of the model as it is."""

import gc
from typing import Any

import torch

import landform as lf
from benchmarks.measure import peak_memory
from benchmarks.report import Table
from benchmarks.scan.workloads import IMAGE, mlp
from landform.scan.plan import build_engine
from landform.task import model_hash

CASES: dict[str, dict[str, Any]] = {
    "full": {"width": 5632},
    "quick": {"width": 512},
}


def run(width: int) -> list[Table]:
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
    return [Table("Memory of a large model, directions made from a seed", rows)]
