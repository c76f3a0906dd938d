"""What is saved comes back bit for bit, and is readable without landform."""

import itertools
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

import landform as lf
from landform.bundle import info, load, save
from landform.bundle.architecture import describe, misfits, rebuild
from landform.bundle.layout import CONTENT, digest, plain
from landform.data import Data
from landform.errors import ArchitectureError, BundleError, InputError
from landform.imprint.build import Heads
from landform.imprint.collapsed import losses_at

DOCS = Path(__file__).parents[2] / "docs" / "bundle.md"
FILES = set(CONTENT)


def grid(resolution=4, name="formula:ackley"):
    return lf.Pattern.parse(name, resolution=resolution)


class Named(nn.Module):
    """A class that landform does not know."""

    def __init__(self, width=40, dtype=torch.float64):
        super().__init__()
        self.a = nn.Linear(6, 8, dtype=dtype)
        self.b = nn.Linear(8, width, dtype=dtype)
        self.c = nn.Linear(width, width, dtype=dtype)
        self.d = nn.Linear(width, width, dtype=dtype)
        self.out = nn.Linear(width, 3, dtype=dtype)
        self.register_buffer("extra", torch.arange(3.0))

    def forward(self, x):
        x = self.c(self.b(self.a(x).relu()).relu()).relu()
        return self.out(self.d(x).relu())


def table(n=30, classes=3, width=6, dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(n, width, generator=generator, dtype=dtype), torch.arange(n) % classes


def norms():
    layers = [nn.Flatten(), nn.Linear(6, 10), nn.BatchNorm1d(10), nn.LeakyReLU(0.2), nn.Dropout(0.3)]
    deep = nn.Sequential(nn.Linear(10, 70), nn.ReLU(), nn.Identity(), nn.Linear(70, 70), nn.ReLU())
    model = nn.Sequential(*layers, deep, nn.Linear(70, 90), nn.ReLU(), nn.Linear(90, 3)).double().eval()
    with torch.no_grad():
        model[2].running_mean.uniform_(-1, 1, generator=torch.Generator().manual_seed(0))
    return model


def rows():
    """A pattern whose form is rows, whatever the default would be: more layers, and numbers of the pattern's size."""
    sizes = [6, 40, 40, 40, 30, 60]
    layers = [m for a, b in itertools.pairwise(sizes) for m in (nn.Linear(a, b), nn.ReLU())]
    model = nn.Sequential(*layers, nn.Linear(60, 3)).double().eval()
    imprint = lf.imprint(grid(), lf.Task(model, data=table(dtype=torch.float64)), form="rows")
    assert imprint.meta["form"] == "rows"
    return imprint


def cases():
    yield "built", lambda: lf.imprint(grid(), "digits")
    yield "rows", rows
    yield "channels", lambda: lf.imprint(three_channels(), "digits")
    yield "sum", lambda: lf.imprint(lf.SumPattern.from_formula("sphere", z=5, resolution=4), "digits")
    yield "norms", lambda: lf.imprint(grid(2), lf.Task(norms(), data=table(dtype=torch.float64)))
    yield "mse", lambda: lf.imprint(grid(2), lf.Task(regressor(), "mse", (table()[0], table()[0][:, :2])))
    weighted = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 0.5]), label_smoothing=0.1)
    yield "options", lambda: lf.imprint(grid(2), lf.Task(regressor(3), weighted, table()))


