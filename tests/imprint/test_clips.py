"""Networks whose only activations clip at both ends: certified, inside the certificate, and seen when changed."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import landform as lf
from landform.errors import ArchitectureError
from landform.imprint.lower.network import read
from landform.program.capacity import capacity
from landform.testing import networks

torch.set_num_threads(1)
PATTERN = lf.Pattern(torch.from_numpy(np.random.default_rng(0).random((5, 5))))
CLIPS = {
    "hardtanh": nn.Hardtanh,
    "hardtanh, from zero": lambda: nn.Hardtanh(0.0, 0.75),
    "hardtanh, elsewhere": lambda: nn.Hardtanh(-0.3, 1.7),
    "hardtanh, above zero": lambda: nn.Hardtanh(0.25, 1.5),
    "hardsigmoid": nn.Hardsigmoid,
}


def perceptron(act, width=48, depth=5):
    layers = [nn.Flatten(), nn.Linear(64, width), act()]
    for _ in range(depth):
        layers += [nn.Linear(width, width), act()]
    return nn.Sequential(*layers, nn.Linear(width, 10)).eval()


def le_net(act, norm=lambda channels: nn.Identity()):
    """LeNet as of 1998 but for its last layer, a third of its resolution and twice its channels."""
    return networks.with_statistics(
        nn.Sequential(
            *(nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 12, 3, padding=1), norm(12), act(), nn.AvgPool2d(2)),
            *(nn.Conv2d(12, 32, 3, padding=1), norm(32), act(), nn.AvgPool2d(2), nn.Flatten()),
            *(nn.Linear(128, 120), act(), nn.Linear(120, 84), act(), nn.Linear(84, 10)),
        )
    )


def checked(net, *, relative, dtype, pattern=PATTERN):
    made = lf.imprint(pattern, lf.Task(net.to(dtype), loss="cross_entropy", data="digits"))
    proof = made.certificate
    assert proof.kind == "certified"
    assert proof.holds, proof.failures
    assert proof.relative_bound < relative
    measured = lf.scan(made, grid=4 * pattern.resolution[0] + 1)
    assert float(abs(measured.difference).max()) <= proof.bound
    return made


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("make", [perceptron, le_net])
@pytest.mark.parametrize("act", CLIPS.values(), ids=CLIPS)
def test_a_clip_is_a_hinge_below_its_cap(act, make, dtype):
    made = checked(make(act), relative=3e-3 if dtype == torch.float32 else 1.1e-4, dtype=dtype)
    inputs = torch.randn(4, 64, dtype=dtype)
    state = {**made.subspace.at(torch.tensor([0.3, 0.8], dtype=dtype)), **dict(made.model.named_buffers())}
    one, two = (torch.func.functional_call(made.model, state, (x,)) for x in (inputs, 100 * inputs))
    assert torch.equal(one, two)


@pytest.mark.parametrize("act", [nn.Hardtanh, nn.Hardsigmoid])
def test_clips_behind_norms(act):
    checked(le_net(act, nn.BatchNorm2d), relative=4e-3, dtype=torch.float32)


def test_the_functions_are_the_modules():
    class Functions(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList([nn.Linear(64, 48), *(nn.Linear(48, 48) for _ in range(4))])
            self.head = nn.Linear(48, 10)

        def forward(self, x):
            for number, layer in enumerate(self.layers):
                x = functional.hardtanh(layer(x)) if number % 2 else functional.hardsigmoid(layer(x)).flatten(1)
            return self.head(x)

    checked(Functions().eval(), relative=1.1e-4, dtype=torch.float64)


def test_tanh_carries_what_clips_compute():
    net = perceptron(nn.Hardtanh)
    net[4] = nn.Tanh()
    checked(net, relative=1.1e-4, dtype=torch.float64)


def test_a_clip_holds_as_much_as_a_relu():
    held = [
        capacity(found.rooms, per_hinge=found.per_hinge).best
        for found in map(read, map(perceptron, (nn.Hardtanh, nn.ReLU6)))
    ]
    assert held[0] == held[1]


@pytest.mark.parametrize("act", [nn.Hardtanh, nn.Hardsigmoid])
def test_saved_and_proved_again(act, tmp_path):
    made = lf.imprint(PATTERN, lf.Task(perceptron(act), loss="cross_entropy", data="digits"))
    again = lf.load(made.save(tmp_path / "clip.landform"), model=perceptron(act))
    assert lf.certify(again).bound == made.certificate.bound


@pytest.mark.parametrize("changed", [{"min_val": -0.5}, {"max_val": -0.25}])
def test_another_clip_is_seen_by_the_proof(changed):
    made = lf.imprint(PATTERN, lf.Task(perceptron(nn.Hardtanh), loss="cross_entropy", data="digits"))
    for key, value in changed.items():
        setattr(made.model[4], key, value)
    again = lf.certify(made)
    assert not again.holds or again.bound > 100 * made.certificate.bound
    assert not math.isnan(again.bound)


class Residual(nn.Module):
    def __init__(self, act):
        super().__init__()
        self.one, self.act, self.two, self.head = nn.Linear(64, 32), act, nn.Linear(32, 32), nn.Linear(32, 10)

    def forward(self, x):
        x = self.act(self.one(x))
        return self.head(x + self.act(self.two(x)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: Residual(nn.Hardtanh()),
            r"'act' begins to grow at -1 with the value -1, and 'add' is not part of a ch",
        ),
        (
            lambda: nn.Sequential(nn.Linear(64, 9), nn.Hardtanh(), nn.Linear(9, 9), nn.GELU(), nn.Linear(9, 3)),
            r"'3' is a hinge only for",
        ),
        (lambda: nn.Sequential(nn.Linear(64, 9), nn.Hardtanh(), nn.ReLU(), nn.Linear(9, 3)), r"follows '1' without"),
        (
            lambda: nn.Sequential(nn.Linear(64, 8), nn.GroupNorm(2, 8), nn.Hardtanh(), nn.Linear(8, 3)),
            r"'2' begins to grow at -1, and '1' would take the mean",
        ),
        (
            lambda: nn.Sequential(
                nn.Conv2d(1, 8, 3),
                nn.ReLU(),
                nn.Conv2d(8, 8, 3, groups=8),
                nn.Hardtanh(),
                nn.Flatten(),
                nn.Linear(8, 3),
            ),
            r"'2' has 8 groups and is clipped",
        ),
    ],
)
def test_what_does_not_fit_is_named(make, message):
    with pytest.raises(ArchitectureError, match=message):
        read(make())


def test_theorem_2_is_not_built_for_clips():
    with pytest.raises(ArchitectureError, match="Theorem 2 is built for ReLU and its kin"):
        read(perceptron(nn.Hardtanh)).require_theorem_2()
