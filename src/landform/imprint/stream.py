"""Theorem 1 inside a transformer: the pattern compiled into perceptrons on a residual stream, attention silenced.

The steps are those of `landform.imprint.constant`: the pattern register, ψ ≈ ρ⁻¹, then p0 + s·v. They meet another kind
of network here: registers are coordinates of the stream (`landform.program.stream`), and what is written is in
`landform.imprint.lower.smooth`.
"""

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from landform.calling import as_found
from landform.errors import ArchitectureError, CapacityError, InputError
from landform.imprint.constant import AMPLE, DEFAULT_EPSILON, Options, bounds_of, fit_curve, rewritten
from landform.imprint.imprint import Imprint
from landform.imprint.lower.overhear import call_model, outputs_of
from landform.imprint.lower.post_norm import PostStream, find_any_stream, room_after, write_post_stream
from landform.imprint.lower.smooth import (
    check_weights,
    room_of,
    write_stream,
)
from landform.imprint.lower.stream import Stream
from landform.imprint.widening.configured import is_configured
from landform.imprint.widening.enough import least_hidden
from landform.pattern import Pattern, SumPattern
from landform.program.compile import Form, compile_pattern
from landform.program.program import Program
from landform.program.stream import StreamProgram, to_stream
from landform.response import AbstractResponse, Spline, respond
from landform.subspace import Subspace
from landform.task import Task

CHECKS = 3
"""Points at which the written network is run and compared with the program."""
AGREEMENT = {torch.float32: 0.02, torch.float64: 1e-3}
"""Largest difference from the program, in units of s, that rounding may explain; a misread structure gives far more."""


def imprint_stream(pattern: Pattern | SumPattern, task: Task, options: Options, other: object = None) -> Imprint:
    """Compile a pattern into a transformer; arguments as in `landform.imprint`, of which this is one way.

    Raises:
        ArchitectureError: The network is no residual stream that landform covers, or does not compute what its
            structure says.
        CapacityError: It does not hold the pattern.
    """
    model = task.model
    assert isinstance(model, nn.Module)
    if pattern.channels not in (None, 1):
        raise InputError(f"the pattern has {pattern.channels} channels and a transformer has one head")
    if not options.axis_aligned or options.direct:
        raise InputError("a transformer has layers to spare: leave axis_aligned=True and direct=None")
    sample = one_sample(task.data.inputs, 2)
    check_weights(model)
    try:
        stream = find_any_stream(model, sample)
    except ArchitectureError:
        with as_found(model), torch.no_grad():
            _probe(model, sample)  # where it decides by the data, that is what is wrong with it
        raise
    loss, targets = _token_loss(task, stream.head.outputs, positions=getattr(stream, "positions", True))
    response = respond(
        "cross_entropy" if loss != task.loss or loss in TOKEN_LOSSES else loss,
        targets,
        outputs=stream.head.outputs,
        weights=task.data.weights,
        convex=options.convex,
    )
    bounds = bounds_of([response], options.range, other)
    dtype = next(model.parameters()).dtype
    program, spline, layers = _compile(
        pattern, response, bounds, stream, dtype, options, configured=is_configured(model)
    )
    best, ray = response.best.numpy(), response.ray.numpy()
    if isinstance(stream, PostStream):
        parameters, directions, injected = write_post_stream(stream, layers, model, best, ray)
    else:
        lowered = write_stream(stream, layers, model, best, ray, reach=_reach(spline))
        parameters, directions, injected = lowered.parameters, lowered.directions, lowered.injected
    network = rewritten(model, parameters)
    origin = {name: p.detach() for name, p in network.named_parameters()}
    subspace = Subspace(origin, directions)
    _verify(network, subspace, layers, response, sample, len(one_inputs(sample)))
    return Imprint(
        model=network,
        subspace=subspace,
        pattern=pattern,
        task=Task(network, loss, task.data, name=task.name),
        responses=(response,),
        range=bounds,
        spline_stage=_spline_block(layers, spline),
        meta=_meta(program, layers, spline, stream, injected, bounds, options, sample),
    )


TOKEN_LOSSES = ("token_cross_entropy", "causal_lm")


def _token_loss(task: Task, outputs: int, *, positions: bool) -> tuple[Any, Tensor]:
    """Return the loss and the targets whose statistics count, for networks that answer at every position.

    Cross-entropy of labels ``[n, positions]`` is that of tokens there: the classes come last, as language models have
    them. Of ``"causal_lm"`` the label t + 1 is compared with position t, so the first ones do not count.
    """
    targets = task.data.targets
    name = task.loss if isinstance(task.loss, str) else ""
    if name == "causal_lm":
        return name, targets[:, 1:]
    labels = positions and not targets.is_floating_point() and targets.ndim == 2
    if name == "cross_entropy" and labels and targets.shape[1] != outputs:
        return "token_cross_entropy", targets
    return task.loss, targets


