"""What instruments report on phantoms: heights, axes, the place of the minimum, curvature.

``python -m benchmarks --only phantom_study``; other tools are used where they can be imported (``PYTHONPATH`` may name
an environment of theirs; ``benchmarks/scan/make_peers.sh`` makes one). loss-landscapes returns an array without axes;
its reader takes it to run from the first corner to the last, as its documentation draws it. Landscaper's has
coordinates from −distance to distance, read in units of the norm of the parameters by which it scales directions.
These readings are compared with the truth, and then the axes along which the tool really steps, found in its code.
PyHessian's eigenvalues are those of the two coordinates, as the parameters of a module.
"""

import contextlib
import copy
import io
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

import landform as lf
from benchmarks.report import Table
from landform.testing import Phantom, phantom

NODES = 9
CASES: dict[str, dict[str, Any]] = {
    "tiny": {"names": ("bowl",)},
    "quick": {"names": ("bowl", "constant")},
    "full": {"names": ("bowl", "ravine", "minima", "saddle", "plateau", "ring", "step", "noise", "constant")},
}


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


def landscaper(made: Phantom) -> np.ndarray:
    """Return Landscaper's surface around the middle of the box, [h1, h2], its coordinates read to end at the box's."""
    from landscaper.compute import compute_loss_landscape

    model = _at(made, torch.full((2,), 0.5))
    names = [name for name, _ in model.named_parameters()]
    origin = made.subspace.origin
    directions = [[d.get(name, torch.zeros_like(origin[name])) for name in names] for d in made.subspace.directions]
    norm = float(torch.stack([p.detach().square().sum() for p in model.parameters()]).sum().sqrt())
    data = made.task.data

    def loss(network: nn.Module, _data: object) -> float:
        return float(nn.functional.cross_entropy(network(data.inputs), data.targets))

    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        found, _ = compute_loss_landscape(
            model, None, directions, loss, steps=NODES, distance=0.5 / norm, dim=2, device="cpu"
        )
    return np.asarray(found)


TOOLS: dict[str, Callable[[Phantom], np.ndarray]] = {
    "landform": landform_scan,
    "loss-landscapes": loss_landscapes,
    "landscaper": landscaper,
}


