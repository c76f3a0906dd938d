"""Pictures: modes, orientation, averaging, and files that are not what they seem."""

import contextlib
import struct
import zlib
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from landform.errors import InputError
from landform.pattern import Pattern
from landform.pattern import image as image_source
from landform.pattern.area import area_weights, average_at_nodes

torch.set_num_threads(1)


def save(tmp_path: Path, image: Image.Image, name: str = "picture.png", **options: object) -> Path:
    path = tmp_path / name
    image.save(path, **options)
    return path


def noise(height: int, width: int, *, seed: int = 0, channels: int = 0) -> np.ndarray:
    shape = (height, width, channels) if channels else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def naive_weights(pixels: int, cells: int) -> list[list[Fraction]]:
    """The mean over one cell (at least one pixel) around each node, clipped, in exact rationals."""
    rows = []
    for i in range(cells + 1):
        half = max(Fraction(1), Fraction(pixels, cells)) / 2
        low, high = max(Fraction(i * pixels, cells) - half, 0), min(Fraction(i * pixels, cells) + half, pixels)
        rows.append([max(Fraction(0), min(high, c + 1) - max(low, c)) / (high - low) for c in range(pixels)])
    return rows


@given(st.integers(1, 40), st.integers(1, 40))
@settings(max_examples=60, deadline=None)
def test_weights_match_exact_areas(pixels: int, cells: int) -> None:
    wanted = np.array([[float(w) for w in row] for row in naive_weights(pixels, cells)])
    assert np.allclose(area_weights(pixels, cells).toarray(), wanted, atol=1e-12, rtol=0)


@given(st.integers(1, 12), st.integers(13, 40))
@settings(max_examples=30, deadline=None)
def test_finer_grids_interpolate_linearly(pixels: int, cells: int) -> None:
    row = np.random.default_rng(pixels).random(pixels)
    wanted = np.interp(np.arange(cells + 1) * pixels / cells, np.arange(pixels) + 0.5, row)
    assert np.allclose(area_weights(pixels, cells) @ row, wanted, atol=1e-12)


def test_blocks_of_rows_do_not_matter() -> None:
    picture = noise(17, 11, channels=3) / 255
    whole = average_at_nodes([picture], height=17, width=11, cells=(4, 5))
    parts = average_at_nodes([picture[:3], picture[3:4], picture[4:]], height=17, width=11, cells=(4, 5))
    assert np.array_equal(whole, parts)


def test_right_is_h1_and_up_is_h2(tmp_path: Path) -> None:
    picture = Image.new("L", (4, 4), 0)
    picture.putpixel((3, 0), 255)  # right upper corner
    values = Pattern.from_image(save(tmp_path, picture), resolution=4).values
    assert values[4, 4] == 1
    assert values[0, 0] == values[0, 4] == values[4, 0] == 0


def test_flips_and_turns_of_the_picture_are_those_of_the_values(tmp_path: Path) -> None:
    picture = Image.fromarray(noise(9, 9))

    def values(image: Image.Image) -> torch.Tensor:
        return Pattern.from_image(save(tmp_path, image), resolution=5).values

    plain = values(picture)
    same = {"atol": 1e-12, "rtol": 0}
    assert torch.allclose(values(ImageOps.mirror(picture)), plain.flip(0), **same)
    assert torch.allclose(values(ImageOps.flip(picture)), plain.flip(1), **same)
    quarter = picture.transpose(Image.Transpose.ROTATE_90)  # counterclockwise: right becomes up
    assert torch.allclose(values(quarter), plain.T.flip(0), **same)


@pytest.mark.parametrize("tag", range(1, 9))
def test_exif_rotation(tmp_path: Path, tag: int) -> None:
    moves = Image.Transpose
    undo = {
        2: moves.FLIP_LEFT_RIGHT,
        3: moves.ROTATE_180,
        4: moves.FLIP_TOP_BOTTOM,
        5: moves.TRANSPOSE,
        6: moves.ROTATE_90,  # shown turned clockwise, hence stored turned back
        7: moves.TRANSVERSE,
        8: moves.ROTATE_270,
    }
    upright = Image.fromarray(noise(6, 10))
    stored = upright.transpose(undo[tag]) if tag in undo else upright
    exif = Image.Exif()
    exif[0x0112] = tag
    turned = Pattern.from_image(save(tmp_path, stored, "turned.png", exif=exif), resolution=5).values
    assert torch.equal(turned, Pattern.from_image(save(tmp_path, upright), resolution=5).values)


