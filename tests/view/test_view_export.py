"""Surfaces on other nodes and in other programs' files: values are kept where they are, and nothing is invented."""

import sys

import numpy as np
import pytest
import torch
import xarray as xr

from landform.errors import InputError, MissingExtraError
from landform.mesh import Mesh
from landform.view import measured_nodes, register, to_grid, to_netcdf

register()


def surface(*shape, seed=0, extra=()):
    values = np.random.default_rng(seed).random((*shape, *extra))
    dims = tuple(f"h{k + 1}" for k in range(len(shape)))
    coords = {dim: np.linspace(-1, k + 1, n) for k, (dim, n) in enumerate(zip(dims, shape, strict=True))}
    return xr.Dataset(
        {"loss": ((*dims, *["channel"][: len(extra)]), values, {"units": "nat"})}, coords, {"unit": "nat"}
    )


@pytest.mark.parametrize("shape", [(5,), (3, 6), (3, 2, 4), (2, 3, 2, 3)])
def test_the_mesh_says_what_lies_between_nodes(shape):
    field = surface(*shape)
    fine = to_grid(field, 7)
    mesh = Mesh(tuple(n - 1 for n in shape))
    h = torch.from_numpy(np.stack(np.meshgrid(*[np.linspace(0, 1, 7)] * len(shape), indexing="ij"), -1)).reshape(
        49 * 7 ** (len(shape) - 2) if len(shape) > 1 else 7, len(shape)
    )
    want = mesh.interpolate(torch.from_numpy(field.loss.values), h).reshape((7,) * len(shape))
    np.testing.assert_allclose(fine.loss.values, want, atol=1e-12)
    assert fine.h1.values[[0, -1]].tolist() == [-1, 1]
    assert fine.loss.attrs == {"units": "nat"}
    assert fine.attrs == {"unit": "nat"}


def test_nodes_keep_their_values_bit_by_bit():
    field = surface(4, 7)
    fine = to_grid(field, (10, 13))
    np.testing.assert_array_equal(fine.loss.values[::3, ::2], field.loss.values)
    np.testing.assert_array_equal(to_grid(fine, (4, 7)).loss.values, field.loss.values)
    assert to_grid(field) is field


def test_heads_are_interpolated_one_by_one():
    field = surface(3, 3, extra=(2,))
    fine = to_grid(field, 5)
    assert fine.loss.dims == ("h1", "h2", "channel")
    for head in range(2):
        np.testing.assert_array_equal(fine.loss[..., head], to_grid(field.isel(channel=head), 5).loss)


def test_uneven_coordinates_are_interpolated_in_their_own_cells():
    line = xr.Dataset({"loss": ("h1", [0.0, 1.0, 5.0])}, {"h1": [0.0, 1.0, 4.0]})
    assert to_grid(line, 5).loss.values.tolist() == [0, 1, pytest.approx(7 / 3), pytest.approx(11 / 3), 5]


def test_what_is_not_finite_does_not_spread_beyond_its_cells_nor_vanish():
    field = surface(5, 5)
    field["loss"][2, 2] = np.nan
    fine = to_grid(field, 9).loss.values
    assert np.isnan(fine[4, 4])
    assert np.isfinite(fine[::2, ::2]).sum() == 24
    gaps = np.argwhere(np.isnan(fine))
    assert (np.abs(gaps - 4) <= 1).all()
    assert len(gaps) == 7  # the node and the midpoints of its six edges


def test_facts_about_nodes_are_not_interpolated():
    field = surface(3, 3)
    field["samples"] = (("h1", "h2"), np.full((3, 3), 100))
    field["status"] = (("h1", "h2"), np.zeros((3, 3), dtype=np.int8))
    fine = to_grid(field, 5)
    on = np.zeros((5, 5), dtype=bool)
    on[::2, ::2] = True
    np.testing.assert_array_equal(fine.samples, np.where(on, 100, 0))
    np.testing.assert_array_equal(fine.status, np.where(on, 0, 1))


def adaptive(seed=0):
    """A 9 × 5 grid of two levels below the nodes of 3 × 2, some of the finer nodes measured."""
    rng = np.random.default_rng(seed)
    mesh = Mesh((8, 4))
    level = mesh.levels().numpy()
    kept = (level == 0) | (rng.random(level.shape) < 0.4)
    surplus = torch.from_numpy(np.where(kept, rng.standard_normal(level.shape), 0.0))
    truth = mesh.from_surplus(surplus).numpy()
    h1, h2 = np.linspace(-1, 1, 9), np.linspace(0, 3, 5)
    i, j = np.nonzero(kept)
    variables = {"loss": ("node", truth[i, j]), "level": ("node", level[i, j]), "samples": ("node", 10 + i)}
    return truth, kept, xr.Dataset(variables, {"h1": ("node", h1[i]), "h2": ("node", h2[j])})


