"""Patterns from picture files, through Pillow's own decoders only."""

import struct
import warnings
import zlib
from collections.abc import Iterator, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float64
from numpy import ndarray
from torch import Tensor

from landform.errors import InputError
from landform.pattern.area import average_at_nodes
from landform.pattern.files import describe, require_file
from landform.pattern.normalise import span, to_unit
from landform.pattern.original import Pixels
from landform.pattern.pattern import Pattern
from landform.pattern.pixels import pixel_rows, rgb_of
from landform.pattern.resolution import cells_of

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_PIXELS = 64_000_000
"""Largest picture, padding included; decoding one takes about a quarter of a gigabyte."""

MAX_KEPT = 16_000_000
"""Most pixel values kept in `Pattern.original` (128 MB); beyond it the resampling error is unknown."""

FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "GIF", "BMP", "TIFF", "PPM", "ICO", "JPEG2000", "AVIF", "TGA")
"""Formats that Pillow decodes by itself. EPS and the like, which start another program, are left out."""

_DAMAGE = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, IndexError, KeyError, TypeError)


def read(
    path: str | PathLike[str],
    *,
    resolution: int | Sequence[int],
    colour: bool,
    fit: str,
    background: str,
    invert: bool,
    contrast: str,
    allow_constant: bool,
) -> Pattern:
    """Do the work of `Pattern.from_image`.

    Example:
        >>> from PIL import Image
        >>> file = getfixture("tmp_path") / "grey.png"
        >>> Image.new("L", (2, 2), 51).save(file)
        >>> read(file, resolution=2, colour=False, fit="keep", background="white", invert=False,
        ...      contrast="none", allow_constant=True).values[0].tolist()
        [0.2, 0.2, 0.2]
    """
    cells = cells_of(resolution, 2)
    for got, known, what in ((fit, ("keep", "stretch"), "fit"), (contrast, ("none", "stretch"), "contrast")):
        if got not in known:
            raise InputError(f"{what} must be {' or '.join(map(repr, known))}, got {got!r}")
    backdrop = rgb_of(background)
    file = require_file(path)
    with _open(file) as image:
        upright = _decode(image, file)
        width, height = upright.size
        pad_x, pad_y = ((height - width) // 2, (width - height) // 2) if fit == "keep" else (0, 0)
        side = max(width, height) if fit == "keep" else None
        canvas_w, canvas_h = side or width, side or height
        if canvas_w * canvas_h > MAX_PIXELS:
            raise InputError(
                f"{file}: padded to a square it would have {canvas_w} × {canvas_h} pixels, more than "
                f"{MAX_PIXELS // 10**6} megapixels; pass fit='stretch' or crop it"
            )
        rows = pixel_rows(
            upright,
            colour=colour,
            background=backdrop,
            canvas=(canvas_w, canvas_h),
            offset=(max(pad_x, 0), max(pad_y, 0)),
            scale_floats=contrast == "stretch",
            what=str(file),
        )
        kept: list[Float64[ndarray, "_ width channels"]] | None = None
        if canvas_w * canvas_h * (3 if colour else 1) <= MAX_KEPT:
            kept = []
        nodal = average_at_nodes(_keeping(rows, kept), height=canvas_h, width=canvas_w, cells=cells)
    values = torch.from_numpy(nodal)
    pixels = None if kept is None else torch.from_numpy(np.concatenate(kept)[::-1].swapaxes(0, 1).copy())
    lo, hi = 0.0, 1.0
    if contrast == "stretch":
        lo, hi = span(values, f"the picture {file.name}")
        values = to_unit(values, lo, hi).clamp(0.0, 1.0)
        pixels = None if pixels is None else to_unit(pixels, lo, hi)
    pattern = Pattern(
        _finish(values, colour, invert),
        name=file.name,
        channels=3 if colour else None,
        source={
            "kind": "image",
            "file": file.name,
            "pixels": [width, height],
            "options": {"colour": colour, "fit": fit, "background": background, "invert": invert, "contrast": contrast},
            "range": [lo, hi],
        },
        original=None if pixels is None else Pixels(_finish(pixels, colour, invert)),
    )
    if pattern.is_constant and not allow_constant:
        raise InputError(
            f"{file} is one constant shade ({pattern.floor:.3g}), so the loss would be flat; "
            "pass allow_constant=True if that is wanted"
        )
    return pattern


def _finish(values: Float64[Tensor, "columns rows channels"], colour: bool, invert: bool) -> Float64[Tensor, "..."]:
    values = values if colour else values.squeeze(2)
    return (1 - values if invert else values).contiguous()


def _keeping(
    blocks: Iterator[Float64[ndarray, "_ width channels"]],
    kept: list[Float64[ndarray, "_ width channels"]] | None,
) -> Iterator[Float64[ndarray, "_ width channels"]]:
    for block in blocks:
        if kept is not None:
            kept.append(block)
        yield block


def _open(file: Path) -> "Image":
    """Read the header only, and refuse what is no picture or too large."""
    from PIL import Image, UnidentifiedImageError

    Image.init()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own, lower limit is below
        warnings.filterwarnings("ignore", module="PIL")  # damage is reported by an error, not by a warning
        try:
            image = Image.open(file, formats=[name for name in FORMATS if name in Image.OPEN])
        except Image.DecompressionBombError as error:
            raise InputError(
                f"{file} is larger than the limit of {MAX_PIXELS // 10**6} megapixels: {error}; shrink it first"
            ) from error
        except UnidentifiedImageError as error:
            raise InputError(
                f"{file} is not an image that landform reads ({', '.join(FORMATS)}), or its header is damaged: "
                f"found {describe(file)}"
            ) from error
        except _DAMAGE as error:
            raise InputError(f"{file} cannot be read as an image: {error}") from error
    width, height = image.size
    if width < 1 or height < 1:
        image.close()
        raise InputError(f"{file} has {width} × {height} pixels, so there is nothing in it")
    if width * height > MAX_PIXELS:
        image.close()
        raise InputError(
            f"{file} has {width} × {height} pixels, more than the limit of {MAX_PIXELS // 10**6} megapixels; "
            "shrink it first"
        )
    return image


def _decode(image: "Image", file: Path) -> "Image":
    """Decode the first frame and turn it as its EXIF tag says."""
    from PIL import ImageOps

    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="PIL")
            image.load()
            return ImageOps.exif_transpose(image)
    except _DAMAGE as error:
        raise InputError(f"{file} is truncated or damaged: {error}") from error
