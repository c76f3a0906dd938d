"""The line through two checkpoints, the plane through three."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from landform import Task, between, plane_through, scan
from landform.errors import ArchitectureError, InputError
from landform.subspace import cosine


def network(seed, dtype=torch.float32):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))
        nn.init.normal_(model[1].running_mean)
        nn.init.uniform_(model[1].weight)
    return model.to(dtype)


NAMES = {name for name, _ in network(0).named_parameters()}


@pytest.mark.parametrize("left", ["model", "state"])
@pytest.mark.parametrize("right", ["model", "state", "parameters"])
def test_the_ends_are_the_checkpoints(left, right):
    a, b = network(1), network(2)
    forms = {
        "model": lambda m: m,
        "state": lambda m: m.state_dict(),
        "parameters": lambda m: dict(m.named_parameters()),
    }
    line = between(forms[left](a), forms[right](b))
    assert (line.z, set(line.origin)) == (1, NAMES)
    assert not any("running" in name or "num_batches" in name for name in line.moved)
    for h, model in ((0.0, a), (1.0, b)):
        for name, value in line.at(torch.tensor([h])).items():
            torch.testing.assert_close(value, model.get_parameter(name).detach(), rtol=0, atol=1e-7)
            assert not value.requires_grad


def test_a_model_gives_the_names_of_checkpoints_with_a_prefix(tmp_path):
    model, other = nn.Linear(3, 2), nn.Linear(3, 2)
    files = []
    for number, network in enumerate((model, other, nn.Linear(3, 2))):
        files.append(tmp_path / f"{number}.ckpt")
        torch.save({"state_dict": {f"model.{name}": value for name, value in network.state_dict().items()}}, files[-1])
    assert set(between(*files[:2]).origin) == {"model.weight", "model.bias"}
    task = Task(model, "mse", (torch.randn(5, 3), torch.randn(5, 2)))
    line = between(*files[:2], model=task)
    torch.testing.assert_close(line.at(torch.tensor([1.0]))["weight"], other.weight.detach())
    assert float(scan(task, line, grid=2, progress=False).loss[0]) == pytest.approx(float(task.evaluate()), rel=1e-6)
    assert set(plane_through(*files, model=model).origin) == {"weight", "bias"}
    with pytest.raises(InputError, match="'weight' has shape"):
        between(*files[:2], model=nn.Linear(4, 2))


def test_the_line_goes_on_beyond_and_backwards():
    a, b = network(1, torch.float64), network(2, torch.float64)
    line, back = between(a, b), between(b, a)
    for h in (-0.25, 0.3, 1.5):
        there, here = line.at(torch.tensor([h])), back.at(torch.tensor([1 - h]))
        for name in NAMES:
            want = (1 - h) * a.get_parameter(name) + h * b.get_parameter(name)
            torch.testing.assert_close(there[name], want.detach(), atol=1e-6, rtol=0)
            torch.testing.assert_close(here[name], there[name], atol=1e-6, rtol=0)


def test_what_agrees_is_not_moved_and_nothing_is_shared():
    a = network(1)
    b = copy.deepcopy(a)
    with torch.no_grad():
        b[3].weight[0, 0] += 1
    line = between(a, b)
    assert line.moved == ("3.weight",)
    with torch.no_grad():
        a[3].weight.zero_()
        b[3].weight.zero_()
    assert float(line.at(torch.tensor([1.0]))["3.weight"].abs().sum()) > 1


def test_other_buffers_are_known_from_a_model_on_either_side():
    a, b = nn.Linear(2, 2), nn.Linear(2, 2)
    for number, model in enumerate((a, b)):
        model.register_buffer("frequencies", torch.full((3,), float(number)))
    for left, right in ((a, b.state_dict()), (a.state_dict(), b), (a, b)):
        assert between(left, right).moved == ("weight", "bias")
    assert "frequencies" in between(a.state_dict(), b.state_dict()).moved  # nothing there says that it is one


def test_tied_parameters_are_one():
    def tied(seed):
        model = nn.ModuleDict({"table": nn.Embedding(6, 3), "head": nn.Linear(3, 6)})
        nn.init.normal_(model["table"].weight, generator=torch.Generator().manual_seed(seed))
        model["head"].weight = model["table"].weight
        return model

    a, b = tied(0), tied(1)
    loose = {name: value.clone() for name, value in b.state_dict().items()}  # as some formats load them
    for left, right in ((a, b), (a.state_dict(), b.state_dict()), (a, loose)):
        assert set(between(left, right).origin) == {"table.weight", "head.bias"}
    loose["head.weight"] += 1
    assert "head.weight" in between(a, loose).moved


def test_half_precision_differences_are_kept_in_single():
    a, b = {"w": torch.tensor([1.0, 256.0]).bfloat16()}, {"w": torch.tensor([1.5, 257.5])}
    line = between(a, b)
    assert line.directions[0]["w"].dtype == torch.float32
    assert line.directions[0]["w"].tolist() == [0.5, 1.5]


def test_a_plane_goes_through_its_three_points():
    a, b, c = (network(seed, torch.float64) for seed in (1, 2, 3))
    plane = plane_through(a, b.state_dict(), c)
    for h, model in (((0, 0), a), ((1, 0), b), ((0, 1), c)):
        for name, value in plane.at(torch.tensor(h, dtype=torch.float64)).items():
            torch.testing.assert_close(value, model.get_parameter(name).detach(), rtol=0, atol=1e-15)
    turned = plane_through(a, c, b)
    assert float(cosine(turned)[0, 1]) == pytest.approx(float(cosine(plane)[0, 1]))
    assert 0.1 < float(cosine(plane)[0, 1]) < 0.9  # a is the corner of a triangle, not of a square


def test_a_scan_along_a_line_is_the_loss_at_its_points():
    a, b = network(1), network(2)
    data = (torch.randn(16, 3, generator=torch.Generator().manual_seed(0)), torch.arange(16) % 2)
    surface = scan(Task(a, data=data), between(a, b), grid=5, ranges=[(-0.5, 1.5)])
    direct = []
    for h in surface.h1.values:
        mixed = copy.deepcopy(a).eval()  # with the buffers of a
        with torch.no_grad():
            for value, p, q in zip(mixed.parameters(), a.parameters(), b.parameters(), strict=True):
                value.copy_((1 - h) * p + h * q)
            direct.append(nn.functional.cross_entropy(mixed(data[0]).double(), data[1]).item())
    np.testing.assert_allclose(surface.loss.values, direct, rtol=1e-5)


@pytest.mark.parametrize(
    ("a", "b", "text"),
    [
        (
            {"u": torch.ones(1), "w": torch.ones(2)},
            {"u": torch.ones(1)},
            "differ first at 'w', which a has and b has not",
        ),
        (
            {"u": torch.ones(1)},
            {"u": torch.ones(1), "v": torch.ones(2)},
            "differ first at 'v', which b has and a has not",
        ),
        ({"u": torch.ones(1, 2)}, {"u": torch.ones(2)}, r"'u' has shape \[1, 2\] in a, \[2\] in b"),
        ({"u": torch.ones(2)}, {"u": torch.ones(2)}, "a and b have the same parameters.*copy.deepcopy"),
        ({"u": torch.ones(1)}, {"u": torch.tensor([torch.nan])}, "b has values in 'u' that are not finite"),
        (
            {"u": torch.ones(1)},
            {"model": {"u": torch.ones(1)}},
            "b has a dict under 'model'; wanted a mapping of names",
        ),
        ({"n": torch.arange(3)}, {"n": torch.arange(3)}, "a has no floating-point parameters"),
        ([torch.ones(2)], {"u": torch.ones(2)}, "a is a list; wanted a torch.nn.Module, a state dict or a file"),
    ],
)
def test_points_that_do_not_fit(a, b, text):
    with pytest.raises(InputError, match=text):
        between(a, b)


def test_lazy_models_and_points_on_a_line():
    with pytest.raises(ArchitectureError, match="has no values"):
        between(nn.LazyLinear(2), nn.Linear(2, 2))
    with pytest.raises(ArchitectureError, match=r"b has no values in 'weight' \(meta device\)"):
        between(nn.Linear(2, 2), nn.Linear(2, 2, device="meta").state_dict())
    a, b = network(1), network(2)
    middle = between(a, b).at(torch.tensor([0.4]))
    with pytest.raises(InputError, match=r"a, b and c are on one line .*take a third point off the line"):
        plane_through(a, b, middle)
    with pytest.raises(InputError, match="a and c have the same parameters"):
        plane_through(a, b, copy.deepcopy(a))
    with pytest.raises(InputError, match=r"differ first at '0.weight', which a has and c has not"):
        plane_through(a, b, nn.Linear(3, 4))
