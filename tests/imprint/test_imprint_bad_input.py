"""Bad input: a clear error that says what was got and what to do; the cases that are fine stay fine."""

import math

import numpy as np
import pytest
import torch
from torch import nn

import landform as lf
from landform.errors import (
    ArchitectureError,
    CapacityError,
    DataError,
    FloorError,
    InputError,
    LandformError,
    UnknownNameError,
)
from landform.imprint.build import build_network
from landform.imprint.collapsed import losses_at, outputs_at

torch.set_num_threads(1)
GENERATOR = torch.Generator().manual_seed(0)
X, Y = torch.randn(30, 4, generator=GENERATOR), torch.arange(30) % 3
PATTERN = lf.Pattern(torch.from_numpy(np.random.default_rng(0).random((5, 5))))
WIDTHS = (6, 60, 60, 60)


def mlp(widths=WIDTHS, act=nn.ReLU, inputs=4):
    layers, size = [], inputs
    for width in widths:
        layers += [nn.Linear(size, width), act()]
        size = width
    return nn.Sequential(*layers, nn.Linear(size, 3)).eval()


def made(model=None, *, data=(X, Y), pattern=PATTERN, loss="cross_entropy", **options):
    return lf.imprint(pattern, lf.Task(mlp() if model is None else model, loss, data), **options)


def test_the_good_case_is_good():
    assert made().certificate.holds


def changed(change, **options):
    model = mlp(**options)
    found = change(model)
    return model if found is None else found


def tie(model):
    model[4].weight = model[6].weight


def tie_biases(model):
    model[4].bias = model[6].bias


def without_bias(place):
    def change(model):
        old = model[place]
        model[place] = nn.Linear(old.in_features, old.out_features, bias=False)

    return change


def with_norm(**options):
    return lambda model: nn.Sequential(model[0], nn.BatchNorm1d(6, **options), *model[1:]).eval()


def shared(_model):
    layer = nn.Linear(60, 60)
    return nn.Sequential(nn.Linear(4, 60), nn.ReLU(), layer, nn.ReLU(), layer, nn.ReLU(), nn.Linear(60, 3)).eval()


PARAMETERS = [
    (tie, r"parameter '6\.weight' is tied to '4\.weight'; untie"),
    (tie_biases, r"parameter '6\.bias' is tied to '4\.bias'"),
    (
        lambda m: m[4].requires_grad_(False) and None,
        r"'4\.weight' is frozen \(requires_grad=False\); call model\.requires_grad_",
    ),
    (lambda m: m.half(), r"'0\.weight' has dtype torch\.float16; .* call model\.float\(\) or model\.double\(\)"),
    (lambda m: m.bfloat16(), r"'0\.weight' has dtype torch\.bfloat16"),
    (lambda m: m.to("meta"), r"'0\.weight' is on the meta device; load the model's weights"),
    (lambda m: m[4].double() and None, r"mixes dtypes .*float32.*float64"),
    (without_bias(0), r"layer '0' has no bias that the pattern is injected into; use nn\.Linear"),
    (without_bias(2), r"layer '2' has no bias; use nn\.Linear"),
    (without_bias(8), r"layer '8' has no bias; use nn\.Linear"),
    (lambda m: nn.Sequential(*m[:2], nn.Dropout(), *m[2:]).train(), r"module '2' is in train mode.*model\.eval\(\)"),
    (lambda m: with_norm()(m).train(), r"module '1' is in train mode"),
    (with_norm(affine=False), r"'1' has affine=False"),
    (with_norm(track_running_stats=False), r"'1' has no running statistics"),
    (shared, r"module '2' is used twice"),
    (
        lambda m: nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 6)), *m[1:]).eval(),
        r"layer '0' is parametrised",
    ),
]


@pytest.mark.parametrize(("change", "message"), PARAMETERS)
def test_parameters_that_cannot_be_written(change, message):
    with pytest.raises(ArchitectureError, match=message):
        made(changed(change))


class Skip(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 60), nn.Linear(60, 60), nn.Linear(60, 3)

    def forward(self, x):
        x = torch.relu(self.a(x))
        return self.c(x + torch.relu(self.b(x)))


class Doubled(Skip):
    def forward(self, x):
        return 2 * self.c(torch.relu(self.b(torch.relu(self.a(x)))))


