"""One small network a family, and pretrained ones: equal bits for two inputs, inside the certificate, proved again."""

import functools
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import landform as lf
from landform.errors import ArchitectureError, CapacityError
from landform.imprint.collapsed import losses_at
from landform.imprint.lower import activation
from landform.imprint.lower.graph import read_graph
from landform.imprint.lower.network import read
from landform.testing import networks, pretrained
from landform.testing.random_networks import Residual

torch.set_num_threads(1)
PATTERN = lf.Pattern(torch.from_numpy(np.random.default_rng(0).random((5, 5))))


def checked(net, shape, *, classes=10, dtype=torch.float32, pattern=PATTERN, relative=5e-3, points=6):
    """Imprint by one call, and hold it against everything that is promised."""
    generator = torch.Generator().manual_seed(0)
    net = net.to(dtype)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    inputs = torch.randn(12, *shape, generator=generator).to(dtype)
    made = lf.imprint(pattern, lf.Task(net, data=(inputs, torch.arange(12) % classes)))
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    proof = made.certificate
    assert proof.kind == "certified"
    assert proof.holds, proof.failures
    assert proof.relative_bound < relative
    nodes = pattern.mesh.nodes()
    h = torch.cat([nodes[:: len(nodes) // 3], torch.rand(points, pattern.z, dtype=torch.float64, generator=generator)])
    for point in h.to(dtype):
        one, two = (heads(made, point, x) for x in (inputs[:2], 9 * inputs[2:4]))
        assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
        for output, response in zip(one, made.responses, strict=True):
            loss = float(response.loss(output[:1].double())[0])
            assert abs(loss - float(made.target(point.double()[None]).reshape(-1)[0])) <= proof.bound
    return made


def heads(made, point, inputs):
    state = {**made.subspace.at(point), **dict(made.model.named_buffers())}
    with torch.no_grad():
        result = torch.func.functional_call(made.model, state, (inputs,))
    return result if isinstance(result, tuple) else (result,)


def convolutional(act, *, width=32, norm=True, classes=10):
    """Convolutions with an activation made for the number of channels."""
    layers, channels = [], 3
    for _ in range(4):
        layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width) if norm else nn.Identity()]
        layers.append(act(width))
        channels = width
    tail = [nn.MaxPool2d(2), nn.Flatten(), nn.Linear(width * 16, width), act(width), nn.Linear(width, classes)]
    return networks.with_statistics(nn.Sequential(*layers, *tail))


def prelu(width):
    """Slopes of all kinds: negative, above one, zero."""
    act = nn.PReLU(width)
    act.weight.data = torch.linspace(-1, 3, width)
    return act


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_slopes_that_are_weights_are_set_to_zero(dtype):
    made = checked(convolutional(prelu), (3, 8, 8), dtype=dtype)
    assert not made.model[2].weight.any()


def test_one_slope_for_all_channels_in_a_perceptron():
    layers = [nn.Linear(8, 48), nn.PReLU()]
    for _ in range(3):
        layers += [nn.Linear(48, 48), nn.PReLU()]
    checked(nn.Sequential(*layers, nn.Linear(48, 3)).eval(), (8,), classes=3)


def test_a_random_slope_is_fixed_in_eval_mode():
    layers = [m for size in (8, 64, 64, 64) for m in (nn.Linear(size, 64), nn.RReLU(0.1, 0.3))]
    net = nn.Sequential(*layers, nn.Linear(64, 10))
    with pytest.raises(ArchitectureError, match=r"module '1' is in train mode.*model\.eval"):
        lf.imprint(PATTERN, lf.Task(net.train(), data=(torch.randn(12, 8), torch.arange(12) % 10)))
    checked(net.eval(), (8,))


def test_a_slope_that_was_changed_is_seen_by_the_proof():
    made = checked(convolutional(prelu), (3, 8, 8))
    with torch.no_grad():
        made.model[2].weight[0] = 0.5
    again = lf.certify(made)
    assert not again.holds or again.bound > made.certificate.bound


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shortcuts_without_parameters(dtype):
    net = networks.with_statistics(networks.ResNet(16, ((16, 1), (32, 2), (64, 2)), 2, maps=False))
    checked(net, (3, 16, 16), dtype=dtype)


class Same(nn.Conv2d):
    """Pads as TensorFlow does: more behind than before."""

    def forward(self, x):
        """Pad and convolve."""
        padded = functional.pad(x, (0, 1, 0, 1))
        return functional.conv2d(padded, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


def test_a_layer_that_pads_for_itself():
    layers = [Same(3, 32, 3, 2), nn.ReLU(), nn.ZeroPad2d((1, 1, 1, 1)), nn.Conv2d(32, 64, 3), nn.ReLU()]
    layers += [Same(64, 64, 3, 2, groups=64, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
    for _ in range(2):
        layers += [nn.Conv2d(64, 64, 1), nn.ReLU()]
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)]
    made = checked(networks.with_statistics(nn.Sequential(*layers)), (3, 16, 16))
    assert int(made.model[3].weight[..., 1, 1].count_nonzero()) == int(made.model[3].weight.count_nonzero())


class Tokens(nn.Module):
    """Channels last: Linear layers at every position, then all of it flattened."""

    def __init__(self):
        super().__init__()
        self.conv, self.one, self.two = nn.Conv2d(3, 32, 3), nn.Linear(32, 48), nn.Linear(48, 48)
        self.flat, self.head = nn.Linear(48 * 36, 32), nn.Linear(32, 10)

    def forward(self, x):
        """Permute, mix, flatten."""
        x = torch.relu(self.conv(x)).permute(0, 2, 3, 1)
        x = torch.relu(self.two(torch.relu(self.one(x))))
        return self.head(torch.relu(self.flat(x.flatten(1))))


def test_channels_in_the_last_dimension():
    made = checked(Tokens().eval(), (3, 8, 8))
    assert made.model.flat.weight[:, 48:].count_nonzero() == 0  # one position is read, its channels side by side


def upsampling(dims, kernel, stride, padding, more, groups=1):
    """Two transposed convolutions among others, in 1, 2 or 3 dimensions."""
    conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1]
    up = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)[dims - 1]
    mean = (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)[dims - 1]
    layers = [conv(2, 32, 3, padding=1), nn.ReLU(), up(32, 32, kernel, stride, padding, more, groups=groups), nn.ReLU()]
    layers += [conv(32, 32, 3, padding=1), nn.ReLU(), up(32, 48, kernel, stride, padding, more), nn.ReLU()]
    return nn.Sequential(*layers, conv(48, 48, 1), nn.ReLU(), mean(1), nn.Flatten(), nn.Linear(48, 10)).eval()