def test_grey_is_luma_in_floating_point(tmp_path: Path) -> None:
    path = save(tmp_path, Image.fromarray(noise(7, 7, channels=3)))
    grey = Pattern.from_image(path, resolution=6)
    colour = Pattern.from_image(path, resolution=6, colour=True)
    assert colour.channels == 3
    assert colour.values.shape == (7, 7, 3)
    luma = colour.values @ torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64)
    assert torch.allclose(grey.values, luma, atol=1e-14, rtol=0)
    assert not torch.equal((grey.values * 255).round(), grey.values * 255)  # not rounded to 8 bits


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "P", "I;16", "I", "F", "1", "CMYK", "YCbCr"])
def test_every_mode_gives_the_same_greys(tmp_path: Path, mode: str) -> None:
    grey = noise(8, 8) // 128 * 255 if mode == "1" else noise(8, 8)
    plain = Image.fromarray(grey)
    wide = grey.astype(np.uint16) * 257
    if mode == "I;16":
        path = save(tmp_path, Image.fromarray(wide), "picture.png")
    elif mode == "I":
        path = save(tmp_path, Image.fromarray(wide.astype(np.int32)), "picture.tif")
    elif mode == "F":
        path = save(tmp_path, Image.fromarray((grey / 255).astype(np.float32)), "picture.tif")
    elif mode in ("CMYK", "YCbCr"):
        path = save(tmp_path, plain.convert("RGB").convert(mode), "picture.tif")
    else:
        path = save(tmp_path, plain.convert(mode), "picture.png")
    got = Pattern.from_image(path, resolution=8).values
    wanted = Pattern.from_image(save(tmp_path, plain, "plain.png"), resolution=8).values
    rounding = 1 / 255 if mode == "YCbCr" else 1e-7  # 8-bit YCbCr does not hold every grey
    assert torch.allclose(got, wanted, atol=rounding, rtol=0)


def test_sixteen_bits_keep_their_depth(tmp_path: Path) -> None:
    steps = (30000 + np.arange(16, dtype=np.uint16)).reshape(4, 4)
    pattern = Pattern.from_image(save(tmp_path, Image.fromarray(steps)), resolution=4)
    assert pattern.values[0, 4] == pytest.approx(30000 / 65535, abs=1e-15)
    assert pattern.values[4, 0] == pytest.approx(30015 / 65535, abs=1e-15)


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM"])
def test_formats(tmp_path: Path, kind: str) -> None:
    ramp = Image.fromarray(np.tile(np.arange(0, 256, 8, dtype=np.uint8), (32, 1)))
    pattern = Pattern.from_image(save(tmp_path, ramp, "ramp", format=kind), resolution=8)
    across = pattern.values.mean(dim=1)
    assert torch.all(across.diff() > 0.05)
    assert torch.allclose(across[4], torch.tensor(0.486, dtype=torch.float64), atol=0.03)


@pytest.mark.parametrize(("background", "expected"), [("white", 1.0), ("black", 0.0), ("#808080", 128 / 255)])
def test_transparency_shows_the_background(tmp_path: Path, background: str, expected: float) -> None:
    rgba = np.zeros((4, 4, 4), dtype=np.uint8)
    rgba[:, 2:, 3] = 255  # right half opaque black
    rgba[0, 3, :3] = 200  # one visible shade, so that nothing is constant
    pattern = Pattern.from_image(save(tmp_path, Image.fromarray(rgba)), resolution=4, background=background)
    assert float(pattern.values[0, 0]) == pytest.approx(expected)
    assert float(pattern.values[4, 0]) == 0


def test_half_transparent_is_mixed_in_floating_point(tmp_path: Path) -> None:
    rgba = np.full((2, 2, 4), 255, dtype=np.uint8)
    rgba[:, 0] = (0, 0, 0, 51)
    assert float(Pattern.from_image(save(tmp_path, Image.fromarray(rgba)), resolution=1).values[0, 0]) == pytest.approx(
        0.8
    )


