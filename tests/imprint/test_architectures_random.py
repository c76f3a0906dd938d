"""Random networks from the covered families: they compile, stay inside their certificates, or say why they cannot."""

import numpy as np
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

import landform as lf
from landform.errors import CapacityError
from landform.testing.networks import Basic, Dense, Inverted, Preact, with_statistics

torch.set_num_threads(1)
X, Y = torch.randn(20, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(20) % 4
COMPILED: list[int] = []
PATTERN = lf.Pattern(torch.from_numpy(np.random.default_rng(3).random((4, 4))))


class Plain(nn.Module):
    """A convolution in any of its forms, with or without norm, and an activation."""

    def __init__(self, inputs, width, kernel, padding, dilation, norm, act):
        super().__init__()
        self.conv = nn.Conv2d(inputs, width, kernel, padding=padding, dilation=dilation, bias=not norm)
        self.norm = nn.BatchNorm2d(width) if norm else nn.Identity()
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


@st.composite
def nets(draw):
    width = draw(st.integers(24, 40))
    layers = [nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    leaky = draw(st.booleans())
    for _ in range(draw(st.integers(3, 7))):
        kinds = (
            ["plain", "pool", "basic", "preact"] if leaky else ["plain", "pool", "basic", "inverted", "dense", "fire"]
        )
        kind = draw(st.sampled_from(kinds))
        if kind == "plain":
            kernel, padding, dilation = draw(st.sampled_from([(1, 0, 1), (3, 1, 1), (3, 2, 2), (5, 2, 1)]))
            new, act = (
                draw(st.integers(24, 48)),
                nn.LeakyReLU(0.1) if leaky else draw(st.sampled_from([nn.ReLU(), nn.ReLU6()])),
            )
            layers.append(Plain(width, new, kernel, padding, dilation, draw(st.booleans()), act))
            width = new
        elif kind == "pool":
            layers.append(
                draw(st.sampled_from([nn.MaxPool2d(1), nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)]))
            )
        elif kind == "basic":
            new = draw(st.sampled_from([width, 48]))
            layers.append(Basic(width, new, 1))
            width = new
        elif kind == "inverted":
            layers.append(Inverted(width, 2))
        elif kind == "preact":
            layers.append(Preact(width))
        elif kind == "dense":
            layers.append(Dense(width, 24, bottleneck=draw(st.booleans())))
            width += 24
        else:
            layers.append(Fire(width, 24))
            width = 72
    tail = [nn.BatchNorm2d(width), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 4)]
    return with_statistics(nn.Sequential(*layers, *tail), draw(st.integers(0, 99)))


@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
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
    assert len(COMPILED) > 15
