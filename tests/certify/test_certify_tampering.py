"""A changed weight that moves the loss beyond the bound must be noticed; one that nothing reads must not matter."""

import collections
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import landform as lf
from landform.imprint.collapsed import losses_at
from landform.response import respond
from landform.testing import dead_entries, hard_points, live_entries, perturbed

torch.set_num_threads(1)
GENERATOR = torch.Generator().manual_seed(0)
X, Y = torch.randn(30, 4, generator=GENERATOR), torch.arange(30) % 3
PATTERN = lf.Pattern(torch.from_numpy(np.random.default_rng(0).random((4, 4))))


def model_of(widths=(5, 60, 60, 110), act=nn.ReLU, norm=None, dtype=torch.float64):
    layers, size = [], 4
    for width in widths:
        after = [nn.BatchNorm1d(width)] if norm else []
        layers += [nn.Linear(size, width), *(after if norm == "before" else []), act()]
        layers += after if norm == "after" else []
        size = width
    model = nn.Sequential(*layers, nn.Linear(size, 3)).to(dtype)
    generator = torch.Generator().manual_seed(1)
    for name, buffer in model.named_buffers():
        if buffer.is_floating_point():
            buffer.uniform_(0.2 if name.endswith("var") else -0.5, 1.0, generator=generator)
    return model.eval()


def made(model=None, pattern=PATTERN, **options):
    model = model or model_of()
    data = (X.to(next(model.parameters()).dtype), Y)
    return lf.imprint(pattern, lf.Task(model, data=data), **options)


CASES = {
    "hats": lambda: made(form="hats"),
    "strips": lambda: made(form="strips"),
    "rows": lambda: made(model_of([5, 40, 40, 40, 30, 60]), form="rows"),
    "recompute": lambda: made(model_of([5] + [30] * 5 + [60]), form="hats", schedule="recompute"),
    "direct": lambda: made(direct=True, form="hats"),
    "general": lambda: made(model_of((60, 60, 110)), axis_aligned=False),
    "leaky": lambda: made(model_of((5, 80, 80, 180), lambda: nn.LeakyReLU(0.2))),
    "norm before": lambda: made(model_of(norm="before"), form="hats"),
    "norm after": lambda: made(model_of(norm="after"), form="hats"),
    "one axis": lambda: made(pattern=lf.Pattern(PATTERN.values[0].contiguous())),
    "float32": lambda: made(model_of(dtype=torch.float32), form="hats"),
}


def measured(imprint, count=40):
    dtype = next(imprint.model.parameters()).dtype
    h = hard_points(imprint.pattern.resolution, count, dtype=dtype)
    try:
        difference = losses_at(imprint, h) - imprint.target(h).reshape(len(h), -1)
    except ValueError:  # the first layer reads its input: no longer a constant imprint
        return math.inf
    worst = float(difference.abs().max())
    return worst if math.isfinite(worst) else math.inf


@pytest.mark.parametrize("case", CASES)
def test_every_change_that_can_be_measured_is_noticed(case):
    imprint = CASES[case]()
    assert imprint.certificate.holds
    rng = np.random.default_rng(3)
    places = collections.defaultdict(list)
    for name, index in live_entries(imprint):
        places[name].append((name, index, None))
    for number, direction in enumerate(imprint.subspace.directions):
        for name, value in direction.items():
            places[f"direction {number}"] = [(name, tuple(i), number) for i in value.nonzero().tolist()]
    for name, buffer in imprint.model.named_buffers():
        if buffer.is_floating_point():
            places[name] = [(name, (i,), None) for i in range(min(imprint.meta["units"]))]
    seen = moved = 0
    for entries in places.values():
        for choice in rng.permutation(len(entries))[:1]:
            name, index, direction = entries[choice]
            source = imprint.subspace.directions[direction] if direction is not None else imprint.model.state_dict()
            old = float(source[name][index])
            for new in (old + 1e-3, 0.7 * old - 0.01):
                if name.endswith("running_var") and new <= 0:
                    continue
                tampered = perturbed(imprint, name, index, new, direction=direction)
                certificate, worst = lf.certify(tampered), measured(tampered)
                assert worst <= certificate.bound, (name, index, new)
                assert certificate.promised == imprint.certificate.bound
                if worst > imprint.certificate.bound:
                    assert not certificate.holds, (name, index, new)
                    moved += 1
                seen += 1
    assert moved > 0.4 * seen > 5


