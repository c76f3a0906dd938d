"""Directions from a seed: the numbers of kept ones, bit for bit, in next to no memory."""

import weakref

import cloudpickle
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from landform import Subspace, random_plane
from landform.errors import InputError
from landform.subspace import cosine
from landform.subspace.seeded import TILE, SeededDirection

torch.set_num_threads(1)


def network(dtype=torch.float32):
    """Every way a parameter is cut: many tiles, one, blocks, transposed convolutions with groups, plain vectors."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return nn.ModuleDict(
            {
                "wide": nn.Linear(300, 400),  # 120,000 numbers: four tiles, the last one short
                "up": nn.ConvTranspose2d(4, 6, 2, groups=2),
                "large_up": nn.ConvTranspose1d(100, 60, 9),
                "norm": nn.LayerNorm((40_000,)),
                "thin": nn.Linear(1, 50_000),
                "head": nn.Linear(6, 4),
            }
        ).to(dtype)


class Live(TorchDispatchMode):
    """Counts the bytes of tensors made inside and still alive, and the most there were at once."""

    def __init__(self):
        super().__init__()
        self.bytes = self.peak = 0
        self.held = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        old = {t.untyped_storage().data_ptr() for t in args if isinstance(t, torch.Tensor)}
        for tensor in out if isinstance(out, tuple | list) else [out]:
            if isinstance(tensor, torch.Tensor):
                self._see(tensor, old)
        return out

    def _see(self, tensor, old):
        where, size = tensor.untyped_storage().data_ptr(), tensor.untyped_storage().nbytes()
        if where not in self.held:
            if where in old:
                return  # a view of something from outside
            self.held[where] = 0
            self.bytes += size
            self.peak = max(self.peak, self.bytes)
        self.held[where] += 1
        weakref.finalize(tensor, self._gone, where, size)

    def _gone(self, where, size):
        if where in self.held:
            self.held[where] -= 1
            if not self.held[where]:
                del self.held[where]
                self.bytes -= size


@pytest.mark.parametrize("norm", ["filter", "layer", "model", "none"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_numbers_are_those_of_kept_directions(norm, dtype):
    model = network(dtype)
    options = {"z": 3, "seed": 2, "norm": norm, "biases": True}
    kept, made = random_plane(model, seeded=False, **options), random_plane(model, seeded=True, **options)
    assert made.seeded
    assert not kept.seeded
    assert made.moved == kept.moved
    for one, other in zip(kept.directions, made.directions, strict=True):
        assert list(one) == list(other)
        for name, value in one.items():
            assert torch.equal(value, other[name])
            assert value.dtype == other[name].dtype
            assert value.shape == other.shape(name)
    h = torch.tensor([0.3, -0.7, 1.1], dtype=torch.float64)
    for name, value in kept.at(h).items():
        assert torch.equal(value, made.at(h)[name])
    for space in (kept, made):
        out = {name: torch.full_like(space.origin[name], torch.nan) for name in space.moved}
        space.write(h, out)
        assert all(torch.equal(value, kept.at(h)[name]) for name, value in out.items())


@pytest.mark.parametrize("norm", ["filter", "layer", "model", "none"])
def test_directions_of_many_tiles_are_orthogonal_and_scaled(norm):
    model = network()
    plane = random_plane(model, z=3, norm=norm, biases=True)
    torch.testing.assert_close(cosine(plane), torch.eye(3, dtype=torch.float64), atol=2e-7, rtol=0)
    weight = model["wide"].weight.detach()
    for direction in plane.directions:
        found = direction["wide.weight"]
        rows = TILE // 300
        one, two = found[:100].double().flatten(), found[rows : rows + 100].double().flatten()
        assert abs(float(one @ two / (one.norm() * two.norm()))) < 0.05  # the second tile is drawn anew
        if norm == "filter":
            torch.testing.assert_close(found.norm(dim=1), weight.norm(dim=1))
        if norm == "layer":
            torch.testing.assert_close(found.norm(), weight.norm())


def test_write_takes_a_tile_not_a_copy():
    with torch.random.fork_rng(devices=[]):
        model = nn.Sequential(*(nn.Linear(600, 600) for _ in range(5)))  # 1.4 MB each
    with Live() as live:
        plane = random_plane(model, seeded=True)
    parameters = sum(p.numel() * 4 for p in model.parameters())
    assert live.peak < 12 * 8 * TILE
    out = {name: torch.empty_like(value) for name, value in plane.origin.items()}
    h = torch.tensor([0.5, 0.5])
    with Live() as live:
        plane.write(h, out)
    assert live.peak < 12 * 8 * TILE  # a dozen tiles, whatever the size of the model
    with Live() as live:
        random_plane(model, seeded=False)
    assert live.peak > 2 * parameters  # the counter does count


def test_a_large_model_is_seeded_by_itself(monkeypatch):
    model = nn.Linear(50, 40)
    assert not random_plane(model).seeded
    monkeypatch.setattr("landform.subspace.random.LARGE", 2 * 50 * 40 * 4 - 1)
    plane = random_plane(model)
    assert plane.seeded
    assert plane.origin["weight"].data_ptr() == model.weight.data_ptr()
    assert not plane.origin["weight"].requires_grad


def test_looking_for_a_name_draws_nothing(monkeypatch):
    plane = random_plane(network(), seeded=True)
    direction = plane.directions[0]
    assert isinstance(direction, SeededDirection)
    monkeypatch.setattr(type(direction.recipe), "_raw", None)
    assert "wide.weight" in direction
    assert "wide.bias" not in direction
    assert len(plane.moved) == 5
    with pytest.raises(KeyError, match="nothing"):
        direction["nothing"]


def test_seeded_directions_travel_to_other_processes():
    plane = random_plane(network(), seeded=True, seed=9)
    there = cloudpickle.loads(cloudpickle.dumps(plane))
    h = torch.tensor([0.5, -0.5])
    assert all(torch.equal(value, there.at(h)[name]) for name, value in plane.at(h).items())
    assert there.hash == plane.hash


def test_the_hash_tells_subspaces_apart():
    model = network()
    for seeded in (False, True):
        plane = random_plane(model, seeded=seeded)
        assert plane.hash == random_plane(model, seeded=seeded).hash
        others = [
            random_plane(model, seeded=seeded, seed=1),
            random_plane(model, seeded=seeded, norm="layer"),
            random_plane(model, seeded=seeded, exclude="head.*"),
            random_plane(model, seeded=seeded, z=3),
            Subspace(plane.origin, plane.directions[::-1]),
        ]
        assert len({plane.hash, *(other.hash for other in others)}) == 6
    plane = random_plane(model)
    assert plane.replace(ranges=[(0, 2), (0, 1)]).hash == plane.hash
    moved = {name: value + 1e-6 for name, value in plane.origin.items()}
    assert Subspace(moved, plane.directions).hash != plane.hash


def test_half_precision_moves_in_single():
    origin = {"w": torch.ones(1000, dtype=torch.bfloat16)}
    small = {"w": torch.full((1000,), 2.0**-9)}  # a quarter of a step at 1
    line = Subspace(origin, (small, small, small, small))
    found = line.at(torch.ones(4))["w"]
    assert found.dtype == torch.bfloat16
    assert bool((found == 1 + 2.0**-7).all())  # one by one, each would have been lost
    assert line.at(torch.ones(4), dtype=torch.float32)["w"].tolist() == [1 + 2.0**-7] * 1000
    single = line.at(torch.tensor([1.0, 0.0, 0.0, 0.0]), dtype=torch.float32)["w"]
    assert single.dtype == torch.float32
    assert bool((single == 1 + 2.0**-9).all())


def test_write_refuses_what_it_would_spoil():
    model = nn.Linear(3, 2)
    plane = random_plane(model, seeded=True)
    h = torch.zeros(2)
    with pytest.raises(InputError, match=r"out\['weight'\] is the origin's own tensor"):
        plane.write(h, dict(model.named_parameters()))
    with pytest.raises(InputError, match="out has no tensor for 'weight'"):
        plane.write(h, {})
    with pytest.raises(InputError, match=r"out has shape \(2,\) for 'weight'; the origin has \(2, 3\)"):
        plane.write(h, {"weight": torch.zeros(2)})
    with pytest.raises(InputError, match="2 finite coordinates"):
        plane.write(torch.zeros(3), {"weight": torch.zeros(2, 3)})


def test_strided_tensors_are_written_too():
    plane = random_plane(nn.Linear(200, 300), seeded=True)
    h = torch.tensor([0.5, 0.25])
    out = torch.empty(200, 300).T
    plane.write(h, {"weight": out})
    assert torch.equal(out, plane.at(h)["weight"])


def test_adapters_alone():
    model = nn.ModuleDict({"base": nn.Linear(8, 8), "lora_A": nn.Linear(8, 2, bias=False)})
    model["lora_B"] = nn.Linear(2, 8, bias=False)
    assert random_plane(model, adapters=True).moved == ("lora_A.weight", "lora_B.weight")
    assert random_plane(model, adapters=True, include="*B*").moved == ("lora_B.weight",)
    named_otherwise = nn.ModuleDict({"base": nn.Linear(8, 8), "extra": nn.Linear(8, 2)})
    with pytest.raises(InputError, match=r"no parameter of ModuleDict is named like an adapter.*all of them train"):
        random_plane(named_otherwise, adapters=True)
    named_otherwise["base"].requires_grad_(False)
    assert random_plane(named_otherwise, adapters=True).moved == ("extra.weight",)


def test_ranges_fit_the_directions():
    plane = random_plane(nn.Linear(3, 2))
    assert plane.ranges == ((-1.0, 1.0), (-1.0, 1.0))
    assert plane.meta["kind"] == "random"
    with pytest.raises(InputError, match=r"wanted .lo, hi. with lo < hi for each of 2 directions"):
        plane.replace(ranges=[(0, 1)])
    with pytest.raises(InputError, match=r"wanted .lo, hi. with lo < hi"):
        plane.replace(ranges=[(0, 1), (1, 1)])
