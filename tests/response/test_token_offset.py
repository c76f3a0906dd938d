"""The loss over tokens as a function of a signal that each token feels with a gain of its own."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from landform.errors import DataError, InputError
from landform.response import response_from_state
from landform.response.token_offset import TokenOffsetResponse


def tokens(classes=9, n=300):
    g = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(n, classes, generator=g, dtype=torch.float64)
    labels = torch.multinomial(logits.softmax(1), 1, generator=g)[:, 0]
    return logits, labels, 0.3 + torch.rand(n, generator=g, dtype=torch.float64)


@pytest.mark.parametrize("weighted", [False, True])
def test_rho_is_the_loss_of_moved_logits(weighted):
    logits, labels, gains = tokens()
    weights = torch.linspace(0.5, 2, len(labels), dtype=torch.float64) if weighted else torch.ones(len(labels))
    response = TokenOffsetResponse.build(logits, labels, gains, weights.double())
    s = torch.tensor([0.0, 0.4, 3.0, 8.0], dtype=torch.float64)
    for x in s:
        each = cross_entropy(logits + gains[:, None] * x * response.v, labels, reduction="none")
        assert float(response.loss(x.reshape(1, 1))) == pytest.approx(float(weights.double() @ each / weights.sum()))
    assert torch.allclose(response.inverse(response.loss(s[:, None])), s, atol=1e-6)
    assert response.sample_losses(s).shape == (4, 300)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_ray_starts_flat_and_rises_and_fits_the_dtype(dtype):
    response = TokenOffsetResponse.build(*tokens(), dtype=dtype)
    assert 0 <= response.start() < (1e-7 if dtype == torch.float32 else 1e-15)
    assert torch.equal(response.v, response.v.to(dtype).double())
    assert int((response.v != 0).sum()) == 2
    assert (response.loss(torch.linspace(0, 6, 60).double()[:, None]).diff() > 0).all()


def test_the_order_of_tokens_and_a_common_weight_do_not_matter():
    logits, labels, gains = tokens()
    first = TokenOffsetResponse.build(logits, labels, gains)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(1))
    second = TokenOffsetResponse.build(logits[order], labels[order], gains[order], torch.full_like(gains, 3.0))
    s = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    assert torch.allclose(first.loss(s), second.loss(s), rtol=1e-13)
    assert first.classes == second.classes


def test_two_classes_leave_one_direction_that_never_falls():
    response = TokenOffsetResponse.build(*tokens(classes=2))
    assert response.start() >= 0
    assert (response.loss(torch.linspace(0, 3, 30).double()[:, None]).diff() > 0).all()


def test_it_survives_its_state_and_other_data_keep_the_ray():
    logits, labels, gains = tokens()
    response = TokenOffsetResponse.build(logits, labels, gains, about={"mean": 1.0})
    again = response_from_state(response.config(), response.statistics())
    assert again.floor == response.floor
    assert again.about == {"mean": 1.0}
    other = response.on(logits[:50], labels[:50], gains[:50])
    assert torch.equal(other.v, response.v)
    assert other.floor == pytest.approx(float(cross_entropy(logits[:50], labels[:50])))


def test_bad_tokens_are_named():
    logits, labels, gains = tokens()
    with pytest.raises(DataError, match="labels run from 0 to 99 for 9 outputs"):
        TokenOffsetResponse.build(logits, labels.index_fill(0, torch.tensor([3]), 99), gains)
    with pytest.raises(DataError, match="one row of logits"):
        TokenOffsetResponse.build(logits, labels[:5], gains)
    with pytest.raises(InputError, match="rows of 6"):
        TokenOffsetResponse(
            TokenOffsetResponse.build(logits, labels, gains).statistics(), classes=[1], ray=[1.0], outputs=9
        )
