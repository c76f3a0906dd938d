"""The grid scan against closed forms and against the long way round."""

import warnings

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn

from landform.data import Data
from landform.errors import InputError
from landform.imprint import collapsed
from landform.imprint.make import imprint
from landform.pattern import Pattern, SumPattern
from landform.scan import run as runner
from landform.scan import scan
from landform.scan.engine.functional import FunctionalEngine
from landform.subspace import Subspace
from landform.task import Task


@pytest.fixture(scope="module")
def digits_imprint():
    h = torch.linspace(0, 1, 9, dtype=torch.float64)
    values = (h[:, None] ** 2 + 0.3 * h[None, :7]) / 1.3
    return imprint(Pattern.from_array(values, name="ramp"), "digits")


@pytest.fixture
def quadratic():
    """Loss ½|h|² + const along two coordinates of a bias: mse of the constant output h against ±1."""
    origin = {"weight": torch.zeros(2, 3), "bias": torch.zeros(2)}
    directions = tuple({"bias": row} for row in torch.eye(2))
    data = (torch.randn(4, 3, generator=torch.Generator().manual_seed(1)), torch.tensor([[1.0, 1.0], [-1.0, -1.0]] * 2))
    return Task(nn.Linear(3, 2), "mse", data), Subspace(origin, directions)


def test_a_plain_task_gives_its_closed_form_on_true_coordinates(quadratic):
    task, space = quadratic
    surface = scan(task, space, grid=(5, 9), ranges=((-1, 1), (0, 2)))
    assert surface.loss.dims == ("h1", "h2")
    assert surface.h1.values.tolist() == [-1, -0.5, 0, 0.5, 1]
    assert surface.h2.values[[0, -1]].tolist() == [0, 2]
    expected = 1 + (surface.h1**2 + surface.h2**2) / 2
    np.testing.assert_allclose(surface.loss.values, expected.values, atol=1e-7)
    assert float(surface.loss_stderr.max()) == 0
    assert set(surface.samples.values.reshape(-1)) == {4}
    assert "target" not in surface


def test_attributes_say_what_it_is(quadratic, digits_imprint):
    surface = scan(*quadratic, grid=2)
    for name in ("title", "loss", "unit", "model", "data", "data_hash", "dtype", "engine", "evaluations", "seconds"):
        assert name in surface.attrs
    assert surface.attrs["loss"] == "mse"
    assert surface.attrs["model"] == "Linear"
    assert surface.attrs["engine"] in ("affine", "collapsed", "functional", "stacked")
    assert surface.attrs["evaluations"] == 4
    assert "torch" in surface.attrs["versions"]
    made = scan(digits_imprint, grid=3)
    assert (made.attrs["unit"], made.attrs["engine"], made.attrs["data"]) == ("nat", "collapsed", "digits (train)")
    assert made.attrs["data_hash"] == digits_imprint.task.data.hash
    for variable in (*made.data_vars.values(), *made.coords.values()):
        assert {"long_name", "units"} <= set(variable.attrs)
    assert made.loss.attrs["units"] == "nat"


def test_an_imprint_is_measured_at_its_nodes_within_its_bound(digits_imprint):
    surface = scan(digits_imprint)
    pattern = digits_imprint.pattern
    lo, hi = digits_imprint.range
    assert surface.loss.shape == tuple(pattern.values.shape) == (9, 7)
    assert surface.h2.values.tolist() == [i / 6 for i in range(7)]
    np.testing.assert_allclose(surface.target.values, lo + (hi - lo) * pattern.values.numpy(), atol=1e-6)
    np.testing.assert_array_equal(surface.difference, surface.loss - surface.target)
    assert float(abs(surface.difference).max()) <= digits_imprint.certificate.bound
    assert surface.attrs["checked_points"] == 4
    assert surface.attrs["checked_difference"] < 1e-6
    assert surface.attrs["complete"] is True


def test_the_collapsed_engine_agrees_with_every_sample_going_through(digits_imprint):
    made = scan(digits_imprint, grid=3, check=0)
    full = scan(digits_imprint.task, digits_imprint.subspace, grid=3)
    np.testing.assert_allclose(made.loss, full.loss, atol=2e-7)
    assert made.attrs["checked_points"] == 0


