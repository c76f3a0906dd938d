"""Random networks from the covered families: they compile, stay inside their certificates, or say why they cannot."""

import numpy as np
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

import landform as lf
from landform.errors import CapacityError
from landform.testing.networks import Dense, Inverted, Padded, Squeezed, with_statistics

torch.set_num_threads(1)
X, Y = torch.randn(20, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(20) % 4
COMPILED: list[int] = []
PATTERN = lf.Pattern(torch.from_numpy(np.random.default_rng(3).random((4, 4))))


class Plain(nn.Module):
    """A convolution in any of its forms, with or without norm, and an activation."""

    def __init__(self, inputs, width, kernel, padding, dilation, norm, act):
        super().__init__()
        self.conv = nn.Conv2d(inputs, width, kernel, padding=padding, dilation=dilation, bias=norm != "batch")
        self.norm = {"batch": nn.BatchNorm2d, "group": group_norm, "none": lambda _: nn.Identity()}[norm](width)
        self.act = act

    def forward(self, x):
        return self.act(self.norm(self.conv(x)))


class Fire(nn.Module):
    """Two convolutions side by side, concatenated, behind a third (Iandola et al., 2016)."""

    def __init__(self, inputs, width):
        super().__init__()
        self.squeeze = nn.Conv2d(inputs, width, 1)
        self.one, self.three = nn.Conv2d(width, width, 1), nn.Conv2d(width, 2 * width, 3, padding=1)

    def forward(self, x):
        x = torch.relu(self.squeeze(x))
        return torch.cat([torch.relu(self.one(x)), torch.relu(self.three(x))], 1)


class Residual(nn.Module):
    """A residual block around any activation, the shortcut a map, an identity, or an identity with zeros around."""

    def __init__(self, inputs, width, act, first, shortcut, norm):
        super().__init__()
        self.first = nn.Sequential(nn.BatchNorm2d(inputs), act()) if first else nn.Identity()
        self.conv1, self.bn1 = nn.Conv2d(inputs, width, 3, padding=1, bias=False), norm(width)
        self.act, self.conv2, self.bn2 = act(), nn.Conv2d(width, width, 1, bias=False), norm(width)
        self.last = nn.Identity() if first else act()
        same = nn.Identity() if inputs == width else Padded(width - inputs, 1)
        self.down = nn.Conv2d(inputs, width, 1, bias=False) if shortcut else same

    def forward(self, x):
        return self.last(self.down(x) + self.bn2(self.conv2(self.act(self.bn1(self.conv1(self.first(x)))))))


def group_norm(width):
    """GroupNorm with as many groups of at least four channels as there can be."""
    return nn.GroupNorm(max(n for n in range(1, width // 4 + 1) if width % n == 0), width)


def prelu():
    act = nn.PReLU()
    act.weight.data.fill_(-0.3)
    return act


STYLES = {
    "capped": [nn.ReLU, nn.ReLU6],
    "slopes": [nn.ReLU, prelu],
    "leaky": [lambda: nn.LeakyReLU(0.1)],
    "saturating": [nn.ReLU, nn.ReLU, nn.Tanh],
    "smooth": [nn.GELU, nn.SiLU, nn.Hardswish, nn.ELU, nn.Mish, nn.ReLU],
}


@st.composite
def nets(draw):
    width = draw(st.integers(24, 40))
    style = draw(st.sampled_from(list(STYLES)))
    acts, norms = st.sampled_from(STYLES[style]), st.sampled_from(["batch", "group", "none"])
    layers = [nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), draw(acts)()]
    kinds = ["plain", "up", "pool", "residual", "first"]
    kinds += [] if style == "leaky" else ["inverted", "dense", "fire", "squeezed"]
    for _ in range(draw(st.integers(3, 7))):
        kind = draw(st.sampled_from(kinds))
        if kind == "plain":
            kernel, padding, dilation = draw(st.sampled_from([(1, 0, 1), (3, 1, 1), (3, 2, 2), (5, 2, 1)]))
            new = draw(st.integers(24, 48))
            layers.append(Plain(width, new, kernel, padding, dilation, draw(norms), draw(acts)()))
            width = new
        elif kind == "up":
            kernel, stride, padding, more = draw(st.sampled_from([(2, 2, 0, 0), (3, 1, 1, 0), (3, 2, 1, 1)]))
            layers += [nn.ConvTranspose2d(width, 32, kernel, stride, padding, more), draw(acts)(), nn.MaxPool2d(stride)]
            width = 32
        elif kind == "pool":
            layers.append(
                draw(st.sampled_from([nn.MaxPool2d(1), nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)]))
            )
        elif kind in ("residual", "first"):
            new = draw(st.sampled_from([width, max(width, 48)]))
            norm = draw(st.sampled_from([nn.BatchNorm2d, group_norm]))
            layers.append(Residual(width, new, draw(acts), kind == "first", draw(st.booleans()), norm))
            width = new
        elif kind == "inverted":
            layers.append(Inverted(width, 2) if style == "capped" else Squeezed(width, draw(acts)))
        elif kind == "squeezed":
            layers.append(Squeezed(width, draw(acts), inside=draw(st.booleans())))
        elif kind == "dense":
            layers.append(Dense(width, 24, bottleneck=draw(st.booleans())))
            width += 24
        else:
            layers.append(Fire(width, 24))
            width = 72
    tail = [nn.BatchNorm2d(width), draw(acts)(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 4)]
    return with_statistics(nn.Sequential(*layers, *tail), draw(st.integers(0, 99)))


@settings(max_examples=20, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(nets(), st.sampled_from([torch.float32, torch.float64]))
def test_a_random_network_compiles_and_stays_inside_its_certificate(net, dtype):
    net = net.to(dtype)
    try:
        imprint = lf.imprint(PATTERN, lf.Task(net, data=(X.to(dtype), Y)))
    except CapacityError:
        return  # too narrow: the message is tested elsewhere
    COMPILED.append(len(net))
    assert imprint.certificate.holds, imprint.certificate.failures
    generator = torch.Generator().manual_seed(0)
    for point in torch.cat([PATTERN.mesh.nodes()[::5], torch.rand(2, 2, dtype=torch.float64, generator=generator)]):
        h = point.to(dtype)
        with torch.no_grad():
            state = {**imprint.subspace.at(h), **dict(imprint.model.named_buffers())}
            outputs, others = (
                torch.func.functional_call(imprint.model, state, (x.to(dtype),)) for x in (X[:2], 9 * X[2:4])
            )
        assert torch.equal(outputs, others)
        loss = float(imprint.response.loss(outputs[:1].double())[0])
        assert abs(loss - float(imprint.target(h.double()[None])[0])) <= imprint.certificate.bound


def test_most_of_these_networks_hold_the_pattern():
    assert len(COMPILED) > 12