@pytest.mark.parametrize(
    ("dims", "kernel", "stride", "padding", "more", "groups"),
    [(1, 4, 2, 1, 0, 1), (2, 3, 2, 1, 1, 4), (2, 2, 2, 0, 0, 1), (2, 3, 1, 1, 0, 1), (3, 2, 2, 0, 0, 1)],
)
def test_transposed_convolutions_write_the_same_everywhere(dims, kernel, stride, padding, more, groups):
    made = checked(upsampling(dims, kernel, stride, padding, more, groups), (2, *[4] * dims), points=2)
    seen = []
    hook = made.model[6].register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    heads(made, torch.tensor([0.3, 0.8]), torch.zeros(1, 2, *[4] * dims))
    hook.remove()
    assert seen[0].abs().max() > 0
    assert torch.allclose(seen[0], seen[0].flatten(2)[..., :1].reshape(1, -1, *[1] * dims), rtol=1e-5, atol=1e-6)


def test_taps_of_a_transposed_convolution_that_differ_are_not_proved():
    made = checked(upsampling(2, 2, 2, 0, 0), (2, 4, 4), points=1)
    with torch.no_grad():
        made.model[6].weight[0, 0, 1, 1] += 0.5
    assert "differs between its taps (0, 0) and (1, 1)" in lf.certify(made).failures[0]


@pytest.mark.parametrize(("kernel", "stride", "padding", "more"), [(3, 2, 0, 0), (2, 3, 0, 0), (5, 1, 1, 0)])
def test_positions_that_see_no_common_tap_are_named(kernel, stride, padding, more):
    with pytest.raises(ArchitectureError, match=r"'2' is transposed .*kernel = stride, padding 0"):
        read_graph(upsampling(2, kernel, stride, padding, more), (2, 4, 4))


SMOOTH = {
    "gelu": (nn.GELU, activation.GELU, 0.0),
    "gelu, tanh": (lambda: nn.GELU("tanh"), activation.GELU, 0.0),
    "silu": (nn.SiLU, activation.SILU, 0.0),
    "mish": (nn.Mish, activation.MISH, 0.0),
    "hardswish": (nn.Hardswish, activation.HARDSWISH, 0.0),
    "elu": (lambda: nn.ELU(0.7), 0.7, 0.0),
    "celu": (lambda: nn.CELU(0.7), 0.7, 0.0),
    "softplus": (lambda: nn.Softplus(2.0, 5.0), math.log(2) / 2, math.log(2) / 2),
}


