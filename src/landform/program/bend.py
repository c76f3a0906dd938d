"""The last hidden layer: ψ ≈ ρ⁻¹, so that the loss of what the network emits is the pattern itself.

The pattern register τ is affine in the last layer's units; ψ is piecewise linear and concave for a convex response, so
it is written with hinges that open *downwards* from its right end,

    s = ψ(τ) = end − Σ_k coefficient_k · relu(knot_k − τ),

all of one sign: no cancellation, however steep ψ is at the floor. When one layer is too narrow the hinges are spread
over several, carrying (τ, sum).
"""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float64
from torch import Tensor

from landform.errors import CapacityError
from landform.program.program import Program, Stack, Units
from landform.program.room import Room, Width, rooms
from landform.program.schedule import Open


@runtime_checkable
class Curve(Protocol):
    """What is needed of ψ: knots in (0, 1], coefficients, and the value at τ = 1."""

    @property
    def knots(self) -> Float64[Tensor, " knots"]:
        """Knots, ascending, the last at 1."""

    @property
    def coefficients(self) -> Float64[Tensor, " knots"]:
        """Coefficient of relu(knot − τ)."""

    @property
    def end(self) -> float:
        """ψ(1)."""


def spline_room(widths: Sequence[Width], channels: int, per_hinge: int) -> int:
    """Return how many hinges of ψ a channel may have in hidden layers of these widths."""
    every, room = rooms(widths), 0
    if any(width.stream or not width.curve for width in every):
        begin = curve_layer(every, channels, per_hinge)
        return 0 if begin is None else every[begin].units // per_hinge // channels
    for number, width in enumerate(every):
        carried = channels * ((number > 0) + (number < len(every) - 1))
        room += max(0, width.left(carried) // per_hinge)
    return max(room, max((w.units // per_hinge for w in every[:1]), default=0)) // channels


def curve_layer(widths: Sequence[Room], channels: int, per_hinge: int) -> int | None:
    """Return the layer that holds most of ψ by itself, the last of equals; None if no layer may hold any.

    Beside a stream of registers ψ takes one layer: what is read behind it depends on τ through it alone, so that the
    verifier can follow a function of one number.
    """
    able = [(width.units, number) for number, width in enumerate(widths) if width.curve]
    able = [(units, number) for units, number in able if units >= per_hinge * channels]
    return max(able)[1] if able else None


def bend(
    state: Open, curves: Sequence[Curve], widths: Sequence[Width], per_hinge: int, *, form: str, basis: int
) -> Program:
    """Append ψ (one curve a channel) after a pattern register and close the program.

    Args:
        state: The open stack; its affine read is τ, one row a channel.
        curves: ψ of each channel.
        widths: Units of the hidden layers that are left.
        per_hinge: Network units that a ReLU takes.
        form: Recorded in the program.
        basis: Recorded in the program.

    Returns:
        The program; its output is s, one number a channel.

    Raises:
        CapacityError: If the layers do not hold the hinges.
    """
    channels, every = len(curves), rooms(widths)
    if any(width.stream or not width.curve for width in every):
        begin = curve_layer(every, channels, per_hinge)
        if begin is not None:
            state = carried_register(state, channels, begin)
            every = every[begin : begin + 1]
    knots = np.concatenate([np.asarray(c.knots, dtype=float) for c in curves])
    weight = np.concatenate([np.asarray(c.coefficients, dtype=float) for c in curves])
    owner = np.concatenate([np.full(len(c.knots), i) for i, c in enumerate(curves)])
    ends = np.array([c.end for c in curves])
    stack, total, done, begun = state.stack, len(knots), 0, 0
    terms, bias = state.terms, state.bias  # how τ reads from the layer before
    for number, width in enumerate(every):
        sums = channels if number else 0
        last = width.holds(sums, total - done, per_hinge)
        room = total - done if last else width.left(sums + channels) // per_hinge
        if room <= 0:
            break
        part = slice(done, done + min(room, total - done))
        units = []
        if number:
            read = [("hinges", _owned(weight, owner, slice(begun, done), channels))]
            read += [("sum", np.eye(channels))] if number > 1 else []
            units.append(Units("sum", channels, [(g, None, block) for g, block in read], carried=True))
        if not last:
            units.append(Units("tau", channels, [(g, None, block) for g, block in terms], bias, carried=True))
        # every hinge reads the same row: sparse from the start, since hats are many
        rows = [(group, None, -sp.csr_matrix(block)[owner[part]]) for group, block in terms]
        units.append(Units("hinges", part.stop - part.start, rows, knots[part] - bias[owner[part]]))
        stack.add("spline", units)
        terms, bias = [("tau", np.eye(channels))], np.zeros(channels)
        begun, done = done, part.stop
        if last:
            out = [("hinges", -_owned(weight, owner, part, channels))] + (
                [("sum", -np.eye(channels))] if number else []
            )
            return stack.finish(out, bias=ends, form=form, schedule=state.schedule, basis=basis)
    raise CapacityError(
        f"{total - done} of the {total} hinges of the response spline are left after the last hidden layer; choose a"
        " larger epsilon, or use a wider or deeper network"
    )


def carried_register(state: Open, channels: int, layers: int) -> Open:
    """Carry τ, which is ≥ 0, through some layers as one register a channel."""
    terms, bias = state.terms, state.bias
    for _ in range(layers):
        rows = [(group, None, block) for group, block in terms]
        state.stack.add("carry", [Units("tau", channels, rows, bias, carried=True)])
        terms, bias = [("tau", np.eye(channels))], np.zeros(channels)
    return Open(state.stack, terms, bias, state.schedule)


def _owned(weight: np.ndarray, owner: np.ndarray, part: slice, channels: int) -> np.ndarray:
    """Return the block ``[channels, hinges of part]`` that sums each channel's hinges."""
    return np.where(owner[part] == np.arange(channels)[:, None], weight[part], 0.0)


def padded(program: Program, layers: int) -> Program:
    """Append layers that only carry the program's output (which must be end − r with r ≥ 0, or r ≥ 0) to the end.

    Networks that are deeper than the program needs carry one register a channel through what is left.
    """
    if not layers:
        return program
    sign = -1.0 if program.readout.weight.nnz and program.readout.weight.data.max() <= 0 else 1.0
    stack = Stack(program.z)
    stack.layers = list(program.layers)
    channels = program.readout.units
    stack.groups = {"last": (0, program.layers[-1].units)}
    shift = program.readout.bias if sign > 0 else np.zeros(channels)
    for number in range(layers):
        if number:
            stack.add("carry", [stack.carry("out")])
        else:
            rows = sign * program.readout.weight.toarray()
            stack.add("carry", [Units("out", channels, [("last", None, rows)], shift, carried=True)])
    bias = np.zeros(channels) if sign > 0 else program.readout.bias
    return stack.finish(
        [("out", sign * np.eye(channels))],
        bias=bias,
        form=program.form,
        schedule=program.schedule,
        basis=program.basis,
        notes=program.notes,
    )
