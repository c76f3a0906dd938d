"""One tool in a process of its own: ``python side.py TOOL WORKLOAD SAMPLES GRID``; a line on stdin makes it run again.

Answers a line of JSON a run. Every tool computes the same: the mean cross-entropy over all samples at every node of a
square grid in a plane of random, filter-normalised directions.
"""

import contextlib
import json
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from benchmarks.scan.workloads import WORKLOADS

TOOLS = ("landform", "loss-landscapes", "landscaper", "loop of 2018", "bare forward", "matrix product")
DISTANCE = 0.5


def landform(model: nn.Module, x: Tensor, y: Tensor, grid: int) -> Callable[[], object]:
    """The public face, engine and batch chosen by itself."""
    import landform as lf

    task = lf.Task(model, data=(x, y))
    plane = lf.random_plane(task, seed=0)
    ranges = [(-DISTANCE, DISTANCE)] * 2
    return lambda: lf.scan(task, plane, grid=grid, ranges=ranges, progress=False)


def loss_landscapes(model: nn.Module, x: Tensor, y: Tensor, grid: int) -> Callable[[], object]:
    """De Bernardi's package, version 3."""
    import loss_landscapes
    from loss_landscapes.metrics import Loss

    def run() -> object:
        with torch.no_grad():
            return loss_landscapes.random_plane(
                model, Loss(F.cross_entropy, x, y), DISTANCE, grid, "filter", deepcopy_model=True
            )

    return run


def landscaper(model: nn.Module, x: Tensor, y: Tensor, grid: int) -> Callable[[], object]:
    """Landscaper, from Lawrence Berkeley National Laboratory."""
    from landscaper.compute import compute_loss_landscape

    directions = [[torch.randn_like(p) for p in model.parameters()] for _ in range(2)]

    def loss(net: nn.Module, data: tuple[Tensor, Tensor]) -> float:
        return F.cross_entropy(net(data[0]), data[1]).item()

    return lambda: compute_loss_landscape(model, (x, y), directions, loss, grid, DISTANCE, dim=2, device="cpu")


def loop_of_2018(model: nn.Module, x: Tensor, y: Tensor, grid: int) -> Callable[[], object]:
    """The loop of Li et al. 2018 from its description: weights set at each point, batches of 128, sums of losses."""
    weights = [p.data.clone() for p in model.parameters()]
    directions = [[torch.randn_like(p) for p in weights] for _ in range(2)]

    def run() -> object:
        values = []
        for a in torch.linspace(-DISTANCE, DISTANCE, grid).tolist():
            for b in torch.linspace(-DISTANCE, DISTANCE, grid).tolist():
                for p, w, d, e in zip(model.parameters(), weights, *directions, strict=True):
                    p.data = w + (d * a + e * b)
                total = 0.0
                with torch.no_grad():
                    for inputs, targets in zip(x.split(128), y.split(128), strict=True):
                        total += F.cross_entropy(model(inputs), targets).item() * len(inputs)
                values.append(total / len(x))
        return values

    return run


def bare_forward(model: nn.Module, x: Tensor, y: Tensor, grid: int) -> Callable[[], object]:
    """Nothing but the forward pass of all samples, as often as there are nodes."""
    del y

    def run() -> object:
        with torch.inference_mode():
            for _ in range(grid * grid):
                for part in x.split(1024):
                    model(part)
        return None

    return run


def matrix_product(model: nn.Module, x: Tensor, y: Tensor, grid: int) -> Callable[[], object]:
    """The machine's peak: products of 1024 × 1024 matrices; the answer is multiply-adds a second."""
    del model, x, y, grid
    a, b, out = torch.randn(1024, 1024), torch.randn(1024, 1024), torch.empty(1024, 1024)

    def run() -> object:
        for _ in range(20):
            torch.mm(a, b, out=out)
        return None

    return run


MAKERS = (landform, loss_landscapes, landscaper, loop_of_2018, bare_forward, matrix_product)


def main(tool: str, workload: str, samples: str, grid: str) -> None:
    """Run once at the start, then once for every line."""
    begin = time.perf_counter()
    case = replace(WORKLOADS[workload], samples=int(samples), grid=int(grid))
    run = dict(zip(TOOLS, MAKERS, strict=True))[tool](*case.make(), case.grid)
    with contextlib.redirect_stdout(sys.stderr):
        run()
    print(json.dumps({"first": time.perf_counter() - begin}), flush=True)
    for _ in sys.stdin:
        begin = time.perf_counter()
        with contextlib.redirect_stdout(sys.stderr):
            run()
        print(json.dumps({"seconds": time.perf_counter() - begin}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
