"""What a plot of a loss surface must not do: shift rows, swap cells, skew axes, invent values, change the model."""

import copy
import io
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from landform import Task, random_plane, scan
from landform.subspace import Subspace, cosine
from landform.view import heat


def bowl(z=2):
    """A task and a space whose loss is `bowl_loss`: mse of the constant outputs s_i·h_i against 1 and −1."""
    scales = torch.tensor([1.0, 2.0, 3.0][:z])
    origin = {"weight": torch.zeros(z, 1), "bias": torch.zeros(z)}
    directions = tuple({"bias": row} for row in torch.diag(scales))
    task = Task(nn.Linear(1, z), "mse", (torch.zeros(2, 1), torch.stack([torch.ones(z), -torch.ones(z)])))
    return task, Subspace(origin, directions), scales.double().numpy()


def bowl_loss(h, scales):
    """The closed form: mean over coordinates of (s·h)² + 1."""
    return np.mean((np.asarray(h) * scales) ** 2 + 1, axis=-1)


def network():
    """A small network with batch normalisation, dropout and one frozen layer, in training mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(1, 4, 3),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Flatten(),
            nn.Linear(4 * 36, 10),
        )
        for _ in range(3):  # so that the statistics are those of data
            model(torch.rand(64, 1, 8, 8))
    model[0].weight.requires_grad_(False)
    model[2].eval()  # modes that differ between layers
    return model


@pytest.fixture(scope="module")
def images():
    generator = torch.Generator().manual_seed(1)
    return torch.rand(40, 1, 8, 8, generator=generator), torch.randint(0, 10, (40,), generator=generator)


def direct(model, plane, h, images):
    """The loss at one point by the plainest route: write the weights into a copy and run it in evaluation mode."""
    moved = copy.deepcopy(model).eval()
    with torch.no_grad():
        for name, value in moved.named_parameters():
            for coordinate, direction in zip(h, plane.directions, strict=True):
                if name in direction:
                    value += float(coordinate) * direction[name]
        return nn.functional.cross_entropy(moved(images[0]).double(), images[1]).item()


def test_odd_rows_are_not_shifted():
    task, space, scales = bowl()
    surface = scan(task, space, grid=7, ranges=[(-1, 1), (-1, 1)])
    nodes = np.linspace(-1, 1, 7)
    for row, h1 in enumerate(nodes):
        want = bowl_loss([(h1, h2) for h2 in nodes], scales)
        np.testing.assert_allclose(surface.loss.values[row], want, atol=1e-6, err_msg=f"row {row}")
    # symmetric about the origin, along both axes, as the function is
    np.testing.assert_allclose(surface.loss, surface.loss[::-1], atol=1e-6)
    np.testing.assert_allclose(surface.loss, surface.loss[:, ::-1], atol=1e-6)
    least = surface.loss.argmin(...)
    assert (float(surface.h1[least["h1"]]), float(surface.h2[least["h2"]])) == (0.0, 0.0)


def test_rows_of_a_random_plane_are_where_they_say(images):
    model = network()
    plane = random_plane(model, seed=2)
    surface = scan(Task(model, data=images), plane, grid=(3, 4), ranges=[(-1, 1), (-0.5, 1)])
    for h1 in surface.h1.values:
        for h2 in surface.h2.values:
            want = direct(model, plane, (h1, h2), images)
            assert float(surface.loss.sel(h1=h1, h2=h2)) == pytest.approx(want, rel=1e-5)


def test_random_directions_have_both_signs_and_are_orthogonal():
    plane = random_plane(network(), seed=0)
    for direction in plane.directions:
        values = torch.cat([value.flatten() for value in direction.values()])
        share = float((values > 0).double().mean())
        assert abs(share - 0.5) * 2 * len(values) ** 0.5 < 4  # a z-score
    assert abs(float(cosine(plane)[0, 1])) < 1e-7


def test_each_filter_is_scaled_once_to_the_length_of_its_own_weights():
    model = network()
    with torch.no_grad():
        model[5].weight.mul_(torch.arange(1.0, 11.0)[:, None])  # a scale of its own for each output
    for direction in random_plane(model).directions:
        for name in ("0.weight", "5.weight"):
            weight = model.get_parameter(name).detach()
            torch.testing.assert_close(direction[name].flatten(1).norm(dim=1), weight.flatten(1).norm(dim=1))
    for direction in random_plane(model, biases=True).directions:
        for name in ("0.bias", "1.weight", "5.bias"):
            torch.testing.assert_close(direction[name].norm(), model.get_parameter(name).detach().norm())


def test_the_model_is_left_as_found(images):
    model = network()
    state = copy.deepcopy(model.state_dict())
    places = {name: value.data_ptr() for name, value in model.state_dict().items()}
    asked = [value.requires_grad for value in model.parameters()]
    modes = [module.training for module in model.modules()]
    random = torch.get_rng_state()
    scan(Task(model, data=images), random_plane(model, biases=True), grid=3, ranges=[(-1, 1), (-1, 1)])
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert {name: value.data_ptr() for name, value in model.state_dict().items()} == places
    assert [value.requires_grad for value in model.parameters()] == asked == [False, *[True] * 5]
    assert [module.training for module in model.modules()] == modes
    assert len(set(modes)) == 2
    assert all(value.grad is None for value in model.parameters())
    assert torch.equal(torch.get_rng_state(), random)


@pytest.mark.parametrize("grid", [(3, 8), (8, 3), (2, 5)])
def test_uneven_grids_put_values_in_the_right_cells(grid):
    task, space, scales = bowl()
    surface = scan(task, space, grid=grid, ranges=[(-1, 0.5), (0, 2)])
    assert surface.loss.shape == grid
    h1, h2 = np.linspace(-1, 0.5, grid[0]), np.linspace(0, 2, grid[1])
    want = bowl_loss(np.stack(np.meshgrid(h1, h2, indexing="ij"), axis=-1), scales)
    np.testing.assert_allclose(surface.loss.values, want, atol=1e-5)
    np.testing.assert_allclose(surface.loss.sel(h1=-1.0, h2=2.0), bowl_loss((-1, 2), scales), atol=1e-5)


def test_uneven_grids_are_right_in_three_dimensions():
    task, space, scales = bowl(3)
    surface = scan(task, space, grid=(2, 3, 4), ranges=[(-1, 1), (0, 1), (0, 3)])
    axes = [surface[name].values for name in ("h1", "h2", "h3")]
    want = bowl_loss(np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1), scales)
    np.testing.assert_allclose(surface.loss.values, want, atol=1e-5)


def test_swapping_the_directions_transposes_the_surface():
    task, space, _ = bowl()
    swapped = Subspace(space.origin, space.directions[::-1])
    here = scan(task, space, grid=(3, 5), ranges=[(-1, 1), (0, 2)])
    there = scan(task, swapped, grid=(5, 3), ranges=[(0, 2), (-1, 1)])
    np.testing.assert_array_equal(here.loss.values, there.loss.values.T)


def test_axes_carry_the_true_extent():
    task, space, scales = bowl()
    surface = scan(task, space, grid=(6, 9), ranges=[(-0.8, 0.8), (-1, 3)])
    assert surface.h1.values[[0, -1]].tolist() == [-0.8, 0.8]
    assert surface.h2.values[[0, -1]].tolist() == [-1.0, 3.0]
    for h1, h2 in ((-0.8, -1.0), (0.8, 3.0)):
        np.testing.assert_allclose(surface.loss.sel(h1=h1, h2=h2), bowl_loss((h1, h2), scales), atol=1e-5)
    ax = heat(surface)  # half a cell beyond the outermost nodes
    np.testing.assert_allclose(ax.images[0].get_extent(), [-0.96, 0.96, -1.25, 3.25])
    # an independent look at the last corner: the parameters that the coordinates stand for
    corner = space.at(torch.tensor([0.8, 3.0], dtype=torch.float64))
    assert float(task.evaluate(corner)) == float(surface.loss[-1, -1])


def test_a_surface_is_exported_with_its_coordinates():
    task, space, scales = bowl()
    text = scan(task, space, grid=(3, 2), ranges=[(-1, 1), (0, 2)]).landform.to_csv()
    rows = np.genfromtxt(io.StringIO(text), delimiter=",", names=True)
    assert rows["h1"].tolist() == [-1, -1, 0, 0, 1, 1]
    assert rows["h2"].tolist() == [0, 2] * 3
    np.testing.assert_allclose(rows["loss"], bowl_loss(np.stack([rows["h1"], rows["h2"]], axis=1), scales), atol=1e-5)


class Pole(nn.Module):
    """Output log(p): −inf at 0 and NaN below."""

    def __init__(self):
        super().__init__()
        self.p = nn.Parameter(torch.ones(1))

    def forward(self, x):
        return torch.log(self.p) + 0 * x


def test_non_finite_cells_stay_and_runs_repeat():
    task = Task(Pole(), "l1", (torch.zeros(3, 1), torch.zeros(3, 1)))
    space = Subspace({"p": torch.zeros(1)}, ({"p": torch.ones(1)}, {"p": torch.ones(1)}))
    one, two = (scan(task, space, grid=5, ranges=[(-1, 1), (-1, 1)]) for _ in range(2))
    total = one.h1.values[:, None] + one.h2.values[None, :]
    assert np.array_equal(np.isnan(one.loss.values), total < 0)
    assert np.array_equal(np.isposinf(one.loss.values), total == 0)
    np.testing.assert_allclose(one.loss.values[total > 0], np.abs(np.log(total[total > 0])), atol=1e-6)
    np.testing.assert_array_equal(one.loss.values, two.loss.values)
    np.testing.assert_array_equal(one.samples, np.full((5, 5), 3))


def test_a_random_plane_gives_the_same_surface_twice(images):
    model = network()
    surfaces = []
    for seed in (0, 1):
        torch.manual_seed(seed)  # the global state is of no account
        plane = random_plane(model, seed=7)
        surfaces.append(scan(Task(model, data=images), plane, grid=3, ranges=[(-1, 1), (-1, 1)]).loss.values)
    np.testing.assert_array_equal(*surfaces)


def test_batchnorm_buffers_are_not_perturbed_and_do_not_drift(images):
    model = network().train()
    before = {name: value.clone() for name, value in model.named_buffers()}
    assert len(before) == 3
    plane = random_plane(model, biases=True, norm="none")
    assert not set(before) & {*plane.origin, *plane.moved}
    surface = scan(Task(model, data=images), plane, grid=5, ranges=[(-10, 10), (-10, 10)])
    assert np.isfinite(surface.loss.values).all()
    assert all(torch.equal(value, before[name]) for name, value in model.named_buffers())
    # the first point and the last are measured with the same statistics, those of the model
    for corner in (0, -1):
        h = (float(surface.h1[corner]), float(surface.h2[corner]))
        assert float(surface.loss[corner, corner]) == pytest.approx(direct(model, plane, h, images), rel=1e-5)
    again = scan(Task(model, data=images), plane, grid=5, ranges=[(-10, 10), (-10, 10)])
    np.testing.assert_array_equal(again.loss, surface.loss)


class Drifting(nn.Module):
    """Statistics that move at every call, in evaluation mode too."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(1, 1)
        self.register_buffer("mean", torch.zeros(1))

    def forward(self, x):
        self.mean += 0.1
        return self.layer(x - self.mean)


