"""Prototype of a form between hats and strips: groups of r rows, each a strip form on its own clamped coordinate.

With x = n·h_1, y = n·h_2, group g starting at row y_g = g·r and c_g = clamp(y − y_g, 0, r),

    T(x, y) = T(x, 0) + Σ_g [T(x, y_g + c_g) − T(x, y_g)],

and each bracket is a strip form over [0, n] × [0, r]: its hinges are those of c_g and of x − c_g. One layer makes the
clamps' hinges relu(y − y_g), one makes c_g and the hinges, one the strips; then a readout. The cancellation inside a
group is that of r rows instead of n, but every group adds its own rounding, and its own n + 2r − 2 hinges.
"""

import numpy as np

from landform.program.program import Program, Stack, Units
from landform.program.strips import Strips, _line_at_nodes, rising


def grouped(values: np.ndarray, r: int) -> Program:
    """Compile nodal values ``[n + 1, n + 1]`` in groups of r rows (r divides n).

    Args:
        values: Nodal values, ``values[i, j] = T(i/n, j/n)``.
        r: Rows a group, at least 2.

    Returns:
        The program; its output is the pattern.
    """
    n = len(values) - 1
    count = n // r
    forms = [rising(values[:, g * r : (g + 1) * r + 1]) for g in range(count)]
    stack = Stack(2)
    group = np.arange(count)
    scaled = [("h", np.ones(count, dtype=int), float(n))]
    stack.add(
        "borders",
        [
            Units("x", 1, [("h", np.zeros(1, dtype=int), float(n))], carried=True),
            Units("y", count, scaled, -r * group.astype(float)),
        ],
    )
    stack.add("hinges", [stack.carry("x"), *_hinges(n, r, count)])
    line, bias, low = _line(values, forms, r)
    rows = {
        "x": np.concatenate([f.units["lin0"] for f in forms]),
        "x hinges": np.concatenate([f.units["x0"] for f in forms]),
        "c": _diagonal([f.units["lin1"] for f in forms]),
        "c hinges": _diagonal([f.units["x1"] for f in forms]),
        "d": _diagonal([f.units["d01"] for f in forms]),
    }
    units = [Units("sum", 1, [(name, None, block) for name, block in line.items()], bias - low, carried=True)]
    size = count * (r - 1)
    terms = [(name, None, block) for name, block in rows.items()]
    units.append(Units("strips", size, terms, np.concatenate([f.unit_bias for f in forms])))
    stack.add("strips", units)
    read = [("sum", np.ones((1, 1))), ("strips", np.ones((1, size)))]
    return stack.finish(read, bias=np.array([low]), form=f"groups of {r}", schedule="", basis=size)


def _hinges(n: int, r: int, count: int) -> list[Units]:
    """Return hinges of x, the clamped c_g, and the hinges of c_g and of x − c_g."""

    def clamped(keys: int, sign: float) -> list[tuple[str, np.ndarray, float]]:
        owner = np.repeat(np.arange(count), keys)
        following = np.where(owner + 1 < count, owner + 1, -1)  # relu(y − n) is 0: the last group has no upper border
        return [("y", owner, sign), ("y", following, -sign)]

    inner, skew = np.arange(1, n), np.arange(-r + 1, n)
    x = ("x", np.zeros(count * len(skew), dtype=int), 1.0)
    return [
        Units("x hinges", n - 1, [("x", np.zeros(n - 1, dtype=int), 1.0)], -inner.astype(float)),
        Units("c", count, clamped(1, 1.0), carried=True),
        Units("c hinges", count * (r - 1), clamped(r - 1, 1.0), -np.tile(np.arange(1.0, r), count)),
        Units("d", count * len(skew), [x, *clamped(len(skew), -1.0)], -np.tile(skew.astype(float), count)),
    ]


def _line(values: np.ndarray, forms: list[Strips], r: int) -> tuple[dict[str, np.ndarray], float, float]:
    """Return the linear part of all groups with T(x, 0) − Σ_g T(x, y_g), its constant, and its least value (≤ 0)."""
    n, count = len(values) - 1, len(forms)
    borders = -values[:, r * np.arange(1, count)].sum(axis=1)  # T(x, 0) cancels the first group's
    line = {
        "x": sum(f.line["lin0"] for f in forms) + (borders[1] - borders[0]),
        "x hinges": sum(f.line["x0"] for f in forms) + np.diff(borders, n=2)[None],
        "c": np.concatenate([f.line["lin1"] for f in forms], axis=1),
        "c hinges": np.concatenate([f.line["x1"] for f in forms], axis=1),
        "d": np.concatenate([f.line["d01"] for f in forms], axis=1),
    }
    constants = [f.line_bias - f.offset for f in forms]
    at = [_line_at_nodes(f.line, constant, n, r) for f, constant in zip(forms, constants, strict=True)]
    resting = borders + sum(block[:, 0] for block in at)  # every c_g = 0
    least = float(resting.min())
    for block in at:
        moved = resting[:, None] + block - block[:, :1]
        least, resting = min(least, float(moved.min())), moved[:, -1]
    low = -float(2.0 ** np.ceil(np.log2(-least))) if least < 0 else 0.0
    return line, float(borders[0] + sum(constants)), low


def _diagonal(blocks: list[np.ndarray]) -> np.ndarray:
    """Place each group's block on its own columns."""
    height, width = blocks[0].shape
    out = np.zeros((len(blocks) * height, len(blocks) * width))
    for g, block in enumerate(blocks):
        out[g * height : (g + 1) * height, g * width : (g + 1) * width] = block
    return out
