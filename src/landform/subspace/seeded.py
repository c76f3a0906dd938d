"""Random directions made from a seed, tile by tile: the recipe, and directions that follow it on demand.

A parameter is drawn in *tiles* of some ten thousand numbers (whole filters of it), each from a counter-based generator
(Philox) with the hash of (seed, direction, place of the parameter, tile) for its key. So any tile can be made again
without the others. NumPy's normal numbers do not depend on a processor's vector instructions, as PyTorch's do.
"""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64
from torch import Size, Tensor

from landform.errors import InputError
from landform.subspace.direction import AbstractDirection
from landform.subspace.filters import Filters
from landform.subspace.orthogonal import orthonormal

TILE = 1 << 15
"""Numbers in a tile: 256 KiB in float64, which stays in a core's cache."""


@dataclass(frozen=True)
class Part:
    """How one parameter takes part in random directions.

    Attributes:
        place: Its number in the model, which the draw depends on.
        shape: Its shape.
        dtype: Dtype of the directions, at least float32.
        device: Where they are wanted.
        filters: How it is cut into filters; None for one that is not (biases, normalisation layers).
        block: Parameters that are made orthogonal and scaled together with it, the parameter itself included; None if
            this is done filter by filter.
    """

    place: int
    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    filters: Filters | None
    block: tuple[str, ...] | None

    @property
    def numel(self) -> int:
        """Numbers in the parameter."""
        return math.prod(self.shape)

    @property
    def size(self) -> int:
        """Numbers in a row: a filter, or one number where there are none."""
        return 1 if self.filters is None else self.filters.size

    @cached_property
    def tiles(self) -> list[slice]:
        """Rows of each tile."""
        rows, step = self.numel // self.size, max(1, TILE // self.size)
        return [slice(start, min(start + step, rows)) for start in range(0, rows, step)]


