"""Widening: the same function in more channels, the original weights bit for bit."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

import landform as lf
from landform.errors import ArchitectureError, InputError, UnknownNameError
from landform.imprint.widening.channels import Places, enlarge
from landform.imprint.widening.promise import outputs, rounding
from landform.imprint.widening.spaces import Spaces
from landform.testing import networks


class Last(nn.Module):
    """Flattens with channels last, so that they vary fastest."""

    def forward(self, x):
        return x.permute(0, 2, 3, 1).flatten(1)


NETS = {
    "mlp": (
        lambda: networks.with_statistics(
            nn.Sequential(
                nn.Linear(12, 9), nn.BatchNorm1d(9), nn.LeakyReLU(), nn.Linear(9, 7), nn.ReLU(), nn.Linear(7, 3)
            )
        ),
        (12,),
    ),
    "lenet": (lambda: networks.lenet(8), (3, 8, 8)),
    "vgg": (lambda: networks.vgg(8, 12, 16), (3, 8, 8)),
    "resnet": (lambda: networks.with_statistics(networks.ResNet(8, ((8, 1), (12, 2)), 2)), (3, 8, 8)),
    "resnet, padded": (
        lambda: networks.with_statistics(networks.ResNet(8, ((8, 1), (16, 2)), 2, maps=False)),
        (3, 8, 8),
    ),
    "decoder": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 6, 2, stride=2),
            nn.PReLU(6),
            nn.ConvTranspose2d(6, 4, 2, stride=2),
            nn.PReLU(),
            Last(),
            nn.Linear(256, 2),
        ).eval(),
        (3, 8, 8),
    ),
    "instance": (
        lambda: networks.with_statistics(
            nn.Sequential(
                nn.Conv2d(3, 6, 3),
                nn.InstanceNorm2d(6, affine=True, track_running_stats=True),
                nn.ReLU(),
                nn.Conv2d(6, 4, 3),
                nn.InstanceNorm2d(4, track_running_stats=True),
                nn.ReLU(),
                nn.Flatten(),
                nn.Linear(64, 2),
            )
        ),
        (3, 8, 8),
    ),
    "layer norm": (
        lambda: networks.with_statistics(
            nn.Sequential(
                *(nn.Linear(12, 9), nn.BatchNorm1d(9), nn.LayerNorm(9), nn.LeakyReLU(), nn.Linear(9, 6, bias=False)),
                *(nn.LayerNorm(6, bias=False), nn.PReLU(6), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)),
            )
        ),
        (12,),
    ),
    "layer norm, images": (
        lambda: nn.Sequential(
            *(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, padding=1, groups=2), nn.LayerNorm([4, 6, 6]), nn.ReLU()),
            *(nn.ConvTranspose2d(4, 5, 2, stride=2), nn.PReLU()),
            *(nn.LayerNorm([5, 12, 12], elementwise_affine=False), nn.ReLU(), nn.Flatten(), nn.Linear(720, 2)),
        ).eval(),
        (3, 8, 8),
    ),
    "preact": (lambda: networks.preact(8, 2), (3, 8, 8)),
    "mobile": (lambda: networks.mobile(8, 2), (3, 8, 8)),
    "squeezed": (lambda: networks.squeezed(8, 2), (3, 8, 8)),
    "densenet": (lambda: networks.densenet(4, (2, 2)), (3, 8, 8)),
}


def made(name: str, *, seed: int = 0):
    build, shape = NETS[name]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = build()
        return net, torch.randn(4, *shape)


@pytest.mark.parametrize("seed", [None, 3])
@pytest.mark.parametrize("name", NETS)
def test_the_function_stays(name, seed):
    net, x = made(name)
    before, state = net(x), copy.deepcopy(net.state_dict())
    wide = lf.widen(net, 3, inputs=x, seed=seed)
    assert wide.difference <= wide.bound < 0.1
    assert not torch.equal(next(wide.model.parameters()), next(net.parameters()))
    assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())
    assert torch.allclose(wide.model(x), before, atol=1e-5)


@pytest.mark.parametrize("name", NETS)
def test_the_original_weights_are_there_bit_for_bit(name):
    net, x = made(name)
    wide = lf.widen(net, 2, inputs=x, seed=0)
    new = dict(wide.model.named_modules())
    for key, module in net.named_modules():
        for part, value in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
            found, value = getattr(new[key], part).detach(), value.detach()
            if isinstance(module, nn.ConvTranspose2d) and value.ndim > 1:
                found, value = found.transpose(0, 1), value.transpose(0, 1)
            if value.ndim and key in wide.channels:
                rows = [n for n in range(len(found)) if n not in wide.channels[key]]
                found = found[rows]
            if value.ndim > 1:
                columns = [n for n in range(found.shape[1]) if n not in wide.columns.get(key, ())]
                found = found[:, columns]
            assert torch.equal(found, value), f"{key}.{part}"


@pytest.mark.parametrize("name", [name for name in NETS if not name.startswith("layer norm")])  # which reads copies
def test_nobody_reads_the_new_channels(name):
    """Whatever the new channels compute, the outputs are the same number for number (in float64, to rounding)."""
    net, x = made(name)
    net, x = net.double(), x.double()
    wide = lf.widen(net, 3, inputs=x)
    with torch.no_grad():
        for key, new in wide.channels.items():
            module = wide.model.get_submodule(key)
            for value in module.parameters(recurse=False):
                if isinstance(module, nn.ConvTranspose2d) and value.ndim > 1:
                    value = value.transpose(0, 1)
                value[list(new)] = torch.randn(
                    value[list(new)].shape, dtype=value.dtype, generator=torch.Generator().manual_seed(1)
                )
        assert (wide.model(x) - net(x)).abs().max() < 1e-10
        # the law could hold idly, if nothing were written: old channels that read new ones change the outputs
        head = next(key for key in reversed(wide.columns) if wide.columns[key])
        wide.model.get_submodule(head).weight[:, list(wide.columns[head])] = 1.0
        assert (wide.model(x) - net(x)).abs().max() > 1e-6


def test_random_new_channels_can_learn_and_zero_ones_cannot():
    net, x = made("resnet")
    for seed, learns in [(0, True), (None, False)]:
        wide = lf.widen(net, 2, inputs=x, seed=seed)
        wide.model(x).square().sum().backward()
        fc = wide.model.get_submodule("fc")
        assert bool(fc.weight.grad[:, list(wide.columns["fc"])].abs().max() > 0) is learns


def test_a_residual_stream_grows_in_every_block_that_shares_it():
    net, x = made("resnet")
    wide = lf.widen(net, {"conv1": 5}, inputs=x)
    assert {k for k, v in wide.channels.items() if v} == {
        "conv1", "bn1", "blocks.0.conv2", "blocks.0.bn2", "blocks.1.conv2", "blocks.1.bn2"
    }  # fmt: skip
    assert all(new == (8, 9, 10, 11, 12) for new in wide.channels.values())
    assert set(wide.columns) == {"blocks.0.conv1", "blocks.1.conv1", "blocks.2.conv1", "blocks.2.down.0"}
    both = lf.widen(net, {"conv1": 2, "blocks.1.conv2": 4}, inputs=x)
    assert len(both.channels["conv1"]) == 4, "the largest wish counts"


def test_flattened_channels_keep_their_positions_together():
    net, x = made("lenet")
    wide = lf.widen(net, {"3": 2}, inputs=x)
    assert wide.channels["3"] == (64, 65)
    assert wide.columns["7"] == tuple(range(64 * 4, 66 * 4))


def test_a_concatenation_moves_the_channels_behind():
    net = nn.Sequential(nn.Conv2d(3, 6, 1), networks.Dense(6, 2), networks.Dense(8, 2), nn.Flatten(), nn.Linear(40, 2))
    net.eval()
    x = torch.randn(2, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    wide = lf.widen(net, {"0": 3, "1.conv2": 1}, inputs=x)
    assert wide.channels["1.bn1"] == (6, 7, 8)
    assert wide.channels["2.bn1"] == (6, 7, 8, 11)
    assert wide.columns["4"] == tuple(c * 4 + p for c in (6, 7, 8, 11) for p in range(4))


def test_zeros_beside_the_channels_do_not_grow():
    net, x = made("resnet, padded")
    wide = lf.widen(net, {"blocks.2.conv2": 3}, inputs=x)
    assert wide.channels["conv1"] == (8, 9, 10)
    assert wide.channels["blocks.2.conv2"] == (12, 13, 14)
    assert wide.columns["fc"] == (12, 13, 14)


def test_flattened_with_channels_last():
    net, x = made("decoder")
    wide = lf.widen(net, {"2": 1}, inputs=x)
    assert wide.columns["5"] == tuple(range(4, 64 * 5, 5))


class Split(nn.Module):
    """A sum of a concatenation and one convolution: the latter's channels grow in two places."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b, self.c = (nn.Conv1d(2, w, 1) for w in (2, 2, 3, 5))
        self.a, self.b, self.c = nn.Conv1d(2, 2, 1), nn.Conv1d(2, 3, 1), nn.Conv1d(2, 5, 1)
        self.out = nn.Linear(5, 2)

    def forward(self, x):
        x = functional.relu(self.stem(x))
        return self.out((torch.cat([self.a(x), self.b(x)], 1) + self.c(x)).mean(2))


