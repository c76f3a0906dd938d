"""Theorem 2 in a language model: the loss of a trained GPT-2, a mean over tokens, follows the pattern.

As in `landform.imprint.offset` the logits are moved along one ray and the trained loss is the floor. The signal enters
a residual stream behind the last trained block (`landform.imprint.lower.beside_stream`), so no trained weight and no
trained activation depends on h; the last norm divides it by each token's own σ, and ρ knows these gains
(`TokenOffsetResponse`). After Czarnecki et al., arXiv 1912.07559, Theorem 2, whose layer carries (h, φ(x)): here the
stream does.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from landform.errors import ArchitectureError, CapacityError, InputError, unknown_name
from landform.imprint.constant import AMPLE, DEFAULT_EPSILON, Options, fit_curve
from landform.imprint.imprint import Imprint
from landform.imprint.lower.anatomy import Anatomy, anatomy_of
from landform.imprint.lower.beside_stream import (
    Scales,
    gains_of,
    hidden_of,
    place_of,
    require_layer_norms,
    scales_of,
    write_beside,
)
from landform.imprint.lower.grow import Grown, grow
from landform.imprint.lower.smooth import STEEP, check_weights
from landform.imprint.offset import UNITS, bounds_above
from landform.imprint.settle import clamped
from landform.imprint.stream import outputs_at
from landform.imprint.token_rounding import token_rounding
from landform.imprint.tokens import Tokens, counting, inputs_of, token_loss, tokens_of
from landform.pattern import Pattern, SumPattern
from landform.program.compile import Form, compile_pattern
from landform.program.layered import LayeredProgram, to_layers
from landform.program.program import Program
from landform.program.stream import to_stream
from landform.response import AbstractResponse, Spline, respond
from landform.response.token_offset import TokenOffsetResponse
from landform.subspace import Subspace
from landform.task import Task

DEEPEST = 16
"""Most blocks that a pattern may take."""
CHECKS = 3
AGREEMENT = {torch.float32: 1e-3, torch.float64: 1e-9}
"""Largest difference from f + g·s·v that rounding may explain, relative to the logits; a misread network gives more."""


def imprint_offset_stream(pattern: Pattern | SumPattern, task: Task, options: Options, units: str) -> Imprint:
    """Compile a pattern behind a trained language model; see `landform.imprint`."""
    model = _checked(pattern, task, options, units)
    sample = inputs_of(task, slice(0, 2))
    anatomy = anatomy_of(model, sample)
    require_layer_norms(anatomy)
    loss, name, kinds = token_loss(task)
    dtype = next(model.parameters()).dtype
    given = tokens_of(model, anatomy, task, name, kinds)
    _require_trained(given)
    found, room = given, Grown(model, anatomy.stream.width, False)
    held: tuple[int, list[int]] | None = None
    parts = anatomy
    while True:  # first for the network as given, then for the one with room
        eps = [anatomy.stream.mlps[-1].norm.eps, anatomy.stream.final.eps]
        width = parts.stream.width
        if held is not None:
            share = anatomy.stream.width / width
            eps = [value * share for value in eps]
        compiled = _fit(pattern, found, width, eps, options, dtype, blocks=None if held is None else len(held[1]))
        place = place_of(anatomy.stream.width, compiled.layers)
        need = (place.needed(pattern.z), hidden_of(compiled.layers))
        if held is not None and _holds(held, need):
            break
        held = need if held is None else (max(need[0], held[0]), _most(need[1], held[1]))
        room = grow(model, anatomy, coordinates=held[0], hidden=held[1])
        parts = anatomy_of(room.model, sample)
        found = tokens_of(room.model, parts, task, name, kinds)
    network = room.model
    response = compiled.response.with_rounding(token_rounding(network, parts, found, compiled.response))
    directions = write_beside(network, parts, compiled.layers, place, compiled.scales, response.v)
    subspace = Subspace({n: p.detach() for n, p in network.named_parameters()}, directions)
    moved = _verify(network, subspace, compiled, task, found, name, kinds)
    report = _report(given, found, response, moved)
    return Imprint(
        model=network,
        subspace=subspace,
        pattern=pattern,
        task=Task(network, loss, task.data, name=task.name),
        responses=(response,),
        range=compiled.bounds,
        spline_stage=len(compiled.layers.blocks) - 2,
        meta={
            "method": "offset",
            "network": "language-model stream",
            "units_from": units,
            "form": compiled.program.form,
            "schedule": "residual stream",
            "units": list(compiled.layers.hidden()),
            "basis": compiled.program.basis,
            "nonzeros": compiled.program.nonzeros,
            "knots": compiled.spline.units,
            "direct": False,
            "axis_aligned": True,
            "widths": [mlp.hidden for mlp in parts.stream.mlps],
            "heads": [None],
            "injected": next(iter(subspace.moved)),
            "trained_width": anatomy.stream.width,
            "stages": list(place.stages),
            "scales": {key: float(getattr(compiled.scales, key)) for key in ("faint", "ballast", "middle", "last")},
            "loss_options": {key: _plain(value) for key, value in kinds.items()},
            "token_loss": name,
            "sample": {
                "shape": list(task.data.inputs.shape[1:]),
                "dtype": str(task.data.inputs.dtype).removeprefix("torch."),
            },
            **report,
            "notes": _notes(compiled, options, room, parts, report, model),
        },
    )


def _checked(pattern: Pattern | SumPattern, task: Task, options: Options, units: str) -> nn.Module:
    """Check what is given before anything is computed."""
    if units not in UNITS:
        raise unknown_name("units", units, UNITS)
    if units != "widen":
        raise InputError(
            "units='reserve' would take coordinates of the stream away from every block of the trained network; in"
            " transformers the pattern gets coordinates and blocks of its own: units='widen'"
        )
    model = getattr(task.model, "_orig_mod", task.model)
    if not isinstance(model, nn.Module):
        raise InputError("Theorem 2 needs a trained network: lf.Task(model, loss=…, data=…) with your own model")
    if pattern.channels not in (None, 1):
        raise InputError(f"Theorem 2 is built for one head, the pattern has {pattern.channels} channels")
    if not options.axis_aligned or options.direct:
        raise InputError("a transformer gets as many blocks as needed: leave axis_aligned=True and direct=None")
    check_weights(model)
    return model


def _require_trained(tokens: Tokens) -> None:
    logs = tokens.logits.log_softmax(1).gather(1, tokens.labels[:, None])[:, 0]
    floor = -float(tokens.weights @ logs / tokens.weights.sum())
    constant = respond("cross_entropy", tokens.labels, outputs=tokens.logits.shape[1], weights=tokens.weights).floor
    if not floor < constant:
        raise InputError(
            f"the network's loss on these data is {floor:.4g} a token, and the shares of the tokens alone give"
            f" {constant:.4g}: it is not trained, or not on these data. Train it first, or use method='constant'"
        )


class _Compiled:
    """A pattern compiled for one set of tokens."""

    def __init__(
        self,
        response: TokenOffsetResponse,
        bounds: tuple[float, float],
        program: Program,
        spline: Spline,
        layers: LayeredProgram,
        scales: Scales,
    ) -> None:
        self.response, self.bounds, self.program = response, bounds, program
        self.spline, self.layers, self.scales = spline, layers, scales


def _fit(
    pattern: Pattern | SumPattern,
    tokens: Tokens,
    width: int,
    eps: Sequence[float],
    options: Options,
    dtype: torch.dtype,
    blocks: int | None,
) -> _Compiled:
    """Compile for these tokens; gains depend on the number of blocks, which the pattern's form alone decides."""
    nodes = _points(pattern)
    number = 4 if blocks is None else blocks
    while True:
        # G and ε cancel in g, so any registers will do for the response
        scales = scales_of(tokens.sizes, width, (eps[0], eps[1]), 1.0, dtype)
        response = _respond(tokens, gains_of(tokens.sizes, width, _eps(eps, number), scales), dtype)
        bounds = bounds_above(response, options.range)
        program, spline = _compile(pattern, response, bounds, options, dtype)
        layers = to_layers(to_stream(program, room=AMPLE, hidden=[AMPLE] * DEEPEST))
        if len(layers.blocks) == number:
            break
        number = len(layers.blocks)
    most = float(np.sqrt(sum(np.square(state).sum(0) for state in layers.states(nodes)).max()))
    scales = scales_of(tokens.sizes, width, (eps[0], eps[1]), most, dtype)
    response = _respond(tokens, gains_of(tokens.sizes, width, _eps(eps, number), scales), dtype)
    return _Compiled(response, bounds, program, spline, layers, scales)


