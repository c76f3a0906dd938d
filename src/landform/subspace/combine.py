"""`combine`: the space that the directions of several subspaces span together."""

import torch
from torch import Tensor

from landform.errors import InputError
from landform.subspace.scaling import inner
from landform.subspace.subspace import Subspace


def combine(*subspaces: Subspace, orthogonal: bool = False) -> Subspace:
    """Return the space with the directions of several, e.g. the worst direction beside a random one.

    Args:
        subspaces: Subspaces through one point: their origins must be equal.
        orthogonal: Take out of each direction what lies along the earlier ones, and give it back its length. Off by
            default: coordinates then are those of the subspaces.

    Returns:
        The space, coordinates in the order given. ``meta["parts"]`` has the metas of the parts.

    Raises:
        InputError: None at all, origins that differ, or (``orthogonal``) a direction that depends on the earlier ones.

    Cost:
        None; with ``orthogonal`` a copy of the directions, those made on demand included.

    Example:
        >>> origin = {"w": torch.zeros(2)}
        >>> one, two = (Subspace(origin, ({"w": torch.tensor(v)},)) for v in ([2.0, 0.0], [3.0, 4.0]))
        >>> combine(one, two).at(torch.tensor([1.0, 1.0]))["w"].tolist()
        [5.0, 4.0]
        >>> combine(one, two, orthogonal=True).directions[1]["w"].tolist()
        [0.0, 5.0]
    """
    if not subspaces:
        raise InputError("combine() of no subspaces; wanted at least one")
    first = subspaces[0]
    for number, other in enumerate(subspaces[1:], start=2):
        if set(first.origin) != set(other.origin):
            name = min(set(first.origin) ^ set(other.origin))
            raise InputError(f"subspace {number} is of another model than the first: '{name}' is in one of them only")
        for name, value in first.origin.items():
            if value is not other.origin[name] and not torch.equal(value, other.origin[name]):
                raise InputError(
                    f"subspace {number} goes through another point than the first: they differ in '{name}'; make both"
                    " from the model as it is"
                )
    directions = tuple(direction for subspace in subspaces for direction in subspace.directions)
    if orthogonal:
        directions = _orthogonal([dict(direction) for direction in directions])
    ranges = None
    if all(subspace.ranges is not None for subspace in subspaces):
        ranges = tuple(pair for subspace in subspaces for pair in subspace.ranges or ())
    parts = [dict(subspace.meta) | {"z": subspace.z} for subspace in subspaces]
    meta = {"kind": "combined", "orthogonal": orthogonal, "parts": parts}
    return Subspace(first.origin, directions, meta, ranges)


def _orthogonal(directions: list[dict[str, Tensor]]) -> tuple[dict[str, Tensor], ...]:
    made: list[dict[str, Tensor]] = []
    for number, direction in enumerate(directions, start=1):
        length = inner(direction, direction) ** 0.5
        left = {name: value.double() for name, value in direction.items()}
        for _ in range(2):  # twice, so that rounding does not grow with the angle
            for earlier in made:
                share = inner(earlier, left) / inner(earlier, earlier)
                for name, value in earlier.items():
                    left[name] = left.get(name, torch.zeros_like(value, dtype=torch.float64)) - share * value.double()
        rest = inner(left, left) ** 0.5
        if not rest > 1e-7 * length:
            raise InputError(f"direction {number} lies in the space of the earlier ones, so nothing of it is left")
        dtypes = {name: value.dtype for each in (direction, *made) for name, value in each.items()}
        made.append({name: (value * (length / rest)).to(dtypes[name]) for name, value in left.items()})
    return tuple(made)
