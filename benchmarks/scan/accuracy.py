"""Equal accuracy: a large surface to a tolerance, against the full computation. ``python -m benchmarks.scan.accuracy``.

A 784-256-256-10 MLP and a CNN of 8, 32 and 64 channels are trained on Fashion-MNIST and scanned over a random plane on
the 10,000 test images, with ``tolerance=``. Then the nodes of a sub-grid (``--full 65``: every fourth node of 257 an
axis, all nodes up to the sixth level and many that were only interpolated) are computed on all samples with the same
engine, row by row. Rows are kept in a folder (``--work``), so that the computation can be stopped and gone on with:
``--seconds 540`` ends it after so long, and the same command goes on. On a quiet machine the MLP
takes two minutes, the CNN 20.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import landform as lf
from benchmarks.measure import Spread
from benchmarks.report import Table, machine, machine_line
from landform.scan.plan import build_engine

BOX = [(-1.0, 1.0)] * 2
KEPT = (
    *("engine", "evaluations", "level_evaluated", "loss_tolerance", "loss_half_width", "loss_truncation"),
    *("loss_check_points", "loss_check_outside", "loss_volume_beyond"),
)
"""What is kept of a surface's attrs."""


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


def trained(name: str, steps: int, folder: Path) -> lf.Task:
    """Train on the training images; the task is about the test images; weights are kept."""
    train, test = (lf.load_data("fashion-mnist", split=split) for split in ("train", "test"))
    model = network(name)
    images, tests = train.inputs.flatten(1), test.inputs.flatten(1)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    kept = folder / "weights.pt"
    for _ in range(0 if kept.exists() else steps):
        pick = torch.randint(len(images), (256,))
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images[pick]), train.targets[pick]).backward()
        optimizer.step()
    if kept.exists():
        model.load_state_dict(torch.load(kept, weights_only=True))
    torch.save(model.state_dict(), kept)
    return lf.Task(model, loss="cross_entropy", data=(tests, test.targets))


def sampled(task: lf.Task, plane: lf.Subspace, folder: Path, *, grid: int, tolerance: float, repeats: int) -> str:
    """Scan with a tolerance, keep surface and times, and return the engine."""
    import xarray as xr

    path = folder / "sampled.nc"
    if path.exists():
        with xr.open_dataset(path) as held:
            return str(json.loads(held.attrs["facts"])["engine"])
    wall, busy = [], []
    for _ in range(repeats):
        begin, ticks = time.perf_counter(), time.process_time()
        surface = lf.scan(task, plane, grid=grid, ranges=BOX, tolerance=tolerance, confidence=0.99, progress=False)
        wall.append(time.perf_counter() - begin)
        busy.append(time.process_time() - ticks)
    kept: xr.Dataset = surface[["loss", "loss_lower", "loss_upper", "samples"]].copy()
    kept.attrs = {"facts": json.dumps({key: plain(surface.attrs[key]) for key in KEPT} | {"wall": wall, "busy": busy})}
    kept.to_netcdf(path)
    return str(surface.attrs["engine"])