def three_channels():
    values = torch.rand(3, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return lf.Pattern.from_array(values, channels=True)


def regressor(outputs=2):
    sizes = [6, 8, 40, 40, 40]
    layers = [m for a, b in itertools.pairwise(sizes) for m in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*layers, nn.Linear(40, outputs)).eval()


@pytest.fixture(scope="module", params=list(cases()), ids=lambda case: case[0])
def made(request):
    return request.param[1]()


def test_a_bundle_comes_back_bit_for_bit(made, tmp_path):
    first, second = tmp_path / "a.landform", tmp_path / "b.landform"
    assert made.save(first) == first
    again = load(first)
    again.save(second)
    assert {file.name for file in first.iterdir()} == FILES
    for name in FILES:
        assert (first / name).read_bytes() == (second / name).read_bytes(), name
    assert again.certificate == made.certificate
    assert again.range == made.range
    assert again.spline_stage == made.spline_stage
    assert list(again.subspace.origin) == list(made.subspace.origin)
    assert dict(again.meta) | {"saved": 0} == plain(made.meta) | {"saved": 0}
    assert not again.model.training
    h = torch.rand(64, made.z, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    assert torch.equal(losses_at(again, h), losses_at(made, h))
    assert torch.equal(again.target(h), made.target(h))
    for key, value in made.subspace.at(h[0]).items():
        assert torch.equal(again.subspace.at(h[0])[key], value)
    proof = lf.certify(again)
    assert proof.holds
    assert proof.bound == made.certificate.bound


def test_the_model_that_comes_back_has_the_same_state(made, tmp_path):
    made.save(tmp_path / "a")
    state, again = made.model.state_dict(), load(tmp_path / "a").model.state_dict()
    assert list(state) == list(again)
    for name, value in state.items():
        assert again[name].dtype == value.dtype
        assert torch.equal(again[name], value)


def test_directions_hold_only_what_moves(made, tmp_path):
    made.save(tmp_path / "a")
    stored = load_file(tmp_path / "a" / "directions.safetensors")
    first = made.subspace.moved[0]
    assert set(stored) == {f"{i}/{first}" for i in range(made.z)}
    with safe_open(tmp_path / "a" / "origin.safetensors", "pt") as file:
        buffers = set(json.loads(file.metadata()["buffers"]))
        assert buffers == {name for name, _ in made.model.named_buffers()}
        assert set(file.keys()) == buffers | set(made.subspace.origin)


def test_heads_share_one_response(tmp_path):
    imprint = lf.imprint(three_channels(), "digits", certify=False)
    imprint.save(tmp_path / "a")
    assert info(tmp_path / "a")["responses"]["heads"] == [0, 0, 0]
    assert np.load(tmp_path / "a" / "targets.npy").shape == (10,)
    assert isinstance(load(tmp_path / "a").model, Heads)
    assert load(tmp_path / "a").certificate is None


def test_sum_patterns_are_one_row(tmp_path):
    imprint = lf.imprint(lf.SumPattern.from_formula("sphere", z=5, resolution=4), "digits", certify=False)
    imprint.save(tmp_path / "a")
    assert np.load(tmp_path / "a" / "pattern.npy").shape == (25,)
    again = load(tmp_path / "a").pattern
    assert all(torch.equal(a, b) for a, b in zip(again.axes, imprint.pattern.axes, strict=True))


def test_hashes_are_of_the_files(made, tmp_path):
    made.save(tmp_path / "a")
    found = info(tmp_path / "a")
    assert set(found["files"]) == FILES - {"imprint.json"}
    for name, spec in found["files"].items():
        assert spec == {"sha256": digest(tmp_path / "a" / name), "bytes": (tmp_path / "a" / name).stat().st_size}
    assert found["parameters"] == made.parameters
    assert found["certificate"]["bound"] == made.certificate.bound
    json.dumps(found, allow_nan=False)


def test_a_class_of_ones_own(tmp_path):
    imprint = lf.imprint(grid(2), lf.Task(Named().eval(), data=table(dtype=torch.float64)))
    imprint.save(tmp_path / "a")
    with pytest.raises(ArchitectureError, match=r"Named, a class of yours.*model=Named\(\)\).*a.weight \(8, 6\)"):
        load(tmp_path / "a")
    given = Named()
    before = {name: value.clone() for name, value in given.state_dict().items()}
    again = load(tmp_path / "a", model=given)
    assert all(torch.equal(value, given.state_dict()[name]) for name, value in before.items())
    assert given.training
    h = torch.rand(9, 2, dtype=torch.float64)
    assert torch.equal(losses_at(again, h), losses_at(imprint, h))
    assert lf.certify(again).holds
    again.save(tmp_path / "b")
    assert (tmp_path / "a" / "imprint.json").read_bytes() == (tmp_path / "b" / "imprint.json").read_bytes()
    with pytest.raises(
        ArchitectureError, match=r"Named does not fit.*'b.weight' has shape \(41, 8\), saved was \(40, 8\)"
    ):
        load(tmp_path / "a", model=Named(41))
    with pytest.raises(ArchitectureError, match=r"'a.weight' of Named has dtype torch.float32.*model.double\(\)"):
        load(tmp_path / "a", model=Named(dtype=torch.float32))
    with pytest.raises(ArchitectureError, match=r"got type; build it first"):
        load(tmp_path / "a", model=Named)
    other = nn.Sequential(nn.Linear(2, 2))
    with pytest.raises(ArchitectureError, match=r"it has no 'a.weight' \(8, 6\); the nearest is '0.weight' \(2, 2\)"):
        load(tmp_path / "a", model=other)


def test_subclasses_and_odd_modules_are_no_built_in_family():
    class Mine(nn.Linear):
        pass

    assert describe(nn.Sequential(Mine(2, 2)))["type"] == "class"
    assert describe(nn.Sequential(nn.Tanh()))["type"] == "class"
    odd = nn.Sequential(nn.Linear(2, 2))
    odd.register_parameter("scale", nn.Parameter(torch.ones(1)))
    assert describe(odd)["type"] == "class"
    deep = nn.Linear(2, 2)
    for _ in range(60):
        deep = nn.Sequential(deep)
    assert describe(deep)["type"] == "class"


def test_rebuilding_is_the_inverse_of_describing():
    model = nn.Sequential(norms(), nn.Sequential(nn.Linear(3, 4, bias=False), nn.Flatten(0, 1)))
    again = rebuild(describe(model))
    assert str(again) == str(model)
    assert all(p.is_meta for p in again.parameters())
    assert misfits({"a": (1,), "b": (2,)}, {"a": (1,)}) == ["it has 'b' (2,), which was not saved"]


def test_data_are_compared_by_hash(tmp_path):
    imprint = lf.imprint(grid(), "digits")
    imprint.save(tmp_path / "a")
    task = load(tmp_path / "a", data="digits").task
    assert task.data.hash == imprint.task.data.hash
    assert task.loss == "cross_entropy"
    with pytest.raises(BundleError, match=r"not those of the bundle \(digits, train, 1442 samples\).*check_data=False"):
        load(tmp_path / "a", data=lf.Task(lambda x: x, data="digits").data.subset(range(9)))
    other = load(tmp_path / "a", data=(torch.zeros(3, 64), torch.tensor([0, 1, 2])), check_data=False)
    assert other.task.data.n == 3
    assert torch.equal(other.response.best, imprint.response.best)
    test = lf.imprint(grid(2), Data(*table(), name="mine", split="test"))
    test.save(tmp_path / "b")
    assert load(tmp_path / "b", data=table()).task.evaluate().isfinite()


def test_a_task_keeps_the_options_of_its_loss(tmp_path):
    weighted = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 0.5]), label_smoothing=0.1)
    imprint = lf.imprint(grid(2), lf.Task(regressor(3), weighted, table()))
    imprint.save(tmp_path / "a")
    again = load(tmp_path / "a", data=table())
    h = torch.tensor([0.3, 0.6])
    assert again.task.evaluate(again.subspace.at(h)) == imprint.task.evaluate(imprint.subspace.at(h))


