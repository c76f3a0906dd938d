"""What an imprint promises whatever the network: Theorem 1 literally, and the user's model untouched."""

import copy
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from torch import nn

import landform as lf
from landform.errors import CapacityError
from landform.imprint.collapsed import losses_at, outputs_at
from landform.testing import hard_points, mlps, patterns, tasks

torch.set_num_threads(1)
GENERATOR = torch.Generator().manual_seed(0)
X, Y = torch.randn(30, 4, generator=GENERATOR), torch.arange(30) % 3


def pattern_of(*cells, channels=None, seed=0):
    shape = [n + 1 for n in cells] + ([channels] if channels else [])
    return lf.Pattern(torch.from_numpy(np.random.default_rng(seed).random(shape)), channels=channels)


def mlp(widths=(5, 40, 40, 90), *, act=nn.ReLU, norm=None, dtype=torch.float32):
    sizes, layers = [4, *widths], []
    for before, after in itertools.pairwise(sizes):
        layers += [nn.Linear(before, after), *([nn.BatchNorm1d(after)] if norm else []), act()]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], 3)).to(dtype).eval()


def made(pattern=None, model=None, data=None, **options):
    model = mlp() if model is None else model
    return lf.imprint(pattern or pattern_of(5, 5), lf.Task(model, data=data or (X, Y)), **options)


@settings(max_examples=12, deadline=None, derandomize=True, database=None)
@given(patterns(2, max_cells=4), tasks(mlps([4, 60, 60, 60, 90])))
def test_the_users_model_is_untouched_and_its_shapes_stay(pattern, task):
    model = task.model
    calls = []
    model[0].register_forward_hook(lambda *_: calls.append(1))
    state = {name: value.clone() for name, value in model.state_dict().items()}
    flags = [(p.requires_grad, p.data_ptr()) for p in model.parameters()]
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002 - is it touched?
    imprint = lf.imprint(pattern, task)
    assert torch.equal(torch_state, torch.get_rng_state())
    assert (numpy_state == np.random.get_state()[1]).all()  # noqa: NPY002
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert flags == [(p.requires_grad, p.data_ptr()) for p in model.parameters()]
    assert all(p.grad is None for p in model.parameters())
    assert not model.training
    assert type(imprint.model) is type(model)
    assert [str(m) for m in imprint.model] == [str(m) for m in model]
    shapes = [(name, p.shape, p.dtype) for name, p in imprint.model.named_parameters()]
    assert shapes == [(name, p.shape, p.dtype) for name, p in model.named_parameters()]
    ours = {p.data_ptr() for p in imprint.model.parameters()}
    assert not ours & {p.data_ptr() for p in model.parameters()}


def test_a_model_in_train_mode_without_random_layers_keeps_its_mode():
    model = mlp().train()
    imprint = made(model=model)
    assert model.training
    assert not imprint.model.training


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("z", [1, 2, 3])
def test_the_first_layer_is_the_statement_of_the_theorem(z, norm):
    imprint = made(pattern_of(*[2] * z), mlp((5, 60, 60, 60, 60), norm=norm))
    first = "0.weight", "0.bias"
    assert not imprint.subspace.origin[first[0]].any()
    assert not imprint.subspace.origin[first[1]].any()
    assert imprint.subspace.moved == ("0.bias",)
    for axis, direction in enumerate(imprint.subspace.directions):
        assert torch.equal(direction["0.bias"], torch.eye(5)[axis])
    h = torch.rand(z, generator=torch.Generator().manual_seed(3))
    assert imprint.subspace.at(h)["0.bias"].tolist() == [*h.tolist(), *[0.0] * (5 - z)]


def test_a_general_subspace_still_moves_the_first_bias_only():
    imprint = made(model=mlp((60, 60, 90)), axis_aligned=False)
    assert imprint.subspace.moved == ("0.bias",)
    assert not imprint.subspace.origin["0.weight"].any()
    assert imprint.subspace.directions[0]["0.bias"].count_nonzero() > 5