def test_points_give_a_node_dim_in_the_given_order(digits_imprint):
    h = torch.tensor([[0.9, 0.1], [0.2, 0.7], [0.9, 0.1]], dtype=torch.float64)
    surface = scan(digits_imprint, points=h)
    assert surface.loss.dims == ("node",)
    assert surface.h1.dims == ("node",)
    assert surface.h1.values.tolist() == [0.9, 0.2, 0.9]
    assert surface.loss.values[0] == surface.loss.values[2] != surface.loss.values[1]
    np.testing.assert_allclose(surface.target, digits_imprint.target(h), atol=1e-6)


def test_a_grid_of_part_of_the_box_is_that_part(digits_imprint):
    whole = scan(digits_imprint, grid=5, check=0)
    part = scan(digits_imprint, grid=3, ranges=((0, 0.5), (0.5, 1)), check=0)
    np.testing.assert_allclose(part.loss, whole.loss.values[:3, 2:], atol=1e-7)


def test_a_sum_in_many_dimensions_is_looked_at_through_planes_or_points():
    made = imprint(SumPattern.from_formula("sphere", z=20, resolution=8), "digits")
    with pytest.raises(InputError, match=r"choose a plane.*points of shape \[points, 20\]"):
        scan(made)
    plane = scan(made, axes=(2, 5), grid=3, at=[0.5] * 20)
    assert plane.loss.dims == ("h2", "h5")
    assert float(plane.h1) == 0.5
    middle = plane.loss.sel(h2=0.5, h5=0.5)
    assert float(middle) == pytest.approx(made.range[0], abs=2e-4)
    assert float(abs(plane.difference).max()) <= made.certificate.bound


