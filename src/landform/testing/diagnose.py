"""From two grids that differ to the likely mistake: rows shifted, cells swapped, an axis reversed, a gap filled."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def diagnose(found: Floats, wanted: Floats, *, tolerance: float = 1e-5) -> str | None:
    """Say how a grid of values differs from the true one, and what would explain it.

    Args:
        found: What a tool measured, ``[n_1, n_2]``.
        wanted: The truth, likewise.
        tolerance: Differences up to this share of the largest true value are rounding.

    Returns:
        A sentence, or None where the grids agree.

    Example:
        >>> truth = np.add.outer(np.arange(4.0) ** 2, np.arange(3.0))
        >>> diagnose(truth, truth) is None, diagnose(truth[::-1], truth)
        (True, 'axis 1 runs backwards')
    """
    if found.shape != wanted.shape:
        if found.shape == wanted.shape[::-1]:
            return f"the shape is {found.shape}, wanted {wanted.shape}: axes are swapped"
        return f"the shape is {found.shape}, wanted {wanted.shape}"
    if _same(found, wanted, tolerance):
        return None
    gaps, true_gaps = int((~np.isfinite(found)).sum()), int((~np.isfinite(wanted)).sum())
    if gaps < true_gaps:
        return f"{true_gaps - gaps} of {true_gaps} values that are not finite were replaced by numbers"
    for name, other in _mistakes(wanted):
        if _same(found, other, tolerance):
            return name
    both = np.isfinite(found) & np.isfinite(wanted)
    off = np.where(both, np.abs(found - wanted), 0.0)
    where = tuple(int(k) for k in np.unravel_index(int(off.argmax()), off.shape))
    ratio = _ratio(found[both], wanted[both])
    hint = f"; all values are {ratio:.6g} times too large" if ratio is not None else ""
    if not (np.isfinite(found) == np.isfinite(wanted)).all():
        return f"values that are not finite are in other cells than the true ones{hint}"
    return f"at node {where} the value is {found[where]:.7g}, wanted {wanted[where]:.7g}{hint}"


def _same(a: Floats, b: Floats, tolerance: float) -> bool:
    scale = float(np.max(np.abs(b[np.isfinite(b)]), initial=1e-12))
    return a.shape == b.shape and bool(np.allclose(a, b, rtol=0.0, atol=tolerance * scale, equal_nan=True))


def _mistakes(wanted: Floats) -> Sequence[tuple[str, Floats]]:
    """Return what well-known mistakes would make of the truth."""
    found = [(f"axis {axis + 1} runs backwards", np.flip(wanted, axis)) for axis in range(wanted.ndim)]
    if wanted.ndim == 2:
        n, m = wanted.shape
        found.append(("values land in the wrong cells: the grid was filled in the other order",
                      wanted.T.reshape(n, m) if n != m else wanted.T))  # fmt: skip
        for step in (1, -1):
            shifted = wanted.copy()
            shifted[1::2] = np.roll(wanted[1::2], step, axis=1)
            found.append(("odd rows are shifted by one step", shifted))
        mirrored = wanted.copy()
        mirrored[1::2] = wanted[1::2, ::-1]
        found.append(("odd rows run backwards (snake order)", mirrored))
    return found + [
        (f"all values are one step off along axis {axis + 1}", np.roll(wanted, step, axis))
        for axis in range(wanted.ndim)
        for step in (1, -1)
    ]


def _ratio(found: Floats, wanted: Floats) -> float | None:
    if not found.size or not np.all(wanted != 0):
        return None
    ratios = found / wanted
    middle = float(np.median(ratios))
    return middle if bool(np.all(np.abs(ratios - middle) < 1e-4 * abs(middle))) and abs(middle - 1) > 1e-4 else None
