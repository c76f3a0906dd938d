"""Gradient, curvature and worst case: closed forms on quadratics, naive references, and any kind of task."""

import copy
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from landform import Task, combine, gradient_line, hessian_plane, random_plane, worst_direction
from landform.errors import InputError, LandformError, UnknownNameError
from landform.subspace import cosine

torch.set_num_threads(1)


class Quadratic(nn.Module):
    """L(θ) = ½ (θ − c)ᵀ A (θ − c), through "mse" with one sample an eigenvector; A has the eigenvalues given."""

    def __init__(self, eigenvalues, at):
        super().__init__()
        n = len(eigenvalues)
        turn = torch.linalg.qr(torch.randn(n, n, generator=torch.Generator().manual_seed(1), dtype=torch.float64))[0]
        self.register_buffer("root", (turn * torch.tensor(eigenvalues, dtype=torch.float64).sqrt()).T)
        self.vectors = turn
        self.theta = nn.Parameter(torch.tensor(at, dtype=torch.float64))

    def forward(self, rows):
        return (self.root @ self.theta)[rows.flatten()][:, None]

    def task(self):
        n = len(self.root)
        data = (torch.arange(n)[:, None], torch.zeros(n, 1, dtype=torch.float64))
        return Task(self, loss=lambda out, y: (out - y).square().sum(1) * n / 2, data=data)


def classifier(seed=0, hidden=7):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(64, hidden), nn.BatchNorm1d(hidden), nn.Tanh(), nn.Linear(hidden, 10))


def small(n=40, **options):
    data = Task(classifier(), data="digits").data.subset(range(n))
    return Task(classifier(), data=data, **options)


def flat(direction, names):
    return torch.cat([direction[name].double().flatten() for name in names])


def dense_hessian(task, names):
    """The Hessian by another route: reverse over reverse, written out, of PyTorch's own loss."""
    model = copy.deepcopy(task.model).double().eval()
    shapes = [model.get_parameter(name).shape for name in names]

    def loss(vector):
        parts = vector.split([shape.numel() for shape in shapes])
        given = {name: part.reshape(shape) for name, part, shape in zip(names, parts, shapes, strict=True)}
        outputs = torch.func.functional_call(model, given, (task.data.inputs.double(),))
        return nn.functional.cross_entropy(outputs, task.data.targets)

    start = torch.cat([model.get_parameter(name).detach().flatten() for name in names])
    return loss, start, torch.autograd.functional.hessian(loss, start)


@pytest.mark.parametrize(("size", "which"), [(6, "largest"), (6, "smallest"), (6, "magnitude"), (90, "largest")])
def test_eigenvectors_of_a_quadratic(size, which):
    eigenvalues = np.geomspace(0.01, 30, size).tolist()
    model = Quadratic(eigenvalues, np.ones(size))
    plane = hessian_plane(model.task(), z=3, which=which, tolerance=1e-9, max_products=20_000)
    want = [0, 1, 2] if which == "smallest" else [size - 1, size - 2, size - 3]
    assert plane.meta["eigenvalues"] == pytest.approx([eigenvalues[k] for k in want], rel=1e-6)
    for axis, k in enumerate(want):
        direction = plane.directions[axis]["theta"]
        assert abs(float(direction @ model.vectors[:, k])) == pytest.approx(1, abs=1e-6)
        assert float(direction[direction.abs().argmax()]) > 0
    torch.testing.assert_close(cosine(plane), torch.eye(3, dtype=torch.float64), atol=1e-7, rtol=0)
    assert max(plane.meta["residuals"]) < 1e-6


def test_the_hessian_of_a_network_is_that_of_another_route():
    task = Task(classifier(hidden=2), data=small(20).data)
    names = ("0.weight", "0.bias", "1.weight", "1.bias", "3.weight", "3.bias")
    loss, start, hessian = dense_hessian(task, names)
    values, vectors = np.linalg.eigh(hessian.numpy())
    plane = hessian_plane(task, z=2, dtype=torch.float64, tolerance=1e-10, batch_size=13)  # unequal last batch
    assert plane.meta["eigenvalues"] == pytest.approx(values[::-1][:2].tolist(), rel=1e-8)
    for axis in range(2):
        assert abs(float(flat(plane.directions[axis], names).numpy() @ vectors[:, -1 - axis])) == pytest.approx(
            1, abs=1e-6
        )
    assert plane.meta["loss"] == pytest.approx(float(loss(start)))
    again = hessian_plane(task, z=2, dtype=torch.float64, tolerance=1e-10, batch_size=13)
    for one, two in zip(plane.directions, again.directions, strict=True):
        assert all(torch.equal(value, two[name]) for name, value in one.items())
    single = hessian_plane(task, z=2)
    assert single.meta["eigenvalues"] == pytest.approx(plane.meta["eigenvalues"], rel=1e-4)


