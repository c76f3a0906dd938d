"""The multilevel sampler on per-sample surfaces with known truth: exactness, laws, coverage, and what is not finite."""

import math

import pytest
import torch

from landform.errors import InputError, UnknownNameError
from landform.scan.engine.base import Sums, Terms
from landform.scan.sampler import FullGrid, Multilevel


def grid(shape):
    """Nodes of [0, 1]^z."""
    return torch.cartesian_prod(*(torch.linspace(0, 1, n).double() for n in shape)).reshape(-1, len(shape))


def surfaces(n, seed=0, tail=0.6):
    """A loss per sample: a bowl of its own centre and height (log-normal), and a kink along a line of its own."""
    draw = torch.Generator().manual_seed(seed)
    height = (tail * torch.randn(n, generator=draw).double()).exp()
    centre = 0.5 + 0.1 * torch.randn(2, n, generator=draw).double()
    turn = 6.3 * torch.rand(n, generator=draw).double()

    def loss(h):
        x, y = h[:, :1] - centre[0], h[:, -1:] - centre[1]
        return height * (4 * (x**2 + y**2) + 0.3 * (x * turn.cos() + y * turn.sin()).clamp_min(0))

    return loss


def drive(sampler, loss, n, order=None, den=None, rounds=None):
    """Answer every round from a function of points; ``loss`` gives [points, n] or [points, quantities, n]."""
    order = torch.arange(n) if order is None else order
    asked = 0
    while (request := sampler.ask()) is not None and asked != rounds:
        num = loss(request.h)
        num = num[:, None] if num.ndim == 2 else num
        part = order[request.samples(n)]
        weights = torch.ones(num.shape[1], n).double() if den is None else den
        num, own = num[..., part], weights[:, part]
        found = Terms(num, own) if request.per_sample else Sums(num.sum(-1), own.sum(-1))
        sampler.tell(request, found)
        asked += 1
    return sampler.estimate()


def test_a_tiny_tolerance_gives_the_full_grid():
    h, loss = grid((9, 17)), surfaces(200)
    found = drive(Multilevel(h, (9, 17), 200, ("loss",), tolerance=1e-9, check=0), loss, 200)
    full = drive(FullGrid(h, 200, ("loss",)), loss, 200)
    assert torch.allclose(found.value, full.value, rtol=1e-12)
    assert bool((found.samples == 200).all())
    assert bool((found.stderr == 0).all())


def test_a_surface_is_found_within_its_tolerance_at_a_fraction_of_the_cost():
    h, loss, n = grid((65, 65)), surfaces(4000), 4000
    sampler = Multilevel(h, (65, 65), n, ("loss",), tolerance=0.01)
    found = drive(sampler, loss, n)
    truth = loss(h).mean(1)
    allowed = found.notes["loss_tolerance"]
    assert float((found.value[:, 0] - truth).abs().max()) <= allowed
    assert found.notes["evaluations"] < 4225 / 20
    assert found.notes["sample_evaluations"] >= int(found.samples.sum())
    assert sampler.expected >= found.notes["sample_evaluations"]
    assert found.notes["loss_half_width"] <= allowed
    assert found.notes["loss_check_outside"] == 0
    assert bool((found.samples[found.stderr[:, 0].isnan()] == 0).all())  # interpolated: no interval
    assert bool(torch.isfinite(found.value).all())


def test_values_are_unbiased():
    h, loss, n = grid((17, 17)), surfaces(600), 600
    truth = loss(h).mean(1)
    draw = torch.Generator().manual_seed(5)
    errors = []
    for seed in range(30):
        order = torch.randperm(n, generator=draw)
        found = drive(Multilevel(h, (17, 17), n, ("loss",), tolerance=0.03, check=0, seed=seed), loss, n, order)
        errors.append((found.value[:, 0] - truth) * (found.samples > 0))
    errors = torch.stack(errors)
    z = errors.mean(0) / (errors.std(0) / math.sqrt(30)).clamp_min(1e-12)
    z = z[errors.std(0) > 1e-9]
    assert len(z) > 100
    assert float(z.abs().max()) < 5.5  # Student's t of 29, at 280 nodes


