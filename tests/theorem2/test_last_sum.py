"""Rounding of the last layer, where trained and compiled part meet: sound for any order of summation, and tight."""

from dataclasses import replace
from fractions import Fraction

import pytest
import torch
from torch import nn
from torch.func import functional_call

import landform as lf
from landform.errors import InputError
from landform.imprint.last_sum import sum_radii
from landform.response.offset import OffsetResponse

BOWL = lf.Pattern.from_formula("sphere", resolution=4)


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def added(terms, order, generator):
    """Add float32 terms up along a random tree, or one by one."""
    values = [terms[i] for i in order]
    while len(values) > 1:
        at = 0 if generator is None else int(torch.randint(len(values) - 1, (1,), generator=generator))
        values[at : at + 2] = [values[at] + values[at + 1]]
    return values[0]


def exact(x, w, b):
    return sum((Fraction(float(p)) * Fraction(float(q)) for p, q in zip(x, w, strict=True)), Fraction(float(b)))


@pytest.mark.parametrize("kind", ["signed", "relu", "positive"])
def test_no_order_of_summation_leaves_the_radius(kind):
    generator = rng(1)
    x, w = torch.randn(20, 30, generator=generator), torch.randn(1, 30, generator=generator)
    x = x if kind == "signed" else x.relu()
    w, b = (w.abs() if kind == "positive" else w), torch.randn(1, generator=generator)
    radii, terms = sum_radii(x, w, b)
    assert torch.equal(terms, (x != 0).sum(dim=1) + 1.0)
    shares = []
    for row, radius in zip(x, radii, strict=True):
        products = torch.cat([row * w[0], b])
        truth = exact(row, w[0], b)
        orders = [torch.randperm(31, generator=generator) for _ in range(4)]
        orders += [products.argsort(descending=True), products.abs().argsort(descending=True)]
        for number, order in enumerate(orders):
            found = added(products, order.tolist(), generator if number % 2 else None)
            shares.append(abs(float(Fraction(float(found)) - truth)) / float(radius))
    assert max(shares) <= 1
    assert max(shares) > 0.03


def test_the_radius_is_reached_up_to_a_small_factor():
    """1 and then many 2⁻²⁴: each addition loses all of what is added."""
    b, x = torch.ones(1), torch.full((1, 50), 2.0**-24)
    w = torch.ones(1, 50)
    found = added(torch.cat([b, x[0]]), range(51), None)
    lost = float(exact(x[0], w[0], b) - Fraction(float(found)))
    radius = float(sum_radii(x, w, b)[0])
    assert lost == pytest.approx(50 * 2.0**-24)
    assert lost <= radius <= 1.01 * lost


def test_laws_of_the_radius():
    generator = rng(2)
    x, w, b = (torch.randn(*size, generator=generator) for size in ((5, 12), (3, 12), (3,)))
    radii, terms = sum_radii(x, w, b)
    order = torch.randperm(12, generator=generator)
    assert torch.allclose(sum_radii(x[:, order], w[:, order], b)[0], radii, rtol=1e-12)
    assert torch.allclose(sum_radii(4 * x, w, 4 * b)[0], 4 * radii, rtol=1e-12)
    assert torch.allclose(sum_radii(x, -w, -b)[0], radii, rtol=1e-12)
    more = torch.cat([x, torch.zeros(5, 7)], dim=1), torch.cat([w, torch.randn(3, 7, generator=generator)], dim=1)
    assert torch.equal(sum_radii(*more, b)[0], radii)  # what is 0 rounds nowhere
    unread = torch.cat([x, torch.ones(5, 7)], dim=1), torch.cat([w, torch.zeros(3, 7)], dim=1)
    assert torch.equal(sum_radii(*unread, b)[1], terms)
    assert float((sum_radii(x.double(), w.double(), b.double())[0] / radii).max()) < 2.0**-28


