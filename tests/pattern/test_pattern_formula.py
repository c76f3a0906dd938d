"""Formulas against written-out references and known minima."""

import cmath
import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from landform.errors import InputError, UnknownNameError
from landform.pattern import Pattern, formulas
from landform.pattern.catalogue import CATALOGUE

torch.set_num_threads(1)


def rosenbrock(x: list[float]) -> float:
    return sum(100 * (b - a * a) ** 2 + (1 - a) ** 2 for a, b in itertools.pairwise(x))


def ackley(x: list[float]) -> float:
    z = len(x)
    bowl = 20 * math.exp(-0.2 * math.sqrt(sum(t * t for t in x) / z))
    return 20 + math.e - bowl - math.exp(sum(math.cos(2 * math.pi * t) for t in x) / z)


def griewank(x: list[float]) -> float:
    product = math.prod(math.cos(t / math.sqrt(i)) for i, t in enumerate(x, start=1))
    return 1 + sum(t * t for t in x) / 4000 - product


def mandelbrot(x: list[float]) -> float:
    w = 0j
    for k in range(40):
        w = w * w + complex(*x)
        if abs(w) > 16:
            return max(0.0, k + 1 - math.log2(math.log(abs(w)) / math.log(16)))
    return 40.0


def ripples(x: list[float]) -> float:
    r = math.hypot(*x)
    return math.exp(-1.5 * r) * math.cos(8 * math.pi * r)


def spiral(x: list[float]) -> float:
    w = complex(*x)
    return (w * cmath.exp(-6j * math.pi * abs(w))).real


REFERENCE: dict[str, Callable[[list[float]], float]] = {
    "ackley": ackley,
    "checkerboard": lambda x: sum(min(int(8 * t), 7) for t in x) % 2,
    "griewank": griewank,
    "himmelblau": lambda x: (x[0] ** 2 + x[1] - 11) ** 2 + (x[0] + x[1] ** 2 - 7) ** 2,
    "mandelbrot": mandelbrot,
    "monkey-saddle": lambda x: (complex(*x) ** 3).real,
    "rastrigin": lambda x: 10 * len(x) + sum(t * t - 10 * math.cos(2 * math.pi * t) for t in x),
    "ripples": ripples,
    "rosenbrock": rosenbrock,
    "sphere": lambda x: sum(t * t for t in x),
    "spiral": spiral,
    "styblinski-tang": lambda x: sum(t**4 - 16 * t * t + 5 * t for t in x) / 2,
}


def test_every_formula_has_a_reference_and_a_line() -> None:
    assert set(formulas()) == set(REFERENCE) == set(CATALOGUE)
    assert all(10 < len(line) < 90 and "\n" not in line for line in formulas().values())
    assert list(formulas()) == sorted(formulas())


@pytest.mark.parametrize("name", sorted(REFERENCE))
@pytest.mark.parametrize("z", [1, 2, 3, 4])
def test_values_match_the_reference(name: str, z: int) -> None:
    least, most = CATALOGUE[name].dims
    if z < least or (most is not None and z > most):
        with pytest.raises(InputError, match=rf"{name} is defined for z . {least}, got z = {z}"):
            Pattern.from_formula(name, z=z)
        return
    pattern = Pattern.from_formula(name, z=z, resolution=5)
    bounds = np.array(pattern.source["domain"])
    assert bounds.shape == (z, 2)
    lo, hi = pattern.source["range"]
    nodes = pattern.mesh.nodes().numpy()
    wanted = np.array([REFERENCE[name](list(bounds[:, 0] + h * (bounds[:, 1] - bounds[:, 0]))) for h in nodes])
    assert np.allclose(lo + (hi - lo) * pattern.values.flatten().numpy(), wanted, atol=1e-9 * max(1, hi - lo))
    assert (lo, hi) == pytest.approx((wanted.min(), wanted.max()), abs=1e-9 * max(1, hi - lo))
    assert (pattern.floor, pattern.ceiling) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("name", "where", "least"),
    [
        ("sphere", (0.0, 0.0), 0.0),
        ("rastrigin", (0.0, 0.0), 0.0),
        ("ackley", (0.0, 0.0), 0.0),
        ("griewank", (0.0, 0.0), 0.0),
        ("rosenbrock", (1.0, 1.0), 0.0),
        ("himmelblau", (3.0, 2.0), 0.0),
        ("himmelblau", (3.584428, -1.848126), 0.0),
        ("styblinski-tang", (-2.903534, -2.903534), -78.33233),
    ],
)
def test_known_minima(name: str, where: tuple[float, float], least: float) -> None:
    value = CATALOGUE[name].function(torch.tensor([where], dtype=torch.float64))
    assert float(value[0]) == pytest.approx(least, abs=1e-4)
    low, high = zip(*CATALOGUE[name].bounds(2), strict=True)
    assert all(a < w < b for a, w, b in zip(low, where, high, strict=True))


