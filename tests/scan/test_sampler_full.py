"""The full grid on all samples or a subset: closed forms, coverage of simultaneous intervals, bad input."""

import math

import pytest
import torch

from landform.errors import InputError, UnknownNameError
from landform.scan.engine.base import Sums, Terms
from landform.scan.sampler import FullGrid
from landform.scan.sampler import full as module
from landform.scan.sampler.hierarchy import build_hierarchy


def table(points=30, n=400, quantities=1, seed=0, spread=0.7):
    """Per-sample numbers of smooth functions of the point, correlated between points."""
    draw = torch.Generator().manual_seed(seed)
    basis = (spread * torch.randn(3, quantities, n, generator=draw).double()).exp()
    h = torch.linspace(-1, 1, points).double()
    weights = torch.stack([h.cos(), h**2, 1 + h], 1)
    return h[:, None], torch.einsum("pk,kqn->pqn", weights, basis), torch.ones(quantities, n).double()


def drive(sampler, num, den, order=None):
    """Answer a sampler from a table of per-sample numbers whose row is found from the first coordinate."""
    order = torch.arange(num.shape[-1]) if order is None else order
    rows = {float(x): k for k, x in enumerate(sampler._h[:, 0])}
    while (request := sampler.ask()) is not None:
        pick = torch.tensor([rows[float(x)] for x in request.h[:, 0]])
        part = order[request.start : request.stop]
        if request.per_sample:
            sampler.tell(request, Terms(num[pick][..., part], den[:, part]))
        else:
            sampler.tell(request, Sums(num[pick][..., part].sum(-1), den[:, part].sum(-1)))
    return sampler.estimate()


def test_all_samples_are_the_mean_without_error():
    h, num, den = table(quantities=2)
    found = drive(FullGrid(h, 400, ("loss", "accuracy")), num, den)
    assert torch.equal(found.value, num.sum(-1) / 400)
    assert torch.equal(found.stderr, torch.zeros(30, 2).double())
    assert torch.equal(found.samples, torch.full((30,), 400))
    assert found.notes["evaluations"] == 30


def test_a_subset_has_the_textbook_standard_error():
    h, num, den = table()
    found = drive(FullGrid(h, 400, ("loss",), subset=100), num, den)
    part = num[:, 0, :100]
    assert torch.allclose(found.value[:, 0], part.mean(-1))
    assert torch.allclose(found.stderr[:, 0], (part.var(-1) / 100 * (1 - 100 / 400)).sqrt())
    people = drive(FullGrid(h, 400, ("loss",), subset=100, target="population"), num, den)
    assert torch.allclose(people.stderr[:, 0], (part.var(-1) / 100).sqrt())


def test_a_ratio_of_proportional_terms_is_known_from_any_subset():
    h, _, _ = table()
    den = torch.rand(1, 400, generator=torch.Generator().manual_seed(1)).double() + 0.5
    num = (2 + h)[:, :, None] * den
    found = drive(FullGrid(h, 400, ("loss",), subset=20), num, den)
    assert torch.allclose(found.value, 2 + h)
    assert float(found.stderr.max()) < 1e-12


def test_rounds_are_split_where_there_would_be_too_many_numbers(monkeypatch):
    h, num, den = table()
    whole = drive(FullGrid(h, 400, ("loss",), subset=100), num, den)
    monkeypatch.setattr(module, "MAX_NUMBERS", 700)
    sampler = FullGrid(h, 400, ("loss",), subset=100)
    assert len(sampler.ask().h) == 7
    parts = drive(sampler, num, den)
    assert torch.equal(parts.value, whole.value)
    assert torch.allclose(parts.critical, whole.critical, rtol=1e-6)


def test_what_is_not_finite_stays_so_and_claims_nothing():
    h, num, den = table()
    num[3, 0, 5] = math.inf
    num[4, 0, 5] = math.nan
    found = drive(FullGrid(h, 400, ("loss",), subset=100), num, den)
    assert found.value[3, 0] == math.inf
    assert found.value[4, 0].isnan()
    assert found.stderr[3:5].isnan().all()
    assert torch.isfinite(found.stderr[5:]).all()
    assert torch.isfinite(found.critical).all()


def test_an_interrupted_round_keeps_what_was_computed():
    h, num, _ = table()
    sampler = FullGrid(h, 400, ("loss",))
    sampler.ask()
    sampler.tell_part(torch.tensor([2, 7]), Sums(num[[2, 7]].sum(-1), torch.tensor([400.0]).double()))
    found = sampler.estimate()
    assert found.samples.nonzero()[:, 0].tolist() == [2, 7]
    assert torch.isfinite(found.value[:, 0]).nonzero()[:, 0].tolist() == [2, 7]