def full(task: lf.Task, plane: lf.Subspace, folder: Path, *, grid: int, nodes: int, engine: str, until: float) -> bool:
    """Compute a sub-grid row by row; return whether all of it is there.

    Args:
        task: The task.
        plane: Where.
        folder: Where rows are kept.
        grid: Nodes an axis of the surface.
        nodes: Nodes an axis of the sub-grid; ``nodes − 1`` divides ``grid − 1``.
        engine: The engine that the surface was measured with.
        until: Clock time from which no further row is begun.

    Returns:
        True once no row is missing.
    """
    line = torch.linspace(-1, 1, grid, dtype=torch.float64)[:: (grid - 1) // (nodes - 1)]
    held = build_engine(task, plane, engine=engine)
    held.sums(torch.zeros(1, 2, dtype=torch.float64))  # warm
    for row in range(nodes):
        path = folder / f"full{nodes}-{row}.npz"
        if path.exists():
            continue
        if time.time() > until:
            return False
        h = torch.stack([line[row].expand(nodes), line], dim=1)
        begin, ticks = time.perf_counter(), time.process_time()
        sums = held.sums(h)
        wall, busy = time.perf_counter() - begin, time.process_time() - ticks
        new = path.with_name("new.npz")
        np.savez(new, loss=(sums.num[:, 0] / sums.den[0]).numpy(), wall=wall, busy=busy)
        new.replace(path)
    return True


def compared(name: str, folder: Path, *, grid: int, nodes: int, tolerance: float) -> dict[str, Any]:
    """Compare the surface with the full computation at every node of the sub-grid."""
    import xarray as xr

    rows = [np.load(folder / f"full{nodes}-{row}.npz") for row in range(nodes)]
    truth = np.stack([row["loss"] for row in rows])
    with xr.open_dataset(folder / "sampled.nc") as opened:
        surface = opened.load()
    facts = json.loads(surface.attrs["facts"])
    step = (grid - 1) // (nodes - 1)
    part = surface.isel(h1=slice(None, None, step), h2=slice(None, None, step)).transpose("h1", "h2")
    error = np.abs(part.loss.values - truth)
    measured = part.samples.values > 0
    rounding = 1e-6 * np.abs(truth)  # nodes that took all samples have no width; other blocks add in another order
    below, above = truth < part.loss_lower.values - rounding, truth > part.loss_upper.values + rounding
    scale = grid**2 / nodes**2
    wall = [sum(float(row["wall"]) for row in rows) * scale / one for one in facts["wall"]]
    busy = [sum(float(row["busy"]) for row in rows) * scale / one for one in facts["busy"]]
    allowed = facts["loss_tolerance"]
    return {
        "network": name,
        "grid": f"{grid}×{grid}",
        "tolerance": tolerance,
        "engine": facts["engine"],
        "evaluations": facts["evaluations"],
        "cost factor (samples)": grid**2 / facts["evaluations"],
        "seconds": Spread.of(facts["wall"]).median,
        "cost factor (wall)": str(Spread.of(wall)),
        "cost factor (CPU)": str(Spread.of(busy)),
        "nodes measured": int((surface.samples.values > 0).sum()),
        "widest / tolerance": facts["loss_half_width"] / allowed,
        "truncation / tolerance": facts["loss_truncation"] / allowed,
        "nodes compared": nodes**2,
        "of them interpolated": int((~measured).sum()),
        "largest error / tolerance": float(error.max()) / allowed,
        "root mean square / tolerance": float(np.sqrt((error**2).mean())) / allowed,
        "outside the tolerance": int((error > allowed).sum()),
        "outside their interval": int((measured & (below | above)).sum()),
        "check points": facts["loss_check_points"],
        "check points outside": facts["loss_check_outside"],
        "volume beyond": facts["loss_volume_beyond"],
        "nodes by level": facts["level_evaluated"],
    }


def plain(value: object) -> Any:
    """Return a value as JSON takes it."""
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value


def write(output: Path, row: dict[str, Any], facts: dict[str, Any]) -> None:
    """Put a row in, replacing that of the same network, and draw the page again."""
    output.mkdir(parents=True, exist_ok=True)
    path = output / "accuracy.json"
    held = json.loads(path.read_text())["rows"] if path.exists() else []
    rows = [*(other for other in held if other["network"] != row["network"]), row]
    rows.sort(key=lambda one: one["network"] != "mlp")
    notes = [
        "10,000 test images of Fashion-MNIST, 99 % confidence; wall and CPU: median and range of the scan's repeats",
        "compared with nodes of a sub-grid that were computed on all samples, which also give the full grid's cost",
        machine_line(facts),
    ]
    path.write_text(json.dumps({"machine": facts, "rows": rows}, indent=1) + "\n")
    (output / "accuracy.md").write_text(Table("Equal accuracy", rows, notes).markdown() + "\n")


def main(arguments: list[str] | None = None) -> None:
    """Run it, or go on with it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scan.accuracy", description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", default=["mlp", "cnn"], choices=["mlp", "cnn"])
    parser.add_argument("--grid", type=int, default=257)
    parser.add_argument("--tolerance", type=float, default=0.005)
    parser.add_argument("--steps", type=int, default=300, help="of training")
    parser.add_argument("--repeats", type=int, default=3, help="of the scan with a tolerance, for its time")
    parser.add_argument("--full", type=int, default=65, help="nodes an axis of the sub-grid computed in full")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after so long; run again to go on")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "landform-accuracy")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent)
    options = parser.parse_args(arguments)
    grid, nodes = options.grid, options.full
    if nodes < 2 or (grid - 1) % (nodes - 1):
        parser.error(f"--full {nodes} is no sub-grid of {grid} nodes an axis; {nodes} − 1 must divide {grid} − 1")
    facts, until = machine(), time.time() + options.seconds
    for name in options.networks:
        folder = options.work / f"{name}-{grid}-{options.tolerance}-{options.steps}"
        folder.mkdir(parents=True, exist_ok=True)
        task = trained(name, options.steps, folder)
        plane = lf.random_plane(task, seed=0)
        engine = sampled(task, plane, folder, grid=grid, tolerance=options.tolerance, repeats=options.repeats)
        if not full(task, plane, folder, grid=grid, nodes=nodes, engine=engine, until=until):
            done = len(list(folder.glob(f"full{nodes}-*.npz")))
            print(f"{name}: {done} of {nodes} rows are there; the same command goes on", flush=True)
            continue
        row = compared(name, folder, grid=grid, nodes=nodes, tolerance=options.tolerance)
        print(row, flush=True)
        write(options.output, row, facts)


if __name__ == "__main__":
    main()
