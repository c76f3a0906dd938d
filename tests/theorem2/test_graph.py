"""Theorem 2 in networks that branch: residual sums, concatenations, depthwise convolutions, norms."""

import copy

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional

import landform as lf
from landform.errors import ArchitectureError, CapacityError, InputError
from landform.imprint.beside import head_columns, narrowed, put, resized, trunk_of
from landform.imprint.branching import used_channels
from landform.imprint.lower.network import read
from landform.imprint.reserve import reserve
from landform.imprint.widen import widen_trunk
from landform.testing import pretrained
from landform.testing.networks import Basic, Dense, Inverted, Preact, ResNet

BOWL = lf.Pattern.from_formula("sphere", resolution=4)
CENTRE = torch.tensor([0.5, 0.5], dtype=torch.float64)
POINTS = torch.tensor([[0.5, 0.5], [0.25, 0.75], [0.0, 0.0], [1.0, 1.0], [0.137, 0.81], [0.62, 0.44]]).double()


def network(kind, width=12):
    """Build a small net of a family, for images of 3 × 8 × 8."""
    stem = [nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    tail = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10)]
    if kind == "resnet":
        return ResNet(width, ((width, 1), (2 * width, 2)), 2)
    if kind == "preact":
        body = [Preact(width) for _ in range(4)]
        return nn.Sequential(*stem, *body, nn.BatchNorm2d(width), nn.ReLU(), *tail)
    if kind == "mobile":
        return nn.Sequential(*stem, *[Inverted(width, 2) for _ in range(5)], *tail)
    layers = [Dense(width + 8 * number, 8) for number in range(5)]
    last = width + 40
    return nn.Sequential(*stem, *layers, nn.BatchNorm2d(last), nn.ReLU(), *tail[:2], nn.Linear(last, 10))


def build(kind, dtype, width=12):
    """Train a net on 200 digits until it is better than a constant."""
    digits = lf.load_data("digits")
    x = digits.inputs[:200].reshape(-1, 1, 8, 8).repeat(1, 3, 1, 1).to(dtype)
    y = digits.targets[:200]
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = network(kind, width).to(dtype)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 0.4  # few steps
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
        for _ in range(12):
            for part in range(2):
                rows = slice(100 * part, 100 * part + 100)
                optimizer.zero_grad()
                functional.cross_entropy(model(x[rows]), y[rows]).backward()
                optimizer.step()
    return lf.Task(model.eval(), data=(x, y))


@pytest.fixture(scope="module")
def branching():
    """Return a function (kind, dtype) → task, each trained once."""
    made = {}

    def get(kind="resnet", dtype=torch.float64, width=12):
        if (kind, dtype, width) not in made:
            made[kind, dtype, width] = build(kind, dtype, width)
        return made[kind, dtype, width]

    return get


def losses(made):
    return torch.stack([made.task.evaluate(made.subspace.at(h)).reshape(()) for h in POINTS])


def outputs(made, h):
    with torch.no_grad():
        return functional_call(made.model, made.subspace.at(h), (made.task.data.inputs,))


@pytest.mark.parametrize("kind", ["resnet", "preact", "mobile", "dense"])
def test_the_loss_follows_the_pattern_within_the_proof(branching, kind):
    task = branching(kind)
    before = copy.deepcopy(task.model.state_dict())
    made = lf.imprint(BOWL, task, method="offset")
    assert made.certificate.holds, made.certificate.failures
    assert made.certificate.kind == "certified"
    assert made.certificate.register + made.certificate.rounding < 1e-6
    assert (losses(made) - made.target(POINTS)).abs().max() <= made.certificate.bound < 2e-3
    with torch.no_grad():
        given = task.model(task.data.inputs)
    after = outputs(made, CENTRE)
    assert torch.equal(given.argmax(dim=1), after.argmax(dim=1))
    assert (given - after).abs().max() < 1e-9
    assert float(made.task.evaluate(made.subspace.at(CENTRE))) == pytest.approx(made.range[0], abs=1e-14)
    assert all(torch.equal(value, before[name]) for name, value in task.model.state_dict().items())


def test_float32_and_reserving_keep_shapes_and_outputs_bit_for_bit(branching):
    task = branching("resnet", torch.float32, 24)
    made = lf.imprint(BOWL, task, method="offset", units="reserve", epsilon=1e-2)
    shapes = {name: p.shape for name, p in task.model.named_parameters()}
    assert {name: p.shape for name, p in made.model.named_parameters()} == shapes
    assert made.meta["accuracy"] > 0.8
    assert made.certificate.holds
    assert (losses(made) - made.target(POINTS)).abs().max() <= made.certificate.bound
    assert torch.equal(outputs(made, CENTRE).double(), made.response.logits)  # the network after reserving, bit for bit


