"""`random_plane`: random directions through a model, scaled to its weights."""

import hashlib
import math
from typing import Literal, get_args

import torch
from jaxtyping import Float64
from torch import Tensor, nn

from landform.errors import InputError, unknown_name
from landform.subspace.filters import Filters, filters_of
from landform.subspace.orthogonal import orthonormal
from landform.subspace.select import Patterns, module_of, plain_names, select
from landform.subspace.subspace import Subspace
from landform.task import Task

Norm = Literal["filter", "layer", "model", "none"]
"""How a random direction is scaled: to each filter, each parameter tensor, all of them together, or not at all."""


def random_plane(
    subject: Task | nn.Module,
    *,
    z: int = 2,
    seed: int = 0,
    norm: Norm = "filter",
    include: Patterns | None = None,
    exclude: Patterns | None = None,
    biases: bool = False,
) -> Subspace:
    """Return the space through a model along Gaussian directions, orthogonal and scaled to its weights.

    A direction is drawn from a normal distribution, made orthogonal to the earlier ones *block by block*, and only then
    scaled, ‖d_block‖ = ‖θ_block‖. As scaling does not turn a block, directions stay orthogonal in every block and so
    as a whole; `landform.subspace.cosine` measures what is left, float rounding. The blocks are

    - ``"filter"``: the weights of one output unit. Networks with ReLU and normalisation do not change when filters are
      rescaled, so plots of different networks can be compared.
    - ``"layer"``: one parameter tensor.
    - ``"model"``: everything that moves.
    - ``"none"``: likewise, but the length stays as drawn, about √(numbers that move).

    A filter with fewer numbers than z has no room for z orthogonal directions: such a tensor is one block. So are
    biases and parameters of normalisation layers. If the block is still smaller, as a single number is, the first
    directions move it and the later ones leave it where it is. A block of zeros stays zero unless ``norm="none"``.

    Args:
        subject: A model, or a task of one. It is left as found; the origin is a copy of its parameters (tied ones
            once), so that training on does not move the plane.
        z: Number of directions; 2 for a plane.
        seed: What is drawn depends on the seed, the number of the direction and the parameter's place in the model
            alone: the global random state is neither used nor changed, and ``include`` and the device do not matter.
        norm: The blocks to scale; "filter" by default, as plots in the literature have it.
        include: Patterns over parameter names, e.g. ``"layer1.*"``; None for all.
        exclude: Patterns of what to leave out; they win over ``include``.
        biases: Also move biases and parameters of normalisation layers (every parameter with one dimension). Off by
            default, as in the paper: small changes of them can dominate a plot. Buffers never move.

    Returns:
        The subspace; h = 0 is the model, and [−1, 1] the usual range. Directions hold only what they move, in the
        parameter's dtype, half-precision ones in float32.

    Raises:
        InputError: A direction would be zero, there are more directions than numbers to move, a weight is not finite,
            or nothing is left to move.
        UnknownNameError: A pattern that matches nothing, or an unknown ``norm``, with the nearest.
        ArchitectureError: Parameters without values.

    Cost:
        Memory for z + 1 copies of the parameters; with "model" and "none" 2z float64 copies on the way.

    References:
        Filter normalisation: Li, Xu, Taylor, Studer, Goldstein, arXiv 1712.09913, section 4. The paper does not make
        the directions orthogonal; in high dimension they nearly are.

    Example:
        >>> from landform.subspace import cosine
        >>> model = nn.Linear(8, 3)
        >>> plane = random_plane(model, seed=1)
        >>> plane.moved, bool(cosine(plane)[0, 1].abs() < 1e-7)
        (('weight',), True)
        >>> torch.allclose(plane.directions[0]["weight"].norm(dim=1), model.weight.norm(dim=1))
        True
    """
    if isinstance(z, bool) or not isinstance(z, int) or z < 1:
        raise InputError(f"z is {z!r}; wanted a number of directions, at least 1")
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise InputError(f"seed is {seed!r}; wanted a whole number")
    if norm not in get_args(Norm):
        raise unknown_name("norm", str(norm), get_args(Norm))
    model = module_of(subject)
    names = select(model, include=include, exclude=exclude, biases=biases)
    origin = {name: value.detach().clone() for name, value in model.named_parameters()}
    for name in names:
        if not bool(torch.isfinite(origin[name]).all()):
            raise InputError(f"parameter {name} has values that are not finite, so there is no surface around it")
    room = sum(origin[name].numel() for name in names)
    if room < z:
        raise InputError(f"more directions than parameters: z = {z}, but only {room} numbers move; take a smaller z")
    places = {name: place for place, name in enumerate(origin)}
    plain = plain_names(model)
    filters = {name: found for name, found in filters_of(model).items() if name not in plain}
    directions: tuple[dict[str, Tensor], ...] = tuple({} for _ in range(z))
    for group in [names] if norm in ("model", "none") else [(name,) for name in names]:
        drawn = [_draw(seed, z, places[name], origin[name]) for name in group]
        cut = filters.get(group[0]) if norm == "filter" else None
        moves = _scaled(drawn, [origin[name] for name in group], cut if cut and cut.size >= z else None, norm)
        for name, move in zip(group, moves, strict=True):
            dtype = torch.promote_types(origin[name].dtype, torch.float32)
            for direction, value in zip(directions, move.to(dtype).to(origin[name].device), strict=True):
                if bool(value.any()):
                    direction[name] = value
    _refuse_zero(directions, origin, names, norm)
    return Subspace(origin, directions)


def _draw(seed: int, z: int, place: int, like: Tensor) -> Float64[Tensor, "z ..."]:
    """Draw z directions of one parameter, each from a generator of its own."""
    drawn = torch.empty((z, *like.shape), dtype=torch.float64)
    for number, out in enumerate(drawn):
        key = hashlib.sha256(f"{seed}/{number}/{place}".encode()).digest()
        out.normal_(generator=torch.Generator().manual_seed(int.from_bytes(key[:8], "big")))
    return drawn


def _scaled(drawn: list[Tensor], origin: list[Tensor], cut: Filters | None, norm: Norm) -> list[Tensor]:
    """Make the draws of a group orthogonal, block by block, and scale them."""
    weights = [value.cpu().double() for value in origin]
    if cut is not None:
        raw, lengths = torch.stack([cut.rows(each) for each in drawn[0]]), cut.rows(weights[0]).norm(dim=-1)
    else:
        raw = torch.cat([value.flatten(1) for value in drawn], dim=1)[:, None]
        lengths = raw.norm(dim=-1) if norm == "none" else torch.cat([value.flatten() for value in weights]).norm()[None]
    moves = orthonormal(raw) * lengths[..., None]
    if cut is not None:
        return [torch.stack([cut.weight(rows) for rows in moves])]
    parts = moves.squeeze(1).split([value.numel() for value in weights], dim=1)
    return [part.reshape(value.shape) for part, value in zip(parts, drawn, strict=True)]


def _refuse_zero(
    directions: tuple[dict[str, Tensor], ...], origin: dict[str, Tensor], names: tuple[str, ...], norm: Norm
) -> None:
    for number, direction in enumerate(directions, start=1):
        if direction:
            continue
        alive = [name for name in names if bool(origin[name].any())]
        if not alive:
            raise InputError(
                f"direction {number} is zero: norm='{norm}' scales it to the weights, and all that move are zero; pass"
                " norm='none'"
            )
        most = max(math.prod(origin[name].shape) for name in alive)
        raise InputError(
            f"direction {number} is zero: no parameter that moves has room for more than {most} directions orthogonal"
            f" in each block; take z ≤ {most}, move more parameters, or pass norm='model'"
        )
