"""How fine a pattern's grid may be.

A resolution N means N cells an axis, hence (N + 1)^z nodal values. The limits keep a pattern within about a million
nodal values, which is what the programs compiled from it can hold.
"""

import operator
from collections.abc import Sequence

from landform.errors import InputError

LIMITS = {1: 65536, 2: 1024, 3: 64, 4: 16}
"""Most cells an axis, by number of dimensions z."""

MAX_CHANNELS = 64
"""Most channels; each one is a separate head of the network."""

DEFAULT = 64
"""Cells an axis when nothing is said: letters and faces are recognised, and compiling takes milliseconds."""


def cells_of(resolution: int | Sequence[int] | None, z: int) -> tuple[int, ...]:
    """Turn a resolution into cells per axis and check it against `LIMITS`.

    Args:
        resolution: Cells an axis: one number for all, one per axis, or None for `DEFAULT` (or the limit, if less).
        z: Number of dimensions, 1 to 4.

    Returns:
        Cells per axis, of length z.

    Raises:
        InputError: If z, the type, the number of entries or an entry is out of range.

    Example:
        >>> cells_of(8, 2), cells_of((4, 6), 2), cells_of(None, 4)
        ((8, 8), (4, 6), (16, 16, 16, 16))
    """
    if z not in LIMITS:
        raise InputError(
            f"z = {z!r}: a pattern on a grid has z = 1, 2, 3 or 4 dimensions; SumPattern takes sums in any z"
        )
    if resolution is None:
        return (min(DEFAULT, LIMITS[z]),) * z
    entries: Sequence[object] = resolution if isinstance(resolution, Sequence) else (resolution,) * z
    cells = tuple(whole(entry, "resolution") for entry in entries)
    if len(cells) != z:
        raise InputError(f"resolution {cells} has {len(cells)} entries; give one number, or {z} for z = {z}")
    check_cells(cells)
    return cells


def whole(value: object, what: str) -> int:
    """Return value as an int, or raise an InputError that says what it should have been.

    Example:
        >>> whole(3, "z")
        3
    """
    try:
        if isinstance(value, bool):
            raise TypeError
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise InputError(f"{what} must be a whole number, got {value!r} ({type(value).__name__})") from None


def check_cells(cells: tuple[int, ...]) -> None:
    """Raise an InputError if a grid is too coarse or too fine; the message names the limit.

    Example:
        >>> check_cells((64, 64, 65))
        Traceback (most recent call last):
        landform.errors.InputError: resolution (64, 64, 65): z = 3 goes up to 64 cells an axis
    """
    z = len(cells)
    if z not in LIMITS:
        raise InputError(f"a pattern on a grid has 1 to 4 dimensions, got {z}")
    if min(cells) < 1:
        raise InputError(f"resolution {cells}: each axis needs at least 1 cell, that is 2 nodal values")
    if max(cells) > LIMITS[z]:
        raise InputError(f"resolution {cells}: z = {z} goes up to {LIMITS[z]} cells an axis")
