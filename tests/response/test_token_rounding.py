"""What rounding may do to the loss of tokens: no error within the radii does more, the worst does nearly as much."""

import itertools

import pytest
import torch
from torch.nn.functional import cross_entropy, one_hot

from landform.errors import InputError
from landform.response import response_from_state
from landform.response.token_offset import TokenOffsetResponse
from landform.response.token_rounding import TokenRounding, corners, shares_between


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def tokens(classes=7, n=200):
    logits = 2 * torch.randn(n, classes, generator=rng(), dtype=torch.float64)
    labels = torch.multinomial(logits.softmax(1), 1, generator=rng(1))[:, 0]
    return logits, labels, 0.3 + torch.rand(n, generator=rng(2), dtype=torch.float64)


def response_of(classes, ray):
    logits, labels, gains = tokens()
    built = TokenOffsetResponse.build(logits, labels, gains)
    p = logits.softmax(1)
    own = torch.tensor([classes.index(y) if y in classes else -1 for y in labels.tolist()]).double()
    fixed = torch.stack([torch.ones(len(labels)).double(), gains, built.losses, own], dim=1)
    rows = torch.cat([fixed, p[:, classes]], dim=1).numpy()
    return TokenOffsetResponse(rows, classes=classes, ray=ray, outputs=p.shape[1])


def rounding_of(response, radii):
    """Return the bound of errors that are independent from class to class."""
    logits, labels, _ = tokens()
    found = corners(logits.softmax(1), response.classes, response.entries)
    still = torch.stack([((q - one_hot(labels, 7)).abs() * radii).sum(1) for q in found], dim=1)
    none, zero = torch.zeros_like(still), torch.zeros(len(labels), dtype=torch.float64)
    return TokenRounding(still, none, none, radii.amax(1), zero, zero + 1, zero)


RAYS = [([2, 5], [1.0, -0.7]), ([2, 5], [1.0, 0.4]), ([3], [-1.0]), ([3], [1.0])]
NOTHING = {"factor": torch.zeros(200, dtype=torch.float64), "ends": torch.zeros(200, dtype=torch.float64)}


@pytest.mark.parametrize(("classes", "ray"), RAYS)
def test_probabilities_stay_in_the_simplex_between_its_corners(classes, ray):
    logits, _, gains = tokens()
    response = response_of(classes, ray)
    found = torch.stack(corners(logits.softmax(1), classes, ray), dim=1)
    s = torch.tensor([0.0, 0.3, 2.0, 5.0], dtype=torch.float64)
    shares = shares_between(response.probabilities, gains, torch.tensor(ray).double(), s, 0.0)
    assert (shares >= 0).all()
    assert torch.allclose(shares.sum(2), torch.ones(4, 200).double())
    for at, share in zip(s, shares, strict=True):
        wanted = (logits + at * gains[:, None] * response.v).softmax(1)
        assert torch.allclose((share[:, :, None] * found).sum(1), wanted)
    wide = shares_between(response.probabilities, gains, torch.tensor(ray).double(), s + 0.05, 0.05)
    assert (wide >= shares).all()
    assert (wide.sum(2) < 1.5).all()


@pytest.mark.parametrize(("classes", "ray"), RAYS)
def test_no_error_within_the_radii_moves_the_loss_by_more(classes, ray):
    logits, labels, gains = tokens()
    response = response_of(classes, ray)
    radii = 1e-3 * torch.rand(200, 7, generator=rng(3), dtype=torch.float64)
    rounded = response.with_rounding(rounding_of(response, radii))
    bound = rounded.moved_by(3.0, shift=0.0, roundoff=0.0, **NOTHING)
    seen = 0.0
    for s in torch.linspace(0, 3, 40, dtype=torch.float64):
        moved = logits + s * gains[:, None] * response.v
        worst = torch.sign(moved.softmax(1) - one_hot(labels, 7)) * radii
        drawn = (2 * torch.rand(200, 7, generator=rng(4), dtype=torch.float64) - 1) * radii
        for error in (worst, -worst, drawn):
            found = cross_entropy(moved + error, labels, reduction="none") - cross_entropy(
                moved, labels, reduction="none"
            )
            seen = max(seen, abs(float(found.mean())))
    assert seen <= bound <= 1.4 * seen


def test_single_signals_count_with_what_each_token_feels_of_them():
    """At s = 0 the mean is flat and single tokens are not: errors of either sign add up."""
    logits, labels, gains = tokens()
    response = TokenOffsetResponse.build(logits, labels, gains)
    s = torch.linspace(0, 4, 30, dtype=torch.float64)
    steep = response.steepness(s)
    assert response.start() < 1e-12
    assert steep[0] > 0.05
    for (left, right), most in zip(itertools.pairwise(s), steep, strict=True):
        for at in torch.linspace(float(left), float(right), 5, dtype=torch.float64):
            error = 1e-2 * torch.sign(response._slopes(at[None])[0])
            moved = logits + ((at + error) * gains)[:, None] * response.v
            found = float(cross_entropy(moved, labels)) - float(response.loss(at.reshape(1, 1)))
            assert abs(found) <= 1e-2 * float(most) + 1e-4 * response.bend
            assert abs(found) > 0.7e-2 * float(most)


def test_it_is_kept_with_the_state_and_needed():
    response = response_of(*RAYS[0])
    with pytest.raises(InputError, match="make the imprint again"):
        response.moved_by(1.0, shift=0.0, roundoff=0.0, **NOTHING)
    rounded = response.with_rounding(rounding_of(response, torch.ones(200, 7, dtype=torch.float64)))
    again = response_from_state(rounded.config(), rounded.statistics())
    assert torch.equal(again.rounding.still, rounded.rounding.still)
    assert torch.equal(again.rounding.reach, rounded.rounding.reach)
    with pytest.raises(InputError, match="13 with rounding"):
        response_from_state(rounded.config(), rounded.statistics()[:, :9])
