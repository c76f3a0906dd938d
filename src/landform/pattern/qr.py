"""Patterns from QR codes, one or more nodes a module."""

import numpy as np
import torch

from landform.errors import InputError
from landform.pattern.original import Pixels
from landform.pattern.pattern import Pattern
from landform.pattern.resolution import LIMITS, check_cells, whole

_SCALE = 2


def encode(text: str, *, resolution: int | None, scale: int | None, error: str, border: int, invert: bool) -> Pattern:
    """Do the work of `Pattern.from_qr`.

    Example:
        >>> encode("x", resolution=None, scale=1, error="m", border=0, invert=False).values[0, 0]  # a finder's corner
        tensor(0., dtype=torch.float64)
    """
    import segno

    if not text:
        raise InputError("the text of a QR code is empty; give at least one character")
    if str(error).lower() not in ("l", "m", "q", "h"):
        raise InputError(f"error must be 'l', 'm', 'q' or 'h', got {error!r}")
    border = whole(border, "border")
    if not 0 <= border <= 64:
        raise InputError(f"border must lie in 0 … 64 modules, got {border}")
    try:
        code = segno.make_qr(text, error=error)
    except ValueError as problem:  # segno.DataOverflowError is one
        raise InputError(f"a text of {len(text)} characters does not fit a QR code: {problem}") from problem
    light = 1.0 - np.array([list(row) for row in code.matrix_iter(border=border)], dtype=np.float64)
    if invert:
        light = 1.0 - light
    modules = len(light)
    scale = _scale(modules, resolution, scale)
    check_cells((modules * scale - 1,) * 2)
    upright = torch.from_numpy(light[::-1].T.copy())  # [right, up]
    values = upright.repeat_interleave(scale, 0).repeat_interleave(scale, 1)
    return Pattern(
        values,
        name=f"qr:{text if len(text) <= 40 else text[:39] + '…'}",
        source={
            "kind": "qr",
            "text": text,
            "modules": modules,
            "options": {"scale": scale, "error": str(code.error).lower(), "border": border, "invert": invert},
            "range": [0.0, 1.0],
        },
        original=Pixels(upright),
    )


def _scale(modules: int, resolution: int | None, scale: int | None) -> int:
    """Find the nodes a module from what was given, or say which resolutions fit."""
    if scale is not None and whole(scale, "scale") < 1:
        raise InputError(f"scale must be at least 1 node a module, got {scale}")
    if resolution is None:
        return _SCALE if scale is None else scale
    nodes = whole(resolution, "resolution") + 1
    if nodes < modules or nodes % modules or scale not in (None, nodes // modules):
        most = (LIMITS[2] + 1) // modules
        fitting = [modules * s - 1 for s in ([scale] if scale is not None else range(1, min(most, 8) + 1))]
        raise InputError(
            f"resolution {resolution} does not fit a QR code of {modules} × {modules} modules (border included): "
            f"the modules sit at the nodes, so N = {modules}·scale − 1; choose {' or '.join(map(str, fitting))}"
        )
    return nodes // modules
