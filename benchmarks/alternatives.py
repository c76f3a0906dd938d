"""The same picture by other means: landform, regression by Adam, and a cost model of multi-point optimisation."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

import landform as lf
from benchmarks.making import make, photograph
from benchmarks.measure import Spread
from benchmarks.report import Table
from landform.imprint.collapsed import losses_at

BATCH = 1024
RATE = 1e-3
UPDATES, CELLS = 11_800, 100  # multi-point optimisation: updates a cell, cells a picture (arXiv 1910.03867)
SAMPLES = 128  # batch of its training pass
CASES: dict[str, dict[str, Any]] = {
    "full": {"n": 64, "steps": 2000, "points": 100_000, "passes": 20},
    "quick": {"n": 32, "steps": 20, "points": 20_000, "passes": 5},
    "tiny": {"n": 4, "steps": 2, "points": 50, "passes": 1},
}


def run(n: int, steps: int, points: int, passes: int) -> list[Table]:
    """Make the same picture by every means and measure the same errors."""
    pattern = photograph(n)
    make(photograph(8))
    begin = time.perf_counter()
    imprint = make(pattern)
    seconds = time.perf_counter() - begin
    h = torch.cat(
        [pattern.mesh.nodes(), torch.rand(points, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))]
    )
    h = h.float().double()
    target = imprint.target(h)
    rows = [
        {
            "means": "landform",
            "network": _widths(imprint.meta["widths"]),
            "parameters": imprint.parameters,
            "s": seconds,
        }
        | _errors(losses_at(imprint, h)[:, 0], target)
    ]
    regressed(imprint, (4,), 1)  # warm up: the first optimiser imports half of PyTorch
    for label, widths in (("same widths", imprint.meta["widths"][1:]), ("3×256", (256, 256, 256))):
        network, took = regressed(imprint, widths, steps)
        with torch.no_grad():
            signal = torch.cat([network(part.float()) for part in torch.split(h, 8192)])[:, 0].double()
        row = {
            "means": f"Adam, {label}, {steps} steps",
            "network": _widths((2, *widths)),
            "parameters": sum(p.numel() for p in network.parameters()),
            "s": took,
        }
        rows.append(row | _errors(imprint.response.along(signal), target))
    one = training_pass(passes)
    row = {
        "means": "multi-point optimisation (model, not run)",
        "network": "CNN 32-64-128",
        "parameters": _size(_cnn()),
    }
    rows.append(row | {"s": one.median * UPDATES * CELLS})
    times = rows[0]["s"]
    rows = [row | {"× landform": row["s"] / times} for row in rows]
    notes = [
        (
            f"The photograph at n = {n}, cross-entropy on digits, float32; errors of the loss in nat over all nodes and"
            f" {points:,} random points, against the P1 interpolant. The range is one nat."
        ),
        "landform: compilation without certificate, one run after a warm-up.",
        (
            f"Adam: regression of ρ⁻¹(T(h)) (standardised) on h, batches of {BATCH} random h, learning rate {RATE:g}"
            " with cosine decay, PyTorch's initial weights, mean squared error. Same widths: the hidden widths of"
            " landform's network after the injected layer, which only carries h."
        ),
        (
            f"Multi-point optimisation: {UPDATES:,} updates × {CELLS} cells × one measured training pass"
            f" ({one} s, median (min–max) of {passes}) of a CNN with three 3×3 convolutions (32, 64, 128 channels, max"
            f" pooling after each) and one linear layer, {SAMPLES} images of 1×28×28, forward, backward and one SGD"
            " step. An extrapolation: it was not run, and has no errors here."
        ),
    ]
    return [Table("The same picture by other means", rows, notes)]


def regressed(imprint: lf.Imprint, widths: Sequence[int], steps: int) -> tuple[nn.Module, float]:
    """Train an MLP from h to s = ρ⁻¹(T(h)) by Adam; return it and the seconds it took."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers: list[nn.Module] = []
        for inputs, outputs in zip((2, *widths[:-1]), widths, strict=True):
            layers += [nn.Linear(inputs, outputs), nn.ReLU()]
        network = nn.Sequential(*layers, nn.Linear(widths[-1], 1))
    generator = torch.Generator().manual_seed(0)
    begin = time.perf_counter()
    every = imprint.response.inverse(imprint.target(imprint.pattern.mesh.nodes()))
    centre, size = float(every.mean()), float(every.std())
    optimiser = torch.optim.Adam(network.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        h = torch.rand(BATCH, 2, generator=generator)
        wanted = (imprint.response.inverse(imprint.target(h.double())) - centre) / size
        optimiser.zero_grad()
        nn.functional.mse_loss(network(h)[:, 0], wanted.float()).backward()
        optimiser.step()
        schedule.step()
    took = time.perf_counter() - begin
    with torch.no_grad():
        last = network[-1]
        last.weight *= size
        last.bias.mul_(size).add_(centre)
    return network, took


def training_pass(passes: int) -> Spread:
    """Measure one forward, backward and SGD step of a small CNN."""
    network = _cnn()
    optimiser = torch.optim.SGD(network.parameters(), lr=1e-3)
    images = torch.rand(SAMPLES, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(SAMPLES) % 10

    def once() -> None:
        optimiser.zero_grad()
        nn.functional.cross_entropy(network(images), labels).backward()
        optimiser.step()

    once()
    return Spread.of([_timed(once) for _ in range(passes)])


def _cnn() -> nn.Module:
    layers: list[nn.Module] = []
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for inputs, outputs in ((1, 32), (32, 64), (64, 128)):
            layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(128 * 9, 10))


def _timed(call: Callable[[], object]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def _errors(found: Tensor, target: Tensor) -> dict[str, float]:
    difference = found - target
    return {"RMSE, nat": float(difference.square().mean().sqrt()), "sup error, nat": float(difference.abs().max())}


def _size(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def _widths(widths: Sequence[int]) -> str:
    return "-".join(map(str, widths))
