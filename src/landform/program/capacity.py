"""What given widths hold, and what a resolution would need.

"Sufficiently wide and deep" becomes a number: the finest pattern that our schedules pack into given widths. It is a
lower bound on what the widths can hold.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from landform.errors import CapacityError, InputError
from landform.mesh import Mesh
from landform.program.basis import nodal_basis
from landform.program.bend import bend, spline_room
from landform.program.program import Program
from landform.program.room import Room, Width, rooms
from landform.program.rows import rows_by_carrying
from landform.program.schedule import (
    Open,
    closed,
    delayed,
    hats_by_carrying,
    hats_by_recomputing,
    strips_by_carrying,
    sums_by_carrying,
)

Check = Callable[[Program], None]
MIN_KNOTS = 4  # fewer hinges than this make no useful response curve
FINEST = {1: 65536, 2: 1024, 3: 64, 4: 16}  # the limits of patterns


@dataclass(frozen=True)
class Holding:
    """The finest resolution of one form.

    Attributes:
        form: ``"hats"`` | ``"rows"`` | ``"strips"`` | ``"hinges"``.
        schedule: ``"carry"`` | ``"recompute"``.
        cells: Cells an axis; 0 if nothing fits.
        knots: Hinges of the response curve that are left at that resolution; 0 in the direct form.
        direct_cells: Cells an axis in the direct form (no response curve, a gap between nodes).
        layers: Hidden layers used at ``cells``, without the response curve.
    """

    form: str
    schedule: str
    cells: int
    knots: int
    direct_cells: int
    layers: int


@dataclass(frozen=True)
class Capacity:
    """What hidden layers of given widths hold.

    Attributes:
        widths: Hidden widths, the injected layer first.
        z: Number of coordinates.
        channels: Channels (heads).
        per_hinge: Network units that a ReLU takes (2 for LeakyReLU).
        axis_aligned: Whether h itself is injected.
        holdings: One entry a form and schedule.
    """

    widths: tuple[int, ...]
    z: int
    channels: int
    per_hinge: int
    axis_aligned: bool
    holdings: tuple[Holding, ...]

    @property
    def best(self) -> Holding:
        """The holding with the finest resolution, ties to the one with more knots."""
        return max(self.holdings, key=lambda h: (h.cells, h.knots, h.direct_cells))

    def to_json(self) -> dict[str, Any]:
        """Return everything in JSON types."""
        return asdict(self) | {"widths": list(self.widths), "holdings": [asdict(h) for h in self.holdings]}

    def __str__(self) -> str:
        """Say it in a few lines."""
        lines = [f"hidden widths {_short(self.widths)} hold, for z = {self.z}:"]
        for held in self.holdings:
            power = f"^{self.z}" if self.z > 1 else ""
            if held.cells:
                direct = f" (direct form: n = {held.direct_cells})" if held.direct_cells else ""
                lines.append(
                    f"  {held.form} ({held.schedule}): n = {held.cells}{power}, with {held.knots} knots for the"
                    f" response curve{direct}"
                )
            elif held.direct_cells:
                lines.append(f"  {held.form} ({held.schedule}): only the direct form, n = {held.direct_cells}{power}")
            else:
                lines.append(f"  {held.form} ({held.schedule}): nothing")
        return "\n".join(lines)


def capacity(
    widths: Sequence[Width],
    *,
    z: int = 2,
    channels: int = 1,
    per_hinge: int = 1,
    axis_aligned: bool = True,
    check: Check | None = None,
) -> Capacity:
    """Find the finest pattern that each form and schedule packs into hidden layers of given widths.

    Args:
        widths: Widths (or rooms) of all hidden layers, the injected one first.
        z: Number of coordinates, 1 … 4.
        channels: Channels of the pattern.
        per_hinge: Network units that a ReLU takes: 1, or 2 for LeakyReLU.
        axis_aligned: Whether h itself is injected (Theorem 1 as stated) or its hinges.
        check: Raises `CapacityError` for a program that an architecture cannot place, for reasons other than its units.

    Returns:
        The capacity.

    Raises:
        InputError: If z is not 1 … 4, or a width is not positive.

    Cost:
        A few compilations of patterns of the size that fits: seconds for large networks.

    Example:
        >>> held = capacity([2, 31, 81, 64])
        >>> held.best.form, held.best.cells, held.best.knots
        ('strips', 8, 64)
    """
    if z not in FINEST:
        raise InputError(f"z must be 1, 2, 3 or 4, got {z}")
    every = rooms(widths)
    units = tuple(room.units for room in every)
    if any(w < 1 for w in units):
        raise InputError(f"widths must be positive, got {list(units)}")
    inner = _inner(every, z, axis_aligned=axis_aligned)
    holdings = tuple(
        _holding(form, schedule, inner, z, channels, per_hinge, check, direct=True) for form, schedule in _forms(z)
    )
    return Capacity(units, z, channels, per_hinge, axis_aligned, holdings)


def finest_cells(
    widths: Sequence[Width],
    *,
    z: int = 2,
    channels: int = 1,
    per_hinge: int = 1,
    axis_aligned: bool = True,
    at_least: int = 0,
) -> int:
    """Return the finest resolution of any form and schedule, as `capacity(…).best.cells`, without those that lose.

    Args:
        widths: As in `capacity`.
        z: Number of coordinates.
        channels: Channels of the pattern.
        per_hinge: Network units that a ReLU takes.
        axis_aligned: Whether h itself is injected.
        at_least: A resolution that is known to fit; only finer ones are tried.

    Returns:
        Cells an axis, 0 if nothing fits.

    Cost:
        A fraction of `capacity`: a form that cannot beat the one before is given up after one try.

    Example:
        >>> finest_cells([2, 31, 81, 64]), finest_cells([2, 31, 81, 64], at_least=5)
        (8, 8)
    """
    inner, best = _inner(rooms(widths), z, axis_aligned=axis_aligned), at_least
    for form, schedule in reversed(_forms(z)):  # strips are the finest, mostly
        best = max(best, _holding(form, schedule, inner, z, channels, per_hinge, None, direct=False, above=best).cells)
    return best


def _inner(every: Sequence[Room], z: int, *, axis_aligned: bool) -> Sequence[Room]:
    """Return the layers behind the injection, none where that is too narrow."""
    if not axis_aligned:
        return every
    return every[1:] if every and every[0].units >= z else []


def needed(cells: Sequence[int], *, form: str, knots: int, channels: int = 1, axis_aligned: bool = True) -> list[int]:
    """Return the hidden widths that hold a pattern with the fewest layers.

    Args:
        cells: Cells an axis.
        form: ``"hats"``, ``"rows"``, ``"strips"`` or ``"hinges"``.
        knots: Hinges of the response curve a channel; 0 for the direct form.
        channels: Channels of the pattern.
        axis_aligned: Whether h itself is injected.

    Returns:
        Widths, the injected layer first.

    Example:
        >>> needed((64, 64), form="strips", knots=43)
        [2, 255, 64, 43]
    """
    unlimited = [1 << 40] * 8
    state = _schedule(form, "carry", tuple(cells), unlimited, channels, 1)
    assert state is not None
    widths = [layer.units for layer in state.stack.layers]
    if not axis_aligned:
        widths = widths[1:]
    return widths + ([knots * channels] if knots else [])


def fits(
    widths: Sequence[Width],
    cells: Sequence[int],
    *,
    knots: int,
    channels: int = 1,
    per_hinge: int = 1,
    axis_aligned: bool = True,
    check: Check | None = None,
) -> bool:
    """Say whether some form and schedule packs a pattern and its response curve into given widths.

    Args:
        widths: Widths of all hidden layers, the injected one first.
        cells: Cells an axis of the pattern.
        knots: Hinges of the response curve a channel.
        channels: Channels of the pattern.
        per_hinge: Network units that a ReLU takes.
        axis_aligned: Whether h itself is injected.
        check: As in `capacity`.

    Returns:
        Whether it fits.

    Example:
        >>> fits([2, 31, 81, 64], (8, 8), knots=43), fits([2, 31, 81, 64], (8, 8), knots=65)
        (True, False)
    """
    z = len(cells)
    every = rooms(widths)
    inner = every[1:] if axis_aligned else every
    if axis_aligned and (not every or every[0].units < z):
        return False
    for form, schedule in _forms(z):
        state = _schedule(form, schedule, tuple(cells), inner[: _before_curve(inner)], channels, per_hinge, check)
        if state is not None and spline_room(inner[state.layers :], channels, per_hinge) >= knots:
            return True
    return False


def _forms(z: int) -> list[tuple[str, str]]:
    """Return every form and schedule there is for z coordinates."""
    forms = [("hats", "carry"), ("hats", "recompute")]
    return forms + {1: [("hinges", "carry")], 2: [("rows", "carry"), ("strips", "carry")]}.get(z, [])


@dataclass(frozen=True)
class _Line:
    """A curve of `MIN_KNOTS` knots, to see whether any can be placed."""

    knots: torch.Tensor
    coefficients: torch.Tensor
    end: float


def _placed(state: Open, inner: Sequence[Room], channels: int, per_hinge: int, check: Check) -> bool:
    """Say whether an architecture can place a register with a response curve behind it."""
    line = _Line(torch.linspace(0.25, 1.0, MIN_KNOTS), torch.ones(MIN_KNOTS), float(MIN_KNOTS))
    try:
        check(bend(state, [line] * channels, inner[state.layers :], per_hinge, form="", basis=0))
    except CapacityError:
        return False
    return True


def _before_curve(inner: Sequence[Room]) -> int:
    """Return how many layers the pattern may take so that one is left for the response curve."""
    able = [number for number, room in enumerate(inner) if room.curve]
    return able[-1] if able else 0


def _holding(
    form: str,
    schedule: str,
    inner: Sequence[Room],
    z: int,
    channels: int,
    per_hinge: int,
    check: Check | None,
    direct: bool,
    above: int = 0,
) -> Holding:
    begin = 0  # where the last pattern that fitted began: another of about its size will do so too

    def scheduled(n: int, last: int, check: Check | None = check) -> Open | None:
        nonlocal begin
        layers = inner[: _before_curve(inner)] if last else inner
        state = _schedule(form, schedule, (n,) * z, layers, channels, per_hinge, check, begin)
        if check is not None and state is not None:
            begin = state.begins
        return state

    # units bound what can fit, so the search never compiles a pattern much larger than the network
    units = sum(room.units for room in inner)
    most = units if form != "hats" else math.ceil(units ** (1 / z))
    most = max(1, min(FINEST[z], most))

    def with_curve(n: int, check: Check | None) -> bool:
        state = scheduled(n, 1, check)
        if state is None or spline_room(inner[state.layers :], channels, per_hinge) < MIN_KNOTS:
            return False
        return check is None or _placed(state, inner, channels, per_hinge, check)

    def without(n: int, check: Check | None) -> bool:
        return scheduled(n, 0, check) is not None

    def finest(fits: Callable[[int, Check | None], bool], known: int = 0) -> int:
        """Search by counting units, which is quick; go down from there to what the architecture can place."""
        high = max(known, _largest(lambda n: fits(n, None), least, most))
        if check is None or high == known or fits(high, check):
            return high
        down = 1
        while high - down >= least and not (high - down <= known or fits(high - down, check)):
            high, down = high - down, 2 * down
        low = max(high - down, known)
        if low < least:
            return _largest(lambda n: fits(n, check), least, high - 1)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if fits(middle, check) else (low, middle)
        return low

    least = max(2 if form in ("rows", "strips") else 1, above + 1)
    cells = finest(with_curve)
    plain = finest(without, known=cells) if direct else 0  # what fits before a curve fits without one
    begin = 0  # as early as it can be, to leave most room for the curve
    state = scheduled(cells, 1) if cells else None
    knots = spline_room(inner[state.layers :], channels, per_hinge) if state is not None else 0
    return Holding(form, schedule, cells, knots, plain, state.layers if state is not None else 0)


def _largest(fits: Callable[[int], bool], least: int, most: int) -> int:
    """Return the largest n in least … most that fits, 0 if none; doubling, then bisection."""
    if most < least or not fits(least):
        return 0
    low = least
    while low < most and fits(min(2 * low, most)):
        low = min(2 * low, most)
    high = min(2 * low, most + 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _schedule(
    form: str,
    schedule: str,
    cells: tuple[int, ...],
    widths: Sequence[Width],
    channels: int,
    per_hinge: int,
    check: Check | None = None,
    begin: int = 0,
) -> Open | None:
    """Schedule a pattern without zeros; None if it does not fit. ``begin`` is as in `delayed`."""
    mesh = Mesh(cells)
    generic = np.random.default_rng(0)  # values without structure: a flat pattern would need fewer registers
    place = None if check is None else lambda state: check(closed(state))
    try:
        if form == "hinges":
            axes = [generic.random((n + 1, channels)) for n in cells]
            return delayed(lambda w: sums_by_carrying(axes, w, per_hinge), widths, len(cells), place, begin)
        if form in ("rows", "strips"):
            if min(cells) < 2:
                return None
            flat, few = (
                generic.random((*mesh.shape, channels)),
                rows_by_carrying if form == "rows" else strips_by_carrying,
            )
            return delayed(lambda w: few(flat, w, per_hinge), widths, len(cells), place, begin)
        basis = nodal_basis(mesh, torch.from_numpy(0.1 + generic.random((*mesh.shape, channels))))
        pack = hats_by_carrying if schedule == "carry" else hats_by_recomputing
        return delayed(lambda w: pack(basis, w, per_hinge), widths, len(cells), place, begin)
    except CapacityError:
        return None


def _short(widths: Sequence[int]) -> str:
    """Write widths compactly: 512×3, 64."""
    parts: list[list[int]] = []
    for width in widths:
        if parts and parts[-1][0] == width:
            parts[-1][1] += 1
        else:
            parts.append([width, 1])
    return ", ".join(f"{w}×{k}" if k > 1 else str(w) for w, k in parts)
