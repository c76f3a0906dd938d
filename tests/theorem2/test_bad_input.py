"""What Theorem 2 cannot do with what it is given: the error says what to do, and the model stays as it was."""

import contextlib
import copy

import pytest
import torch
from torch import nn

import landform as lf
from landform.errors import ArchitectureError, CapacityError, DataError, InputError, LandformError

BOWL = lf.Pattern.from_formula("sphere", resolution=4)
METHODS = ("offset", "per-sample")


@contextlib.contextmanager
def untouched(model):
    """Check that a model and the random generator are as they were."""
    state, training = copy.deepcopy(model.state_dict()), [m.training for m in model.modules()]
    flags, generator = [p.requires_grad for p in model.parameters()], torch.get_rng_state()
    yield
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert [m.training for m in model.modules()] == training
    assert [p.requires_grad for p in model.parameters()] == flags
    assert torch.equal(torch.get_rng_state(), generator)


def refused(task, error, words, **options):
    with untouched(task.model), pytest.raises(error, match=words):
        lf.imprint(BOWL, task, certify=False, **options)


def mlp(*widths, inputs=64, outputs=10):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten())
        for width in widths:
            model.extend([nn.Linear(inputs, width), nn.ReLU()])
            inputs = width
        model.append(nn.Linear(inputs, outputs))
    return model.eval()


def test_an_untrained_network():
    task = lf.Task(mlp(16, 16, 16, 16), data="digits")
    refused(task, InputError, "not trained, or not on these data", method="offset")
    refused(task, InputError, "labels are too noisy, or the network is not trained", method="per-sample", scores="own")
    refused(task, InputError, "a constant output has 2.302.* right, and .* not trained", method="per-sample")


@pytest.mark.parametrize(("method", "words"), [("offset", "not on these data"), ("per-sample", "not trained")])
def test_data_that_it_was_not_trained_on(trained, method, words):
    task = trained("mlp")
    order = torch.randperm(400, generator=torch.Generator().manual_seed(0))
    other = task.replace(data=(task.data.inputs, task.data.targets[order]))
    refused(other, InputError, words, method=method, scores="own")
    refused(other, InputError, "not trained, or not on these data", method=method)


@pytest.mark.parametrize("method", METHODS)
def test_more_classes_than_outputs(trained, method):
    task = trained("mlp")
    more = task.data.targets.clone()
    more[0] = 12
    refused(lf.Task(task.model, data=(task.data.inputs, more)), LandformError, "12|outputs", method=method)


@pytest.mark.parametrize("method", METHODS)
def test_images_of_another_size(trained, method):
    task = lf.Task(trained("mlp").model, data=(torch.rand(20, 9, 9).double(), torch.arange(20) % 10))
    refused(task, LandformError, r"mat1 and mat2|\[20, 9, 9\]|\[1, 9, 9\]", method=method)


def test_scores_fitted_to_noise_serve_next_to_nobody(trained):
    x = torch.randn(300, 64, generator=torch.Generator().manual_seed(0)).double()
    with torch.no_grad():
        labels = trained("mlp").model(x).argmax(dim=1)
    labels = torch.where(torch.arange(300) % 3 == 0, labels, torch.arange(300) % 10)  # a third is what it says
    noise = lf.Task(trained("mlp").model, data=(x, labels))
    refused(noise, InputError, r"of 300 have their scores on the right sides, \d+ by the margin", method="per-sample")


@pytest.mark.parametrize("method", METHODS)
def test_outputs_that_are_not_finite(trained, method):
    task = trained("mlp")
    broken = copy.deepcopy(task.model)
    with torch.no_grad():
        list(broken.parameters())[-1][3] = torch.inf
    with pytest.raises(LandformError, match="not finite"):
        lf.imprint(BOWL, lf.Task(broken, data=task.data), method=method)


def test_label_noise_raises_the_floor_and_then_is_refused(trained):
    task = trained("mlp")
    generator = torch.Generator().manual_seed(0)
    floors = []
    for share in (0.0, 0.2, 1.0):
        wrong = torch.rand(400, generator=generator) < share
        noisy = torch.where(wrong, (task.data.targets + 1) % 10, task.data.targets)
        other = task.replace(data=(task.data.inputs, noisy))
        if share > 0.9:
            refused(other, InputError, r"wrong on 100\.0 %.*too noisy", method="per-sample", scores="own")
        else:
            made = lf.imprint(BOWL, other, method="per-sample", scores="own", certify=False)
            assert made.range[0] >= -torch.log1p(-torch.tensor(made.meta["error"], dtype=torch.float64)) - 1e-12
            floors.append(made.range[0])
    assert floors[1] > floors[0]


def by_hand(size, outputs, *, inputs=4, last=None):
    """Return a network of five hidden layers that passes its first inputs on, times ``size`` in the last layer."""
    model = mlp(*[8] * 5, inputs=inputs, outputs=outputs)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        for layer in model[1:-1:2]:
            layer.weight[:inputs, :inputs] = torch.eye(inputs)
        model[-1].weight[:inputs, :inputs] = size * torch.eye(inputs) if last is None else last
    return model


