"""Tampering with a saved imprint, to see whether its certificate notices."""

import copy
from collections.abc import Iterator
from dataclasses import replace

import torch

from landform.errors import InputError, unknown_name
from landform.imprint import Imprint
from landform.imprint.lower.chain import trace
from landform.subspace import Subspace

Entry = tuple[str, tuple[int, ...]]
"""The qualified name of a parameter and the index of one number in it."""


def perturbed(
    imprint: Imprint, name: str, index: tuple[int, ...], value: float, *, direction: int | None = None
) -> Imprint:
    """Return a copy of an imprint with one stored number replaced; the promise stays as it was.

    Args:
        imprint: The imprint; it is not changed.
        name: Qualified name of a parameter or buffer.
        index: Which of its numbers.
        value: The new number.
        direction: Change this direction (0 … z − 1) instead of the origin.

    Returns:
        The tampered imprint, its certificate the original's.

    Raises:
        UnknownNameError: If there is no such parameter or buffer.
        InputError: If there is no such direction.

    Example:
        >>> import landform as lf
        >>> made = lf.imprint(lf.Pattern.from_formula("sphere", resolution=4), "digits")
        >>> name = next(reversed(made.subspace.origin))
        >>> lf.certify(perturbed(made, name, (0,), 3.0)).holds, lf.certify(made).holds
        (False, True)
    """
    model = copy.deepcopy(imprint.model)
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    if name not in tensors:
        raise unknown_name("parameter", name, tensors)
    directions = tuple({key: item.clone() for key, item in d.items()} for d in imprint.subspace.directions)
    with torch.no_grad():
        if direction is None:
            tensors[name][index] = value
        elif not 0 <= direction < len(directions) or name not in directions[direction]:
            raise InputError(f"no direction {direction} moves '{name}'; there are {len(directions)} directions")
        else:
            directions[direction][name][index] = value
    origin = {key: parameter.detach() for key, parameter in model.named_parameters()}
    return replace(imprint, model=model, subspace=Subspace(origin, directions))


def live_entries(imprint: Imprint) -> Iterator[Entry]:
    """Yield every parameter entry that is not zero: what the construction wrote.

    Args:
        imprint: The imprint.

    Yields:
        Name and index.

    Example:
        >>> import landform as lf
        >>> made = lf.imprint(lf.Pattern.from_formula("sphere", resolution=4), "digits")
        >>> any(name == "1.weight" for name, _ in live_entries(made))  # θ_W = 0
        False
    """
    for name, parameter in imprint.subspace.origin.items():
        for index in parameter.nonzero().tolist():
            yield name, tuple(index)


def dead_entries(imprint: Imprint) -> Iterator[Entry]:
    """Yield the biases, and the first incoming weight, of hidden units that nothing reads (the first layer's left out).

    Args:
        imprint: The imprint.

    Yields:
        Name and index.

    Example:
        >>> import landform as lf
        >>> made = lf.imprint(lf.Pattern.from_formula("sphere", resolution=4), "digits")
        >>> any(name.startswith("1.") for name, _ in dead_entries(made))  # both injected units are read
        False
    """
    chain, origin = trace(imprint.model), imprint.subspace.origin
    readers = [[stage.linear] for stage in chain.stages[1:]] + [[head.linear for head in chain.heads]]
    for number, (stage, names) in enumerate(zip(chain.stages, readers, strict=True)):
        read = torch.stack([(origin[f"{name}.weight"] != 0).any(dim=0) for name in names]).any(dim=0)
        for (unit,) in (~read).nonzero().tolist():
            yield f"{stage.linear}.bias", (unit,)
            if number:
                yield f"{stage.linear}.weight", (unit, 0)
