"""Bézier curves: closed form, the plane they lie in, training over a known wall, barriers."""

import copy

import pytest
import torch
from torch import nn

from landform import Task, barrier, between, bezier, scan
from landform.errors import InputError
from landform.subspace import Subspace
from landform.subspace.curve import Curve

torch.set_num_threads(1)


def curve_of(a, c, b):
    return Curve(Subspace({"w": a, "still": torch.ones(2)}, ({"w": c - a}, {"w": b - a})))


def corners(dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(3, 4, generator=generator, dtype=dtype) for _ in range(3)]


class Ring(nn.Module):
    """Outputs |w|²: under "mse" against 1, the loss is 0 on a circle and 1 in its middle."""

    def __init__(self, x, y):
        super().__init__()
        self.w = nn.Parameter(torch.tensor([x, y]))

    def forward(self, inputs):
        return self.w.square().sum().expand(len(inputs), 1)


def ring():
    return Task(Ring(1.0, 0.0), "mse", (torch.zeros(8, 1), torch.ones(8, 1)))


@pytest.mark.parametrize("t", [-0.25, 0.0, 0.3, 0.5, 1.0])
def test_the_closed_form(t):
    a, c, b = corners()
    curve = curve_of(a, c, b)
    want = (1 - t) ** 2 * a + 2 * t * (1 - t) * c + t**2 * b
    h = torch.tensor([t], dtype=torch.float64)
    torch.testing.assert_close(curve.at(h)["w"], want, atol=1e-14, rtol=1e-13)
    assert curve.at(h)["still"] is curve.origin["still"]
    out = {"w": torch.empty_like(a)}
    curve.write(h, out)
    assert torch.equal(out["w"], curve.at(h)["w"])
    x, y = curve.coordinates(h[:, None])[0]
    torch.testing.assert_close(curve.plane.at(torch.stack([x, y]))["w"], want, atol=1e-14, rtol=1e-13)
    backwards = curve_of(b, c, a)
    torch.testing.assert_close(backwards.at(1 - h)["w"], curve.at(h)["w"], atol=1e-14, rtol=1e-13)


def test_a_control_point_half_way_makes_a_straight_line():
    a, _, b = corners()
    line = between({"w": a}, {"w": b})
    curve = curve_of(a, (a + b) / 2, b)
    for t in torch.linspace(0, 1, 5, dtype=torch.float64):
        torch.testing.assert_close(curve.at(t[None])["w"], line.at(t[None])["w"], atol=1e-14, rtol=1e-13)


def test_a_wall_is_gone_round():
    a, b = Ring(1.0, 0.0), Ring(-1.0, 1e-3)
    curve = bezier(ring(), a, b, steps=200, rate=0.05)
    assert curve.meta["barrier_of_line"] == pytest.approx(1, abs=1e-5)
    assert curve.meta["barrier"] < 0.1
    assert torch.equal(curve.at(torch.zeros(1))["w"], a.w)
    torch.testing.assert_close(curve.at(torch.ones(1))["w"], b.w.detach(), atol=1e-7, rtol=0)
    again = bezier(ring(), a, b, steps=200, rate=0.05)
    assert torch.equal(curve.plane.directions[0]["w"], again.plane.directions[0]["w"])
    assert again.hash == curve.hash != bezier(ring(), a, b, steps=200, rate=0.05, seed=1).hash


def test_curves_are_scanned_as_lines_are():
    curve = bezier(ring(), Ring(1.0, 0.0), Ring(0.0, 1.0), steps=5)
    surface = scan(ring(), curve, grid=5)
    assert surface.h1.values.tolist() == [0, 0.25, 0.5, 0.75, 1]
    want = [float(ring().evaluate(curve.at(torch.tensor([t])))) for t in surface.h1.values]
    assert surface.loss.values == pytest.approx(want, abs=1e-7)


def test_two_trained_networks_are_joined():
    def train(seed):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = nn.Sequential(nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 10))
        optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
        for _ in range(40):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(task.data.inputs), task.data.targets).backward()
            optimizer.step()
        return model

    task = Task(nn.Identity(), data="digits")
    a, b = train(0), train(1)
    model = copy.deepcopy(a).train()
    task = Task(model, data=task.data, batch_norm="batch")
    before = copy.deepcopy(model.state_dict())
    curve = bezier(task, a, b, steps=120, points=9)
    assert curve.meta["barrier"] < 0.5 * curve.meta["barrier_of_line"]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())  # statistics too
    assert model[1].training
    assert all(p.grad is None for p in model.parameters())


def test_barriers():
    line = between({"w": torch.tensor([1.0, 0.0])}, {"w": torch.tensor([-1.0, 0.0])})
    found = barrier(ring(), line, points=5)
    assert found.height == pytest.approx(1)
    assert found.highest == 0.5
    assert found.losses.tolist() == pytest.approx([0, 0.5625, 1, 0.5625, 0])
    flat = between({"w": torch.tensor([1.0, 0.0])}, {"w": torch.tensor([1.5, 0.0])})
    assert barrier(ring(), flat).height == 0  # convex: nothing rises above the straight line between the ends
    broken = Task(
        Ring(1.0, 0.0), loss=lambda out, y: (out - 0.5).log().sum(1), data=(torch.zeros(8, 1), torch.ones(8, 1))
    )
    assert barrier(broken, line).height == float("inf")
    with pytest.raises(InputError, match="a barrier is along one coordinate; this subspace has 2"):
        barrier(ring(), curve_of(*corners()).plane)
    with pytest.raises(InputError, match="points is 1; wanted at least the two ends"):
        barrier(ring(), line, points=1)


def test_bad_input():
    with pytest.raises(InputError, match=r"'weight' of the ends has shape \[2, 3\]; the task's Ring has not"):
        bezier(ring(), nn.Linear(3, 2), nn.Linear(3, 2))
    with pytest.raises(InputError, match="a and b have the same parameters"):
        bezier(ring(), Ring(1.0, 0.0), Ring(1.0, 0.0))
    with pytest.raises(InputError, match=r"steps=0, rate=0.02"):
        bezier(ring(), Ring(1.0, 0.0), Ring(0.0, 1.0), steps=0)
    nan = Task(Ring(1.0, 0.0), loss=lambda out, y: (out - 9).log().sum(1), data=(torch.zeros(8, 1), torch.ones(8, 1)))
    with pytest.raises(InputError, match=r"the loss is nan at step 0 .*smaller rate="):
        bezier(nan, Ring(1.0, 0.0), Ring(0.0, 1.0))
    curve = curve_of(*corners())
    with pytest.raises(InputError, match="a point of this curve has 1 finite coordinate"):
        curve.at(torch.zeros(2))
    with pytest.raises(InputError, match=r"the plane of a curve has two directions.*this has 1"):
        Curve(between({"w": torch.zeros(1)}, {"w": torch.ones(1)}))