class Branching(Skip):
    def forward(self, x):
        return self.c(torch.relu(self.b(torch.relu(self.a(x))))) if x.sum() > 0 else self.c(torch.relu(self.a(x)))


MODULES = [
    (lambda: mlp(act=nn.Hardshrink), r"module '1' is a Hardshrink, which is not covered; .*Linear, Conv1d"),
    (lambda: mlp(act=nn.Softsign), r"'1' approaches its ends too slowly.*some layers must compute"),
    (lambda: mlp(act=lambda: nn.LeakyReLU(-0.1)), r"'1' has negative slope -0\.1"),
    (lambda: mlp(act=lambda: nn.LeakyReLU(1.0)), r"'1' has negative slope 1\.0"),
    (
        lambda: nn.Sequential(nn.LocalResponseNorm(2), nn.ReLU(), nn.Linear(4, 3)),
        r"module '0' is a LocalResponseNorm",
    ),
    (lambda: nn.Sequential(*mlp(), nn.Softmax(dim=1)), r"'8' goes through a softmax.*loss='log_loss'"),
    (lambda: nn.Sequential(nn.Linear(64, 8), nn.Softmax(dim=1), nn.Linear(8, 3)), r"'2' reads what '1', a softmax,"),
    (lambda: nn.Sequential(nn.BatchNorm1d(4), *mlp()).eval(), r"normalises the input before the first Linear"),
    (lambda: nn.Sequential(nn.Linear(4, 3)), r"no hidden layer"),
    (Doubled, r"operation 'mul' is not covered"),
    (Branching, r"cannot be traced"),
]


@pytest.mark.parametrize(("build", "message"), MODULES)
def test_networks_that_are_not_covered_are_named(build, message):
    with pytest.raises(ArchitectureError, match=message):
        made(build().eval())


def test_networks_that_only_look_unusual_are_fine():
    relu = nn.ReLU()
    shared_activation = nn.Sequential(
        nn.Linear(4, 6),
        relu,
        nn.Linear(6, 60),
        relu,
        nn.Linear(60, 60),
        relu,
        nn.Linear(60, 60),
        relu,
        nn.Linear(60, 3),
    )
    assert made(shared_activation.eval()).certificate.holds
    assert made(nn.Sequential(nn.Sequential(*mlp()[:4]), nn.Dropout(), *mlp()[4:]).eval()).certificate.holds

    class Wrapped(nn.Module):  # as torch.compile wraps one, without its ten seconds of imports
        def __init__(self, model):
            super().__init__()
            self._orig_mod = model

        def forward(self, x):
            return self._orig_mod(x)

    assert made(Wrapped(mlp()).eval()).certificate.holds


CAPACITY = [
    ((6,), "1 hidden layers are too few"),
    ((6, 60), "2 hidden layers are too few"),
    ((1, 60, 60, 60), "z = 2 is injected into 2 first-layer biases, but the first layer has 1 units"),
    ((6, 9, 9, 9), r"needs \d+ units in hidden layer 2, which has 9"),
]


@pytest.mark.parametrize(("widths", "message"), CAPACITY)
def test_networks_that_are_too_small(widths, message):
    with pytest.raises(CapacityError, match=message):
        made(mlp(widths))


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ((3, 2), r"lo < hi, got \(3\.0, 2\.0\)"),
        ((2, 2), r"lo < hi, got \(2\.0, 2\.0\)"),
        ((math.nan, 3), r"two finite numbers"),
        ((1, math.inf), r"two finite numbers"),
        ("widest", r"range must be 'auto' or two numbers \(lo, hi\), got 'widest'"),
        ((1,), r"two numbers"),
        ((1, 2, 3), r"two numbers"),
        (None, r"two numbers"),
        (("a", "b"), r"two numbers"),
        ((1.2, 1e20), r"lower the range's upper end"),
    ],
)
def test_ranges(wanted, message):
    with pytest.raises(InputError, match=message):
        made(range=wanted)