def rooms_of(model: nn.Module, sample: Any, z: int) -> tuple[int, list[int], int]:
    """Return what a transformer offers: coordinates, hidden units of each perceptron, units that a signed value takes.

    Args:
        model: The network.
        sample: Inputs of two samples or so.
        z: Number of coordinates.

    Returns:
        What `landform.program.stream.to_stream` takes.

    Raises:
        ArchitectureError: The network is no residual stream that landform covers.
    """
    stream = find_any_stream(model, sample)
    return room_after(stream, z) if isinstance(stream, PostStream) else room_of(stream, z)


def one_sample(inputs: Any, n: int) -> Any:
    """Return the first samples of a tensor or a mapping of tensors."""
    return {k: v[:n] for k, v in inputs.items()} if isinstance(inputs, Mapping) else inputs[:n]


def one_inputs(sample: Any) -> Tensor:
    """Return the tensor, or the first one of a mapping."""
    found: Tensor = next(iter(sample.values())) if isinstance(sample, Mapping) else sample
    return found


def _compile(
    pattern: Pattern | SumPattern,
    response: AbstractResponse,
    bounds: tuple[float, float],
    stream: Stream | PostStream,
    dtype: torch.dtype,
    options: Options,
    *,
    configured: bool = False,
) -> tuple[Program, Spline, StreamProgram]:
    """Compile the first form that fits: hats, which round least, before strips, which need least."""
    room, hidden, per_linear = (
        room_after(stream, pattern.z) if isinstance(stream, PostStream) else room_of(stream, pattern.z)
    )
    forms: list[Form] = ["hats", "strips", "hinges"] if options.form == "auto" else [options.form]
    if isinstance(pattern, SumPattern) or pattern.z == 1:
        forms = ["hinges", "hats"] if options.form == "auto" else [options.form]
    elif options.form == "auto":
        forms = ["hats", "strips"] if pattern.z == 2 else ["hats"]

    reasons = []
    for form in forms:
        splines: list[Spline] = []

        def curves(_: int, splines: list[Spline] = splines) -> Sequence[Spline]:
            splines[:] = [fit_curve(response, bounds, options.epsilon, hidden[-1])]
            return splines

        try:
            program = compile_pattern(pattern, curves, form=form, dtype=dtype, tolerance=options.tolerance, clear=True)
            layers = to_stream(program, room=room, hidden=hidden, per_linear=per_linear)
        except CapacityError as error:
            reasons.append(f"{form}: {error}")
            continue
        return program, splines[0], layers
    told = _wider(pattern, response, bounds, stream, forms, options, repeats=(1, 2, 3, 4) if configured else (1,))
    raise CapacityError(
        f"the network (a stream of {stream.width} coordinates, {len(hidden)} perceptrons of {hidden[-1]} units) does"
        f" not hold this pattern: {'; '.join(reasons)}{told}"
    )


def _wider(
    pattern: Pattern | SumPattern,
    response: AbstractResponse,
    bounds: tuple[float, float],
    stream: Stream | PostStream,
    forms: Sequence[Form],
    options: Options,
    *,
    repeats: Sequence[int],
) -> str:
    """Say which call of `landform.widen` would make room, if one would."""
    try:
        curve = fit_curve(response, bounds, options.epsilon or DEFAULT_EPSILON, AMPLE)
    except CapacityError:
        return ""
    programs = []
    for form in forms:
        with contextlib.suppress(CapacityError):
            programs.append(
                compile_pattern(
                    pattern,
                    lambda _: [curve],
                    form=form,
                    dtype=torch.float64,
                    tolerance=options.tolerance,
                    clear=True,
                )
            )
    for repeat in repeats:
        found = []
        for program in programs:

            def fits(room: int, hidden: list[int], per_linear: int, program: Program = program) -> bool:
                to_stream(program, room=room, hidden=hidden, per_linear=per_linear)
                return True

            count = least_hidden(stream, pattern.z, fits, repeat)
            found += [] if count is None else [count]
        if found:
            also = f", repeat={repeat}" if repeat > 1 else ""
            return f"; lf.widen(model, {min(found)}, inputs=…{also}) would make it hold it"
    return ""


def _reach(spline: Spline) -> float:
    """Bound |s − end| and every partial sum of it: the hinges of ψ all pull downwards."""
    return float((spline.coefficients * spline.knots).sum()) + abs(spline.end)


def _spline_block(layers: StreamProgram, spline: Spline) -> int:
    """Return the first block that holds hinges of ψ: the last blocks hold them, and nothing else."""
    left, number = spline.units, len(layers.blocks)
    while left > 0:
        number -= 1
        left -= len(layers.blocks[number].bias)
    return number


def outputs_at(model: nn.Module, subspace: Subspace, h: Tensor, sample: Any, n: int) -> Tensor:
    """Return the outputs at one point, as the network gives them."""
    at = subspace.at(h)
    return outputs_of(model, sample, n, {name: at[name] for name in subspace.moved})