@pytest.mark.parametrize("seed", range(4))
def test_a_list_of_nodes_is_filled_level_by_level(seed):
    truth, kept, nodes = adaptive(seed)
    order = np.random.default_rng(seed).permutation(nodes.sizes["node"])
    grid = to_grid(nodes.isel(node=order))
    np.testing.assert_allclose(grid.loss.values, truth, atol=1e-12)
    np.testing.assert_array_equal(grid.loss.values[kept], truth[kept])
    np.testing.assert_array_equal(grid.status.values == 0, kept)
    assert grid.h2.values.tolist() == np.linspace(0, 3, 5).tolist()
    np.testing.assert_allclose(to_grid(nodes, (17, 9)).loss.values[::2, ::2], truth, atol=1e-12)


def test_measured_nodes_and_their_grid_are_two_forms_of_one_surface():
    truth, kept, nodes = adaptive()
    grid = to_grid(nodes).assign(level=(("h1", "h2"), Mesh((8, 4)).levels().numpy()))
    again = measured_nodes(grid)
    assert again.sizes["node"] == kept.sum()
    np.testing.assert_allclose(to_grid(again).loss.values, truth, atol=1e-12)


def test_what_belongs_to_no_mesh_is_refused():
    _, _, nodes = adaptive()
    with pytest.raises(InputError, match="a list of points belongs to no mesh"):
        to_grid(nodes.drop_vars("level"))
    with pytest.raises(InputError, match="not those of a mesh"):
        to_grid(nodes.assign_coords(h1=nodes.h1 + 0.01 * (nodes.level == 2)))
    with pytest.raises(InputError, match="a node of the coarsest level is missing"):
        to_grid(nodes.isel(node=slice(1, None)))
    with pytest.raises(InputError, match="nodes is 1; wanted whole numbers of at least 2"):
        to_grid(surface(3, 3), 1)
    with pytest.raises(InputError, match=r"nodes is \(3,\)"):
        to_grid(surface(3, 3), (3,))
    with pytest.raises(InputError, match="chosen from a grid with a variable 'status'"):
        measured_nodes(nodes)


def rich():
    field = surface(3, 4)
    field["samples"] = (("h1", "h2"), np.full((3, 4), 7))
    field["status"] = (("h1", "h2"), np.zeros((3, 4), dtype=np.int8), {"flag_values": [0, 1], "flag_meanings": "a b"})
    field["loss"][0, 0] = np.inf
    field.attrs |= {"complete": True, "range": [0.0, 1.0], "notes": {"a": 1}, "none": None, "words": ["a", "b"]}
    return field


@pytest.mark.parametrize("version", [3, 4])
def test_netcdf_holds_every_number(version, tmp_path):
    if version == 4:
        pytest.importorskip("netCDF4")
    field = rich()
    assert field.landform.to_netcdf(tmp_path / "s.nc", version=version) == version
    engine = "scipy" if version == 3 else "netcdf4"
    with xr.open_dataset(tmp_path / "s.nc", engine=engine) as again:
        for name in field.variables:
            np.testing.assert_array_equal(again[name].values, field[name].values)
        assert again.loss.attrs["units"] == "nat"
        assert again.attrs["complete"] == "True"
        assert np.asarray(again.attrs["range"]).tolist() == [0, 1]
        assert again.attrs["words"] == "a, b"
    assert field.attrs["complete"] is True  # the caller's surface is as it was
    assert [path.name for path in tmp_path.iterdir()] == ["s.nc"]


def test_netcdf_3_where_4_cannot_be_written(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "netCDF4", None)
    assert to_netcdf(rich(), tmp_path / "s.nc") == 3
    with pytest.raises(MissingExtraError, match=r"pip install 'landform\[netcdf\]'"):
        to_netcdf(rich(), tmp_path / "s.nc", version=4)


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    file = tmp_path / "s.nc"
    file.write_text("old")

    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(xr.Dataset, "to_netcdf", fail)
    with pytest.raises(OSError, match="No space left"):
        to_netcdf(rich(), file)
    assert file.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["s.nc"]
    with pytest.raises(InputError, match="no such folder"):
        to_netcdf(rich(), tmp_path / "none" / "s.nc")
    with pytest.raises(InputError, match="version is 5"):
        to_netcdf(rich(), file, version=5)


def test_csv_has_parts_and_heads_as_columns():
    line = surface(2, extra=(2,)).assign_coords(channel=[0, 1])
    both = xr.concat([line, line], dim=xr.DataArray(["train", "test"], dims="split", name="split"))
    rows = both.landform.to_csv().splitlines()
    assert rows[0] == "split,h1,channel,loss"
    assert len(rows) == 9
