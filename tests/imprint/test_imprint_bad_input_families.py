"""Bad input for every family of networks: a clear error, and the network as it was, bit for bit."""

import copy
import warnings

import numpy as np
import pytest
import torch
from torch import nn

import landform as lf
from landform.errors import LandformError
from landform.testing import networks
from landform.testing.transformers import NETWORKS

PATTERN = lf.Pattern(torch.from_numpy(np.random.default_rng(0).random((5, 5))), name="rough")


def images():
    return torch.randn(20, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(20) % 10


def mlp() -> nn.Module:
    layers = [m for size in (192, 60, 60, 60) for m in (nn.Linear(size, 60), nn.ReLU())]
    return nn.Sequential(nn.Flatten(), *layers, nn.Linear(60, 10)).eval()


CONVOLUTIONAL = {
    "vgg": lambda: networks.vgg(16, 32, 60),
    "resnet": lambda: networks.with_statistics(networks.ResNet(16, ((16, 1), (32, 2)), 2)),
    "preact": lambda: networks.preact(16, 2),
    "mobile": lambda: networks.mobile(16, 2),
    "squeezed": lambda: networks.squeezed(16, 2),
    "densenet": lambda: networks.densenet(8, (2, 2)),
    "upsampling": lambda: networks.upsampling(16),
}


def normed() -> nn.Module:
    layers = [m for size in (192, 60, 60, 60) for m in (nn.Linear(size, 60), nn.LayerNorm(60), nn.ReLU())]
    return nn.Sequential(nn.Flatten(), *layers, nn.Linear(60, 10)).eval()


WITHOUT_STATISTICS = {
    "mlp": mlp,
    "mlp, layer norm": normed,
    "resnet, group norm": lambda: networks.grouped(networks.ResNet(16, ((16, 1), (32, 2)), 2), 4),
}
TRANSFORMERS = ("gpt2", "llama, tied", "vit", "convnext", "encoder", "bert, masked")
FAMILIES = (*WITHOUT_STATISTICS, *CONVOLUTIONAL, *TRANSFORMERS)


def built(family):
    if family in TRANSFORMERS:
        if family != "encoder":
            pytest.importorskip("transformers")
        return NETWORKS[family]()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return ({**WITHOUT_STATISTICS, **CONVOLUTIONAL}[family]()), images()


class Wrapped(nn.Module):
    """Logits of a network, as a tensor."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def logits(self, x):
        out = self.inner(x)
        return out.logits if hasattr(self.inner, "config") else out


class Branching(Wrapped):
    """Control flow that depends on the data."""

    def forward(self, x):
        out = self.logits(x)
        return out if x.sum() > 0 else 2 * out


class Changing(Wrapped):
    """As many outputs as the data say."""

    def forward(self, x):
        return self.logits(x)[..., : 1 + int(x.abs().sum()) % 3]


class Twice(Wrapped):
    """All modules shared by two paths."""

    def forward(self, x):
        return self.logits(x) + self.logits(x)


class Several(Wrapped):
    """A head and something else."""

    def forward(self, x):
        out = self.logits(x)
        return out, out.flatten(1)


def some_map(net):
    """Return a map in the middle of a network."""
    maps = [m for m in net.modules() if isinstance(m, (nn.Linear, nn.Conv2d)) or type(m).__name__ == "Conv1D"]
    return maps[1]


def weight_norm(net):
    nn.utils.parametrizations.weight_norm(some_map(net))


def spectral_norm(net):
    nn.utils.parametrizations.spectral_norm(some_map(net))


def old_weight_norm(net):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        nn.utils.weight_norm(some_map(net))


def quantised(net):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.ao.quantization.quantize_dynamic(net, {nn.Linear}, dtype=torch.qint8)


def without_statistics(net):
    for module in net.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            module.running_mean = module.running_var = None
            module.track_running_stats = False


def without_variance(net):
    next(m for m in net.modules() if isinstance(m, nn.BatchNorm2d)).running_var = None


def buffer_deleted(net):
    del next(m for m in net.modules() if isinstance(m, nn.BatchNorm2d)).running_mean


def negative_variance(net):
    next(m for m in net.modules() if isinstance(m, nn.BatchNorm2d)).running_var[0] = -1.0


def frozen(net):
    next(net.parameters()).requires_grad_(False)


def training(net):
    net.train()


NORMED = tuple(CONVOLUTIONAL)
DROPPED = ("gpt2", "encoder", "bert, masked")
DEFECTS = {
    "control flow": (Branching, FAMILIES, r"data-dependent\s+control flow|turns tensors into Python numbers"),
    "dynamic shapes": (Changing, FAMILIES, r"cannot be traced|turns tensors into Python numbers"),
    "shared modules": (Twice, FAMILIES, r"is used twice|used more than once|no chain: the value 'x' goes to"),
    "several outputs": (Several, FAMILIES, r"one head twice|returns 2 outputs \(0, 1\)|no chain: the value"),
    "weight norm": (weight_norm, FAMILIES, r"layer '\S+' is parametrised .* remove it first"),
    "spectral norm": (spectral_norm, FAMILIES, r"layer '\S+' is parametrised .* remove it first"),
    "old weight norm": (old_weight_norm, FAMILIES, r"layer '\S+' computes its weight .*remove_weight_norm"),
    "quantised": (quantised, tuple(f for f in FAMILIES if f != "gpt2"), r"module '\S+' is quantised \(torch\.ao"),
    "half": (lambda net: net.half(), FAMILIES, r"dtype torch\.float16; .* model\.float\(\)"),
    "bfloat16": (lambda net: net.bfloat16(), FAMILIES, r"dtype torch\.bfloat16; .* model\.float\(\)"),
    "two dtypes": (lambda net: some_map(net).double() and None, FAMILIES, r"the model mixes .*float32.* convert it"),
    "meta": (lambda net: net.to("meta"), FAMILIES, r"'\S+' is on the meta device; load the"),
    "frozen": (frozen, FAMILIES, r"'\S+' is frozen.*model\.requires_grad_\(True\)"),
    "train mode": (training, (*NORMED, *DROPPED), r"module '\S+' .*train mode.* model\.eval\(\)"),
    "no statistics": (without_statistics, NORMED, r"'\S+' has no running statistics, so its output depends on the"),
    "no variance": (without_variance, NORMED, r"'\S+' has no running statistics.* load them"),
    "a buffer deleted": (buffer_deleted, NORMED, r"'\S+' has no running statistics.* load them"),
    "broken statistics": (negative_variance, NORMED, r"running statistics that are not finite, or a negative variance"),
}
CASES = [(family, defect) for defect, (_, families, _) in DEFECTS.items() for family in families]


def snapshot(net):
    state = {k: v.clone() for k, v in net.state_dict().items() if isinstance(v, torch.Tensor) and not v.is_meta}
    modes = [module.training for module in net.modules()]
    return state, modes, [p.requires_grad for p in net.parameters()], torch.get_rng_state()


def assert_as_it_was(net, before):
    after = snapshot(net)
    assert all(torch.equal(value, after[0][key]) for key, value in before[0].items())
    assert before[1] == after[1]
    assert before[2] == after[2]
    assert torch.equal(before[3], after[3])


@pytest.mark.parametrize(("family", "defect"), CASES)
def test_every_family_says_what_is_wrong_and_is_left_alone(family, defect):
    change, _, message = DEFECTS[defect]
    net, data = built(family)
    net = changed if isinstance(changed := change(net), nn.Module) else net
    before = snapshot(net)
    with pytest.raises(LandformError, match=f"(?s){message}"):
        lf.imprint(PATTERN, lf.Task(net, loss="cross_entropy", data=data), certify=False)
    assert_as_it_was(net, before)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_networks_without_defects_are_fine(family):
    net, data = built(family)
    before = snapshot(net)
    assert lf.imprint(PATTERN, lf.Task(net, loss="cross_entropy", data=data)).certificate.holds
    assert_as_it_was(net, before)


@pytest.mark.parametrize("family", FAMILIES)
def test_too_narrow_says_what_it_holds(family):
    net, data = built(family)
    before = snapshot(net)
    pattern = lf.Pattern.from_formula("sphere", resolution=100)
    with pytest.raises(
        LandformError, match=r"(?s)does not hold this pattern.*(lf\.widen\(|hold, for z = 2|which has \d+ to spare)"
    ):
        lf.imprint(pattern, lf.Task(net, loss="cross_entropy", data=data), epsilon=1e-4)
    assert_as_it_was(net, before)


SHALLOW = {
    "mlp": lambda: nn.Sequential(nn.Flatten(), nn.Linear(192, 10)),
    "cnn": lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10)),
    "resnet": lambda: networks.with_statistics(networks.ResNet(8, (), 0)),
    "encoder": lambda: nn.Sequential(
        nn.Flatten(2), nn.Linear(64, 16), nn.LayerNorm(16), nn.Flatten(), nn.Linear(48, 10)
    ),
}


@pytest.mark.parametrize("family", SHALLOW)
def test_too_shallow_is_said(family):
    net = SHALLOW[family]().eval()
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(LandformError, match=r"no hidden layer|too few|normalisation layers|deeper"):
        lf.imprint(PATTERN, lf.Task(net, loss="cross_entropy", data=images()))
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