def test_a_range_below_the_floor_names_the_floor():
    with pytest.raises(FloorError, match=r"floor 0\.1 is below the label entropy 1\.099 nat"):
        made(range=(0.1, 1.0))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"epsilon": 0.0}, InputError, "epsilon"),
        ({"epsilon": -1.0}, InputError, "epsilon .*got -1"),
        ({"epsilon": math.nan}, InputError, "epsilon"),
        ({"epsilon": 1e-12}, CapacityError, "epsilon=1e-12"),
        ({"tolerance": -1.0, "form": "hats"}, InputError, "tolerance"),
        ({"tolerance": math.nan, "form": "hats"}, InputError, "tolerance"),
        ({"form": "hat"}, InputError, "form='hat'"),
        ({"schedule": "later"}, InputError, "schedule='later'"),
        ({"method": "constnat"}, UnknownNameError, "did you mean 'constant'"),
        ({"pattern": 3}, InputError, "pattern must be a Pattern"),
        ({"pattern": np.zeros((5, 5))}, InputError, "pattern must be a Pattern"),
        ({"direct": True, "pattern": lf.SumPattern.from_formula("sphere", z=3)}, InputError, "direct form needs nodal"),
    ],
)
def test_options(options, error, message):
    with pytest.raises(error, match=message):
        made(**options)


def labels(*counts):
    return torch.cat([torch.full((count,), number) for number, count in enumerate(counts)])


DATA = [
    ((X, torch.arange(30) % 5), r"label 3 .*out of range.*allowed are 0\.\.2"),
    ((X, torch.arange(30) % 3 - 1), r"negative labels"),
    ((X * math.nan, Y), r"NaN"),
    ((X[:0], Y[:0]), r"no samples"),
    ((X, Y[:7]), r"30.*7"),
    (None, r"needs the labels of a data set"),
]


@pytest.mark.parametrize(("data", "message"), DATA)
def test_data(data, message):
    with pytest.raises(DataError, match=message):
        made(data=data)


def test_targets_of_another_size_than_the_network():
    with pytest.raises(DataError, match="5 numbers per sample for a network with 3 outputs"):
        made(data=(X, torch.randn(30, 5)), loss="mse")


@pytest.mark.parametrize(
    ("model", "inputs"),
    [(mlp(inputs=10), X), (mlp(inputs=10), X.reshape(30, 2, 2)), (mlp(), X.reshape(30, 2, 2))],
    ids=["other size", "other size, pictures", "pictures without Flatten"],
)
def test_a_model_that_cannot_take_the_data(model, inputs):
    with pytest.raises(LandformError, match=r"features|shape"):
        made(model, data=(inputs, Y))


def test_pictures_with_flatten_are_fine():
    assert made(nn.Sequential(nn.Flatten(), *mlp()).eval(), data=(X.reshape(30, 2, 2), Y)).certificate.holds


def test_a_model_without_data():
    with pytest.raises(InputError, match="model without data; wrap it"):
        lf.imprint(PATTERN, mlp())
    with pytest.raises(DataError, match="needs the labels"):
        lf.imprint(PATTERN, lf.Task(mlp()))
    with pytest.raises(InputError, match=r"needs a torch\.nn\.Module"):
        made(lambda x: x)


@pytest.mark.parametrize("targets", [labels(30), labels(0, 30), labels(10, 20), labels(10, 0, 20), labels(29, 1)])
def test_one_class_and_absent_classes_are_served(targets):
    certificate = made(data=(X, targets)).certificate
    assert certificate.holds
    assert certificate.kind == "certified"


def test_channels_need_as_many_heads():
    colour = lf.Pattern(torch.rand(3, 3, 2, dtype=torch.float64, generator=GENERATOR), channels=2)
    with pytest.raises(InputError, match="2 channels and the network 1 heads"):
        made(pattern=colour)


def test_points_outside_the_box():
    imprint = made()
    for point in ([1.5, 0.0], [-1e-9, 0.5], [math.nan, 0.5]):
        with pytest.raises(InputError, match=r"points must lie in \[0, 1\]\^2"):
            imprint.target(torch.tensor([point], dtype=torch.float64))
    with pytest.raises(InputError, match="2 finite coordinates"):
        imprint.subspace.at(torch.zeros(3))
    with pytest.raises(InputError, match="shape"):
        outputs_at(imprint, torch.zeros(4, 3, dtype=torch.float64))
    assert losses_at(imprint, torch.zeros(0, 2, dtype=torch.float64)).shape == (0, 1)


def test_a_network_that_would_be_too_large_is_refused_before_it_is_made():
    with pytest.raises(InputError, match=r"more than the limit of 1,073,741,824"):
        build_network([1 << 16, 1 << 16], (4,), [3])
