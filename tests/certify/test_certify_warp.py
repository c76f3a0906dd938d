"""Registers written as functions of where the network sees h: against brute force, and against adversarial rounding."""

import copy
import sys

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from torch import nn

import landform as lf
from landform.certify.field import Field
from landform.certify.warp import Warp, is_plain, warped
from landform.mesh import Mesh
from landform.testing.networks import Dense, Inverted, with_statistics

torch.set_num_threads(1)
UNIT = 2.0**-24
X, Y = torch.randn(20, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(20) % 4
prove_module = sys.modules["landform.certify.prove"]


def interpolated(mesh, value, index, low=0):
    """Evaluate P1 functions at points given in cells, any origin; a naive sum over the path of a Kuhn simplex."""
    grid = value.reshape(len(value), *mesh.shape)
    out = []
    for point in index + low:
        corner = np.minimum(np.floor(point).astype(int), np.array(mesh.cells) - 1)
        rest = point - corner
        order = np.argsort(-rest)
        at, last = corner.copy(), 1.0
        total = np.zeros(len(value))
        for k in order:
            total += (last - rest[k]) * grid[(slice(None), *at)]
            at[k] += 1
            last = rest[k]
        out.append(total + last * grid[(slice(None), *at)])
    return np.array(out).T


def example(cells=(3, 4), size=2e-5, positive=True):
    """Return registers n·h_2 + 1, n·h_1, half of n·h_1, a constant, with errors up to ``size``."""
    mesh = Mesh(cells)
    first, second = mesh.indices().numpy().T.astype(float)
    value = np.stack([second + 1, first, first / 2, np.full(mesh.n_nodes, 3.0)])
    error = size * np.random.default_rng(0).random(value.shape)
    field = Field.dense(mesh, value, error, np.array([0.0, 0.0, size, 0.0]))
    field.positive[:] = positive
    return field


@pytest.mark.parametrize("positive", [True, False])
def test_what_a_network_may_compute_is_inside_the_field_at_g(positive):
    """Draw the errors that the field allows, at corners too, and solve for g."""
    field = example(positive=positive)
    at_g, warp = warped(field, UNIT)
    low = np.array(at_g.mesh.cells) - np.array(field.mesh.cells) - 1
    assert tuple(low) == ((0, 1) if positive else (1, 1))
    rng = np.random.default_rng(1)
    index = rng.random((500, 2)) * np.array(field.mesh.cells)
    index[::5] = np.array(field.mesh.cells)
    index[1::5, 0] = 0.0
    exact = interpolated(field.mesh, field.value, index)
    radius = interpolated(field.mesh, field.error, index) + field.kink[:, None]
    computed = exact + radius * rng.choice([-1.0, 1.0, 0.3], size=exact.shape)
    if positive:
        computed = np.maximum(computed, 0.0)
    g = np.stack([computed[1], computed[0] - 1], axis=1)
    assert (np.abs(g - index) <= (warp.exact + warp.rounded) * (1 + 1e-9)).all()
    assert (np.abs(g - index).max(axis=0) > 0.9 * (warp.exact + warp.rounded)).all()  # and no larger than need be
    found = interpolated(at_g.mesh, at_g.value, g, low)
    allowed = interpolated(at_g.mesh, at_g.error, g, low)
    assert (np.abs(found - computed) <= allowed + 1e-14).all()
    assert at_g.error[:2].max() < 1e-14


def test_bounds_come_back_to_the_box():
    """Any function at g against its value at the nearest point of the box."""
    field = example()
    at_g, warp = warped(field, UNIT)
    low = np.array([0, 1])
    rng = np.random.default_rng(2)
    index = rng.random((300, 2)) * np.array(field.mesh.cells)
    index[::2] = np.array(field.mesh.cells) * rng.integers(0, 2, (150, 2))
    away = rng.choice([-1.0, 1.0, 0.5], size=index.shape) * (warp.exact + warp.rounded)
    g = np.maximum(index + away, -low)
    g = np.minimum(g, np.array(field.mesh.cells) + 1)
    g[:, 0] = np.maximum(g[:, 0], 0.0)
    near = np.clip(g, 0, np.array(field.mesh.cells))
    value = rng.normal(size=(3, at_g.mesh.n_nodes))
    there = interpolated(at_g.mesh, value, g, low)
    here = interpolated(field.mesh, warp.inside(value), near)
    for row, difference in zip(value, there - here, strict=True):
        fall, rise, steep = warp.beyond(row)
        assert -fall - 1e-14 <= difference.min() < 0 < difference.max() <= rise + 1e-14
        assert np.abs(difference).max() <= steep @ (warp.exact + warp.rounded) + 1e-14
    bound = np.abs(value)
    assert (interpolated(at_g.mesh, bound, g, low) <= interpolated(field.mesh, warp.radius(bound), near) + 1e-15).all()
    pattern = rng.random(field.mesh.n_nodes)
    size = warp.exact[:, None] + interpolated(field.mesh, warp.around, index)
    near = np.clip(index + rng.choice([-1.0, 1.0, 0.5], size=index.shape) * size.T, 0, np.array(field.mesh.cells))
    moved = interpolated(field.mesh, pattern[None], near) - interpolated(field.mesh, pattern[None], index)
    assert np.abs(moved).max() <= sum(warp.slip(pattern))
    still = Warp.none(field.mesh)
    assert still.reach == max(still.beyond(pattern)[:2]) == sum(still.slip(pattern)) == 0.0


@pytest.mark.parametrize("cells", [(9,), (7, 8), (3, 4, 5)])
def test_where_little_is_rounded_a_steep_pattern_slips_little(cells):
    """Against a search over pairs h, g: sound, and far below the steepest cell times the largest distance."""
    mesh, z, rng = Mesh(cells), len(cells), np.random.default_rng(4)
    index = mesh.indices().numpy().T.astype(float)
    around = 0.4 * index / np.array(cells)[:, None]  # as roundings of h: they grow with it
    pattern = np.where(index.max(axis=0) < 2.5, rng.random(mesh.n_nodes), 0.1 * rng.random(mesh.n_nodes))
    still = np.zeros(z)
    warp = Warp(mesh, mesh, still, still, np.arange(mesh.n_nodes), still, around.max(axis=1), around)
    h = rng.random((4000, z)) * np.array(cells)
    h[::2] = np.clip(np.round(h[::2]) + 0.05 * rng.choice([-1, 1], size=h[::2].shape), 0, np.array(cells))
    far = interpolated(mesh, around, h).T
    g = np.clip(h + rng.choice([-1.0, 1.0], size=h.shape) * far, 0, np.array(cells))
    moved = np.abs(interpolated(mesh, pattern[None], g) - interpolated(mesh, pattern[None], h)).max()
    steep = np.array([np.abs(np.diff(pattern.reshape(mesh.shape), axis=k)).max() for k in range(z)])
    found = sum(warp.slip(pattern))
    assert 0.4 * found < moved <= found < 0.8 * float(warp.rounded @ steep)
    assert sum(warp.slip(np.ones(mesh.n_nodes), np.full(z, 2.0))) == 0.0  # no g lies outside: there is no way there
    outside = Warp(mesh, mesh, still, np.ones(z), np.arange(mesh.n_nodes), still, around.max(axis=1), around)
    assert sum(outside.slip(np.ones(mesh.n_nodes), np.full(z, 2.0))) == pytest.approx(2 * 0.4 * z)


def test_only_registers_on_their_way_are_moved():
    field = example()
    assert is_plain(field)
    hinge = Field.dense(field.mesh, np.maximum(field.value - 1, 0), field.error, field.kink)
    assert not is_plain(hinge)
    assert warped(example(size=UNIT), UNIT) is None  # nothing is won
    one = Field.dense(field.mesh, field.value[[1, 3]], field.error[[1, 3]], np.zeros(2))
    assert warped(one, UNIT) is None  # the second coordinate is nowhere
    far = example(size=0.7)
    assert warped(far, UNIT) is None  # g would leave the larger mesh
    sparse = sp.csr_matrix(field.value)
    rows = np.arange(4)
    empty = np.zeros((0, field.mesh.n_nodes))
    hats = Field(field.mesh, rows[:0], empty, empty, rows, sparse, sparse, field.kink, sparse, field.positive)
    assert not is_plain(hats)


def block(inputs, width):
    return nn.Sequential(nn.Conv2d(inputs, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())


def deep(seed=0):
    """Return a net whose registers pass many norms before there is room for hats."""
    layers = [block(3, 5), *(block(5, 5) for _ in range(16)), block(5, 64), block(64, 64), block(64, 64)]
    tail = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 4)]
    return with_statistics(nn.Sequential(*layers, *tail), seed)