@pytest.mark.parametrize("case", ["hats", "strips", "rows", "leaky", "direct", "norm after"])
def test_a_weight_in_a_place_that_was_zero_counts_too(case):
    imprint = CASES[case]()
    rng = np.random.default_rng(4)
    moved = 0
    for name, value in imprint.subspace.origin.items():
        zeros = (value == 0).nonzero().tolist()
        for choice in rng.permutation(len(zeros))[:2]:
            tampered = perturbed(imprint, name, tuple(zeros[choice]), 0.3)
            certificate, worst = lf.certify(tampered), measured(tampered)
            assert worst <= certificate.bound or not certificate.holds, (name, zeros[choice])
            if worst > imprint.certificate.bound:
                assert not certificate.holds, (name, zeros[choice])
                moved += 1
    assert moved


@pytest.mark.parametrize("index", [(0, 0), (4, 3)])
def test_a_first_layer_that_reads_its_input_is_refused(index):
    certificate = lf.certify(perturbed(made(), "0.weight", index, 1e-30))
    assert not certificate.holds
    assert "not zero everywhere, so the output depends on the input" in certificate.failures[0]


@pytest.mark.parametrize("case", ["hats", "norm before", "leaky"])
def test_dead_weights_do_not_matter(case):
    imprint = CASES[case]()
    entries = list(dead_entries(imprint))
    assert len(entries) > 10
    for choice in np.random.default_rng(5).permutation(len(entries))[:12]:
        certificate = lf.certify(perturbed(imprint, *entries[choice], 7.5))
        assert certificate.holds
        assert certificate.bound == pytest.approx(imprint.certificate.bound, rel=1e-9)


