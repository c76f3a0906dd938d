"""From a pattern and a response spline to a `Program` that fits given widths: which form, which schedule, and why."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch

from landform.errors import CapacityError, InputError
from landform.pattern import Pattern, SumPattern
from landform.program.basis import compressed_basis, nodal_basis
from landform.program.bend import Curve, bend, spline_room
from landform.program.program import Program
from landform.program.room import Room, Width, rooms
from landform.program.rounding import predicted_rounding
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

Form = Literal["auto", "hats", "rows", "strips", "hinges"]
Schedule = Literal["auto", "carry", "recompute"]
UNLIMITED = 1 << 40
LARGE = 100_000  # non-zero weights above which fewer points are taken
SAMPLES = 32  # points at which the rounding of a form is predicted before it is chosen


@dataclass(frozen=True)
class Candidate:
    """One way to compile the pattern register: its layers, units and predicted rounding (units of the pattern)."""

    form: str
    schedule: str
    state: Open
    basis: int
    error: float
    truncation: float

    @property
    def units(self) -> int:
        """Hidden units used."""
        return sum(layer.units for layer in self.state.stack.layers)

    @property
    def weights(self) -> int:
        """Weights of the dense layers that hold it."""
        return sum(layer.weight.shape[0] * layer.weight.shape[1] for layer in self.state.stack.layers)


def compile_pattern(
    pattern: Pattern | SumPattern,
    curves: Callable[[int], Sequence[Curve]] | None,
    *,
    widths: Sequence[Width] | None = None,
    per_hinge: int = 1,
    form: Form = "auto",
    schedule: Schedule = "auto",
    axis_aligned: bool = True,
    dtype: torch.dtype = torch.float32,
    tolerance: float = 0.0,
    target_error: float = 1e-4,
    check: Callable[[Program], None] | None = None,
    clear: bool = False,
    late: bool = False,
) -> Program:
    """Compile a pattern into a program for hidden layers of given widths.

    Args:
        pattern: Nodal values in [0, 1].
        curves: Called with the number of hinges there is room for in a channel, returns ψ of each channel. ``None``
            compiles the direct form: the program's output is the pattern itself.
        widths: Widths (or rooms) of all hidden layers, the injected one first; ``None`` builds to fit.
        per_hinge: Network units that a ReLU takes: 2 for LeakyReLU, since relu(t) = (lr(t) + α·lr(−t))/(1 − α²).
        form: ``"hats"`` (rough patterns in float32), ``"rows"`` (z = 2: few units in float32, two layers more),
            ``"strips"`` (z = 2: few units, cancellation about n²·u), ``"hinges"`` (z = 1 and sums), or ``"auto"``:
            by the rounding predicted at `SAMPLES` points in ``dtype``; rows only where hats do not fit.
        schedule: ``"carry"``, ``"recompute"`` or ``"auto"`` (the one that uses fewer layers).
        axis_aligned: Inject h itself into the first bias (the statement of Theorem 1), or the hinges, which saves a
            layer and moves the biases along general directions.
        dtype: The dtype the network will run in; decides which form is accurate enough.
        tolerance: Admitted compression error in units of the pattern; 0 keeps every hat.
        target_error: Predicted rounding (units of the pattern) below which fewer weights win over more accuracy.
        check: Raises `CapacityError` if an architecture cannot place a program, for reasons other than its units.
        clear: Write hats that are clearly off beyond their neighbours, for smooth activations behind norms; False for
            ReLUs, which round less without (see `landform.program.hats`).
        late: Compute in the last layers that have room, not in the first: for norms that average over positions, of
            which the last layers have fewest.

    Returns:
        The program; ``notes`` say what was chosen and why.

    Raises:
        CapacityError: If no form fits, with the reason for each.
        InputError: If a form is not defined for this pattern.
    """
    z = pattern.z
    every = rooms([UNLIMITED] * 64 if widths is None else widths)
    if axis_aligned and (not every or every[0].units < z):
        raise CapacityError(
            f"a pattern with z = {z} is injected into {z} first-layer biases, but the first layer has"
            f" {every[0].units if every else 0} units; use a first layer of at least {z}"
        )
    inner = every[1:] if axis_aligned else every
    limit = len(inner) - (0 if curves is None else 1)
    if curves is not None and any(not room.curve for room in inner):
        able = [number for number, room in enumerate(inner) if room.curve]
        limit = able[-1] if able else 0
    if limit < 1:
        raise CapacityError(
            f"{len(every)} hidden layers are too few: {'axis-aligned injection, ' if axis_aligned else ''}pattern and"
            " response need one each at least; use a deeper network, axis_aligned=False, or the direct form"
        )
    candidates, reasons = _candidates(
        pattern, inner[:limit], per_hinge, form, schedule, dtype, tolerance, check, clear, late
    )
    if not candidates:
        raise CapacityError("the network does not hold this pattern: " + "; ".join(reasons))
    left = list(candidates)
    if form == "auto" and curves is not None:
        left = _with_room(left, curves, inner, _channels(pattern), per_hinge)
    while True:
        chosen = _choose(left, target_error)
        try:
            program = _finished(chosen, curves, inner[chosen.state.layers :], _channels(pattern), per_hinge)
            if check is not None:
                check(program)
            break
        except CapacityError:  # the register has a place, the curve behind it has none
            left = [candidate for candidate in left if candidate is not chosen]
            if not left:
                raise
    program = replace(program, notes=_notes(candidates, chosen, dtype, target_error))
    return program if axis_aligned else program.merged()


def _with_room(
    candidates: list[Candidate],
    curves: Callable[[int], Sequence[Curve]],
    inner: Sequence[Room],
    channels: int,
    per_hinge: int,
) -> list[Candidate]:
    """Leave rows out where they leave the response curve fewer knots than another form: a coarse curve errs more."""
    if len({candidate.form == "rows" for candidate in candidates}) < 2:
        return candidates

    def knots(candidate: Candidate) -> int:
        room = spline_room(inner[candidate.state.layers :], channels, per_hinge)
        try:
            return min(len(curve.knots) for curve in curves(room))
        except CapacityError:
            return 0

    found = [knots(candidate) for candidate in candidates]
    return [c for c, k in zip(candidates, found, strict=True) if c.form != "rows" or k == max(found)]


def _finished(
    chosen: Candidate,
    curves: Callable[[int], Sequence[Curve]] | None,
    left: Sequence[Room],
    channels: int,
    per_hinge: int,
) -> Program:
    """Close a candidate: with the response curve in the layers that are left, or as it is."""
    state = chosen.state
    if curves is None:
        return state.stack.finish(
            state.terms, bias=state.bias, form=chosen.form, schedule=state.schedule, basis=chosen.basis
        )
    splines = curves(spline_room(left, channels, per_hinge))
    return bend(state, splines, left, per_hinge, form=chosen.form, basis=chosen.basis)


def _channels(pattern: Pattern | SumPattern) -> int:
    return pattern.channels or 1


def _candidates(
    pattern: Pattern | SumPattern,
    widths: Sequence[Width],
    per_hinge: int,
    form: Form,
    schedule: Schedule,
    dtype: torch.dtype,
    tolerance: float,
    check: Callable[[Program], None] | None,
    clear: bool,
    late: bool,
) -> tuple[list[Candidate], list[str]]:
    """Try every form and schedule asked for; return those that fit and why the others do not."""
    tries: dict[tuple[str, str], Callable[[], tuple[Open, int, float]]] = {}

    def begun(make: Callable[[Sequence[Width]], Open]) -> Open:
        place = None if check is None else lambda state: check(closed(state))
        return delayed(make, widths, pattern.z, place, late=late)

    if isinstance(pattern, SumPattern) or pattern.z == 1:
        axes = _axes(pattern)
        hinges = sum(len(f) - 2 for f in axes)
        tries["hinges", "carry"] = lambda: (begun(lambda w: sums_by_carrying(axes, w, per_hinge)), hinges, 0.0)
    if isinstance(pattern, Pattern):
        mesh = pattern.mesh
        basis = (
            compressed_basis(mesh, pattern.values, tolerance) if tolerance > 0 else nodal_basis(mesh, pattern.values)
        )
        basis = replace(basis.centred().compact() if late else basis, clear=clear, corner=late)
        carried = lambda w: hats_by_carrying(basis, w, per_hinge)  # noqa: E731
        again = lambda w: hats_by_recomputing(basis, w, per_hinge)  # noqa: E731
        tries["hats", "carry"] = lambda: (begun(carried), basis.size, basis.error)
        tries["hats", "recompute"] = lambda: (begun(again), basis.size, basis.error)
        if pattern.z == 2 and min(mesh.cells) > 1:
            rows = _for_strips(pattern.values.reshape(*mesh.shape, -1).numpy(), mesh.cells, dtype)
            count = (mesh.cells[1] - 1) * rows.shape[2]
            plain = pattern.values.reshape(*mesh.shape, -1).numpy()
            height = (mesh.cells[1] + 1) * plain.shape[2]
            tries["rows", "carry"] = lambda: (begun(lambda w: rows_by_carrying(plain, w, per_hinge)), height, 0.0)
            tries["strips", "carry"] = lambda: (begun(lambda w: strips_by_carrying(rows, w, per_hinge)), count, 0.0)
    wanted = {key: make for key, make in tries.items() if form in ("auto", key[0]) and schedule in ("auto", key[1])}
    if not wanted:
        offered = ", ".join(sorted({f"{f} ({s})" for f, s in tries}))
        raise InputError(
            f"form='{form}' with schedule='{schedule}' does not exist for z = {pattern.z}; there are: {offered}"
        )
    found: list[Candidate] = []
    reasons: list[str] = []
    for name, how in list(wanted):
        make = wanted.get((name, how))
        if make is None or (form == "auto" and name == "rows" and any(c.form == "hats" for c in found)):
            continue
        try:
            state, basis_size, truncation = make()
        except CapacityError as error:
            reasons.append(f"{name} ({how}): {error}")
            continue
        found.append(Candidate(name, how, state, basis_size, _float_error(state, pattern.z, dtype), truncation))
        if (name, how) == ("hats", "carry") and schedule == "auto":
            wanted_layers = max(2, pattern.z)
            if state.layers == wanted_layers:  # no schedule uses fewer layers
                wanted.pop(("hats", "recompute"), None)
    return found, reasons


def _for_strips(values: np.ndarray, cells: tuple[int, ...], dtype: torch.dtype) -> np.ndarray:
    """Round nodal values to multiples of 2^-q where that makes every sum of the strips exact at nodes.

    With n = 2^l the sums at nodes are multiples of 2^-q below about n²; float64 holds them all for q = 49 − 2·l. The
    rounding (4e-12 at n = 64) is what the cancellation of rounded sums would cost anyway.
    """
    finest = max(cells)
    if dtype != torch.float64 or any(n & (n - 1) for n in cells):
        return values
    quantum = 2.0 ** -(49 - 2 * (finest.bit_length() - 1))
    out: np.ndarray = np.round(values / quantum) * quantum
    return out


def _axes(pattern: Pattern | SumPattern) -> list[np.ndarray]:
    """Return the nodal values of each f_i, shape ``[nodes, channels]``."""
    if isinstance(pattern, SumPattern):
        return [np.asarray(f, dtype=float)[:, None] for f in pattern.axes]
    return [pattern.values.reshape(pattern.mesh.shape[0], -1).numpy()]


def _float_error(state: Open, z: int, dtype: torch.dtype) -> float:
    """Predict the rounding error of a register in ``dtype`` on a fixed sample."""
    program = closed(state)
    samples = SAMPLES if program.nonzeros < LARGE else SAMPLES // 4
    h = torch.rand(samples, z, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return predicted_rounding(program, h.to(dtype).double(), dtype)


def _choose(candidates: Sequence[Candidate], target: float) -> Candidate:
    """Choose the fewest weights among the candidates that are accurate enough; else the most accurate."""
    best = min(c.error for c in candidates)
    good = [c for c in candidates if c.error <= max(target, 4 * best)]
    return min(good, key=lambda c: (c.weights, c.units))


def _notes(candidates: Sequence[Candidate], chosen: Candidate, dtype: torch.dtype, target: float) -> tuple[str, ...]:
    name = str(dtype).removeprefix("torch.")
    said = [f"{c.form} ({c.schedule}): {c.units:,} units, {name} rounding up to {c.error:.0e}" for c in candidates]
    notes = [f"{chosen.form} ({chosen.schedule}) chosen; predicted: " + "; ".join(said)]
    if chosen.error > 10 * target and dtype == torch.float32:
        notes.append(
            "rounding costs more than the response curve here; a float64 network (model.double()) hardly rounds"
        )
    if chosen.truncation:
        notes.append(f"compression keeps {chosen.basis:,} hats with an error of {chosen.truncation:.3g} of the range")
    return tuple(notes)