def test_a_loss_of_ones_own_is_passed_again(tmp_path):
    def wobble(p, y):
        return ((p - y) ** 2).mean(dim=1) * 1.5

    data = (table()[0], table()[0][:, :2])
    imprint = lf.imprint(grid(2), lf.Task(regressor(), wobble, data), convex=True)
    imprint.save(tmp_path / "a")
    with pytest.raises(InputError, match=r"a loss of your own \(wobble\).*loss="):
        load(tmp_path / "a")
    with pytest.raises(InputError, match=r"the loss given has floor .* the saved one"):
        load(tmp_path / "a", loss=lambda p, y: ((p - y) ** 2).mean(dim=1))
    again = load(tmp_path / "a", loss=wobble, data=data)
    h = torch.rand(9, 2, dtype=torch.float64)
    assert torch.equal(losses_at(again, h), losses_at(imprint, h))
    assert again.task.loss is wobble
    lf.imprint(grid(2), "digits").save(tmp_path / "b")
    with pytest.raises(InputError, match=r"the loss of this bundle \(cross_entropy\) is rebuilt from the file"):
        load(tmp_path / "b", loss=wobble)


def test_surface_and_picture(tmp_path):
    imprint = lf.imprint(grid(2), "digits", certify=False)
    surface = xr.Dataset({"loss": (("h1", "h2"), np.eye(3))}, {"h1": np.linspace(0, 1, 3), "h2": np.linspace(0, 1, 3)})
    picture = tmp_path / "p.png"
    picture.write_bytes(b"\x89PNG\r\n\x1a\n" + b"pixels")
    folder = save(imprint, tmp_path / "a", surface=surface, picture=picture)
    xr.testing.assert_identical(xr.open_zarr(folder / "surface.zarr", consolidated=False).load(), surface)
    assert (folder / "surface.png").read_bytes() == picture.read_bytes()
    assert info(folder)["files"]["surface.zarr"]["sha256"] == digest(folder / "surface.zarr")
    save(imprint, folder, force=True, picture=folder / "surface.png")  # a picture of the bundle that is replaced
    assert not (folder / "surface.zarr").exists()
    assert (folder / "surface.png").read_bytes() == picture.read_bytes()
    with pytest.raises(InputError, match="is a PNG, got bytes that begin with b'GIF8"):
        save(imprint, tmp_path / "b", picture=b"GIF89a")
    with pytest.raises(InputError, match=r"none.png cannot be read"):
        save(imprint, tmp_path / "b", picture=tmp_path / "none.png")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "p.png"]