def test_a_loss_of_zero_at_the_minimum():
    task = lf.Task(by_hand(1e2, 4), data=(torch.eye(4).repeat(3, 1), torch.arange(4).repeat(3)))
    assert float(task.evaluate()) == 0.0
    made = lf.imprint(BOWL, task, method="offset")
    assert made.range[0] == 0.0
    assert made.certificate.holds
    assert float(made.task.evaluate(made.subspace.at(torch.tensor([0.5, 0.5])))) == 0.0
    every = lf.imprint(BOWL, task, method="per-sample", scores="own")
    assert every.meta["served"] == 1.0
    refused(task, InputError, "a sample's loss is above 0", method="per-sample", range=(0.0, 1.0))


@pytest.mark.parametrize("size", [3e2, 3e3])
def test_outputs_so_far_apart_that_probabilities_are_0(size):
    task = lf.Task(by_hand(size, 4).double(), data=(torch.eye(4).repeat(3, 1).double(), torch.arange(4).repeat(3)))
    made = lf.imprint(BOWL, task, method="offset")
    assert made.certificate.holds
    assert made.certificate.relative_bound < 2e-3
    assert float(abs(lf.scan(made, grid=5).difference).max()) <= made.certificate.bound


def test_margins_too_small_say_how_many_samples():
    x = torch.linspace(-0.004, 0.004, 40)[:, None]
    y = (x[:, 0] > 0).long()
    model = by_hand(0.0, 2, inputs=1)
    with torch.no_grad():
        model[1].bias[0] = 1e4  # the feature is rounded to 1e-3
        model[-1].weight[1, 0], model[-1].bias[1] = 1.0, -1e4
    task = lf.Task(model, data=(x, y))
    words = r"\d+ of 40 have their scores on the right sides, (none|[123]) by the margin"
    refused(task, InputError, words, method="per-sample", scores="own", range=(0.3, 0.6))


@pytest.mark.parametrize("method", METHODS)
def test_a_layer_too_narrow_and_a_network_too_shallow(trained, method):
    task = trained("mlp")
    with untouched(task.model), pytest.raises(CapacityError, match=r"needs \d+ of them.*units='widen'"):
        lf.imprint(lf.Pattern.from_formula("ackley", resolution=32), task, method=method, units="reserve")
    shallow = mlp(32)
    x, y = task.data.inputs.float(), task.data.targets
    optimizer = torch.optim.Adam(shallow.parameters(), lr=0.01)
    for _ in range(40):
        optimizer.zero_grad()
        nn.functional.cross_entropy(shallow(x), y).backward()
        optimizer.step()
    for parameter in shallow.parameters():
        parameter.grad = None
    refused(lf.Task(shallow, data=(x, y)), CapacityError, "hidden", method=method)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("layer", [nn.Dropout(0.1), nn.BatchNorm1d(16)])
def test_train_mode_is_refused_and_dropout_in_eval_mode_is_not(trained, method, layer):
    model = mlp(16, 16, 16, 16)
    model.insert(2, layer)
    task = lf.Task(model.train(), data="digits")
    refused(task, ArchitectureError, r"train mode.*model\.eval\(\)", method=method)


def test_dropout_of_a_trained_network_changes_nothing(trained):
    plain = trained("mlp")
    model = copy.deepcopy(plain.model)
    model.insert(3, nn.Dropout(0.5)).eval()
    with untouched(model):
        made = lf.imprint(BOWL, lf.Task(model, data=plain.data), method="offset")
    assert made.certificate.holds
    assert made.range == lf.imprint(BOWL, plain, method="offset", certify=False).range


def test_class_weights_weigh_the_mean_that_follows_the_pattern(trained):
    plain = trained("mlp")
    by_class = torch.linspace(0.5, 3.0, 10, dtype=torch.float64)
    task = lf.Task(plain.model, nn.CrossEntropyLoss(weight=by_class), plain.data)
    made = lf.imprint(BOWL, task, method="offset")
    assert made.certificate.holds
    assert made.range[0] == pytest.approx(float(task.evaluate()), abs=1e-12)
    assert made.range[0] != pytest.approx(float(plain.evaluate()), rel=1e-3)
    for h in torch.rand(5, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64):
        outputs = torch.func.functional_call(made.model, made.subspace.at(h), (plain.data.inputs,))
        wanted = nn.functional.cross_entropy(outputs, plain.data.targets, weight=by_class)
        assert abs(float(wanted) - float(made.target(h[None]))) <= made.certificate.bound
    other = (plain.data.inputs[:100], plain.data.targets[:100])
    assert float(abs(lf.scan(made, grid=3, data=other).difference).max()) < 0.03
    with pytest.raises(InputError, match="per-sample' is built for cross-entropy"):
        lf.imprint(BOWL, task, method="per-sample")


def test_labels_that_are_no_classes(trained):
    task = trained("mlp")
    values = lf.Task(task.model, data=(task.data.inputs, torch.rand(400).double()))
    with untouched(task.model), pytest.raises((DataError, InputError)):
        lf.imprint(BOWL, values, method="offset")
