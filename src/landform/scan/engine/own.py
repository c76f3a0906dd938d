"""An engine's own copy of a model: the structure copied, the tensors shared until they are written."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from landform.errors import ArchitectureError
from landform.task.running import HALF


class UnsupportedError(ArchitectureError):
    """What a fast engine cannot do with this model; the plain engine takes over."""


def aliases(model: nn.Module) -> dict[str, str]:
    """Map every name of a parameter or buffer to the first name of the same tensor."""
    first: dict[int, str] = {}
    found: dict[str, str] = {}
    named = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    for name, value in named:
        found[name] = first.setdefault(id(value), name)
    return found


def moved_names(model: nn.Module, moved: Sequence[str]) -> dict[str, str]:
    """Map the first name of every moved tensor to the name that a subspace calls it by.

    Raises:
        UnsupportedError: One tensor is moved under two names.
    """
    names = aliases(model)
    found = {names[name]: name for name in moved}
    if len(found) != len(moved):
        raise UnsupportedError("tied parameters are moved under two names")
    return found


def compute_dtype(model: nn.Module) -> torch.dtype | None:
    """Return float32 for a model with numbers of half precision, which is moved and run in it; else None."""
    half = any(value.dtype in HALF for value in [*model.parameters(), *model.buffers()])
    return torch.float32 if half else None


def own_copy(
    model: nn.Module, origin: Mapping[str, Tensor], *, dtype: torch.dtype | None = None
) -> tuple[nn.Module, dict[str, Tensor]]:
    """Copy a model in evaluation mode whose parameters are the origin's tensors; nothing of the caller's is written.

    Args:
        model: The caller's model.
        origin: Values by any name of a tensor; may be partial.
        dtype: Of floats in the copy, whose tensors are then its own; None keeps each as it is.

    Returns:
        The copy, and its parameters and buffers by their first name. Their ``.data`` may be pointed elsewhere, but what
        they hold now must not be written to.

    Raises:
        UnsupportedError: A model that cannot be copied, or tied names that were given twice.
    """
    names = aliases(model)
    given: dict[str, Tensor] = {}
    for name, value in origin.items():
        if name not in names or names[name] in given:
            raise UnsupportedError(f"'{name}' is no parameter of the model, or is tied to another that is given too")
        given[names[name]] = value.detach()
    memo: dict[int, object] = {}
    tensors: dict[str, Tensor] = {}
    kept: list[Tensor] = []  # deepcopy's memo goes by id: what it names must stay alive
    for name, value in [*model.named_parameters(), *model.named_buffers()]:
        if value.is_meta or type(value.data) is not Tensor:
            raise UnsupportedError(f"'{name}' is a {type(value).__name__} without plain values")
        if isinstance(value, nn.Parameter):
            own: Tensor = nn.Parameter(given.get(name, value.detach()), requires_grad=False)
        else:
            own = given[name].clone() if name in given else value.detach().clone()
        if dtype is not None and own.is_floating_point() and own.dtype != dtype:
            wide = own.detach().to(dtype)
            own = nn.Parameter(wide, requires_grad=False) if isinstance(own, nn.Parameter) else wide
        if own.shape != value.shape:
            raise UnsupportedError(f"'{name}' has shape {tuple(own.shape)}, the model's has {tuple(value.shape)}")
        memo[id(value)] = tensors[name] = own
        kept.append(value)
    try:
        result = copy.deepcopy(model, memo)
    except Exception as error:
        raise UnsupportedError(f"model {type(model).__name__} cannot be copied: {error}") from error
    for module in result.modules():
        module.training = False
    return result, tensors


@dataclass(frozen=True, eq=False)
class Affine:
    """A value base + Σ_i h_i·parts_i; parts may be None (zero) and may have shapes that broadcast to the base's."""

    base: Tensor
    parts: tuple[Tensor | None, ...]


