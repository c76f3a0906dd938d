"""``landform certify``, ``scan``, ``info`` and ``plan`` in this process."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray
from safetensors.torch import load_file, save_file

from landform.bundle import load
from landform.cli.app import COMMANDS
from landform.cli.info import DATA
from landform.data import NAMES


@pytest.fixture
def copy(made, tmp_path):
    return shutil.copytree(made, tmp_path / "copy.landform")


def tamper(bundle):
    """Change a weight that moves the loss."""
    origin = load_file(bundle / "origin.safetensors")
    name = [key for key in origin if key.endswith("bias")][-1]
    origin[name] = origin[name] + torch.linspace(0, 0.5, len(origin[name]))
    save_file(origin, bundle / "origin.safetensors")


def test_certify_holds(run, made):
    ran = run("certify", made, "--json")
    assert ran.code == 0
    assert {"holds", "bound", "kind", "relative_bound", "bundle", "differences", "promised"} <= set(ran.json)
    assert (ran.json["holds"], ran.json["kind"], ran.json["differences"]) == (True, "certified", [])
    assert ran.json["bound"] == pytest.approx(load(made).certificate.bound)
    assert ran.json["data_hash"] == load(made).certificate.data_hash
    assert run("certify", made).out.startswith("holds: |loss − pattern| is at most")


def test_certify_rechecks_the_statistics(run, made):
    same = run("certify", made, "--data", "digits")
    assert same.code == 0
    assert "the label statistics are those of digits (train" in same.err
    other = run("certify", made, "--data", "digits", "--split", "test", "--json")
    assert other.code == 1
    assert other.json["holds"] is False
    assert "the label statistics differ from those of digits (test) in 10 of 10" in other.json["differences"][0]
    misfit = run("certify", made, "--data", "wine")
    assert misfit.code == 1
    assert misfit.out.startswith("does not hold: the label statistics")
    assert "does not fit the bundle's loss" in run("certify", made, "--data", "diabetes").out


def test_an_altered_weight_is_found_by_hash_and_by_proof(run, copy):
    tamper(copy)
    hashed = run("certify", copy)
    assert hashed.code == 2
    assert "--ignore-hashes" in hashed.err
    proved = run("certify", copy, "--ignore-hashes", "--json")
    assert proved.code == 1
    assert proved.json["holds"] is False
    assert run("certify", copy, "--ignore-hashes", "-q").out.startswith("does not hold: ")


def test_an_untouched_bundle_holds_without_hashes(run, copy):
    assert run("certify", copy, "--ignore-hashes").code == 0


@pytest.mark.parametrize("command", ["certify", "scan", "info"])
def test_no_bundle(run, command, tmp_path):
    for name, said in (("nosuch.landform", "there is no bundle at"), (tmp_path, "lacks imprint.json")):
        ran = run(command, name)
        assert ran.code == 2
        assert said in ran.err
        assert ran.out == ""


def test_scan_in_every_format(run, made, tmp_path):
    default = run("scan", made, "--no-picture", "--json")
    assert default.code == 0, default.err
    assert default.json["surface"] == "bowl.surface.zarr"
    assert (default.json["evaluations"], default.json["samples"], default.json["interval"]) == (25, 1442, 0.0)
    truth = xarray.open_zarr("bowl.surface.zarr", consolidated=False).load()
    assert truth.attrs["data"] == "digits (train)"
    assert (truth["samples"] == 1442).all()
    assert (truth["status"] == 0).all()  # measured, although only label statistics are stored
    assert run("scan", made, "--no-picture", "-o", "s.nc").code == 0
    with xarray.open_dataset("s.nc") as again:
        np.testing.assert_array_equal(again["loss"].values, truth["loss"].values)
    assert run("scan", made, "--no-picture", "-o", "s.csv").code == 0
    rows = list(csv.DictReader((tmp_path / "s.csv").read_text().splitlines()))
    assert [float(row["loss"]) for row in rows] == truth["loss"].values.ravel().tolist()
    drawn = run("scan", made, "-o", "s.png", "--json")
    assert (drawn.json["surface"], drawn.json["picture"]) == (None, "s.png")
    assert (tmp_path / "s.png").read_bytes().startswith(b"\x89PNG")
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_scan_draws_beside_the_surface(run, made, tmp_path):
    assert run("scan", made, "-o", "s.csv").code == 0
    assert (tmp_path / "s.png").exists()
    refused = run("scan", made, "-o", "s.csv")
    assert refused.code == 2
    assert "s.csv exists; pass --force" in refused.err
    assert run("scan", made, "-o", "s.csv", "--force", "--grid", 3, 2, "--json").json["grid"] == [3, 2]


def test_scan_on_other_data_compares_with_the_prediction(run, made):
    found = run("scan", made, "--data", "digits", "--split", "test", "--no-picture", "--json").json
    assert (found["data"], found["samples"]) == ("digits (test)", 355)
    assert "level sets are identical" in found["transfer"]
    assert found["difference"] < 2e-4


def test_scan_of_a_plane(run):
    run("imprint", "formula:sphere", "--z", 3, "--resolution", 2, "-o", "b.landform", "--no-picture", "-q")
    words = ("scan", "b.landform", "--no-picture", "--force", "--json")
    assert run(*words).json["grid"] == [3, 3]
    assert run(*words, "--axes", 3, 1, "--grid", 4, 5).json["grid"] == [4, 5]
    assert run(*words, "--grid", 2, 3, 4).json["grid"] == [2, 3, 4]
    assert "--axes are" in run(*words, "--axes", 4).err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-o", "s.zar"], "did you mean '.zarr'?"),
        (["-o", "s.png", "--no-picture"], "--no-picture forbids it"),
        (["-o", "none/s.csv"], "none is no folder"),
        (["--split", "test"], "name the data too"),
        (["--grid", 1], "--grid is 1; wanted nodes per axis"),
        (["--data", "wine"], "--data wine has inputs of shape [13], the bundle's network takes [64]"),
    ],
)
def test_scan_refuses(run, made, tmp_path, words, said):
    ran = run("scan", made, *words)
    assert ran.code == 2
    assert said in ran.err
    assert list(tmp_path.iterdir()) == []


def test_a_scan_that_fails_leaves_the_old_files(run, made, tmp_path, monkeypatch):
    (tmp_path / "s.csv").write_text("old")

    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("landform.cli.surfaces.store", fail)
    ran = run("scan", made, "-o", "s.csv", "--force", "--no-picture")
    assert ran.code == 2
    assert ran.err.startswith("error: cannot write s.csv: No space left on device; nor is there room")
    assert [path.name for path in tmp_path.iterdir()] == ["s.csv"]
    assert (tmp_path / "s.csv").read_text() == "old"


@pytest.fixture
def full(monkeypatch):
    """Let files in a folder be as on a full disk: they can be made, but hold nothing."""
    really = Path.write_bytes

    def fill(folder):
        def write_bytes(path, content):
            if folder.resolve() in path.resolve().parents:
                raise OSError(28, "No space left on device", str(path))
            return really(path, content)

        monkeypatch.setattr(Path, "write_bytes", write_bytes)

    return fill


@pytest.mark.parametrize(("name", "kept"), [("s.csv", "s.csv"), ("s.nc", "s.nc"), ("s.png", "s.zarr")])
def test_a_full_disk_loses_nothing_that_was_measured(run, made, tmp_path, monkeypatch, full, name, kept):
    there, elsewhere = tmp_path / "there", tmp_path / "elsewhere"
    there.mkdir()
    elsewhere.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(elsewhere))
    full(there)
    ran = run("scan", made, "-o", f"there/{name}", *(["--no-picture"] if kept == name else []))
    assert ran.code == 2
    assert ran.err.startswith(f"error: cannot write there/{name}: No space left on device; what was measured is in ")
    (found,) = elsewhere.glob(f"landform-*/{kept}")
    assert str(found) in ran.err
    if kept == "s.zarr":
        assert xarray.open_zarr(found).loss.shape == (5, 5)
    assert list(there.iterdir()) == []


def test_a_picture_without_room_leaves_the_surface(run, made, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("landform.cli.surfaces.draw", fail)
    ran = run("scan", made, "-o", "s.nc")
    assert ran.code == 2
    assert ran.err == "error: cannot write s.png: No space left on device; the surface is in s.nc\n"
    assert [path.name for path in tmp_path.iterdir()] == ["s.nc"]


def test_info_lists_what_there_is(run):
    from landform.losses import LOSS_NAMES
    from landform.pattern import formulas

    ran = run("info")
    assert all(name in ran.out for name in [*LOSS_NAMES, *formulas(), *NAMES, "text:WORDS", "module:factory"])
    found = run("info", "--json").json
    assert found["losses"] == list(LOSS_NAMES)
    assert found["formulas"] == formulas()
    assert set(found["data"]) == set(NAMES) == set(DATA)


def test_info_says_where_fashion_mnist_is(run, monkeypatch, tmp_path):
    monkeypatch.setattr("landform.data.idx.SYSTEM_FOLDER", tmp_path / "system")
    monkeypatch.delenv("LANDFORM_DATA", raising=False)
    assert run("info", "--json").json["folders"]["fashion-mnist"] is None
    assert "not found" in run("info").out
    folder = tmp_path / "fashion-mnist"
    folder.mkdir()
    (folder / "train-images-idx3-ubyte.gz").touch()
    monkeypatch.setenv("LANDFORM_DATA", str(tmp_path))
    assert run("info", "--json").json["folders"]["fashion-mnist"] == str(folder)


def test_info_of_a_bundle(run, made):
    found = run("info", made, "--json").json
    assert found["pattern"]["name"] == "formula:sphere"
    assert found["certificate"]["holds"]
    assert found["sizes"]["imprint.json"] == (made / "imprint.json").stat().st_size
    shown = run("info", made).out
    assert "formula:sphere, 4 × 4 cells" in shown
    assert "digits (train, 1,442 samples)" in shown
    assert "|loss − pattern| is at most" in shown


def test_plan_agrees_with_what_imprint_does(run):
    widths = (2, 31, 81, 64)
    found = run("plan", "--widths", *widths, "--resolution", 8, "--json").json
    best = max(held["cells"] for held in found["capacity"]["holdings"])
    assert found["fits"] is True
    assert 0 < found["epsilon"] < 1e-3
    words = ("imprint", "formula:ackley", "--widths", *widths, "--dry-run", "-q")
    assert run(*words, "--resolution", best, "--no-direct").code == 0
    assert run(*words, "--resolution", best + 1, "--no-direct").code == 2


def test_plan_says_what_a_resolution_takes(run):
    found = run("plan", "--resolution", 16, "--json").json
    made = run("imprint", "formula:ackley", "--resolution", 16, "--dry-run", "--json", "--form", "strips").json
    strips = next(needed for needed in found["needed"] if needed["form"] == "strips")
    assert strips["widths"] == made["widths"]
    assert strips["parameters"] == made["parameters"]
    assert found["capacity"] is None
    assert [knots["epsilon"] for knots in found["knots"]] == [1e-3, 1e-4, 1e-5, 1e-6]
    text = run("plan", "--resolution", 16, "--epsilon", "1e-2").out
    assert "16 × 16 cells take at least" in text
    assert "epsilon 0.01" in text


def test_plan_refuses(run):
    assert "give one of them" in run("plan", "--widths", 3, "--model", "json:loads").err
    assert "--model fit builds whatever is needed" in run("plan", "--model", "fit").err
    assert "--z must be 1, 2, 3 or 4" in run("plan", "--widths", 3, "--z", 7).err
    assert "give --widths, --model or --resolution" in run("plan").err


def test_json_is_nothing_but_json(run, made):
    for words in (["certify", made], ["info"], ["info", made], ["plan"], ["scan", made, "--no-picture"]):
        assert isinstance(json.loads(run(*words, "--json").out), dict)
    assert set(COMMANDS) == {"imprint", "certify", "scan", "plan", "phantom", "info"}
