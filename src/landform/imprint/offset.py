"""Theorem 2, offset form: a trained network's outputs are moved by s(h)·v, and its loss follows the pattern.

The trained loss is the floor: where the pattern is 0, s is exactly 0 and the network is the trained one, predictions
and loss. Above it L(h) = ρ(s(h)), ρ(s) = mean_i ℓ(f(x_i) + s·v, y_i), which is convex and has its least value at
s = 0 (`OffsetResponse`). Only the mean follows the pattern; single samples do not (`landform.account` says by how
much).
"""

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from landform.errors import ArchitectureError, CapacityError, InputError, unknown_name
from landform.imprint.beside import Trunk, lifted, narrowed, put, trunk_of
from landform.imprint.branching import Fitted, fit_branching
from landform.imprint.constant import AMPLE, Options, _compile
from landform.imprint.imprint import Imprint
from landform.imprint.last_sum import sum_radii
from landform.imprint.lower.chain import remove_hooks
from landform.imprint.lower.network import Network, read
from landform.imprint.repair import reserved
from landform.imprint.settle import clamped, opened
from landform.imprint.widen import widen_trunk
from landform.pattern import Pattern, SumPattern
from landform.program.bend import padded
from landform.program.program import Program
from landform.program.room import Room
from landform.response import AbstractResponse, respond
from landform.response.offset import OFFSET_LOSSES, OffsetResponse
from landform.subspace import Subspace
from landform.task import Task, outputs_probe

Units = Literal["widen", "reserve"]
UNITS = ("widen", "reserve")


def imprint_offset(pattern: Pattern | SumPattern, task: Task, options: Options, units: str) -> Imprint:
    """Compile a pattern beside a trained network; see `landform.imprint`."""
    model, network, trunk = trained(task, pattern, units)
    name = task.loss_form.name
    further = {
        key: value for key, value in task.loss_form.options.items() if (name, key) != ("cross_entropy", "weight")
    }
    if name not in OFFSET_LOSSES or any(value not in (None, 0.0, -100) for value in further.values()):
        raise InputError(
            f"method='offset' covers {', '.join(OFFSET_LOSSES)} without further options than class weights, got"
            f" {task.loss_form}; use method='constant' for other losses"
        )
    weights = effective_weights(task.loss_form.options.get("weight"), task.data.targets, task.data.weights)
    need: list[int] | None = None
    roomy, wide = model, trunk
    channels: list[list[int]] = [[] for _ in trunk.hidden]
    repaired: dict[str, float] = {}
    while True:  # first for the network as given, then for the one with room, whose outputs may differ a little
        logits, *rounding = outputs_of(roomy, wide, task)
        response = OffsetResponse.build(logits, task.data.targets, name, weights, rounding=(rounding[0], rounding[1]))
        require_trained(response.floor, task, name, reserved=need if units == "reserve" else None)
        bounds = bounds_above(response, options.range)
        fitted = fit_beside(pattern, response, bounds, trunk, network, model, options, units, need)
        program, direct, notes = fitted.program, fitted.direct, fitted.notes
        if need is not None and all(cost <= held for cost, held in zip(fitted.need, need, strict=True)):
            break
        need = fitted.need if need is None else [max(pair) for pair in zip(fitted.need, need, strict=True)]
        roomy, wide, channels, repaired = room_for(need, model, trunk, task, units, options.repair)
    big = copy.deepcopy(roomy)
    scale = float(response.inverse(torch.tensor([bounds[1]], dtype=torch.float64))) if direct else None
    space, spline = write(big, wide, channels, program, response.v, scale, task)
    report = compared(model, task, response)
    made = Task(big, task.loss, task.data, name=task.name)
    return Imprint(
        model=big,
        subspace=space,
        pattern=pattern,
        task=made,
        responses=(response,),
        range=bounds,
        spline_stage=spline,
        meta={
            "method": "offset",
            "units_from": units,
            "channels": [list(part) for part in channels],
            "form": program.form,
            "schedule": program.schedule,
            "units": list(program.widths),
            "basis": program.basis,
            "nonzeros": program.nonzeros,
            "direct": direct,
            "widths": [layer.width for layer in wide.hidden],
            "injected": next(iter(space.moved)),
            "sample": list(task.data.inputs.shape[1:]),
            "heads": [None],
            **report,
            **repaired,
            "notes": [*notes, *describe(report | repaired, units, response)],
        },
    )


def trained(task: Task, pattern: Pattern | SumPattern, units: str) -> tuple[nn.Module, Network, Trunk]:
    """Check what Theorem 2 is given, and read the network.

    Raises:
        InputError: If there is no model, or the pattern has channels.
        ArchitectureError: If the network cannot be lowered into, or is in train mode.
    """
    if units not in UNITS:
        raise unknown_name("units", str(units), UNITS)
    model = getattr(task.model, "_orig_mod", task.model)
    if not isinstance(model, nn.Module):
        raise InputError("Theorem 2 needs a trained network: lf.Task(model, loss=…, data=…) with your own model")
    if pattern.channels not in (None, 1):
        raise InputError(f"Theorem 2 is built for one head, the pattern has {pattern.channels} channels")
    modes = [name for name, module in model.named_modules() if module.training and not any(module.children())]
    if any(isinstance(model.get_submodule(n), (nn.Dropout, nn.modules.batchnorm._BatchNorm)) for n in modes):
        raise ArchitectureError("the network is in train mode, where its output is random; call model.eval() first")
    network = read(model, task.data.inputs.shape[1:])
    network.check(model)
    outputs_probe(task)  # its error explains a model that does not fit the data
    return model, network, trunk_of(network)