@pytest.mark.parametrize("target", ["data", "population"])
def test_swapping_axes_transposes_and_scaling_scales(target):
    loss, n = surfaces(500), 500
    options = {"tolerance": 0.02, "target": target, "check": 3}
    h = grid((17, 9))
    plain = drive(Multilevel(h, (17, 9), n, ("loss",), **options), loss, n)
    swapped = drive(Multilevel(grid((9, 17)), (9, 17), n, ("loss",), **options), lambda h: loss(h.flip(1)), n)
    assert torch.allclose(plain.value.reshape(17, 9), swapped.value.reshape(9, 17).T, rtol=0.02)
    assert torch.equal(plain.samples.reshape(17, 9), swapped.samples.reshape(9, 17).T)
    scaled = drive(Multilevel(h, (17, 9), n, ("loss",), **options), lambda h: 8 * loss(h), n)
    assert torch.allclose(scaled.value, 8 * plain.value, rtol=1e-6)
    assert torch.allclose(scaled.stderr, 8 * plain.stderr, rtol=1e-4, equal_nan=True)
    moved = drive(Multilevel(h, (17, 9), n, ("loss",), **options), lambda h: 5 + loss(h), n)
    assert torch.allclose(moved.value, 5 + plain.value, rtol=1e-6)
    assert torch.equal(moved.samples, plain.samples)


def test_an_absolute_tolerance_is_in_units_of_the_loss():
    h, loss, n = grid((17, 17)), surfaces(2000), 2000
    relative = drive(Multilevel(h, (17, 17), n, ("loss",), tolerance=0.02, check=0), loss, n)
    width = relative.notes["loss_tolerance"] / 0.02
    absolute = drive(Multilevel(h, (17, 17), n, ("loss",), tolerance=("absolute", 0.5 * width), check=0), loss, n)
    assert absolute.notes["loss_tolerance"] == pytest.approx(0.5 * width)
    assert absolute.notes["sample_evaluations"] < relative.notes["sample_evaluations"]


@pytest.mark.parametrize("shape", [(33,), (12, 7), (5, 6, 4), (3, 3, 3, 4)])
def test_any_number_of_axes_and_nodes(shape):
    loss, n = surfaces(300), 300
    h = grid(shape)
    found = drive(Multilevel(h, shape, n, ("loss",), tolerance=0.05), loss, n)
    truth = loss(h).mean(1)
    measured = found.samples > 0
    half = found.critical * found.stderr[measured, 0]
    assert bool(((found.value[measured, 0] - truth[measured]).abs() <= half + 1e-9).all())
    assert bool(torch.isfinite(found.value).all())


def test_a_slice_of_more_coordinates_is_checked_in_the_slice():
    plane = grid((9, 9))
    h = torch.cat([plane, torch.full((81, 1), 0.25).double()], 1)
    seen = []

    def loss(points):
        seen.append(points)
        return surfaces(100)(points[:, :2])

    drive(Multilevel(h, (9, 9), 100, ("loss",), tolerance=0.05, check=5), loss, 100)
    assert bool((torch.cat(seen)[:, 2] == 0.25).all())


def test_ratios_of_sums_use_the_known_denominator():
    h, n = grid((17, 17)), 800
    den = torch.rand(1, n, generator=torch.Generator().manual_seed(4)).double() + 0.5
    own = surfaces(n)
    found = drive(Multilevel(h, (17, 17), n, ("loss",), tolerance=0.02), lambda h: own(h) * den, n, den=den)
    truth = (own(h) * den).sum(1) / den.sum()
    assert float((found.value[:, 0] - truth).abs().max()) <= found.notes["loss_tolerance"]


