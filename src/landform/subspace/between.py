"""`between` and `plane_through`: the line through two checkpoints and the plane through three."""

from collections.abc import Mapping
from os import PathLike
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from landform.calling import state_at
from landform.checkpoints.checkpoint import checkpoint
from landform.errors import ArchitectureError, InputError
from landform.subspace.orthogonal import cosine
from landform.subspace.select import module_of
from landform.subspace.subspace import Subspace

if TYPE_CHECKING:
    from landform.task import Task

State = nn.Module | Mapping[str, Tensor] | str | PathLike[str]
"""A point in parameter space: a model, its ``state_dict()``, or a file that `landform.checkpoints.checkpoint` opens."""

_BUFFERS = ("running_mean", "running_var", "num_batches_tracked")
_LINE = 1e-10
"""Least sin² of the angle of a plane: float32 checkpoints leave 1e-14 of rounding."""


def between(a: State, b: State, *, model: "nn.Module | Task | None" = None) -> Subspace:
    """Return the line from one checkpoint to another, θ(h) = a + h·(b − a).

    h = 0 is a, h = 1 is b, and a range such as [−0.25, 1.25] shows what lies beyond.

    Args:
        a: A model, a state dict, or a file of one (safetensors, ``torch.save``, Lightning).
        b: Another, with the same names and shapes. Both are left as they are; what is kept are copies.
        model: The model (or a task) that they are of. Files and state dicts are then read under its names: a prefix
            that all names have there, as ``model.`` in Lightning checkpoints, is taken off. None takes names as they
            are.

    Returns:
        The line. Parameters that agree in both are not moved. Buffers are no part of it: a scan uses those of its
        model. A state dict does not say which entries are buffers: statistics of normalisation layers
        (``running_mean``, ``running_var``, ``num_batches_tracked``) and whole numbers are passed over, and with a model
        on either side everything that is a buffer there. Tied parameters are taken once.

    Raises:
        InputError: Names or shapes differ (the first difference is named), values are not finite, or a and b are equal.
        ArchitectureError: Parameters without values (meta device, lazy modules).

    Cost:
        Two copies of the parameters.

    Example:
        >>> line = between({"w": torch.tensor([1.0, 2.0])}, {"w": torch.tensor([3.0, 2.0])})
        >>> line.at(torch.tensor([0.25]))["w"]
        tensor([1.5000, 2.0000])
    """
    return _through(a, b, model=model).replace(meta={"kind": "between"}, ranges=[(0, 1)])


def plane_through(a: State, b: State, c: State, *, model: "nn.Module | Task | None" = None) -> Subspace:
    """Return the plane through three checkpoints, θ(h) = a + h₁·(b − a) + h₂·(c − a).

    (0, 0) is a, (1, 0) is b and (0, 1) is c. The directions are the differences as they are, neither scaled nor made
    orthogonal, so that these coordinates are exact; `landform.subspace.cosine` tells how skewed the plane is.

    Args:
        a: A model, a state dict or a file.
        b: Another, as for `between`.
        c: A third.
        model: As for `between`.

    Returns:
        The plane, with the conventions of `between`.

    Raises:
        InputError: As `between`, or if the three are on one line.
        ArchitectureError: Parameters without values (meta device, lazy modules).

    Cost:
        Three copies of the parameters.

    Example:
        >>> corner, right, up = ({"w": torch.tensor(v)} for v in ([0.0, 0.0], [2.0, 0.0], [1.0, 1.0]))
        >>> plane_through(corner, right, up).at(torch.tensor([0.5, 1.0]))["w"]
        tensor([2., 1.])
    """
    plane = _through(a, b, c, model=model)
    angle = float(cosine(plane)[0, 1])
    if 1 - angle**2 < _LINE:
        raise InputError(
            f"a, b and c are on one line (the cosine of b − a and c − a is {angle:.12g}), so they span no plane; take a"
            " third point off the line, or between(a, b)"
        )
    return plane.replace(meta={"kind": "plane_through", "cosine": angle}, ranges=[(-0.25, 1.25)] * 2)


