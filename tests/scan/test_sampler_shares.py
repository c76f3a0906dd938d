"""Intervals of shares: exact coverage over all cases, an independent search, and what a scan says of accuracy."""

import math

import pytest
import torch
from scipy import stats
from torch import nn

import landform as lf
from landform.scan.engine.base import Terms
from landform.scan.sampler import FullGrid
from landform.scan.sampler.shares import share_ends

ONES = torch.ones(30).double()


def all_counts(n):
    """One row for each number of hits."""
    return (torch.arange(n)[None] < torch.arange(n + 1)[:, None]).double()


@pytest.mark.parametrize("confidence", [0.8, 0.99, 1 - 1e-6])
@pytest.mark.parametrize("total", [30, 31, 60, 200])
def test_exact_intervals_of_a_finite_set_are_those_of_a_search(total, confidence):
    lower, upper = share_ends(all_counts(30), ONES, total, confidence)
    tail = (1 - confidence) / 2
    for x in range(31):
        possible = [
            k
            for k in range(x, x + total - 30 + 1)
            if stats.hypergeom.cdf(x, total, k, 30) > tail and stats.hypergeom.sf(x - 1, total, k, 30) > tail
        ]
        assert (round(float(lower[x]) * total), round(float(upper[x]) * total)) == (possible[0], possible[-1])


@pytest.mark.parametrize("confidence", [0.8, 0.99])
def test_they_hold_as_often_as_they_say_whatever_the_share(confidence):
    total = 90
    lower, upper = share_ends(all_counts(30), ONES, total, confidence)
    shares = torch.arange(total + 1).double() / total
    chance = torch.from_numpy(stats.hypergeom.pmf(torch.arange(31)[None], total, torch.arange(total + 1)[:, None], 30))
    inside = (lower - 1e-12 <= shares[:, None]) & (shares[:, None] <= upper + 1e-12)
    assert float((chance * inside).sum(1).min()) >= confidence
    lower, upper = share_ends(all_counts(30), ONES, None, confidence)
    shares = torch.linspace(0, 1, 401).double()
    chance = torch.from_numpy(stats.binom.pmf(torch.arange(31)[None], 30, shares[:, None]))
    inside = (lower <= shares[:, None]) & (shares[:, None] <= upper)
    assert float((chance * inside).sum(1).min()) >= confidence
    looser = share_ends(2 * all_counts(30), 2 * ONES, None, confidence)  # hits are 0 or 2 of 2: Chernoff's bound
    inside = (looser[0] <= shares[:, None]) & (shares[:, None] <= looser[1])
    assert float((chance * inside).sum(1).min()) >= confidence
    assert bool((looser[0] <= lower).all() and (looser[1] >= upper).all())


def test_chernoff_ends_solve_the_bound():
    num = torch.tensor([[0.0, 0, 0, 0], [1, 2, 1, 2], [2, 2, 2, 2]]).double()
    lower, upper = share_ends(num, torch.full((4,), 2.0).double(), 100, 0.9)
    assert float(lower[0]) == 0
    assert float(upper[0]) == pytest.approx(1 - 0.05**0.25)
    assert float(lower[2]) == pytest.approx(0.05**0.25)
    assert float(upper[2]) == 1
    for end in (lower[1], upper[1]):
        kl = 0.75 * math.log(0.75 / end) + 0.25 * math.log(0.25 / (1 - end))
        assert 4 * kl == pytest.approx(math.log(20))
    assert lower[1] < 0.75 < upper[1]


def test_laws_of_shares():
    lower, upper = share_ends(all_counts(30), ONES, 77, 0.95)
    other = share_ends(1 - all_counts(30), ONES, 77, 0.95)
    assert torch.allclose(other[0], 1 - upper)
    assert torch.allclose(other[1], 1 - lower)
    assert torch.equal(lower, lower.sort().values)
    whole = share_ends(all_counts(30), ONES, 30, 0.95)
    assert torch.equal(whole[0], whole[1])  # all samples were seen
    some = torch.cat([all_counts(30), torch.zeros(31, 5).double()], 1)  # samples that do not count
    ignored = share_ends(some, torch.cat([ONES, torch.zeros(5).double()]), 77, 0.95)
    people = share_ends(all_counts(30), ONES, None, 0.95)
    assert torch.allclose(ignored[0], people[0])  # how many of the others count is not known


