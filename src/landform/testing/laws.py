"""The single checks of a tool that measures loss surfaces; `check_scan` runs them."""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from landform.errors import InputError
from landform.testing.diagnose import diagnose
from landform.testing.problem import ScanProblem, pole, quadratic, regression, with_modes

Floats = NDArray[np.float64]
Scanner = Callable[[ScanProblem, Sequence[Floats]], Any]
"""What is checked: a function of a problem and the coordinates along each axis that returns the loss at each node, as
an array ``[n_1, n_2]`` or as a dataset with ``loss`` on ``h1``, ``h2``."""


def _values(result: Any) -> Floats:
    if hasattr(result, "data_vars"):
        axes = sorted((str(dim) for dim in result["loss"].dims if str(dim)[:1] == "h"), key=lambda name: int(name[1:]))
        result = result["loss"].transpose(*axes).values
    values = np.asarray(result, dtype=np.float64)
    if values.ndim != 2:
        raise InputError(f"the scanner returned shape {values.shape}; wanted one value a node, [n_1, n_2]")
    return values


def _lines(n: int = 5, m: int = 8) -> list[Floats]:
    return [np.linspace(-1.0, 0.5, n), np.linspace(-0.25, 1.5, m)]


def _quadratic(scanner: Scanner, tolerance: float) -> str | None:
    problem = quadratic()
    for lines in (_lines(), _lines(6, 6), _lines(7, 2)):
        text = diagnose(_values(scanner(problem, lines)), problem.on(lines), tolerance=tolerance)
        if text is not None:
            return text
    return None


def _regression(scanner: Scanner, tolerance: float) -> str | None:
    problem, lines = regression(), _lines()
    return diagnose(_values(scanner(problem, lines)), problem.on(lines), tolerance=tolerance)


def _swap(scanner: Scanner, tolerance: float) -> str | None:
    problem, lines = regression(seed=1), _lines()
    here = _values(scanner(problem, lines))
    there = _values(scanner(problem.swapped(), lines[::-1]))
    text = diagnose(there.T, here, tolerance=tolerance)
    return None if text is None else f"with the directions swapped the surface is not the transposed one: {text}"


def _flip(scanner: Scanner, tolerance: float) -> str | None:
    problem, lines = regression(seed=2), _lines()
    here = _values(scanner(problem, lines))
    for axis in range(2):
        turned = [-line[::-1] if k == axis else line for k, line in enumerate(lines)]
        there = np.flip(_values(scanner(problem.flipped(axis), turned)), axis)
        text = diagnose(there, here, tolerance=tolerance)
        if text is not None:
            return f"with direction {axis + 1} reversed the surface is not the mirrored one: {text}"
    return None


def _translate(scanner: Scanner, tolerance: float) -> str | None:
    problem, lines, shift = regression(seed=3), _lines(), (0.75, -0.5)
    here = _values(scanner(problem, lines))
    moved = [line - step for line, step in zip(lines, shift, strict=True)]
    text = diagnose(_values(scanner(problem.translated(shift), moved)), here, tolerance=10 * tolerance)
    return None if text is None else f"seen from another origin the surface is not the shifted one: {text}"


def _modes(scanner: Scanner, tolerance: float) -> str | None:
    problem, lines = with_modes(), _lines()
    text = diagnose(_values(scanner(problem, lines)), problem.on(lines), tolerance=tolerance)
    if text is None or not text.startswith("at node"):
        return text
    return f"{text} (BatchNorm by the batch, statistics that drift, or Dropout left on would do this)"


def _not_finite(scanner: Scanner, tolerance: float) -> str | None:
    problem, lines = pole(), [np.linspace(-2.0, 1.0, 7), np.linspace(-1.0, 1.0, 5)]
    return diagnose(_values(scanner(problem, lines)), problem.on(lines), tolerance=tolerance)


def _axes(scanner: Scanner, _: float) -> str | None:
    lines = _lines()
    result = scanner(regression(), lines)
    if not hasattr(result, "data_vars"):
        return None
    for number, line in enumerate(lines, start=1):
        name = f"h{number}"
        if name not in result.coords:
            return f"the dataset has no coordinate {name}"
        found = np.asarray(result[name].values, dtype=np.float64)
        if found.shape != line.shape or not np.allclose(found, line, rtol=0, atol=1e-9):
            ends = f"[{found[0]:.6g}, {found[-1]:.6g}]" if found.size else "nothing"
            wanted = f"[{line[0]:.6g}, {line[-1]:.6g}] with {len(line)}"
            return f"{name} runs over {ends} with {found.size} nodes, wanted {wanted}"
    return None


def _repeat(scanner: Scanner, _: float) -> str | None:
    problem, lines = with_modes(), _lines(3, 3)
    one, two = (_values(scanner(problem, lines)) for _ in range(2))
    if np.array_equal(one, two, equal_nan=True):
        return None
    return f"a second run differs by up to {np.nanmax(np.abs(one - two)):.2g}"


def _state(scanner: Scanner, _: float) -> str | None:
    problem = with_modes()
    model = problem.model
    next(model.parameters()).requires_grad_(False)
    list(model.children())[1].eval()
    before = copy.deepcopy(model.state_dict())
    places = {name: value.data_ptr() for name, value in model.state_dict().items()}
    asked = {name: value.requires_grad for name, value in model.named_parameters()}
    modes = {name: module.training for name, module in model.named_modules()}
    random = torch.get_rng_state()
    scanner(problem, _lines(3, 2))
    wrong = [
        f"{name} was changed" for name, value in model.state_dict().items() if not torch.equal(value, before[name])
    ]
    wrong += [
        f"{name} was replaced by another tensor"
        for name, value in model.state_dict().items()
        if value.data_ptr() != places.get(name)
    ]
    wrong += [
        f"requires_grad of {name} is {value.requires_grad}, was {asked[name]}"
        for name, value in model.named_parameters()
        if value.requires_grad != asked[name]
    ]
    wrong += [
        f"module {name or 'model'} is in {'training' if module.training else 'evaluation'} mode, was in the other"
        for name, module in model.named_modules()
        if module.training != modes[name]
    ]
    wrong += [f"{name} has a gradient" for name, value in model.named_parameters() if value.grad is not None]
    if not torch.equal(torch.get_rng_state(), random):
        wrong.append("PyTorch's global random state was used")
    return "; ".join(wrong) or None


CHECKS: dict[str, Callable[[Scanner, float], str | None]] = {
    "quadratic": _quadratic,
    "regression": _regression,
    "swap": _swap,
    "flip": _flip,
    "translate": _translate,
    "modes": _modes,
    "not_finite": _not_finite,
    "axes": _axes,
    "repeat": _repeat,
    "state": _state,
}
"""Every check by name: a function of the scanner and the tolerance that returns what is wrong, or None."""
