"""Random directions: orthogonal in fact, scaled block by block, drawn from the seed alone."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from landform import Task, random_plane
from landform.errors import ArchitectureError, InputError, UnknownNameError
from landform.subspace import Subspace, cosine
from landform.subspace.filters import filters_of
from landform.subspace.orthogonal import orthonormal
from landform.subspace.select import select


def network(dtype=torch.float32):
    """Every kind of parameter: convolutions, one transposed with groups, norms, a table, one-number rows."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return nn.ModuleDict(
            {
                "conv": nn.Conv2d(3, 4, 3),
                "up": nn.ConvTranspose2d(4, 6, 2, groups=2),
                "norm": nn.BatchNorm2d(6),
                "layer_norm": nn.LayerNorm((6, 2)),
                "thin": nn.Linear(1, 7),
                "table": nn.Embedding(5, 4),
                "head": nn.Linear(6, 4),
            }
        ).to(dtype)


WEIGHTS = ("conv.weight", "up.weight", "thin.weight", "table.weight", "head.weight")


def flat(direction, names):
    return torch.cat([direction[name].double().flatten() for name in names])


def angle(u, v):
    return float(u.double().flatten() @ v.double().flatten() / (u.double().norm() * v.double().norm()))


@pytest.mark.parametrize("norm", ["filter", "layer", "model", "none"])
@pytest.mark.parametrize("z", [1, 2, 3])
def test_directions_are_orthogonal_as_they_are_stored(norm, z):
    plane = random_plane(network(), z=z, norm=norm, biases=True)
    torch.testing.assert_close(cosine(plane), torch.eye(z, dtype=torch.float64), atol=1e-7, rtol=0)
    for direction in plane.directions:
        assert all(bool((direction[name] < 0).any()) and bool((direction[name] > 0).any()) for name in WEIGHTS)


def test_each_filter_has_the_length_of_its_weights_and_is_orthogonal_by_itself():
    model = network()
    plane = random_plane(model)
    assert plane.moved == WEIGHTS
    one, two = plane.directions
    for name, axis in (("conv.weight", 0), ("table.weight", 0), ("head.weight", 0)):
        for unit in range(model.get_parameter(name).shape[axis]):
            weight = model.get_parameter(name).detach()[unit]
            for direction in plane.directions:
                torch.testing.assert_close(direction[name][unit].norm(), weight.norm())
            assert abs(angle(one[name][unit], two[name][unit])) < 1e-6
    weight = model["up"].weight.detach()  # [in 4, out/groups 3, 2, 2]: group g has inputs 2g and 2g + 1
    for group in range(2):
        for unit in range(3):
            part = (slice(2 * group, 2 * group + 2), unit)
            torch.testing.assert_close(one["up.weight"][part].norm(), weight[part].norm())
            assert abs(angle(one["up.weight"][part], two["up.weight"][part])) < 1e-6


def test_filters_of_one_number_are_taken_together():
    model = network()
    plane = random_plane(model)
    thin = model["thin"].weight.detach()
    for direction in plane.directions:
        torch.testing.assert_close(direction["thin.weight"].norm(), thin.norm())
    assert not torch.allclose(plane.directions[0]["thin.weight"].abs(), thin.abs(), rtol=1e-3)
    line = random_plane(model, z=1)  # alone, a direction has room in each of them
    torch.testing.assert_close(line.directions[0]["thin.weight"].abs(), thin.abs())


def test_a_single_number_is_moved_by_the_first_direction_only():
    model = nn.ModuleDict({"scale": nn.Linear(1, 1, bias=False), "head": nn.Linear(3, 2)})
    one, two = random_plane(model).directions
    torch.testing.assert_close(one["scale.weight"].abs(), model["scale"].weight.detach().abs())
    assert set(two) == {"head.weight"}


@pytest.mark.parametrize("norm", ["layer", "model"])
def test_layers_and_models_have_the_length_of_their_weights(norm):
    model = network()
    origin = dict(model.named_parameters())
    for direction in random_plane(model, norm=norm).directions:
        if norm == "layer":
            for name in WEIGHTS:
                torch.testing.assert_close(direction[name].norm(), origin[name].detach().norm())
        torch.testing.assert_close(flat(direction, WEIGHTS).norm(), flat(origin, WEIGHTS).norm().detach())