def _eps(eps: Sequence[float], blocks: int) -> list[float]:
    """Return ε of every norm that reads registers: the first block's reads none, the last norm reads s."""
    return [eps[0]] * (blocks - 1) + [eps[1]]


def _respond(tokens: Tokens, gains: Tensor, dtype: torch.dtype) -> TokenOffsetResponse:
    about = {
        "least": float(tokens.sizes.min()),
        "largest": float(tokens.sizes.max()),
        "mean": float(tokens.means.max()),
    }
    return TokenOffsetResponse.build(tokens.logits, tokens.labels, gains, tokens.weights, dtype=dtype, about=about)


def _points(pattern: Pattern | SumPattern) -> np.ndarray:
    if isinstance(pattern, Pattern):
        return pattern.mesh.nodes().numpy()
    generator = torch.Generator().manual_seed(0)
    return torch.rand(4096, pattern.z, generator=generator, dtype=torch.float64).numpy()


def _compile(
    pattern: Pattern | SumPattern,
    response: AbstractResponse,
    bounds: tuple[float, float],
    options: Options,
    dtype: torch.dtype,
) -> tuple[Program, Spline]:
    """Compile the form that rounds least: width costs nothing here; settle s = 0 where the pattern is 0."""
    sums = isinstance(pattern, SumPattern) or pattern.z == 1
    form: Form = options.form if options.form != "auto" else ("hinges" if sums else "hats")
    splines: list[Spline] = []

    def curves(_: int) -> Sequence[Spline]:
        splines[:] = [fit_curve(response, bounds, options.epsilon, AMPLE)]
        return splines

    program = compile_pattern(pattern, curves, form=form, dtype=dtype, tolerance=options.tolerance, clear=True)
    zeros = torch.zeros(0, pattern.z, dtype=torch.float64)
    if isinstance(pattern, Pattern) and bounds[0] == response.lowest:
        zeros = pattern.mesh.nodes()[pattern.values.reshape(-1) == 0]
    # a smooth hinge is exactly 0 only some way left of its knot: 64/β
    return clamped(program, zeros, dtype, further=64.0 / STEEP[dtype]), splines[0]


