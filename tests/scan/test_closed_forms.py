"""Surfaces that are known on paper: linear regression, and quadratic losses with a given Hessian."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import landform as lf

SEEDS = st.integers(0, 10_000)
SHAPE = st.lists(st.integers(2, 6), min_size=1, max_size=3)


def regression(seed, inputs, outputs, n, dtype=torch.float64):
    """A linear model, data that it does not fit, and the second moments that decide its surface."""
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(n, inputs, generator=draw, dtype=dtype)
    y = torch.randn(n, outputs, generator=draw, dtype=dtype)
    model = nn.Linear(inputs, outputs).to(dtype)
    with torch.no_grad():
        for value in model.parameters():
            value.copy_(torch.randn(value.shape, generator=draw, dtype=dtype))
    return lf.Task(model, loss="mse", data=lf.Data(x, y)), x, y


def subspace(task, z, seed):
    """Random directions in all parameters, orthogonal to nothing in particular."""
    draw = torch.Generator().manual_seed(seed)
    origin = {name: value.detach().clone() for name, value in task.model.named_parameters()}
    steps = tuple({k: torch.randn(v.shape, generator=draw, dtype=v.dtype) for k, v in origin.items()} for _ in range(z))
    return lf.Subspace(origin, steps)


def paper(space, x, y, h):
    """mean ‖X̃(W + Σ h_i D_i) − Y‖², with the bias as a column of ones: a quadratic form in (1, h)."""
    wide = torch.cat([x, torch.ones(len(x), 1, dtype=x.dtype)], 1)

    def residual(parameters):
        return wide @ torch.cat([parameters["weight"], parameters["bias"][:, None]], 1).T

    columns = [(residual(space.origin) - y).reshape(-1), *(residual(step).reshape(-1) for step in space.directions)]
    gram = torch.stack(columns) @ torch.stack(columns).T / y.numel()
    one = torch.cat([torch.ones(len(h), 1, dtype=h.dtype), h], 1)
    return ((one @ gram) * one).sum(1)


@given(SEEDS, SHAPE, st.integers(1, 5), st.integers(1, 3), st.integers(1, 30))
@settings(max_examples=15, deadline=None)
def test_linear_regression_has_the_surface_of_its_second_moments(seed, shape, inputs, outputs, n):
    task, x, y = regression(seed, inputs, outputs, n)
    space = subspace(task, len(shape), seed + 1)
    ranges = [(-1.5, 1.0), (0.0, 2.0), (-3.0, -1.0)][: len(shape)]
    surface = lf.scan(task, space, grid=shape, ranges=ranges, progress=False)
    h = torch.cartesian_prod(
        *(torch.linspace(*r, k, dtype=torch.float64) for r, k in zip(ranges, shape, strict=True))
    ).reshape(-1, len(shape))
    wanted = paper(space, x, y, h).reshape(shape)
    np.testing.assert_allclose(surface.loss.values.reshape(shape), wanted, rtol=1e-9, atol=1e-10)


def test_a_regression_is_found_within_its_intervals_from_few_samples():
    """A quadratic surface: surpluses fall fourfold a level and never vanish."""
    task, x, y = regression(3, 4, 2, 3000)
    space = subspace(task, 2, 4)
    found = lf.scan(task, space, grid=65, ranges=[(-1, 1)] * 2, tolerance=0.01, progress=False)
    h = torch.cartesian_prod(*(torch.linspace(-1, 1, 65, dtype=torch.float64),) * 2)
    wanted = paper(space, x, y, h).numpy()
    measured = found.samples.values.reshape(-1) > 0
    low, high = found.loss_lower.values.reshape(-1), found.loss_upper.values.reshape(-1)
    assert bool(((wanted >= low - 1e-9) & (wanted <= high + 1e-9))[measured].all())
    assert float(np.abs(found.loss.values.reshape(-1) - wanted).max()) <= found.attrs["loss_tolerance"]
    assert found.attrs["evaluations"] < 65 * 65 / 10


class Bowl(nn.Module):
    """½(w − c)ᵀA(w − c) with a Hessian A of chosen eigenvalues, whatever the input."""

    def __init__(self, values, seed):
        super().__init__()
        draw = torch.Generator().manual_seed(seed)
        turn, _ = torch.linalg.qr(torch.randn(len(values), len(values), generator=draw, dtype=torch.float64))
        self.register_buffer("hessian", turn @ torch.diag(torch.tensor(values, dtype=torch.float64)) @ turn.T)
        self.register_buffer("turn", turn)
        self.w = nn.Parameter(torch.randn(len(values), generator=draw, dtype=torch.float64))

    def forward(self, x):
        return (0.5 * self.w @ self.hessian @ self.w).expand(len(x))


@given(SEEDS, st.lists(st.floats(-5, 5), min_size=2, max_size=5))
@settings(max_examples=15, deadline=None)
def test_a_quadratic_loss_is_a_parabola_along_each_eigenvector(seed, values):
    model = Bowl(values, seed)
    data = lf.Data(torch.zeros(3, 1).double(), torch.zeros(3).double())
    task = lf.Task(model, loss=lambda outputs, _: outputs, data=data)
    k = seed % len(values)
    line = lf.Subspace({"w": model.w.detach().clone()}, ({"w": model.turn[:, k].clone()},))
    surface = lf.scan(task, line, grid=9, ranges=[(-2, 2)], progress=False)
    h = surface.h1.values
    slope = float((model.hessian @ model.w.detach()) @ model.turn[:, k])
    wanted = float(model(torch.zeros(1, 1))[0].detach()) + slope * h + 0.5 * values[k] * h**2
    np.testing.assert_allclose(surface.loss.values, wanted, rtol=1e-9, atol=1e-9)