def test_palette_transparency(tmp_path: Path) -> None:
    picture = Image.new("P", (2, 2), 0)
    picture.putpalette([10, 10, 10, 0, 0, 0])
    picture.putpixel((1, 1), 1)
    path = save(tmp_path, picture, "palette.gif", transparency=0)
    assert Pattern.from_image(path, resolution=1).values.tolist() == [[1.0, 1.0], [0.0, 1.0]]


def test_first_frame_of_an_animation(tmp_path: Path) -> None:
    frames = [Image.fromarray(noise(5, 5, seed=s)).convert("P") for s in (1, 2)]
    path = save(tmp_path, frames[0], "film.gif", save_all=True, append_images=frames[1:])
    wanted = Pattern.from_image(save(tmp_path, frames[0].convert("L")), resolution=4).values
    assert torch.allclose(Pattern.from_image(path, resolution=4).values, wanted)


def test_keep_pads_to_a_square_and_stretch_fills(tmp_path: Path) -> None:
    path = save(tmp_path, Image.fromarray(np.tile(np.array([[0], [60]], dtype=np.uint8), (1, 4))))  # 4 wide, 2 high
    kept = Pattern.from_image(path, resolution=4, background="white").values
    assert torch.equal(kept[:, 0], torch.ones(5, dtype=torch.float64))
    assert torch.equal(kept[:, 4], torch.ones(5, dtype=torch.float64))
    assert float(kept[2, 2]) == pytest.approx(30 / 255)
    stretched = Pattern.from_image(path, resolution=4, fit="stretch").values
    assert float(stretched[0, 0]) == pytest.approx(60 / 255)
    assert float(stretched[0, 4]) == 0


def test_invert_and_contrast(tmp_path: Path) -> None:
    path = save(tmp_path, Image.fromarray(noise(9, 9) // 4 + 50))
    plain = Pattern.from_image(path, resolution=4)
    inverted = Pattern.from_image(path, resolution=4, invert=True)
    assert torch.equal(inverted.values, 1 - plain.values)
    assert torch.equal(inverted.original.values, 1 - plain.original.values)
    stretched = Pattern.from_image(path, resolution=4, contrast="stretch")
    lo, hi = stretched.source["range"]
    assert (stretched.floor, stretched.ceiling) == (0.0, 1.0)
    assert torch.allclose(lo + (hi - lo) * stretched.values, plain.values, atol=1e-15)
    assert torch.allclose(lo + (hi - lo) * stretched.original.values, plain.original.values, atol=1e-15)
    assert plain.source["range"] == [0.0, 1.0]


def test_source_names_the_file_but_not_its_folder(tmp_path: Path) -> None:
    pattern = Pattern.from_image(save(tmp_path, Image.fromarray(noise(3, 4))), resolution=2)
    assert pattern.name == pattern.source["file"] == "picture.png"
    assert pattern.source["pixels"] == [4, 3]
    assert str(tmp_path) not in repr(pattern.source)


def test_large_originals_are_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path, Image.fromarray(noise(10, 10)))
    whole = Pattern.from_image(path, resolution=4)
    monkeypatch.setattr(image_source, "MAX_KEPT", 99)
    bare = Pattern.from_image(path, resolution=4)
    assert bare.original is None
    assert torch.equal(bare.values, whole.values)


def test_constant_pictures_need_permission(tmp_path: Path) -> None:
    path = save(tmp_path, Image.new("RGB", (5, 5), (90, 90, 90)))
    with pytest.raises(InputError, match=r"one constant shade \(0.353\).*allow_constant=True"):
        Pattern.from_image(path, resolution=7)
    assert Pattern.from_image(path, resolution=7, allow_constant=True).is_constant
    with pytest.raises(InputError, match="is constant"):
        Pattern.from_image(save(tmp_path, Image.new("L", (1, 1))), contrast="stretch", allow_constant=True)


def png(width: int, height: int, data: bytes = b"") -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", r"broken.png is not an image .* found an empty file"),
        (b"just some words", r"not an image .*found text beginning"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "PostScript, which is a program and never run"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG; convert it"),
        (b"\x80\x04\x95pickle", "pickle, which is never loaded"),
        (b"\x00\x01\x02\x03", "found bytes beginning"),
        (png(0, 0), "not an image|0 × 0"),
        (png(5, 0), "not an image|5 × 0"),
        (png(9000, 9000), "9000 × 9000 pixels, more than the limit of 64 megapixels"),
        (png(12000, 12000), "12000 × 12000 pixels, more than"),
        (png(30000, 30000), "larger than the limit of 64 megapixels"),
        (png(4, 4, b"\x00"), "truncated or damaged"),
        (png(4, 4)[:30], "not an image|truncated or damaged|cannot be read"),
    ],
)
def test_files_that_are_no_pictures(tmp_path: Path, content: bytes, match: str) -> None:
    path = tmp_path / "broken.png"
    path.write_bytes(content)
    with pytest.raises(InputError, match=match):
        Pattern.from_image(path)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
