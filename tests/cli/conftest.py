import dataclasses
import json
import sys
from collections.abc import Callable

import pytest

from landform.cli import main


@dataclasses.dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str

    @property
    def json(self):
        return json.loads(self.out)


@pytest.fixture
def run(capsys, monkeypatch, tmp_path) -> Callable[..., Ran]:
    """Run the command line in this process, in an empty folder, without a terminal."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delenv("LANDFORM_DEBUG", raising=False)

    def go(*words: object) -> Ran:
        capsys.readouterr()
        code = main([str(word) for word in words])
        return Ran(code, *capsys.readouterr())

    return go


@pytest.fixture
def write_module(tmp_path, monkeypatch) -> Callable[..., str]:
    """Write a module of the user's own into the current folder, under a name that no other test has imported."""

    def write(text: str, prefix: str = "own") -> str:
        name = f"{prefix}_{abs(hash(str(tmp_path)))}"
        (tmp_path / f"{name}.py").write_text(text)
        monkeypatch.chdir(tmp_path)
        monkeypatch.syspath_prepend(str(tmp_path))
        return name

    return write


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """A small bundle, made once."""
    folder = tmp_path_factory.mktemp("made") / "bowl.landform"
    assert main(["imprint", "formula:sphere", "--resolution", "4", "-o", str(folder), "--no-picture", "-q"]) == 0
    return folder