@dataclass(frozen=True, eq=False)
class Recipe:
    """Everything that random directions follow from, small beside the parameters.

    Attributes:
        seed: The seed.
        z: Number of directions.
        norm: How they are scaled, see `landform.subspace.random.Norm`.
        parts: Those parameters that move, by name.
        lengths: Length of each filter (of parameters cut into filters), or of the block, ``[1]``; float64.
        mix: For blocks of more than one tile, the lower triangle that makes the draws orthogonal, ``[z, z]``.
    """

    seed: int
    z: int
    norm: str
    parts: Mapping[str, Part]
    lengths: Mapping[str, Float64[Tensor, " blocks"]]
    mix: Mapping[str, Float64[Tensor, "z z"]] = field(default_factory=dict)

    def moves(self, name: str, number: int) -> bool:
        """Say whether direction ``number`` (from 0) moves a parameter: there is room, and weights to scale to."""
        part = self.parts.get(name)
        if part is None or not bool(self.lengths[name].any()):
            return False
        return part.block is None or number < sum(self.parts[other].numel for other in part.block)

    def tile(self, name: str, tile: int, count: int) -> Float64[Tensor, "count rows size"]:
        """Make one tile of the first ``count`` directions; what it gives for one does not depend on ``count``."""
        part = self.parts[name]
        if part.block is None:
            return orthonormal(self._raw(name, tile, count)) * self.lengths[name][part.tiles[tile], None]
        if name in self.mix:
            raw, mix = self._raw(name, tile, count), self.mix[name]
            made = torch.empty_like(raw)
            for i in range(count):
                made[i] = mix[i, 0] * raw[0]
                for j in range(1, i + 1):
                    made[i] += mix[i, j] * raw[j]
            return made
        raws = {other: self._raw(other, 0, count) for other in part.block}
        whole = orthonormal(torch.cat([raw.flatten(1) for raw in raws.values()], dim=1)[:, None])
        lengths = self.lengths[name] if self.norm != "none" else self._drawn_length(raws)
        before = sum(self.parts[other].numel for other in part.block[: part.block.index(name)])
        return (whole * lengths[..., None])[:, 0, before : before + part.numel].reshape(raws[name].shape)

    def make(self, name: str, count: int) -> list[Tensor]:
        """Make one parameter of the first ``count`` directions, in the shape and dtype they have."""
        part = self.parts[name]
        rows = [torch.empty(part.numel // part.size, part.size, dtype=part.dtype) for _ in range(count)]
        for tile, where in enumerate(part.tiles):
            for row, made in zip(rows, self.tile(name, tile, count), strict=True):
                row[where] = made.to(part.dtype)
        shaped = [row.reshape(part.shape) if part.filters is None else part.filters.weight(row) for row in rows]
        return [value.contiguous().to(part.device) for value in shaped]

    def gram(self, block: Sequence[str]) -> Float64[Tensor, "z z"]:
        """Return the inner products of the raw draws over a block."""
        products = torch.zeros(self.z, self.z, dtype=torch.float64)
        for name in block:
            for tile in range(len(self.parts[name].tiles)):
                raw = self._raw(name, tile, self.z).flatten(1)
                products += raw @ raw.T
        return products

    def _raw(self, name: str, tile: int, count: int) -> Float64[Tensor, "count rows size"]:
        part = self.parts[name]
        tiles = part.tiles
        drawn = torch.empty(count, tiles[tile].stop - tiles[tile].start, part.size, dtype=torch.float64)
        for number, out in enumerate(drawn):
            text = f"{self.seed}/{number}/{part.place}" + (f"/{tile}" if tile else "")
            key = int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "big")
            np.random.Generator(np.random.Philox(key=key)).standard_normal(out=out.numpy())
        return drawn

    def _drawn_length(self, raws: Mapping[str, Tensor]) -> Tensor:
        whole = torch.cat([raw.flatten(1) for raw in raws.values()], dim=1)[:, None]
        length: Tensor = torch.linalg.vector_norm(whole, dim=-1)
        return length

    def to_json(self) -> dict[str, Any]:
        """Describe the recipe without what follows from the origin."""
        return {
            "seed": self.seed,
            "z": self.z,
            "norm": self.norm,
            "parts": {
                name: {
                    "place": part.place,
                    "shape": list(part.shape),
                    "groups": None if part.filters is None else part.filters.groups,
                    "block": None if part.block is None else list(part.block),
                }
                for name, part in self.parts.items()
            },
        }


def recipe(seed: int, z: int, norm: str, parts: Mapping[str, Part], origin: Mapping[str, Tensor]) -> Recipe:
    """Complete a recipe by what follows from the origin: lengths, and what makes large blocks orthogonal.

    Args:
        seed: The seed.
        z: Number of directions.
        norm: How they are scaled.
        parts: Those parameters that move.
        origin: The parameters.

    Returns:
        The recipe.

    Cost:
        A pass over the parameters that move; blocks larger than a tile are drawn once.
    """
    lengths: dict[str, Tensor] = {}
    for name, part in parts.items():
        if part.block is None:
            assert part.filters is not None
            rows = part.filters.rows(origin[name].detach())
            # into one tensor: small results kept between tiles pin the memory these freed, up to a copy of the weights
            lengths[name] = torch.empty(len(rows), dtype=torch.float64)
            for where in part.tiles:
                lengths[name][where] = rows[where].cpu().double().norm(dim=-1)
        elif name not in lengths:
            squares = [_square(origin[other]) for other in part.block]
            whole = torch.stack(squares).sum().sqrt()[None] if norm != "none" else torch.ones(1, dtype=torch.float64)
            lengths |= dict.fromkeys(part.block, whole)
    bare = Recipe(seed, z, norm, parts, lengths)
    mix: dict[str, Tensor] = {}
    for name, part in parts.items():
        if part.block is None or name in mix or sum(parts[other].numel for other in part.block) <= TILE:
            continue
        products = bare.gram(part.block)
        lower = torch.linalg.inv(torch.linalg.cholesky(products))  # rows of lower · draws are orthonormal
        scale = products.diagonal().sqrt()[:, None] if norm == "none" else lengths[name]
        mix |= dict.fromkeys(part.block, torch.tril(lower * scale))
    return Recipe(seed, z, norm, parts, lengths, mix)


def recipe_from_json(content: Mapping[str, Any], origin: Mapping[str, Tensor]) -> Recipe:
    """Rebuild the recipe that `Recipe.to_json` described, on its origin."""
    parts = {}
    for name, said in content["parts"].items():
        shape = tuple(said["shape"])
        if name not in origin or tuple(origin[name].shape) != shape:
            raise InputError(f"the seeded directions move '{name}' of shape {shape}, which the origin does not have")
        filters = None if said["groups"] is None else Filters(shape, said["groups"])
        block = None if said["block"] is None else tuple(said["block"])
        parts[name] = Part(said["place"], shape, direction_dtype(origin[name]), origin[name].device, filters, block)
    return recipe(content["seed"], content["z"], content["norm"], parts, origin)


def direction_dtype(value: Tensor) -> torch.dtype:
    """Return the dtype of directions of a parameter: its own, but at least float32."""
    return torch.promote_types(value.dtype, torch.float32)


def _square(value: Tensor) -> Float64[Tensor, ""]:
    parts = torch.split(value.detach().reshape(-1), TILE)
    squares = torch.empty(len(parts), dtype=torch.float64)
    for number, part in enumerate(parts):
        squares[number] = part.cpu().double().square().sum()
    return squares.sum()


class SeededDirection(AbstractDirection):
    """One random direction, made from its recipe whenever a tensor of it is asked for.

    Args:
        recipe: What all directions of the subspace follow from.
        number: Which of them, from 0.
    """

    def __init__(self, recipe: Recipe, number: int) -> None:
        self.recipe = recipe
        self.number = number
        self._names = tuple(name for name in recipe.parts if recipe.moves(name, number))

    @property
    def identity(self) -> str:
        """The recipe and the number as JSON."""
        return json.dumps([self.number, self.recipe.to_json()], sort_keys=True)

    def shape(self, name: str) -> Size:
        """Return the shape of one tensor."""
        return Size(self.recipe.parts[name].shape)

    def akin(self, other: object) -> bool:
        """Say whether another is of the same recipe."""
        return isinstance(other, SeededDirection) and other.recipe is self.recipe

    def __getitem__(self, name: str) -> Tensor:
        """Make one tensor."""
        if name not in self._names:
            raise KeyError(name)
        return self.recipe.make(name, self.number + 1)[self.number]

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names of what moves."""
        return iter(self._names)

    def __len__(self) -> int:
        """Count what moves."""
        return len(self._names)

    def __contains__(self, name: object) -> bool:
        """Say whether a parameter moves."""
        return name in self._names

    def __repr__(self) -> str:
        """Say what it is in one line."""
        return (
            f"SeededDirection({self.number}, seed={self.recipe.seed}, norm={self.recipe.norm!r}, {len(self)} tensors)"
        )

    def add_into(self, name: str, moving: Sequence[tuple[Tensor, Mapping[str, Tensor]]], out: Tensor) -> None:
        """Add the moves of one parameter, tile by tile; see `AbstractDirection.add_into`."""
        part = self.recipe.parts[name]
        chosen = [(h, d.number) for h, d in moving if isinstance(d, SeededDirection)]
        count = 1 + max(number for _, number in chosen)
        if not out.is_contiguous() or (part.filters is not None and part.filters.groups):
            made = self.recipe.make(name, count)
            for h, number in chosen:
                out += h.to(out.dtype) * made[number].to(out.device)
            return
        rows = out.view(-1, part.size)
        for tile, where in enumerate(part.tiles):
            values = self.recipe.tile(name, tile, count)
            for h, number in chosen:
                rows[where] += h.to(out.dtype) * values[number].to(part.dtype).to(out.device)
