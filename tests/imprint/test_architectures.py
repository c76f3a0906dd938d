"""Convolutional, residual and dense networks: one call, outputs independent of the input, proved from the weights."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

import landform as lf
from landform.errors import ArchitectureError, CapacityError
from landform.testing import networks

torch.set_num_threads(1)
GENERATOR = torch.Generator().manual_seed(0)
X, Y = torch.randn(30, 3, 16, 16, generator=GENERATOR), torch.arange(30) % 10
PATTERN = lf.Pattern(torch.from_numpy(np.random.default_rng(0).random((5, 5))))

NETS = {
    "lenet": networks.lenet,
    "vgg": lambda: networks.vgg(16, 32, 64, 64),
    "resnet": lambda: networks.with_statistics(networks.ResNet(16, ((16, 1), (32, 2), (64, 2)), 2)),
    "pre-activation": networks.preact,
    "depthwise": networks.mobile,
    "densenet": networks.densenet,
    "densenet without bottleneck": lambda: networks.densenet(bottleneck=False, blocks=(4, 4)),
}


def outputs(imprint, h, inputs):
    with torch.no_grad():
        state = {**imprint.subspace.at(h), **dict(imprint.model.named_buffers())}
        return torch.func.functional_call(imprint.model, state, (inputs,))


@pytest.fixture(scope="module", params=list(NETS))
def case(request):
    net = NETS[request.param]()
    return net, lf.imprint(PATTERN, lf.Task(net, data=(X, Y)))


def test_the_bound_is_proved_and_holds_at_nodes_and_between(case):
    _, imprint = case
    certificate = imprint.certificate
    assert certificate.kind == "certified"
    assert certificate.holds, certificate.failures
    assert certificate.relative_bound < 2e-3
    assert any("no Winograd" in line for line in certificate.assumptions)
    h = torch.cat([PATTERN.mesh.nodes()[::4], torch.rand(8, 2, dtype=torch.float64, generator=GENERATOR)]).float()
    worst = 0.0
    for point in h:
        loss = imprint.response.loss(outputs(imprint, point, X[:1]).double())
        worst = max(worst, abs(float(loss[0] - imprint.target(point.double()[None])[0])))
    assert worst <= certificate.bound
    assert certificate.bound <= 20 * worst


def test_outputs_are_the_same_bits_for_two_batches(case):
    _, imprint = case
    one, two = (outputs(imprint, torch.tensor([0.3, 0.8]), x) for x in (X[:4], 100 * X[4:8]))
    assert torch.equal(one, two)


def test_the_model_that_was_given_is_untouched_and_keeps_its_shapes(case):
    net, imprint = case
    before = NETS_STATE.setdefault(id(net), {k: v.clone() for k, v in net.state_dict().items()})
    lf.imprint(PATTERN, lf.Task(net, data=(X, Y)), certify=False)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert {k: v.shape for k, v in imprint.model.state_dict().items()} == {k: v.shape for k, v in before.items()}
    for name, buffer in net.named_buffers():
        assert torch.equal(dict(imprint.model.named_buffers())[name], buffer)


NETS_STATE: dict[int, dict[str, torch.Tensor]] = {}


def test_a_bundle_keeps_it_and_the_proof_is_repeated_from_the_file(case, tmp_path):
    net, imprint = case
    folder = imprint.save(tmp_path / "a.landform")
    again = lf.load(folder, model=copy.deepcopy(net))
    assert lf.certify(again).bound == imprint.certificate.bound
    h = torch.rand(3, 2, dtype=torch.float64, generator=GENERATOR)
    from landform.imprint.collapsed import losses_at

    assert torch.equal(losses_at(again, h), losses_at(imprint, h))


def test_a_scan_agrees_with_the_way_through_all_data(case):
    _, imprint = case
    surface = lf.scan(imprint, grid=3, check=1)
    assert surface.attrs["checked_difference"] < 1e-4
    assert float(abs(surface.difference).max()) <= imprint.certificate.bound


def test_where_there_is_no_bias_the_result_says_what_moves():
    net = NETS["resnet"]()
    imprint = lf.imprint(PATTERN, lf.Task(net, data=(X, Y)), certify=False)
    assert imprint.subspace.moved == ("bn1.bias",)
    assert any("'conv1' has no bias" in note for note in imprint.meta["notes"])


@pytest.mark.parametrize("where", ["conv1.weight", "blocks.3.conv1.weight", "blocks.5.bn2.bias"])
def test_a_changed_weight_breaks_the_proof_or_widens_the_bound(where):
    imprint = lf.imprint(PATTERN, lf.Task(NETS["resnet"](), data=(X, Y)))
    parameter = dict(imprint.model.named_parameters())[where]
    with torch.no_grad():
        parameter.reshape(-1)[0] += 0.5
    again = lf.certify(imprint)
    loss = imprint.response.loss(outputs(imprint, torch.tensor([0.3, 0.8]), X[:1]).double())
    off = abs(float(loss[0] - imprint.target(torch.tensor([[0.3, 0.8]], dtype=torch.float64))[0]))
    assert not again.holds or off <= again.bound


def test_two_heads_get_a_channel_each():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = networks.vgg(16, 64, 64, 64)[:-1]
            self.a, self.b = nn.Linear(64, 10), nn.Linear(64, 10)

        def forward(self, x):
            x = self.body(x)
            return {"a": self.a(x), "b": self.b(x)}

    values = torch.from_numpy(np.random.default_rng(1).random((3, 3, 2)))
    imprint = lf.imprint(lf.Pattern(values, channels=2), lf.Task(Two().eval(), data=(X, Y)))
    assert imprint.certificate.holds
    assert imprint.certificate.relative_bound < 5e-2


def small():
    return NETS["vgg"]()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda n: n.half(), ArchitectureError, r"'0\.weight' has dtype torch\.float16; .*model\.float\(\)"),
        (lambda n: n.to("meta"), ArchitectureError, r"is on the meta device"),
        (lambda n: n.train(), ArchitectureError, r"module '1' is in train mode"),
        (lambda n: n.requires_grad_(False), ArchitectureError, r"'0\.weight' is frozen"),
        (lambda n: nn.Sequential(n[0], n[1], nn.Hardshrink(), *n[3:]), ArchitectureError, r"'2' is a Hardshrink"),
        (
            lambda n: nn.Sequential(*n[:4], nn.utils.parametrizations.weight_norm(n[4]), *n[5:]),
            ArchitectureError,
            r"layer '4' is parametrised",
        ),
        (
            lambda n: nn.Sequential(*n[:3], nn.AvgPool2d(2, padding=1), *n[4:]),
            ArchitectureError,
            r"'3' averages over zero padding.*count_include_pad=False",
        ),
        (
            lambda n: nn.Sequential(*n[:4], nn.Conv2d(16, 16, 1, padding=1), *n[4:]),
            ArchitectureError,
            r"'4' pads by 1 with a kernel of 1",
        ),
        (lambda n: nn.Sequential(*n[:4], n[0], *n[4:]), ArchitectureError, r"module '0' is used twice"),
        (
            lambda n: nn.Sequential(nn.Conv2d(3, 1, 3), nn.ReLU(), nn.Flatten(), nn.Linear(196, 10)),
            CapacityError,
            r"1 units; use a first layer of at least 2|too few",
        ),
    ],
)
def test_bad_input_is_named_and_the_model_untouched(change, error, message):
    net = change(small())
    before = {k: v.clone() for k, v in net.state_dict().items()}
    with pytest.raises(error, match=message):
        lf.imprint(PATTERN, lf.Task(net, data=(X, Y)))
    if not any(p.is_meta for p in net.parameters()):
        assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


def test_a_pattern_too_fine_says_what_the_network_holds():
    pattern = lf.Pattern(torch.rand(65, 65, dtype=torch.float64, generator=GENERATOR))
    with pytest.raises(CapacityError, match=r"hold, for z = 2:\n  hats \(carry\)"):
        lf.imprint(pattern, lf.Task(NETS["resnet"](), data=(X, Y)), direct=False)


def test_a_kernel_that_reads_its_neighbours_is_not_proved():
    imprint = lf.imprint(PATTERN, lf.Task(NETS["resnet"](), data=(X, Y)))
    with torch.no_grad():
        dict(imprint.model.named_parameters())["blocks.3.conv1.weight"][0, 0, 0, 0] = 1e-3
    again = lf.certify(imprint)
    assert not again.holds
    assert "is not zero beside its tap (1, 1)" in again.failures[0]


def test_an_input_that_is_read_is_not_proved():
    imprint = lf.imprint(PATTERN, lf.Task(NETS["resnet"](), data=(X, Y)))
    with torch.no_grad():
        dict(imprint.model.named_parameters())["conv1.weight"][3, 0, 1, 1] = 1e-3
    again = lf.certify(imprint)
    assert "so the output depends on the input" in again.failures[0]