def places(tool: str) -> torch.Tensor:
    """Return where a tool really measured, ``[nodes², 2]``, from its code.

    loss-landscapes and Landscaper divide by the number of nodes where there is one interval less, so that they end
    before the box does; loss-landscapes, going to and fro along h2, also measures every other column one step further.
    """
    i, j = torch.meshgrid(*[torch.arange(NODES, dtype=torch.float64)] * 2, indexing="ij")
    if tool == "loss-landscapes":
        return torch.stack([i / NODES, (j + 1 - i % 2) / NODES], dim=2).reshape(-1, 2)
    h = torch.stack([i, j], dim=2).reshape(-1, 2)
    return 0.5 + (h - NODES // 2) / NODES if tool == "landscaper" else h / (NODES - 1)


def run(names: Sequence[str]) -> list[Table]:
    """Measure phantoms with every tool that is there; then second derivatives on smooth ones."""
    grid = np.linspace(0, 1, NODES)
    rows: list[dict[str, Any]] = []
    for name in names:
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
            real = made.true(places(tool)).reshape(NODES, NODES).numpy()
            row["where it really measured: off by"] = float(np.abs(seen - real).max())
            row["axes swapped: off by"] = float(np.abs(seen.T - truth).max())
            row["minimum seen at"] = f"({grid[low[0]]:.3g}, {grid[low[1]]:.3g})"
            row["truly at"] = f"({grid[true_low[0]]:.3g}, {grid[true_low[1]]:.3g})"
            row["certified"] = made.bound
            rows.append(row)
    notes = (
        "heights in nat, a 9 × 9 grid read as h = 0, 1/8, …, 1",
        "a tie of minima (plateau, ring) names the first",
        "loss-landscapes 3.0.6 and landscaper 1.3.1 step by 1/nodes, not 1/(nodes - 1): both end before the box does",
        "loss-landscapes measures every other column one step further on: its even columns begin at the second node",
        "landscaper adds random noise to the highest values of a surface, of a constant one to all",
    )
    return [Table("Instruments on phantoms", rows, notes), curvature()]


def curvature() -> Table:
    """Compare eigenvalues of the Hessian over the two directions: autograd, finite differences, PyHessian."""
    rows = []
    low: float | str
    high: float | str
    for name, options, true in (
        ("bowl", {"smooth": True, "curvatures": (4.0, 16.0)}, "4, 16"),
        ("bowl", {"smooth": False, "curvatures": (4.0, 16.0), "resolution": 8}, "none: affine in cells"),
        ("saddle", {"smooth": True, "curvature": 8.0}, "-8, 8"),
    ):
        made = phantom(name, dtype=torch.float64, **options)  # type: ignore[arg-type]
        for tool, measure in CURVATURES.items():
            try:
                low, high = (float(value) for value in sorted(measure(made)))
            except ImportError:
                low = high = "not installed"
            wanted = "4, 16" if tool.startswith("differences") and name == "bowl" else true
            form = "smooth" if made.smooth else "sampled"
            rows.append({"phantom": f"{form} {name}", "tool": tool, "smaller": low, "larger": high, "true": wanted})
    notes = (
        "at h = (0.5, 0.5) for differences; at (0.55, 0.6), inside a cell, for autograd and PyHessian",
        "sampled, autograd and PyHessian: the truth is affine there; what is found is the curve's own bend",
        "a piecewise linear surface has no second derivatives to test an instrument by; a smooth one does",
        "PyHessian 0.1 draws float32 vectors: its rows are of the same phantoms in float32",
        "its power iteration does not settle where two eigenvalues have one size and different signs (the saddle)",
    )
    return Table("Second derivatives", rows, notes)


class Plane(nn.Module):
    """A phantom as a module whose only parameters are its two coordinates, in float32."""

    def __init__(self, made: Phantom, at: torch.Tensor) -> None:
        super().__init__()
        self.h = nn.Parameter(at.float())
        self._model = [copy.deepcopy(made.model).float()]  # in a list: no submodule
        self._origin = {name: value.float() for name, value in made.subspace.origin.items()}
        self._directions = [{n: v.float() for n, v in d.items()} for d in made.subspace.directions]

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return the network's outputs at h."""
        moved = dict(self._origin)
        for x, direction in zip(self.h, self._directions, strict=True):
            moved |= {name: moved[name] + x * value for name, value in direction.items()}
        found: torch.Tensor = torch.func.functional_call(self._model[0], moved, (inputs,))
        return found


def _pyhessian(made: Phantom) -> list[float]:
    """Return PyHessian's two eigenvalues of largest size."""
    from pyhessian import hessian

    data = made.task.data
    targets = data.targets.float() if data.targets.is_floating_point() else data.targets

    def loss(outputs: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        losses, counts = made.task.loss_form.terms(outputs, wanted)  # type: ignore[misc]
        return losses.sum() / counts.sum()

    plane = Plane(made, torch.tensor([0.55, 0.6]))
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # backward with create_graph
        torch.manual_seed(0)
        seen = hessian(plane, loss, data=(data.inputs.float(), targets), cuda=False)
        found, _ = seen.eigenvalues(maxIter=200, tol=1e-6, top_n=2)
    return [float(value) for value in found]


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


def _autograd(made: Phantom) -> list[float]:
    at = torch.tensor([0.55, 0.6], dtype=torch.float64)
    found: torch.Tensor = torch.autograd.functional.hessian(lambda h: _loss(made, h), at)  # type: ignore[no-untyped-call]
    return list(torch.linalg.eigvalsh(found).tolist())


def _differences(made: Phantom, step: float = 0.125) -> list[float]:
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
    return list(torch.linalg.eigvalsh(torch.tensor(rows)).tolist())


CURVATURES: dict[str, Callable[[Phantom], list[float]]] = {
    "autograd": _autograd,
    "differences over 1/8": _differences,
    "PyHessian": _pyhessian,
}