@pytest.mark.parametrize("name", SMOOTH)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_smooth_activation_is_as_far_from_relu_as_is_said(name, dtype):
    make, distance, at_zero = SMOOTH[name]
    op = read_graph(nn.Sequential(nn.Linear(2, 4), make(), nn.Linear(4, 2))).ops[2]
    assert (op.smooth, op.at_zero) == (pytest.approx(distance), pytest.approx(at_zero))
    t = torch.linspace(-60, 60, 240_001, dtype=torch.float64).to(dtype)
    assert 0.99 * distance <= float((make()(t) - t.relu()).abs().max()) <= op.smooth * (1 + 2.0**-10)
    assert float(make()(torch.zeros(1, dtype=dtype))) == pytest.approx(at_zero)
    large = torch.cat([2.0**k * torch.linspace(1, 2, 1031, dtype=torch.float64) for k in range(6, 61)]).to(dtype)
    assert bool(((make()(large) - large).abs() <= op.far * torch.finfo(dtype).eps / 2 * large).all())
    assert bool((make()(-large).abs() <= op.smooth).all())


@pytest.mark.parametrize("name", SMOOTH)
def test_smooth_activations_in_convolutional_networks(name):
    dtype = torch.float64 if len(name) % 2 else torch.float32
    made = checked(convolutional(lambda width: SMOOTH[name][0](), norm=dtype == torch.float32), (3, 8, 8), dtype=dtype)
    if dtype == torch.float64:
        assert made.certificate.rounding < 1e-11
    assert any("directions have length" in note for note in made.meta["notes"])


def swish(x):
    return x * torch.sigmoid(x)


