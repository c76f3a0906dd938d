"""Errors for networks that are too narrow name the widening that makes room, and it does."""

import re

import pytest
import torch
from torch import nn

import landform as lf
from landform.errors import CapacityError
from landform.imprint.widening.enough import MOST, least
from landform.testing import networks
from landform.testing.transformers import NETWORKS

NETS = {
    "mlp": (
        lambda: nn.Sequential(*[m for _ in range(4) for m in (nn.Linear(20, 20), nn.ReLU())], nn.Linear(20, 10)),
        20,
    ),
    "vgg": (lambda: networks.vgg(8, 8, 16), (3, 8, 8)),
    "resnet": (lambda: networks.with_statistics(networks.ResNet(8, ((8, 1), (12, 2)), 2)), (3, 8, 8)),
    "mobile": (lambda: networks.mobile(8, 3), (3, 8, 8)),
    "densenet": (lambda: networks.densenet(4, (2, 2)), (3, 8, 8)),
}
PATTERN = lf.Pattern.from_formula("ackley", resolution=16)


@pytest.mark.parametrize("name", NETS)
def test_the_number_in_the_error_is_enough_and_one_less_is_not(name):
    build, shape = NETS[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = build().eval()
        x = torch.randn(20, *(shape if isinstance(shape, tuple) else (shape,)))
    labels = torch.arange(20) % 10

    def imprint(model: nn.Module) -> lf.Imprint:
        task = lf.Task(model, loss="cross_entropy", data=(x, labels))
        return lf.imprint(PATTERN, task, epsilon=1e-4, certify=False)

    with pytest.raises(CapacityError, match=r"lf\.widen\(model, \d+\) would make this network hold it") as caught:
        imprint(net)
    extra = int(re.search(r"lf\.widen\(model, (\d+)\)", str(caught.value))[1])
    imprint(lf.widen(net, extra, inputs=x[:2]).model)
    if extra > 1 and name != "mobile":  # grouped layers round up
        with pytest.raises(CapacityError, match=r"lf\.widen\(model, 1\)"):
            imprint(lf.widen(net, extra - 1, inputs=x[:2]).model)


@pytest.mark.parametrize(("resolution", "words"), [(90, r"lf\.widen\(model, (\d+), inputs=…\)"), (110, "repeat=2")])
def test_transformers(resolution, words):
    pytest.importorskip("transformers")
    net, data = NETWORKS["bert, classifier"]()
    pattern = lf.Pattern.from_formula("ackley", resolution=resolution)
    with pytest.raises(CapacityError, match=words) as caught:
        lf.imprint(pattern, lf.Task(net, loss="cross_entropy", data=data))
    found = re.search(r"lf\.widen\(model, (\d+), inputs=…(?:, repeat=(\d))?\)", str(caught.value))
    wide = lf.widen(net, int(found[1]), inputs=data[0][:2], repeat=int(found[2] or 1)).model
    lf.imprint(pattern, lf.Task(wide, loss="cross_entropy", data=data), certify=False)


def test_nothing_is_said_where_no_width_helps():
    net = nn.Sequential(nn.Linear(4, 20), nn.ReLU(), nn.Linear(20, 20), nn.ReLU(), nn.Linear(20, 3)).eval()
    task = lf.Task(net, loss="cross_entropy", data=(torch.zeros(6, 4), torch.arange(6) % 3))
    with pytest.raises(CapacityError, match="hidden layers are too few") as caught:
        lf.imprint(PATTERN, task, direct=False)
    assert "lf.widen" not in str(caught.value)


def test_the_least_number():
    assert [least(lambda n, want=want: n >= want) for want in (1, 2, 3, 100, MOST)] == [1, 2, 3, 100, MOST]
    assert least(lambda n: n >= 0, start=0) == 0
    assert least(lambda n: n > MOST) is None