@pytest.mark.parametrize("subset", [None, 100])
@pytest.mark.parametrize("shape", [(33,), (5, 9), (4, 7)])
def test_wherever_a_grid_is_stopped_it_covers_the_whole_box(monkeypatch, shape, subset):
    count = math.prod(shape)
    monkeypatch.setattr(module, "MAX_NUMBERS", 400)  # rounds of 4 points where numbers of samples are wanted
    _, num, den = table(count)
    h = torch.arange(count).double()[:, None]  # the sampler looks at shape, not at places
    plain = drive(FullGrid(h, 400, ("loss",), subset=subset), num, den)
    whole = drive(FullGrid(h, 400, ("loss",), shape=shape, subset=subset), num, den)
    assert torch.equal(whole.value, plain.value)
    assert torch.equal(whole.stderr, plain.stderr)
    tree = build_hierarchy(shape)
    for done in range(1, count):
        sampler = FullGrid(h, 400, ("loss",), shape=shape, subset=subset)
        told = 0
        while told < done:
            request = sampler.ask()
            rows = request.h[: done - told, 0].long()
            part = num[rows, :, : request.stop]
            found = Terms(part, den[:, : request.stop]) if subset else Sums(part.sum(-1), den.sum(-1))
            told += len(rows)
            if len(rows) == len(request.h):
                sampler.tell(request, found)
            else:
                sampler.tell_part(torch.arange(len(rows)), found)
        found = sampler.estimate()
        known = found.samples > 0
        assert int(known.sum()) == done
        reached = int(tree.level[~known].min())  # the first level that is not complete
        assert bool((tree.level[known] <= reached).all())
        assert torch.equal(found.value[known], plain.value[known])
        assert bool(found.stderr[~known].isnan().all())
        if reached:
            assert torch.allclose(found.value, tree.fill(torch.where(known[:, None], plain.value, 0.0), known))
            assert bool(torch.isfinite(found.value).all())
        lower, upper = found.ends()
        assert bool((lower.isnan() & upper.isnan())[~known].all())


@pytest.mark.parametrize(
    ("subset", "confidence", "spread"), [(40, 0.9, 0.3), (40, 0.99, 0.3), (200, 0.95, 0.7), (200, 0.99, 0.7)]
)
def test_simultaneous_intervals_hold_as_often_as_they_say(subset, confidence, spread):
    h, num, den = table(spread=spread)  # log-normal losses: skewness 0.95 and 2.9
    truth = num.mean(-1)
    draw = torch.Generator().manual_seed(3)
    repeats, held = 200, 0
    for _ in range(repeats):
        order = torch.randperm(400, generator=draw)
        found = drive(FullGrid(h, 400, ("loss",), subset=subset, confidence=confidence), num, den, order)
        held += bool(((found.value - truth).abs() <= found.critical * found.stderr).all())
    chance = 2.6 * math.sqrt(confidence * (1 - confidence) / repeats)
    assert held / repeats >= confidence - chance
    assert held / repeats <= confidence + 0.05  # and no wider than need be


def test_points_that_agree_need_no_wider_interval_than_one():
    h, num, den = table()
    one = drive(FullGrid(h[:1], 400, ("loss",), subset=100), num[:1], den)
    same = drive(FullGrid(h, 400, ("loss",), subset=100), num[:1].expand(30, 1, 400) * (2 + h)[:, :, None], den)
    assert torch.allclose(one.critical, same.critical, rtol=1e-5)


def test_bad_input_is_named():
    h = torch.zeros(2, 1).double()
    with pytest.raises(InputError, match=r"subset is 1 of 10 samples"):
        FullGrid(h, 10, ("loss",), subset=1)
    with pytest.raises(InputError, match=r"subset is 11 of 10 samples"):
        FullGrid(h, 10, ("loss",), subset=11)
    with pytest.raises(InputError, match=r"confidence is 1.0; wanted"):
        FullGrid(h, 10, ("loss",), confidence=1.0)
    with pytest.raises(UnknownNameError, match=r"did you mean 'population'"):
        FullGrid(h, 10, ("loss",), target="populaton")
    with pytest.raises(InputError, match=r"points have shape \[0, 1\]"):
        FullGrid(h[:0], 10, ("loss",))
    with pytest.raises(InputError, match=r"0 samples and 1 quantities"):
        FullGrid(h, 0, ("loss",))
    with pytest.raises(InputError, match="comes with 2 nodes"):
        FullGrid(h, 10, ("loss",), shape=(5, 5))
    sampler = FullGrid(h, 10, ("loss",), subset=5)
    with pytest.raises(InputError, match=r"needs per-sample terms"):
        sampler.tell(sampler.ask(), Sums(torch.ones(2, 1).double(), torch.ones(1).double()))