def perturbed_losses(imprint, h, factors):
    """Evaluate in float64 with the output of every norm multiplied by 1 + 6u·f, f in [−1, 1] a channel and call."""
    model = copy.deepcopy(imprint.model).double()
    hooks = []
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):

            def moved(norm, inputs, output):
                scale = (norm.weight / (norm.running_var + norm.eps).sqrt())[:, None, None]
                return output + 6 * UNIT * factors(norm.num_features)[:, None, None] * scale * inputs[0]

            hooks.append(module.register_forward_hook(moved))
    out = []
    for point in h:
        state = {k: v.double() for k, v in imprint.subspace.at(point.float()).items()}
        with torch.no_grad():
            outputs = torch.func.functional_call(model, state, (X[:1].double(),))
        out.append(imprint.response.loss(outputs)[0])
    return torch.stack(out)


CHECKERS = lf.Pattern((torch.arange(5)[:, None] + torch.arange(5)).remainder(2).double(), name="checkers")


def points(count=12):
    rng = torch.Generator().manual_seed(3)
    nodes = CHECKERS.mesh.nodes()
    return torch.cat([nodes, nodes[-6:] - 1e-3 * torch.rand(6, 2, generator=rng), torch.rand(count, 2, generator=rng)])


def test_norms_that_all_round_the_same_way_stay_inside_the_bound(monkeypatch):
    imprint = lf.imprint(CHECKERS, lf.Task(deep(), data=(X, Y)), form="hats")
    certificate = imprint.certificate
    assert certificate.holds
    h = points().float().double().clamp(0, 1)
    target = imprint.target(h)
    still = perturbed_losses(imprint, h, torch.zeros)
    worst = 0.0
    for signs in (torch.tensor([1.0, -1.0]), torch.tensor([-1.0, 1.0]), torch.ones(2), -torch.ones(2)):
        found = perturbed_losses(imprint, h, lambda size, s=signs: s.double().repeat(size)[:size])
        assert (found - target).abs().max() <= certificate.bound
        worst = max(worst, float((found - still).abs().max()))
    assert 0.15 * certificate.rounding <= worst <= certificate.rounding
    monkeypatch.setattr(prove_module, "warped", lambda *_: None)  # as if each hinge read coordinates of its own
    assert lf.certify(imprint).rounding > 2 * certificate.rounding


@pytest.mark.parametrize("name", ["inverted", "dense", "deep"])
def test_random_rounding_at_every_norm_stays_inside_the_bound(name):
    stem = block(3, 40)
    tail = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(40, 4)]
    net = {
        "inverted": lambda: nn.Sequential(stem, *(Inverted(40, 2) for _ in range(4)), *tail),
        "dense": lambda: nn.Sequential(
            stem, Dense(40, 30), Dense(70, 30), Dense(100, 30), nn.BatchNorm2d(130), nn.ReLU(), block(130, 40), *tail
        ),
        "deep": deep,
    }[name]
    net = with_statistics(net().eval(), 1)
    imprint = lf.imprint(CHECKERS, lf.Task(net, data=(X, Y)))
    assert imprint.certificate.holds
    h = points().float().double().clamp(0, 1)
    generator = torch.Generator().manual_seed(5)
    found = perturbed_losses(
        imprint, h, lambda size: 2 * torch.rand(size, generator=generator, dtype=torch.float64) - 1
    )
    assert (found - imprint.target(h)).abs().max() <= imprint.certificate.bound
