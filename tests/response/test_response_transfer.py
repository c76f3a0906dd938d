"""Transfer: the predicted order, the re-mapped heights, the turning point, on both sides of the condition."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import given, settings
from hypothesis import strategies as st

from landform.errors import InputError
from landform.response import respond, respond_like, transfer
from landform.response.transfer import _convex, _curve

torch.set_num_threads(1)
LABELS = torch.arange(1797) % 10
FIRST = respond("cross_entropy", LABELS)
LO, HI = FIRST.auto_range()


def reweighted(share):
    """Balanced digits, re-weighted so that the ray's class has this share."""
    weights = torch.where(FIRST.output == LABELS, share, (1 - share) / 9).double()
    return weights / torch.tensor([(c == LABELS).sum() for c in range(10)])[LABELS]


@pytest.mark.parametrize(("share", "order"), [(0.05, "kept"), (0.1, "kept"), (0.4, "folded"), (0.95, "reversed")])
def test_both_sides_of_the_condition(share, order):
    weights = reweighted(share)
    other = respond_like(FIRST, LABELS, weights=weights)
    made = transfer(FIRST, other, LO, HI)
    assert made.order == order
    assert made.identical == (order != "folded")
    assert f"{share:.3g}" in made.condition
    t = torch.linspace(LO, HI, 401, dtype=torch.float64)
    heights = made.remap(t)
    # measured, on the data themselves
    s = FIRST.inverse(t[::40])
    for got, p in zip(heights[::40], FIRST.best + s[:, None] * FIRST.ray, strict=True):
        each = F.cross_entropy(p.expand(len(LABELS), 10), LABELS, reduction="none")
        assert float(got) == pytest.approx(float((weights * each).sum() / weights.sum()), rel=1e-12)
    step = heights.diff()
    assert bool((step > 0).all()) == (order == "kept")
    assert bool((step < 0).all()) == (order == "reversed")
    if order == "folded":
        assert abs(made.turning_point - float(t[heights.argmin()])) < 2 * float(t[1] - t[0])
        raised, _ = FIRST.auto_range(other)
        assert raised == pytest.approx(made.turning_point)
        assert transfer(FIRST, other, raised, raised + 1).order == "kept"
    else:
        assert made.turning_point is None


def test_the_same_labels_transfer_from_the_floor_on():
    made = transfer(FIRST, FIRST, FIRST.floor, HI)
    assert made.order == "kept"
    t = torch.linspace(FIRST.floor, HI, 50, dtype=torch.float64)
    torch.testing.assert_close(made.remap(t), t, rtol=1e-14, atol=0)


@given(
    st.lists(st.integers(0, 30), min_size=3, max_size=6),
    st.lists(st.integers(0, 30), min_size=3, max_size=6),
    st.floats(0, 1),
)
@settings(max_examples=50, deadline=None)
def test_the_closed_condition_agrees_with_the_slopes(here, there, margin):
    size = min(len(here), len(there))
    first = respond("cross_entropy", torch.arange(size), weights=torch.tensor(here[:size]) + 1)
    other = respond("cross_entropy", torch.arange(size), weights=torch.tensor([1, *there[1:size]]))
    lo, hi = first.floor + margin, first.floor + margin + 1.0
    s = first.inverse(torch.tensor([lo, hi], dtype=torch.float64)).tolist()
    made, (order, turn, _) = transfer(first, other, lo, hi), _convex(_curve(first, other), *s)
    turning = made.turning_point
    if made.order == order == "folded":
        assert turning == pytest.approx(float(first.along(torch.tensor(turn, dtype=torch.float64))), abs=1e-9)
    elif made.order != order:  # only where the turning point is at an end of the range
        turning = turning if turning is not None else float(first.along(torch.tensor(turn, dtype=torch.float64)))
        assert min(turning - lo, hi - turning) < 1e-6


MOVED = [
    ("mse", {}),
    ("l1", {}),
    ("huber", {"delta": 0.3}),
    ("bce_with_logits", {}),
    ("poisson_nll", {}),
    ("gaussian_nll", {}),
]


@pytest.mark.parametrize(("loss", "options"), MOVED)
def test_other_losses_by_convexity(loss, options):
    targets = torch.rand(64, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    first = respond(loss, targets, **options)
    lo, hi = first.lowest + 1e-3, first.lowest + 0.05
    t = torch.linspace(lo, hi, 2001, dtype=torch.float64)
    seen = set()
    for power in (8.0, 1.5, 0.9, 0.5, 0.01):  # targets fall, then rise
        made = transfer(first, respond_like(first, targets**power), lo, hi)
        heights = made.remap(t)
        step = heights.diff()
        assert made.order == ("kept" if (step > 0).all() else "reversed" if (step < 0).all() else "folded"), power
        if made.order == "folded":
            bottom = t[(heights <= heights.min() + 1e-14).nonzero()[-1]]
            assert abs(made.turning_point - float(bottom)) < 2e-4
        seen.add(made.order)
    assert seen >= {"kept", "folded"}


def test_a_flat_piece_is_a_fold():
    first = respond("l1", torch.tensor([0.0, 0.0, 5.0]))
    other = respond("l1", torch.tensor([0.0, 10.0]))
    made = transfer(first, other, first.floor + 0.1, first.floor + 1.0)
    assert made.order == "folded"
    assert "level sets fold" in made.condition


@pytest.mark.parametrize(("shift", "order"), [(-5.0, "kept"), (0.5, "folded"), (9.0, "reversed")])
def test_a_measured_loss_is_judged_on_a_grid(shift, order):
    def loss(outputs, targets):
        return ((outputs - targets) ** 2).mean()

    first = respond(loss, torch.tensor([[0.0], [2.0]]), outputs=1)
    made = transfer(first, respond_like(first, torch.tensor([[0.0], [2.0]]) + shift), 1.01, 2.0)
    assert made.order == order
    assert "measured" in made.condition
    if order == "folded":
        assert made.turning_point == pytest.approx(1.25, abs=2e-3)


def test_different_losses_are_refused():
    with pytest.raises(InputError, match="one loss on two data sets, got cross_entropy with 10 outputs and"):
        transfer(FIRST, respond("cross_entropy", torch.arange(9)), LO, HI)
    with pytest.raises(InputError, match="lo < hi"):
        transfer(FIRST, FIRST, HI, LO)
