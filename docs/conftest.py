"""What the code blocks of the docs may ask for."""

from pathlib import Path

import pytest


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a block that writes files in a folder of its own: a fence marked ``python fixture:elsewhere``."""
    monkeypatch.chdir(tmp_path)
