"""Theorem 1 in closed form: an input-independent network whose loss is the pattern.

θ_W = 0 and θ_b = (h_1, …, h_z, 0, …, 0) in the first layer, so the output does not depend on the input; the layers
after it compute the pattern register and then ψ ≈ ρ⁻¹, and the last layer emits p0 + s·v. Only the label statistics
enter (Czarnecki et al., arXiv 1912.07559, Theorem 1 and Lemma 1; here the weights are compiled instead of trained).
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from landform.errors import CapacityError, DataError, InputError
from landform.imprint.build import build_network
from landform.imprint.heads import response_of
from landform.imprint.imprint import Imprint
from landform.imprint.lower.chain import remove_hooks
from landform.imprint.lower.network import Network, read
from landform.imprint.widening.enough import least_extra
from landform.pattern import Pattern, SumPattern
from landform.program.capacity import capacity, needed
from landform.program.compile import Form, Schedule, compile_pattern
from landform.program.program import Program
from landform.program.room import Room
from landform.response import AbstractResponse, Spline, direct_gap, fit_spline
from landform.subspace import Subspace
from landform.task import Task, outputs_probe

DEFAULT_EPSILON = 1e-4
AMPLE = 1 << 40
"""Units of a layer that is made as wide as needed (Theorem 2)."""


@dataclass(frozen=True)
class Options:
    """How a pattern is compiled into a network (see `landform.imprint`)."""

    range: tuple[float, float] | Literal["auto"] = "auto"
    epsilon: float | None = None
    form: Form = "auto"
    schedule: Schedule = "auto"
    axis_aligned: bool = True
    direct: bool | None = None
    tolerance: float = 0.0
    convex: bool = False
    repair: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.repair, bool) or not isinstance(self.repair, int) or self.repair < 0:
            raise InputError(f"repair is a number of training steps, 0 or more, got {self.repair!r}")
        if self.epsilon is not None and not 0 < self.epsilon < 1:
            raise InputError(f"epsilon is a fraction of the range between 0 and 1, got {self.epsilon}")
        if not 0 <= self.tolerance < 1:
            raise InputError(f"tolerance is in units of the pattern, 0 ≤ tolerance < 1, got {self.tolerance}")


def imprint_constant(
    pattern: Pattern | SumPattern, task: Task | None, data_task: Task, options: Options, other: object = None
) -> Imprint:
    """Compile a pattern into a task's network (or build one when ``task`` has none); see `landform.imprint`."""
    data = data_task.data
    model = task.model if task is not None else None
    model = getattr(model, "_orig_mod", model)  # a torch.compile wrapper: the module inside has the weights
    if model is not None and not isinstance(model, nn.Module):
        raise InputError(f"imprint needs a torch.nn.Module, got {type(model).__name__}")
    output = task.output if task is not None else None
    chain = read(model, data.inputs.shape[1:], output=output) if model is not None else None
    if model is not None and chain is not None:
        chain.check(model)
    channels = pattern.channels or 1
    responses = _responses(data_task, chain, channels, options.convex)
    if model is not None:
        outputs_probe(data_task)  # its error explains a model that does not fit the data
    bounds = bounds_of(responses, options.range, other)
    program, splines, direct = _compile(pattern, responses, bounds, chain, model, options)
    if model is None:
        model = build_network(program.widths, data.inputs.shape[1:], [r.n_outputs for r in responses])
        chain = read(model)
    assert chain is not None
    scale = [float(responses[0].inverse(torch.tensor([bounds[1]], dtype=torch.float64)))] * channels if direct else None
    best = [r.best.numpy() for r in responses]
    ray = [r.ray.numpy() for r in responses]
    lowered = chain.write(program, model, best, ray, scale=scale)
    network = rewritten(model, lowered.parameters)
    origin = {name: p.detach() for name, p in network.named_parameters()}
    return Imprint(
        model=network,
        subspace=Subspace(origin, lowered.directions),
        pattern=pattern,
        task=Task(network, data_task.loss, data, output=output, name=data_task.name),
        responses=responses,
        range=bounds,
        spline_stage=lowered.spline_stage,
        meta=_meta(
            program,
            chain,
            splines,
            direct,
            options,
            bounds,
            _gap(pattern, responses[0], bounds) if direct else 0.0,
            lowered.directions,
            data.inputs.shape[1:],
            output,
        ),
    )


