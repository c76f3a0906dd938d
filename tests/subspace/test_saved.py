"""Subspaces on disk: what is read is what was written, and what is damaged or of another model is refused."""

import json

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from landform import Subspace, between, combine, imprint, load_subspace, random_plane, save_subspace
from landform.errors import InputError
from landform.subspace.curve import Curve

torch.set_num_threads(1)


def network(seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Conv2d(2, 3, 3), nn.ConvTranspose2d(3, 4, 2), nn.Flatten(), nn.Linear(9, 4))


def same(one, two, h):
    there, here = one.at(h), two.at(h)
    assert set(there) == set(here)
    assert all(torch.equal(value, here[name]) and value.dtype == here[name].dtype for name, value in there.items())
    assert one.hash == two.hash
    assert one.ranges == two.ranges
    assert one.meta == two.meta


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_kept_directions(dtype, tmp_path):
    plane = random_plane(network().to(dtype), z=3, seed=4)
    again = load_subspace(save_subspace(plane, tmp_path / "plane"))
    same(plane, again, torch.tensor([0.5, -1.0, 0.25]))
    assert sorted(file.name for file in (tmp_path / "plane").iterdir()) == [
        "directions.safetensors",
        "origin.safetensors",
        "subspace.json",
    ]
    stored = load_file(tmp_path / "plane" / "directions.safetensors")  # readable without landform
    assert torch.equal(stored["1/3.weight"], plane.directions[1]["3.weight"])
    assert json.loads((tmp_path / "plane" / "subspace.json").read_text())["meta"]["seed"] == 4


@pytest.mark.parametrize("norm", ["filter", "layer", "model", "none"])
def test_of_seeded_directions_the_seed_is_saved(norm, tmp_path):
    model = network()
    plane = random_plane(model, seeded=True, norm=norm, biases=True)
    save_subspace(plane, tmp_path / "plane")
    assert [file.name for file in (tmp_path / "plane").iterdir()] == ["subspace.json"]
    again = load_subspace(tmp_path / "plane", model=model)
    assert again.seeded
    same(plane, again, torch.tensor([0.5, -1.0]))
    with pytest.raises(InputError, match="saved without its origin; pass the model"):
        load_subspace(tmp_path / "plane")
    with pytest.raises(InputError, match=r"not those that .* was saved with \(hash differs\)"):
        load_subspace(tmp_path / "plane", model=network(seed=1))
    with pytest.raises(InputError, match=r"the model has no '0.weight'"):
        load_subspace(tmp_path / "plane", model=nn.Linear(2, 2))
    whole = load_subspace(save_subspace(plane, tmp_path / "whole", origin=True))
    same(plane, whole, torch.tensor([0.5, -1.0]))


def test_curves_and_mixtures(tmp_path):
    a, b = network(), network(1)
    line = between(a, b)
    curve = Curve(Subspace(line.origin, (random_plane(a, z=1).directions[0], line.directions[0])), {"barrier": 0.5})
    again = load_subspace(save_subspace(curve, tmp_path / "curve"))
    assert isinstance(again, Curve)
    same(curve, again, torch.tensor([0.3]))
    mixed = combine(line, random_plane(a, seeded=True), between(a, network(2)))
    same(mixed, load_subspace(save_subspace(mixed, tmp_path / "mixed")), torch.tensor([0.3, 0.1, 0.2, 0.4]))


def test_the_subspace_of_an_imprint_is_one_of_these(tmp_path):
    made = imprint("formula:sphere", "digits")
    again = load_subspace(save_subspace(made.subspace, tmp_path / "plane"))
    same(made.subspace, again, torch.tensor([0.25, 0.75]))
    with pytest.raises(InputError, match=r"is a bundle; its subspace is landform.load\("):
        load_subspace(made.save(tmp_path / "bundle"))


def test_a_saved_subspace_is_replaced_and_nothing_else_is(tmp_path):
    plane, other = random_plane(network()), random_plane(network(), seed=9)
    save_subspace(plane, tmp_path / "plane")
    save_subspace(other, tmp_path / "plane")
    assert load_subspace(tmp_path / "plane").hash == other.hash
    assert [file.name for file in tmp_path.iterdir()] == ["plane"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("…")
    with pytest.raises(InputError, match="mine exists and is no saved subspace, so it is never overwritten"):
        save_subspace(plane, tmp_path / "mine")


def test_a_full_disk_keeps_what_was_there(tmp_path, monkeypatch):
    plane, other = random_plane(network()), random_plane(network(), seed=9)
    save_subspace(plane, tmp_path / "plane")

    def full(*_args, **_options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("landform.subspace.saved.write_weights", full)
    with pytest.raises(InputError, match=r"cannot be written.*No space left"):
        save_subspace(other, tmp_path / "plane")
    assert load_subspace(tmp_path / "plane").hash == plane.hash
    assert [file.name for file in tmp_path.iterdir()] == ["plane"]


def test_damage(tmp_path):
    plane = random_plane(network())
    folder = save_subspace(plane, tmp_path / "plane")
    document, tensors = folder / "subspace.json", folder / "directions.safetensors"
    text, raw = document.read_text(), tensors.read_bytes()

    def refused(message):
        with pytest.raises(InputError, match=message):
            load_subspace(folder)

    with pytest.raises(InputError, match=r"no saved subspace at .*nothing"):
        load_subspace(tmp_path / "nothing")
    document.write_text(text[: len(text) // 2])
    refused("subspace.json is damaged")
    document.write_text(text.replace('"version": 1', '"version": 2'))
    refused("has version 2; this landform reads 1")
    document.write_text(text.replace("landform-subspace", "other"))
    refused("is no saved subspace")
    document.write_text(text.replace('"recipes"', '"recipe"'))
    refused("subspace.json is damaged: KeyError 'recipes'")
    document.write_text(text)
    flipped = bytearray(raw)
    flipped[-1] ^= 1
    tensors.write_bytes(bytes(flipped))
    refused("its tensors are not those that were saved")
    tensors.write_bytes(raw[:-4])
    refused("directions.safetensors is damaged")
    tensors.unlink()
    refused("directions.safetensors cannot be read")
    tensors.write_bytes(raw)
    assert load_subspace(folder).hash == plane.hash
