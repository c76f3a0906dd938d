"""σ against torch's own losses on the expanded data, for all families and options; floors against other searches."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from landform.response import respond, respond_like, response_from_state

torch.set_num_threads(1)
COMMON = settings(max_examples=12, deadline=None)
SMOOTHING = st.sampled_from([0.0, 1e-6, 0.1, 0.5, 1.0])
SEEDS = st.integers(0, 2**31)


def generator(seed):
    return torch.Generator().manual_seed(seed)


def points(response, seed, count=4, spread=3.0):
    noise = torch.randn(count, response.n_outputs, dtype=torch.float64, generator=generator(seed))
    return torch.cat([response.best + spread * noise, response.best[None]])


def expand(p, targets):
    return p.expand(len(targets), -1).clone()


def check(response, module, targets, seed, *, view=None, domain=None):
    rows = points(response, seed)
    rows = rows if domain is None else rows.clamp(min=domain)
    got = response.loss(rows)
    for p, value in zip(rows, got, strict=True):
        out = expand(p, targets)
        want = module(out if view is None else view(out), targets)
        assert float(value) == pytest.approx(float(want), rel=1e-12, abs=1e-13)
    again = response_from_state(response.config(), response.statistics())
    assert torch.equal(again.loss(rows), got)
    assert torch.equal(again.best, response.best)
    assert torch.equal(again.ray, response.ray)
    assert (again.floor, again.excess) == (response.floor, response.excess)


def check_ray(response):
    """ρ is what loss gives along the ray; it never falls; ρ^{-1} inverts it; the ray is a signed unit vector."""
    assert response.ray.abs().sum() == 1 == response.ray.abs().max()
    s = torch.cat([torch.zeros(1), torch.logspace(-4, 1.5, 60)]).to(torch.float64)
    rho = response.along(s)
    size = max(1.0, abs(response.lowest))
    torch.testing.assert_close(rho, response.loss(response.best + s[:, None] * response.ray), rtol=1e-12, atol=1e-13)
    assert rho.diff().min() >= -1e-15 * size
    assert response.slope(s).min() >= 0
    assert response.slope(s).diff().min() >= -1e-14
    assert response.lowest == response.floor + response.excess
    t = response.lowest + torch.cat([torch.zeros(1), torch.logspace(-12, 1, 40)]).to(torch.float64)
    back = response.inverse(t)
    # a few ulp of the loss, or what one ulp of s makes of it
    allowed = torch.maximum(t.abs(), torch.full_like(t, size)) + back * response.slope(back)
    assert ((response.along(back) - t).abs() <= 6 * torch.finfo(torch.float64).eps * allowed).all()
    # s = 0 is the last minimiser: every step beyond costs something
    assert rho[-1] > rho[0]
    assert float(response.along(torch.tensor(0.1, dtype=torch.float64))) > response.lowest


@given(st.lists(st.integers(0, 40), min_size=2, max_size=8), st.booleans(), st.booleans(), SMOOTHING, SEEDS)
@COMMON
def test_cross_entropy_of_indices_is_torchs(counts, weighted, ignored, smoothing, seed):
    counts = [*counts, 1]
    classes = len(counts)
    targets = torch.cat([torch.full((n,), c) for c, n in enumerate(counts)])
    weight = torch.rand(classes, dtype=torch.float64, generator=generator(seed)) + 0.1 if weighted else None
    ignore = classes - 2 if ignored and counts[-2] < sum(counts) else -100
    module = nn.CrossEntropyLoss(weight=weight, ignore_index=ignore, label_smoothing=smoothing)
    response = respond(module, targets, outputs=classes)
    check(response, module, targets, seed)
    check_ray(response)
    assert response.excess <= 1e-12
    assert (response.loss(points(response, seed, 20)) >= response.floor - 1e-14).all()


@given(st.integers(2, 5), st.integers(1, 6), st.booleans(), st.floats(0, 0.9), SEEDS)
@COMMON
def test_cross_entropy_of_probabilities_is_torchs(classes, samples, weighted, smoothing, seed):
    targets = torch.rand(samples, classes, dtype=torch.float64, generator=generator(seed)).softmax(1)
    weight = torch.rand(classes, dtype=torch.float64, generator=generator(seed)) + 0.1 if weighted else None
    module = nn.CrossEntropyLoss(weight=weight, label_smoothing=smoothing)
    response = respond(module, targets)
    check(response, module, targets, seed)
    check_ray(response)


def test_cross_entropy_of_tokens_flattens_positions():
    targets = torch.randint(0, 4, (3, 5), generator=generator(0))
    targets[0, 0] = -100
    response = respond("cross_entropy", targets, outputs=4, label_smoothing=0.1)
    p = torch.randn(4, dtype=torch.float64, generator=generator(1))
    want = F.cross_entropy(p[None, :, None].expand(3, 4, 5), targets, label_smoothing=0.1)
    assert float(response.loss(p[None])) == pytest.approx(float(want), rel=1e-13)
    soft = torch.rand(3, 4, 5, dtype=torch.float64, generator=generator(2)).softmax(1)
    want = F.cross_entropy(p[None, :, None].expand(3, 4, 5), soft)
    assert float(respond("cross_entropy", soft).loss(p[None])) == pytest.approx(float(want), rel=1e-13)


def test_cross_entropy_floor_is_the_entropy_and_the_ray_the_rarest_present_class():
    targets = torch.tensor([0] * 5 + [1] * 3 + [3] * 2)
    response = respond("cross_entropy", targets, outputs=5)
    share = np.array([0.5, 0.3, 0.2])
    assert response.floor == pytest.approx(-np.sum(share * np.log(share)), abs=1e-15)
    assert response.output == 3
    assert 0 < response.excess < 1e-13
    assert response.best[2] == response.best[4] == -32.0
    ten = respond("cross_entropy", torch.arange(10))
    assert ten.floor == pytest.approx(math.log(10), abs=1e-15)
    assert ten.excess == 0.0


@pytest.mark.parametrize("absent", [-1.0, -4.0, -32.0])
def test_absent_classes_keep_zero_the_minimum_of_the_ray(absent):
    response = respond("cross_entropy", torch.tensor([0, 0, 0, 1]), outputs=6, absent_output=absent)
    check_ray(response)
    assert float(response.slope(torch.zeros(1).double())) == 0.0
    assert response.lowest == pytest.approx(float(response.loss(response.best[None])), rel=1e-14)


def test_a_single_present_class_takes_an_absent_one_as_ray():
    response = respond("cross_entropy", torch.zeros(7, dtype=torch.long), outputs=3)
    assert response.output == 1
    assert response.floor == 0.0
    assert response.excess == pytest.approx(2 * math.exp(-32), rel=1e-12)
    check_ray(response)


@given(st.integers(1, 6), st.integers(1, 3), SEEDS)
@COMMON
def test_mse_is_torchs(samples, size, seed):
    targets = torch.randn(samples, size, dtype=torch.float64, generator=generator(seed)) + 5
    response = respond(nn.MSELoss(), targets)
    check(response, nn.MSELoss(), targets, seed)
    check_ray(response)
    assert response.floor == pytest.approx(float(targets.var(0, correction=0).mean()), rel=1e-13)


def test_mse_of_images_flattens():
    targets = torch.randn(4, 2, 3, generator=generator(0))
    response = respond("mse", targets, outputs=6)
    p = torch.randn(6, dtype=torch.float64, generator=generator(1))
    want = F.mse_loss(p.reshape(1, 2, 3).expand(4, 2, 3), targets.double())
    assert float(response.loss(p[None])) == pytest.approx(float(want), rel=1e-13)


ROBUST = [
    nn.L1Loss(),
    nn.SmoothL1Loss(beta=0.7),
    nn.SmoothL1Loss(beta=0.0),
    nn.HuberLoss(delta=0.3),
    nn.HuberLoss(delta=2.5),
]


@pytest.mark.parametrize("module", ROBUST, ids=repr)
@given(st.lists(st.integers(-3, 3), min_size=1, max_size=8), st.integers(1, 2), SEEDS)
@COMMON
def test_l1_smooth_l1_and_huber_are_torchs(module, values, size, seed):
    targets = torch.tensor(values, dtype=torch.float64)[:, None] * torch.tensor([[1.0, -0.5]])[:, :size]
    response = respond(module, targets)
    check(response, module, targets, seed)
    check_ray(response)
    rows = torch.linspace(-4, 4, 801, dtype=torch.float64)[:, None].repeat(1, size)
    rows[:, 1:] = response.best[1:]
    assert response.loss(rows).min() >= response.floor - 1e-14


def test_l1_takes_the_last_median_of_a_flat_piece():
    response = respond("l1", torch.tensor([0.0, 0.0, 4.0, 4.0]))
    assert response.best.tolist() == [4.0]
    weighted = respond("l1", torch.tensor([0.0, 1.0, 4.0]), weights=torch.tensor([5.0, 1.0, 1.0]))
    assert weighted.best.tolist() == [0.0]
    huber = respond("huber", torch.tensor([0.0, 10.0]), delta=1.0)
    assert huber.best.tolist() == [9.0]


@given(st.integers(1, 6), st.integers(1, 3), st.booleans(), st.booleans(), st.booleans(), SEEDS)
@COMMON
def test_bce_is_torchs(samples, size, soft, weighted, positive, seed):
    targets = torch.rand(samples, size, dtype=torch.float64, generator=generator(seed))
    targets = targets if soft else targets.round()
    weight = torch.rand(size, dtype=torch.float64, generator=generator(seed)) + 0.1
    module = nn.BCEWithLogitsLoss(weight=weight if weighted else None, pos_weight=2 * weight if positive else None)
    response = respond(module, targets)
    check(response, module, targets, seed)
    check_ray(response)
    assert (response.loss(points(response, seed, 20)) >= response.floor - 1e-14).all()


@pytest.mark.parametrize(("label", "sign"), [(0.0, 1.0), (1.0, -1.0)])
def test_bce_of_one_sided_labels(label, sign):
    response = respond("bce_with_logits", torch.full((4, 2), label))
    assert response.sign == sign
    assert response.best.tolist() == [-32.0 * sign] * 2
    assert response.floor == 0.0
    assert response.excess == pytest.approx(math.exp(-32), rel=1e-12)
    check_ray(response)


@pytest.mark.parametrize("p", [1, 2])
@given(st.lists(st.integers(0, 9), min_size=2, max_size=5), st.booleans(), st.sampled_from([0.0, 0.1, 1.0, 3.0]), SEEDS)
@COMMON
def test_multi_margin_is_torchs_and_its_floor_a_minimum(p, counts, weighted, margin, seed):
    counts[0] += 1
    targets = torch.cat([torch.full((n,), c) for c, n in enumerate(counts)])
    weight = torch.rand(len(counts), dtype=torch.float64, generator=generator(seed)) + 0.1 if weighted else None
    module = nn.MultiMarginLoss(p=p, margin=margin, weight=weight)
    response = respond(module, targets, outputs=len(counts))
    check(response, module, targets, seed)
    check_ray(response)
    # convex, so a local search around the claimed minimum is a global proof
    near = torch.cat([points(response, seed, 300, spread) for spread in (1e-3, 0.1, 1.0)])
    assert (response.loss(near) >= response.floor - 1e-13).all()


def test_multi_margin_floor_against_linear_programming():
    from scipy.optimize import linprog

    share = np.array([50.0, 20.0, 7.0, 6.0, 1.0, 0.0])
    targets = torch.cat([torch.full((int(n),), c) for c, n in enumerate(share)])
    size, a = len(share), share / share.sum() / len(share)
    pairs = [(y, j) for y in range(size) for j in range(size) if y != j]
    cost = np.concatenate([np.zeros(size), [a[y] for y, _ in pairs]])
    rows = np.zeros((len(pairs), size + len(pairs)))
    for k, (y, j) in enumerate(pairs):  # 1 − x_y + x_j ≤ gap_k
        rows[k, [y, j, size + k]] = [-1.0, 1.0, -1.0]
    bounds = [(None, None)] * size + [(0, None)] * len(pairs)
    best = linprog(cost, A_ub=rows, b_ub=-np.ones(len(pairs)), bounds=bounds)
    response = respond("multi_margin", targets, outputs=size)
    assert response.floor == pytest.approx(best.fun, rel=1e-9)
    assert response.floor < float(response.loss(torch.zeros(1, size, dtype=torch.float64)))


@pytest.mark.parametrize("log_input", [True, False])
@pytest.mark.parametrize("full", [True, False])
@given(st.lists(st.integers(0, 5), min_size=1, max_size=6), st.integers(1, 2), SEEDS)
@COMMON
def test_poisson_is_torchs(log_input, full, counts, size, seed):
    targets = torch.tensor(counts, dtype=torch.float64)[:, None] * torch.tensor([[1.0, 2.0]])[:, :size]
    module = nn.PoissonNLLLoss(log_input=log_input, full=full)
    response = respond(module, targets)
    check(response, module, targets, seed, domain=None if log_input else 0.0)
    check_ray(response)
    rows = points(response, seed, 20)
    assert (response.loss(rows if log_input else rows.clamp(min=0)) >= response.floor - 1e-13).all()


@pytest.mark.parametrize("log_input", [True, False])
def test_poisson_of_zero_counts(log_input):
    response = respond("poisson_nll", torch.zeros(3), log_input=log_input)
    assert response.best.tolist() == [-32.0 if log_input else 0.0]
    assert response.excess == pytest.approx(math.exp(-32) if log_input else 1e-8)
    assert response.lowest == pytest.approx(float(response.loss(response.best[None])), abs=1e-22)
    check_ray(response)


@pytest.mark.parametrize("full", [True, False])
@given(st.integers(1, 6), st.integers(1, 3), SEEDS)
@COMMON
def test_gaussian_is_torchs(full, samples, size, seed):
    targets = torch.randn(samples, size, dtype=torch.float64, generator=generator(seed))
    module = nn.GaussianNLLLoss(full=full)
    response = respond(module, targets, outputs=2 * size)

    def loss(out, targets):
        return module(out[:, :size], targets, out[:, size:].exp())

    check(response, loss, targets, seed)
    check_ray(response)
    assert (response.loss(points(response, seed, 20, 0.5)) >= response.floor - 1e-12).all()


def test_gaussian_variance_is_the_targets_or_eps():
    assert respond("gaussian_nll", torch.tensor([0.0, 4.0])).best.tolist() == [2.0, math.log(4.0)]
    constant = respond("gaussian_nll", torch.tensor([3.0, 3.0]), eps=1e-3)
    assert constant.best.tolist() == [3.0, math.log(1e-3)]
    assert constant.floor == pytest.approx(0.5 * math.log(1e-3), rel=1e-14)


WEIGHTED = ["cross_entropy", "multi_margin", "mse", "l1", "smooth_l1", "huber", "bce_with_logits", "poisson_nll"]


@pytest.mark.parametrize("loss", [*WEIGHTED, "gaussian_nll"])
@given(st.lists(st.integers(0, 4), min_size=4, max_size=8), SEEDS)
@COMMON
def test_a_weight_counts_like_repetition_and_order_does_not_matter(loss, repeats, seed):
    repeats[0] += 1
    repeats = torch.tensor(repeats)
    if loss in ("cross_entropy", "multi_margin"):
        targets, outputs = torch.randint(0, 3, (len(repeats),), generator=generator(seed)), 3
    else:
        targets, outputs = torch.rand(len(repeats), 2, dtype=torch.float64, generator=generator(seed)), None
    weighted = respond(loss, targets, outputs=outputs, weights=repeats)
    order = torch.randperm(int(repeats.sum()), generator=generator(seed))
    repeated = respond_like(weighted, torch.repeat_interleave(targets, repeats, dim=0)[order])
    rows = points(weighted, seed).clamp(min=0) if loss == "poisson_nll" else points(weighted, seed)
    torch.testing.assert_close(weighted.loss(rows), repeated.loss(rows), rtol=1e-12, atol=1e-13)
    assert weighted.floor == pytest.approx(repeated.floor, rel=1e-12, abs=1e-14)


def test_class_weights_and_sample_weights_meet_as_in_torch():
    targets, weight = torch.tensor([0, 1, 1, 2]), torch.tensor([1.0, 2.0, 3.0])
    repeats = torch.tensor([3, 1, 2, 1])
    response = respond("cross_entropy", targets, weight=weight, weights=repeats, label_smoothing=0.2)
    long = torch.repeat_interleave(targets, repeats)
    p = torch.tensor([0.3, -1.0, 2.0], dtype=torch.float64)
    want = F.cross_entropy(p.expand(len(long), 3), long, weight=weight.double(), label_smoothing=0.2)
    assert float(response.loss(p[None])) == pytest.approx(float(want), rel=1e-13)


def test_float32_outputs_are_taken_in_float64():
    response = respond("cross_entropy", torch.arange(3))
    p = torch.tensor([[0.1, 0.2, 0.3]])
    assert response.loss(p).dtype == torch.float64
    assert torch.equal(response.loss(p), response.loss(p.double()))


def test_translation_of_mse_and_l1_moves_the_best_and_keeps_the_curve():
    targets, s = torch.randn(50, dtype=torch.float64, generator=generator(3)), torch.linspace(0, 3, 7).double()
    for loss in ("mse", "l1", "huber"):
        here, there = respond(loss, targets), respond(loss, targets + 8.0)
        torch.testing.assert_close(there.best, here.best + 8.0, rtol=0, atol=1e-13)
        torch.testing.assert_close(there.along(s), here.along(s), rtol=1e-12, atol=0)