def test_without_normalisation_the_numbers_are_standard_normal():
    plane = random_plane(nn.Linear(200, 250), norm="none", seed=4)
    for direction in plane.directions:
        values = direction["weight"].double().flatten()
        n = len(values)
        assert abs(float(values.mean())) * n**0.5 < 4
        assert abs(float(values.square().mean()) - 1) * (n / 2) ** 0.5 < 4
        assert abs(float((values > 0).double().mean()) - 0.5) * 2 * n**0.5 < 4


def test_biases_and_norms_stay_unless_asked_for_and_buffers_always():
    model = network()
    assert random_plane(model).moved == WEIGHTS
    everything = random_plane(model, biases=True)
    assert set(everything.moved) < {name for name, _ in model.named_parameters()}
    assert {"norm.weight", "layer_norm.weight", "head.bias"} <= set(everything.moved)
    assert not {name for name, _ in model.named_buffers()} & {*everything.origin, *everything.moved}
    for name in ("head.bias", "layer_norm.weight"):
        torch.testing.assert_close(everything.directions[1][name].norm(), model.get_parameter(name).detach().norm())
    assert "norm.bias" not in everything.moved  # zeros, which scaling to them keeps
    assert "norm.bias" in random_plane(model, biases=True, norm="none").moved


def test_the_seed_alone_decides_and_nothing_global_moves():
    model = network()
    torch.manual_seed(11)
    state = torch.get_rng_state()
    one = random_plane(model, seed=5)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(12)
    two = random_plane(Task(copy.deepcopy(model), data="digits"), seed=5)
    other = random_plane(model, seed=6)
    for a, b, c in zip(one.directions, two.directions, other.directions, strict=True):
        assert a.keys() == b.keys()
        assert all(torch.equal(a[name], b[name]) for name in a)
        assert abs(angle(flat(a, WEIGHTS), flat(c, WEIGHTS))) < 0.5
        assert not torch.equal(a["head.weight"], c["head.weight"])
    # the first of seed 6 is not the second of seed 5
    assert abs(angle(one.directions[1]["conv.weight"], other.directions[0]["conv.weight"])) < 0.5


def test_a_part_of_the_model_gets_the_same_numbers_as_the_whole():
    model = network()
    whole, part = random_plane(model), random_plane(model, include="head.*")
    assert part.moved == ("head.weight",)
    for a, b in zip(whole.directions, part.directions, strict=True):
        assert torch.equal(a["head.weight"], b["head.weight"])
    longer = random_plane(model, z=3, include=["head.*", "conv.*"])
    assert torch.equal(longer.directions[1]["conv.weight"], whole.directions[1]["conv.weight"])
    without = random_plane(model, include=["head.*", "conv.*"], exclude="*.weight", biases=True)
    assert without.moved == ("conv.bias", "head.bias")


def test_the_origin_is_a_copy_and_the_model_is_left_as_found():
    model = network()
    model["conv"].weight.requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    plane = random_plane(model, biases=True)
    assert "conv.weight" in plane.moved
    assert [p.requires_grad for p in model.parameters()] == [n != "conv.weight" for n, _ in model.named_parameters()]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    with torch.no_grad():
        model["head"].weight.zero_()
    assert torch.equal(plane.origin["head.weight"], before["head.weight"])
    assert not any(value.requires_grad for value in plane.at(torch.tensor([1.0, 1.0])).values())


def test_spectral_normalisation_is_not_stepped():
    layer = nn.utils.parametrizations.spectral_norm(nn.ConvTranspose1d(4, 4, 2))
    before = copy.deepcopy(layer.state_dict())
    assert random_plane(layer).moved == ("parametrizations.weight.original",)
    assert all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())


def test_a_compiled_model_is_the_model():
    model = nn.Sequential(nn.Linear(3, 2), nn.ReLU())
    for wrapped in (torch.compile(model, backend="eager"), nn.DataParallel(model)):
        assert random_plane(wrapped, seed=1).hash == random_plane(model, seed=1).hash


