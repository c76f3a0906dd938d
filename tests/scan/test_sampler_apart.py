"""Samples that are set apart: the rule, the estimator, and scans in which a few samples carry most of the loss."""

import concurrent.futures

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import landform as lf
from landform.errors import StoreError
from landform.scan.engine.base import Sums, Terms
from landform.scan.sampler import Multilevel, Request
from landform.scan.sampler.apart import take_all
from landform.scan.store import ScanStore

H = torch.cartesian_prod(*(torch.linspace(0, 1, 33).double(),) * 2)
N = 600


@given(st.lists(st.integers(0, 10**6), min_size=3, max_size=60), st.integers(2, 20))
@settings(max_examples=60, deadline=None)
def test_the_largest_are_taken_while_they_save_more_than_they_cost(values, least):
    shares = torch.tensor(values, dtype=torch.float64)
    taken = take_all(shares, least)
    left, wanted = sorted(values, reverse=True), 0
    while left and left[0] > 0 and least * left[0] >= sum(left):  # one by one, as in the formula
        left.pop(0)
        wanted += 1
    assert int(taken.sum()) >= min(wanted, max(0, len(values) - least))
    assert int((~taken).sum()) >= min(least, len(values))
    if bool(taken.any()):
        assert float(shares[taken].min()) >= float(shares[~taken].max())
    if int((~taken).sum()) > least:  # nothing is left that would be worth it
        assert least * float(shares[~taken].max()) <= float(shares[~taken].sum()) * (1 + 1e-9)


def test_the_rule_does_not_depend_on_order_or_scale():
    draw = torch.Generator().manual_seed(0)
    shares = (2 * torch.randn(400, generator=draw).double()).exp()
    order = torch.randperm(400, generator=draw)
    taken = take_all(shares, 32)
    assert 0 < int(taken.sum()) < 60
    assert torch.equal(take_all(shares[order], 32), taken[order])
    assert torch.equal(take_all(1e-9 * shares, 32), taken)


def carried(points, heavy=(7, 300, 599)):
    """A mild bowl a sample, and three samples that carry most of every surplus."""
    draw = torch.Generator().manual_seed(1)
    centre = 0.5 + 0.1 * torch.randn(2, N, generator=draw).double()
    size = torch.ones(N).double()
    size[list(heavy)] = torch.tensor([400.0, 250.0, 150.0]).double()[: len(heavy)]
    bowl = sum((points[:, k, None] - centre[k]).square() for k in range(2))
    return size * (bowl + 0.05 * (9 * points[:, :1] + 6 * points[:, 1:] + 6 * centre[0]).sin())


def scan(loss, order, seed=0, **options):
    sampler = Multilevel(H, (33, 33), N, ("loss",), **{"tolerance": 0.01, "check": 0, "seed": seed} | options)
    fronts = []
    while (request := sampler.ask()) is not None:
        num = loss(request.h)[:, None, order[request.samples(N)]]
        den = torch.ones(1, num.shape[-1]).double()
        sampler.tell(request, Terms(num, den) if request.per_sample else Sums(num.sum(-1), den.sum(-1)))
        fronts.append(request.front)
    return sampler.estimate(), fronts


def test_heavy_samples_are_evaluated_everywhere_and_intervals_hold():
    truth = carried(H).mean(1)
    held = 0
    for seed in range(20):
        order = torch.randperm(N, generator=torch.Generator().manual_seed(seed))
        found, fronts = scan(carried, order, seed)
        assert fronts[0] is None
        assert all(sorted(order[front].tolist()) == [7, 300, 599] for front in fronts[1:])
        assert found.notes["samples_apart"] == 3
        known = found.samples > 0
        assert bool((found.samples[known & (found.level > 2)] >= 35).all())
        error, half = found.value[:, 0] - truth, found.critical[0] * found.stderr[:, 0]
        held += bool((error.abs() <= half + 1e-9)[known].all())
        assert float(error[known].abs().max()) <= found.notes["loss_tolerance"]
        assert found.notes["evaluations"] < 1089 / 4
    assert held >= 19


def test_values_stay_unbiased():
    truth, errors = carried(H).mean(1), []
    for seed in range(30):
        order = torch.randperm(N, generator=torch.Generator().manual_seed(100 + seed))
        found, _ = scan(carried, order, seed, tolerance=0.05)
        errors.append(torch.where(found.samples > 0, found.value[:, 0] - truth, 0.0))
    errors = torch.stack(errors)
    spread = errors.std(0)
    z = errors.mean(0)[spread > 1e-9] / (spread[spread > 1e-9] / 30**0.5)
    assert len(z) > 100
    assert float(z.abs().max()) < 5.5


