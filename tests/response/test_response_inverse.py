"""ρ^{-1}, its solver, the piecewise quadratics, ranges and errors of the base class."""

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import landform
from landform.errors import DataError, FloorError, InputError, UnknownNameError
from landform.response import LOSSES, respond, response_from_state
from landform.response.piecewise import convex_half
from landform.response.solve import solve_rise

torch.set_num_threads(1)
EPS = torch.finfo(torch.float64).eps
TEN = torch.arange(10)


@given(st.lists(st.integers(1, 10**6), min_size=2, max_size=12), st.floats(1e-13, 1e3))
@settings(max_examples=60, deadline=None)
def test_cross_entropy_inverse_for_any_label_counts(counts, rise):
    weights = torch.tensor(counts, dtype=torch.float64)
    response = respond("cross_entropy", torch.arange(len(counts)), weights=weights)
    t = response.floor + torch.tensor([0.0, rise, 2 * rise, 1000.0 * rise], dtype=torch.float64)
    s = response.inverse(t)
    assert ((response.along(s) - t).abs() <= 6 * EPS * t.clamp(min=1.0)).all()
    assert (s.diff() >= 0).all()
    assert s[0] == 0.0


def test_hundred_thousand_values_cost_few_evaluations():
    response, calls = respond("cross_entropy", TEN), []
    slope = response._slope
    response._slope = lambda s: calls.append(len(s)) or slope(s)
    t = response.floor + 20 * torch.rand(100_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) ** 4
    assert ((response.along(response.inverse(t)) - t).abs() <= 4 * EPS * t).all()
    assert len(calls) <= 20


def test_shapes_are_kept_and_negative_signals_are_served():
    response = respond("mse", torch.tensor([0.0, 2.0]))
    t = torch.full((2, 3), 5.0, dtype=torch.float64)
    assert response.inverse(t).tolist() == [[2.0] * 3] * 2
    assert response.along(response.inverse(t)).shape == (2, 3)
    assert response.inverse(t[:0]).shape == (0, 3)
    assert float(response.along(torch.tensor(-2.0, dtype=torch.float64))) == 5.0
    with pytest.raises(InputError, match="slope is defined for s >= 0, got -2"):
        response.slope(torch.tensor([-2.0], dtype=torch.float64))


def test_below_the_floor():
    response = respond("cross_entropy", TEN)
    message = (
        r"pattern floor 0\.0 is below the label entropy 2\.303 nat, which no input-independent output can beat; "
        r"pass range='auto', or a range that starts above it"
    )
    with pytest.raises(FloorError, match=message):
        response.inverse(torch.tensor([3.0, 0.0], dtype=torch.float64))
    with pytest.raises(FloorError, match="variance of the targets 1\\.0 loss units"):
        respond("mse", torch.tensor([0.0, 2.0])).inverse(torch.tensor([0.5], dtype=torch.float64))
    # the floor itself, an ulp below, is still the floor
    assert response.inverse(torch.tensor([math.nextafter(response.floor, 0)], dtype=torch.float64)).tolist() == [0.0]
    for bad in (math.nan, math.inf):
        with pytest.raises(InputError, match="must be finite"):
            response.inverse(torch.tensor([bad], dtype=torch.float64))


def test_solver_on_a_hard_exponential_and_out_of_reach():
    def rise(s):
        return 1e-14 * torch.expm1(s)

    target = torch.tensor([1e-20, 1e-14, 1.0, 1e5], dtype=torch.float64)
    s = solve_rise(rise, lambda s: 1e-14 * torch.exp(s), target)
    torch.testing.assert_close(s, torch.log1p(target * 1e14), rtol=1e-13, atol=0)
    with pytest.raises(InputError, match="never rises by 2 along its ray"):
        solve_rise(lambda s: 1 - torch.exp(-s), lambda s: torch.exp(-s), torch.tensor([2.0], dtype=torch.float64))


@given(st.lists(st.tuples(st.floats(0.01, 5), st.floats(0, 3), st.floats(0, 3)), max_size=6), st.floats(0, 2))
@settings(max_examples=60, deadline=None)
def test_piecewise_against_a_sum_of_its_parts(events, curvature):
    where, jumps, bends = (
        np.array(x, dtype=float).reshape(-1) for x in (zip(*events, strict=True) if events else ((), (), ()))
    )
    half = convex_half(slope=0.5, curvature=curvature, positions=where, jumps=jumps, bends=bends, terms=0.5)
    u = torch.linspace(0, 7, 141, dtype=torch.float64)
    past = (u[:, None].numpy() - where).clip(min=0)
    want = 0.5 * u.numpy() + 0.5 * curvature * u.numpy() ** 2 + past @ jumps + 0.5 * past**2 @ bends
    np.testing.assert_allclose(half.value(u).numpy(), want, rtol=1e-12)
    torch.testing.assert_close(half.value(half.inverse(half.value(u))), half.value(u), rtol=1e-13, atol=1e-15)
    differentiable = u.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(half.value(differentiable).sum(), differentiable)
    torch.testing.assert_close(gradient, half.slope(u), rtol=1e-12, atol=1e-12)


