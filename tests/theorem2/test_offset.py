"""Theorem 2, offset: the trained network keeps its predictions at h*, its loss is the floor, the pattern lies above."""

import copy

import pytest
import torch
from torch import nn
from torch.func import functional_call

import landform as lf
from landform.errors import ArchitectureError, CapacityError, FloorError, InputError, UnknownNameError
from landform.imprint.other_data import offset_transfer
from landform.response.offset import OffsetResponse

BOWL = lf.Pattern.from_formula("sphere", resolution=4)
CENTRE = torch.tensor([0.5, 0.5], dtype=torch.float64)


def losses(made, points):
    return torch.stack([made.task.evaluate(made.subspace.at(h)).reshape(()) for h in points])


def points(made, count=10):
    h = torch.rand(count, made.z, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    return torch.cat([h, made.pattern.mesh.nodes()[:: max(1, made.pattern.mesh.n_nodes // 8)]])


def outputs(made, h):
    with torch.no_grad():
        return functional_call(made.model, made.subspace.at(h), (made.task.data.inputs,))


@pytest.mark.parametrize("kind", ["mlp", "bn", "leaky", "cnn", "mse", "bce"])
def test_the_loss_follows_the_pattern_within_the_proof(trained, kind):
    task = trained(kind)
    made = lf.imprint(BOWL, task, method="offset")
    proof = made.certificate
    h = points(made)
    assert proof.holds
    assert proof.kind == "certified"
    assert proof.register + proof.rounding < 1e-6
    assert (losses(made, h) - made.target(h)).abs().max() <= proof.bound < 0.2


@pytest.mark.parametrize("kind", ["mlp", "cnn"])
def test_float32_stays_within_its_proof_too(trained, kind):
    made = lf.imprint(BOWL, trained(kind, torch.float32), method="offset")
    h = points(made)
    assert made.certificate.holds
    assert (losses(made, h) - made.target(h)).abs().max() <= made.certificate.bound


@pytest.mark.parametrize("kind", ["mlp", "bn", "cnn"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_at_the_minimum_the_network_is_the_trained_one(trained, kind, dtype):
    task = trained(kind, dtype)
    made = lf.imprint(BOWL, task, method="offset", certify=False)
    with torch.no_grad():
        before = task.model(task.data.inputs)
    after = outputs(made, CENTRE)
    assert torch.equal(before.argmax(dim=1), after.argmax(dim=1))
    assert (before - after).abs().max() <= (1e-4 if dtype == torch.float32 else 1e-12)
    assert float(made.task.evaluate(made.subspace.at(CENTRE))) == pytest.approx(made.range[0], abs=1e-15)
    assert all(float(v) >= made.range[0] - 1e-12 for v in losses(made, points(made)))


def test_widening_keeps_the_trained_weights_bit_for_bit(trained):
    task = trained()
    before = copy.deepcopy(task.model.state_dict())
    made = lf.imprint(BOWL, task, method="offset", certify=False)
    for name, value in before.items():
        now = made.model.state_dict()[name]
        assert torch.equal(now[tuple(slice(size) for size in value.shape)], value) or name.endswith("11.bias"), name
        assert torch.equal(task.model.state_dict()[name], value), name


def test_reserving_keeps_shapes_and_outputs_bit_for_bit_over_h(trained):
    task = trained("wide", torch.float32)
    made = lf.imprint(BOWL, task, method="offset", units="reserve")
    assert {n: p.shape for n, p in made.model.named_parameters()} == {
        n: p.shape for n, p in task.model.named_parameters()
    }
    assert made.meta["accuracy"] > 0.8
    assert made.certificate.holds
    features = made.model[:-1]
    free = set(made.meta["channels"][-1])
    kept = [c for c in range(96) if c not in free]
    seen = []
    for h in (CENTRE, torch.tensor([0.0, 1.0], dtype=torch.float64)):
        parameters = {n: v for n, v in made.subspace.at(h).items() if n in dict(features.named_parameters())}
        with torch.no_grad():
            seen.append(functional_call(features, parameters, (task.data.inputs,))[:, kept])
    assert torch.equal(*seen)


def test_rho_is_the_loss_of_moved_outputs(trained):
    task = trained("mlp")
    made = lf.imprint(BOWL, task, method="offset", certify=False)
    response = made.response
    s = torch.tensor([0.0, 0.5, 3.0], dtype=torch.float64)
    with torch.no_grad():
        f = task.model(task.data.inputs)
    wanted = [nn.functional.cross_entropy(f + x * response.v, task.data.targets) for x in s]
    assert torch.allclose(response.loss(s[:, None]), torch.stack(wanted), atol=1e-12)
    assert abs(response.start()) < 1e-12
    t = response.loss(s[:, None])
    assert torch.allclose(response.inverse(t), s, atol=1e-5)
    grid = torch.linspace(0, 4, 200, dtype=torch.float64)  # beyond 64 points: interpolated, to choose knots by
    assert torch.allclose(response.along(grid), response.loss(grid[:, None]), atol=1e-10)


def test_two_classes_leave_one_direction_and_the_loss_never_falls_below_the_trained_one():
    x = torch.randn(60, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    logits = torch.stack([x[:, 0], -x[:, 0]], dim=1) * 2 + torch.tensor([0.3, 0.0])
    response = OffsetResponse.build(logits, (x[:, 0] < 0).long(), "cross_entropy")
    assert response.start() >= 0
    s = torch.linspace(0, 3, 50, dtype=torch.float64)
    assert (response.loss(s[:, None]).diff() > 0).all()


def test_the_bundle_proves_again_without_data_and_refuses_altered_weights(trained, tmp_path):
    made = lf.imprint(BOWL, trained("mlp"), method="offset")
    loaded = lf.load(made.save(tmp_path / "bowl.landform"))
    assert loaded.task is None
    again = lf.certify(loaded)
    assert again.holds
    assert again.bound == pytest.approx(made.certificate.bound, rel=1e-9)
    channel = made.meta["channels"][1][0]
    loaded.subspace.origin["3.weight"][channel, 0] = 0.5  # the pattern now reads a trained feature
    failed = lf.certify(loaded)
    assert not failed.holds
    assert "read or feed other channels" in failed.failures[0]


def test_a_scan_measures_all_samples_and_other_data_are_predicted(trained):
    task = trained("mlp")
    made = lf.imprint(BOWL, task, method="offset", certify=False)
    surface = lf.scan(made, grid=3)
    assert float(abs(surface.difference).max()) < 0.01
    digits = lf.load_data("digits")
    other = (digits.inputs[400:600].double(), digits.targets[400:600])
    predicted = offset_transfer(made, other)
    assert predicted.order in ("kept", "folded")
    moved = lf.scan(made, grid=3, data=other)
    assert float(abs(moved.difference).max()) < 0.03
    assert predicted.monotone == predicted.identical == (predicted.start >= 0)
    t = torch.linspace(*made.range, 9, dtype=torch.float64)
    assert torch.equal(lf.transfer(made, other).remap(t), predicted.remap(t))


def test_accounting_adds_up(trained):
    made = lf.imprint(BOWL, trained("mlp"), method="offset", certify=False)
    found = lf.account(made)
    assert (found.difference <= found.mean + 1e-9).all()
    assert found.histogram()[0].sum() == 400
    assert found.served < 0.5  # only the mean follows the pattern
    assert "samples" in str(found)


def test_too_few_layers_fall_back_and_say_so():
    torch.manual_seed(0)
    x = torch.randn(100, 5)
    y = (x[:, 0] > 0).long() + (x[:, 1] > 0).long()
    model = nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU())
    model.append(nn.Linear(16, 3))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(100):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    made = lf.imprint(BOWL, lf.Task(model.eval(), data=(x, y)), method="offset")
    assert made.meta["direct"]
    h = points(made)
    assert (losses(made, h) - made.target(h)).abs().max() <= made.certificate.bound


def untrained():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 10)).eval()


@pytest.mark.parametrize("method", ["offset", "per-sample"])
def test_the_random_generator_is_left_as_it_was(trained, method):
    task = trained("cnn")
    before = torch.random.get_rng_state()
    lf.imprint(BOWL, task, method=method)
    assert torch.equal(before, torch.random.get_rng_state())


def test_bad_input(trained):
    task = trained("mlp")
    state = copy.deepcopy(task.model.state_dict())
    digits = lf.load_data("digits")
    with pytest.raises(InputError, match="not trained"):
        lf.imprint(BOWL, lf.Task(untrained(), data=digits), method="offset")
    shuffled = (task.data.inputs, task.data.targets[torch.randperm(400, generator=torch.Generator().manual_seed(0))])
    with pytest.raises(InputError, match="not trained, or not on these data"):
        lf.imprint(BOWL, lf.Task(task.model, data=shuffled), method="offset")
    with pytest.raises(InputError, match="trained network"):
        lf.imprint(BOWL, "digits", method="offset")
    with pytest.raises(UnknownNameError, match="widen"):
        lf.imprint(BOWL, task, method="offset", units="widenn")
    with pytest.raises(UnknownNameError, match="offset"):
        lf.imprint(BOWL, task, method="ofset")
    with pytest.raises(FloorError, match="trained loss"):
        lf.imprint(BOWL, task, method="offset", range=(0.0, 1.0))
    with pytest.raises(CapacityError, match=r"reserv|leave nothing"):
        lf.imprint(lf.Pattern.from_formula("ackley", resolution=16), task, method="offset", units="reserve")
    smoothed = lf.Task(task.model, nn.CrossEntropyLoss(label_smoothing=0.1), task.data)
    with pytest.raises(InputError, match="without further options"):
        lf.imprint(BOWL, smoothed, method="offset")
    dropping = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Dropout(), nn.Linear(8, 10)).train()
    with pytest.raises(ArchitectureError, match="train mode"):
        lf.imprint(BOWL, lf.Task(dropping, data=digits), method="offset")
    assert all(torch.equal(value, state[name]) for name, value in task.model.state_dict().items())
