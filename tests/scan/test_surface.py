"""From estimates to labelled datasets: every number under its name, with its interval and its status."""

import subprocess
import sys

import numpy as np
import pytest
import torch
import xarray as xr

from landform.scan.places import grid_places, point_places
from landform.scan.sampler.base import Estimate
from landform.scan.surface import build_surface, join_splits, label


def estimate(value, *, stderr=None, samples=None, critical=None, level=None, notes=None):
    value = torch.as_tensor(value, dtype=torch.float64)
    points, quantities = value.shape
    return Estimate(
        value=value,
        stderr=torch.zeros_like(value) if stderr is None else torch.as_tensor(stderr, dtype=torch.float64),
        samples=torch.full((points,), 7) if samples is None else torch.as_tensor(samples),
        critical=torch.zeros(quantities).double() if critical is None else torch.tensor(critical).double(),
        level=torch.zeros(points, dtype=torch.int64) if level is None else torch.as_tensor(level),
        notes=notes or {},
    )


def test_quantities_and_heads_get_their_own_columns():
    value = torch.arange(24.0).reshape(6, 4)
    names = ("loss:a", "loss:b", "accuracy:a", "accuracy:b")
    surface = label(grid_places(2, (2, 3)), estimate(value), names, units={"loss": "nat"}, attrs={})
    assert surface.loss.dims == ("h1", "h2", "channel")
    assert surface.channel.attrs["heads"] == ["a", "b"]
    for i in range(2):
        for j in range(3):
            row = value[3 * i + j].tolist()
            assert surface.loss[i, j].values.tolist() == row[:2]
            assert surface.accuracy[i, j].values.tolist() == row[2:]
    assert (surface.loss.units, surface.accuracy.units) == ("nat", "1")
    assert surface.samples.dims == surface.status.dims == ("h1", "h2")


def test_intervals_are_there_where_they_are_claimed():
    found = estimate([[1.0, 0.5]] * 3, stderr=[[0.1, 0.2]] * 3, critical=[3.0, float("nan")])
    surface = label(grid_places(1, 3), found, ("loss", "curvature"), attrs={"seed": 1})
    np.testing.assert_allclose(surface.loss_lower, 0.7)
    np.testing.assert_allclose(surface.loss_upper, 1.3)
    assert "curvature_stderr" in surface
    assert "curvature_lower" not in surface


def test_a_value_of_all_samples_has_an_interval_of_no_width_whatever_the_factor():
    found = estimate([[1.0], [2.0]], stderr=[[0.0], [0.1]], critical=[2.0])
    surface = label(grid_places(1, 2), found, attrs={})
    assert surface.loss_upper.values.tolist() == [1.0, 2.2]


def test_status_tells_measured_interpolated_missing_and_not_finite_apart():
    nan, inf = float("nan"), float("inf")
    found = estimate([[1.0], [2.0], [nan], [nan], [inf]], samples=[5, 0, 0, 5, 5], level=[0, 1, 1, 0, 0])
    surface = label(grid_places(1, 5), found, attrs={})
    assert surface.status.values.tolist() == [0, 1, 2, 3, 3]
    assert surface.status.flag_meanings.split() == ["measured", "interpolated", "missing", "not_finite"]
    assert surface.status.flag_values == [0, 1, 2, 3]
    assert surface.level.values.tolist() == [0, 1, 1, 0, 0]
    np.testing.assert_array_equal(surface.loss.values, [1, 2, nan, nan, inf])


def test_per_node_values_and_notes_are_recorded():
    found = estimate([[1.0]] * 2, notes={"truncation": 0.25})
    norms = {"gradient_norm": torch.tensor([0.5, float("nan")], dtype=torch.float64)}
    surface = label(grid_places(1, 2), found, extra=norms, attrs={"unit": "nat"})
    assert surface.attrs == {"unit": "nat", "truncation": 0.25}
    np.testing.assert_array_equal(surface.gradient_norm, [0.5, np.nan])
    assert "gradient_norm_stderr" not in surface


