"""Where to look: an origin and directions in parameter space."""

import dataclasses
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from landform.data.hashing import hash_tensors
from landform.errors import InputError
from landform.subspace.direction import AbstractDirection, shape_in

PIECE = 1 << 20
"""Numbers of a parameter that are moved at a time (4 MB in float32)."""

Ranges = tuple[tuple[float, float], ...]
"""(lo, hi) of each coordinate."""


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Subspace:
    """The affine subspace θ(h) = origin + Σ_i h_i · direction_i.

    Buffers (running statistics of normalisation layers) are no part of it.

    Args:
        origin: Every parameter by name.
        directions: One mapping a coordinate, holding only the parameters it moves. Tensors, or a mapping that makes
            them on demand (`landform.subspace.direction.AbstractDirection`), as those of `random_plane` with
            ``seeded=True``.
        meta: Where it comes from, in values that JSON can hold: ``kind``, ``seed``, ``norm``, ``eigenvalues``, …
        ranges: (lo, hi) of each coordinate in which to look, as far as there is a natural one; None says nothing.

    Raises:
        InputError: If a direction moves a parameter that the origin lacks, or has another shape; or if the ranges are
            not one (lo, hi) with lo < hi for each direction.

    Example:
        >>> space = Subspace({"b": torch.zeros(3)}, ({"b": torch.tensor([1.0, 0.0, 0.0])},))
        >>> space.at(torch.tensor([0.25]))["b"]
        tensor([0.2500, 0.0000, 0.0000])
    """

    origin: Mapping[str, Tensor]
    directions: tuple[Mapping[str, Tensor], ...]
    meta: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    ranges: Ranges | None = None

    def __post_init__(self) -> None:
        for number, direction in enumerate(self.directions, start=1):
            for name in direction:
                if name not in self.origin:
                    raise InputError(f"direction {number} moves '{name}', which is no parameter of the origin")
                shape = tuple(shape_in(direction, name))
                if shape != tuple(self.origin[name].shape):
                    raise InputError(
                        f"direction {number} has shape {shape} for '{name}', the origin"
                        f" {tuple(self.origin[name].shape)}"
                    )
        ranges = self.ranges
        if ranges is not None and (len(ranges) != self.z or not all(lo < hi for lo, hi in ranges)):
            raise InputError(f"ranges are {ranges}; wanted (lo, hi) with lo < hi for each of {self.z} directions")

    def __repr__(self) -> str:
        """Say what it is in one line."""
        size = sum(t.numel() for t in self.origin.values())
        moved = self.moved
        listed = ", ".join(moved if len(moved) <= 8 else (*moved[:6], f"… ({len(moved)} tensors)"))
        kind = f"{self.meta['kind']}, " if "kind" in self.meta else ""
        return f"Subspace({kind}z={self.z}, {size:,} parameters, moves {listed})"

    @property
    def z(self) -> int:
        """Number of coordinates."""
        return len(self.directions)

    @property
    def moved(self) -> tuple[str, ...]:
        """Names of the parameters that some direction moves."""
        return tuple(dict.fromkeys(name for direction in self.directions for name in direction))

    @property
    def seeded(self) -> bool:
        """Whether some direction is made on demand, so that reading a tensor of it twice costs twice."""
        return any(isinstance(direction, AbstractDirection) for direction in self.directions)

    @cached_property
    def hash(self) -> str:
        """Identity for stores: SHA-256 of the origin and the directions, made-on-demand ones by their recipe.

        ``meta`` and ``ranges`` do not enter. Computed once: do not write into the tensors afterwards.
        """
        parts = [(f"origin/{name}", value) for name, value in sorted(self.origin.items())]
        for number, direction in enumerate(self.directions):
            if isinstance(direction, AbstractDirection):
                text = torch.tensor(list(direction.identity.encode()), dtype=torch.uint8)
                parts.append((f"recipe/{number}", text))
            else:
                parts += [(f"{number}/{name}", value) for name, value in sorted(direction.items())]
        return hash_tensors(parts)

    def at(self, h: Float[Tensor, " z"], *, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
        """Return every parameter at one point, fit for `torch.func.functional_call`.

        Half-precision parameters are moved in float32 and rounded once at the end: steps that are small beside the
        weights do not get lost one by one.

        Args:
            h: Coordinates, shape ``[z]``. Values outside [0, 1] are allowed here (a promise may not hold there).
            dtype: Return every floating parameter in this dtype, e.g. float32 for a bfloat16 model, so that moves
                smaller than its precision show; None keeps each parameter's own.

        Returns:
            A dict of all parameters. Those that no direction moves are the origin's own tensors (converted if
            ``dtype`` says so), not copies.

        Raises:
            InputError: If ``h`` has the wrong length or is not finite.

        Cost:
            One copy of the moved parameters; directions made on demand are made once, a tensor at a time.
        """
        self._check(h)
        out = {name: _as(value, dtype) for name, value in self.origin.items()}
        for name in self.moved:
            value = self.origin[name].detach()
            out[name] = torch.empty_like(value, dtype=value.dtype if dtype is None else dtype)
            self._move(name, h, out[name])
        return out

    def write(self, h: Float[Tensor, " z"], out: Mapping[str, Tensor]) -> None:
        """Write the moved parameters at one point into existing tensors; the numbers of `at`, bit for bit.

        Args:
            h: Coordinates, shape ``[z]``.
            out: A tensor of the right shape for each name of `moved`, in the dtype that is wanted; others are not
                touched. None of them may share memory with the origin, which would be lost.

        Raises:
            InputError: As `at`; a tensor is missing, of another shape, or the origin's own.

        Cost:
            No memory but a temporary of a chunk of one parameter (of all of it if ``out`` is of half precision).
        """
        self._check(h)
        for name in self.moved:
            if name not in out:
                raise InputError(
                    f"out has no tensor for '{name}', which moves; wanted one for each of {self.z} directions"
                )
            if out[name].shape != self.origin[name].shape:
                raise InputError(
                    f"out has shape {tuple(out[name].shape)} for '{name}'; the origin has"
                    f" {tuple(self.origin[name].shape)}"
                )
            if out[name].data_ptr() == self.origin[name].data_ptr() and out[name].numel():
                raise InputError(f"out['{name}'] is the origin's own tensor, which writing would destroy; pass another")
        with torch.no_grad():
            for name in self.moved:
                self._move(name, h, out[name])

    def tensor(self, name: str, h: Float[Tensor, " z"], *, dtype: torch.dtype | None = None) -> Tensor:
        """Return one parameter at a point; the numbers of `at`, bit for bit.

        Args:
            name: The parameter.
            h: Coordinates, shape ``[z]``.
            dtype: As in `at`.

        Returns:
            A new tensor, or the origin's own where no direction moves it.

        Raises:
            InputError: As `at`.
        """
        self._check(h)
        value = self.origin[name].detach()
        if not any(name in direction for direction in self.directions):
            return _as(value, dtype)
        out = torch.empty_like(value, dtype=value.dtype if dtype is None else dtype)
        with torch.no_grad():
            self._move(name, h, out)
        return out

    def replace(self, **changes: Any) -> "Subspace":
        """Return a subspace that differs in some fields, e.g. ``replace(ranges=[(-1, 1), (0, 2)])``."""
        if changes.get("ranges") is not None:
            changes["ranges"] = tuple((float(lo), float(hi)) for lo, hi in changes["ranges"])
        return dataclasses.replace(self, **changes)

    def _check(self, h: Tensor) -> None:
        if tuple(h.shape) != (self.z,) or not bool(torch.isfinite(h).all()):
            raise InputError(f"a point of this subspace has {self.z} finite coordinates, got {h.tolist()}")

    def _move(self, name: str, h: Tensor, out: Tensor) -> None:
        """Write origin + Σ h_i d_i of one parameter into ``out``, in at least float32."""
        value = self.origin[name].detach()
        dtype = torch.promote_types(torch.promote_types(value.dtype, torch.float32), out.dtype)
        moving = [(c, d) for c, d in zip(h, self.directions, strict=True) if name in d]
        if out.dtype == dtype and out.device == value.device:
            _accumulate(name, value, moving, out)
            return
        whole = torch.empty(value.shape, dtype=dtype, device=value.device)
        _accumulate(name, value, moving, whole)
        out.copy_(whole)


def _accumulate(name: str, value: Tensor, moving: list[tuple[Tensor, Mapping[str, Tensor]]], out: Tensor) -> None:
    """Add in the order of the directions; a family of directions made together adds itself, chunk by chunk."""
    out.copy_(value)
    done = 0
    while done < len(moving):
        first = moving[done][1]
        family = done + 1
        if isinstance(first, AbstractDirection):
            while family < len(moving) and first.akin(moving[family][1]):
                family += 1
            first.add_into(name, moving[done:family], out)
        else:
            _add(moving[done][0].to(out.dtype), first[name], out)
        done = family


def _add(h: Tensor, step: Tensor, out: Tensor) -> None:
    """Add h·step, a piece at a time: a temporary as large as ``out`` would be the most memory that a scan takes."""
    wide = torch.promote_types(step.dtype, out.dtype)  # a number times half precision would be rounded to that
    if not out.is_contiguous():
        out += h * step.to(wide)
        return
    pieces = zip(torch.split(out.view(-1), PIECE), torch.split(step.reshape(-1), PIECE), strict=True)
    for there, piece in pieces:
        there += h * piece.to(wide)


def _as(value: Tensor, dtype: torch.dtype | None) -> Tensor:
    return value if dtype is None or not value.is_floating_point() else value.to(dtype)