def test_heads_are_channels():
    values = torch.rand(3, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    made = imprint(Pattern.from_array(values, channels=True), "digits")
    surface = scan(made)
    assert surface.loss.dims == ("h1", "h2", "channel")
    assert surface.samples.dims == ("h1", "h2")
    assert surface.channel.values.tolist() == [0, 1, 2]
    lo, hi = made.range
    np.testing.assert_allclose(surface.target, lo + (hi - lo) * values, atol=1e-6)
    assert float(abs(surface.difference).max()) <= made.certificate.bound


def test_another_data_set_is_measured_and_predicted(digits_imprint):
    data = digits_imprint.task.data.reweight({0: 3.0, 4: 0.5})
    surface = scan(digits_imprint, data=data, grid=3)
    assert surface.attrs["transfer_order"] in ("kept", "folded", "reversed")
    assert surface.attrs["data_hash"] == data.hash != digits_imprint.task.data.hash
    full = scan(digits_imprint.task, digits_imprint.subspace, data=data, grid=3)
    np.testing.assert_allclose(surface.loss, full.loss, atol=2e-7)
    own = scan(digits_imprint, grid=3, check=0)
    assert float(abs(surface.target - own.target).max()) > 0.01  # the prediction is not the old target
    assert float(abs(surface.difference).max()) < 1e-3


def test_changed_weights_are_found_by_the_cross_check(digits_imprint):
    twisted = digits_imprint.task.replace(data=digits_imprint.task.data.reweight({0: 5.0}))
    wrong = type(digits_imprint)(**{**vars(digits_imprint), "task": twisted})
    with pytest.warns(UserWarning, match="with all data passed through the network, the loss differs"):
        surface = scan(wrong, grid=3)
    assert surface.attrs["checked_difference"] > 1e-2


def test_values_that_are_not_finite_are_kept():
    class Edge(nn.Module):
        def __init__(self):
            super().__init__()
            self.bias = nn.Parameter(torch.zeros(1))

        def forward(self, x):
            return torch.log(self.bias) + 0 * x

    task = Task(Edge(), "l1", (torch.zeros(2, 1), torch.zeros(2, 1)))
    surface = scan(task, Subspace({"bias": torch.zeros(1)}, ({"bias": torch.ones(1)},)), grid=3, ranges=[(-1, 1)])
    assert np.isnan(surface.loss.values[0])
    assert np.isinf(surface.loss.values[1])
    assert surface.loss.values[2] == 0


def test_ctrl_c_leaves_what_was_measured(quadratic, monkeypatch):
    task, space = quadratic
    calls = []
    whole = FunctionalEngine.sums

    def sums(self, *args, **options):
        calls.append(1)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return whole(self, *args, **options)

    monkeypatch.setattr(FunctionalEngine, "sums", sums)
    monkeypatch.setattr(runner, "TILE_WORK", 1)  # a point a tile
    where = {"grid": 3, "ranges": [(0, 1), (0, 2)], "engine": "functional"}
    with pytest.warns(UserWarning, match="interrupted: 5 of 9 points are measured"):
        surface = scan(task, space, **where)
    corners = surface.loss.values[::2, ::2]
    assert surface.status.values.tolist() == [[0, 0, 0], [1, 1, 1], [0, 1, 0]]  # 1: interpolated
    assert surface.samples.values.tolist() == [[4, 4, 4], [0, 0, 0], [4, 0, 4]]
    assert np.isnan(surface.loss_stderr.values).tolist() == (surface.status.values == 1).tolist()
    assert np.isnan(surface.loss_upper.values).tolist() == (surface.status.values == 1).tolist()
    np.testing.assert_allclose(surface.loss.values[1, 1], (corners[0, 0] + corners[1, 1]) / 2)  # the diagonal of a cell
    np.testing.assert_allclose(surface.loss.values[2, 1], corners[1].mean())
    assert surface.attrs["complete"] is False
    calls[:] = [1] * 3
    with pytest.warns(UserWarning, match="interrupted: 2 of 9 points are measured"):
        surface = scan(task, space, **where)
    assert surface.status.values.tolist() == [[0, 1, 0], [2, 2, 2], [2, 2, 2]]  # 2: missing
    assert np.isnan(surface.loss.values[1:]).all()
    calls[:] = [1] * 3
    with pytest.warns(UserWarning, match="interrupted: 2 of 3 points are measured"):
        surface = scan(task, space, points=[[0.0, 0.0], [1.0, 0.0], [0.5, 0.0]], engine="functional")
    assert surface.status.values.tolist() == [0, 0, 2]  # a list has no neighbours
    calls[:] = [1] * 5
    with pytest.raises(KeyboardInterrupt):
        scan(task, space, grid=3, engine="functional")


def test_ctrl_c_leaves_the_whole_of_a_made_surface(digits_imprint, monkeypatch):
    from landform.scan import imprints

    whole = scan(digits_imprint, grid=(9, 7), check=0)
    losses_at, calls = collapsed.losses_at, []

    def interrupted(made, h):
        calls.append(len(h))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return losses_at(made, h)

    monkeypatch.setattr(collapsed, "losses_at", interrupted)
    monkeypatch.setattr(collapsed, "BATCH", 16)
    monkeypatch.setattr(imprints, "MAX_NUMBERS", 1)
    with pytest.warns(UserWarning, match="interrupted: 32 of 63 points are measured"):
        part = scan(digits_imprint, grid=(9, 7), check=0)
    known = part.status.values == 0
    assert int(known.sum()) == 32
    assert bool(known[::2, ::3].all())
    assert set(part.status.values[~known].tolist()) == {1}
    np.testing.assert_allclose(part.loss.values[known], whole.loss.values[known], atol=1e-6)
    height = digits_imprint.range[1] - digits_imprint.range[0]
    assert float(abs(part.loss - whole.loss).max()) < 0.1 * height
    assert np.isnan(part.loss_stderr.values[~known]).all()
    assert part.attrs["evaluations"] == 32


def test_an_interrupted_scan_goes_on_from_its_store(quadratic, monkeypatch, tmp_path):
    task, space = quadratic
    calls, whole = [], FunctionalEngine.sums

    def sums(self, *args, **options):
        calls.append(1)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return whole(self, *args, **options)

    monkeypatch.setattr(FunctionalEngine, "sums", sums)
    monkeypatch.setattr(runner, "TILE_WORK", 1)  # a point a tile
    where = {"grid": 5, "engine": "functional", "store": tmp_path / "s"}
    with pytest.warns(UserWarning, match="interrupted: 5 of 25 points are measured"):
        part = scan(task, space, **where)
    again = scan(task, space, **where)
    assert len(calls) == 6 + 20  # none of the five a second time
    assert again.attrs["stored_evaluations"] == 5 * task.n
    assert again.attrs["complete"] is True
    known = part.status.values == 0
    np.testing.assert_array_equal(again.loss.values[known], part.loss.values[known])
    np.testing.assert_allclose(again.loss.values, 1 + (again.h1**2 + again.h2**2).values / 2, atol=1e-7)


def test_the_model_is_left_as_found(quadratic):
    task, space = quadratic
    before = {name: value.clone() for name, value in task.model.state_dict().items()}
    task.model.train()
    scan(task, space, grid=3)
    assert task.model.training
    assert all(torch.equal(value, before[name]) for name, value in task.model.state_dict().items())
    assert not space.origin["bias"].any()


def test_batches_do_not_matter(digits_imprint, monkeypatch):
    whole = scan(digits_imprint, grid=7, check=0)
    monkeypatch.setattr(collapsed, "BATCH", 5)
    np.testing.assert_allclose(scan(digits_imprint, grid=7, check=0).loss, whole.loss, atol=3e-7)


def test_progress_is_on_stderr_and_only_when_asked(quadratic, capsys):
    scan(*quadratic, grid=2)
    assert capsys.readouterr() == ("", "")
    scan(*quadratic, grid=2, progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert "scan" in err


def test_a_surface_is_written_to_zarr_and_read_back(digits_imprint, tmp_path):
    surface = scan(digits_imprint, grid=3)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*[Cc]onsolidated metadata")
        surface.to_zarr(tmp_path / "surface.zarr")
        back = xr.open_zarr(tmp_path / "surface.zarr")
    xr.testing.assert_identical(back.load(), surface)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"grid": 1}, "nodes per axis, whole numbers of at least 2"),
        ({"grid": 2.5}, "nodes per axis"),
        ({"grid": (3, 3, 3)}, "3 entries for 2 axes"),
        ({"grid": 10**5}, "more than the limit"),
        ({"ranges": ((0, 1),)}, "1 ranges for 2 coordinates"),
        ({"ranges": 3}, r"one \(lo, hi\) for each of 2"),
        ({"ranges": ((1, 1), (0, 1))}, "empty or not finite"),
        ({"ranges": ((0, 2), (0, 1))}, "an imprint promises nothing outside"),
        ({"axes": (0, 1)}, "different numbers from 1 to 2"),
        ({"axes": (1,), "at": [0.5]}, "wanted 2 finite coordinates"),
        ({"points": [[0.5]]}, r"wanted \[points, 2\]"),
        ({"points": [[0.5, float("nan")]]}, "point 0 is not finite"),
        ({"points": "all"}, r"numbers of shape \[points, 2\]"),
        ({"points": [[0.5, 0.5]], "grid": 3}, "leave out grid"),
    ],
)
def test_bad_places_are_refused(digits_imprint, options, text):
    with pytest.raises(InputError, match=text):
        scan(digits_imprint, **options)