def test_failed_certificates_are_kept_in_json(tmp_path):
    imprint = lf.imprint(grid(2), "digits")
    broken = replace(imprint.certificate, bound=float("inf"), resampling=float("nan"), holds=False, failures=("why",))
    imprint.with_certificate(broken).save(tmp_path / "a")
    assert '"bound": "inf"' in (tmp_path / "a" / "certificate.json").read_text()
    again = load(tmp_path / "a").certificate
    assert again.bound == float("inf")
    assert again.resampling != again.resampling
    assert again.failures == ("why",)


def test_the_documented_script_needs_no_landform(tmp_path):
    block = re.findall(r"```python[^\n]*\n(.*?)```", DOCS.read_text(), re.DOTALL)
    (script,) = [text for text in block if "safetensors" in text]
    assert len(script.strip().splitlines()) <= 15
    assert "landform" not in script
    imprint = lf.imprint(grid(8), "digits", certify=False)
    imprint.save(tmp_path / "a")
    (tmp_path / "read.py").write_text(script)
    points = [(0.25, 0.5), (0.0, 1.0), (0.731, 0.117)]
    run = f"""
import runpy, sys
for h in {points!r}:
    sys.argv = ["read.py", "a", *map(str, h)]
    runpy.run_path("read.py")
assert "landform" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", run], cwd=tmp_path, capture_output=True, text=True, check=True)
    wanted = losses_at(imprint, torch.tensor(points, dtype=torch.float64))[:, 0]
    assert [float(line) for line in done.stdout.split()] == pytest.approx(wanted.tolist(), abs=1e-6)


def test_importing_is_cheap():
    lazy = ("pydantic", "xarray", "zarr", "matplotlib", "safetensors")
    code = f"import sys, landform.bundle; print([m for m in {lazy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
