"""`scan(tolerance=…)` on a real network: within its tolerance, its intervals, its store, its errors."""

import numpy as np
import pytest
import torch
from torch import nn

import landform as lf
from landform.errors import InputError


@pytest.fixture(scope="module")
def trained():
    torch.manual_seed(0)
    digits = lf.load_data("digits")
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(80):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(digits.inputs), digits.targets).backward()
        optimizer.step()
    task = lf.Task(model, loss="cross_entropy", data=digits, metrics=("accuracy",))
    return task, lf.random_plane(task, seed=0)


def test_a_tolerance_holds_at_a_fraction_of_the_work(trained):
    task, plane = trained
    where = {"grid": 33, "ranges": [(-1, 1), (-1, 1)]}
    exact = lf.scan(task, plane, **where)
    surface = lf.scan(task, plane, **where, tolerance=0.02)
    error = np.abs(surface.loss.values - exact.loss.values)
    assert error.max() <= surface.attrs["loss_tolerance"]
    assert surface.attrs["evaluations"] < 1089 / 4
    measured = surface.samples.values > 0
    assert (surface.loss_upper.values - surface.loss.values)[measured].max() <= 1.3 * surface.attrs["loss_tolerance"]
    rounding = 1e-6  # engines may take samples in other blocks
    for name in ("loss", "accuracy"):
        inside = (surface[f"{name}_lower"] <= exact[name] + rounding) & (
            exact[name] - rounding <= surface[f"{name}_upper"]
        )
        assert bool(inside.values[measured].all())
    assert set(np.unique(surface.status.values)) <= {0, 1}
    assert (surface.status.values[~measured] == 1).all()


def test_a_scan_can_be_replayed_from_its_store(trained, tmp_path):
    task, plane = trained
    options = {"grid": 17, "ranges": [(-1, 1), (-1, 1)], "tolerance": 0.05, "store": tmp_path / "scan.zarr"}
    first = lf.scan(task, plane, **options)
    again = lf.scan(task, plane, **options)
    assert first.loss.equals(again.loss)
    assert first.loss_stderr.equals(again.loss_stderr)
    assert again.attrs["stored_evaluations"] > 0


def test_a_tolerance_has_a_fine_grid_by_default(trained):
    task, plane = trained
    surface = lf.scan(task, plane, tolerance=0.2, check=0)
    assert surface.loss.shape == (129, 129)
    assert surface.attrs["evaluations"] < 33**2 / 4
    assert lf.scan(task, plane, axes=(1,), tolerance=("absolute", 1.0), check=0).loss.shape == (257,)
    assert lf.scan(task, plane, axes=(2,)).loss.shape == (65,)


@pytest.mark.filterwarnings("ignore:between the nodes")  # a coarse grid, to be quick
def test_surfaces_with_a_tolerance_can_be_saved(trained, tmp_path):
    task, plane = trained
    surface = lf.scan(task, plane, grid=9, tolerance=("absolute", 0.1), check=2)
    surface.landform.to_netcdf(tmp_path / "surface.nc")
    assert surface.attrs["loss_check_points"] == 2
    assert surface.attrs["loss_tolerance"] == 0.1


def test_a_tolerance_that_all_samples_cannot_give_is_a_warning(trained):
    task, plane = trained
    with pytest.warns(UserWarning, match=r"not reached: intervals are up to ±[0-9.]+, .* bring more data"):
        surface = lf.scan(task, plane, grid=5, tolerance=0.001, target="population", check=0)
    assert surface.attrs["tolerance_reached"] is False


def test_what_a_tolerance_cannot_do_is_said(trained):
    task, plane = trained
    with pytest.raises(InputError, match=r"tolerance= needs a grid"):
        lf.scan(task, plane, points=[[0.0, 0.0]], tolerance=0.01)
    with pytest.raises(InputError, match=r"give one of the two"):
        lf.scan(task, plane, grid=5, tolerance=0.01, subset=100)
    with pytest.raises(InputError, match=r"check= is for imprints, and with tolerance="):
        lf.scan(task, plane, grid=5, check=3)
    with pytest.raises(InputError, match=r"tolerance is -0.1; wanted a positive number"):
        lf.scan(task, plane, grid=5, tolerance=-0.1)
    scalar = lf.Task(
        task.model, loss=lambda outputs, targets: nn.functional.cross_entropy(outputs, targets), data=task.data
    )
    with pytest.raises(InputError, match=r"gives one number a batch"):
        lf.scan(scalar, plane, grid=5, tolerance=0.01)
