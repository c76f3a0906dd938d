"""How often intervals hold: many repeats on per-sample surfaces with known truth, against what chance allows."""

import math

import pytest
import torch

from landform.scan.engine.base import Sums, Terms
from landform.scan.sampler import FullGrid, Multilevel, sample_order

N, NODES, REPEATS = 1000, 17, 50
H = torch.cartesian_prod(*(torch.linspace(-1, 1, NODES).double(),) * 2)


def mild(seed):
    """A bowl per sample with a centre and a width of its own."""
    draw = torch.Generator().manual_seed(seed)
    centre = 0.4 * torch.randn(2, N, generator=draw).double()
    width = 0.5 + torch.rand(N, generator=draw).double()
    return width * sum((H[:, k, None] - centre[k]).square() for k in range(2)), None


def heavy(seed):
    """Ten classes, each rough in a part of the plane of its own: most samples see nothing there, a few see much."""
    draw = torch.Generator().manual_seed(seed)
    classes = torch.arange(N) % 10
    place = 2 * torch.rand(10, 2, generator=draw).double() - 1
    size = (0.8 * torch.randn(N, generator=draw).double()).exp()
    away = sum((H[:, k, None] - place[classes, k]).square() for k in range(2))
    wave = (4 * H[:, :1] + 7 * H[:, 1:] + 6.3 * torch.rand(N, generator=draw).double()).sin()
    return H.square().sum(1, keepdim=True) + 0.5 * size * (-8 * away).exp() * (1 + 0.7 * wave), classes


def outcomes(table, strata, make):
    """Answer scans from a table, each with samples in another order; return errors, half-widths and estimates."""
    truth = table.mean(1)
    for repeat in range(REPEATS):
        order = sample_order(N, repeat, strata)
        sampler = make(repeat)
        while (request := sampler.ask()) is not None:
            rows = ((request.h + 1) * (NODES - 1) / 2).round().long() @ torch.tensor([NODES, 1])
            num = table[rows][:, None, order[request.samples(N)]]
            den = torch.ones(1, num.shape[-1]).double()
            sampler.tell(request, Terms(num, den) if request.per_sample else Sums(num.sum(-1), den.sum(-1)))
        found = sampler.estimate()
        yield found.value[:, 0] - truth, found.critical[0] * found.stderr[:, 0], found


@pytest.mark.parametrize(("kind", "tolerance"), [(mild, 0.01), (heavy, 0.05)])
@pytest.mark.parametrize("confidence", [0.9, 0.99])
def test_multilevel_intervals_hold_at_all_nodes_at_least_as_often_as_they_say(kind, tolerance, confidence):
    table, strata = kind(0)
    held, sampled = 0, 0
    for error, half, found in outcomes(
        table,
        strata,
        lambda seed: Multilevel(
            H, (NODES,) * 2, N, ("loss",), tolerance=tolerance, confidence=confidence, check=0, seed=seed
        ),
    ):
        measured = found.samples > 0
        held += bool((error[measured].abs() <= half[measured] + 1e-9).all())
        sampled += int(((found.stderr[:, 0] > 0) & measured).sum())
        assert float(error[measured].abs().max()) <= found.notes["loss_tolerance"]
    assert sampled > 50 * REPEATS  # otherwise there would be little to cover
    assert held / REPEATS >= confidence - 2.33 * math.sqrt(confidence * (1 - confidence) / REPEATS)


def test_intervals_of_interrupted_scans_hold_as_often_as_they_say():
    """Ctrl-C comes at a moment that has nothing to do with values: anywhere in a scan."""
    table, strata = heavy(3)
    draw = torch.Generator().manual_seed(0)
    held, begun = 0, 0
    for repeat in range(REPEATS):
        order = sample_order(N, repeat, strata)
        sampler = Multilevel(H, (NODES,) * 2, N, ("loss",), tolerance=0.05, confidence=0.9, check=0, seed=repeat)
        left = int(torch.randint(1, 7, (), generator=draw))
        while (request := sampler.ask()) is not None:
            rows = ((request.h + 1) * (NODES - 1) / 2).round().long() @ torch.tensor([NODES, 1])
            some = torch.arange(len(rows)) if left else (torch.rand(len(rows), generator=draw) < 0.5).nonzero()[:, 0]
            num = table[rows[some]][:, None, order[request.samples(N)]]
            answer = Terms(num, torch.ones(1, num.shape[-1]).double())
            if not left:
                before = int((sampler.estimate().samples > 0).sum())
                sampler.tell_part(some, answer)
                begun += int((sampler.estimate().samples > 0).sum()) > before
                break
            sampler.tell(request, answer)
            left -= 1
        found = sampler.estimate()
        error, half = found.value[:, 0] - table.mean(1), found.critical[0] * found.stderr[:, 0]
        measured = found.samples > 0
        held += bool((error[measured].abs() <= half[measured] + 1e-9).all())
    assert begun > REPEATS / 3
    assert held / REPEATS >= 0.9 - 2.33 * math.sqrt(0.09 / REPEATS)


def test_standard_errors_are_those_of_repeats():
    """The spread over random orders of each value, against what a single scan says it is."""
    table, _ = mild(1)
    errors, said = [], []
    for error, _, found in outcomes(
        table, None, lambda seed: Multilevel(H, (NODES,) * 2, N, ("loss",), tolerance=0.02, check=0, seed=seed)
    ):
        errors.append(error)
        said.append(found.stderr[:, 0].nan_to_num())
    said, true = torch.stack(said).square().mean(0).sqrt(), torch.stack(errors).square().mean(0).sqrt()
    ratio = (said / true)[true > 1e-9]
    assert len(ratio) > 100
    assert 0.95 < float(ratio.median()) < 2.5  # raised for heavy tails, never lowered


def test_pointwise_intervals_would_not_do():
    """99 % at each node is not 99 % at all of them: the tests above can fail."""
    table, strata = heavy(2)
    held = 0
    for error, _, found in outcomes(
        table, strata, lambda seed: FullGrid(H, N, ("loss",), subset=64, confidence=0.99, seed=seed)
    ):
        held += bool((error.abs() <= 2.576 * found.stderr[:, 0]).all())
    assert held / REPEATS < 0.9