def _verify(
    network: nn.Module, subspace: Subspace, layers: StreamProgram, response: AbstractResponse, sample: Any, n: int
) -> None:
    """Run the written network at a few points: equal outputs for other inputs, and those of the program."""
    dtype = next(network.parameters()).dtype
    generator = torch.Generator().manual_seed(0)
    h = torch.rand(CHECKS, layers.z, generator=generator, dtype=torch.float64).to(dtype)
    mixed = _other_inputs(sample, generator)
    best, ray = response.best.numpy(), response.ray.numpy()
    with as_found(network), torch.no_grad():
        _probe(network, sample)
        for point in h:
            first, second = (outputs_at(network, subspace, point, inputs, n) for inputs in (sample, mixed))
            if first.shape != second.shape or first.shape[-1] != len(best):
                raise ArchitectureError(
                    f"{type(network).__name__} returns outputs of shape {list(first.shape)} and, for other inputs,"
                    f" {list(second.shape)}, of which the last dimension should be {len(best)}: the head's"
                )
            if not torch.equal(first, second):
                raise ArchitectureError(
                    f"{type(network).__name__} still depends on its input after every mixer was silenced, by up to"
                    f" {float((first - second).abs().max()):.1e}; a path around its norms is not covered"
                )
            want = best + ray * layers(point.double().numpy()[None])[0, 0]
            away = float(np.abs(first.double().numpy().reshape(-1, len(best)) - want).max())
            if not away <= AGREEMENT[dtype] * max(1.0, float(np.abs(ray).max())):
                raise ArchitectureError(
                    f"{type(network).__name__} gives outputs {away:.1e} away from the compiled program; it computes"
                    " something that its norms and linear maps do not show (a scale, a second path)"
                )


class _Peeking(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts how often a forward pass turns a tensor into a Python number, as ``if x.sum() > 0`` does."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def _probe(network: nn.Module, sample: Any) -> None:
    """Refuse control flow that depends on data, which no run shows, and several outputs, of which one is meant.

    What reads an attention mask (to skip one that hides nothing) is the library's own and harmless.

    Raises:
        ArchitectureError: If there is some.
    """
    with _Peeking() as peeking:  # type: ignore[no-untyped-call]
        found = call_model(network, sample)
    masked = isinstance(sample, Mapping) and any("mask" in key for key in sample)
    if peeking.count and not masked:
        raise ArchitectureError(
            f"the forward of {type(network).__name__} turns tensors into Python numbers (if x.sum() > 0, x.item()):"
            " what it computes then depends on the data, and no run shows all of it; use torch.where, or take that off"
        )
    several = list(found) if type(found) is dict else list(range(len(found))) if type(found) in (tuple, list) else []
    if len(several) > 1:
        raise ArchitectureError(
            f"{type(network).__name__} returns {len(several)} outputs ({', '.join(map(str, several))}), and a pattern"
            " is written into one head of a transformer; wrap it in a module that returns that one"
        )


def _other_inputs(sample: Any, generator: torch.Generator) -> Any:
    """Return inputs of the same shape and kind: the samples in reverse, numbers drawn anew."""

    def changed(value: Tensor) -> Tensor:
        if value.is_floating_point():
            return torch.randn(value.shape, generator=generator, dtype=torch.float64).to(value.dtype)
        flat = value.reshape(-1)
        return flat[torch.randperm(len(flat), generator=generator)].reshape(value.shape)

    if isinstance(sample, Mapping):
        return {k: v if "mask" in k else changed(v) for k, v in sample.items()}
    return changed(sample)


def _meta(
    program: Program,
    layers: StreamProgram,
    spline: Spline,
    stream: Stream | PostStream,
    injected: str,
    bounds: tuple[float, float],
    options: Options,
    sample: Any,
) -> dict[str, Any]:
    units = [len(block.bias) for block in layers.blocks]
    gap = spline.gap / (bounds[1] - bounds[0])
    names = ", ".join(f"'{mlp.up.name}'" for mlp in stream.mlps[: len(units)])
    first = one_inputs(sample)
    use = (
        f"{layers.registers} registers in a stream of {stream.width} coordinates, {len(units)} of {len(stream.mlps)}"
        f" perceptrons used ({names}), units each: {', '.join(map(str, units))}; attention adds zero"
    )
    notes = [
        *program.notes,
        f"injected into {injected}",
        use,
        f"response curve: {spline.units} knots, gap {gap:.1e} of the range",
    ]
    if options.epsilon is None and gap > DEFAULT_EPSILON:
        notes.append(f"the default epsilon of {DEFAULT_EPSILON:g} needs more knots than a perceptron has units")
    return {
        "method": "constant",
        "network": "stream" if isinstance(stream, Stream) else "post-norm stream",
        "form": program.form,
        "schedule": "residual stream",
        "units": units,
        "basis": program.basis,
        "nonzeros": program.nonzeros,
        "knots": spline.units,
        "direct": False,
        "axis_aligned": True,
        "widths": [mlp.hidden for mlp in stream.mlps],
        "heads": [None],
        "injected": injected,
        "sample": {"shape": list(first.shape[1:]), "dtype": str(first.dtype).removeprefix("torch.")},
        "notes": notes,
    }