def test_channels_that_meet_a_concatenation_in_a_sum_grow_where_its_parts_do():
    net = Split().double().eval()
    x = torch.randn(3, 2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    wide = lf.widen(net, {"a": 2}, inputs=x, seed=0)
    assert wide.channels["c"] == (2, 3)
    assert wide.channels["a"] == (2, 3)
    assert "b" not in wide.channels
    assert wide.difference < 1e-14


class Grouped(nn.Module):
    def __init__(self, groups: int, outputs: int, norm: nn.Module | None = None) -> None:
        super().__init__()
        self.stem, self.grouped = nn.Conv2d(3, 8, 1), nn.Conv2d(8, outputs, 3, padding=1, groups=groups)
        self.norm = norm or nn.Identity()
        self.out = nn.Linear(outputs, 2)

    def forward(self, x):
        return self.out(self.norm(functional.relu(self.grouped(self.stem(x)))).mean((2, 3)))


@pytest.mark.parametrize(
    ("groups", "outputs", "grown"), [(8, 8, (3, 3)), (8, 16, (3, 6)), (2, 4, (4, 2)), (4, 12, (4, 6))]
)
def test_grouped_convolutions_get_whole_groups(groups, outputs, grown):
    net = Grouped(groups, outputs).double().eval()
    x = torch.randn(2, 3, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    wide = lf.widen(net, {"stem": 3}, inputs=x, seed=0)
    conv = wide.model.grouped
    assert (len(wide.channels["stem"]), len(wide.channels["grouped"])) == grown
    assert conv.groups * 8 == groups * conv.in_channels
    assert conv.weight.shape[1] == net.grouped.weight.shape[1]
    assert (wide.model(x) - net(x)).abs().max() < 1e-13


def test_modes_flags_and_random_state_are_kept():
    net, x = made("resnet")
    net.train()
    net.fc.weight.requires_grad_(False)
    state = torch.get_rng_state()
    wide = lf.widen(net, 1, inputs=x, seed=0).model
    assert torch.equal(torch.get_rng_state(), state)
    assert wide.training
    assert net.training
    assert not wide.fc.weight.requires_grad
    assert not net.fc.weight.requires_grad
    assert wide.conv1.weight.requires_grad
    assert net.fc.weight.grad is None


def test_one_seed_gives_one_network():
    net, x = made("mobile")
    one, same, other = (dict(lf.widen(net, 2, inputs=x, seed=seed).model.named_parameters()) for seed in (1, 1, 2))
    assert all(torch.equal(value, same[key]) for key, value in one.items())
    assert not all(torch.equal(value, other[key]) for key, value in one.items())


def test_the_promise_grows_with_the_unit_of_rounding_and_holds_for_any_order():
    """Summing in another order is what the bound is about: permuted hidden units are the extreme case."""
    net, x = made("vgg")
    allowed = rounding(net, x, range(10))
    fine = rounding(net.double(), x.double(), range(10))
    ratio = allowed / fine
    assert (ratio / 2**29 - 1).abs().max() < 0.01
    net.float()
    shuffled = copy.deepcopy(net)
    order = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        shuffled[13].weight.copy_(net[13].weight[order])
        shuffled[13].bias.copy_(net[13].bias[order])
        shuffled[16].weight.copy_(net[16].weight[:, order])
        moved = (shuffled(x).double() - net(x).double()).abs()
    assert moved.max() > 0
    assert (moved <= allowed).all()


def test_the_promise_of_one_layer_is_the_textbook_one():
    layer = nn.Linear(6, 2)
    x = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))
    terms = 8 * 2.0**-24
    size = x.double().abs() @ layer.weight.double().abs().T + layer.bias.double().abs()
    expected = 2 * terms / (1 - terms) * size
    assert torch.allclose(rounding(layer, x, [0, 1]), expected.detach(), rtol=1e-12)
    assert outputs(layer, x).shape == (3, 2)