def test_what_is_no_share_has_no_such_interval():
    assert share_ends(torch.tensor([[0.5, 2.0]]).double(), ONES[:2], 9, 0.9) is None
    assert share_ends(torch.tensor([[-0.1, 1.0]]).double(), ONES[:2], 9, 0.9) is None
    assert share_ends(torch.tensor([[3.0, 1.0]]).double(), torch.tensor([5.0, 1.0]).double(), 9, 0.9) is None
    assert share_ends(torch.zeros(1, 2).double(), torch.zeros(2).double(), 9, 0.9) is None
    lower, upper = share_ends(torch.tensor([[math.nan, 1.0], [1.0, 1.0]]).double(), ONES[:2], None, 0.9)
    assert lower.isnan().tolist() == upper.isnan().tolist() == [True, False]


def nearly_exact(points=200, n=2000, seed=0):
    """Hits of a good network, whose errors are few and other ones at every point; and a metric that is one minus it."""
    draw = torch.Generator().manual_seed(seed)
    rate = torch.linspace(0, 0.01, points).double()
    hits = (torch.rand(points, n, generator=draw).double() >= rate[:, None]).double()
    return torch.stack([torch.rand(points, n, generator=draw).double() + 1, hits, 1 - hits], 1)


def answered(sampler, num, order):
    while (request := sampler.ask()) is not None:
        part = order[request.start : request.stop]
        sampler.tell(request, Terms(num[request.h[:, 0].long()][..., part], torch.ones(3, len(part)).double()))
    return sampler.estimate()


def test_nearly_exact_metrics_have_useful_intervals_or_none():
    """Resampling gave ±100 standard errors everywhere, and ±0 where all samples of the subset were right."""
    num = nearly_exact()
    truth, h = num.mean(-1), torch.arange(200).double()[:, None]
    held = 0
    for seed in range(20):
        order = torch.randperm(2000, generator=torch.Generator().manual_seed(seed))
        names = ("loss", "accuracy", "own")
        found = answered(FullGrid(h, 2000, names, subset=300, confidence=0.9, shares=("accuracy",)), num, order)
        lower, upper = found.ends()
        held += bool(((lower <= truth) & (truth <= upper))[:, 1].all())
        width = (upper - lower)[:, 1]
        assert 0.02 < float(width.min()) <= float(width.max()) < 0.08
        assert found.critical[1].isnan()
        assert bool(lower[:, 2].isnan().any())  # not known to be a share, and too few samples that differ
        assert float(found.critical[2]) < 20
        assert bool(torch.isfinite(lower[:, 0]).all())
    assert held >= 18


def test_a_scan_of_a_subset_has_an_interval_of_accuracy_everywhere():
    torch.manual_seed(0)
    digits = lf.load_data("digits")
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(120):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(digits.inputs), digits.targets).backward()
        optimizer.step()
    task = lf.Task(model, data=digits, metrics="accuracy")
    plane = lf.random_plane(task, seed=0)
    exact = lf.scan(task, plane, grid=9, ranges=[(-0.5, 0.5)] * 2)
    assert float(exact.accuracy.max()) > 0.995
    some = lf.scan(task, plane, grid=9, ranges=[(-0.5, 0.5)] * 2, subset=200)
    assert bool(
        ((some.accuracy_lower <= exact.accuracy + 1e-12) & (exact.accuracy <= some.accuracy_upper + 1e-12)).all()
    )
    best = some.isel(h1=4, h2=4)
    assert 0.01 < float(best.accuracy_upper - best.accuracy_lower) < 0.08
    assert "loss_lower" in some