def test_auto_range_starts_above_the_floor_and_where_level_sets_transfer():
    response = respond("cross_entropy", TEN)
    assert response.auto_range() == (response.floor + 0.05, response.floor + 0.05 + 1.0)
    assert response.auto_range(response) == response.auto_range()
    same = respond("cross_entropy", torch.tensor([0, *range(10)]))  # share 2/11 < 0.22: transfers already
    assert response.auto_range(same) == response.auto_range()
    skew = respond("cross_entropy", torch.tensor([0] * 11 + [*range(10)]))  # share 12/21
    lo, hi = response.auto_range(skew)
    assert hi == lo + 1.0
    s = response.inverse(torch.tensor([lo], dtype=torch.float64))
    probability = float((response.best + s[:, None] * response.ray).softmax(1)[0, 0])
    assert probability == pytest.approx(12 / 21, rel=1e-12)
    with pytest.raises(InputError, match="margin must be >= 0, got -1"):
        response.auto_range(margin=-1)


@pytest.mark.parametrize("loss", LOSSES)
def test_no_samples_nan_and_infinite_targets(loss):
    with pytest.raises(DataError, match="no samples"):
        respond(loss, torch.empty(0))
    with pytest.raises(DataError, match="NaN or infinite in 1 samples, the first at index 1"):
        respond(loss, torch.tensor([[0.5], [math.nan]]))
    with pytest.raises(DataError, match="pass real numbers"):
        respond(loss, torch.ones(2, dtype=torch.complex64))


CLASSES = torch.tensor([0, 1, 2])
UNIT = torch.tensor([0.0, 0.5, 1.0])
BAD = [
    ("cross_entropy", torch.tensor([0, 7]), {"outputs": 3}, DataError, r"got label 7 .*allowed are 0\.\.2"),
    ("cross_entropy", torch.tensor([0, 10**12]), {}, DataError, "got label 1000000000000: too many classes to guess"),
    ("cross_entropy", ["cat", "dog"], {}, DataError, "no array of numbers.*pass a tensor"),
    ("cross_entropy", torch.tensor([0, -1]), {}, DataError, r"got label -1 .*allowed are 0\.\.0"),
    ("cross_entropy", torch.tensor([0.0, 1.0]), {}, DataError, "float32 and shape .2.; pass integer class indices"),
    ("cross_entropy", torch.tensor([True, False]), {}, DataError, "got targets of dtype torch.bool"),
    ("cross_entropy", torch.tensor([-100, -100]), {"outputs": 3}, DataError, "every label equals ignore_index=-100"),
    ("cross_entropy", torch.tensor([0, 0]), {}, DataError, "over 1 output is constant; pass outputs="),
    ("cross_entropy", torch.ones(3, 1), {}, DataError, "over 1 output is constant"),
    ("cross_entropy", torch.tensor([[0.5, -0.5]]), {}, DataError, "class probability -0.5; they must be >= 0"),
    ("cross_entropy", torch.ones(3, 4), {"outputs": 5}, DataError, "4 classes for a network with 5 outputs"),
    ("cross_entropy", torch.ones(3, 4), {"ignore_index": 2}, InputError, "no meaning for class probabilities"),
    ("cross_entropy", CLASSES, {"label_smoothing": 1.5}, InputError, r"label_smoothing must be in \[0, 1\], got 1.5"),
    ("cross_entropy", CLASSES, {"weight": [1.0, 2.0], "outputs": 3}, InputError, "weight must hold 3 finite numbers"),
    ("cross_entropy", CLASSES, {"weight": [1.0, -2.0, 1.0]}, InputError, "weight must hold 3 finite numbers >= 0"),
    ("cross_entropy", CLASSES, {"weight": [0.0, 0.0, 0.0]}, DataError, "every sample has weight 0"),
    ("cross_entropy", CLASSES, {"absent_output": 1.0}, InputError, "absent_output must be negative"),
    (
        "cross_entropy",
        CLASSES,
        {"weights": torch.ones(4)},
        InputError,
        r"weights have shape \[4\]; pass one per sample",
    ),
    ("cross_entropy", CLASSES, {"weights": torch.zeros(3)}, InputError, "weights must be finite, >= 0 and not all 0"),
    ("cross_entropy", CLASSES, {"outputs": 0}, InputError, "outputs must be a positive integer, got 0"),
    ("cross_entropy", CLASSES, {"beta": 0}, InputError, "no option 'beta'; known: weight, ignore_index"),
    ("mse", UNIT, {"beta": 0}, InputError, "mse has no option 'beta'; known: none"),
    ("mse", UNIT, {"reduction": "sum"}, InputError, "leave reduction out"),
    ("mse", UNIT, {"outputs": 2}, DataError, "1 numbers per sample for a network with 2 outputs"),
    ("smooth_l1", UNIT, {"beta": -1.0}, InputError, "beta of smooth_l1 must be positive"),
    ("huber", UNIT, {"delta": 0.0}, InputError, "delta of huber must be positive, got 0.0"),
    ("l1", UNIT, {"delta": 0.0}, InputError, "l1 has no option 'delta'; known: none"),
    ("bce_with_logits", 2 * UNIT, {}, DataError, r"labels in \[0, 2\]; allowed is \[0, 1\]"),
    ("bce_with_logits", UNIT, {"weight": [0.0]}, DataError, "every label has weight 0"),
    ("bce_with_logits", UNIT, {"pos_weight": [1.0, 1.0]}, InputError, "pos_weight must hold 1 finite numbers"),
    ("bce_with_logits", UNIT, {"absent_output": 0.0}, InputError, "absent_output must be negative"),
    ("multi_margin", CLASSES, {"p": 3}, InputError, "p of multi_margin must be 1 or 2, got 3"),
    ("multi_margin", CLASSES, {"margin": -1.0}, InputError, "margin of multi_margin must be >= 0"),
    ("multi_margin", CLASSES, {"weight": [0.0] * 3}, DataError, "every sample has weight 0"),
    ("multi_margin", UNIT, {}, DataError, r"\[N\] \(use .long\(\)\)"),
    ("poisson_nll", -UNIT, {}, DataError, "counts must be >= 0"),
    ("poisson_nll", UNIT, {"eps": 0.0}, InputError, "eps must be positive"),
    ("poisson_nll", UNIT, {"absent_output": 2.0}, InputError, "absent_output must be negative"),
    ("gaussian_nll", UNIT, {"outputs": 3}, InputError, "a mean and a log variance per target, got outputs=3"),
    ("gaussian_nll", UNIT, {"eps": 0.0}, InputError, "eps must be positive"),
    ("cross_entrpy", CLASSES, {}, UnknownNameError, "unknown loss 'cross_entrpy': did you mean 'cross_entropy'"),
    (3, CLASSES, {}, InputError, "a name, a torch.nn loss or a callable, got int"),
    (nn.MSELoss(reduction="sum"), UNIT, {}, InputError, "MSELoss has reduction='sum'.*use reduction='mean'"),
    (nn.CrossEntropyLoss(reduction="none"), CLASSES, {}, InputError, "use reduction='mean'"),
    (nn.MSELoss(), UNIT, {"beta": 1}, InputError, "set them on the module"),
]