def test_equal_samples_are_not_set_apart_nor_is_anything_towards_the_population():
    order = torch.arange(N)
    even, fronts = scan(lambda points: carried(points, ()), order)
    assert even.notes["samples_apart"] == 0
    assert all(front is None for front in fronts)
    found, fronts = scan(carried, order, target="population")
    assert found.notes["samples_apart"] == 0
    assert all(front is None for front in fronts)


def test_a_sample_that_overflows_at_a_coarse_node_is_always_looked_at():
    """It is found at every finer node where it overflows, and a random prefix would miss it at most."""

    def loss(points):
        out = carried(points, ()).clone()
        out[(points[:, 0] > 0.7) & (points[:, 1] > 0.7), 123] = torch.inf
        return out

    found, _ = scan(loss, torch.arange(N).flip(0))
    beyond = (H[:, 0] > 0.7) & (H[:, 1] > 0.7)
    assert found.notes["samples_apart"] == 1
    assert bool((found.value[beyond & (found.samples > 0), 0] == torch.inf).all())
    assert bool(torch.isfinite(found.value[~beyond]).all())


def test_what_no_coarse_node_shows_is_bounded_by_the_random_points_alone():
    """One sample's loss rises only around a finer node: intervals there can miss it; the volume beyond does not."""
    middle = torch.tensor([0.375, 0.375]).double()  # a node of the first level that is sampled

    def loss(points):
        out = carried(points, ()).clone()
        out[:, 123] += 400 * (-((points - middle) / 0.04).square().sum(1)).exp()
        return out

    line = torch.linspace(0, 1, 129).double()
    fine = torch.cartesian_prod(line, line)
    truth, bounded, missed = loss(fine).mean(1), 0, 0
    for seed in range(12):
        order = torch.randperm(N, generator=torch.Generator().manual_seed(seed))
        found, _ = scan(loss, order, seed, check=20, confidence=0.9)
        assert found.notes["samples_apart"] == 0
        known, half = found.samples > 0, found.critical[0] * found.stderr[:, 0]
        missed += not bool(((found.value[:, 0] - loss(H).mean(1)).abs() <= half + 1e-9)[known].all())
        surface = nn.functional.interpolate(
            found.value.reshape(1, 1, 33, 33), size=(129, 129), mode="bilinear", align_corners=True
        ).reshape(-1)
        beyond = float(((surface - truth).abs() > found.notes["loss_tolerance"]).double().mean())
        bounded += beyond <= found.notes["loss_volume_beyond"]
    assert missed > 3  # else the case would be no case
    assert bounded >= 9  # at 90 %


def uneven():
    """A task whose loss is that of a few samples, mostly."""
    draw = torch.Generator().manual_seed(0)
    inputs = torch.randn(300, 6, generator=draw)
    inputs[[5, 17]] *= 30
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 1))
    return lf.Task(model, loss="mse", data=lf.Data(inputs, inputs.sum(1, keepdim=True)))


def test_a_scan_with_heavy_samples_agrees_with_the_full_grid_whoever_computes(tmp_path):
    task = uneven()
    plane = lf.random_plane(task, seed=0)
    options = {"grid": 33, "ranges": [(-1, 1), (-1, 1)], "progress": False}
    full = lf.scan(task, plane, **options)
    here = lf.scan(task, plane, tolerance=0.02, **options)
    assert 0 < here.attrs["samples_apart"] < 40
    inside = (here.loss >= here.loss_lower - 1e-6) & (here.loss <= here.loss_upper + 1e-6)
    truth = full.loss.values.reshape(-1)
    measured = here.samples.values > 0
    low, high = here.loss_lower.values.reshape(-1), here.loss_upper.values.reshape(-1)
    sure = measured.reshape(-1)
    assert bool(inside.values[measured].all())
    assert bool(((truth >= low - 1e-5) & (truth <= high + 1e-5))[sure].all())
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        there = lf.scan(task, plane, tolerance=0.02, executor=pool, **options)
    kept = [lf.scan(task, plane, tolerance=0.02, store=tmp_path / "scan.zarr", **options) for _ in range(2)]
    for other in (there, *kept):
        assert torch.equal(torch.from_numpy(other.loss.values), torch.from_numpy(here.loss.values))
        assert other.attrs["samples_apart"] == here.attrs["samples_apart"]
    assert kept[1].attrs["stored_evaluations"] > 0


def test_a_stored_round_about_other_samples_first_is_refused(tmp_path):
    store = ScanStore(tmp_path / "s.zarr", {"a": 1})
    h = torch.zeros(2, 1).double()
    store.round(0, Request(h, 0, 4, True, torch.tensor([1, 2])), 1, 2)
    store.round(0, Request(h, 0, 4, True, torch.tensor([1, 2])), 1, 2)
    with pytest.raises(StoreError, match=r"answers another question \(front: "):
        store.round(0, Request(h, 0, 4, True, torch.tensor([1, 3])), 1, 2)
