"""Patterns from formulas by name."""

import inspect
import math
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float64
from torch import Tensor

from landform.errors import InputError, unknown_name
from landform.mesh import Mesh
from landform.pattern.catalogue import CATALOGUE, Formula
from landform.pattern.normalise import require_finite, span, to_unit
from landform.pattern.original import Function
from landform.pattern.pattern import Pattern
from landform.pattern.resolution import cells_of


def formulas() -> dict[str, str]:
    """List the formulas that `Pattern.from_formula` knows, with one line on each.

    Returns:
        Description by name, sorted by name.

    Example:
        >>> formulas()["himmelblau"]
        'four equal minima, z = 2'
    """
    return {name: CATALOGUE[name].line for name in sorted(CATALOGUE)}


def look_up(name: str) -> Formula:
    """Return the formula of that name.

    Raises:
        UnknownNameError: If there is none; the message offers the nearest.

    Example:
        >>> look_up("rastrigan")
        Traceback (most recent call last):
        landform.errors.UnknownNameError: unknown formula 'rastrigan': did you mean 'rastrigin'? Known: ...
    """
    key = str(name).lower().replace("_", "-").replace(" ", "-")
    if key not in CATALOGUE:
        raise unknown_name("formula", str(name), CATALOGUE)
    return CATALOGUE[key]


def domain_of(
    formula: Formula, name: str, z: int, domain: tuple[float | int, float | int] | None
) -> tuple[tuple[float, float], ...]:
    """Return (low, high) of each axis, and refuse a z in which the formula is not defined.

    Example:
        >>> domain_of(look_up("sphere"), "sphere", 2, (-1, 1))
        ((-1.0, 1.0), (-1.0, 1.0))
    """
    least, most = formula.dims
    if z < least or (most is not None and z > most):
        raise InputError(f"{name} is defined for z {'=' if least == most else '≥'} {least}, got z = {z}")
    if domain is None:
        return formula.bounds(z)
    try:
        low, high = (float(end) for end in domain)
    except (TypeError, ValueError):
        raise InputError(f"domain must be a pair (low, high), got {domain!r}") from None
    if not (low < high and math.isfinite(low) and math.isfinite(high)):
        raise InputError(f"domain must be a pair (low, high) with low < high, got {domain!r}")
    return ((low, high),) * z


def sample(
    name: str,
    *,
    resolution: int | Sequence[int] | None,
    z: int,
    log: bool,
    domain: tuple[float | int, float | int] | None,
    invert: bool,
    parameters: Mapping[str, float | int],
) -> Pattern:
    """Do the work of `Pattern.from_formula`.

    Example:
        >>> sample("checkerboard", resolution=1, z=2, log=False, domain=None, invert=False,
        ...        parameters={"squares": 2}).values.tolist()
        [[0.0, 1.0], [1.0, 0.0]]
    """
    formula = look_up(name)
    mesh = Mesh(cells_of(resolution, z))
    bounds = torch.tensor(domain_of(formula, name, z, domain), dtype=torch.float64)
    known = [p.name for p in inspect.signature(formula.function).parameters.values() if p.kind is p.KEYWORD_ONLY]
    strange = sorted(set(parameters) - set(known))
    if strange:
        options = ["resolution", "z", "log", "domain", "invert", *known]
        raise InputError(
            f"formula {name} has no option {', '.join(map(repr, strange))}; its options: {', '.join(options)}"
        )

    def raw(h: Float64[Tensor, "points z"]) -> Float64[Tensor, "points"]:
        # lerp hits both ends exactly, so that a formula is never asked beyond its domain
        return formula.function(torch.lerp(bounds[:, 0], bounds[:, 1], h), **parameters)

    nodal = raw(mesh.nodes())
    require_finite(nodal, f"the values of {name}")
    lo, hi = span(nodal, f"the formula {name} at these nodes")

    def normalised(h: Float64[Tensor, "points z"]) -> Float64[Tensor, "points"]:
        values = raw(h)
        if log:  # between nodes f may dip below lo: there the logarithm goes on along its tangent
            above = (values - lo).clamp(min=0.0)
            values = (above.log1p() + (values - lo).clamp(max=0.0)) / math.log1p(hi - lo)
        else:
            values = to_unit(values, lo, hi)
        return 1 - values if invert else values

    return Pattern(
        normalised(mesh.nodes()).clamp(0.0, 1.0).reshape(mesh.shape),
        name=f"formula:{name}",
        source={
            "kind": "formula",
            "formula": name,
            "domain": bounds.tolist(),
            "options": {"log": log, "invert": invert, **parameters},
            "range": [lo, hi],
        },
        original=Function(normalised),
    )
