"""Any other loss: found minimum, chosen ray, kinds, duplicates, state, and what is refused."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from landform.errors import DataError, InputError
from landform.response import CallableResponse, fit_spline, respond, respond_like, response_from_state

torch.set_num_threads(1)
LABELS = torch.tensor([0] * 6 + [1] * 3 + [2])


def mean_entropy(outputs, targets):
    return F.cross_entropy(outputs, targets)


def log_cosh(outputs, targets):
    return torch.log(torch.cosh(outputs[:, 0] - targets))


@pytest.mark.parametrize("returns", ["mean", "samples"])
def test_cross_entropy_as_a_callable_agrees_with_the_closed_form(returns):
    def loss(outputs, targets):
        each = -outputs.log_softmax(1).gather(1, targets[:, None])[:, 0]
        return each if returns == "samples" else each.mean()

    known, found = respond("cross_entropy", LABELS), respond(loss, LABELS, outputs=3)
    assert isinstance(found, CallableResponse)
    assert found.options["mode"] == ("per_sample" if returns == "samples" else "mapped")
    assert found.floor == pytest.approx(known.floor, abs=1e-12)
    rows = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(found.loss(rows), known.loss(rows), rtol=1e-12, atol=0)
    assert found.kind == "measured"
    assert not found.convex
    assert any("does not decrease" in x for x in found.assumptions)
    t = found.lowest + torch.tensor([0.0, 1e-3, 1.0, 5.0], dtype=torch.float64)
    assert (found.along(found.inverse(t)) - t).abs().max() < 1e-14
    s = torch.tensor([0.5, 2.0], dtype=torch.float64)
    step = (found.along(s + 1e-6) - found.along(s - 1e-6)) / 2e-6
    torch.testing.assert_close(found.slope(s), step, rtol=1e-8, atol=0)


def test_declared_convex_is_an_assumption_and_a_bound():
    found = respond(log_cosh, torch.tensor([0.0, 1.0, 1.0, 5.0]), outputs=1, convex=True)
    assert found.kind == "certified"
    assert any("declared by convex=True" in x for x in found.assumptions)
    lo, hi = found.auto_range()
    bound, seen = fit_spline(found, lo, hi, epsilon=1e-3), respond(log_cosh, torch.tensor([0.0, 1, 1, 5]), outputs=1)
    assert fit_spline(seen, lo, hi, epsilon=1e-3).gap == pytest.approx(bound.gap, rel=0.2)
    u = torch.linspace(0, 1, 5001, dtype=torch.float64)
    assert (found.along(bound(u)) - (lo + (hi - lo) * u)).abs().max() <= bound.gap + 1e-14


def test_equal_targets_are_evaluated_once():
    sizes = []

    def loss(outputs, targets):
        sizes.append(len(outputs))
        return (outputs[:, 0] - targets).abs().pow(1.5)

    found = respond(loss, torch.tensor([0.0, 1.0]).repeat(500), outputs=1)
    assert found.statistics().tolist() == [[500.0, 0.0], [500.0, 1.0]]
    sizes.clear()
    found.along(torch.zeros(7, dtype=torch.float64))
    assert sizes == [14]


def test_a_ratio_mean_is_evaluated_on_the_whole_batch():
    weight = torch.tensor([1.0, 2.0, 7.0], dtype=torch.float64)

    def loss(outputs, targets):
        return F.cross_entropy(outputs, targets, weight=weight)

    known, found = respond("cross_entropy", LABELS, weight=weight), respond(loss, LABELS, outputs=3)
    assert found.options["mode"] == "batch"
    assert found.floor == pytest.approx(known.floor, abs=1e-12)
    with pytest.raises(DataError, match="weights need a loss that is the mean of per-sample losses"):
        respond(loss, LABELS, outputs=3, weights=torch.linspace(0.5, 1.0, 10))


def test_weights_of_a_mean():
    weights = torch.tensor([1.0, 2.5, 0.0])
    targets = torch.tensor([0.0, 1.0, 9.0])
    found = respond(log_cosh, targets, outputs=1, weights=weights)
    p = torch.tensor([[0.3]], dtype=torch.float64)
    want = (math.log(math.cosh(0.3)) + 2.5 * math.log(math.cosh(0.7))) / 3.5
    assert float(found.loss(p)) == pytest.approx(want, rel=1e-12)


def by_numpy(outputs, targets):
    return torch.tensor(np.abs(outputs.detach().numpy() - 2.0).mean())


def test_kinked_and_undifferentiable_losses():
    kinked = respond(lambda p, y: (p[:, 0] - y).abs().mean(), torch.tensor([0.0, 1.0, 1.0, 4.0, 5.0]), outputs=1)
    assert kinked.floor == pytest.approx(8 / 5, abs=1e-9)
    plain = respond(by_numpy, torch.tensor([0.0]), outputs=1)
    assert plain.options["mode"] == "single"
    assert plain.best.tolist() == pytest.approx([2.0], abs=1e-7)
    s = torch.tensor([1.0], dtype=torch.float64)
    assert float(plain.slope(s)) == pytest.approx(1.0, abs=1e-6)


def test_the_last_minimiser_of_a_flat_piece_is_taken():
    flat = respond(lambda p, y: (p[:, 0] - y).abs().sub(2).clamp(min=0), torch.tensor([1.0]), outputs=1)
    assert flat.best.tolist() == pytest.approx([3.0], abs=1e-9)
    assert float(flat.inverse(torch.tensor([0.5], dtype=torch.float64))) == pytest.approx(0.5, abs=1e-9)


def test_a_ray_that_bends_down_is_not_taken():
    # falls again to the right of 3, rises for good to the left
    found = respond(
        lambda p, y: torch.where(p > 3, (12 - p).clamp(min=1), p**2).mean(1) + 0 * y, torch.tensor([0.0]), outputs=1
    )
    assert found.sign == -1.0


def test_state_needs_the_loss():
    found = respond(log_cosh, torch.tensor([0.0, 1.0, 3.0]), outputs=1)
    again = response_from_state(found.config(), found.statistics(), log_cosh)
    s = torch.linspace(0, 2, 5).double()
    assert torch.equal(again.along(s), found.along(s))
    assert (again.kind, again.options) == (found.kind, found.options)
    with pytest.raises(InputError, match="made from a callable loss, which is not saved; pass loss="):
        response_from_state(found.config(), found.statistics())
    assert respond_like(found, torch.tensor([7.0])).best.tolist() == pytest.approx([7.0], abs=1e-6)


def test_torch_functions_and_modules():
    assert type(respond(F.cross_entropy, LABELS)) is type(respond("cross_entropy", LABELS))
    assert respond(F.huber_loss, torch.tensor([0.0, 1.0]), delta=0.5).options == {"delta": 0.5}
    soft = respond(nn.SoftMarginLoss(), torch.tensor([[1.0], [-1.0]]), outputs=1)
    assert soft.floor == pytest.approx(math.log(2), abs=1e-12)


def test_refusals():
    with pytest.raises(InputError, match="does not tell the size of its input; pass outputs="):
        respond(log_cosh, torch.tensor([0.0]))
    with pytest.raises(InputError, match=r"bind them with functools\.partial"):
        respond(log_cosh, torch.tensor([0.0]), outputs=1, beta=2)
    with pytest.raises(InputError, match=r"the loss failed on outputs of shape \[1, 2\] \(float64\)"):
        respond(mean_entropy, torch.tensor([5]), outputs=2)
    with pytest.raises(InputError, match=r"returned shape \[1, 2\]; it must return a scalar mean or \[1\] losses"):
        respond(lambda p, y: p, torch.tensor([0.0]), outputs=2)
    with pytest.raises(InputError, match="is nan on a constant output; it must be finite"):
        respond(lambda p, y: (p * math.nan).mean(), torch.tensor([0.0]), outputs=1)
    with pytest.raises(InputError, match="still falls beyond ±32"):
        respond(lambda p, y: p.mean(), torch.tensor([0.0]), outputs=1)
    with pytest.raises(InputError, match="rises monotonically along no output"):
        respond(lambda p, y: (0 * p).mean(), torch.tensor([0.0]), outputs=1)
    with pytest.raises(InputError, match="SoftMarginLoss has reduction='sum'"):
        respond(nn.SoftMarginLoss(reduction="sum"), torch.tensor([[1.0]]), outputs=1)
    bounded = respond(lambda p, y: 1 - torch.exp(-(p[:, 0] ** 2)), torch.tensor([0.0]), outputs=1)
    with pytest.raises(InputError, match=r"never rises by 1\.5 along its ray"):
        bounded.inverse(torch.tensor([1.5], dtype=torch.float64))