def test_spaces_split_and_join():
    spaces = Spaces()
    a, b, c, d = (spaces.new(size) for size in (2, 3, 4, 1))
    spaces.join(a + b, c + d, "why")
    assert [spaces.size(s) for s in spaces.leaves(c)] == [2, 2]
    assert [spaces.size(s) for s in spaces.leaves(b)] == [2, 1]
    assert spaces.leaves(a + b) == spaces.leaves(c + d)
    spaces.fix(c, "held")
    assert spaces.fixed(spaces.leaves(a)[0]) == "held"
    assert spaces.fixed(spaces.leaves(d)[0]) is None


@pytest.mark.parametrize("groups", [1, 2])
def test_transposed_convolutions(groups):
    conv = nn.ConvTranspose2d(4, 6, 3, groups=groups).double()
    x = torch.randn(2, 4, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    wide = copy.deepcopy(conv)
    enlarge(wide, Places(tuple(range(6)), (6, 7, 8)), Places((0, 1, 2, 3), (4, 5)), torch.Generator().manual_seed(0))
    more = torch.cat([x, torch.randn(2, 2, 3, 3, dtype=torch.float64)], 1)
    assert wide(more).shape[1] == 9
    if groups > 1:
        assert wide.groups == 3
    assert (wide(more)[:, :6] - conv(x)).abs().max() < 1e-14


def test_copies_in_groups_of_a_transposed_convolution():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(
            *(
                nn.Conv1d(3, 4, 1),
                nn.ReLU(),
                nn.ConvTranspose1d(4, 4, 2, stride=2, groups=2),
                nn.LayerNorm([4, 10]),
                nn.ReLU(),
            ),
            *(nn.Flatten(), nn.Linear(40, 2)),
        ).double()
        wide = lf.widen(net, 3, inputs=torch.randn(4, 3, 5).double())  # holds them against each other
    assert wide.channels["0"] == wide.channels["2"] == wide.channels["3"] == (4, 5, 6, 7)
    assert torch.equal(wide.model[2].weight[4:], net[2].weight)
    assert torch.equal(wide.model[0].weight[4:], net[0].weight)


def test_a_layer_norm_over_a_concatenation_is_refused():
    net = networks.densenet(4, (2,))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        x = torch.randn(2, 3, 8, 8)
    net[-1] = nn.Sequential(nn.LayerNorm(net[-1].in_features), net[-1]) if isinstance(net[-1], nn.Linear) else net[-1]
    with pytest.raises(ArchitectureError, match="takes the mean of a concatenation"):
        lf.widen(net, 1, inputs=x)


def test_prelu_and_group_norm_in_place():
    act, norm = nn.PReLU(4), nn.GroupNorm(2, 4)
    enlarge(act, Places((0, 1, 2, 3), (4, 5)), None, None)
    enlarge(norm, Places((0, 1, 2, 3), (4, 5)), None, None)
    assert act.weight.shape == (6,)
    assert (norm.num_groups, norm.num_channels) == (3, 6)
    x = torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(norm(x)[:, :4], nn.GroupNorm(2, 4)(x[:, :4]))


class Fixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.out = nn.Conv2d(3, 4, 1), nn.Linear(16, 2)

    def forward(self, x):
        return self.out(self.conv(x).view(-1, 16))


class Counting(nn.Module):
    """Divides by what depends on the channels, by way of an operation that landform takes for the identity."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.out = nn.Conv2d(3, 4, 1), nn.Linear(4, 2)
        self.act = Peculiar()

    def forward(self, x):
        return self.out(self.act(self.conv(x)).mean((2, 3)))


class Peculiar(nn.ReLU):
    def forward(self, x):
        return super().forward(x) / x.shape[1]


Peculiar.__module__ = "torch.nn"  # else tracing looks inside


def test_bad_input():
    net, x = made("resnet")
    with pytest.raises(UnknownNameError, match=r"did you mean 'blocks\.0\.conv2'"):
        lf.widen(net, {"blocks.0.conv": 2}, inputs=x)
    with pytest.raises(ArchitectureError, match="'fc' is a head"):
        lf.widen(net, {"fc": 2}, inputs=x)
    with pytest.raises(InputError, match="extra=-1: wanted a whole number"):
        lf.widen(net, {"conv1": -1}, inputs=x)
    with pytest.raises(ArchitectureError, match=r"expected a torch\.nn\.Module"):
        lf.widen(len, 1)
    with pytest.raises(InputError, match=r"ResNet cannot take inputs of shape \[2, 4, 8, 8\].*3 channels"):
        lf.widen(net, 1, inputs=torch.zeros(2, 4, 8, 8))
    small = torch.randn(2, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ArchitectureError, match="its forward fixes sizes"):
        lf.widen(Fixed().eval(), 1, inputs=small)
    with pytest.raises(ArchitectureError, match="depends on the number of channels"):
        lf.widen(Counting().eval(), 1, inputs=small)


def test_weights_that_cannot_be_replaced_are_named():
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)).eval()
    tied = copy.deepcopy(net)
    tied[2].bias = tied[0].bias
    with pytest.raises(ArchitectureError, match=r"'2\.bias' is tied to '0\.bias'"):
        lf.widen(tied, 1)
    normed = copy.deepcopy(net)
    nn.utils.parametrizations.weight_norm(normed[2])
    with pytest.raises(ArchitectureError, match="'2' computes its weight from other parameters"):
        lf.widen(normed, 1)
    with pytest.raises(ArchitectureError, match="meta device"):
        lf.widen(copy.deepcopy(net).to("meta"), 1)
