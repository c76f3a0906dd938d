"""From Pillow's many pixel modes to shades in [0, 1], a block of rows at a time."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from landform.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image

LUMA = np.array([0.299, 0.587, 0.114])
"""Weights of R, G and B in a grey, ITU-R BT.601-7 §2.5.1."""

_BLOCK = 1 << 20  # pixels converted at a time


def rgb_of(name: str) -> Float64[ndarray, "3"]:
    """Turn a colour's name or ``#rrggbb`` into R, G, B in [0,1].

    Example:
        >>> rgb_of("red").tolist()
        [1.0, 0.0, 0.0]
    """
    from PIL import ImageColor

    try:
        return np.array(ImageColor.getrgb(name)[:3]) / 255.0
    except (ValueError, AttributeError, TypeError) as error:
        raise InputError(f"background must be a colour name or '#rrggbb', got {name!r}") from error


def pixel_rows(
    image: "Image",
    *,
    colour: bool,
    background: Float64[ndarray, "3"],
    canvas: tuple[int, int],
    offset: tuple[int, int],
    scale_floats: bool,
    what: str,
) -> Iterator[Float64[ndarray, "_ width channels"]]:
    """Yield a picture laid on a canvas, from the top, in blocks of whole rows.

    Args:
        image: A decoded picture.
        colour: Three channels rather than one grey.
        background: Colour of the canvas.
        canvas: Width and height.
        offset: Where the picture's left upper corner goes.
        scale_floats: Whether floating-point pixels may have any range, which is then mapped to [0,1].
        what: What to call the picture in an error.

    Yields:
        Blocks ``[rows, width, channels]`` of shades.

    Example:
        >>> from PIL import Image
        >>> grey = pixel_rows(Image.new("RGB", (1, 1), (255, 0, 0)), colour=False, background=rgb_of("white"),
        ...                   canvas=(1, 1), offset=(0, 0), scale_floats=False, what="a red dot")
        >>> next(grey).tolist()
        [[[0.299]]]
    """
    (full_w, full_h), (left, top), (width, height) = canvas, offset, image.size
    shade = background if colour else _grey(background[None])[0]
    lo, hi = _depth(image, scale_floats, what)
    yield from _plain(shade, top, full_w)
    step = max(1, _BLOCK // full_w)
    for start in range(0, height, step):
        stop = min(start + step, height)
        shades = _shades(image.crop((0, start, width, stop)), background, lo, hi, what)
        block = np.empty((stop - start, full_w, len(shade)))
        block[:] = shade
        block[:, left : left + width] = shades if colour else _grey(shades)
        yield block
    yield from _plain(shade, full_h - top - height, full_w)


def _plain(
    shade: Float64[ndarray, "channels"], rows: int, width: int
) -> Iterator[Float64[ndarray, "_ width channels"]]:
    step = max(1, _BLOCK // width)
    for start in range(0, rows, step):
        yield np.broadcast_to(shade, (min(step, rows - start), width, len(shade)))


def _grey(rgb: Float64[ndarray, "*shape 3"]) -> Float64[ndarray, "*shape 1"]:
    """Weigh R, G, B to luma; equal R, G, B stay exactly as they are."""
    green = rgb[..., 1:2]  # differences first: the three weights need not sum to 1 in floating point
    luma: ndarray = green + LUMA[0] * (rgb[..., 0:1] - green) + LUMA[2] * (rgb[..., 2:3] - green)
    return luma


def _depth(image: "Image", scale_floats: bool, what: str) -> tuple[float, float]:
    """Return the pixel values that mean black and white in the modes where they depend on the file."""
    if image.mode not in ("I", "F"):
        return (0.0, 65535.0) if image.mode.startswith("I;16") else (0.0, 255.0)
    values = np.asarray(image)
    lo, hi = float(values.min()), float(values.max())
    if not np.isfinite([lo, hi]).all():
        raise InputError(f"{what} has pixels that are NaN or infinite")
    if scale_floats and hi > lo:
        return lo, hi
    white = 1.0 if image.mode == "F" else 65535.0 if hi <= 65535 else 2147483647.0
    if lo < 0 or hi > white:
        raise InputError(f"{what} has pixel values in [{lo}, {hi}], wanted [0, {white}]; pass contrast='stretch'")
    return 0.0, white


def _shades(
    image: "Image", background: Float64[ndarray, "3"], lo: float, hi: float, what: str
) -> Float64[ndarray, "rows columns 3"]:
    """Convert any mode to R, G, B in [0,1], transparency laid on the background."""
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        grey: ndarray[Any, Any] = np.asarray(image).astype(np.float64)
        return np.repeat(((grey - lo) / (hi - lo))[..., None], 3, axis=2)
    try:
        if image.mode == "RGBa" or image.mode == "La" or image.has_transparency_data:
            rgba = np.asarray(image.convert("RGBA")) / 255.0
            laid: ndarray = rgba[..., 3:] * rgba[..., :3] + (1 - rgba[..., 3:]) * background
            return laid
        rgb: ndarray = np.asarray(image if image.mode == "RGB" else image.convert("RGB")) / 255.0
    except ValueError as error:
        raise InputError(f"{what} has pixels of mode {image.mode}, which cannot be turned into RGB: {error}") from error
    return rgb