def test_the_ggn_is_the_hessian_where_the_model_is_linear_and_never_negative():
    task = Task(nn.Linear(64, 10), data=small().data)
    one, two = (hessian_plane(task, z=2, curvature=kind, biases=False) for kind in ("hessian", "ggn"))
    assert one.meta["eigenvalues"] == pytest.approx(two.meta["eigenvalues"], rel=1e-4)
    low = hessian_plane(small(), z=1, curvature="ggn", which="smallest", include="3.bias", dtype=torch.float64)
    assert low.meta["eigenvalues"][0] == pytest.approx(0, abs=1e-12)  # softmax does not see a common shift
    assert hessian_plane(small(), z=1, which="smallest").meta["eigenvalues"][0] < 0


def test_a_part_of_the_data_and_of_the_parameters():
    task = small()
    plane = hessian_plane(task, z=1, samples=10, seed=3, include="3.*", dtype=torch.float64)
    assert plane.moved == ("3.weight", "3.bias")
    assert plane.meta["samples"] == 10
    index = torch.randperm(40, generator=torch.Generator().manual_seed(3))[:10].sort().values
    part = Task(task.model, data=task.data.subset(index))
    assert plane.meta["loss"] == pytest.approx(float(part.evaluate(dtype=torch.float64)))
    other = hessian_plane(part, z=1, include="3.*", dtype=torch.float64)
    assert other.meta["eigenvalues"] == pytest.approx(plane.meta["eigenvalues"])


def test_the_gradient_is_autograds_and_the_slope_of_the_surface():
    task = small()
    line = gradient_line(task, batch_size=13)
    model = copy.deepcopy(task.model).eval()
    nn.functional.cross_entropy(model(task.data.inputs), task.data.targets).backward()
    names = [name for name, _ in model.named_parameters()]
    gradient = flat({name: value.grad for name, value in model.named_parameters()}, names)
    torch.testing.assert_close(flat(line.directions[0], names), gradient / gradient.norm(), atol=1e-6, rtol=1e-5)
    assert line.meta["slope"] == pytest.approx(float(gradient.norm()), rel=1e-5)
    assert line.meta["loss"] == pytest.approx(float(task.evaluate()), rel=1e-6)
    up, down = (float(task.evaluate(line.at(torch.tensor([h])), dtype=torch.float64)) for h in (1e-3, -1e-3))
    assert (up - down) / 2e-3 == pytest.approx(line.meta["slope"], rel=1e-3)


@pytest.mark.parametrize("norm", ["filter", "layer", "model"])
def test_scaled_gradients_have_the_lengths_of_weights(norm):
    task = small()
    line = gradient_line(task, norm=norm, biases=False)
    (direction,) = line.directions
    for name in ("0.weight", "3.weight"):
        weight = task.model.get_parameter(name).detach()
        if norm == "filter":
            torch.testing.assert_close(direction[name].norm(dim=1), weight.norm(dim=1))
        if norm == "layer":
            torch.testing.assert_close(direction[name].norm(), weight.norm())
    whole = flat(direction, direction).norm()
    torch.testing.assert_close(whole, flat(line.origin, direction).norm(), rtol=1e-5, atol=0)
    assert line.meta["slope"] > 0


