"""Lengths of directions: as long as the weights they move, block by block, or of length 1."""

from collections.abc import Mapping
from typing import Literal, get_args

import torch
from jaxtyping import Float64
from torch import Tensor, nn

from landform.errors import InputError, unknown_name
from landform.subspace.filters import Filters, filters_of
from landform.subspace.seeded import direction_dtype
from landform.subspace.select import plain_names

Scale = Literal["unit", "filter", "layer", "model"]
"""Length 1 in all; or ‖d‖ = ‖θ‖ for each filter, each parameter tensor, or all that moves together."""


def scaled(
    direction: Mapping[str, Tensor], origin: Mapping[str, Tensor], model: nn.Module, norm: str
) -> dict[str, Tensor]:
    """Scale a direction, block by block.

    Filter by filter, a direction is turned; ``"unit"`` and ``"model"`` leave it what it is. Parameters that have no
    filters (biases, normalisation layers) are blocks of their own.

    Args:
        direction: The direction.
        origin: The parameters.
        model: The model, which says what a filter is.
        norm: As of `Scale`.

    Returns:
        The direction in the dtypes that directions have; without what is zero.

    Raises:
        UnknownNameError: An unknown ``norm``.
        InputError: The direction is zero, before or after.

    Example:
        >>> model = nn.Linear(2, 1, bias=False)
        >>> found = scaled({"weight": torch.tensor([[3.0, 4.0]])}, dict(model.named_parameters()), model, "unit")
        >>> found["weight"].tolist()
        [[0.6000000238418579, 0.800000011920929]]
    """
    if norm not in get_args(Scale):
        raise unknown_name("norm", norm, get_args(Scale))
    moves = {name: value.detach().cpu().double() for name, value in direction.items()}
    if norm in ("unit", "model"):
        length = _length(moves)
        want = 1.0 if norm == "unit" else _length({name: origin[name].detach().cpu().double() for name in moves})
        if not length > 0:
            raise InputError("the direction is zero, so it cannot be scaled")
        moves = {name: value * (want / length) for name, value in moves.items()}
    else:
        cuts = blocks_of(model) if norm == "filter" else {}
        moves = {name: _by_block(value, origin[name], cuts.get(name)) for name, value in moves.items()}
    kept = {
        name: value.to(direction_dtype(origin[name])).to(origin[name].device)
        for name, value in moves.items()
        if bool(value.any())
    }
    if not kept:
        raise InputError(f"the direction is zero: norm='{norm}' scales it to weights that are zero; pass norm='unit'")
    return kept


def blocks_of(model: nn.Module) -> dict[str, Filters]:
    """Return how parameters with filters are cut, those of normalisation layers left out."""
    plain = plain_names(model)
    return {name: cut for name, cut in filters_of(model).items() if name not in plain}


def lengths_in(value: Tensor, cut: Filters | None) -> Float64[Tensor, "blocks 1"]:
    """Return the length of each block of a tensor."""
    rows = value.reshape(1, -1) if cut is None else cut.rows(value)
    length: Tensor = torch.linalg.vector_norm(rows.double(), dim=1, keepdim=True)
    return length


def _by_block(value: Tensor, weight: Tensor, cut: Filters | None) -> Tensor:
    rows = value.reshape(1, -1) if cut is None else cut.rows(value)
    factor = lengths_in(weight.detach().cpu(), cut) / lengths_in(value, cut)
    rows = rows * torch.where(factor.isfinite(), factor, 0.0)
    return rows.reshape(value.shape) if cut is None else cut.weight(rows)


def _length(moves: Mapping[str, Tensor]) -> float:
    return float(torch.stack([value.square().sum() for value in moves.values()]).sum().sqrt())


def inner(one: Mapping[str, Tensor], two: Mapping[str, Tensor]) -> float:
    """Return ⟨one, two⟩ over the parameters that both have, in float64."""
    return sum(
        float(one[name].detach().cpu().double().flatten() @ two[name].detach().cpu().double().flatten())
        for name in one
        if name in two
    )
