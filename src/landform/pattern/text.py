"""Patterns from text, drawn in DejaVu Sans (the font that comes with matplotlib)."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from landform.errors import InputError
from landform.pattern.area import average_at_nodes
from landform.pattern.original import Pixels
from landform.pattern.pattern import Pattern
from landform.pattern.resolution import cells_of

CANVAS = 1024
"""Pixels along each side of the drawing from which the nodes are averaged."""

MAX_LENGTH = 1000
"""Most characters; at the finest grid of 1024 cells that is already small print."""


def draw(text: str, *, resolution: int | Sequence[int], margin: float | int, invert: bool) -> Pattern:
    """Do the work of `Pattern.from_text`.

    Example:
        >>> draw("i", resolution=16, margin=0.1, invert=True).floor
        0.0
    """
    cells = cells_of(resolution, 2)
    text = text.replace("\r\n", "\n").expandtabs(4).strip("\n")
    if not text.strip():
        raise InputError("the text is empty; give at least one visible character")
    if len(text) > MAX_LENGTH:
        raise InputError(f"the text has {len(text)} characters, at most {MAX_LENGTH} fit legibly")
    if not 0 <= margin <= 0.45:
        raise InputError(f"margin must lie in [0, 0.45], a fraction of the box, got {margin}")
    font = _font_file()
    _require_glyphs(text, font)
    page = _page(text, font, margin)
    shades = page / 255.0 if not invert else 1 - page / 255.0
    nodal = average_at_nodes([shades[..., None]], height=CANVAS, width=CANVAS, cells=cells)[..., 0]
    flat = " ".join(text.split())
    return Pattern(
        torch.from_numpy(nodal.copy()),
        name=f"text:{flat if len(flat) <= 40 else flat[:39] + '…'}",
        source={
            "kind": "text",
            "text": text,
            "options": {"font": "DejaVu Sans", "margin": margin, "invert": invert},
            "range": [0.0, 1.0],
        },
        original=Pixels(torch.from_numpy(shades[::-1].T.copy())),
    )


def _font_file() -> Path:
    import matplotlib as mpl

    return Path(mpl.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"


@lru_cache(maxsize=1)
def _known(font: Path) -> frozenset[int]:
    from matplotlib.ft2font import FT2Font

    return frozenset(FT2Font(str(font)).get_charmap())


def _require_glyphs(text: str, font: Path) -> None:
    missing = sorted({c for c in text if c != "\n" and (ord(c) < 32 or ord(c) not in _known(font))})
    if missing:
        listed = ", ".join(f"{c!r} (U+{ord(c):04X})" for c in missing[:8])
        raise InputError(f"DejaVu Sans has no glyph for {listed}{' …' if len(missing) > 8 else ''}; leave them out")


def _page(text: str, font: Path, margin: float | int) -> "np.ndarray[tuple[int, int], np.dtype[np.float64]]":
    """Draw the text as large as the margin allows, centred; greys 0 to 255, rows from the top."""
    from PIL import Image, ImageDraw, ImageFont

    ink = Image.new("L", (2 * CANVAS, 2 * CANVAS), 0)
    pen = ImageDraw.Draw(ink)
    room = (1 - 2 * margin) * CANVAS
    size = 200.0
    for _ in range(3):  # the box scales with the size but for hinting, so a second and third look settle it
        face = ImageFont.truetype(str(font), size, layout_engine=ImageFont.Layout.BASIC)
        left, top, right, bottom = pen.multiline_textbbox((0, 0), text, font=face, align="center", spacing=size / 6)
        if right <= left or bottom <= top:
            raise InputError(f"the text {text[:40]!r} draws nothing visible")
        last, size = size, size * min(room / (right - left), room / (bottom - top))
    if last < 8:
        raise InputError(
            f"the text is too long: its letters would be {last / CANVAS:.3f} of the box high; break it into lines"
        )
    half = CANVAS / 2
    pen.multiline_text((half - left, half - top), text, fill=255, font=face, align="center", spacing=last / 6)
    box = ink.getbbox()
    if box is None:
        raise InputError(f"the text {text[:40]!r} draws nothing visible")
    marks = ink.crop(box)  # what is seen is centred, not what the font reserves for it
    page = Image.new("L", (CANVAS, CANVAS), 0)
    page.paste(marks, ((CANVAS - marks.width) // 2, (CANVAS - marks.height) // 2))
    return 255.0 - np.asarray(page, dtype=np.float64)
