"""Norms over groups of channels: registers beside eps, means made zero, proved for any order of summation."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

import landform as lf
from landform.errors import ArchitectureError, CapacityError
from landform.imprint.collapsed import losses_at
from landform.imprint.lower.network import read
from landform.imprint.lower.stages import slots
from landform.program.capacity import capacity
from landform.testing.networks import ResNet, grouped, resnet18

torch.set_num_threads(1)
PATTERN = lf.Pattern(torch.from_numpy(np.random.default_rng(0).random((5, 5))))
X, Y = torch.randn(12, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(12) % 10


def convolutional(norm, act=nn.ReLU, *, bias=False):
    layers, channels = [], 3
    for width in (32, 32, 48, 64):
        layers += [nn.Conv2d(channels, width, 3, padding=1, bias=bias), norm(width), act()]
        channels = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)).eval()


def perceptron():
    layers, width = [nn.Flatten()], 3 * 64
    for _ in range(4):
        layers += [nn.Linear(width, 64), nn.LayerNorm(64), nn.ReLU()]
        width = 64
    return nn.Sequential(*layers, nn.Linear(64, 10))


def error_of(made, points=40):
    """Return the largest difference from the pattern, as a part of the range."""
    generator = torch.Generator().manual_seed(1)
    h = torch.cat([made.pattern.mesh.nodes(), torch.rand(points, made.z, dtype=torch.float64, generator=generator)])
    difference = (losses_at(made, h)[:, 0] - made.target(h).reshape(-1)).abs().max()
    return float(difference) / (made.range[1] - made.range[0])


NETS = {
    "two channels a group": lambda: convolutional(lambda width: nn.GroupNorm(width // 2, width)),
    "eight groups, biases": lambda: convolutional(lambda width: nn.GroupNorm(8, width), bias=True),
    "one group, GELU": lambda: convolutional(lambda width: nn.GroupNorm(1, width), nn.GELU),
    "leaky": lambda: convolutional(lambda width: nn.GroupNorm(4, width), lambda: nn.LeakyReLU(0.1)),
    "residual": lambda: grouped(ResNet(stem=32, widths=((32, 1), (48, 2), (64, 2)), blocks=2), 8),
    "layer norm": perceptron,
    "layer norm over samples": lambda: convolutional(lambda width: nn.LayerNorm([width, 8, 8])),
    "instance norm with statistics": lambda: convolutional(
        lambda width: nn.InstanceNorm2d(width, affine=True, track_running_stats=True)
    ),
}


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_certified_and_inside_the_certificate(name, dtype):
    torch.manual_seed(0)
    made = lf.imprint(PATTERN, lf.Task(NETS[name]().to(dtype), data=(X.to(dtype), Y)))
    assert made.certificate.kind == "certified"
    assert made.certificate.holds, made.certificate.failures
    assert made.certificate.relative_bound < (5e-4 if dtype == torch.float64 else 0.1)
    assert error_of(made) < min(5e-4, made.certificate.relative_bound)
    state = {**made.subspace.at(torch.tensor([0.3, 0.8], dtype=dtype)), **dict(made.model.named_buffers())}
    one, two = (torch.func.functional_call(made.model, state, (x.to(dtype),)) for x in (X[:4], 100 * X[4:8]))
    assert torch.equal(one, two)


class Sequentially(nn.GroupNorm):
    """GroupNorm that adds up one number after the other, the worst of all orders."""

    def forward(self, x):
        parts = x.reshape(len(x), self.num_groups, -1)
        mean = parts.cumsum(-1)[..., -1:] / parts.shape[-1]
        variance = ((parts - mean) ** 2).cumsum(-1)[..., -1:] / parts.shape[-1]
        out = ((parts - mean) / (variance + self.eps).sqrt()).reshape(x.shape)
        return out * self.weight[:, None, None] + self.bias[:, None, None]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_bound_holds_whatever_the_order_of_summation(layout):
    torch.manual_seed(0)
    made = lf.imprint(PATTERN, lf.Task(NETS["residual"](), data=(X, Y)))
    slow = copy.deepcopy(made.model)
    for module in slow.modules():
        if isinstance(module, nn.GroupNorm):
            module.__class__ = Sequentially
    for model in (made.model, slow):
        for point in PATTERN.mesh.nodes()[::4]:
            with torch.no_grad():
                out = torch.func.functional_call(model, made.subspace.at(point.float()), X[:2].to(memory_format=layout))
            loss = float(made.response.loss(out[:1].double())[0])
            assert abs(loss - float(made.target(point[None]).reshape(-1)[0])) <= made.certificate.bound


class Pushed(nn.GroupNorm):
    """GroupNorm whose means are off by as much as the worst order of summation can make them, to either side."""

    sign = 0

    def forward(self, x):
        parts = x.double().reshape(len(x), self.num_groups, -1)
        side = torch.full((self.num_groups,), float(self.sign))
        if not self.sign:
            side = 1 - 2.0 * torch.randint(0, 2, (self.num_groups,), generator=torch.Generator().manual_seed(0))
        mean = parts.mean(-1) + side * 2.0**-24 * parts.shape[-1] / 2 * parts.abs().mean(-1)
        variance = ((parts - mean[..., None]) ** 2).mean(-1)
        factor = self.weight * (1 / (variance + self.eps).sqrt()).repeat_interleave(x.shape[1] // self.num_groups)
        constant = self.bias - factor * mean[0].repeat_interleave(x.shape[1] // self.num_groups)
        factor, constant = (part.float().reshape(-1, 1, 1) for part in (factor, constant))
        return x * factor + constant


@pytest.mark.parametrize("name", ["residual", "eight groups, biases"])
def test_the_bound_holds_for_the_worst_means(name):
    torch.manual_seed(0)
    made = lf.imprint(PATTERN, lf.Task(NETS[name](), data=(X, Y)))
    pushed = copy.deepcopy(made.model)
    norms = [module for module in pushed.modules() if isinstance(module, nn.GroupNorm)]
    for module in norms:
        module.__class__ = Pushed
    moved = 0.0
    for point in PATTERN.mesh.nodes()[::3]:
        with torch.no_grad():
            plain = torch.func.functional_call(made.model, made.subspace.at(point.float()), X[:1])
            for sign in (-1, 0, 1):
                for module in norms:
                    module.sign = sign
                out = torch.func.functional_call(pushed, made.subspace.at(point.float()), X[:1])
                loss, before = (float(made.response.loss(o.double())[0]) for o in (out, plain))
                moved = max(moved, abs(loss - before))
                assert abs(loss - float(made.target(point[None]).reshape(-1)[0])) <= made.certificate.bound
    assert 0.01 * made.certificate.rounding < moved <= 2 * made.certificate.rounding


def test_in_a_resnet_18_the_bound_is_near_what_is_measured():
    torch.manual_seed(0)
    net = grouped(resnet18(), 32)
    pattern = lf.Pattern(torch.from_numpy(np.random.default_rng(0).random((13, 13))))
    made = lf.imprint(pattern, lf.Task(net, data=(torch.randn(12, 3, 32, 32), Y)))
    assert made.certificate.relative_bound < 6e-4


def test_twins_that_differ_are_seen():
    torch.manual_seed(0)
    made = lf.imprint(PATTERN, lf.Task(NETS["residual"](), data=(X, Y)))
    gains, rows = (made.subspace.origin[f"blocks.2.down.{n}.weight"] for n in (1, 0))
    first = int(gains.nonzero()[0])
    assert torch.equal(rows[first], -rows[first + 1])  # x + s, and T + s − x
    gains[first + 1] *= 1 + 2.0**-8
    again = lf.certify(made)
    assert again.bound > 2 * made.certificate.bound
    assert error_of(made) * (made.range[1] - made.range[0]) <= again.bound


def test_an_unbalanced_group_is_seen():
    torch.manual_seed(0)
    made = lf.imprint(PATTERN, lf.Task(NETS["eight groups, biases"](), data=(X, Y)))
    key = "3.weight"
    rows = made.subspace.origin[key][:, :, 1, 1]
    assert torch.allclose(rows.double().reshape(8, 4, -1).sum(1), torch.zeros(8, 32, dtype=torch.float64), atol=1e-20)
    free = int((made.subspace.origin["4.weight"] == 0).logical_and((rows != 0).any(1)).nonzero()[0])
    made.subspace.origin[key][free] *= 0.5
    again = lf.certify(made)
    assert again.bound > 10 * made.certificate.bound
    assert error_of(made) * (made.range[1] - made.range[0]) <= again.bound


def test_a_layer_norm_that_differs_between_positions_is_not_proved():
    torch.manual_seed(0)
    made = lf.imprint(PATTERN, lf.Task(NETS["layer norm over samples"](), data=(X, Y)))
    assert made.subspace.moved == ("1.bias",)
    made.subspace.origin["4.weight"][0, 3, 3] *= 1.001
    assert "'4.weight' differs between positions" in lf.certify(made).failures[0]


def test_a_spread_that_is_not_small_beside_eps_is_not_proved():
    torch.manual_seed(0)
    made = lf.imprint(PATTERN, lf.Task(NETS["eight groups, biases"](), data=(X, Y)))
    made.subspace.origin["3.weight"] *= 2.0**60
    assert "the spread of what '4' normalises" in lf.certify(made).failures[0]


def test_one_channel_of_each_group_is_given_up():
    found = read(convolutional(lambda width: nn.GroupNorm(8, width)), (3, 8, 8))
    assert found.widths == (32, 24, 40, 56)
    assert sorted(slots(32, 4)) == [n for n in range(32) if n % 4 != 3]
    assert capacity(found.rooms, per_hinge=1, check=found.checker(NETS["eight groups, biases"]())).best.cells >= 4


def test_where_the_coordinates_enter_is_said():
    torch.manual_seed(0)
    made = lf.imprint(PATTERN, lf.Task(NETS["eight groups, biases"](), data=(X, Y)))
    assert made.subspace.moved == ("1.bias",)
    assert any("the mean of its biases" in note for note in made.meta["notes"])


class Preact(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.conv = nn.GroupNorm(4, 16), nn.Conv2d(16, 16, 3, padding=1)

    def forward(self, x):
        return x + self.conv(torch.relu(self.norm(x)))


@pytest.mark.parametrize(
    ("middle", "message"),
    [
        (lambda: [nn.InstanceNorm2d(16)], r"'1' is a InstanceNorm2d.*own mean"),
        (lambda: [nn.GroupNorm(16, 16)], r"'1' takes from every channel its own mean"),
        (lambda: [nn.GroupNorm(4, 16, eps=0.0)], r"'1' has eps = 0"),
        (lambda: [nn.MaxPool2d(2), nn.GroupNorm(4, 16)], r"'2' takes the mean of channels together"),
        (lambda: [nn.ReLU(), Preact()], r"'2.norm' takes the mean of channels together"),
        (lambda: [nn.LayerNorm([8, 8])], r"'1' is a LayerNorm over \(8, 8\)"),
        (lambda: [nn.LayerNorm([8])], r"'1' is a LayerNorm over \(8,\)"),
    ],
)
def test_what_does_not_fit_is_named(middle, message):
    net = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), *middle(), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10)
    )
    with pytest.raises(ArchitectureError, match=message):
        read(net.eval(), (3, 8, 8))


@pytest.mark.parametrize(
    ("norm", "message"),
    [
        (nn.GroupNorm(4, 32, affine=False), r"'4' has no γ and β"),
        (nn.GroupNorm(4, 32).half(), r"'4.weight' has dtype torch.float16"),
    ],
)
def test_norms_that_cannot_be_written(norm, message):
    net = convolutional(lambda width: nn.GroupNorm(4, width))
    net[4] = norm
    with pytest.raises(ArchitectureError, match=message):
        read(net, (3, 8, 8)).check(net)


class Inverted(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(32, 64, 1), nn.GroupNorm(4, 64), nn.ReLU(), nn.Conv2d(64, 64, 3, padding=1, groups=64),
            nn.GroupNorm(4, 64), nn.ReLU(), nn.Conv2d(64, 32, 1),
        )  # fmt: skip

    def forward(self, x):
        return x + self.body(x)


def test_grouped_convolutions_do_not_balance_a_mean():
    blocks = [Inverted() for _ in range(4)]
    tail = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10)]
    net = nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), *blocks, *tail)
    with pytest.raises(CapacityError, match="grouped, so that it cannot make the mean 0"):
        lf.imprint(PATTERN, lf.Task(net.eval(), data=(X, Y)))