def _responses(task: Task, chain: Network | None, channels: int, convex: bool) -> tuple[AbstractResponse, ...]:
    """Return one response a head, checked against the pattern's channels."""
    data = task.data
    values = data.targets.is_floating_point() and data.targets[0].numel() == 1
    if values and task.loss_form.name == "cross_entropy":
        raise DataError(f"{data.name} has one number a sample, not labels; pass a loss for values, such as loss='mse'")
    heads: list[tuple[int | None, str]]
    if chain is None:
        own = not isinstance(task.loss, str) and callable(task.loss)
        heads, names = [(data.classes or None if own else None, "")] * channels, ["the output"] * channels
    else:
        heads = [(head.outputs, head.end) for head in chain.heads]
        names = [head.linear for head in chain.heads]
    if channels not in (1, len(heads)):
        raise InputError(
            f"the pattern has {channels} channels and the network {len(heads)} heads; each channel needs a head of its"
            " own"
        )
    made: dict[tuple[int | None, str], AbstractResponse] = {}
    for (size, end), name in zip(heads, names, strict=True):
        if (size, end) not in made:
            made[size, end] = response_of(task.loss, data, outputs=size, end=end, name=name, convex=convex)
    return tuple(made[head] for head in heads)


def bounds_of(
    responses: Sequence[AbstractResponse], wanted: tuple[float, float] | str, other: object
) -> tuple[float, float]:
    """Return (lo, hi); "auto" is just above the floor, one unit high."""
    if isinstance(wanted, str):
        if wanted != "auto":
            raise InputError(f"range must be 'auto' or two numbers (lo, hi), got '{wanted}'")
        second = None
        if other is not None:
            from landform.data import load_data
            from landform.response import respond_like

            data = load_data(other)
            second = respond_like(responses[0], data.targets, weights=data.weights)
        found = [r.auto_range(second if r is responses[0] else None) for r in responses]
        lo = max(low for low, _ in found)
        return lo, lo + max(high - low for low, high in found)
    try:
        lo, hi = (float(v) for v in wanted)
    except (TypeError, ValueError) as error:
        raise InputError(f"range must be 'auto' or two numbers (lo, hi), got {wanted!r}") from error
    if not (lo < hi and abs(lo) < float("inf") and abs(hi) < float("inf")):
        raise InputError(f"range must be two finite numbers with lo < hi, got ({lo}, {hi})")
    for response in responses:
        response.inverse(torch.tensor([lo, hi], dtype=torch.float64))  # raises FloorError below the floor
    return lo, hi


