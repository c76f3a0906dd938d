"""Phantoms: what is measured on them is what they say, and their critical points are where they are said to be."""

import json
from pathlib import Path

import pytest
import torch
from torch.autograd.functional import hessian
from torch.func import functional_call

import landform as lf
from landform.cli import main
from landform.errors import FloorError, InputError, UnknownNameError
from landform.testing import phantom
from landform.testing.phantom import strict_minima
from landform.testing.phantoms import SHAPES

NAMES = tuple(SHAPES)


def mean_loss(made, outputs):
    losses, counts = made.task.loss_form.terms(outputs, made.task.data.targets)
    return losses.sum() / counts.sum()


def measured(made, points):
    """Measure through every sample, the naive way."""
    out = []
    for h in points:
        parameters = made.subspace.at(h)
        with torch.no_grad():
            outputs = functional_call(made.model, parameters, (made.task.data.inputs,))
        if made.smooth:
            loss = mean_loss(made, outputs)
        else:
            loss = torch.nn.functional.cross_entropy(outputs.double(), made.task.data.targets)
        out.append(float(loss))
    return torch.tensor(out, dtype=torch.float64)


def random_points(z, count=12):
    return torch.rand(count, z, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


@pytest.mark.parametrize("name", NAMES)
def test_the_measured_loss_is_the_truth_within_the_bound(name):
    made = phantom(name, resolution=8)
    h = torch.cat([random_points(2), torch.tensor([[0.0, 0.0], [1.0, 1.0], [0.5, 0.5]], dtype=torch.float64)])
    assert made.kind == "certified"
    assert (measured(made, h) - made.true(h)).abs().max() <= made.bound < 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_truth_and_formula_agree_at_nodes(name):
    made = phantom(name, resolution=8)
    nodes = made.imprint.pattern.mesh.nodes()
    assert (made.true(nodes) - made.formula(nodes)).abs().max() < 1e-12


@pytest.mark.parametrize("name", NAMES)
def test_heights_at_critical_points(name):
    made = phantom(name, resolution=8)
    for point in made.critical:
        h = torch.tensor([point.h], dtype=torch.float64)
        if point.radius is None:
            assert float(made.true(h)) == pytest.approx(point.height, abs=1e-12)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("bowl", {}),
        ("bowl", {"centre": (0.25, 0.75), "curvatures": (2.0, 30.0)}),
        ("ravine", {}),
        ("ravine", {"angle": 90.0, "condition": 1000.0}),
        ("minima", {}),
        ("minima", {"positions": [(0.25, 0.25), (0.75, 0.25), (0.5, 0.75)], "depths": [0.3, 0.0, 0.1]}),
    ],
)
def test_minima_of_the_scan_are_the_critical_points(name, options):
    made = phantom(name, resolution=8, **options)
    surface = lf.scan(made.imprint)
    where = strict_minima(torch.from_numpy(surface.loss.values)).nonzero()
    found = {(float(surface.h1[i]), float(surface.h2[j])) for i, j in where.tolist()}
    assert found == {point.h for point in made.critical if point.kind == "minimum"}


def test_second_differences_over_whole_cells_are_the_curvatures():
    made = phantom("bowl", resolution=8, curvatures=(4.0, 24.0), dtype=torch.float64)
    c = torch.tensor([made.critical[0].h], dtype=torch.float64)
    for axis, kappa in enumerate(made.critical[0].curvature):
        for cells in (1, 2, 4):
            step = torch.zeros(1, 2, dtype=torch.float64)
            step[0, axis] = cells / 8
            second = (made.true(c + step) - 2 * made.true(c) + made.true(c - step)) / (cells / 8) ** 2
            assert float(second) == pytest.approx(kappa, abs=1e-9)


def test_a_ravine_says_its_curvatures_across_and_along_at_any_angle():
    for angle in (0.0, 30.0, 45.0):
        point = phantom("ravine", resolution=4, curvature=12.0, condition=3.0, angle=angle).critical[0]
        assert point.principal == pytest.approx((4.0, 12.0))
        assert sum(point.curvature) == pytest.approx(16.0)  # the trace
    assert phantom("saddle", resolution=4, curvature=5.0).critical[0].principal == pytest.approx((-5.0, 5.0))


def test_a_saddle_goes_up_along_the_first_axes_and_down_along_the_last():
    made = phantom("saddle", z=3, resolution=4, index=2)
    centre = made.critical[0].h
    assert made.critical[0].index == 2
    base = float(made.true(torch.tensor([centre], dtype=torch.float64)))
    for axis, sign in enumerate((1, -1, -1)):
        h = torch.tensor([centre], dtype=torch.float64)
        h[0, axis] += 0.25
        assert sign * (float(made.true(h)) - base) == pytest.approx(0.25, abs=1e-12)