def effective_weights(by_class: Sequence[float] | None, targets: Tensor, weights: Tensor | None) -> Tensor | None:
    """Return what each sample counts: its own weight times that of its class; None where all count the same.

    Cross-entropy with class weights w is Σ w_y ℓ / Σ w_y, a mean of the unweighted losses with these weights.
    """
    if by_class is None:
        return weights
    chosen = torch.tensor(by_class, dtype=torch.float64)[targets]
    return chosen if weights is None else chosen * weights.double()


def require_trained(floor: float, task: Task, name: str, reserved: Sequence[int] | None = None) -> None:
    """Refuse a network that is no better than a constant output.

    Raises:
        InputError: With both losses.
        CapacityError: If it is so because channels were reserved.
    """
    constant = constant_loss(task, name)
    if not floor < constant and reserved is not None:
        raise CapacityError(
            f"without the {', '.join(map(str, reserved))} channels that the pattern needs, the network's loss is"
            f" {floor:.4g}, no better than a constant output ({constant:.4g}); lower the resolution or use"
            " units='widen'"
        )
    if not floor < constant:
        raise InputError(
            f"the network's loss on these data is {floor:.4g}, and a constant output has {constant:.4g}: it is not"
            " trained, or not on these data. Train it first, or use method='constant'"
        )


def constant_loss(task: Task, name: str) -> float:
    """Return the least loss that an output which is the same for all samples can have."""
    weights = effective_weights(task.loss_form.options.get("weight"), task.data.targets, task.data.weights)
    return float(respond(name, task.data.targets, outputs=None, weights=weights).floor)


def outputs_of(model: nn.Module, trunk: Trunk, task: Task) -> tuple[Tensor, Tensor, Tensor]:
    """Return the outputs on all data, how many terms the head's sums have, and how far off these outputs may be.

    That is: how far what another order of summation gives may be from what is returned, for it is the exact sum that
    both are near to. In float32 its distance from what is returned is known; in float64 it is bounded like the other.
    """
    head: Any = dict(model.named_modules())[trunk.head]
    weight, bias = head.weight.detach(), head.bias.detach()
    found: list[Tensor] = []
    terms: list[Tensor] = []
    radii: list[Tensor] = []
    exact: list[Tensor] = []

    def look(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0].detach().reshape(-1, weight.shape[1])
        radius, count = sum_radii(x, weight, bias)
        terms.append(count)
        radii.append(radius)
        exact.append(x.double() @ weight.double().T + bias.double())

    hook = head.register_forward_pre_hook(look)
    try:
        with torch.no_grad():
            found += [model(task.data.inputs[i : i + 1024]) for i in range(0, task.data.n, 1024)]
    finally:
        hook.remove()
    logits, radius = torch.cat(found).double(), torch.cat(radii)
    if not bool(torch.isfinite(logits).all()):
        raise InputError("the network's outputs on these data are not finite")
    known = weight.dtype == torch.float32
    away = (logits - torch.cat(exact).reshape(logits.shape)).abs() if known else radius
    return logits, torch.cat(terms), radius + away


def bounds_above(response: AbstractResponse, wanted: tuple[float, float] | str) -> tuple[float, float]:
    """Return (lo, hi); "auto" is from the trained loss exactly, one unit high."""
    if wanted == "auto":
        return response.lowest, response.lowest + 1.0
    if isinstance(wanted, str):
        raise InputError(f"range must be 'auto' or two numbers (lo, hi), got '{wanted}'")
    try:
        lo, hi = (float(v) for v in wanted)
    except (TypeError, ValueError) as error:
        raise InputError(f"range must be 'auto' or two numbers (lo, hi), got {wanted!r}") from error
    if not (lo < hi and abs(lo) < float("inf") and abs(hi) < float("inf")):
        raise InputError(f"range must be two finite numbers with lo < hi, got ({lo}, {hi})")
    response.inverse(torch.tensor([lo, hi], dtype=torch.float64))
    return lo, hi