def test_symmetries() -> None:
    values = {name: Pattern.from_formula(name, resolution=8).values for name in formulas()}
    for name in ("sphere", "rastrigin", "ackley", "ripples"):
        assert torch.allclose(values[name], values[name].T, atol=1e-12)
        assert torch.allclose(values[name], values[name].flip(0), atol=1e-12)
    assert torch.allclose(values["mandelbrot"], values["mandelbrot"].flip(1), atol=1e-12)
    assert torch.allclose(values["monkey-saddle"], 1 - values["monkey-saddle"].flip(0), atol=1e-12)


def test_log_shows_the_valley_and_keeps_the_order() -> None:
    plain = Pattern.from_formula("rosenbrock", resolution=16)
    log = Pattern.from_formula("rosenbrock", resolution=16, log=True)
    lo, hi = log.source["range"]
    assert log.source["range"] == plain.source["range"]
    assert torch.allclose(log.values, torch.log1p(plain.values * (hi - lo)) / math.log1p(hi - lo), atol=1e-12)
    assert log.values.median() > 9 * plain.values.median()
    order = plain.values.flatten().argsort(stable=True)
    assert bool((log.values.flatten()[order].diff() >= -1e-15).all())
    assert log.source["options"]["log"] is True


def test_options_reach_the_formula() -> None:
    squares = Pattern.from_formula("checkerboard", resolution=3, squares=4).values
    assert torch.equal(squares, torch.tensor([[0, 1, 0, 1], [1, 0, 1, 0]] * 2, dtype=torch.float64))
    inverted = Pattern.from_formula("sphere", resolution=4, invert=True)
    assert torch.equal(inverted.values, 1 - Pattern.from_formula("sphere", resolution=4).values)
    moved = Pattern.from_formula("sphere", resolution=4, domain=(0.0, 2.0), z=1)
    assert moved.values.tolist() == [0.0, 1 / 16, 1 / 4, 9 / 16, 1.0]
    assert moved.source["domain"] == [[0.0, 2.0]]


def test_default_resolutions() -> None:
    assert [Pattern.from_formula("sphere", z=z).resolution[0] for z in (1, 2, 3, 4)] == [64, 64, 64, 16]


@pytest.mark.parametrize("spelling", ["monkey-saddle", "monkey_saddle", "Monkey Saddle"])
def test_spellings(spelling: str) -> None:
    assert Pattern.from_formula(spelling, resolution=4).ceiling == 1


def test_unfit_formulas() -> None:
    with pytest.raises(UnknownNameError, match="unknown formula 'spere': did you mean 'sphere'"):
        Pattern.from_formula("spere")
    with pytest.raises(InputError, match=r"no option 'circles'; its options: .*invert, squares"):
        Pattern.from_formula("checkerboard", circles=3)
    with pytest.raises(InputError, match=r"squares must be a number in \(0, 10000\], got -1"):
        Pattern.from_formula("checkerboard", squares=-1)
    with pytest.raises(InputError, match="iterations must be a number"):
        Pattern.from_formula("mandelbrot", iterations="many")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="checkerboard at these nodes is constant"):
        Pattern.from_formula("checkerboard", squares=1)
    for domain in ((1.0, 1.0), (2.0, 1.0), (0.0, math.inf), (1.0,), 3.0):
        with pytest.raises(InputError, match="domain must be a pair"):
            Pattern.from_formula("sphere", domain=domain)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="z = 5"):
        Pattern.from_formula("sphere", z=5)