def _holds(held: tuple[int, list[int]], need: tuple[int, list[int]]) -> bool:
    """Say whether a network with room for one program has room for another."""
    same = len(need[1]) == len(held[1])
    return same and need[0] <= held[0] and all(a <= b for a, b in zip(need[1], held[1], strict=True))


def _most(a: Sequence[int], b: Sequence[int]) -> list[int]:
    if len(a) != len(b):
        raise CapacityError(f"the pattern takes {len(a)} blocks for one set of logits and {len(b)} for another")
    return [max(pair) for pair in zip(a, b, strict=True)]


def _verify(
    network: nn.Module,
    subspace: Subspace,
    compiled: _Compiled,
    task: Task,
    tokens: Tokens,
    name: str,
    kinds: Any,
) -> float:
    """Run the written network at a few points on some sequences; return how far it is from f + g·s·v at most."""
    few = min(4, task.data.n)
    sample = inputs_of(task, slice(0, few))
    dtype = next(network.parameters()).dtype
    generator = torch.Generator().manual_seed(0)
    h = torch.rand(CHECKS, compiled.layers.z, generator=generator, dtype=torch.float64).to(dtype)
    away = 0.0
    with torch.no_grad():
        for point in h:
            logits = outputs_at(network, subspace, point, sample, few)
            got, _, _ = counting(task, slice(0, few), logits, name, kinds)
            s = float(compiled.layers(point.double().numpy()[None])[0])
            gains = compiled.response.gains[: len(got), None]
            want = tokens.logits[: len(got)] + gains * s * compiled.response.v
            away = max(away, float((got.double() - want).abs().max()) if len(got) else 0.0)
    if not away <= AGREEMENT[dtype] * max(1.0, float(tokens.logits.abs().max())):
        raise ArchitectureError(
            f"{type(network).__name__} gives logits {away:.1e} away from trained ones plus the compiled signal; it"
            " computes something that its norms and linear maps do not show (a scale, a second path)"
        )
    return away


def _report(given: Tokens, found: Tokens, response: TokenOffsetResponse, moved: float) -> dict[str, Any]:
    share = given.weights / given.weights.sum()
    logs = given.logits.log_softmax(1).gather(1, given.labels[:, None])[:, 0]
    return {
        "trained_loss": response.floor,
        "loss_given": -float(share @ logs),
        "outputs_moved": float((given.logits - found.logits).abs().max()),
        "outputs_away": moved,
        "accuracy_given": float(share @ (given.logits.argmax(1) == given.labels).double()),
        "accuracy": float(share @ (found.logits.argmax(1) == found.labels).double()),
        "tokens": len(found.labels),
        "gains": [float(response.gains.min()), float(response.gains.max())],
    }


def _notes(
    compiled: _Compiled, options: Options, room: Grown, parts: Anatomy, report: dict[str, Any], model: nn.Module
) -> list[str]:
    before = sum(p.numel() for p in model.parameters())
    after = sum(p.numel() for p in room.model.parameters())
    blocks = len(compiled.layers.blocks)
    gap = compiled.spline.gap / (compiled.bounds[1] - compiled.bounds[0])
    low, high = report["gains"]
    notes = [
        *compiled.program.notes,
        (
            f"trained loss {report['trained_loss']:.6g} a token over {report['tokens']:,} tokens; rho'(0) ="
            f" {compiled.response.start():.1e} along the ray, which moves classes {compiled.response.classes}"
        ),
        (
            f"the stream went from {room.width} to {parts.stream.width} coordinates and got {blocks} blocks behind the"
            f" trained ones: {before:,} to {after:,} parameters; trained logits moved by {report['outputs_moved']:.1e}"
        ),
        f"signal gains of the tokens from {low:.3g} to {high:.3g}: each token's last norm divides s by its own sigma",
        f"response curve: {compiled.spline.units} knots, gap {gap:.1e} of the range",
    ]
    if room.untied:
        notes.append("the head was tied to the embeddings; it is a matrix of its own now")
    if options.epsilon is None and gap > DEFAULT_EPSILON:
        notes.append(f"the default epsilon of {DEFAULT_EPSILON:g} needs more knots than are allowed")
    return notes


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, Tensor) else value