def test_the_spectrum_of_noise_has_the_slope_asked_for():
    slopes = []
    for seed in range(8):
        field = SHAPES["noise"]((64, 64), slope=3.0, seed=seed).nodal
        power = torch.fft.fft2(field - field.mean()).abs().square().reshape(-1)
        f = torch.fft.fftfreq(65, 1 / 65).double()
        k = (f[:, None] ** 2 + f[None] ** 2).sqrt().reshape(-1)
        chosen = (k >= 2) & (k <= 30)
        x, y = k[chosen].log(), power[chosen].log()
        slopes.append(float(((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum()))
    assert sum(slopes) / 8 == pytest.approx(-3.0, abs=0.1)


@pytest.mark.parametrize(
    ("name", "options", "wanted"),
    [
        ("bowl", {"curvatures": (4.0, 16.0)}, [[4.0, 0.0], [0.0, 16.0]]),
        ("saddle", {"curvature": 6.0}, [[6.0, 0.0], [0.0, -6.0]]),
        ("constant", {}, [[0.0, 0.0], [0.0, 0.0]]),
        ("ravine", {"curvature": 8.0, "condition": 4.0, "angle": 45.0}, [[5.0, -3.0], [-3.0, 5.0]]),
    ],
)
def test_smooth_phantoms_have_the_hessian_that_autograd_finds(name, options, wanted):
    made = phantom(name, smooth=True, dtype=torch.float64, **options)
    inputs = made.task.data.inputs
    weights = dict(made.model.named_parameters())

    def loss(h):
        moved = weights["1.bias"] + h
        outputs = functional_call(made.model, {**weights, "1.bias": moved}, (inputs,))
        return mean_loss(made, outputs)

    at = torch.tensor([0.3, 0.6], dtype=torch.float64)
    assert torch.allclose(hessian(loss, at), torch.tensor(wanted, dtype=torch.float64), atol=1e-9)
    assert torch.allclose(made.hessian(), torch.tensor(wanted, dtype=torch.float64), atol=1e-9)
    h = random_points(2)
    assert (measured(made, h) - made.true(h)).abs().max() <= made.bound


@pytest.mark.parametrize("smooth", [False, True])
def test_the_random_generator_is_left_as_it_was(smooth):
    before = torch.random.get_rng_state()
    phantom("bowl", resolution=4, smooth=smooth)
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_sampled_phantom_says_why_it_has_no_hessian():
    with pytest.raises(InputError, match="affine in every cell"):
        phantom("bowl", resolution=4).hessian()


def test_float32_smooth_phantoms_stay_within_their_bound():
    made = phantom("bowl", smooth=True, curvatures=(3.0, 50.0), centre=(0.25, 0.5))
    h = random_points(2, 100)
    assert (measured(made, h) - made.true(h)).abs().max() <= made.bound < 1e-3


@pytest.mark.parametrize(
    ("arguments", "options", "error", "text"),
    [
        (("bowle",), {}, UnknownNameError, "bowl"),
        (("bowl",), {"depth": 3}, InputError, "no parameter 'depth'; it has: curvatures, centre"),
        (("bowl",), {"curvature": 3}, InputError, "did you mean 'curvatures'"),
        (("constant",), {"height": 3}, InputError, "no parameter 'height'; it has: none"),
        (("bowl",), {"curvatures": "a"}, InputError, "cannot be made with curvatures = 'a'"),
        (("minima",), {"positions": 3}, InputError, "cannot be made with positions = 3"),
        (("noise",), {"seed": 1.5}, InputError, "seed must be an integer, got 1.5"),
        (("bowl",), {"centre": 0.3, "resolution": 8}, InputError, "nearest is 0.25"),
        (("bowl",), {"curvatures": (1.0, -1.0)}, InputError, "positive"),
        (("bowl",), {"z": 7}, InputError, "z = 1, 2, 3 or 4"),
        (("saddle",), {"index": 2}, InputError, "index 1 … 1"),
        (("ravine",), {"angle": 30.0, "condition": 1000.0}, InputError, "falls into pieces"),
        (("ravine",), {"z": 3}, InputError, "z = 2"),
        (("ring",), {"smooth": True}, InputError, "which a ring is not"),
        (("bowl",), {"smooth": True, "base": 1.0}, InputError, "floor of its own"),
        (("minima",), {"positions": [(0.5, 0.5), (0.625, 0.5)], "depths": (0.0, 0.5)}, InputError, "deeper one"),
        (("bowl",), {"base": 1.0}, FloorError, "label entropy"),
        (("step",), {"at": 1.0}, InputError, "0 < at < 1"),
        (("noise",), {"amplitude": 0.0}, InputError, "positive amplitude"),
        (("plateau",), {"radius": -1.0}, InputError, "radius and slope"),
    ],
)
def test_bad_input(arguments, options, error, text):
    with pytest.raises(error, match=text):
        phantom(*arguments, **options)


def test_points_outside_the_box_are_refused():
    with pytest.raises(InputError, match="lie in"):
        phantom("constant", resolution=4).true(torch.tensor([[0.5, 1.5]]))


def test_the_command_writes_a_bundle_that_says_what_is_in_it(tmp_path: Path, capsys):
    folder = tmp_path / "bowl.landform"
    code = main(["phantom", "bowl", "--resolution", "8", "--with", '{"centre": 0.25}', "-o", str(folder), "--json"])
    result = json.loads(capsys.readouterr().out)
    assert code == 0
    assert result["critical"][0]["h"] == [0.25, 0.25]
    assert result["kind"] == "certified"
    loaded = lf.load(folder)
    assert loaded.meta["phantom"]["critical"][0]["h"] == [0.25, 0.25]
    assert lf.certify(loaded).holds


def test_the_command_refuses_what_is_no_json(tmp_path: Path, capsys):
    assert main(["phantom", "bowl", "--with", "radius=3", "-o", str(tmp_path / "x")]) == 2
    assert "--with is no JSON" in capsys.readouterr().err
