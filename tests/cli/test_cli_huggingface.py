"""Transformers from the command line: a local folder of Hugging Face's, with token data."""

import json
import re

import numpy as np
import pytest

from landform.cli import main
from landform.testing.transformers import gpt2, token_data


@pytest.fixture
def folder(tmp_path):
    model, _ = gpt2()
    model.save_pretrained(tmp_path / "gpt2")
    x, y = token_data()
    np.savez(tmp_path / "tokens.npz", x=x.numpy(), y=y.numpy())
    return tmp_path


def run(capsys, *words):
    code = main([str(word) for word in words])
    return code, capsys.readouterr()


def test_an_imprint_in_a_local_folder(folder, capsys, monkeypatch):
    monkeypatch.chdir(folder)
    words = [
        "imprint",
        "formula:ackley",
        "--resolution",
        8,
        "--model",
        "hf:gpt2",
        "--data",
        "tokens.npz",
        "--json",
        "-o",
        "out",
    ]
    code, said = run(capsys, *words)
    assert code == 0, said.err
    found = json.loads(said.out)
    assert found["kind"] == "certified"
    assert found["relative_bound"] < 5e-3
    assert run(capsys, "certify", "out", "--model", "hf:gpt2")[0] == 0


def test_what_a_transformer_holds(folder, capsys, monkeypatch):
    monkeypatch.chdir(folder)
    code, said = run(capsys, "plan", "--model", "hf:gpt2", "--data", "tokens.npz", "--json", "--resolution", 8)
    assert code == 0, said.err
    found = json.loads(said.out)
    held = {entry["form"]: entry["cells"] for entry in found["capacity"]["holdings"]}
    assert held["hats"] > 16
    assert held["strips"] > 60
    assert found["fits"] is True
    assert found["more"]["wider"] > held["strips"]
    assert found["stages"][0]["module"] == "transformer.h.0.mlp.c_fc"
    assert found["widen"] is None


def test_what_would_make_room_in_a_transformer(folder, capsys, monkeypatch):
    monkeypatch.chdir(folder)
    code, said = run(
        capsys, "plan", "--model", "hf:gpt2", "--data", "tokens.npz", "--resolution", 120, "--epsilon", 0.01
    )
    assert code == 0, said.err
    assert re.search(r"do not fit\n  lf\.widen\(model, \d+, repeat=2\) would make room for them", said.out)


@pytest.mark.parametrize(
    ("content", "match"),
    [(None, "there is no"), ("{", "no configuration"), ('{"architectures": ["MyNet"]}', "no class of the installed")],
)
def test_folders_that_are_none(tmp_path, capsys, monkeypatch, content, match):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net").mkdir()
    if content is not None:
        (tmp_path / "net" / "config.json").write_text(content)
    code, said = run(capsys, "plan", "--model", "hf:net")
    assert code == 2
    assert match in " ".join(said.err.split())
