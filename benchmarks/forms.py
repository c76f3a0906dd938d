"""Hats, strips and what lies between: units, parameters and float error of the pattern register."""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

import landform as lf
from benchmarks.groups import grouped
from benchmarks.making import DTYPES, picture
from benchmarks.report import Table
from landform.program.basis import Basis, compressed_basis, nodal_basis
from landform.program.program import Program
from landform.program.schedule import Open, hats_by_carrying, strips_by_carrying

CASES: dict[str, dict[str, Any]] = {
    "full": {"sizes": (16, 32, 64, 128, 256), "points": 2048},
    "quick": {"sizes": (16, 32, 64), "points": 1024},
    "tiny": {"sizes": (8,), "points": 64, "rows": (4,)},
}
UNLIMITED = [1 << 40] * 8
TOLERANCE = 1e-2


def run(sizes: Sequence[int], points: int, rows: Sequence[int] = (4, 8, 16, 32)) -> list[Table]:
    """Measure every form on every picture."""
    found: list[dict[str, object]] = []
    for kind, n in itertools.product(("random", "disc", "smooth"), sizes):
        pattern = picture(kind, n)
        exact = pattern.values.numpy()
        forms: dict[str, Callable[[], Program]] = {
            "hats": lambda p=pattern: _hats(nodal_basis(p.mesh, p.values)),
            f"hats to {TOLERANCE:g}": lambda p=pattern: _hats(compressed_basis(p.mesh, p.values, TOLERANCE)),
            **{f"groups of {r}": lambda v=exact, r=r: grouped(v, r) for r in rows if r < n},
            "strips": lambda v=exact: _program(strips_by_carrying(v[..., None], UNLIMITED)),
        }
        for form, build in forms.items():
            found.append({"picture": kind, "n": n, "form": form} | _measured(build(), pattern, points))
    notes = [
        (
            "The pattern register only: injection, hinges, (clamps,) and hats or strips in the fewest layers, without"
            " the response curve. Dense parameters are those of a network with just these widths."
        ),
        (
            f"Errors are the largest difference from the P1 interpolant over {points:,} random points and as many nodes"
            " (or all), representable in the dtype; units of the pattern (0 … 1). The sparse program is evaluated, not"
            " a dense network."
        ),
        (
            f"hats to {TOLERANCE:g}: hierarchical hats with the small surpluses dropped; its error includes the"
            " truncation that was asked for. Groups of r rows: a prototype that lives in `benchmarks/groups.py`."
        ),
        "random: uniform nodal values; disc: 0 or 1 with a sharp edge; smooth: one period of sines.",
    ]
    return [Table("Hats, strips and what lies between", found, notes), _winners(found)]


def _program(state: Open) -> Program:
    return state.stack.finish(state.terms, bias=state.bias, form="", schedule="", basis=0)


def _hats(basis: Basis) -> Program:
    return _program(hats_by_carrying(basis, UNLIMITED))


def _measured(program: Program, pattern: lf.Pattern, points: int) -> dict[str, object]:
    widths = (*program.widths, 1)
    row: dict[str, object] = {
        "units": sum(program.widths),
        "non-zeros": program.nonzeros,
        "dense parameters": sum((a + 1) * b for a, b in itertools.pairwise(widths)),
    }
    generator = torch.Generator().manual_seed(0)
    nodes = pattern.mesh.nodes()
    nodes = nodes[torch.randperm(len(nodes), generator=generator)[:points]]
    h = torch.cat([torch.rand(points, 2, dtype=torch.float64, generator=generator), nodes])
    for name, dtype in DTYPES.items():
        row[name] = max(_error(program, pattern, part.to(dtype)) for part in torch.split(h, 512))
    return row


def _error(program: Program, pattern: lf.Pattern, h: Tensor) -> float:
    return float((program(h)[:, 0].double() - pattern(h.double())).abs().max())


def _winners(found: list[dict[str, Any]]) -> Table:
    """Say which groups are better than hats in dense parameters and than strips in float32 error, and by how much."""
    rows = []
    for kind, n in dict.fromkeys((row["picture"], row["n"]) for row in found):
        case = {row["form"]: row for row in found if (row["picture"], row["n"]) == (kind, n)}
        groups = {form: row for form, row in case.items() if form.startswith("groups")}
        between = [
            form
            for form, row in groups.items()
            if row["float32"] < case["strips"]["float32"] and row["dense parameters"] < case["hats"]["dense parameters"]
        ]
        least = min(groups, key=lambda form: groups[form]["float32"]) if groups else ""
        rows.append(
            {
                "picture": kind,
                "n": n,
                "smaller than hats, more exact than strips": ", ".join(between) or "none",
                "most exact groups": least,
                "error ÷ hats": _ratio(groups, least, case["hats"], "float32"),
                "error ÷ strips": _ratio(groups, least, case["strips"], "float32"),
                "parameters ÷ hats": _ratio(groups, least, case["hats"], "dense parameters"),
                "parameters ÷ strips": _ratio(groups, least, case["strips"], "dense parameters"),
            }
        )
    return Table("Do groups of rows win anywhere? (float32)", rows, ["Ratios are those of the most exact groups."])


def _ratio(groups: dict[str, Any], form: str, other: dict[str, Any], key: str) -> float:
    if not form or not other[key]:
        return math.nan
    return float(groups[form][key] / other[key])
