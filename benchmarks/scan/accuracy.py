"""Equal accuracy: a large surface to a tolerance, against all of it. ``python -m benchmarks.scan.accuracy``.

A 784-256-256-10 MLP (or a CNN of 8, 32 and 64 channels) is trained on Fashion-MNIST and scanned over a random
plane on the 10,000 test images, with ``tolerance=``. What the full grid would cost is measured on random nodes of it,
evaluated on all samples with the same engine, and these nodes also give the true errors.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

import landform as lf
from benchmarks.report import Table, machine, machine_line


def network(name: str) -> nn.Module:
    """Return an untrained network for 28×28 images."""
    torch.manual_seed(0)
    if name == "mlp":
        return nn.Sequential(
            nn.Flatten(), nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10)
        )
    layers: list[nn.Module] = [nn.Unflatten(1, (1, 28, 28))] if name == "cnn" else []
    for before, after in ((1, 8), (8, 32), (32, 64)):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(576, 10))


def trained(name: str, steps: int) -> lf.Task:
    """Train on the training images; the task is about the test images."""
    train, test = (lf.load_data("fashion-mnist", split=split) for split in ("train", "test"))
    model = network(name)
    images, tests = train.inputs.flatten(1), test.inputs.flatten(1)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    for _ in range(steps):
        pick = torch.randint(len(images), (256,))
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images[pick]), train.targets[pick]).backward()
        optimizer.step()
    return lf.Task(model, loss="cross_entropy", data=(tests, test.targets))


def measure(name: str, *, grid: int, tolerance: float, steps: int, nodes: int) -> dict[str, Any]:
    """Scan with a tolerance, then look at random nodes of the full grid."""
    task = trained(name, steps)
    plane = lf.random_plane(task, seed=0)
    box = [(-1.0, 1.0)] * 2
    begin, ticks = time.perf_counter(), time.process_time()
    surface = lf.scan(task, plane, grid=grid, ranges=box, tolerance=tolerance, progress=False)
    seconds, busy = time.perf_counter() - begin, time.process_time() - ticks
    pick = torch.randperm(grid * grid, generator=torch.Generator().manual_seed(1))[:nodes]
    line = torch.linspace(-1, 1, grid, dtype=torch.float64)
    points = torch.cartesian_prod(line, line)[pick]
    begin, ticks = time.perf_counter(), time.process_time()
    truth = lf.scan(task, plane, points=points, engine=surface.attrs["engine"], progress=False)
    full, full_busy = time.perf_counter() - begin, time.process_time() - ticks
    found = torch.from_numpy(surface.loss.values.reshape(-1))[pick]
    error = (found - torch.from_numpy(truth.loss.values)).abs()
    samples = torch.from_numpy(surface.samples.values.reshape(-1))
    return {
        "network": name,
        "grid": f"{grid}×{grid}",
        "tolerance": tolerance,
        "engine": surface.attrs["engine"],
        "evaluations": surface.attrs["evaluations"],
        "cost factor (samples)": grid * grid / surface.attrs["evaluations"],
        "seconds": seconds,
        "cost factor (wall)": full / nodes * grid * grid / seconds,
        "cost factor (CPU)": full_busy / nodes * grid * grid / busy,
        "nodes measured": int((samples > 0).sum()),
        "widest / tolerance": surface.attrs["loss_half_width"] / surface.attrs["loss_tolerance"],
        "truncation / tolerance": surface.attrs["loss_truncation"] / surface.attrs["loss_tolerance"],
        "largest error / tolerance": float(error.max()) / surface.attrs["loss_tolerance"],
        "nodes compared": nodes,
        "check points": surface.attrs["loss_check_points"],
        "check points outside": surface.attrs["loss_check_outside"],
        "volume beyond": surface.attrs["loss_volume_beyond"],
        "nodes by level": surface.attrs["level_evaluated"],
    }


def main(arguments: list[str] | None = None) -> None:
    """Run it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scan.accuracy", description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", default=["mlp", "cnn"], choices=["mlp", "cnn"])
    parser.add_argument("--grid", type=int, default=257)
    parser.add_argument("--tolerance", type=float, default=0.005)
    parser.add_argument("--steps", type=int, default=900)
    parser.add_argument("--nodes", type=int, default=400)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent)
    options = parser.parse_args(arguments)
    facts, rows = machine(), []
    for name in options.networks:
        rows.append(
            measure(name, grid=options.grid, tolerance=options.tolerance, steps=options.steps, nodes=options.nodes)
        )
        print(rows[-1], flush=True)
        notes = [
            "10,000 test images of Fashion-MNIST, 99 % confidence; cost of the full grid from the nodes compared.",
            machine_line(facts),
        ]
        options.output.mkdir(parents=True, exist_ok=True)
        (options.output / "accuracy.json").write_text(json.dumps({"machine": facts, "rows": rows}, indent=1) + "\n")
        (options.output / "accuracy.md").write_text(Table("Equal accuracy", rows, notes).markdown() + "\n")


if __name__ == "__main__":
    main()