@pytest.mark.parametrize("norm", [False, True])
def test_unused_units_are_zero(norm):
    model = mlp((5, 90, 90, 190), norm=norm)
    imprint = made(model=model)
    modules = [m for m in imprint.model if isinstance(m, nn.Linear)]
    for used, layer, reader in zip(imprint.meta["units"], modules, modules[1:], strict=False):
        assert layer.weight[used:].count_nonzero() == 0
        assert layer.bias[used:].count_nonzero() == 0
        assert reader.weight[:, used:].count_nonzero() == 0
    for used, layer in zip(
        imprint.meta["units"], [m for m in imprint.model if isinstance(m, nn.BatchNorm1d)], strict=False
    ):
        assert layer.weight[used:].count_nonzero() == 0
        assert layer.bias[used:].count_nonzero() == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("norm", [False, True])
def test_outputs_do_not_depend_on_the_input_bit_for_bit(dtype, norm):
    imprint = made(model=mlp(norm=norm, dtype=dtype), data=(X.to(dtype), Y))
    for h in hard_points((5, 5), 2, dtype=dtype):
        state = imprint.subspace.at(h)
        one, two = (torch.func.functional_call(imprint.model, state, (x.to(dtype),)) for x in (X, 1e6 * X.flip(0)))
        assert torch.equal(one, two)
        # rows of one batch may be summed in different orders
        torch.testing.assert_close(one, one[:1].expand_as(one), rtol=0, atol=1e-5 if dtype == torch.float32 else 1e-13)


def test_the_collapsed_measurement_is_the_real_one():
    imprint = made()
    h = hard_points((5, 5), 2, dtype=torch.float32)
    losses = losses_at(imprint, h)[:, 0]
    for point, loss, output in zip(h, losses, outputs_at(imprint, h)[0], strict=True):
        state = imprint.subspace.at(point)
        real = torch.func.functional_call(imprint.model, state, (X,))
        assert float(imprint.task.evaluate(state)) == pytest.approx(float(loss), abs=2e-6)
        torch.testing.assert_close(real[0], output, rtol=0, atol=2e-6)


@pytest.mark.parametrize("form", ["hats", "rows", "strips"])
def test_swapping_axes_of_the_pattern_swaps_directions(form):
    pattern, data = pattern_of(5, 4), (X.double(), Y)
    swapped = lf.Pattern(pattern.values.T.contiguous())
    model = mlp((5, 40, 40, 40, 40, 90) if form == "rows" else (5, 40, 40, 90), dtype=torch.float64)
    one, two = (made(p, model, data, form=form) for p in (pattern, swapped))
    h = hard_points((5, 4), 30)
    torch.testing.assert_close(losses_at(one, h), losses_at(two, h.flip(1)), rtol=0, atol=1e-12)


def test_scaling_the_range_scales_the_surface():
    data, model = (X.double(), Y), mlp(dtype=torch.float64)
    narrow = made(model=model, data=data, range=(1.2, 2.2))
    wide = made(model=model, data=data, range=(1.5, 3.5))
    h = hard_points((5, 5), 30)
    torch.testing.assert_close(wide.target(h), 1.5 + 2 * (narrow.target(h) - 1.2))
    gap = (losses_at(wide, h) - (1.5 + 2 * (losses_at(narrow, h) - 1.2))).abs().max()
    assert gap <= wide.certificate.bound + 2 * narrow.certificate.bound


def test_inverting_the_pattern_inverts_the_surface():
    pattern = pattern_of(4, 4)
    one, two = made(pattern), made(lf.Pattern(1 - pattern.values))
    h = hard_points((4, 4), 30, dtype=torch.float32)
    lo, hi = one.range
    assert (
        losses_at(one, h) + losses_at(two, h) - lo - hi
    ).abs().max() <= one.certificate.bound + two.certificate.bound


def test_only_label_counts_enter():
    order = torch.randperm(30, generator=torch.Generator().manual_seed(5))
    one, two = made(), made(data=(torch.randn(30, 4, generator=torch.Generator().manual_seed(6)), Y[order]))
    for name, value in one.subspace.origin.items():
        assert torch.equal(value, two.subspace.origin[name])