def _through(*states: State, model: "nn.Module | Task | None") -> Subspace:
    if model is not None:
        own = module_of(model)
        states = tuple(
            state if isinstance(state, nn.Module) else checkpoint(state, model=own, label=label).state()
            for label, state in zip("abc", states, strict=False)
        )
    labels = "abc"[: len(states)]
    buffers = {name for state in states if isinstance(state, nn.Module) for name, _ in state.named_buffers()}
    tensors = [_tensors(label, state, buffers) for label, state in zip(labels, states, strict=True)]
    first, *others = tensors
    for label, other in zip(labels[1:], others, strict=True):
        _compare(first, label, other)
    names = _untied(tensors)
    origin = {name: first[name].clone() for name in names}
    directions = []
    for label, other in zip(labels[1:], others, strict=True):
        direction = {name: move for name in names if bool((move := _difference(first[name], other[name])).any())}
        if not direction:
            raise InputError(
                f"a and {label} have the same parameters, so there is no direction from one to the other; if they are"
                " state dicts of one model, note that state_dict() follows the model: keep copy.deepcopy of it"
            )
        directions.append(direction)
    return Subspace(origin, tuple(directions))


def _tensors(label: str, state: State, buffers: set[str]) -> dict[str, Tensor]:
    """Return the parameters of one point, under all of their names."""
    found: dict[str, Tensor] = {}
    if isinstance(state, nn.Module):
        state_at(state, None, None)
        found = {name: value.detach() for name, value in state.named_parameters(remove_duplicate=False)}
    elif isinstance(state, Mapping):
        for name, value in state.items():
            if not isinstance(value, Tensor):
                raise InputError(
                    f"{label} has a {type(value).__name__} under '{name}'; wanted a mapping of names to tensors, such"
                    " as model.state_dict(); checkpoints often hold one under a key of its own"
                )
            if name not in buffers and name.rpartition(".")[2] not in _BUFFERS:
                found[name] = value.detach()
    elif isinstance(state, str | PathLike):
        found = {name: value for name, value in checkpoint(state).state().items() if name not in buffers}
    else:
        raise InputError(f"{label} is a {type(state).__name__}; wanted a torch.nn.Module, a state dict or a file")
    found = {name: value for name, value in found.items() if value.is_floating_point()}
    if not found:
        raise InputError(f"{label} has no floating-point parameters")
    for name, value in found.items():
        if value.is_meta:
            raise ArchitectureError(f"{label} has no values in '{name}' (meta device); load the weights first")
        if not bool(torch.isfinite(value).all()):
            raise InputError(f"{label} has values in '{name}' that are not finite; is it a checkpoint that diverged?")
    return found


def _compare(a: Mapping[str, Tensor], label: str, other: Mapping[str, Tensor]) -> None:
    for name in (*a, *other):
        if name not in a or name not in other:
            here, there = ("a", label) if name in a else (label, "a")
            raise InputError(f"the parameter names differ first at '{name}', which {here} has and {there} has not")
        if a[name].shape != other[name].shape:
            raise InputError(f"'{name}' has shape {list(a[name].shape)} in a, {list(other[name].shape)} in {label}")


def _untied(tensors: list[dict[str, Tensor]]) -> list[str]:
    """Return the names, each tensor once: of names that share memory in the first point, if all agree, the first."""
    kept: dict[object, str] = {}
    names = []
    for name, value in tensors[0].items():
        memory = (value.device, value.data_ptr(), value.shape, value.stride()) if value.numel() else name
        twin = kept.setdefault(memory, name)
        if twin == name or not all(torch.equal(each[twin], each[name]) for each in tensors):
            names.append(name)
    return names


def _difference(a: Tensor, b: Tensor) -> Tensor:
    """Subtract in float64 and keep it in the wider dtype of the two, at least float32."""
    dtype = torch.promote_types(torch.promote_types(a.dtype, b.dtype), torch.float32)
    return (b.cpu().double() - a.cpu().double()).to(dtype).to(a.device)