@pytest.mark.parametrize("case", ["hats", "direct", "float32", "norm after"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_not_finite_are_refused_dead_or_alive(case, value):
    """0·inf is NaN, so even a weight that nothing reads spoils the loss."""
    imprint = CASES[case]()
    first = {}
    for name, index in [*live_entries(imprint), *dead_entries(imprint)]:
        first.setdefault((name, imprint.subspace.origin[name][index].item() == 0), index)
    assert len(first) > 8
    for (name, _), index in first.items():
        certificate = lf.certify(perturbed(imprint, name, index, value))
        assert not certificate.holds
        assert certificate.failures[0].startswith(f"'{name}' holds NaN or infinity")
        assert certificate.bound == math.inf
    for number in range(2):
        certificate = lf.certify(perturbed(imprint, "0.bias", (0,), value, direction=number))
        assert not certificate.holds
        assert "NaN or infinity" in certificate.failures[0]


def test_statistics_that_are_not_finite_are_refused():
    imprint = CASES["norm after"]()
    for name in ("2.running_mean", "2.running_var"):
        certificate = lf.certify(perturbed(imprint, name, (0,), math.nan))
        assert not certificate.holds
        assert name in certificate.failures[0]


@pytest.mark.parametrize("layer", ["2", "4", "6"])
def test_a_dead_unit_that_overflows_is_refused(layer):
    imprint = CASES["float32"]()
    unit = next(index for name, index in dead_entries(imprint) if name == f"{layer}.bias")
    tampered = imprint
    for column in range(2):
        tampered = perturbed(tampered, f"{layer}.weight", (*unit, column), 3e38)
    certificate = lf.certify(tampered)
    assert not certificate.holds
    assert "overflow" in certificate.failures[0]


@pytest.mark.parametrize("case", ["hats", "strips", "one axis", "leaky"])
def test_a_wrong_hint_about_the_response_layer_never_helps(case):
    imprint = CASES[case]()
    for hint in (None, -1, 0, 1, 2, 3, 4, 99):
        certificate = lf.certify(replace(imprint, spline_stage=hint))
        assert certificate.bound >= imprint.certificate.bound * (1 - 1e-12)
        assert certificate.holds == (hint == imprint.spline_stage)


def test_another_pattern_or_range_or_label_statistics_fail():
    imprint = made()
    values = PATTERN.values.clone()
    values[2, 1] += 1e-3 if values[2, 1] < 0.5 else -1e-3
    assert not lf.certify(replace(imprint, pattern=lf.Pattern(values))).holds
    assert not lf.certify(replace(imprint, pattern=lf.Pattern(PATTERN.values.T.contiguous()))).holds
    lo, hi = imprint.range
    for wrong in ((lo + 1e-3, hi), (lo, hi + 1e-3), (lo - 0.5, hi - 0.5)):
        assert not lf.certify(replace(imprint, range=wrong)).holds
    other = respond("cross_entropy", torch.tensor([0, 0, 0, 1, 1, 2]))
    assert not lf.certify(replace(imprint, responses=(other,))).holds
    assert not lf.certify(replace(imprint, responses=(respond("mse", torch.randn(9, 3, generator=GENERATOR)),))).holds
    same = respond("cross_entropy", torch.tensor([2, 1, 0]))
    assert lf.certify(replace(imprint, responses=(same,))).holds


def test_swapped_directions_fail_unless_the_pattern_is_symmetric():
    imprint = made()
    origin, directions = imprint.subspace.origin, imprint.subspace.directions
    assert not lf.certify(replace(imprint, subspace=lf.Subspace(origin, directions[::-1]))).holds
    symmetric = made(pattern=lf.Pattern((PATTERN.values + PATTERN.values.T) / 2))
    swapped = lf.Subspace(symmetric.subspace.origin, symmetric.subspace.directions[::-1])
    again = lf.certify(replace(symmetric, subspace=swapped))
    assert again.bound == pytest.approx(symmetric.certificate.bound, rel=1e-6)


def inconsistent(imprint):
    origin, directions = dict(imprint.subspace.origin), imprint.subspace.directions
    without = {name: value for name, value in origin.items() if name != "2.bias"}
    yield "one direction", replace(imprint, subspace=lf.Subspace(origin, directions[:1]))
    yield "four directions", replace(imprint, subspace=lf.Subspace(origin, directions * 2))
    yield "an empty direction", replace(imprint, subspace=lf.Subspace(origin, (directions[0], {})))
    yield "a missing parameter", replace(imprint, subspace=lf.Subspace(without, directions))
    yield "another shape", replace(imprint, subspace=lf.Subspace({**origin, "2.bias": torch.zeros(3)}, directions))
    half = {name: value.half() for name, value in origin.items()}
    halves = tuple({name: value.half() for name, value in d.items()} for d in directions)
    yield "half precision", replace(imprint, subspace=lf.Subspace(half, halves))
    yield "a pattern with three axes", replace(imprint, pattern=lf.Pattern(PATTERN.values[:, :, None].repeat(1, 1, 4)))
    yield "a pattern with one axis", replace(imprint, pattern=lf.Pattern(PATTERN.values[0].contiguous()))
    yield (
        "a direction elsewhere",
        replace(imprint, subspace=lf.Subspace(origin, (directions[0], {"2.bias": torch.ones_like(origin["2.bias"])}))),
    )
    yield "responses for two heads", replace(imprint, responses=imprint.responses * 2)


@pytest.mark.parametrize("number", range(10))
def test_what_does_not_fit_together_fails_without_a_crash(number):
    what, broken = list(inconsistent(made()))[number]
    certificate = lf.certify(broken)
    assert not certificate.holds, what
    assert certificate.failures, what


def test_failures_read_well():
    certificate = lf.certify(perturbed(made(), "0.weight", (0, 0), 1.0))
    assert str(certificate).startswith("not certified: '0.weight' is not zero everywhere")
    assert certificate.bound == math.inf
    assert not certificate.holds
