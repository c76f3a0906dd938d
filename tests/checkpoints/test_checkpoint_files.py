"""Checkpoints are opened by their content, read in parts, and refused with the reason."""

import copy
import json

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from landform import between
from landform.checkpoints import checkpoint
from landform.checkpoints.files import rows_of
from landform.errors import ArchitectureError, InputError

torch.set_num_threads(1)


def network():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 3, bias=False))


PARAMETERS = ("0.weight", "0.bias", "1.weight", "1.bias", "3.weight")


def written(kind, model, folder):
    """Write a model in one of the formats that are about; return the path."""
    state = model.state_dict()
    prefixed = {f"model.{name}": value for name, value in state.items()}
    file = folder / f"step-20.{kind}"
    if kind == "safetensors":
        save_file(state, file)
    elif kind == "pt":
        torch.save(state, file)
    elif kind == "old":
        torch.save(state, file, _use_new_zipfile_serialization=False)
    elif kind == "training":
        torch.save({"epoch": 3, "model_state_dict": state, "optimizer": {"lr": 0.1}}, file)
    elif kind == "ddp":
        torch.save({f"module.{name}": value for name, value in state.items()}, file)
    elif kind == "compiled":
        torch.save({f"_orig_mod.{name}": value for name, value in state.items()}, file)
    elif kind == "lightning":
        torch.save({"state_dict": prefixed, "global_step": 77, "pytorch-lightning_version": "2.4"}, file)
    elif kind == "hub":
        file.mkdir()
        save_file(state, file / "model.safetensors")
    elif kind == "shards":
        file.mkdir()
        names = list(state)
        parts = {"a.safetensors": names[:3], "b.safetensors": names[3:]}
        for name, part in parts.items():
            save_file({key: state[key] for key in part}, file / name)
        where = {key: name for name, part in parts.items() for key in part}
        (file / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    return file


KINDS = ["safetensors", "pt", "old", "training", "ddp", "compiled", "hub", "shards"]


@pytest.mark.parametrize("kind", [*KINDS, "lightning"])
def test_every_format_gives_the_parameters(kind, tmp_path):
    model = network()
    point = checkpoint(written(kind, model, tmp_path), model=model)
    assert point.names == PARAMETERS
    assert point.step == (77 if kind == "lightning" else None)
    for name, value in point.state().items():
        assert torch.equal(value, model.get_parameter(name))
        assert point.shape(name) == tuple(value.shape)
        assert point.dtype(name) == value.dtype
    assert torch.equal(point.read("0.weight", slice(1, 3)), model[0].weight.detach()[1:3])


@pytest.mark.parametrize("kind", KINDS)
def test_without_the_model_buffers_are_known_by_name(kind, tmp_path):
    assert set(checkpoint(written(kind, network(), tmp_path)).names) == set(PARAMETERS)


def test_models_and_state_dicts_are_points_too():
    model = network()
    assert checkpoint(model).names == PARAMETERS
    assert checkpoint(model.state_dict()).names == PARAMETERS
    tied = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)})
    tied["b"].weight = tied["a"].weight
    assert checkpoint(tied).names == ("a.weight", "a.bias", "b.bias")
    assert checkpoint(tied.state_dict()).names == ("a.weight", "a.bias", "b.bias")


def test_a_line_between_two_files(tmp_path):
    one, two = network(), network()
    with torch.no_grad():
        two[0].weight.add_(1)
    (tmp_path / "x").mkdir()
    line = between(written("pt", one, tmp_path), written("safetensors", two, tmp_path / "x"))
    assert line.moved == ("0.weight",)
    assert torch.equal(line.at(torch.ones(1))["0.weight"], two[0].weight)
    mixed = between(one, written("safetensors", two, tmp_path / "x"))
    assert torch.equal(mixed.at(torch.ones(1))["0.weight"], two[0].weight)


class Evil:
    def __reduce__(self):
        return print, ("code ran",)


def test_files_that_are_no_weights(tmp_path, capsys):
    def refused(text, path, **options):
        with pytest.raises(InputError, match=text):
            checkpoint(path, **options)

    refused("cannot be read: No such file", tmp_path / "nothing.pt")
    refused("has neither model.safetensors", tmp_path)
    (tmp_path / "text.pt").write_text("hello, this is no checkpoint")
    refused("text.pt (is damaged|cannot be read)", tmp_path / "text.pt")
    torch.save({"weights": Evil()}, tmp_path / "evil.pt")
    refused("evil.pt cannot be read as weights alone.*runs no code from files", tmp_path / "evil.pt")
    assert "code ran" not in capsys.readouterr().out
    torch.save({"epoch": 1, "loss": 0.5}, tmp_path / "log.pt")
    refused("log.pt holds keys epoch, loss; wanted a state dict", tmp_path / "log.pt")
    good = written("safetensors", network(), tmp_path)
    good.write_bytes(good.read_bytes()[:-8])
    refused("is damaged: wanted safetensors", good)
    torch.save({"n": torch.arange(3)}, tmp_path / "whole.pt")
    refused("whole.pt has no floating-point parameters", tmp_path / "whole.pt")
    torch.save({"w": torch.tensor([1.0, torch.inf])}, tmp_path / "inf.pt")
    with pytest.raises(InputError, match=r"inf.pt has values in 'w' that are not finite"):
        checkpoint(tmp_path / "inf.pt").state()


def test_points_of_another_model(tmp_path):
    file = written("pt", network(), tmp_path)
    with pytest.raises(InputError, match=r"step-20.pt has no '3.bias', which Sequential has"):
        checkpoint(file, model=nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 3)))
    with pytest.raises(InputError, match=r"'0.weight' has shape \[4, 5\] in step-20.pt, \[4, 6\] in Sequential"):
        checkpoint(file, model=nn.Sequential(nn.Linear(6, 4)))
    with pytest.raises(ArchitectureError, match="no values"):
        checkpoint(nn.Linear(2, 2, device="meta"))
    with pytest.raises(InputError, match=r"the point is a list; wanted a torch.nn.Module, a state dict or a file"):
        checkpoint([torch.ones(1)])


def test_slices_cover_every_row():
    for shape in [(), (7,), (5, 10), (3, 100), (0, 4)]:
        value = torch.arange(int(torch.Size(shape).numel()), dtype=torch.float32).reshape(shape)
        parts = [value if rows is None else value[rows] for rows in rows_of(shape, 25)]
        assert torch.equal(torch.cat([part.flatten() for part in parts]), value.flatten())
        assert all(part.numel() <= max(25, shape[-1] if shape else 1) for part in parts)


def test_the_model_is_left_as_found(tmp_path):
    model = network()
    before = copy.deepcopy(model.state_dict())
    checkpoint(model).state()["0.weight"].zero_()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