class Theta:
    """Moved tensors of an own copy, written in place as origin + Σ_i h_i·direction_i.

    Tensors of one dtype lie in one flat buffer, so that a point costs one fused addition a coordinate; along a grid
    line (only the last coordinate changes) one in all, since the sum over the others is kept. Every point is computed
    from the origin, so nothing drifts.

    Args:
        tensors: The copy's tensors to be moved, by name; their ``.data`` become views of the buffers.
        steps: Directions, by the ``id`` of the tensor that they move.
        z: Number of directions.
    """

    def __init__(self, tensors: Mapping[str, Tensor], steps: Mapping[int, Affine], z: int) -> None:
        self._groups: list[tuple[Tensor, list[Tensor], Tensor, Tensor]] = []
        self._line: tuple[float, ...] | None = None
        self._places: list[list[tuple[int, slice, torch.Size]]] = []
        self._matrices: list[Tensor] = []
        for dtype in dict.fromkeys(value.dtype for value in tensors.values()):
            members = {name: value for name, value in tensors.items() if value.dtype == dtype}
            origin = torch.cat([value.detach().reshape(-1) for value in members.values()])
            rows = [torch.zeros_like(origin) for _ in range(z)]
            moved = torch.empty_like(origin)
            places = []
            place = 0
            for value in members.values():
                part = slice(place, place := place + value.numel())
                for step, moving in zip(rows, steps[id(value)].parts, strict=True):
                    if moving is not None:
                        step[part] = moving.reshape(-1)
                value.data = moved[part].view(value.shape)
                places.append((id(value), part, value.shape))
            self._groups.append((origin, rows, torch.empty_like(origin), moved))
            self._places.append(places)

    def twin(self, module: nn.Module) -> tuple["Theta", nn.Module]:
        """Copy a module for another thread: moved tensors into buffers of its own; all others are shared.

        Args:
            module: One that reads the moved tensors.

        Returns:
            What moves the copy, and the copy.
        """
        other = copy.copy(self)
        other._line = None
        other._groups = [
            (origin, steps, torch.empty_like(base), moved.clone()) for origin, steps, base, moved in self._groups
        ]
        memo: dict[int, object] = {id(v): v for v in [*module.parameters(), *module.buffers()]}
        for (*_, moved), places in zip(other._groups, self._places, strict=True):
            for key, part, shape in places:
                memo[key] = nn.Parameter(moved[part].view(shape), requires_grad=False)
        return other, copy.deepcopy(module, memo)

    @property
    def moved(self) -> set[int]:
        """``id`` of every tensor that is written."""
        return {key for places in self._places for key, _, _ in places}

    @property
    def numel(self) -> int:
        """Numbers that are moved."""
        return sum(len(origin) for origin, *_ in self._groups)

    def bytes(self, cores: int) -> int:
        """Memory of the origin, the directions, and for each core a point and a line."""
        return sum((1 + len(steps) + 2 * cores) * origin.nbytes for origin, steps, *_ in self._groups)

    def write(self, h: tuple[float, ...]) -> None:
        """Move to a point."""
        line = h[:-1]
        for origin, steps, base, moved in self._groups:
            if line != self._line:
                combine(origin, steps[:-1], line, base)
            torch.add(base, steps[-1], alpha=h[-1], out=moved)
        self._line = line

    def rows(self, h: Tensor) -> dict[int, Tensor]:
        """Return every moved tensor at many points at once, ``[points, *shape]``, by its ``id``."""
        if not self._matrices:
            self._matrices = [torch.stack(steps) for _, steps, _, _ in self._groups]
        found: dict[int, Tensor] = {}
        for (origin, *_), matrix, places in zip(self._groups, self._matrices, self._places, strict=True):
            every = torch.addmm(origin, h.to(origin.dtype), matrix)
            found |= {key: every[:, part].view(len(h), *shape) for key, part, shape in places}
        return found


def combine(base: Tensor, steps: Sequence[Tensor] | Tensor, h: tuple[float, ...], out: Tensor) -> None:
    """Write base + Σ_i h_i·step_i, in this order, into ``out``."""
    if not len(steps):
        out.copy_(base)
        return
    torch.add(base, steps[0], alpha=h[0], out=out)
    for value, step in zip(h[1:], steps[1:], strict=True):
        out.add_(step, alpha=value)
