"""The parts of the multilevel sampler: hierarchy, multipliers, allocation, order, and the statement of check points."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from landform.errors import InputError
from landform.mesh import Mesh
from landform.scan.sampler.allocation import forecast, rungs_for, share
from landform.scan.sampler.bootstrap import block_sums, normal, robust_range, student, upper_quantile
from landform.scan.sampler.errors import Errors
from landform.scan.sampler.hierarchy import box_max, box_mean, build_hierarchy, coarse_first
from landform.scan.sampler.multipliers import Noise, build_multipliers, ladder
from landform.scan.sampler.order import sample_order
from landform.scan.sampler.truncation import kuhn_values, predict, random_points, volume_beyond

SHAPES = st.lists(st.integers(2, 12), min_size=1, max_size=3).map(tuple)


@pytest.mark.parametrize("cells", [(8,), (8, 8), (8, 4, 4), (2, 2, 2, 2)])
def test_dyadic_grids_have_the_levels_and_surpluses_of_the_mesh(cells):
    mesh = Mesh(cells)
    values = torch.rand(mesh.shape, generator=torch.Generator().manual_seed(0)).double()
    tree = build_hierarchy(mesh.shape)
    assert tree.parents.shape[1] == 2
    if len(set(cells)) == 1:
        assert torch.equal(tree.level.reshape(mesh.shape), mesh.levels())
        flat = values.reshape(-1)
        fine = tree.level > 0
        own = flat - tree.interpolate(flat, torch.arange(len(flat)))
        assert torch.allclose(own[fine], mesh.surplus(values).reshape(-1)[fine])


@given(SHAPES)
@settings(max_examples=40, deadline=None)
def test_every_node_is_interpolated_from_coarser_ones_and_affine_functions_exactly(shape):
    tree = build_hierarchy(shape)
    index = torch.cartesian_prod(*(torch.arange(n) for n in shape)).reshape(-1, len(shape)).double()
    fine = tree.level > 0
    assert torch.allclose(tree.weights.sum(1), torch.ones(len(index)).double())
    used = tree.weights > 0
    assert bool((tree.level[tree.parents] < tree.level[:, None])[fine & used.all(1)].all())
    assert bool(((tree.level[tree.parents] < tree.level[:, None]) | ~used)[fine].all())
    values = index @ torch.arange(1.0, len(shape) + 1).double() - 2
    assert torch.allclose(tree.fill(torch.where(fine, torch.nan, values), ~fine), values)
    assert int((tree.level == 0).sum()) == 2 ** len(shape)  # the corners


@pytest.mark.parametrize("shape", [(2,), (9,), (12,), (5, 3), (6, 10), (4, 3, 5)])
def test_coarse_nodes_come_first(shape):
    order = coarse_first(shape)
    assert sorted(order.tolist()) == list(range(math.prod(shape)))
    levels = build_hierarchy(shape).level[order].tolist()
    assert levels == sorted(levels)
    assert all(a < b for a, b, c, d in zip(order, order[1:], levels, levels[1:], strict=False) if c == d)


def test_a_parent_that_is_not_finite_gives_no_value():
    tree = build_hierarchy((5,))
    values = torch.tensor([math.inf, 0.0, 0.0, 0.0, 1.0]).double()
    filled = tree.fill(values, tree.level == 0)
    assert filled[1:4].isnan().all()


@pytest.mark.parametrize("shape", [(5,), (4, 6), (3, 4, 5)])
@pytest.mark.parametrize("radius", [1, 2])
def test_box_filters_agree_with_loops(shape, radius):
    draw = torch.Generator().manual_seed(1)
    values = torch.rand(shape, generator=draw).double()
    present = (torch.rand(shape, generator=draw) < 0.6).double()
    mean, largest = box_mean(values, present, radius), box_max(values, radius)
    for place in torch.cartesian_prod(*(torch.arange(n) for n in shape)).reshape(-1, len(shape)).tolist():
        box = tuple(slice(max(i - radius, 0), i + radius + 1) for i in place)
        count = float(present[box].sum())
        expected = float((values * present)[box].sum()) / count if count else 0.0
        assert float(mean[tuple(place)]) == pytest.approx(expected, abs=1e-12)
        assert float(largest[tuple(place)]) == float(values[box].max())


@pytest.mark.parametrize("target", ["data", "population"])
def test_multipliers_have_the_covariances_of_sampling_without_replacement(target):
    rungs, n = (4, 8, 16, 40), 40
    found = build_multipliers(rungs, target=target, draws=200_000, seed=0)
    ones = [torch.ones(1, size) * math.sqrt((size - 1) / size) for size in rungs]  # undo the factor for own means
    draws = [found.draws(one, k)[0].double() for k, one in enumerate(ones)]
    for j, a in enumerate(rungs):
        for k, b in enumerate(rungs):
            covariance = float((draws[j] * draws[k]).mean())
            expected = 1 / max(a, b) - (1 / n if target == "data" else 0)
            assert covariance == pytest.approx(expected, abs=6e-3 / math.sqrt(min(a, b)))


def test_the_covariance_that_multipliers_aim_at_is_that_of_prefix_means():
    """A simulation of real permutations: Cov(x̄_8, ȳ_16) = S_xy (1/16 − 1/40)."""
    draw = torch.Generator().manual_seed(2)
    x = torch.randn(40, generator=draw).double()
    y = x + torch.randn(40, generator=draw).double()
    s = float(((x - x.mean()) * (y - y.mean())).sum() / 39)
    keys = torch.rand(200_000, 40, generator=draw).argsort(1)
    a = x[keys[:, :8]].mean(1) - x.mean()
    b = y[keys[:, :16]].mean(1) - y.mean()
    assert float((a * b).mean()) == pytest.approx(s * (1 / 16 - 1 / 40), rel=0.02)


def test_blocks_of_samples_give_the_same_variance():
    rungs = (32, 5000)
    found = build_multipliers(rungs, target="population", draws=4000, seed=0)
    assert max(found.sizes) > 1
    numbers = torch.randn(3, 5000, generator=torch.Generator().manual_seed(3)).double()
    numbers -= numbers.mean(1, keepdim=True)
    spread = found.draws(numbers, 1).square().mean(1).double()
    assert torch.allclose(spread, numbers.var(1) / 5000, rtol=0.35)
    assert block_sums(torch.ones(10), 4).tolist() == [3, 3, 3, 1]


def test_allocation_agrees_with_a_search():
    costs, counts = [9.0, 4.0, 1.0], [1, 1, 1]
    part = share(costs, counts, 1, 0.1)
    grid = torch.cartesian_prod(torch.linspace(0.02, 0.96, 48), torch.linspace(0.02, 0.96, 48)).double()
    last = 1 - grid.sum(1)
    work = torch.where(last > 0, 9 / grid[:, 0] + 4 / grid[:, 1] + 1 / last, math.inf)
    assert part == pytest.approx(float(grid[work.argmin(), 0]), abs=0.02)
    assert share([0.0, 0.0], [1, 1], 32, 1.0) == 1.0
    assert share([1.0], [1], 32, 1.0) == 1.0
    assert forecast([3.0], 1) == [3.0, pytest.approx(1.05)]


def test_the_rung_is_the_least_that_meets_the_budget():
    sizes = (8, 16, 32, 100)
    for variance in (0.5, 1.0, 7.0):
        for budget in (0.01, 0.03, 0.1):
            rung = int(rungs_for(torch.tensor([variance]).double(), torch.tensor([budget]).double(), sizes)[0])
            meets = [variance * (1 / n - 1 / 100) <= budget * (1 + 1e-9) for n in sizes]
            assert rung == meets.index(True)


def test_ladders_end_with_all_samples():
    assert ladder(32, 32) == (32,)
    assert ladder(100, 32) == (32, 100)
    assert ladder(10_000, 32)[-2:] == (4096, 10_000)


def test_the_order_is_a_permutation_whose_prefixes_are_balanced_and_fair():
    strata = torch.tensor([0] * 60 + [1] * 30 + [2] * 10)
    firsts = torch.zeros(100)
    for seed in range(400):
        order = sample_order(100, seed, strata)
        assert torch.equal(order.sort().values, torch.arange(100))
        for n in (10, 20, 50):
            counts = torch.bincount(strata[order[:n]], minlength=3).double()
            assert bool(((counts - n * torch.tensor([0.6, 0.3, 0.1]).double()).abs() <= 1.5).all())
        firsts[order[:20]] += 1
    z = (firsts / 400 - 0.2) / math.sqrt(0.2 * 0.8 / 400)
    assert float(z.abs().max()) < 4.2  # every sample is as likely to be in a prefix as any other
    assert torch.equal(sample_order(50, 1, torch.arange(50)), sample_order(50, 1))
    with pytest.raises(InputError, match=r"classes have shape \[3\]; wanted one for each of 50"):
        sample_order(50, 0, torch.zeros(3).long())


def test_the_statement_from_random_points_is_the_binomial_bound():
    assert volume_beyond(0, 20, 0.99) == pytest.approx(1 - 0.01 ** (1 / 20))
    bound = volume_beyond(3, 20, 0.95)  # P(at most 3 of 20 | bound) = 5 %
    tail = sum(math.comb(20, k) * bound**k * (1 - bound) ** (20 - k) for k in range(4))
    assert tail == pytest.approx(0.05, abs=1e-9)
    assert volume_beyond(20, 20, 0.99) == volume_beyond(0, 0, 0.99) == 1.0


def test_random_points_lie_in_the_box_and_the_surface_is_read_there():
    lines = (torch.linspace(-1, 1, 5).double(), torch.linspace(2, 8, 4).double())
    plane = torch.cartesian_prod(*lines)
    h = torch.cat([plane, torch.full((20, 1), 7.0).double()], 1)  # a slice of three coordinates
    points, unit = random_points(h, (5, 4), 50, seed=0)
    assert bool(((points >= torch.tensor([-1, 2, 7])) & (points <= torch.tensor([1, 8, 7]))).all())
    values = plane @ torch.tensor([3.0, -1.0]).double()
    assert torch.allclose(kuhn_values(values, (5, 4), unit), points[:, :2] @ torch.tensor([3.0, -1.0]).double())


def test_a_smooth_surface_decays_to_a_quarter_and_the_prediction_holds():
    tree = build_hierarchy((65,))
    values = torch.linspace(0, 3, 65).double().sin()
    surplus = torch.where(tree.level > 0, (values - tree.interpolate(values, torch.arange(65))).abs(), torch.nan)
    before = None
    for level in range(1, 6):
        known = torch.where(tree.level <= level, surplus, torch.nan)
        before = predict(tree, level, known, before)
        finer = tree.level == level + 1
        if level > 2:
            assert bool((surplus[finer] <= before.size[finer]).all())
    assert before.decay < 0.4


def test_small_statistics_have_their_closed_forms():
    assert normal(0.99) == pytest.approx(2.5758, abs=1e-4)
    assert student(1.959964, 10) == pytest.approx(2.2622, abs=1e-4)
    assert upper_quantile(torch.arange(1.0, 1000.0), 0.99) == 990
    assert math.isnan(robust_range(torch.tensor([math.nan]).double()))
    values = torch.rand(300, generator=torch.Generator().manual_seed(0)).double()
    quantiles = torch.quantile(values, torch.tensor([0.01, 0.99]).double())
    assert robust_range(values) == pytest.approx(float(quantiles[1] - quantiles[0]))


def test_noise_is_new_to_every_node_and_batch():
    noise = Noise(50, 400, seed=0)
    batches = [noise.take(size).clone() for size in (50, 20, 50)]
    assert [len(batch) for batch in batches] == [50, 20, 50]
    rows = torch.cat(batches)
    correlation = torch.corrcoef(rows) - torch.eye(len(rows))
    assert float(correlation.abs().max()) < 5.5 / 20  # of 7,140 pairs, 400 draws each
    assert abs(float(rows.mean())) < 0.02
    assert float(rows.var()) == pytest.approx(1, abs=0.02)


def test_inherited_errors_are_weighted_sums_of_parents_draws():
    draw = torch.Generator().manual_seed(0)
    books = Errors(6, 30)
    first, second = (torch.randn(2, 30, generator=draw) for _ in range(2))
    books.add(torch.tensor([4, 1]), first, first, least=0.0, keep=True)
    books.add(torch.tensor([0, 5]), second, 2 * second, least=0.0, keep=True)
    books.exact(torch.tensor([2]))
    parents = torch.tensor([[1, 0, 0], [2, 5, 4], [2, 2, 2]])
    weights = torch.tensor([[0.5, 0.5, 0.0], [0.2, 0.3, 0.5], [1.0, 0.0, 0.0]]).double()
    found = books.inherited(parents, weights)
    want = [0.5 * first[1] + 0.5 * second[0], 0.3 * second[1] + 0.5 * first[0], torch.zeros(30)]
    assert torch.allclose(found, torch.stack(want), atol=1e-6)
    assert float(books.stderr[5]) == pytest.approx(2 * float(second[1].square().mean().sqrt()), rel=1e-5)
    shown = torch.cat([first, second])
    largest = (shown / shown.square().mean(1, keepdim=True).sqrt()).abs().amax(0)
    assert books.critical(0.9) == pytest.approx(float(largest.sort().values[27]), rel=1e-5)
