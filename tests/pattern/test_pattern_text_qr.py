"""Text and QR codes: legible, upright, and clear about what cannot be drawn."""

import numpy as np
import pytest
import segno
import torch
import zxingcpp

from landform.errors import InputError
from landform.pattern import Pattern

torch.set_num_threads(1)


def rendered(pattern: Pattern, pixels: int) -> np.ndarray:
    """Draw the surface between the nodes as an 8-bit picture, rows from the top."""
    axis = (torch.arange(pixels, dtype=torch.float64) + 0.5) / pixels
    heights = pattern(torch.cartesian_prod(axis, axis)).reshape(pixels, pixels)
    return (heights.T.flip(0) * 255).round().to(torch.uint8).numpy()


def ink(pattern: Pattern) -> torch.Tensor:
    return 1 - pattern.values


def test_text_is_upright_and_unmirrored() -> None:
    ink_l = ink(Pattern.from_text("L"))
    assert ink_l[:32].sum() > 2 * ink_l[32:].sum()  # the stem is left
    assert ink_l[:, :32].sum() > 1.3 * ink_l[:, 32:].sum()  # the foot is below


def test_text_is_centred_and_leaves_its_margin() -> None:
    for text in ("HILL", "g", "one\ntwo\nthree"):
        marks = ink(Pattern.from_text(text, resolution=100, margin=0.1)) > 0.5
        for hit in (marks.any(dim=1).nonzero(), marks.any(dim=0).nonzero()):
            first, last = int(hit.min()), int(hit.max())
            assert first >= 9
            assert last <= 91
            assert abs(first + last - 100) <= 1
    assert last - first >= 70  # three lines fill the height


def test_margin_bounds_the_letters() -> None:
    hit = (ink(Pattern.from_text("HELLO", margin=0.0)) > 0.5).any(dim=1).nonzero()
    assert int(hit.max()) - int(hit.min()) >= 59  # up to the font's side bearings


def test_text_inverts_and_is_reproducible() -> None:
    plain, inverted = Pattern.from_text("ψ(t)"), Pattern.from_text("ψ(t)", invert=True)
    assert torch.allclose(inverted.values, 1 - plain.values, atol=1e-14)
    assert torch.equal(Pattern.from_text("ψ(t)").values, plain.values)


@pytest.mark.parametrize("spec", ["text:Lp", "qr:x", "demo"])
def test_originals_lie_as_the_values_do(spec: str) -> None:
    pattern = Pattern.parse(spec)
    h = torch.rand(2000, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert float((pattern(h) - pattern.original(h)).abs().mean()) < 0.1  # more if turned or mirrored


def test_names_are_short() -> None:
    assert Pattern.from_text("a b\nc").name == "text:a b c"
    assert len(Pattern.from_text("word " * 12).name) == 45
    assert Pattern.from_qr("q" * 100).name == f"qr:{'q' * 39}…"


@pytest.mark.parametrize(
    ("text", "options", "match"),
    [
        ("", {}, "empty"),
        (" \n\t ", {}, "empty"),
        ("山", {}, r"no glyph for '山' \(U\+5C71\)"),
        ("a\x07b", {}, r"no glyph for '\\x07' \(U\+0007\)"),
        ("x" * 1001, {}, "1001 characters, at most 1000"),
        ("x" * 900, {}, "too long.*break it into lines"),
        ("x", {"margin": 0.5}, r"margin must lie in \[0, 0.45\]"),
        ("x", {"resolution": 2000}, "goes up to 1024"),
    ],
)
def test_text_that_cannot_be_drawn(text: str, options: dict[str, float], match: str) -> None:
    with pytest.raises(InputError, match=match):
        Pattern.from_text(text, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["landform", "https://example.org/a?b=c#d", "Grüße, 山", "7" * 200])
@pytest.mark.parametrize("scale", [1, None])
def test_qr_is_read_from_the_surface(text: str, scale: int | None) -> None:
    pattern = Pattern.from_qr(text, scale=scale)
    for size in (3, 8):  # pixels a module
        found = zxingcpp.read_barcodes(rendered(pattern, size * pattern.source["modules"]))
        assert [code.text for code in found] == [text]


def test_qr_nodes_are_modules() -> None:
    modules = 1.0 - np.array([list(row) for row in segno.make_qr("x", error="m").matrix_iter(border=4)])
    for scale in (1, 2, 3):
        pattern = Pattern.from_qr("x", scale=scale)
        assert pattern.resolution == (29 * scale - 1,) * 2
        picture = pattern.values.T.flip(0).numpy()
        assert np.array_equal(picture, np.kron(modules, np.ones((scale, scale))))
        assert set(pattern.values.unique().tolist()) == {0.0, 1.0}


def test_qr_resolution_decides_the_scale() -> None:
    assert Pattern.from_qr("x", resolution=86).source["options"]["scale"] == 3
    assert Pattern.from_qr("x", border=0, resolution=20).source["options"]["scale"] == 1
    assert Pattern.from_qr("x", invert=True).values[0, 0] == 0


@pytest.mark.parametrize(
    ("text", "options", "match"),
    [
        ("", {}, "empty"),
        ("x" * 5000, {}, "5000 characters does not fit"),
        ("x", {"resolution": 64}, r"64 does not fit a QR code of 29 × 29 modules.*choose 28 or 57 or 86"),
        ("x", {"resolution": 57, "scale": 3}, "choose 86"),
        ("x", {"resolution": 5}, "does not fit"),
        ("x", {"resolution": (57, 57)}, "whole number"),
        ("x", {"scale": 0}, "scale must be at least 1"),
        ("x", {"scale": 100}, "goes up to 1024"),
        ("x", {"border": -1}, "border must lie in 0 … 64"),
        ("x", {"border": 1.5}, "whole number"),
        ("x", {"error": "z"}, "error must be 'l', 'm', 'q' or 'h', got 'z'"),
    ],
)
def test_qr_that_cannot_be_made(text: str, options: dict[str, object], match: str) -> None:
    with pytest.raises(InputError, match=match):
        Pattern.from_qr(text, **options)  # type: ignore[arg-type]