def test_filter_scaling_sees_no_rescaling_of_a_relu_network():
    """Multiply a filter by 4, divide what reads it by 4: the same function, and the same scaled line."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(64, 5, bias=False), nn.ReLU(), nn.Linear(5, 10, bias=False))
    other = copy.deepcopy(model)
    with torch.no_grad():
        other[0].weight.mul_(4)
        other[2].weight.div_(4)
    data = small().data
    profiles = []
    for each in (model, other):
        task = Task(each, data=data)
        line = gradient_line(task, norm="layer")
        profiles.append([float(task.evaluate(line.at(torch.tensor([h])))) for h in (-0.5, 0.0, 0.25, 1.0)])
    assert profiles[0] == pytest.approx(profiles[1], rel=1e-5)


@pytest.mark.parametrize("norm", ["model", "layer"])
def test_the_worst_direction_of_a_quadratic_is_the_top_eigenvector(norm):
    model = Quadratic([0.1, 0.5, 1.0, 2.0, 9.0], [0.0, 0.0, 0.0, 0.0, 1.0])
    with torch.no_grad():
        model.theta.copy_(torch.ones(5))
        centre = model.root @ model.theta
    task = Task(
        model,
        loss=lambda out, y: (out - y).square().sum(1) * 5 / 2,
        data=(torch.arange(5)[:, None], centre[:, None]),
    )  # the minimum is at θ itself
    line = worst_direction(task, radius=0.2, norm=norm, steps=200, starts=3, biases=True)
    length = 5**0.5
    assert line.meta["loss"] == pytest.approx(0, abs=1e-20)
    assert line.meta["worst"] == pytest.approx(0.5 * 9 * (0.2 * length) ** 2, rel=1e-3)
    direction = line.directions[0]["theta"] / length
    assert abs(float(direction @ model.vectors[:, 4])) == pytest.approx(1, abs=1e-3)
    assert float(task.evaluate(line.at(torch.tensor([0.2])))) == pytest.approx(line.meta["worst"])


def test_the_worst_is_worse_than_random_on_the_same_ball():
    task = small()
    line = worst_direction(task, radius=0.2, beside=6, steps=8)
    assert line.moved == ("0.weight", "3.weight")
    for name in line.moved:
        weight = task.model.get_parameter(name).detach()
        torch.testing.assert_close(line.directions[0][name].norm(dim=1), weight.norm(dim=1))
    assert len(line.meta["random"]) == 6
    assert line.meta["worst"] > max(max(pair) for pair in line.meta["random"])
    found = float(task.evaluate(line.at(torch.tensor([0.2]))))
    assert found == pytest.approx(line.meta["worst"], rel=1e-6)
    other = random_plane(task, z=1, seed=0)
    at = [float(task.evaluate(other.at(torch.tensor([h])))) for h in (0.2, -0.2)]
    assert line.meta["random"][0] == pytest.approx(at, rel=1e-6)
    assert worst_direction(task, radius=0.2, beside=0, steps=8).meta["worst"] == line.meta["worst"]


def test_combined_directions():
    task = small()
    worst, other = worst_direction(task, steps=2, beside=0), random_plane(task, z=1)
    plane = combine(worst, other)
    assert plane.z == 2
    assert plane.ranges == (worst.ranges[0], other.ranges[0])
    h = torch.tensor([0.3, 0.0])
    assert all(torch.equal(value, worst.at(h[:1])[name]) for name, value in plane.at(h).items())
    square = combine(worst, other, orthogonal=True)
    assert abs(float(cosine(square)[0, 1])) < 1e-7 < abs(float(cosine(plane)[0, 1]))
    for one, two in zip(plane.directions, square.directions, strict=True):
        torch.testing.assert_close(flat(one, one).norm(), flat(two, one).norm())
    with pytest.raises(InputError, match=r"subspace 2 goes through another point.*they differ in '0.weight'"):
        combine(worst, random_plane(classifier(seed=1)))
    with pytest.raises(InputError, match="subspace 2 is of another model than the first"):
        combine(worst, random_plane(nn.Linear(3, 2)))
    with pytest.raises(InputError, match="direction 2 lies in the space of the earlier ones"):
        combine(other, other, orthogonal=True)
    with pytest.raises(InputError, match=r"combine.. of no subspaces"):
        combine()


def test_models_are_left_as_found():
    task = small()
    model = task.model.train()
    model[0].weight.requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    torch.manual_seed(5)
    state = torch.get_rng_state()
    gradient_line(task)
    hessian_plane(task, z=1, samples=10)
    worst_direction(task, steps=2, beside=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [p.requires_grad for p in model.parameters()] == [False, *[True] * 5]
    assert all(p.grad is None for p in model.parameters())
    assert model.training
    assert model[1].training


def test_weights_ignored_labels_and_steps_count_as_in_the_task():
    base = small(12)
    targets = base.data.targets.clone()
    targets[::3] = -100
    loss = nn.CrossEntropyLoss(weight=torch.linspace(0.5, 2, 10))
    task = Task(base.model, loss=loss, data=(base.data.inputs, targets))
    line = gradient_line(task, batch_size=5)
    assert line.meta["loss"] == pytest.approx(float(task.evaluate()), rel=1e-6)
    by_step = Task(
        base.model,
        data=[(base.data.inputs, targets)],
        step=lambda model, batch: nn.functional.cross_entropy(model(batch[0]), batch[1], weight=loss.weight),
    )
    other = gradient_line(by_step)
    for name, value in line.directions[0].items():
        torch.testing.assert_close(other.directions[0][name], value, atol=1e-5, rtol=1e-4)
    one, two = (hessian_plane(each, z=1).meta["eigenvalues"] for each in (task, by_step))
    assert one == pytest.approx(two, rel=1e-4)


def test_a_transformer_with_tokens():
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(
        n_layer=1, n_head=2, n_embd=8, vocab_size=11, n_positions=6, bos_token_id=0, eos_token_id=0
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.GPT2LMHeadModel(config)
        tokens = torch.randint(0, 11, (4, 6))
    task = Task(model, loss="model", data={"input_ids": tokens, "labels": tokens})
    plane = hessian_plane(task, z=1, tolerance=1e-4)
    line = gradient_line(task)
    assert line.meta["loss"] == pytest.approx(float(task.evaluate()), rel=1e-5)
    h = 0.004
    around = [float(task.evaluate(plane.at(torch.tensor([k * h])), dtype=torch.float64)) for k in (-1, 0, 1)]
    second = (around[0] - 2 * around[1] + around[2]) / h**2
    assert second == pytest.approx(plane.meta["eigenvalues"][0], rel=0.05)


def test_bad_input():
    task = small(10)
    with pytest.raises(UnknownNameError, match="curvature 'hesian': did you mean 'hessian'"):
        hessian_plane(task, curvature="hesian")
    with pytest.raises(UnknownNameError, match="which= 'largst': did you mean 'largest'"):
        hessian_plane(task, which="largst")
    with pytest.raises(UnknownNameError, match="norm 'filtr': did you mean 'filter'"):
        gradient_line(task, norm="filtr")
    with pytest.raises(UnknownNameError, match="norm 'units'"):
        worst_direction(task, norm="units")
    with pytest.raises(InputError, match="more directions than parameters: z = 11, but only 10"):
        hessian_plane(task, z=11, include="3.bias")
    with pytest.raises(InputError, match=r"radius is -1; wanted a number above 0"):
        worst_direction(task, radius=-1)
    with pytest.raises(InputError, match="samples is 0; wanted at least 1"):
        gradient_line(task, samples=0)
    with pytest.raises(InputError, match=r"got a Linear; wanted a Task"):
        gradient_line(nn.Linear(2, 2))
    with pytest.raises(LandformError, match="data"):
        gradient_line(Task(nn.Linear(2, 2)))
    flat_model = Quadratic([1.0, 2.0], [0.0, 0.0])
    with pytest.raises(InputError, match="the gradient is zero"):
        gradient_line(flat_model.task())
    with pytest.raises(InputError, match="all that moves is zero"):
        worst_direction(flat_model.task(), biases=True, starts=1, beside=0)
    broken = classifier()
    with torch.no_grad():
        broken[3].bias[0] = torch.nan
    with pytest.raises(InputError, match="the loss is nan"):
        hessian_plane(Task(broken, data=task.data))
    with pytest.raises(InputError, match="is not finite"):
        gradient_line(Task(broken, data=task.data))
    crowded = Quadratic(np.linspace(1, 1.01, 90).tolist(), np.ones(90)).task()
    with pytest.raises(InputError, match=r"eigenvectors were found.*max_products"):
        hessian_plane(crowded, max_products=21, tolerance=1e-12)


def test_without_curvlinops_the_install_command_is_named():
    code = (
        "import sys; sys.modules['curvlinops'] = None\n"
        "import torch, landform as lf\n"
        "try: lf.hessian_plane(lf.Task(torch.nn.Linear(64, 10), data='digits'))\n"
        "except lf.LandformError as error: print(type(error).__name__, error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "MissingExtraError" in done.stdout
    assert "pip install 'landform[hessian]'" in done.stdout
