"""What instruments report on phantoms: heights, axes, the place of the minimum, curvature.

``python -m benchmarks.phantom_study``; loss-landscapes is used where it can be imported (``PYTHONPATH`` may name an
environment of its own). A tool returns an array without axes; its reader takes it to run from the first corner to the
last, as its documentation draws it, and that reading is compared with the truth.
"""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

import landform as lf
from benchmarks.report import Table
from landform.testing import Phantom, phantom

NODES = 9
NAMES = ("bowl", "minima", "saddle", "plateau", "ring", "step", "noise", "constant")


def landform_scan(made: Phantom) -> np.ndarray:
    """Return landform's surface, [h1, h2]."""
    found: np.ndarray = lf.scan(made.task, made.subspace, grid=NODES, progress=False).loss.values
    return found


def loss_landscapes(made: Phantom) -> np.ndarray:
    """Return loss-landscapes' planar interpolation between the three corners, [h1, h2] as documented."""
    import loss_landscapes as tool
    from loss_landscapes.metrics import Loss

    corners = [torch.zeros(2), torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])]
    models = [_at(made, h) for h in corners]
    data = made.task.data
    metric = Loss(nn.CrossEntropyLoss(), data.inputs, data.targets)
    return np.asarray(tool.planar_interpolation(*models, metric, steps=NODES, deepcopy_model=True))


TOOLS: dict[str, Callable[[Phantom], np.ndarray]] = {"landform": landform_scan, "loss-landscapes": loss_landscapes}


def study() -> list[Table]:
    """Measure every phantom with every tool that is there; then second derivatives on a smooth one."""
    grid = np.linspace(0, 1, NODES)
    rows: list[dict[str, Any]] = []
    for name in NAMES:
        made = phantom(name, resolution=8)
        h = torch.cartesian_prod(*[torch.from_numpy(grid)] * 2)
        truth = made.true(h).reshape(NODES, NODES).numpy()
        for tool, measure in TOOLS.items():
            try:
                seen = measure(made)
            except ImportError:
                rows.append({"phantom": name, "tool": tool, "height off by": "not installed"})
                continue
            low, true_low = (np.unravel_index(a.argmin(), a.shape) for a in (seen, truth))
            row = {"phantom": name, "tool": tool, "height off by": float(np.abs(seen - truth).max())}
            row["axes swapped: off by"] = float(np.abs(seen.T - truth).max())
            row["minimum seen at"] = f"({grid[low[0]]:.3g}, {grid[low[1]]:.3g})"
            row["truly at"] = f"({grid[true_low[0]]:.3g}, {grid[true_low[1]]:.3g})"
            row["certified"] = made.bound
            rows.append(row)
    notes = ("heights in nat, a 9 × 9 grid read as h = 0, 1/8, …, 1", "a tie of minima (plateau, ring) names the first")
    return [Table("Instruments on phantoms", rows, notes), curvature()]


def curvature() -> Table:
    """Compare eigenvalues of the Hessian over the two directions, by autograd and by finite differences."""
    rows = []
    for smooth in (True, False):
        made = phantom("bowl", smooth=smooth, curvatures=(4.0, 16.0), dtype=torch.float64, resolution=8)
        for tool, found in (("autograd", _autograd(made)), ("differences over 1/8", _differences(made, 0.125))):
            low, high = sorted(torch.linalg.eigvalsh(found).tolist())
            rows.append(
                {
                    "bowl": "smooth" if smooth else "sampled",
                    "tool": tool,
                    "eigenvalues": f"{low:.4g}, {high:.4g}",
                    "true": "4, 16" if smooth or tool != "autograd" else "none: affine in cells",
                }
            )
    notes = (
        "at h = (0.5, 0.5) for differences, at (0.55, 0.6), inside a cell, for autograd",
        "sampled, autograd: the truth is affine there; what is found is the bend between knots of the response curve",
    )
    return Table("Second derivatives", rows, notes)


def _at(made: Phantom, h: torch.Tensor) -> nn.Module:
    model = copy.deepcopy(made.model)
    with torch.no_grad():
        for name, value in made.subspace.at(h).items():
            model.get_parameter(name).copy_(value)
    return model


def _loss(made: Phantom, h: torch.Tensor) -> torch.Tensor:
    moved = dict(made.subspace.origin)
    for name in made.subspace.moved:
        parts = [x * d[name] for x, d in zip(h, made.subspace.directions, strict=True) if name in d]
        moved[name] = moved[name] + sum(parts)
    outputs = torch.func.functional_call(made.model, moved, (made.task.data.inputs.double(),))
    losses, counts = made.task.loss_form.terms(outputs, made.task.data.targets)  # type: ignore[misc]
    return losses.sum() / counts.sum()


def _autograd(made: Phantom) -> torch.Tensor:
    at = torch.tensor([0.55, 0.6], dtype=torch.float64)
    found: torch.Tensor = torch.autograd.functional.hessian(lambda h: _loss(made, h), at)  # type: ignore[no-untyped-call]
    return found


def _differences(made: Phantom, step: float) -> torch.Tensor:
    eye, c = step * torch.eye(2, dtype=torch.float64), torch.full((2,), 0.5, dtype=torch.float64)
    with torch.no_grad():
        rows = [
            [
                (_loss(made, c + a + b) - _loss(made, c + a - b) - _loss(made, c - a + b) + _loss(made, c - a - b))
                / (4 * step**2)
                for b in eye
            ]
            for a in eye
        ]
    return torch.tensor(rows)


if __name__ == "__main__":
    for table in study():
        print(table.markdown())