@pytest.mark.parametrize("part", [0.05, 0.3, 0.8])
def test_truncated_files(tmp_path: Path, kind: str, part: float) -> None:
    path = save(tmp_path, Image.fromarray(noise(40, 40)), "cut", format=kind)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * part)])
    with pytest.raises(InputError, match=r"cut (is|cannot)"):
        Pattern.from_image(path)


@given(
    st.binary(max_size=200), st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"\xff\xd8\xff\xe0", b"BM", b"P5 "])
)
@settings(max_examples=80, deadline=None)
def test_any_bytes_give_a_pattern_or_an_input_error(
    tmp_path_factory: pytest.TempPathFactory, tail: bytes, head: bytes
) -> None:
    path = tmp_path_factory.mktemp("bytes") / "x"
    path.write_bytes(head + tail)
    with contextlib.suppress(InputError):
        Pattern.from_image(path, resolution=2, allow_constant=True)


def test_missing_files_and_folders(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no such file: .*cat.png"):
        Pattern.from_image(tmp_path / "cat.png")
    with pytest.raises(InputError, match="is a folder"):
        Pattern.from_image(tmp_path)
    with pytest.raises(InputError, match="no such file"):
        Pattern.from_image("x" * 5000)
    with pytest.raises(InputError, match="no such file"):
        Pattern.from_image("a\0b")


def test_padding_may_not_explode(tmp_path: Path) -> None:
    path = save(tmp_path, Image.fromarray(noise(1, 9000)))
    with pytest.raises(InputError, match=r"9000 × 9000.*fit='stretch'"):
        Pattern.from_image(path, resolution=4)
    assert Pattern.from_image(path, resolution=4, fit="stretch").values.shape == (5, 5)


@pytest.mark.parametrize("size", [(1, 9), (9, 1), (2, 1)])
@pytest.mark.parametrize("fit", ["keep", "stretch"])
def test_thin_pictures(tmp_path: Path, size: tuple[int, int], fit: str) -> None:
    path = save(tmp_path, Image.fromarray(noise(*size)))
    pattern = Pattern.from_image(path, resolution=3, fit=fit, background="#123456")
    side = max(size)
    assert pattern.original.values.shape == ((side, side) if fit == "keep" else size[::-1])


def test_floating_point_pixels(tmp_path: Path) -> None:
    heights = np.linspace(-5, 5, 16, dtype=np.float32).reshape(4, 4)
    path = save(tmp_path, Image.fromarray(heights), "heights.tif")
    with pytest.raises(InputError, match=r"pixel values in \[-5.0, 5.0\].*contrast='stretch'"):
        Pattern.from_image(path)
    assert Pattern.from_image(path, resolution=3, contrast="stretch").ceiling == 1
    heights[1, 1] = np.nan
    with pytest.raises(InputError, match="NaN or infinite"):
        Pattern.from_image(save(tmp_path, Image.fromarray(heights), "nan.tif"), contrast="stretch")


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"fit": "crop"}, "fit must be 'keep' or 'stretch', got 'crop'"),
        ({"contrast": "auto"}, "contrast must be 'none' or 'stretch'"),
        ({"background": "snowy"}, "background must be a colour name"),
        ({"background": None}, "background must be a colour name"),
        ({"resolution": 1025}, "z = 2 goes up to 1024"),
        ({"resolution": (4, 4, 4)}, "has 3 entries"),
    ],
)
def test_unfit_options(tmp_path: Path, options: dict[str, object], match: str) -> None:
    with pytest.raises(InputError, match=match):
        Pattern.from_image(save(tmp_path, Image.fromarray(noise(3, 3))), **options)