def test_each_quantity_has_its_own_interval():
    h, n = grid((17, 17)), 1500
    own = surfaces(n)

    def both(h):
        losses = own(h)
        return torch.stack([losses, (losses < 1.0).double()], 1)

    found = drive(Multilevel(h, (17, 17), n, ("loss", "accuracy"), tolerance=0.02), both, n)
    truth = both(h).mean(-1)
    measured = found.samples > 0
    half = found.critical * found.stderr
    assert bool(((found.value - truth).abs() <= half + 1e-9)[measured].all())
    alone = drive(Multilevel(h, (17, 17), n, ("loss",), tolerance=0.02), own, n)
    assert torch.allclose(alone.value, found.value[:, :1])  # accuracy steers nothing


def test_what_is_not_finite_stays_so_and_is_not_interpolated_from():
    h, n, own = grid((33, 33)), 500, surfaces(500)
    beyond = (h[:, 0] > 0.7) & (h[:, 1] > 0.6)

    def loss(points):
        out = own(points).clone()
        out[(points[:, 0] > 0.7) & (points[:, 1] > 0.6)] = math.inf
        return out

    found = drive(Multilevel(h, (33, 33), n, ("loss",), tolerance=0.02, check=0), loss, n)
    value = found.value[:, 0]
    measured = found.samples > 0
    assert bool((value[beyond & measured] == math.inf).all())
    assert bool(torch.isfinite(value[~beyond]).all())
    assert bool(measured[beyond].all())
    assert bool(
        (found.samples[beyond & (found.level > 3)] == 32 + found.notes["samples_apart"]).all()
    )  # one that is infinite is enough to know
    assert bool(found.stderr[beyond].isnan().all())
    truth = own(h).mean(1)
    assert float((value - truth)[~beyond].abs().max()) <= found.notes["loss_tolerance"]


def test_one_sample_that_is_not_finite_at_one_node_is_reported_there_only():
    h, n, own = grid((9, 9)), 300, surfaces(300)

    def loss(points):
        out = own(points).clone()
        out[(points == 0.5).all(1), 7] = math.nan
        return out

    found = drive(Multilevel(h, (9, 9), n, ("loss",), tolerance=0.02, check=0), loss, n)
    assert found.value[:, 0].isnan().nonzero()[:, 0].tolist() == [40]
    assert torch.allclose(found.value[39], own(h[39:40]).mean(1), rtol=0.02)


def test_equal_samples_leave_no_error_and_flat_surfaces_ask_for_little():
    h = grid((17, 17))
    flat = drive(
        Multilevel(h, (17, 17), 1000, ("loss",), tolerance=0.01), lambda h: torch.ones(len(h), 1000).double(), 1000
    )
    assert torch.allclose(flat.value, torch.ones(289, 1).double())
    assert float(flat.stderr.nan_to_num().max()) == 0
    assert flat.notes["evaluations"] < 60


@pytest.mark.parametrize("rounds", [0, 1, 2, 3, 4])
def test_an_interrupted_scan_is_usable(rounds):
    h, loss, n = grid((17, 17)), surfaces(1000), 1000
    sampler = Multilevel(h, (17, 17), n, ("loss",), tolerance=0.02)
    found = drive(sampler, loss, n, rounds=rounds)
    assert sampler.ask() is sampler.ask()
    assert bool(found.value.isnan().all()) == (rounds == 0)
    assert bool(torch.isfinite(found.value).all()) == (rounds > 0)  # interpolated from what there is
    if rounds == 0:
        assert found.critical.isnan().all()


def stopped(sampler, loss, n, order, rounds, share, seed=0):
    """Answer some rounds, then a random part of the points of the next, where the scan ends."""
    drive(sampler, loss, n, order, rounds=rounds)
    before = sampler.estimate()
    request = sampler.ask()
    rows = torch.randperm(len(request.h), generator=torch.Generator().manual_seed(seed)).sort().values
    rows = rows[torch.rand(len(rows), generator=torch.Generator().manual_seed(seed)) < share]
    num = loss(request.h[rows])[:, None, order[request.samples(n)]]
    den = torch.ones(1, num.shape[-1]).double()
    found = Terms(num, den) if request.per_sample else Sums(num.sum(-1), den.sum(-1))
    sampler.tell_part(rows, found if len(rows) else None)
    return before, request, rows, sampler.estimate()