def fit(
    pattern: Pattern | SumPattern,
    response: AbstractResponse,
    bounds: tuple[float, float],
    network: Network,
    model: nn.Module,
    options: Options,
    settled: bool = True,
) -> tuple[Program, bool, list[str]]:
    """Compile the pattern for as many layers as the network has, each as wide as needed, and settle its zero.

    Unless ``settled`` is False: where nothing depends on an exact 0, the hinges of ψ that open downwards round less.
    """
    dtype = next(model.parameters()).dtype
    depth = len(network.rooms)
    rooms = tuple(Room(AMPLE) for _ in range(depth))

    def compiled(layers: int, how: Options) -> tuple[Program, bool]:
        ample = replace(network, rooms=rooms[:layers], stages=None)
        program, _, direct = _compile(pattern, [response], bounds, ample, model, how)
        return program, direct

    zeros = torch.zeros(0, pattern.z, dtype=torch.float64)
    if isinstance(pattern, Pattern) and bounds[0] == response.lowest:
        nodes = pattern.mesh.nodes()
        zeros = nodes[pattern.values.reshape(-1) == 0]
    notes: list[str] = []
    program: Program | None = None
    direct = False
    if settled and not options.direct and depth > 1:
        try:
            program, direct = compiled(depth - 1, replace(options, direct=False))
            program = clamped(program, zeros, dtype)
        except CapacityError:
            program = None
    if program is None:
        program, direct = compiled(depth, options)
        if direct:
            notes.append("no layer is left for the response curve: direct form, exact at nodes, a gap between them")
        elif settled:
            program = opened(program)
    notes += list(program.notes)
    return padded(program, depth - len(program.layers)), direct, notes


def fit_beside(
    pattern: Pattern | SumPattern,
    response: AbstractResponse,
    bounds: tuple[float, float],
    trunk: Trunk,
    network: Network,
    model: nn.Module,
    options: Options,
    units: str,
    held: Sequence[int] | None,
    *,
    settled: bool = True,
) -> Fitted:
    """Compile the pattern for channels beside a trained network's, and say how many of each space it needs."""
    if trunk.branches:
        return fit_branching(
            pattern, response, bounds, trunk, network, model, options, units, held=held, settled=settled
        )
    program, direct, notes = fit(pattern, response, bounds, network, model, options, settled)
    return Fitted(program, direct, notes, list(program.costs(network.per_hinge)))


def room_for(
    need: Sequence[int], model: nn.Module, trunk: Trunk, task: Task, units: str, repair: int
) -> tuple[nn.Module, Trunk, list[list[int]], dict[str, float]]:
    """Widen, or reserve; return the network, its spaces, the free channels of each, and what a repair gained."""
    if units == "widen":
        return *widen_trunk(model, trunk, need), {}
    roomy, channels, repaired = reserved(model, trunk, need, task, repair)
    return roomy, trunk, channels, repaired


def write(
    big: nn.Module,
    trunk: Trunk,
    channels: Sequence[Sequence[int]],
    program: Program,
    ray: Tensor,
    scale: float | None,
    task: Task,
) -> tuple[Subspace, int | None]:
    """Write a program into the free channels; return the subspace and where ψ begins."""
    small = narrowed(big, trunk, channels)
    inner = read(small, task.data.inputs.shape[1:])
    one = torch.ones(1, dtype=torch.float64).numpy()
    lowered = inner.write(program, small, [0 * one], [one], scale=None if scale is None else [scale])
    put(big, trunk, channels, lowered.parameters, ray)
    for parameter in big.parameters():
        parameter.grad = None
    remove_hooks(big)
    big.eval()
    origin = {name: parameter.detach() for name, parameter in big.named_parameters()}
    return Subspace(origin, lifted(trunk, channels, lowered.directions, origin)), lowered.spline_stage


def compared(model: nn.Module, task: Task, response: OffsetResponse) -> dict[str, Any]:
    """Compare the given network with the one that has room, at s = 0: outputs, loss, accuracy."""
    x, y = task.data.inputs, task.data.targets
    with torch.no_grad():
        before = torch.cat([model(x[i : i + 1024]) for i in range(0, len(x), 1024)]).double()
    after = response.logits
    out: dict[str, Any] = {
        "trained_loss": response.floor,
        "loss_given": float(
            response.on(before, y, effective_weights(task.loss_form.options.get("weight"), y, task.data.weights)).floor
        ),
        "outputs_moved": float((before - after).abs().max()),
    }
    if response.of == "cross_entropy":
        out["accuracy_given"] = float((before.argmax(dim=1) == y).double().mean())
        out["accuracy"] = float((after.argmax(dim=1) == y).double().mean())
    return out


def describe(report: dict[str, Any], units: str, response: OffsetResponse) -> list[str]:
    """Say in words what making room cost, and how the ray lies."""
    lines = [f"trained loss {report['trained_loss']:.6g}; rho'(0) = {response.start():.1e} along the ray"]
    if units == "reserve" and "accuracy" in report:
        lines.append(
            f"reserving channels took the accuracy from {report['accuracy_given']:.4f} to {report['accuracy']:.4f} and"
            f" the loss from {report['loss_given']:.4g} to {report['trained_loss']:.4g}"
        )
    if "repair_steps" in report:
        lines.append(
            f"{report['repair_steps']:.0f} steps of repair took the loss from {report['loss_reserved']:.4g} to"
            f" {report['loss_repaired']:.4g}"
        )
    return lines
