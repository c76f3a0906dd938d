"""Scans of models too large to be copied: no point is ever put together, whatever is asked for beside it."""

import importlib
import sys

import pytest
import torch
from torch import nn

import landform as lf
from landform.calling import model_hash
from landform.subspace import Subspace
from landform.subspace.seeded import Recipe

identity = importlib.import_module("landform.scan.identity")
inplace = importlib.import_module("landform.scan.engine.inplace")
plan = importlib.import_module("landform.scan.plan")


def task():
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    data = torch.randn(10, 6, generator=generator), torch.randint(3, (10,), generator=generator)
    return lf.Task(model, data=data)


@pytest.mark.parametrize("options", [{"grid": 3}, {"points": torch.tensor([[0.5, -0.5]])}, {"grid": 2, "store": True}])
def test_a_scan_of_a_large_model_copies_no_point(options, tmp_path, monkeypatch):
    subject = task()
    plane = lf.random_plane(subject, seed=0, seeded=True)
    wanted = lf.scan(subject, plane, progress=False, **options | {"store": None}).loss.values
    before = model_hash(subject.model)
    for module in (plan, identity):
        monkeypatch.setattr(module, "LARGE", 1)
    if "store" in options:
        options = options | {"store": str(tmp_path / "store")}

    def refuse(*_, **__):
        raise AssertionError("a point was put together")

    monkeypatch.setattr(Subspace, "at", refuse)
    surface = lf.scan(subject, plane, progress=False, **options)
    assert surface.attrs["engine"] == "inplace"
    assert surface.attrs["dtype"] == "float32"
    torch.testing.assert_close(torch.from_numpy(surface.loss.values), torch.from_numpy(wanted), rtol=1e-6, atol=0)
    assert model_hash(subject.model) == before


def test_first_values_are_the_same_by_either_way(monkeypatch):
    subject = task()
    h = torch.tensor([[0.3, -0.2]], dtype=torch.float64)
    plane = lf.random_plane(subject, seed=0, seeded=True)
    usual = identity.first_values(subject, plane, h)
    monkeypatch.setattr(identity, "LARGE", 1)
    assert identity.first_values(subject, plane, h) == pytest.approx(usual, rel=1e-6)


def test_small_seeded_directions_are_made_once_large_ones_for_each_point(monkeypatch):
    subject = task()
    plane = lf.random_plane(subject, seed=0, seeded=True)
    h = torch.rand(3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    tile, made = Recipe.tile, []
    monkeypatch.setattr(Recipe, "tile", lambda self, *args: (made.append(args), tile(self, *args))[1])

    def run(points):
        made.clear()
        engine = inplace.InplaceEngine(subject, plane, batch_size=5)
        return engine.sums(points).num, len(made), engine.held

    _, once, _ = run(h[:1])
    kept, calls, held = run(h)
    assert calls == once > 0
    monkeypatch.setattr(inplace, "KEPT", 2 * 4 * (6 * 8 + 8 * 3) - 1)  # a byte less than both weights' directions take
    fresh, calls, less = run(h)
    assert calls == 2 * 3 * 2  # weights, points, blocks: both directions of a weight at a time
    assert held - less == inplace.KEPT + 1
    assert torch.equal(kept, fresh)


@pytest.mark.skipif(sys.platform != "linux", reason="resident sets are read from /proc")
def test_lengths_of_directions_pin_no_memory():
    from benchmarks.measure import peak_memory

    model = nn.Sequential(nn.Linear(2048, 2048), nn.Linear(2048, 2048))
    lf.random_plane(model, seed=0, seeded=True)
    grown = peak_memory(lambda: lf.random_plane(model, seed=0, seeded=True))
    assert grown < 0.25 * 4 * 2048**2  # a quarter of one of the two weights; kept results used to pin two of them


@pytest.mark.skipif(sys.platform != "linux", reason="resident sets are read from /proc")
def test_a_large_model_is_scanned_without_a_copy_of_it():
    from benchmarks.measure import peak_memory

    wide = 2048
    model = nn.Sequential(*(nn.Linear(wide, wide) for _ in range(4)), nn.Linear(wide, 2))
    numbers = sum(value.numel() for value in model.parameters())
    data = torch.randn(8, wide, generator=torch.Generator().manual_seed(0)), torch.zeros(8, dtype=torch.int64)
    subject = lf.Task(model, data=data)
    line = Subspace(
        dict(model.named_parameters()), ({name: value.detach() for name, value in model.named_parameters()},)
    )
    lf.scan(subject, line, grid=2, ranges=[(0, 1)], progress=False)  # what is loaded on the way is not counted
    grown = peak_memory(lambda: lf.scan(subject, line, grid=2, ranges=[(0, 1)], progress=False))
    assert grown < 4 * 0.9 * numbers  # 0.3 in a fresh process, more where gaps between freed values are used