def test_bad_subjects_are_refused(digits_imprint, quadratic):
    task, space = quadratic
    with pytest.raises(InputError, match="an imprint has its own subspace"):
        scan(digits_imprint, space)
    with pytest.raises(InputError, match="a task needs a subspace"):
        scan(task)
    with pytest.raises(InputError, match="scan measures an Imprint or a Task, got Linear"):
        scan(nn.Linear(1, 1))
    with pytest.raises(InputError, match="check= is for imprints"):
        scan(task, space, check=1)
    three = Subspace({"bias": torch.zeros(2)}, ({"bias": torch.ones(2)},) * 3)
    with pytest.raises(InputError, match="a grid over 3 coordinates costs a pass over the data"):
        scan(task, three)


def test_a_default_grid_in_three_dimensions_skips_nodes():
    made = imprint(Pattern.from_formula("sphere", z=3, resolution=2), "digits", certify=False)
    assert scan(made, check=0).loss.shape == (3, 3, 3)
    line = scan(made, axes=(3,), at=[0.0, 0.5, 0.0], check=0)
    assert line.loss.dims == ("h3",)
    np.testing.assert_allclose(line.target, made.range[0] + np.array([2, 1, 2]) / 3, atol=1e-6)


def test_other_data_give_their_own_count_of_samples(digits_imprint):
    few = Data(torch.zeros(3, 64), torch.tensor([0, 1, 1]), classes=10)
    assert scan(digits_imprint, data=few, grid=3).samples.values.max() == 3
    with pytest.raises(InputError, match="5"):
        scan(digits_imprint, data=Data(torch.zeros(3, 5), torch.tensor([0, 1, 1])), grid=3)
