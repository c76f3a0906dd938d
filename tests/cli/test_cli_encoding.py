"""Terminals and files whose encoding lacks signs that the command line writes."""

import io
import json
import sys

import pytest

from landform.cli import main


@pytest.fixture
def written(monkeypatch, tmp_path):
    """Run a command with stdout in an encoding; return its exit code, what it wrote, and how stdout treats errors."""
    monkeypatch.chdir(tmp_path)

    def go(encoding, *words, errors="strict"):
        out, err = (io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors=errors) for _ in range(2))
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", out)
            patch.setattr(sys, "stderr", err)
            code = main(list(words))
        for stream in (out, err):
            stream.flush()
            assert stream.errors == errors, "left otherwise than found"
        return code, *(stream.buffer.getvalue().decode(encoding) for stream in (out, err))

    return go


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
def test_help_in_any_encoding(written, encoding):
    code, out, err = written(encoding, "scan", "--help")
    assert (code, err) == (0, "")
    assert {"ascii": "33 x 33", "latin-1": "33 × 33", "cp1252": "33 × 33", "utf-8": "33 × 33"}[encoding] in out
    assert ("FILE [FILE...]" if encoding in ("ascii", "latin-1") else "FILE [FILE…]") in out


def test_a_name_with_an_emoji_in_ascii(written, tmp_path):
    code, out, _ = written("ascii", "imprint", "formula:sphere", "--resolution", "4", "--no-picture", "-o", "a😀")
    assert code == 0
    assert "bundle   a\\U0001f600\n" in out
    assert "|loss - pattern| is at most" in out
    assert (tmp_path / "a😀" / "imprint.json").is_file()
    code, out, _ = written("ascii", "info", "a😀", "--json")
    assert code == 0
    assert json.loads(out)["bundle"] == "a😀"  # JSON escapes: exact in any encoding
    code, out, err = written("latin-1", "certify", "b😀")
    assert (code, out) == (2, "")
    assert "b\\U0001f600" in err


def test_a_name_that_is_no_unicode(written):
    code, out, _ = written("utf-8", "info", "bad\udcff")
    assert (code, out) == (2, "")


def test_what_somebody_chose_stays(written):
    code, out, _ = written("ascii", "scan", "--help", errors="replace")
    assert code == 0
    assert "33 ? 33" in out