@pytest.mark.parametrize("share", [0.0, 0.4])
def test_an_interrupted_level_counts_with_its_intervals(share):
    h, loss, n = grid((33, 33)), surfaces(1000), 1000
    order = torch.randperm(n, generator=torch.Generator().manual_seed(1))
    truth = loss(h).mean(1)
    gained, rounds = 0, 0
    while True:
        sampler = Multilevel(h, (33, 33), n, ("loss",), tolerance=0.02)
        before, request, rows, found = stopped(sampler, loss, n, order, rounds, share)
        assert sampler.ask() is None
        known = found.samples > 0
        assert bool((found.samples >= before.samples).all())
        if request.per_sample:
            place = (request.h[rows] * 32).round().long() @ torch.tensor([33, 1])
            assert bool((found.samples[place] >= request.stop).all())
        spent = before.notes["sample_evaluations"] + len(rows) * (request.stop - request.start)
        assert found.notes["sample_evaluations"] == spent
        half = found.critical[0] * found.stderr[:, 0]
        assert bool(torch.isfinite(half[known]).all())
        assert bool(((found.value[:, 0] - truth).abs() <= half + 1e-9)[known].all())
        assert bool(half[~known].isnan().all())
        gained += int(known.sum()) > int((before.samples > 0).sum())
        if not request.per_sample:
            assert found.notes.get("loss_check_points", 0) == len(rows)
            assert math.isfinite(found.notes["loss_truncation"])
            break
        assert math.isnan(found.notes.get("loss_truncation", math.nan))
        rounds += 1
    assert rounds > 4
    assert gained >= 2  # levels that were begun and would have been lost


def test_an_interruption_of_the_first_round_leaves_the_whole_box():
    h, loss, n = grid((33, 33)), surfaces(200), 200
    sampler = Multilevel(h, (33, 33), n, ("loss",), tolerance=0.02)
    request = sampler.ask()
    rows = torch.arange(9)
    num = loss(request.h[rows])[:, None]
    sampler.tell_part(rows, Terms(num, torch.ones(1, n).double()))
    found = sampler.estimate()
    assert sorted(map(tuple, h[found.samples > 0].tolist())) == [(x / 2, y / 2) for x in range(3) for y in range(3)]
    assert bool(torch.isfinite(found.value).all())


def test_an_interruption_beside_what_is_not_finite():
    """A node whose parents cannot be used, and which has only its pilot, is left out."""
    h, n, own = grid((33, 33)), 500, surfaces(500)

    def loss(points):
        out = own(points).clone()
        out[(points[:, 0] > 0.7) & (points[:, 1] > 0.6)] = math.inf
        return out

    beyond = (h[:, 0] > 0.7) & (h[:, 1] > 0.6)
    for rounds in range(1, 8):
        sampler = Multilevel(h, (33, 33), n, ("loss",), tolerance=0.02, check=0)
        drive(sampler, loss, n, rounds=rounds)
        sampler.tell_part(torch.empty(0, dtype=torch.int64), None)
        found = sampler.estimate()
        known = (found.samples > 0) & ~beyond
        half = found.critical[0] * found.stderr[:, 0]
        assert bool(((found.value[:, 0] - own(h).mean(1)).abs() <= half + 1e-9)[known].all())


def rare(n, seed=0):
    """Ten classes, each rough in a corner of its own, with sizes of very heavy tails."""
    draw = torch.Generator().manual_seed(seed)
    place = torch.rand(10, 2, generator=draw).double()[torch.arange(n) % 10]
    size = (1.2 * torch.randn(n, generator=draw).double()).exp()
    phase = 6.3 * torch.rand(n, generator=draw).double()

    def loss(h):
        away = sum((h[:, k, None] - place[:, k]).square() for k in range(2))
        wave = (8 * h[:, :1] + 14 * h[:, 1:] + phase).sin()
        return (2 * h - 1).square().sum(1, keepdim=True) + 0.5 * size * (-32 * away).exp() * (1 + 0.7 * wave)

    return loss