def test_what_the_head_reads_of_the_pattern_knows_no_input_and_the_rest_knows_no_h(branching):
    made = lf.imprint(BOWL, branching("resnet", torch.float32), method="offset", certify=False)
    trunk = trunk_of(read(made.model))
    own = head_columns(made.model, trunk, made.meta["channels"])
    seen = []
    hook = made.model.fc.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    for h in POINTS[1:3]:
        outputs(made, h)
    hook.remove()
    others = [c for c in range(seen[0].shape[1]) if c not in own.tolist()]
    assert all(bool((part[:, own] == part[:1, own]).all()) for part in seen)
    assert not torch.equal(seen[0][:, own], seen[1][:, own])
    assert torch.equal(seen[0][:, others], seen[1][:, others])


def test_every_sample_is_accounted_for_and_other_data_are_predicted(branching):
    task = branching("resnet")
    digits = lf.load_data("digits")
    other = digits.inputs[200:300].reshape(-1, 1, 8, 8).repeat(1, 3, 1, 1).double(), digits.targets[200:300]
    made = lf.imprint(BOWL, task, method="per-sample")
    assert made.certificate.holds, made.certificate.failures
    account = lf.account(made, points=POINTS)
    assert account.served > 0.9
    assert account.row["max_served"] <= made.certificate.bound
    assert (account.difference <= account.mean + 1e-12).all()
    surface = lf.scan(made, grid=3, data=other)
    assert float(abs(surface.difference).max()) < 1e-3


def test_the_bundle_proves_again_and_refuses_altered_weights(branching, tmp_path):
    made = lf.imprint(BOWL, branching("resnet"), method="offset")
    made.save(tmp_path / "bowl.landform")
    loaded = lf.load(tmp_path / "bowl.landform", model=copy.deepcopy(made.model))
    again = lf.certify(loaded)
    assert again.holds
    assert again.bound == pytest.approx(made.certificate.bound, rel=1e-9)
    trunk = trunk_of(read(loaded.model))
    place = trunk.places(loaded.meta["channels"])["blocks.1.conv2"][0]
    loaded.subspace.origin["blocks.1.conv2.weight"][place, 0, 0, 0] = 0.5  # the pattern now reads a trained feature
    failed = lf.certify(loaded)
    assert not failed.holds
    assert "read or feed other channels" in failed.failures[0]


@pytest.mark.parametrize("kind", ["resnet", "preact", "mobile", "dense"])
def test_widening_keeps_every_weight_and_the_outputs(branching, kind):
    task = branching(kind)
    trunk = trunk_of(read(task.model))
    wide, new, channels = widen_trunk(task.model, trunk, [3] * len(trunk.hidden))
    assert all(len(part) == 3 for part in channels)
    kept = [range(space.width) for space in trunk.hidden]
    for member in new.members:
        rows = new.joined(member.makes, kept)
        source, target = task.model.get_submodule(member.name), wide.get_submodule(member.name)
        part = target.weight[rows]
        if member.kind == "map" and member.reads and not member.depthwise:
            part = part[:, new.joined(member.reads, kept)]
        assert torch.equal(part, source.weight), member.name
    with torch.no_grad():
        assert (wide(task.data.inputs) - task.model(task.data.inputs)).abs().max() < 1e-12


def test_reserved_channels_are_those_that_matter_least_and_feed_nobody(branching):
    model = copy.deepcopy(branching("resnet").model)
    with torch.no_grad():  # the fourth channel of the first stream is idle
        model.bn1.weight[3] = model.bn1.bias[3] = 0
        for block in model.blocks[:2]:
            block.bn2.weight[3] = block.bn2.bias[3] = 0
    task = branching("resnet").replace(model=model)
    trunk = trunk_of(read(model))
    freed, channels = reserve(model, trunk, [1, *[0] * (len(trunk.hidden) - 1)], task)
    assert channels[0] == [3]
    reader = freed.blocks[0].conv1.weight
    assert not reader[:, 3].any()
    assert reader[:, :3].any()


def test_channels_that_nothing_uses_are_found(branching):
    model = branching("resnet").model
    trunk = trunk_of(read(model))
    widths = [4] * len(trunk.hidden)
    small = resized(model, trunk, widths, 1)
    parameters = {name: p.detach().clone() for name, p in small.named_parameters()}
    parameters["blocks.0.bn2.bias"][2] = 1.0
    parameters["fc.weight"][0, 1] = 1.0
    used = used_channels(trunk, widths, parameters)
    assert [part.nonzero().flatten().tolist() for part in used] == [[2], [], [], [], [1], []]


def test_a_network_with_too_few_channels_says_what_it_holds(branching):
    task = branching("resnet")
    with pytest.raises(CapacityError, match=r"(?s)spaces of 12, 24 channels.*at most 75%.*units='widen'"):
        lf.imprint(lf.Pattern.from_formula("ackley", resolution=64), task, method="offset", units="reserve")
    with pytest.raises(CapacityError, match="leave nothing of the trained network"):
        reserve(task.model, trunk_of(read(task.model)), [12] * 6, task)


