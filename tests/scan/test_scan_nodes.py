"""What a scan measures beside the loss: metrics of samples, of points, and several data sets in one call."""

import numpy as np
import pytest
import torch
from torch import nn

import landform as lf
from landform.errors import InputError
from landform.scan import run
from landform.scan.executor import HerePool
from landform.subspace import Subspace

X, Y = torch.randn(20, 3, generator=torch.Generator().manual_seed(0)), torch.arange(20) % 2


def quadratic(metrics):
    """The mean of (w·x − 0)² over x = 1, along w: w², slope 2w, curvature 2."""
    task = lf.Task(nn.Linear(1, 1, bias=False), "mse", (torch.ones(4, 1), torch.zeros(4, 1)), metrics=metrics)
    return task, Subspace({"weight": torch.zeros(1, 1)}, ({"weight": torch.ones(1, 1)},))


def test_gradient_norm_and_curvature_are_measured_at_every_node():
    task, line = quadratic(("gradient_norm", "top_hessian_eigenvalue"))
    surface = lf.scan(task, line, grid=5, ranges=[(-1, 1)])
    np.testing.assert_allclose(surface.loss, surface.h1.values**2, atol=1e-12)
    np.testing.assert_allclose(surface.gradient_norm, 2 * abs(surface.h1.values), atol=1e-12)
    np.testing.assert_allclose(surface.top_hessian_eigenvalue, 2.0, rtol=1e-6)
    assert "gradient_norm_stderr" not in surface


def test_nodes_measured_on_a_subset_have_no_metrics_of_a_point():
    task, line = quadratic("gradient_norm")
    surface = lf.scan(task, line, grid=3, ranges=[(-1, 1)], subset=2)
    assert bool(surface.gradient_norm.isnull().all())


@pytest.mark.parametrize("options", [{}, {"tolerance": 0.3, "check": 0}])
def test_metrics_of_points_are_kept_in_a_store(tmp_path, monkeypatch, options):
    task, line = quadratic(("gradient_norm", "top_hessian_eigenvalue"))
    calls, left = [], [3]
    whole = type(task).node_values

    def counted(self, parameters=None):
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        calls.append(1)
        return whole(self, parameters)

    monkeypatch.setattr(type(task), "node_values", counted)
    where = {"grid": 5, "ranges": [(-1, 1)], "store": tmp_path / "s", **options}
    with pytest.warns(UserWarning, match="gradient_norm, top_hessian_eigenvalue are not measured at all nodes"):
        part = lf.scan(task, line, **where)
    assert part.attrs["complete"] is False
    assert part.gradient_norm.notnull().values.tolist() == [True, False, True, False, True]  # coarse nodes first
    assert bool(part.loss.notnull().all())
    left[0] = 100
    done = lf.scan(task, line, **where)
    assert done.attrs["complete"] is True
    np.testing.assert_allclose(done.gradient_norm, 2 * abs(done.h1.values), atol=1e-12)
    np.testing.assert_allclose(done.top_hessian_eigenvalue, 2.0, rtol=1e-6)
    assert len(calls) == 5
    again = lf.scan(task, line, **where)
    assert len(calls) == 5
    np.testing.assert_array_equal(again.gradient_norm, done.gradient_norm)
    other = task.replace(metrics="gradient_norm")  # another metric of the same scan has a place of its own
    lf.scan(other, line, **where)
    assert len(calls) == 10


def test_an_interrupted_scan_does_not_begin_with_metrics_of_points(monkeypatch):
    task, line = quadratic("gradient_norm")
    monkeypatch.setattr(type(task), "node_values", lambda *_: pytest.fail("Ctrl-C was pressed"))
    compute, told = HerePool.compute, []

    def stops(self, items):
        for answer in compute(self, items):
            if told:
                raise KeyboardInterrupt
            told.append(1)
            yield answer

    monkeypatch.setattr(HerePool, "compute", stops)
    monkeypatch.setattr(run, "TILE_POINTS", 1)
    with pytest.warns(UserWarning, match="interrupted: 1 of 5 points"):
        part = lf.scan(task, line, grid=5, ranges=[(-1, 1)])
    assert bool(part.gradient_norm.isnull().all())
    assert part.attrs["complete"] is False


def test_metrics_of_points_for_several_heads():
    class Heads(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(3, 2), nn.Linear(3, 2)

        def forward(self, x):
            return self.a(x), self.b(x)

    task = lf.Task(Heads(), data=(X, Y), metrics=("accuracy", "gradient_norm"))
    surface = lf.scan(task, lf.random_plane(task, z=1, seed=0), grid=3)
    assert surface.gradient_norm.dims == ("h1", "channel")
    assert surface.accuracy.dims == ("h1", "channel")
    torch.testing.assert_close(torch.tensor(surface.gradient_norm.values[1]), task.node_values(), rtol=1e-5, atol=0)


def test_train_and_test_surfaces_come_out_of_one_call():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    parts = {"train": (X[:12], Y[:12]), "test": (X[12:], Y[12:])}
    for policy in ("frozen", "recalibrate"):
        task = lf.Task(model, data=parts, metrics="accuracy", batch_norm=policy)
        plane = lf.random_plane(task, z=1, seed=0)
        surface = lf.scan(task, plane, grid=3)
        assert surface.loss.dims == ("split", "h1")
        assert surface.split.values.tolist() == ["train", "test"]
        for name in parts:
            np.testing.assert_allclose(surface.loss.sel(split=name)[1], task.split(name).evaluate(), rtol=1e-6)
        other = lf.Task(model, data=(X, Y), metrics="accuracy", batch_norm=policy)
        np.testing.assert_array_equal(lf.scan(other, plane, grid=3, data=parts).loss, surface.loss)


def test_half_precision_weights_make_no_stairs():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        half = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2)).bfloat16()
    plane = lf.random_plane(half, z=1, seed=0)
    surface = lf.scan(lf.Task(half, data=(X, Y)), plane, grid=9, ranges=[(0, 0.002)])
    whole = {name: value.float() for name, value in plane.origin.items()}
    moved = Subspace(whole, tuple({name: part[name].float() for name in part} for part in plane.directions))
    other = lf.scan(lf.Task(half, data=(X, Y)), moved, grid=9, ranges=[(0, 0.002)])
    np.testing.assert_allclose(surface.loss, other.loss, rtol=1e-6)
    assert len(np.unique(surface.loss)) == 9
    assert half[0].weight.dtype == torch.bfloat16


def test_data_are_left_alone_by_a_model_that_writes_into_its_inputs():
    class Writes(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 2)

        def forward(self, x):
            return self.layer(x.mul_(0.5))

    before = X.clone()
    task = lf.Task(Writes(), data=(X, Y))
    surface = lf.scan(task, lf.random_plane(task, z=1, seed=0), grid=3)
    assert torch.equal(X, before)
    wanted = lf.Task(task.model.layer, data=(X / 2, Y)).evaluate()
    np.testing.assert_allclose(surface.loss[1], wanted, rtol=1e-6)


def test_why_some_samples_are_not_enough_is_said():
    task = lf.Task(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)), data=(X, Y), batch_norm="batch")
    with pytest.raises(InputError, match=r"batch_norm='batch' makes statistics of many samples part of each loss, so"):
        lf.scan(task, lf.random_plane(task, z=1, seed=0), grid=3, subset=5)