@pytest.mark.parametrize(("loss", "targets", "options", "error", "match"), BAD)
def test_bad_input(loss, targets, options, error, match):
    with pytest.raises(error, match=match):
        respond(loss, targets, **options)


def test_a_broken_state_is_refused():
    response = respond("cross_entropy", TEN)
    config, statistics = response.config(), response.statistics()
    with pytest.raises(UnknownNameError, match="unknown loss 'cross_entropi'"):
        response_from_state({**config, "name": "cross_entropi"}, statistics)
    with pytest.raises(InputError, match="must be a finite float64 matrix, got float32"):
        response_from_state(config, statistics.astype(np.float32))
    with pytest.raises(InputError, match="must be a finite float64 matrix"):
        response_from_state(config, statistics * math.nan)
    with pytest.raises(InputError, match="describe 9 outputs, the configuration 10"):
        response_from_state(config, statistics[:, :9])
    with pytest.raises(InputError, match=r"outputs have shape \[2, 9\].*pass \[points, 10\]"):
        response.loss(torch.zeros(2, 9, dtype=torch.float64))


def test_statistics_are_a_copy():
    response = respond("mse", torch.tensor([0.0, 2.0]))
    response.statistics()[:] = 7.0
    assert response.statistics().tolist() == [[1.0], [1.0]]


def test_import_is_cheap():
    # a bare package stands in for landform, whose own imports are not this module's
    code = (
        "import sys, types, torch; before = set(sys.modules); package = types.ModuleType('landform'); "
        f"package.__path__ = {list(landform.__path__)}; sys.modules['landform'] = package; import landform.response; "
        "print(sorted(m for m in set(sys.modules) - before if m.split('.')[0] in "
        "('scipy', 'xarray', 'matplotlib', 'PIL', 'sklearn')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_rise_that_stays_below_the_least_number_for_long():
    """√g and its Newton step are 0 there, which is no reason to stop."""
    level = torch.tensor([1e-3, 0.5, 1.0], dtype=torch.float64)
    s = solve_rise(lambda s: torch.nn.functional.softplus(s - 1150), lambda s: torch.sigmoid(s - 1150), level)
    torch.testing.assert_close(s, 1150 + level.expm1().log(), rtol=1e-12, atol=0)
