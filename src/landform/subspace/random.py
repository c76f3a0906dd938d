"""`random_plane`: random directions through a model, scaled to its weights."""

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from landform.errors import InputError, unknown_name
from landform.subspace.filters import filters_of
from landform.subspace.seeded import Part, Recipe, SeededDirection, direction_dtype, recipe
from landform.subspace.select import Patterns, module_of, plain_names, select
from landform.subspace.subspace import Subspace
from landform.task import Task

Norm = Literal["filter", "layer", "model", "none"]
"""How a random direction is scaled: to each filter, each parameter tensor, all of them together, or not at all."""

LARGE = 1 << 30
"""Bytes of directions above which they are made from the seed on demand rather than kept."""


def random_plane(
    subject: Task | nn.Module,
    *,
    z: int = 2,
    seed: int = 0,
    norm: Norm = "filter",
    include: Patterns | None = None,
    exclude: Patterns | None = None,
    biases: bool = False,
    adapters: bool = False,
    seeded: bool | None = None,
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
            once), so that training on does not move the plane (but see ``seeded``).
        z: Number of directions; 2 for a plane.
        seed: What is drawn depends on the seed, the number of the direction and the parameter's shape and place in the
            model alone: the global random state is neither used nor changed; ``include`` and the device do not matter.
        norm: The blocks to scale; "filter" by default, as plots in the literature have it.
        include: Patterns over parameter names, e.g. ``"layer1.*"``; None for all.
        exclude: Patterns of what to leave out; they win over ``include``.
        biases: Also move biases and parameters of normalisation layers (every parameter with one dimension). Off by
            default, as in the paper: small changes of them can dominate a plot. Buffers never move.
        adapters: Move adapters (LoRA and the like) alone, see `landform.subspace.select.select`.
        seeded: Do not keep the directions, but make them from the seed, a tensor at a time, whenever they are needed:
            the same numbers, bit for bit, in no memory to speak of, and slower (a scan keeps up to 512 MB
            of them while it runs). The origin then *is* the model's parameters, not a copy: do not train on while the
            plane is in use. None: where directions would take more
            than 1 GiB.

    Returns:
        The subspace; h = 0 is the model, and [−1, 1] the usual range, its ``ranges``. Directions hold only what they
        move, in the parameter's dtype, half-precision ones in float32. ``meta`` has kind, seed, norm and what moves.

    Raises:
        InputError: A direction would be zero, there are more directions than numbers to move, a weight is not finite,
            or nothing is left to move.
        UnknownNameError: A pattern that matches nothing, or an unknown ``norm``, with the nearest.
        ArchitectureError: Parameters without values.

    Cost:
        Memory for z + 1 copies of the parameters and some tiles of 32,768 numbers. Seeded: for one number a filter;
        each use of a tensor draws it again, some 20 ns a number and direction on one core (13 of them for the normal
        numbers), and the tensor of one direction alone takes those of the directions before it, too.

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
    names = select(model, include=include, exclude=exclude, biases=biases, adapters=adapters)
    origin = {name: value.detach() for name, value in model.named_parameters()}
    for name in names:
        if not bool(torch.isfinite(torch.stack(torch.aminmax(origin[name]))).all()):  # NaN wins; no copy
            raise InputError(f"parameter {name} has values that are not finite, so there is no surface around it")
    room = sum(origin[name].numel() for name in names)
    if room < z:
        raise InputError(f"more directions than parameters: z = {z}, but only {room} numbers move; take a smaller z")
    how = recipe(seed, z, norm, _parts(model, names, origin, z, norm), origin)
    _refuse_zero(how, origin, names)
    if seeded is None:
        seeded = sum(z * origin[name].numel() * direction_dtype(origin[name]).itemsize for name in names) > LARGE
    meta = {"kind": "random", "seed": seed, "norm": norm, "moves": list(names), "biases": biases}
    ranges = ((-1.0, 1.0),) * z
    if seeded:
        return Subspace(origin, tuple(SeededDirection(how, i) for i in range(z)), meta | {"seeded": True}, ranges)
    return Subspace({name: value.clone() for name, value in origin.items()}, _kept(how, names), meta, ranges)


def _parts(model: nn.Module, names: tuple[str, ...], origin: dict[str, Tensor], z: int, norm: str) -> dict[str, Part]:
    """Say how each parameter takes part: filter by filter where there is room, as a block, or with all the others."""
    places = {name: place for place, name in enumerate(origin)}
    plain = plain_names(model)
    filters = {name: found for name, found in filters_of(model).items() if name not in plain}
    parts = {}
    for name in names:
        value, cut = origin[name], filters.get(name)
        block: tuple[str, ...] | None = names if norm in ("model", "none") else (name,)
        if norm == "filter" and cut is not None and cut.size >= z:
            block = None
        parts[name] = Part(places[name], tuple(value.shape), direction_dtype(value), value.device, cut, block)
    return parts


def _kept(how: Recipe, names: tuple[str, ...]) -> tuple[dict[str, Tensor], ...]:
    directions: tuple[dict[str, Tensor], ...] = tuple({} for _ in range(how.z))
    for name in names:
        for number, (direction, value) in enumerate(zip(directions, how.make(name, how.z), strict=True)):
            if how.moves(name, number):
                direction[name] = value
    return directions


def _refuse_zero(how: Recipe, origin: dict[str, Tensor], names: tuple[str, ...]) -> None:
    for number in range(how.z):
        if any(how.moves(name, number) for name in names):
            continue
        alive = [name for name in names if bool(origin[name].any())]
        if not alive:
            raise InputError(
                f"direction {number + 1} is zero: norm='{how.norm}' scales it to the weights, and all that move are"
                " zero; pass norm='none'"
            )
        most = max(origin[name].numel() for name in alive)
        raise InputError(
            f"direction {number + 1} is zero: no parameter that moves has room for more than {most} directions"
            f" orthogonal in each block; take z ≤ {most}, move more parameters, or pass norm='model'"
        )
