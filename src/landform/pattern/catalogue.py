"""The catalogue of formulas: landscapes that optimisers are usually shown, and a few made to be looked at.

Definitions and domains follow M. Jamil and X.-S. Yang, *A literature survey of benchmark functions for global
optimisation problems* (2013), save where a comment says otherwise. Every function takes points ``[points, z]`` of its
domain and returns ``[points]``.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from jaxtyping import Float64
from torch import Tensor

from landform.errors import InputError

Points = Float64[Tensor, "points z"]
Values = Float64[Tensor, "points"]
Coordinates = Float64[Tensor, "*shape"]


@dataclass(frozen=True)
class Formula:
    """A formula, where it is usually looked at, and in which dimensions.

    Attributes:
        function: ``[points, z]`` to ``[points]``; keyword arguments are its parameters.
        line: One line that says what it looks like.
        domain: One (low, high) for every axis, or one per axis.
        dims: Least and most z; None where there is no most.
        axis: f_i of one coordinate, for formulas that are a sum Σ f(x_i), else None.

    Example:
        >>> CATALOGUE["himmelblau"].dims
        (2, 2)
    """

    function: Callable[..., Values]
    line: str
    domain: tuple[tuple[float, float], ...]
    dims: tuple[int, int | None] = (1, None)
    axis: Callable[[Coordinates], Coordinates] | None = None

    def bounds(self, z: int) -> tuple[tuple[float, float], ...]:
        """Return (low, high) for each of z axes."""
        return self.domain if len(self.domain) == z else self.domain * z


def _square(x: Coordinates) -> Coordinates:
    return x**2


def _rastrigin(x: Coordinates) -> Coordinates:
    return 10 + x**2 - 10 * torch.cos(2 * math.pi * x)


def _styblinski_tang(x: Coordinates) -> Coordinates:
    return (x**4 - 16 * x**2 + 5 * x) / 2


def _sum_of(axis: Callable[[Coordinates], Coordinates]) -> Callable[[Points], Values]:
    return lambda x: axis(x).sum(dim=1)


def _rosenbrock(x: Points) -> Values:
    return (100 * (x[:, 1:] - x[:, :-1] ** 2) ** 2 + (1 - x[:, :-1]) ** 2).sum(dim=1)


def _ackley(x: Points) -> Values:
    bowl = -20 * torch.exp(-0.2 * (x**2).mean(dim=1).sqrt())
    return bowl - torch.exp(torch.cos(2 * math.pi * x).mean(dim=1)) + 20 + math.e


def _griewank(x: Points) -> Values:
    root = torch.arange(1, x.shape[1] + 1, dtype=x.dtype).sqrt()
    return 1 + (x**2).sum(dim=1) / 4000 - torch.cos(x / root).prod(dim=1)


def _himmelblau(x: Points) -> Values:
    a, b = x.unbind(1)
    return (a**2 + b - 11) ** 2 + (a + b**2 - 7) ** 2


def _monkey_saddle(x: Points) -> Values:
    a, b = x.unbind(1)
    return a**3 - 3 * a * b**2


def _ripples(x: Points, *, waves: float | int = 4) -> Values:
    _positive(waves=waves)
    r = (x**2).sum(dim=1).sqrt()
    return torch.exp(-1.5 * r) * torch.cos(2 * math.pi * waves * r)


def _spiral(x: Points, *, turns: float | int = 3) -> Values:
    _positive(turns=turns)
    r = (x**2).sum(dim=1).sqrt()  # the factor r makes the centre, where the angle jumps, continuous
    return r * torch.cos(torch.atan2(x[:, 1], x[:, 0]) - 2 * math.pi * turns * r)


def _checkerboard(x: Points, *, squares: float | int = 8) -> Values:
    _positive(squares=squares)
    square = (x * squares).floor().clamp(max=math.ceil(squares) - 1)
    return square.sum(dim=1).remainder(2)


def _mandelbrot(x: Points, *, iterations: float | int = 40) -> Values:
    """Smoothed escape time of c ↦ c² + c, normalised so that the set itself is the plateau at ``iterations``."""
    _positive(iterations=iterations)
    c = torch.complex(x[:, 0].contiguous(), x[:, 1].contiguous())
    w = torch.zeros_like(c)
    time = torch.full_like(x[:, 0], float(iterations))
    alive = torch.ones_like(x[:, 0], dtype=torch.bool)
    for k in range(int(iterations)):
        w = torch.where(alive, w * w + c, w)
        out = alive & (w.abs() > 16)
        time[out] = (k + 1 - torch.log2(torch.log2(w[out].abs()) / 4)).clamp(0, float(iterations))
        alive &= ~out
    return time


def _positive(**parameters: float | int) -> None:
    for name, value in parameters.items():
        try:
            fits = 0 < value <= 10_000
        except TypeError:
            fits = False
        if not fits:
            raise InputError(f"{name} must be a number in (0, 10000], got {value!r}")


CATALOGUE: Mapping[str, Formula] = MappingProxyType(
    {
        "ackley": Formula(_ackley, "a funnel in a field of dimples, any z", ((-5.0, 5.0),)),
        "checkerboard": Formula(_checkerboard, "cliffs between 0 and 1, any z; squares=8 an axis", ((0.0, 1.0),)),
        # customary are ±600, where a grid of 64 cells has three waves to a cell and shows moiré
        "griewank": Formula(_griewank, "a shallow bowl under a product of cosines, any z", ((-10.0, 10.0),)),
        "himmelblau": Formula(_himmelblau, "four equal minima, z = 2", ((-5.0, 5.0),), (2, 2)),
        "mandelbrot": Formula(
            _mandelbrot,
            "escape time around the Mandelbrot set, z = 2; iterations=40",
            ((-2.0, 0.5), (-1.25, 1.25)),
            (2, 2),
        ),
        "monkey-saddle": Formula(_monkey_saddle, "a saddle with a place for the tail, z = 2", ((-1.0, 1.0),), (2, 2)),
        "rastrigin": Formula(
            _sum_of(_rastrigin), "a bowl full of local minima, any z (a sum)", ((-5.12, 5.12),), axis=_rastrigin
        ),
        "ripples": Formula(_ripples, "rings that fade outward, any z; waves=4", ((-1.0, 1.0),)),
        "rosenbrock": Formula(
            _rosenbrock, "a curved valley, z ≥ 2; log=True makes its floor visible", ((-2.048, 2.048),), (2, None)
        ),
        "sphere": Formula(_sum_of(_square), "a round bowl, any z (a sum)", ((-5.12, 5.12),), axis=_square),
        "spiral": Formula(_spiral, "an Archimedean spiral, z = 2; turns=3", ((-1.0, 1.0),), (2, 2)),
        "styblinski-tang": Formula(
            _sum_of(_styblinski_tang),
            "2^z minima, one of them deepest, any z (a sum)",
            ((-5.0, 5.0),),
            axis=_styblinski_tang,
        ),
    }
)
"""Formulas by name."""