def test_no_interval_is_wider_than_the_tolerance_in_the_end():
    """Rare samples that pilots do not see make some intervals too wide; those nodes get all samples."""
    h, n = grid((33, 33)), 300
    loss = rare(n)
    sharpened = 0
    for seed in range(6):
        order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
        sampler = Multilevel(h, (33, 33), n, ("loss",), tolerance=0.02, check=0)
        found = drive(sampler, loss, n, order)
        sharpened += int(((found.samples == n) & (found.stderr[:, 0] == 0) & (found.level == 5)).sum())
        assert found.notes["tolerance_reached"] is True
        assert found.notes["loss_half_width"] <= found.notes["loss_tolerance"]
        half = found.critical[0] * found.stderr[:, 0]
        assert float(half.nan_to_num(nan=0.0).max()) == found.notes["loss_half_width"]
        known = found.samples > 0
        assert bool(((found.value[:, 0] - loss(h).mean(1)).abs() <= half + 1e-9)[known].all())
    assert sharpened > 0  # else there was nothing to promise


def test_a_tolerance_that_the_data_cannot_give_is_said():
    h, loss, n = grid((9, 9)), surfaces(200), 200
    found = drive(Multilevel(h, (9, 9), n, ("loss",), tolerance=0.001, target="population"), loss, n)
    assert found.notes["tolerance_reached"] is False
    assert found.notes["loss_half_width"] > found.notes["loss_tolerance"]
    enough = drive(Multilevel(h, (9, 9), n, ("loss",), tolerance=1.0, target="population"), loss, n)
    assert enough.notes["tolerance_reached"] is True


def test_the_same_answers_give_the_same_questions():
    h, loss, n = grid((17, 17)), surfaces(1000), 1000

    def asked():
        sampler, rounds = Multilevel(h, (17, 17), n, ("loss",), tolerance=0.02, seed=3), []
        while (request := sampler.ask()) is not None:
            rounds.append((request.h, request.start, request.stop))
            num = loss(request.h)[:, None, request.samples(n)]
            sampler.tell(request, Terms(num, torch.ones(1, num.shape[-1]).double()))
        return rounds, sampler.estimate()

    (first, a), (second, b) = asked(), asked()
    assert len(first) == len(second)
    assert all(torch.equal(x[0], y[0]) and x[1:] == y[1:] for x, y in zip(first, second, strict=True))
    assert torch.equal(a.value, b.value)
    assert torch.equal(a.stderr, b.stderr) or torch.allclose(a.stderr, b.stderr, equal_nan=True)


def test_the_population_has_an_error_at_every_node():
    h, loss, n = grid((9, 9)), surfaces(500), 500
    found = drive(Multilevel(h, (9, 9), n, ("loss",), tolerance=0.01, target="population"), loss, n)
    measured = found.samples > 0
    assert bool((found.stderr[measured, 0] > 0).all())
    corner = found.level == 0
    exact = loss(h[corner]).std(1) / math.sqrt(n)
    assert torch.allclose(found.stderr[corner, 0], exact, rtol=0.15)


def test_bad_input_is_named():
    h = grid((3, 3))
    with pytest.raises(InputError, match=r"a grid of shape \(3, 4\) comes with 9 nodes"):
        Multilevel(h, (3, 4), 10, ("loss",), tolerance=0.01)
    with pytest.raises(InputError, match=r"tolerance is 0.0; wanted a positive number, or FullGrid"):
        Multilevel(h, (3, 3), 10, ("loss",), tolerance=0.0)
    with pytest.raises(UnknownNameError, match=r"did you mean 'absolute'"):
        Multilevel(h, (3, 3), 10, ("loss",), tolerance=("absolut", 0.1))
    sampler = Multilevel(h, (3, 3), 10, ("loss",), tolerance=0.1)
    with pytest.raises(InputError, match=r"needs per-sample terms"):
        sampler.tell(sampler.ask(), Sums(torch.ones(9, 1).double(), torch.ones(1).double()))