def test_statistics_that_drift_at_every_call_start_anew_at_every_point():
    model = Drifting()
    plane = random_plane(model, biases=True, norm="none")
    surface = scan(Task(model, "mse", (torch.ones(2, 1), torch.ones(2, 1))), plane, grid=3, ranges=[(-1, 1), (-1, 1)])
    assert model.mean.tolist() == [0.0]
    for h1 in surface.h1.values:
        for h2 in surface.h2.values:
            at = {name: float(value) for name, value in plane.at(torch.tensor([h1, h2])).items()}
            want = (at["layer.weight"] * 0.9 + at["layer.bias"] - 1) ** 2
            assert float(surface.loss.sel(h1=h1, h2=h2)) == pytest.approx(want, abs=1e-5)


def test_the_middle_of_a_random_plane_is_the_loss_of_the_model(images):
    model = network()
    surface = scan(Task(model, data=images), random_plane(model), grid=3, ranges=[(-1, 1), (-1, 1)])
    with torch.no_grad():
        want = nn.functional.cross_entropy(copy.deepcopy(model).eval()(images[0]).double(), images[1]).item()
    assert float(surface.loss.sel(h1=0, h2=0)) == pytest.approx(want, abs=1e-7)  # the float32 network, in blocks


@pytest.mark.parametrize("depth", [0.0, -3.0])
def test_a_store_knows_what_is_done_whatever_the_value(depth, tmp_path):
    """Losses of 0 and below are not measured again, and NaN is a value, not a gap."""
    calls = []

    class Counted(Pole):
        def forward(self, x):
            calls.append(1)
            return super().forward(x)

    def loss(outputs, _):
        return outputs[:, 0] * 0 + depth + torch.where(outputs[:, 0].isfinite(), 0.0, outputs[:, 0])

    task = Task(Counted(), loss, (torch.zeros(3, 1), torch.zeros(3, 1)))
    space = Subspace({"p": torch.zeros(1)}, ({"p": torch.ones(1)},))
    options = {"grid": 9, "ranges": [(-1, 1)], "engine": "functional", "store": tmp_path / "kept", "progress": False}
    first = scan(task, space, **options)
    assert float(first.loss[-1]) == depth
    assert np.isnan(first.loss.values[:4]).all()
    assert len(calls) > 9 - 1
    calls.clear()
    again = scan(task, space, **options)
    assert len(calls) < 9  # the probes of the model, and no point
    assert again.attrs["stored_evaluations"] == 9 * 3
    np.testing.assert_array_equal(again.loss, first.loss)
    np.testing.assert_array_equal(again.status, first.status)