@pytest.mark.parametrize("loss", ["cross_entropy", "mse", "bce_with_logits"])
def test_the_mean_loss_moves_by_no_more_than_the_bound(loss):
    generator = rng(3)
    logits = 2 * torch.randn(60, 4, generator=generator, dtype=torch.float64)
    targets = torch.randint(4, (60,), generator=generator)
    if loss != "cross_entropy":
        targets = nn.functional.one_hot(targets, 4).double()
    weights = torch.rand(60, generator=generator)
    response = OffsetResponse.build(logits, targets, loss, weights)
    still = 0.02 * torch.rand(60, 4, generator=generator, dtype=torch.float64)
    growth = 0.01 * torch.rand(60, 4, generator=generator, dtype=torch.float64)
    bound, seen = response.moved_by(still, growth, 3.0), 0.0
    for s in torch.linspace(0, 3, 40, dtype=torch.float64):
        for sign in ("up", "down", "any"):
            turn = torch.sign(torch.randn(60, 4, generator=generator, dtype=torch.float64))
            if sign != "any":
                grown = logits + s * response.v
                gradient = {
                    "cross_entropy": lambda g: g.softmax(dim=1) - nn.functional.one_hot(targets.long(), 4),
                    "mse": lambda g: g - targets,
                    "bce_with_logits": lambda g: torch.sigmoid(g) - targets,
                }[loss](grown)
                turn = torch.sign(gradient) * (1 if sign == "up" else -1)
            moved = response.on(logits + turn * (still + growth * s), targets, weights)
            at = s.reshape(1, 1)
            seen = max(seen, abs(float(moved.loss(at) - response.loss(at))))
    assert seen <= bound <= 1.2 * seen
    assert response.moved_by(0 * still, 0 * growth, 3.0) == 0


def in_any_order(made, h, generator):
    """Return the loss at h when the head adds its terms one by one in a random order, in float32."""
    seen = []
    head = made.model[-1]
    hook = head.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    parameters = made.subspace.at(h)
    with torch.no_grad():
        functional_call(made.model, parameters, (made.task.data.inputs,))
    hook.remove()
    name = f"{len(made.model) - 1}"
    products = seen[0][:, None, :] * parameters[f"{name}.weight"]
    bias = parameters[f"{name}.bias"].expand(len(products), -1)[:, :, None]
    every = torch.cat([products, bias], dim=2)
    total = torch.zeros(every.shape[:2])
    for k in torch.randperm(every.shape[2], generator=generator).tolist():
        total = total + every[:, :, k]
    return nn.functional.cross_entropy(total.double(), made.task.data.targets)


def test_in_float32_the_proof_holds_for_other_orders_and_batch_sizes(trained):
    made = lf.imprint(BOWL, trained("mlp", torch.float32), method="offset", epsilon=1e-6)
    assert made.certificate.holds
    assert made.certificate.bound < 2e-4  # γ_K Σ|w||x| of the largest sample alone is 2e-3
    generator = rng(4)
    for h in torch.rand(6, 2, generator=generator, dtype=torch.float64).float().double():
        wanted = made.target(h[None])
        assert abs(float(in_any_order(made, h, generator) - wanted)) <= made.certificate.bound
        parameters, x = made.subspace.at(h), made.task.data.inputs
        for size in (7, 400):
            with torch.no_grad():
                outputs = torch.cat([functional_call(made.model, parameters, (part,)) for part in x.split(size)])
            loss = nn.functional.cross_entropy(outputs.double(), made.task.data.targets)
            assert abs(float(loss - wanted)) <= made.certificate.bound
    assert any("in any order" in line for line in made.certificate.assumptions)


def test_a_fine_curve_is_as_exact_as_it_was_asked_to_be(trained):
    """What cuts off rounding at 0 costs nothing above: float32 is off by what epsilon admits, and a few roundings."""
    made = lf.imprint(BOWL, trained("mlp", torch.float32), method="offset", epsilon=1e-6)
    h = torch.rand(8, 2, generator=rng(5), dtype=torch.float64).float().double()
    off = [abs(float(made.task.evaluate(made.subspace.at(p)) - made.target(p[None]))) for p in h]
    assert max(off) < 3e-6
    assert made.certificate.curve < 3e-6


def test_statistics_without_rounding_prove_nothing_and_damaged_ones_are_refused(trained):
    made = lf.imprint(BOWL, trained("mlp"), method="offset", certify=False)
    response = made.response
    bare = response.on(response.logits, response.targets[:, 0].long())
    assert bare.radii is None
    found = lf.certify(replace(made, responses=(bare,)))
    assert not found.holds
    assert "make the imprint again" in found.failures[0]
    with pytest.raises(InputError, match="rows of 12 numbers, or of 23 with rounding; got 15"):
        OffsetResponse(response.statistics()[:, :15], loss="cross_entropy", ray=response.v.tolist())
    again = OffsetResponse.from_state(response.config(), response.statistics())
    assert torch.equal(again.radii, response.radii)
    assert torch.equal(again.terms, response.terms)
