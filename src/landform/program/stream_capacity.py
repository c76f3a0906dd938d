"""What a residual stream holds: the finest pattern in each form, found by packing."""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from landform.errors import CapacityError, InputError
from landform.pattern import Pattern
from landform.program.capacity import Capacity, Holding
from landform.program.compile import Form, compile_pattern
from landform.program.program import Program
from landform.program.stream import StreamProgram, to_stream

FINEST = {1: 4096, 2: 256, 3: 16, 4: 8}
"""Finest resolution tried: beyond it packing takes minutes."""


class _Ramp:
    """A response curve of so many knots, for packing only."""

    def __init__(self, knots: int) -> None:
        self.knots = torch.linspace(0, 1, knots + 1, dtype=torch.float64)[1:]
        self.coefficients = torch.ones(knots, dtype=torch.float64)
        self.end = float(self.knots.sum())


def stream_capacity(*, room: int, hidden: Sequence[int], per_linear: int = 2, z: int = 2, knots: int = 64) -> Capacity:
    """Find the finest pattern that each form packs into a residual stream.

    Args:
        room: Coordinates that registers may take.
        hidden: Hidden units of each perceptron.
        per_linear: Units that a signed value takes.
        z: Number of coordinates, 1 … 4.
        knots: Knots of the response curve; 64 leave 1e-4 of the range for ten classes.

    Returns:
        The capacity: a holding a form, with schedule ``"stream"``.

    Raises:
        InputError: If z is out of range.

    Cost:
        About ten compilations a form, of patterns that fit nearly.

    Example:
        >>> held = stream_capacity(room=252, hidden=[1023] + 5 * [1024])  # GPT-2 with 6 blocks of 256
        >>> {holding.form: holding.cells for holding in held.holdings}
        {'hats': 62, 'strips': 251}
    """
    if z not in FINEST:
        raise InputError(f"z is {z}; wanted 1 to 4")
    forms = stream_forms(z)
    holdings = []
    for form in forms:

        def packed(n: int, form: Form = form) -> StreamProgram | None:
            return _packed(n, z, form, room, hidden, per_linear, knots)

        cells = _finest(lambda n, packed=packed: packed(n) is not None, FINEST[z])  # type: ignore[misc]
        found = packed(cells) if cells else None
        holdings.append(Holding(form, "stream", cells, knots if cells else 0, 0, len(found.blocks) if found else 0))
    return Capacity(tuple(hidden), z, 1, 1, axis_aligned=True, holdings=tuple(holdings))


def stream_forms(z: int) -> tuple[Form, ...]:
    """Return the forms that a pattern of z coordinates may have on a stream."""
    return {1: ("hinges", "hats"), 2: ("hats", "strips")}.get(z, ("hats",))  # type: ignore[return-value]


def _packed(
    n: int, z: int, form: Form, room: int, hidden: Sequence[int], per_linear: int, knots: int
) -> StreamProgram | None:
    """Return a pattern of n cells an axis on the stream, or None where it does not fit."""
    program = generic_program(n, z, form, knots)
    try:
        return None if program is None else to_stream(program, room=room, hidden=hidden, per_linear=per_linear)
    except CapacityError:
        return None


def generic_program(n: int, z: int, form: Form, knots: int) -> Program | None:
    """Compile a pattern without structure, and a response curve, before it meets a stream; None where there is none.

    Args:
        n: Cells an axis.
        z: Coordinates.
        form: Of the pattern.
        knots: Of the response curve.
    """
    shape = (n + 1,) * z
    nodes = np.arange(np.prod(shape)).reshape(shape)
    values = torch.from_numpy(0.25 + 0.5 * np.modf(nodes * 0.618)[0])  # nothing repeats, nothing is zero
    pattern = Pattern(values, name="packing")
    curve = _Ramp(knots)
    try:
        return compile_pattern(pattern, lambda _: [curve], form=form, schedule="carry", clear=True, dtype=torch.float64)
    except (CapacityError, InputError):
        return None


def _finest(fits: Callable[[int], bool], most: int) -> int:
    """Return the largest n ≤ most that fits, by doubling and halving; 0 if none does."""
    low, high = 0, 2
    while high <= most and fits(high):
        low, high = high, 2 * high
    high = min(high, most + 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
