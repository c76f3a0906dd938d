"""The public testing tools do what they say."""

import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings

import landform as lf
from landform.errors import InputError, MissingExtraError, UnknownNameError
from landform.losses import LOSS_NAMES
from landform.testing import (
    dead_entries,
    dense_losses,
    hard_points,
    kuhn_value,
    live_entries,
    losses,
    mlps,
    patterns,
    perturbed,
    sums,
    targets_for,
    tasks,
    widths,
)
from landform.testing.reference import LOSSES

torch.set_num_threads(1)
FEW = settings(max_examples=15, deadline=None, derandomize=True, database=None)


@FEW
@given(patterns())
def test_patterns_are_patterns(pattern):
    assert 1 <= pattern.z <= 4
    assert max(pattern.resolution) <= 6
    middle = [0.3] * pattern.z
    found = pattern(torch.tensor([middle], dtype=torch.float64))
    assert kuhn_value(pattern.values, middle) == pytest.approx(float(found), abs=1e-14)


@FEW
@given(patterns(2, channels=3, dyadic=True))
def test_patterns_take_options(pattern):
    assert (pattern.z, pattern.channels) == (2, 3)
    assert torch.equal(pattern.values * 256, (pattern.values * 256).round())


@FEW
@given(sums(), widths(layers=(2, 3), units=(5, 6)), mlps(), tasks())
def test_the_other_strategies(pattern, hidden, model, task):
    assert 1 <= pattern.z <= 8
    assert set(hidden) <= {5, 6}
    assert not model.training
    assert all(torch.isfinite(p).all() for p in model.parameters())
    assert not task.evaluate().isnan()  # exp of a large output may well be infinite


@pytest.mark.parametrize("name", LOSSES)
def test_targets_fit_their_losses(name):
    assert name in LOSS_NAMES
    outputs = 2 if name == "gaussian_nll" else 3
    targets = targets_for(name, 12, outputs, generator=torch.Generator().manual_seed(0))
    task = lf.Task(torch.nn.Linear(4, outputs), name, (torch.zeros(12, 4), targets))
    assert not task.evaluate().isnan()  # exp of a large output may well be infinite


def test_drawing_leaves_the_global_generator_alone():
    before = torch.get_rng_state()

    @FEW
    @given(tasks(), losses(2))
    def draw(task, name):
        assert name in ("mse", "gaussian_nll")

    draw()
    assert torch.equal(before, torch.get_rng_state())


def test_hard_points_hold_every_kind():
    points = hard_points((5, 7), 50, dtype=torch.float32)
    scaled = points * torch.tensor([5.0, 7.0], dtype=torch.float64)
    near = (scaled - scaled.round()).abs()
    assert ((points >= 0) & (points <= 1)).all()
    assert (near.amax(dim=1) < 1e-5).sum() >= 150
    assert ((near - 0.5).abs() < 1e-5).any()
    assert (near > 0.1).all(dim=1).any()
    assert torch.equal(points, hard_points((5, 7), 50, dtype=torch.float32))
    with pytest.raises(InputError, match="at least one axis"):
        hard_points((), 3)


def test_dense_losses_are_those_of_the_network_up_to_rounding():
    data = torch.zeros(9, 4), torch.arange(9) % 3
    imprint = lf.imprint(lf.Pattern(torch.from_numpy(np.random.default_rng(0).random((4, 4)))), data)
    h = hard_points((3, 3), 3, dtype=torch.float32)
    found = dense_losses(imprint, h)
    real = torch.stack([imprint.task.evaluate(imprint.subspace.at(point)) for point in h])
    assert 0 < (found[:, 0] - real).abs().max() < 1e-5


def test_tampering_changes_one_number_of_a_copy():
    data = torch.zeros(9, 4), torch.arange(9) % 3
    imprint = lf.imprint(lf.Pattern(torch.from_numpy(np.random.default_rng(0).random((4, 4)))), data)
    name, index = next(iter(live_entries(imprint)))
    other = perturbed(imprint, name, index, 7.0)
    changes = sum(int((imprint.subspace.origin[k] != v).sum()) for k, v in other.subspace.origin.items())
    assert changes == 1
    assert dict(other.model.named_parameters())[name][index] == 7.0
    assert other.certificate is imprint.certificate
    moved = perturbed(imprint, imprint.subspace.moved[0], (0,), 2.0, direction=1)
    assert moved.subspace.directions[1][imprint.subspace.moved[0]][0] == 2.0
    assert all(torch.equal(imprint.subspace.origin[k], v) for k, v in moved.subspace.origin.items())
    assert list(dead_entries(imprint)) == []
    with pytest.raises(UnknownNameError, match="unknown parameter 'nothing'"):
        perturbed(imprint, "nothing", (0,), 1.0)
    with pytest.raises(InputError, match="no direction 2 moves"):
        perturbed(imprint, imprint.subspace.moved[0], (0,), 1.0, direction=2)


def test_bad_arguments():
    with pytest.raises(InputError, match="z = 5: patterns on grids have 1 to 4 axes"):
        patterns(5)
    with pytest.raises(UnknownNameError, match="unknown loss 'mce': did you mean 'mse'"):
        targets_for("mce", 3, 3, generator=torch.Generator())
    with pytest.raises(InputError, match="axes"):
        patterns(0)


def test_hypothesis_is_imported_when_it_is_needed_and_named_when_it_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "hypothesis", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'landform\[testing\]'"):
        widths()