def test_biases_norms_and_buffers_are_left_alone_unless_asked_for():
    model = network()
    plane = random_plane(model)
    assert set(plane.moved) == {"0.weight", "5.weight"}
    h = torch.tensor([0.7, -0.4], dtype=torch.float64)
    moved = plane.at(h)
    for name in ("0.bias", "1.weight", "1.bias", "5.bias"):
        assert torch.equal(moved[name], model.get_parameter(name))
    assert not set(dict(model.named_buffers())) & set(moved)
    assert {"0.bias", "1.weight", "5.bias"} < set(random_plane(model, biases=True).moved)  # 1.bias is 0


def test_a_direction_is_scaled_filter_by_filter_not_tensor_by_tensor():
    model = network()
    with torch.no_grad():
        model[0].weight[0] *= 100
    direction = random_plane(model).directions[0]["0.weight"].flatten(1).norm(dim=1)
    assert float(direction[0] / direction[1]) > 20  # of one tensor's norm, each filter would get a like share


MEMORY = """
import resource, torch, landform as lf
model = torch.nn.Sequential(torch.nn.Linear(1000, 1000), torch.nn.Tanh(), torch.nn.Linear(1000, 2))
task = lf.Task(model, data=(torch.zeros(4, 1000), torch.zeros(4).long()))
plane = lf.random_plane(task, norm="layer")
grid = [20, 20]
lf.scan(task, plane, grid=[2, 2], engine=ENGINE)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
lf.scan(task, plane, grid=grid, engine=ENGINE)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.parametrize("engine", ["functional", "auto"])
@pytest.mark.skipif(sys.platform != "linux", reason="the unit of the peak differs")
def test_the_weights_of_the_grid_are_never_in_memory_together(engine):
    """A million parameters at 400 nodes are 1.6 GB; the scan stays within some copies of the model, 4 MB each."""
    command = [sys.executable, "-c", MEMORY.replace("ENGINE", repr(engine))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 60_000  # kB


def normalised(model, plane, h, images, policy):
    """The loss at a point with BatchNorm by a policy, by the plainest route."""
    moved = copy.deepcopy(model).eval()
    moved.load_state_dict({**moved.state_dict(), **plane.at(torch.tensor(h, dtype=torch.float64))})
    norm = moved[1]
    with torch.no_grad():
        if policy == "recalibrate":
            norm.reset_running_stats()
            norm.momentum = None
            norm.train()
            moved(images[0])
            norm.eval()
        elif policy == "batch":
            norm.train()
        return nn.functional.cross_entropy(moved(images[0]).double(), images[1]).item()


@pytest.mark.parametrize("policy", ["frozen", "recalibrate", "batch"])
def test_what_normalises_is_a_choice_and_is_recorded(policy, images):
    model = network()
    before = copy.deepcopy(model.state_dict())
    plane = random_plane(model, seed=3)
    allow = {"allow": ("batch_norm", "coupled")} if policy == "batch" else {}
    task = Task(model, data=images, batch_norm=policy, **allow)
    surface = scan(task, plane, grid=3, ranges=[(-1, 1), (-1, 1)])
    for h1 in (-1.0, 0.0, 1.0):
        want = normalised(model, plane, (h1, 1.0), images, policy)
        assert float(surface.loss.sel(h1=h1, h2=1.0)) == pytest.approx(want, rel=1e-4)
    assert surface.attrs["batch_norm"] == policy
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_three_ways_to_normalise_differ(images):
    model, losses = network(), {}
    plane = random_plane(model, seed=3)
    for policy in ("frozen", "recalibrate"):
        losses[policy] = normalised(model, plane, (1.0, 1.0), images, policy)
    assert abs(losses["frozen"] - losses["recalibrate"]) > 1e-3


def normed_imprint():
    from landform import Pattern, imprint

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        hidden = [
            layer
            for a, b in ((64, 40), (40, 40), (40, 60))
            for layer in (nn.Linear(a, b), nn.BatchNorm1d(b), nn.ReLU())
        ]
        model = nn.Sequential(nn.Flatten(), *hidden, nn.Linear(60, 10))
        for _ in range(3):
            model(torch.rand(32, 64))
    return imprint(Pattern.from_formula("himmelblau", resolution=4), Task(model.eval(), data="digits"))


def test_the_grid_of_a_pattern_is_measured_on_the_pattern():
    made = normed_imprint()
    surface = scan(made)
    assert surface.h1.values.tolist() == surface.h2.values.tolist() == [0, 0.25, 0.5, 0.75, 1]
    lo, hi = made.range
    np.testing.assert_allclose(surface.loss, lo + (hi - lo) * made.pattern.values, atol=made.certificate.bound)


def test_a_test_surface_is_of_test_data():
    from landform import load_data

    made = normed_imprint()
    parts = {name: load_data("digits", split=name) for name in ("train", "test")}
    surface = scan(made.task, made.subspace, grid=2, data=parts)
    at = made.subspace.at(torch.tensor([1.0, 0.0], dtype=torch.float64))
    for name, data in parts.items():
        want = float(made.task.replace(data=data).evaluate(at))
        assert float(surface.loss.sel(split=name, h1=1, h2=0)) == pytest.approx(want, rel=1e-6)
    assert float(abs(surface.loss.sel(split="train") - surface.loss.sel(split="test")).max()) > 1e-6


def test_saved_statistics_are_those_of_the_network(tmp_path):
    from landform import load

    made = normed_imprint()
    made.save(tmp_path / "b.landform")
    again = load(tmp_path / "b.landform")
    buffers = dict(again.model.named_buffers())
    assert any("running_var" in name for name in buffers)
    for name, value in made.model.named_buffers():
        assert torch.equal(value, buffers[name]), name
    np.testing.assert_array_equal(scan(again, grid=5).loss, scan(made, grid=5).loss)