def _compile(
    pattern: Pattern | SumPattern,
    responses: Sequence[AbstractResponse],
    bounds: tuple[float, float],
    chain: Network | None,
    model: nn.Module | None,
    options: Options,
) -> tuple[Program, list[Spline], bool]:
    """Compile with ψ if there is a layer for it, else in the direct form."""
    widths, per_hinge = (chain.rooms, chain.per_hinge) if chain is not None else (None, 1)
    check = chain.checker(model) if chain is not None and model is not None else None
    dtype = next(model.parameters()).dtype if model is not None else torch.get_default_dtype()
    splines: list[Spline] = []
    channels = pattern.channels or 1

    def curves(room: int) -> Sequence[Spline]:
        splines[:] = [fit_curve(r, bounds, options.epsilon, room) for r in responses[:channels]]
        return splines

    def compiled_direct(what: Pattern) -> Program:
        signals = _direct_pattern(what, responses[0], bounds)
        if options.form == "auto":
            try:
                return compiled(signals, None, "hats")  # exact at nodes; strips cancel, and nothing hides it here
            except CapacityError:
                pass
        return compiled(signals, None)

    def compiled(
        what: Pattern | SumPattern,
        bend: Callable[[int], Sequence[Spline]] | None,
        form: Form | None = None,
        *,
        widths: Sequence[Room] | None = widths,
        check: Callable[[Program], None] | None = check,
        averages: bool = False,
    ) -> Program:
        return compile_pattern(
            what,
            bend,
            widths=widths,
            per_hinge=per_hinge,
            form=form or options.form,
            schedule=options.schedule,
            axis_aligned=options.axis_aligned,
            dtype=dtype,
            tolerance=options.tolerance,
            target_error=3 * (options.epsilon or DEFAULT_EPSILON),  # rounding may cost some of what ψ does
            check=check,
            clear=averages,
            late=averages,
        )

    def around_means(what: Pattern | SumPattern, bend: Callable[[int], Sequence[Spline]] | None) -> Program | None:
        """Compile for norms that average, if the widths allow it and ψ is as exact as it would be."""
        if chain is None or not chain.averages:
            return None
        try:
            program = compiled(what, bend, averages=True)
        except CapacityError:
            return None
        wanted = (options.epsilon or DEFAULT_EPSILON) * (bounds[1] - bounds[0])
        return program if bend is None or all(spline.gap <= wanted for spline in splines) else None

    def fits(rooms: Sequence[Room], test: Callable[[Program], None] | None) -> bool:
        """Say whether the pattern and a response curve as exact as asked for fit into other rooms."""
        wanted = options.epsilon or DEFAULT_EPSILON
        compiled(
            pattern,
            lambda room: [fit_curve(r, bounds, wanted, room) for r in responses[:channels]],
            widths=rooms,
            check=test,
        )
        return True

    def explained(error: CapacityError) -> CapacityError:
        gated = chain is not None and chain.stages is not None and chain.stages.gated
        told = _with_capacity(error, pattern, widths, per_hinge, options, responses[0], bounds, check, gated)
        more = None if chain is None or model is None else least_extra(chain, model, fits)
        if more is None:
            return told
        return CapacityError(f"{told}\nlf.widen(model, {more}) would make this network hold it")

    if not options.direct:
        try:
            program = around_means(pattern, curves) or compiled(pattern, curves)
            return program, splines, False
        except CapacityError as error:
            if options.direct is False or options.epsilon is not None or isinstance(pattern, SumPattern):
                raise explained(error) from None
            try:
                program = compiled_direct(pattern)
            except CapacityError:
                raise explained(error) from None
            note = "no layer is left for the response curve: direct form, exact at nodes"
            return replace(program, notes=(*program.notes, note)), [], True
    if isinstance(pattern, SumPattern):
        raise InputError("the direct form needs nodal values on a grid; a sum has none: leave direct=False")
    return compiled_direct(pattern), [], True


def fit_curve(response: AbstractResponse, bounds: tuple[float, float], epsilon: float | None, room: int) -> Spline:
    """Fit ψ to epsilon; without one, to the default or as well as the room allows."""
    if room < 1:
        raise CapacityError("no units are left for the response curve; use a wider last layer or the direct form")
    lo, hi = bounds
    room = min(room, 4096)
    try:
        return fit_spline(response, lo, hi, epsilon=epsilon or DEFAULT_EPSILON, max_units=room)
    except CapacityError:
        if epsilon is not None:
            raise
        return fit_spline(response, lo, hi, units=room)


def _with_capacity(
    error: CapacityError,
    pattern: Pattern | SumPattern,
    widths: Sequence[Room] | None,
    per_hinge: int,
    options: Options,
    response: AbstractResponse,
    bounds: tuple[float, float],
    check: Callable[[Program], None] | None,
    gated: bool,
) -> CapacityError:
    """Return the error with what the network holds and which widths would do."""
    if widths is None or isinstance(pattern, SumPattern) or widths[0].units >= AMPLE:
        return error
    channels = pattern.channels or 1
    held = capacity(
        widths, z=pattern.z, channels=channels, per_hinge=per_hinge, axis_aligned=options.axis_aligned, check=check
    )
    form = "strips" if options.form == "auto" and pattern.z == 2 and min(pattern.resolution) > 1 else options.form
    form = "hats" if form == "auto" else form
    knots = fit_spline(response, *bounds, epsilon=options.epsilon or DEFAULT_EPSILON).units
    would = needed(pattern.resolution, form=form, knots=knots, channels=channels, axis_aligned=options.axis_aligned)
    if gated:  # two layers for each but the first
        would = [would[0], *(width for width in would[1:] for _ in range(2))]
    wanted = ", ".join(str(per_hinge * w) for w in would)
    return CapacityError(f"{error}.\n{held}\nhidden widths of at least {wanted} would hold this pattern as {form}")


