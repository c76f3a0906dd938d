"""ψ: its gap is a bound, its size is the smallest, and its knots go where ρ bends."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from landform.errors import CapacityError, FloorError, InputError
from landform.response import chord_gap, direct_gap, fit_spline, respond

torch.set_num_threads(1)
TEN = respond("cross_entropy", torch.arange(10))
LOW = TEN.floor + 0.05


def measured(response, spline, points=20_001):
    u = torch.linspace(0, 1, points, dtype=torch.float64)
    want = spline.lo + (spline.hi - spline.lo) * u
    return float((response.along(spline(u).clamp(min=0)) - want).abs().max())


@pytest.mark.parametrize(("units", "lo", "gap"), [(64, 0.0, 6.7e-5), (256, 0.0, 4.2e-6), (64, 0.05, 4.3e-5)])
def test_known_gaps_of_ten_balanced_classes(units, lo, gap):
    spline = fit_spline(TEN, TEN.floor + lo, TEN.floor + lo + 1.0, units=units)
    assert spline.units == units
    assert spline.gap == pytest.approx(gap, rel=0.03)
    assert measured(TEN, spline) == pytest.approx(spline.gap, rel=1e-3)


def test_gap_falls_with_the_square_of_the_units():
    gaps = [fit_spline(TEN, LOW, LOW + 1.0, units=m).gap for m in (32, 64, 128, 256)]
    rates = np.log2(np.array(gaps[:-1]) / gaps[1:])
    np.testing.assert_allclose(rates, 2.0, atol=0.05)


RESPONSES = [
    TEN,
    respond("cross_entropy", torch.zeros(3, dtype=torch.long), outputs=4),
    respond("mse", torch.tensor([0.0, 1.0, 5.0])),
    respond("l1", torch.randint(0, 9, (40,), generator=torch.Generator().manual_seed(0))),
    respond("l1", torch.randn(3000, generator=torch.Generator().manual_seed(0))),
    respond("huber", torch.randn(300, generator=torch.Generator().manual_seed(0)), delta=0.2),
    respond("multi_margin", torch.tensor([0, 0, 0, 1, 1, 2]), p=1),
    respond("multi_margin", torch.tensor([0, 0, 0, 1, 1, 2]), p=2),
    respond("bce_with_logits", torch.tensor([[0.0, 1.0], [1.0, 1.0]])),
    respond("poisson_nll", torch.tensor([0, 1, 4])),
    respond("gaussian_nll", torch.tensor([0.0, 1.0, 4.0])),
]


@pytest.mark.parametrize("response", RESPONSES, ids=lambda r: f"{r.name}-{r.n_outputs}-{r.floor:.3f}")
@pytest.mark.parametrize("margin", [0.0, 0.05])
@pytest.mark.parametrize("epsilon", [1e-2, 1e-4])
def test_epsilon_is_met_and_the_gap_is_a_bound(response, margin, epsilon):
    lo, hi = response.lowest + margin, response.lowest + margin + 2.0
    spline = fit_spline(response, lo, hi, epsilon=epsilon)
    assert measured(response, spline) <= spline.gap + 1e-14
    assert spline.relative_gap <= epsilon
    assert spline.gap == pytest.approx(2.0 * spline.relative_gap, rel=1e-14)
    assert spline.knots[-1] == 1.0
    assert (spline.knots.diff() > 0).all()
    assert (spline.coefficients >= 0).all()
    if spline.units > 1:  # the smallest: one knot fewer misses epsilon (the table allows a hair)
        assert fit_spline(response, lo, hi, units=spline.units - 1).gap > 0.99 * epsilon * 2.0


def test_kinks_become_knots_and_the_gap_vanishes():
    response = respond("l1", torch.tensor([0.0, 1.0, 2.0, 3.0, 4.0]))
    spline = fit_spline(response, response.floor, response.floor + 3.0, epsilon=1e-9)
    assert spline.units == len(response.kinks()) + 1 == 3
    assert spline.gap < 1e-14


def test_required_values_are_exact():
    required = torch.tensor([0.0, 0.1, 1 / 3, 0.1, 0.97, 1.0], dtype=torch.float64)
    spline = fit_spline(TEN, LOW, LOW + 1.0, required=required, epsilon=1e-2)
    assert set(required[1:].tolist()) <= set(spline.knots.tolist())
    back = TEN.along(spline(required))
    assert (back - (LOW + required)).abs().max() <= 8 * torch.finfo(torch.float64).eps * TEN.floor


@given(
    st.lists(st.integers(1, 1000), min_size=2, max_size=6), st.floats(0, 0.5), st.floats(0.01, 20), st.floats(1e-5, 0.1)
)
@settings(max_examples=20, deadline=None)
def test_spline_for_any_label_counts_and_range(counts, margin, height, epsilon):
    response = respond("cross_entropy", torch.arange(len(counts)), weights=torch.tensor(counts))
    spline = fit_spline(response, response.floor + margin, response.floor + margin + height, epsilon=epsilon)
    assert spline.relative_gap <= epsilon
    assert measured(response, spline, 2001) <= spline.gap + 1e-14 * (1 + height)


def test_spline_errors():
    with pytest.raises(InputError, match=r"lo < hi, both finite, got lo=3\.0, hi=3\.0"):
        fit_spline(TEN, 3.0, 3.0)
    with pytest.raises(InputError, match="lo < hi, both finite"):
        fit_spline(TEN, 3.0, math.inf)
    with pytest.raises(FloorError, match=r"pattern floor 1\.0 is below the label entropy 2\.303 nat"):
        fit_spline(TEN, 1.0, 3.0)
    with pytest.raises(InputError, match="epsilon must be positive"):
        fit_spline(TEN, LOW, 4.0, epsilon=0.0)
    with pytest.raises(InputError, match=r"units must be in 1\.\.4096"):
        fit_spline(TEN, LOW, 4.0, units=0)
    with pytest.raises(InputError, match=r"required knots must be in \[0, 1\]"):
        fit_spline(TEN, LOW, 4.0, required=torch.tensor([1.5]))
    with pytest.raises(CapacityError, match=r"needs more than max_units=8 units.*raise epsilon or max_units"):
        fit_spline(TEN, LOW, 4.0, epsilon=1e-6, max_units=8)
    with pytest.raises(CapacityError, match="2 required knots need 3 units, more than units=2"):
        fit_spline(TEN, LOW, 4.0, units=2, required=torch.tensor([0.2, 0.4]))


@given(st.integers(0, len(RESPONSES) - 1), st.floats(0, 5), st.floats(0, 5))
@settings(max_examples=60, deadline=None)
def test_chord_gap_is_the_largest_distance(which, left, width):
    response = RESPONSES[which]
    a, b = torch.tensor([left]).double(), torch.tensor([left + width]).double()
    gap = float(chord_gap(response, a, b))
    u = torch.linspace(0, 1, 4001, dtype=torch.float64)
    rho = response.along(a + (b - a) * u)
    seen = float((rho[0] + (rho[-1] - rho[0]) * u - rho).max())
    size = 1.0 + float(rho.abs().max())
    assert gap >= seen - 4e-15 * size
    assert gap <= seen + 2e-3 * seen + width * 1e-3 * float(response.slope(b) - response.slope(a)) + 4e-15 * size


def test_chord_gap_of_l1_where_the_curvature_formula_says_zero():
    response = respond("l1", torch.tensor([0.0, 0.0, 0.3], dtype=torch.float64))
    a, b = torch.tensor([[0.0, 0.5], [0.6, 0.5]], dtype=torch.float64)
    # ρ rises with slope 1/3 to 0.3, then 1: the chord of slope 2/3 is 0.3·(2/3 − 1/3) above the kink
    assert chord_gap(response, a, b).tolist() == pytest.approx([0.1, 0.0], abs=1e-15)
    with pytest.raises(InputError, match="an interval is reversed"):
        chord_gap(response, b, a)


def test_direct_gap():
    zero, one = torch.zeros(1).double(), torch.ones(1).double()
    assert direct_gap(TEN, TEN.floor, TEN.floor + 1.0, zero, one) == pytest.approx(0.3054, abs=1e-4)
    assert direct_gap(TEN, TEN.floor, TEN.floor + 1.0, one, zero) == pytest.approx(0.3054, abs=1e-4)
    assert direct_gap(TEN, LOW, LOW + 1.0, one, one) == 0.0
    # a cell's interior is no worse than its edges
    tau = torch.tensor([0.0, 0.3, 1.0], dtype=torch.float64)
    s = TEN.inverse(LOW + tau)
    share = torch.distributions.Dirichlet(torch.ones(3).double()).sample((5000,))
    inside = ((share @ (LOW + tau)) - TEN.along(share @ s)).max()
    edges = torch.tensor([[0, 1], [1, 2], [0, 2]])
    bound = direct_gap(TEN, LOW, LOW + 1.0, tau[edges[:, 0]], tau[edges[:, 1]])
    assert 0.8 * bound < float(inside) <= bound
    with pytest.raises(InputError, match=r"pattern values must be in \[0, 1\]"):
        direct_gap(TEN, LOW, LOW + 1.0, zero - 1, one)