def test_points_of_ones_own_have_a_node_dim():
    surface = label(point_places(2, [[0.5, -1.0], [2.0, 3.0]]), estimate([[1.0], [2.0]]), attrs={})
    assert surface.loss.dims == ("node",)
    assert surface.h2.values.tolist() == [-1.0, 3.0]
    assert "level" not in surface


def test_the_dataset_does_not_share_memory_with_what_it_is_made_from():
    found = estimate([[1.0], [2.0]])
    surface = label(grid_places(1, 2), found, attrs={})
    surface.loss[0] = 9.0
    assert found.value[0, 0] == 1.0


@pytest.mark.parametrize("form", ["zarr", "nc"])
def test_splits_are_joined_and_survive_a_file(form, tmp_path):
    def flat(height, name):
        losses = torch.full((2, 1), height, dtype=torch.float64)
        attrs = {"data": name, "unit": "nat"}
        return build_surface(grid_places(1, 2), losses, samples=torch.tensor([9, 9]), unit="nat", attrs=attrs)

    both = join_splits({"train": flat(1.0, "a"), "test": flat(2.0, "b")})
    assert both.loss.dims == ("split", "h1")
    assert both.attrs == {"data": {"train": "a", "test": "b"}, "unit": "nat"}
    if form == "zarr":
        both.to_zarr(tmp_path / "s.zarr", consolidated=False)
        again = xr.open_zarr(tmp_path / "s.zarr", consolidated=False)
    else:
        both.drop_attrs().to_netcdf(tmp_path / "s.nc")
        again = xr.open_dataset(tmp_path / "s.nc")
    assert again.loss.sel(split="test").values.tolist() == [2.0, 2.0]
    again.close()


def test_a_surface_says_where_it_lies():
    import landform as lf

    model = torch.nn.Linear(3, 2)
    task = lf.Task(model, data=(torch.zeros(4, 3), torch.tensor([0, 1, 0, 1])))
    surface = lf.scan(task, lf.random_plane(task, seed=3), grid=3)
    assert surface.h1.values.tolist() == [-1, 0, 1]  # the plane's own range
    assert surface.attrs["subspace"]["seed"] == 3
    assert surface.h2.attrs["direction"] == "random direction, filter-normalised"
    assert surface.landform.plot().get_xlabel() == "$h_{1}$, random direction, filter-normalised"
    states = [{"weight": torch.randn(2, 3), "bias": torch.randn(2)} for _ in range(4)]
    found = lf.scan(task, lf.pca_plane(states, model=task), grid=3)
    assert np.shape(found.attrs["path"]) == (4, 2)
    assert len(found.attrs["off_plane"]) == 4
    assert found.h1.attrs["direction"].startswith("component 1, ")
    assert "path" not in lf.scan(task, lf.pca_plane(states, model=task), grid=3, axes=(1,)).attrs
    curve = lf.bezier(task, states[0], states[1], steps=1, points=3)
    said = lf.scan(task, curve, grid=3).h1.attrs["direction"]
    assert said == "along the curve, from the first network, 0, to the second, 1"
    chord = lf.scan(task, curve.plane, grid=3)
    assert [name.attrs["direction"].split(", 0, to the ")[1] for name in (chord.h1, chord.h2)] == [
        "control point, 1",
        "second, 1",
    ]
    both = lf.combine(lf.random_plane(task, z=1, seed=3), lf.worst_direction(task, radius=0.1, steps=1, beside=1))
    surface = lf.scan(task, both, grid=3)
    assert [name.attrs["direction"] for name in (surface.h1, surface.h2)] == [
        "random direction, filter-normalised",
        "worst direction found",
    ]


def test_a_scan_loads_neither_scipy_nor_what_is_only_drawn_or_stored_with():
    code = """
import sys, torch, landform as lf
task = lf.Task(torch.nn.Linear(4, 2), data=(torch.rand(9, 4), torch.zeros(9, dtype=torch.int64)))
lf.scan(task, lf.random_plane(task, seed=0), grid=3)
names = ["scipy", "dask", "matplotlib", "zarr", "distributed", "sympy", "landform.imprint", "landform.view.heat"]
print([name for name in names if name in sys.modules])
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