def _direct_pattern(pattern: Pattern, response: AbstractResponse, bounds: tuple[float, float]) -> Pattern:
    """Return the pattern of signals ρ⁻¹(T)/ρ⁻¹(hi) at the nodes."""
    lo, hi = bounds
    signal = response.inverse((lo + (hi - lo) * pattern.values).reshape(-1))
    top = response.inverse(torch.tensor([hi], dtype=torch.float64))
    return replace(pattern, values=(signal / top).clamp(0.0, 1.0).reshape(pattern.values.shape))


def rewritten(model: nn.Module, parameters: dict[str, Tensor]) -> nn.Module:
    """Return a copy of a model with some parameters replaced; the model itself is not touched.

    The memo makes deepcopy put the new tensors where the old ones were, so nothing is copied only to be overwritten.
    """
    memo: dict[int, Any] = {
        id(parameter): nn.Parameter(parameters[name])
        for name, parameter in model.named_parameters()
        if name in parameters
    }
    network = copy.deepcopy(model, memo)
    for parameter in network.parameters():
        parameter.grad = None
    remove_hooks(network)
    return network.eval()


def _gap(pattern: Pattern | SumPattern, response: AbstractResponse, bounds: tuple[float, float]) -> float:
    """Return how far the direct form's loss sags between nodes, as a fraction of the range."""
    assert isinstance(pattern, Pattern)
    ends = pattern.values.reshape(pattern.mesh.n_nodes, -1)[pattern.mesh.edges()].reshape(-1, 2, pattern.channels or 1)
    left, right = (ends[:, side].reshape(-1) for side in (0, 1))
    return direct_gap(response, *bounds, left, right) / (bounds[1] - bounds[0])


def _meta(
    program: Program,
    chain: Network,
    splines: Sequence[Spline],
    direct: bool,
    options: Options,
    bounds: tuple[float, float],
    gap_between_nodes: float,
    directions: Sequence[dict[str, Tensor]],
    sample: Sequence[int],
    output: str | int | None,
) -> dict[str, Any]:
    notes = list(program.notes)
    if direct:
        notes.append(f"direct form: between nodes the loss sags by up to {gap_between_nodes:.2g} of the range")
    notes.append(f"schedule: {program.schedule}; units a layer: {', '.join(map(str, program.widths))}")
    if chain.injected != f"{chain.maps[0]}.bias":
        mean = chain.stages is not None and chain.stages.first.shared
        why = "stands before a norm that takes the mean of its biases away" if mean else "has no bias"
        notes.append(
            f"'{chain.maps[0]}' {why}: the coordinates move '{chain.injected}' instead, the constant of the norm"
            " behind it (its factors are zero, so the output is this constant)"
        )
    if chain.stages is not None and chain.stages.smooth:
        size = float(max(direction.abs().max() for d in directions for direction in d.values()))
        notes.append(
            f"smooth activations are hinges for large numbers: the directions have length {size:g}, units are as much"
            " larger than the registers they hold"
        )
    if chain.stages is not None and chain.stages.gated:
        single = next(iter(directions[0].values())).dtype == torch.float32
        more = "; in float32 they are rough and hardly proved: call model.double() first" if single else ""
        notes.append(f"tanh units gate each other, so that a hinge takes two layers, and two units in each{more}")
    if splines:
        gap = max(s.gap for s in splines) / (bounds[1] - bounds[0])
        notes.append(f"response curve: {max(s.units for s in splines)} knots, gap {gap:.1e} of the range")
        if options.epsilon is None and gap > DEFAULT_EPSILON:
            notes.append(f"the default epsilon of {DEFAULT_EPSILON:g} needs more knots than the widths have room for")
    return {
        "method": "constant",
        "form": program.form,
        "schedule": program.schedule,
        "units": list(program.widths),
        "basis": program.basis,
        "nonzeros": program.nonzeros,
        "knots": max((s.units for s in splines), default=0),
        "direct": direct,
        "axis_aligned": options.axis_aligned,
        "widths": list(chain.widths),
        "injected": chain.injected,
        "sample": list(sample),
        "output": output,
        "heads": [None if head.key is None else str(head.key) for head in chain.heads],
        "notes": notes,
    }


def need_data(task: Task) -> Task:
    """Return the task if it has data, else say how to give some."""
    if not task.has_data:
        raise DataError("the imprint needs the labels of a data set: Task(model, loss=…, data=(X, y))")
    return task