def test_what_theorem_2_is_not_built_for_is_named(branching):
    class Grouped(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), Basic(8, 8, 1), nn.Conv2d(8, 8, 3, groups=2))
            self.fc = nn.Linear(8, 10)

        def forward(self, x):
            return self.fc(torch.relu(self.body(x)).mean((2, 3)))

    data = branching("resnet").data
    with pytest.raises(ArchitectureError, match=r"'body.3' has 2 groups for 8 → 8 channels.*method='constant'"):
        lf.imprint(BOWL, lf.Task(Grouped().double().eval(), data=(data.inputs, data.targets)), method="offset")
    untrained = lf.Task(ResNet(8, ((8, 1), (16, 2)), 2).double().eval(), data=(data.inputs, data.targets))
    with pytest.raises(InputError, match="it is not trained"):
        lf.imprint(BOWL, untrained, method="offset")
    with pytest.raises(ArchitectureError, match="train mode"):
        lf.imprint(BOWL, untrained.replace(model=ResNet(8, ((8, 1),), 2).double().train()), method="offset")


def test_the_network_of_some_channels_is_the_same_kind_of_network(branching):
    model = branching("dense").model
    trunk = trunk_of(read(model))
    small = narrowed(model, trunk, [[0, 1]] * len(trunk.hidden))
    assert trunk_of(read(small)).members == trunk.members
    assert {space.width for space in trunk_of(read(small)).hidden} == {2}


def last(width=24):
    """Build a chain that flattens with its channels last and has slopes of its own, as MTCNN's networks do."""

    class Last(nn.Module):
        def forward(self, x):
            return x.permute(0, 3, 2, 1).contiguous().view(x.shape[0], -1)

    layers = [nn.Conv2d(3, width, 3, stride=2), nn.PReLU(width)]
    for _ in range(3):
        layers += [nn.Conv2d(width, width, 3, padding=1), nn.PReLU(width)]
    return nn.Sequential(*layers, Last(), nn.Linear(9 * width, 24), nn.PReLU(24), nn.Linear(24, 2))


@pytest.mark.parametrize("units", ["widen", "reserve"])
def test_channels_that_are_flattened_last_and_slopes_are_kept_apart_too(units):
    digits = lf.load_data("digits")
    x = digits.inputs[:200].reshape(-1, 1, 8, 8).repeat(1, 3, 1, 1).double()
    y = digits.targets[:200] % 2
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = last().double()
        optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
        for _ in range(30):
            optimizer.zero_grad()
            functional.cross_entropy(model(x), y).backward()
            optimizer.step()
    made = lf.imprint(BOWL, lf.Task(model.eval(), data=(x, y)), method="offset", units=units, epsilon=2e-2)
    assert made.certificate.holds, made.certificate.failures
    assert (losses(made) - made.target(POINTS)).abs().max() <= made.certificate.bound
    assert torch.equal(outputs(made, CENTRE), made.response.logits)
    for number, own in zip((1, 3, 5, 7, 10), made.meta["channels"], strict=True):
        assert not made.model[number].weight[own].any()  # a ReLU for the pattern, PReLU for the rest
        assert int((made.model[number].weight != 0).sum()) == len(made.model[number].weight) - len(own)


def test_channels_that_are_still_read_are_not_written(branching):
    model = copy.deepcopy(branching("resnet").model)
    trunk = trunk_of(read(model))
    channels = [[0]] * len(trunk.hidden)
    small = dict(narrowed(model, trunk, channels).named_parameters())
    with pytest.raises(ArchitectureError, match=r"'blocks.0.conv1' reads channels .* must be freed first"):
        put(model, trunk, channels, small, torch.ones(10).double())


@pytest.mark.parametrize("units", ["widen", "reserve"])
def test_the_pretrained_classifier_of_faces_keeps_its_predictions(units):
    net = pretrained.face_score()
    if net is None:
        pytest.skip("its package is not installed")
    data = pytest.importorskip("skimage.data")
    faces = torch.from_numpy(data.lfw_subset()).float()[::5, None]
    x = 2 * functional.interpolate(faces, size=48, mode="bilinear").repeat(1, 3, 1, 1) - 1
    y = (torch.arange(200) < 100).long()[::5]
    made = lf.imprint(BOWL, lf.Task(net, data=(x, y)), method="offset", units=units)
    with torch.no_grad():
        before = net(x)
    assert made.certificate.holds
    assert made.certificate.relative_bound < 5e-3
    assert (losses(made) - made.target(POINTS)).abs().max() <= made.certificate.bound
    after = outputs(made, CENTRE)
    assert torch.equal(before.argmax(dim=1), after.argmax(dim=1))
    assert units == "reserve" or (before - after).abs().max() < 1e-4


def test_a_sum_is_proved_beside_channels_that_are_one(branching):
    generator = torch.Generator().manual_seed(0)
    pattern = lf.SumPattern.from_axes(list(torch.rand(3, 5, generator=generator, dtype=torch.float64)))
    made = lf.imprint(pattern, branching("resnet"), method="offset")
    h = torch.rand(4, 3, generator=generator, dtype=torch.float64)
    measured = torch.stack([made.task.evaluate(made.subspace.at(point)).reshape(()) for point in h])
    assert made.certificate.holds
    assert made.certificate.register < 1e-9
    assert (measured - made.target(h)).abs().max() <= made.certificate.bound < 1e-3
