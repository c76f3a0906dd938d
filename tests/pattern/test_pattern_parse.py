"""One string in, one pattern out."""

from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from landform.errors import InputError, UnknownNameError
from landform.pattern import Pattern

torch.set_num_threads(1)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3)).save("cat.png")
    np.save("x.npy", np.linspace(0, 1, 9))
    return tmp_path


@pytest.mark.parametrize(
    ("spec", "options", "direct"),
    [
        (
            "cat.png",
            {"resolution": 4, "colour": True},
            lambda: Pattern.from_image("cat.png", resolution=4, colour=True),
        ),
        ("./cat.png", {"fit": "stretch"}, lambda: Pattern.from_image("cat.png", fit="stretch")),
        ("text:A:B", {"resolution": 16}, lambda: Pattern.from_text("A:B", resolution=16)),
        (r"text:up\ndown", {}, lambda: Pattern.from_text("up\ndown")),
        ("qr:https://example.org", {"scale": 1}, lambda: Pattern.from_qr("https://example.org", scale=1)),
        ("formula:sphere", {"z": 3, "resolution": 4}, lambda: Pattern.from_formula("sphere", z=3, resolution=4)),
        ("formula:spiral", {"turns": 2}, lambda: Pattern.from_formula("spiral", turns=2)),
        ("x.npy", {"normalise": True}, lambda: Pattern.from_npy("x.npy", normalise=True)),
        ("cat.png", {"resolution": None, "z": None}, lambda: Pattern.from_image("cat.png")),  # None: not given
    ],
)
def test_each_kind(folder: Path, spec: str, options: dict[str, object], direct: object) -> None:
    parsed, wanted = Pattern.parse(spec, **options), direct()  # type: ignore[operator]
    assert torch.equal(parsed.values, wanted.values)
    assert (parsed.name, parsed.source, parsed.channels) == (wanted.name, wanted.source, wanted.channels)


def test_demo_is_a_picture_worth_showing() -> None:
    pattern = Pattern.parse("demo")
    assert (pattern.name, pattern.resolution) == ("demo", (64, 64))
    assert pattern.ceiling - pattern.floor > 0.5
    assert Pattern.parse("demo", resolution=8, invert=True).resolution == (8, 8)
    package = resources.files("landform.pattern")
    assert len((package / "demo.png").read_bytes()) < 60_000
    assert "CC0" in (package / "demo.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("spec", "options", "match"),
    [
        ("", {}, "pattern is empty"),
        ("  ", {}, "pattern is empty"),
        ("dog.png", {}, "no such file: dog.png; a pattern is an image file, an .npy file, text:HELLO"),
        ("y.npy", {}, "no such file: y.npy; a pattern is"),
        ("https://example.org/cat.png", {}, "is an address; download it first"),
        ("text:", {}, "text is empty"),
        ("cat.png", {"z": 3}, "an image has no option 'z'; its options: resolution, colour, fit"),
        ("demo", {"z": 3, "scale": 1}, "demo has no option 'scale', 'z'"),
        ("x.npy", {"resolution": 4}, "an .npy file has no option 'resolution'; its options: channels, normalise"),
        ("qr:x", {"colour": True}, "qr: has no option 'colour'; its options: resolution, scale"),
        ("text:x", {"margins": 0}, "text: has no option 'margins'; its options: resolution, margin, invert"),
        ("formula:sphere", {"colour": True}, "sphere has no option 'colour'; its options: resolution, z, log"),
        (".", {}, "is a folder"),
    ],
)
def test_unfit_specs(folder: Path, spec: str, options: dict[str, object], match: str) -> None:
    with pytest.raises(InputError, match=match):
        Pattern.parse(spec, **options)


def test_unknown_names_offer_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="unknown formula 'rastrign': did you mean 'rastrigin'"):
        Pattern.parse("formula:rastrign")
    with pytest.raises(UnknownNameError, match="unknown pattern prefix 'formla': did you mean 'formula'"):
        Pattern.parse("formla:sphere")


def test_a_file_whose_name_looks_like_a_prefix(folder: Path) -> None:
    Path("cat.png").rename("zoom:cat")
    assert Pattern.parse("zoom:cat").name == "zoom:cat"
