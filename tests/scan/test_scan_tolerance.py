"""`scan(tolerance=…)`: the surface of the full grid, from a fraction of the evaluations, on a real network and data."""

import numpy as np
import pytest
import torch
from torch import nn

from landform import Task, random_plane, scan
from landform.errors import InputError


@pytest.fixture(scope="module")
def trained():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(64, 24), nn.Tanh(), nn.Linear(24, 10))
        task = Task(model, data="digits", metrics="accuracy")
        optimiser = torch.optim.Adam(model.parameters(), lr=0.02)
        for _ in range(60):
            optimiser.zero_grad()
            nn.functional.cross_entropy(model(task.data.inputs), task.data.targets).backward()
            optimiser.step()
    return task


def test_it_is_the_full_surface_within_its_intervals(trained):
    plane = random_plane(trained, seed=1)
    options = {"grid": 65, "ranges": [(-0.5, 0.5)] * 2, "progress": False}
    full = scan(trained, plane, **options)
    found = scan(trained, plane, tolerance=0.02, seed=5, **options)
    assert found.attrs["sample_evaluations"] < full.sizes["h1"] ** 2 * trained.n / 8
    assert found.attrs["complete"] is True
    height = float(np.ptp(np.quantile(full.loss, (0.01, 0.99))))
    assert float(abs(found.loss - full.loss).max()) < 0.04 * height
    measured = found.status.values == 0
    rounding = 1e-6  # a node on all samples has no error of sampling; its samples were taken in other blocks
    inside = (found.loss_lower <= full.loss + rounding) & (full.loss <= found.loss_upper + rounding)
    assert inside.values[measured].all()
    assert np.isnan(found.loss_lower.values[~measured]).all()
    assert (found.samples.values[~measured] == 0).all()
    every = found.samples.values == trained.n
    np.testing.assert_allclose(found.loss.values[every], full.loss.values[every], rtol=1e-6)
    assert {"loss_upper", "accuracy_upper", "level"} <= set(found.data_vars)


def test_what_does_not_go_together_is_said(trained):
    plane = random_plane(trained)
    with pytest.raises(InputError, match="give one of the two"):
        scan(trained, plane, tolerance=0.1, subset=100)
    with pytest.raises(InputError, match="needs a grid"):
        scan(trained, plane, tolerance=0.1, points=[[0, 0]])
    with pytest.raises(InputError, match="check= is for imprints, and with tolerance="):
        scan(trained, plane, grid=3, check=2)
    batches = Task(trained.model, lambda o, t: nn.functional.cross_entropy(o, t), trained.data)
    with pytest.raises(InputError, match="gives one number a batch"):
        scan(batches, plane, tolerance=0.1)


def test_a_store_of_a_sampled_scan_replays(trained, tmp_path):
    plane = random_plane(trained)
    options = {"grid": 17, "tolerance": 0.05, "store": tmp_path / "kept", "progress": False}
    first = scan(trained, plane, **options)
    again = scan(trained, plane, **options)
    np.testing.assert_array_equal(again.loss, first.loss)
    np.testing.assert_array_equal(again.loss_stderr, first.loss_stderr)
    assert again.attrs["stored_evaluations"] == first.attrs["sample_evaluations"]