def test_tied_parameters_are_one():
    model = nn.ModuleDict({"table": nn.Embedding(6, 3), "head": nn.Linear(3, 6)})
    model["head"].weight = model["table"].weight
    plane = random_plane(model, include="head.weight")
    assert plane.moved == ("table.weight",)
    assert set(plane.origin) == {"table.weight", "head.bias"}


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_dtypes(dtype):
    model = network(dtype)
    plane = random_plane(model)
    kinds = {value.dtype for direction in plane.directions for value in direction.values()}
    assert kinds == {torch.float64 if dtype == torch.float64 else torch.float32}
    assert plane.at(torch.ones(2))["head.weight"].dtype == dtype
    assert abs(float(cosine(plane)[0, 1])) < (1e-14 if dtype == torch.float64 else 1e-7)


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 6), st.integers(0, 2**31))
def test_blocks_become_orthonormal_as_far_as_there_is_room(z, blocks, numbers, seed):
    drawn = torch.randn(z, blocks, numbers, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    basis = orthonormal(drawn)
    want = torch.diag((torch.arange(z) < numbers).double())
    for block in range(blocks):
        torch.testing.assert_close(basis[:, block] @ basis[:, block].T, want, atol=1e-9, rtol=0)
        assert float(basis[0, block] @ drawn[0, block]) > 0


def test_filters_come_back():
    model = network()
    for name, cut in filters_of(model).items():
        weight = model.get_parameter(name).detach()
        assert torch.equal(cut.weight(cut.rows(weight)), weight)
        assert cut.rows(weight).shape[1] == cut.size


def test_the_cosine_is_that_of_the_whole_vector():
    origin = {"a": torch.zeros(2, 3), "b": torch.zeros(4), "c": torch.zeros(1)}
    generator = torch.Generator().manual_seed(0)
    directions = tuple({n: torch.randn(v.shape, generator=generator) for n, v in origin.items()} for _ in range(3))
    found = cosine(Subspace(origin, directions))
    for i in range(3):
        for j in range(3):
            want = angle(flat(directions[i], origin), flat(directions[j], origin))
            assert float(found[i, j]) == pytest.approx(want, abs=1e-12)
    apart = Subspace(origin, ({"a": torch.ones(2, 3)}, {"b": torch.ones(4)}))
    assert cosine(apart).tolist() == [[1.0, 0.0], [0.0, 1.0]]
    with pytest.raises(InputError, match=r"direction 2 has length 0\.0, so it has no angle"):
        cosine(Subspace(origin, ({"a": torch.ones(2, 3)}, {"b": torch.zeros(4)})))


@pytest.mark.parametrize(
    ("options", "kind", "text"),
    [
        ({"z": 0}, InputError, "z is 0; wanted a number of directions, at least 1"),
        ({"z": True}, InputError, "z is True"),
        ({"seed": 0.5}, InputError, r"seed is 0\.5; wanted a whole number"),
        ({"norm": "filtre"}, UnknownNameError, "did you mean 'filter'"),
        (
            {"include": "haed.weight"},
            UnknownNameError,
            "parameter in include= 'haed.weight': did you mean 'head.weight'",
        ),
        ({"exclude": ["conv.*", "tail.*"]}, UnknownNameError, r"parameter in exclude= 'tail\.\*'"),
        ({"include": "head.bias"}, InputError, "no parameter is left.*head.bias is a bias.*biases=True"),
        ({"exclude": "*"}, InputError, r"no parameter is left to move \(include=None, exclude='\*'\)$"),
        (
            {"include": "head.bias", "biases": True, "z": 5},
            InputError,
            "more directions than parameters: z = 5.*only 4",
        ),
        (
            {"include": ["head.bias", "conv.bias"], "biases": True, "z": 5},
            InputError,
            "direction 5 is zero: no parameter that moves has room for more than 4 directions.*norm='model'",
        ),
    ],
)
def test_bad_options(options, kind, text):
    with pytest.raises(kind, match=text):
        random_plane(network(), **options)


def test_bad_models():
    with pytest.raises(InputError, match=r"wanted a torch.nn.Module, or a task of one"):
        random_plane(Task(torch.relu, data="digits"))
    with pytest.raises(InputError, match="model ReLU has no parameters"):
        random_plane(nn.ReLU())
    with pytest.raises(ArchitectureError, match="weight has no values"):
        random_plane(nn.LazyLinear(3))
    model = nn.Linear(3, 2)
    with torch.no_grad():
        model.weight[0, 0] = torch.nan
    with pytest.raises(InputError, match="parameter weight has values that are not finite"):
        random_plane(model)
    nn.init.zeros_(model.weight)
    with pytest.raises(InputError, match=r"direction 1 is zero: norm='filter' scales it to the weights.*norm='none'"):
        random_plane(model)
    assert random_plane(model, norm="none").moved == ("weight",)


def test_all_parameters_of_the_norm_layers_are_known():
    assert select(network()) == WEIGHTS