class Act(nn.Module):
    """An activation written as a function."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        """Apply it."""
        return self.function(x)


class Block(nn.Module):
    """Residual and dense blocks around any activation."""

    def __init__(self, kind, inputs, width, act):
        super().__init__()
        self.kind, self.act = kind, act
        inner = 2 * width if kind == "dense" else width
        self.bn1, self.conv1 = nn.BatchNorm2d(inputs), nn.Conv2d(inputs, inner, 3, padding=1, bias=False)
        self.bn2, self.conv2 = nn.BatchNorm2d(inner), nn.Conv2d(inner, width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(width)
        self.down = nn.Conv2d(inputs, width, 1, bias=False) if kind == "basic" and inputs != width else nn.Identity()

    def forward(self, x):
        """Apply the block."""
        if self.kind == "basic":
            return self.act(self.down(x) + self.bn3(self.conv2(self.act(self.bn2(self.conv1(x))))))
        new = self.conv2(self.act(self.bn2(self.conv1(self.act(self.bn1(x))))))
        return x + new if self.kind == "preact" else torch.cat([x, new], 1)


@pytest.mark.parametrize(
    ("kind", "act", "dtype"),
    [
        ("preact", functional.gelu, torch.float32),
        ("preact", functional.elu, torch.float64),
        ("basic", swish, torch.float32),
        ("basic", functional.gelu, torch.float64),
        ("dense", functional.hardswish, torch.float32),
        ("dense", functional.silu, torch.float64),
    ],
)
def test_smooth_activations_in_residual_and_dense_networks(kind, act, dtype):
    widths = [32, 32, 48, 48, 48] if kind == "basic" else [40] * 5
    layers, channels = [nn.Conv2d(3, widths[0], 3, padding=1), nn.BatchNorm2d(widths[0]), Act(act)], widths[0]
    for width in widths[1:]:
        layers.append(Block(kind, channels, width, act))
        channels = channels + width if kind == "dense" else width
    tail = [nn.BatchNorm2d(channels), Act(act), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10)]
    checked(networks.with_statistics(nn.Sequential(*layers, *tail)), (3, 8, 8), dtype=dtype)


NORMS = {"layer": nn.LayerNorm, "group": lambda width: nn.GroupNorm(4, width), "batch": nn.BatchNorm1d}


def normed_perceptron(*norms, act=nn.ReLU):
    layers, size = [], 8
    for norm in norms:
        layers += [nn.Linear(size, 48), NORMS[norm](48) if norm else nn.Identity(), act()]
        size = 48
    return networks.with_statistics(nn.Sequential(*layers, nn.Linear(48, 10)))


@pytest.mark.parametrize(
    ("norms", "entrance"),
    [
        (("layer", "group", "layer", "group"), "1.bias"),
        (("group", "layer", "batch", "layer"), "1.bias"),
        (("", "layer", "group", ""), "0.bias"),
        (("batch", "layer", "group", ""), "0.bias"),
    ],
)
@pytest.mark.parametrize("act", [nn.ReLU, nn.SiLU])
def test_a_perceptron_may_mix_its_norms(norms, entrance, act):
    made = checked(normed_perceptron(*norms, act=act), (8,))
    assert made.subspace.moved == (entrance,)


def test_a_layer_norm_behind_convolutions():
    head = [nn.Flatten(), nn.Linear(32 * 64, 48), nn.LayerNorm(48), nn.ReLU(), nn.Dropout(), nn.Linear(48, 10)]
    layers = [m for size in (3, 32, 32) for m in (nn.Conv2d(size, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU())]
    checked(networks.with_statistics(nn.Sequential(*layers, *head)), (3, 8, 8))


def test_a_perceptron_with_smooth_activations_and_a_pattern_of_many_coordinates():
    layers = [nn.Linear(8, 64), nn.SiLU()]
    for _ in range(3):
        layers += [nn.Linear(64, 64), nn.SiLU()]
    sums = lf.SumPattern.from_axes(np.random.default_rng(0).random((3, 6)))
    made = lf.imprint(
        sums, lf.Task(nn.Sequential(*layers, nn.Linear(64, 3)), data=(torch.rand(9, 8), torch.arange(9) % 3))
    )
    assert made.certificate.holds
    assert made.certificate.kind == "certified"
    h = torch.rand(40, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(3)).float().double()
    assert float((losses_at(made, h)[:, 0] - made.target(h)).abs().max()) <= made.certificate.bound


def test_softplus_beside_identity_paths_is_refused():
    layers = [nn.Conv2d(3, 32, 3, padding=1), nn.Softplus(), Block("basic", 32, 32, functional.softplus)]
    with pytest.raises(ArchitectureError, match=r"'1' is 0\.693 at 0"):
        read(networks.with_statistics(nn.Sequential(*layers, nn.Flatten(), nn.Linear(2048, 10))), (3, 8, 8))


@pytest.mark.parametrize(
    ("act", "dtype"), [(nn.Hardswish, torch.float32), (nn.ReLU, torch.float64), (nn.ReLU6, torch.float32)]
)
def test_gates_are_made_constants(act, dtype):
    made = checked(networks.squeezed(act=act), (3, 8, 8), dtype=dtype)
    assert not made.model[3].gate[3].weight.any()


def test_a_gate_that_is_no_constant_is_not_proved():
    made = checked(networks.squeezed(), (3, 8, 8), points=1)
    with torch.no_grad():
        made.model[3].gate[3].bias[0] = 1.0
    assert "the gate" in lf.certify(made).failures[0]


def saturating(act, norm=nn.BatchNorm2d):
    """Convolutions of which the first and some others have an activation that saturates."""
    layers, channels = [], 3
    for number in range(6):
        layers += [nn.Conv2d(channels, 32, 3, padding=1), norm(32), (act, nn.ReLU, nn.ReLU)[number % 3]()]
        channels = 32
    tail = [nn.MaxPool2d(2), nn.Flatten(), nn.Linear(32 * 16, 32), nn.ReLU(), nn.Linear(32, 10)]
    return networks.with_statistics(nn.Sequential(*layers, *tail))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("act", [nn.Tanh, nn.Softsign])
def test_units_that_saturate_carry_what_others_compute(act, dtype):
    made = checked(saturating(act), (3, 8, 8), dtype=dtype)
    if dtype == torch.float64:
        assert made.certificate.relative_bound < 2e-4


def test_tanh_behind_norms_over_groups_and_none():
    checked(saturating(nn.Tanh, lambda width: nn.GroupNorm(4, width)), (3, 8, 8), relative=0.2)
    checked(saturating(nn.Tanh, lambda width: nn.Identity()), (3, 8, 8))


def test_a_unit_that_saturates_is_not_proved_where_it_bends():
    made = checked(saturating(nn.Tanh), (3, 8, 8), points=1)
    key = "9.weight"  # the convolution before the second Tanh
    made.subspace.origin[key] *= 2.0**20
    assert "where its activation stops growing" in lf.certify(made).failures[0]


def test_units_that_nothing_would_bend_are_left_out():
    dense = networks.Dense(32, 24, bottleneck=False)
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(56, 10)]
    layers = [m for size in (3, 32, 32, 32) for m in (nn.Conv2d(size, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU())]
    made = checked(networks.with_statistics(nn.Sequential(*layers, dense, *head)), (3, 8, 8))
    assert not made.model[len(layers)].conv2.weight.any()


def test_a_sum_of_a_map_and_a_branch_that_only_carries():
    branch = nn.Sequential(nn.Linear(48, 48), nn.Tanh(), nn.Linear(48, 48))
    layers = [m for size in (8, 48, 48, 48) for m in (nn.Linear(size, 48), nn.ReLU())]
    net = nn.Sequential(
        *layers, Residual(branch, nn.Linear(48, 48), nn.ReLU()), nn.Linear(48, 48), nn.ReLU(), nn.Linear(48, 10)
    )
    made = checked(net.eval(), (8,))
    assert not any(made.model[8].branch[0].weight.flatten())


def test_a_constant_beside_the_response_curve_is_followed():
    leaky = functools.partial(nn.LeakyReLU, 0.1)
    layers = [m for size in (8, 48, 48, 48) for m in (nn.Linear(size, 48), leaky())]
    branch = nn.Sequential(nn.Linear(48, 96), nn.LayerNorm(96), leaky(), nn.Linear(96, 48))
    skip = nn.Sequential(nn.Linear(48, 48, bias=False), nn.LayerNorm(48))
    tail = [nn.BatchNorm1d(48), leaky(), nn.Linear(48, 10)]
    made = checked(networks.with_statistics(nn.Sequential(*layers, Residual(branch, skip, leaky()), *tail)), (8,))
    assert made.model[8].skip[1].bias.any()  # so that the sum is not bent
    with torch.no_grad():
        made.subspace.origin["8.skip.1.bias"] += 0.25
    assert not lf.certify(made).holds


@pytest.mark.parametrize("skip", [nn.Linear(48, 48), nn.Identity()])
def test_what_passes_a_silent_branch_is_small_where_the_sum_saturates(skip):
    branch = nn.Sequential(nn.Linear(48, 48), nn.ReLU(), nn.Linear(48, 48), nn.Softsign(), nn.Linear(48, 48))
    layers = [m for _ in range(4) for m in (nn.Linear(48, 48), nn.ReLU())]
    net = nn.Sequential(
        nn.Linear(8, 48), nn.ReLU(), Residual(branch, skip, nn.Tanh()), *layers, nn.Linear(48, 10)
    ).eval()
    if isinstance(skip, nn.Linear):
        checked(net, (8,), dtype=torch.float64)
    else:  # nothing makes h smaller on its way
        with pytest.raises(CapacityError, match="meet an activation that stops at"):
            lf.imprint(PATTERN, lf.Task(net, data=(torch.randn(12, 8), torch.arange(12) % 10)))


def test_small_registers_do_not_meet_a_norm_with_a_mean():
    layers = [m for size in (8, 48, 48, 48) for m in (nn.Linear(size, 48), nn.ReLU())]
    net = nn.Sequential(*layers, nn.Linear(48, 48), nn.Tanh(), nn.BatchNorm1d(48), nn.Linear(48, 10))
    task = lf.Task(networks.with_statistics(net), data=(torch.randn(12, 8), torch.arange(12) % 10))
    with pytest.raises(CapacityError, match=r"'10' takes a mean of up to .* put the norm before that activation"):
        lf.imprint(PATTERN, task)


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (lambda: nn.Sequential(nn.LayerNorm(8), *normed_perceptron("", "", "")), r"'0' normalises the network's input"),
        (
            lambda: normed_perceptron("layer", "", act=nn.Hardshrink),
            r"module '2' is a Hardshrink, which is not covered",
        ),
        (
            lambda: nn.Sequential(*normed_perceptron("layer", "")[:-1], nn.LayerNorm(48), nn.Linear(48, 10)),
            r"'6' takes",
        ),
    ],
)
def test_networks_with_a_layer_norm_and_no_sum_are_not_taken_for_transformers(net, message):
    with pytest.raises(ArchitectureError, match=message):
        lf.imprint(PATTERN, lf.Task(net(), data=(torch.randn(12, 8), torch.arange(12) % 10)))


def needed(load):
    net = load()
    if net is None:
        pytest.skip("its package is not installed")
    return net


def test_the_pretrained_output_network_of_mtcnn():
    made = checked(needed(pretrained.onet), (3, 48, 48), classes=2)
    assert made.subspace.moved == ("conv1.bias",)
    assert len(made.responses) == 3


def test_the_pretrained_efficientnet():
    made = checked(needed(pretrained.efficientnet_lite0), (3, 224, 224), relative=2e-2, points=1)
    assert made.subspace.moved == ("_bn0.bias",)