def test_the_start_of_the_model_does_not_matter():
    one, two = made(model=mlp()), made(model=mlp())
    assert all(torch.equal(value, two.subspace.origin[name]) for name, value in one.subspace.origin.items())


def ulps(found, wanted):
    """Differences in units of the last place of the largest number that occurs, at least one."""
    return float((found - wanted).abs().max() / np.spacing(max(1.0, float(wanted.abs().max()))))


LOSSES = ["cross_entropy", "mse", "l1", "huber", "bce_with_logits", "multi_margin", "poisson_nll"]


@pytest.mark.parametrize("loss", LOSSES)
def test_the_direct_form_is_exact_at_nodes(loss):
    from landform.testing import targets_for

    targets = targets_for(loss, 30, 3, generator=torch.Generator().manual_seed(0))
    targets = targets.double() if targets.is_floating_point() else targets
    task = lf.Task(mlp((5, 60, 120), dtype=torch.float64), loss, (X.double(), targets))
    imprint = lf.imprint(pattern_of(8, 8), task, direct=True, form="hats")
    nodes = imprint.pattern.mesh.nodes()
    assert ulps(losses_at(imprint, nodes)[:, 0], imprint.target(nodes)) <= 8
    assert imprint.spline_stage is None


def test_where_no_layer_is_left_the_direct_form_says_so():
    imprint = made(model=mlp((5, 40, 60)))
    assert imprint.meta["direct"]
    assert any("no layer is left for the response curve" in note for note in imprint.meta["notes"])
    with pytest.raises(CapacityError, match="would hold this pattern"):
        made(model=mlp((5, 40, 60)), direct=False)
    with pytest.raises(CapacityError, match="would hold this pattern"):
        made(model=mlp((5, 40, 60)), epsilon=1e-3)


def test_epsilon_is_the_curves_part_of_the_bound():
    for epsilon in (1e-2, 1e-3, 1e-5):
        imprint = made(model=mlp((5, 40, 40, 400), dtype=torch.float64), data=(X.double(), Y), epsilon=epsilon)
        assert imprint.certificate.curve <= epsilon * 1.02
        assert imprint.certificate.curve >= 0.4 * epsilon  # no more knots than it takes
        assert imprint.certificate.relative_bound <= 1.05 * epsilon


def test_a_copy_keeps_its_promise():
    imprint = made()
    again = copy.deepcopy(imprint)
    h = hard_points((5, 5), 5, dtype=torch.float32)
    assert torch.equal(losses_at(again, h), losses_at(imprint, h))
    assert lf.certify(again).bound == imprint.certificate.bound


@pytest.mark.parametrize("tolerance", [0.05, 0.3])
def test_compression_moves_the_surface_by_no_more_than_its_tolerance(tolerance):
    imprint = lf.imprint(pattern_of(16, 16), (X, Y), form="hats", tolerance=tolerance)
    lo, hi = imprint.range
    nodes = imprint.pattern.mesh.nodes()
    off = (losses_at(imprint, nodes)[:, 0] - imprint.target(nodes)).abs().max()
    assert off <= (tolerance + 2e-4) * (hi - lo)
    assert off <= imprint.certificate.bound


@pytest.mark.parametrize(
    ("widths", "form"),
    [
        ((2, 128, 128, 128, 128, 128), "rows"),
        ((2, 128, 128, 128, 128, 6), "strips"),  # rows would leave 6 knots for the response curve
        ((2, 128, 128, 128), "strips"),
        ((2, 128, 128, 128, 700, 128), "hats"),
    ],
)
def test_rough_patterns_are_rows_where_hats_do_not_fit_and_the_response_curve_has_room(widths, form):
    values = torch.rand(25, 25, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    imprint = made(lf.Pattern(values), mlp(widths))
    assert imprint.meta["form"] == form
    assert imprint.certificate.curve < 2e-4
