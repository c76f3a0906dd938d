"""Rows: a z = 2 pattern as a sum of n + 1 units, one a row of nodes, each zero but on the two strips beside its row.

With x = n_1·h_1, y = n_2·h_2, d = x − y and a = (row j of the nodal values) + `FLOOR` > 0, the part of the pattern that
row j holds (the sum of its hats) is, above the row (j ≤ y ≤ j + 1) and below it,

    U_j = a(x) − f(x) + f(d + j) + c·(y − j),    L_j = f(x) − f(d + j − 1) − c·(y − j + 1),

where f(−1) = 0, f(i) − f(i − 1) = a_i + c and c = −mean(a), so that f is 0 at both ends; it is continued with 0. Since

    ∂U_j/∂y = −a < 0,    ∂L_j/∂y = a > 0,    ∂(U_j − L_j)/∂y = −(a + a') < 0,    U_j = L_j on y = j,

U_j is the smaller one above the row and L_j below it, and U_j = 0 on y = j + 1, L_j = 0 on y = j − 1. So row j is

    relu(min(U_j, L_j)) = relu(relu(L_j) − relu(L_j − U_j)),

and the pattern is the sum of all rows less `FLOOR`. Nothing in it is large: a, f and y are written with ramps, which go
from 0 to 1 on one cell and are *exactly* 0 or 1 beyond it,

    ramp_i(t) = relu(1 − relu(i + 1 − t)),    1 − ramp_i(t) = relu(1 − relu(t − i)),

with the differences a_i + c as coefficients; y is followed from j − 1 to j + 1 only. Farther away U_j or L_j, whichever
shall be negative, is lowered by multiples of ramps of y. What rounds is therefore of the size of the pattern, where
the hinges of strips are as large as n and cancel; and only two rows are on at any point.

Four layers: hinges, ramps, sides (L_j and L_j − U_j), rows. The widest have 4n + 4 units.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from landform.program.program import Stack, Units
from landform.program.room import Width, rooms
from landform.program.schedule import Open, require_room

FLOOR = 1.0
"""Added to all values: where a is 0, nothing switches off clearly. A power of two adds no digits."""
NEAR = 2.0
"""By how much a side is lowered on the first cell beyond its own; no |a + c| exceeds 1."""


@dataclass(frozen=True)
class Rows:
    """The coefficients of one channel over the groups of `ramp_units`, one array a group.

    Args:
        below: U_0, then L_1 … L_{n_2}; shape ``[n_2 + 1, size of the group]``.
        below_bias: Their constants, shape ``[n_2 + 1]``.
        turn: L_j − U_j, j = 1 … n_2 − 1.
        turn_bias: Their constants, shape ``[n_2 − 1]``.
    """

    below: dict[str, Float64[np.ndarray, "rows size"]]
    below_bias: Float64[np.ndarray, "rows"]
    turn: dict[str, Float64[np.ndarray, "inner size"]]
    turn_bias: Float64[np.ndarray, "inner"]


def ramp_keys(cells: tuple[int, int]) -> dict[str, tuple[np.ndarray, int]]:
    """Return, for x, d and y, the cells on which ramps rise, and the first that is written as rising.

    Those before it are written as 1 less a falling one: fewer are on at once. There is one cell more at either
    end of x and y than the box has: a coordinate that was rounded may lie there.
    """
    n1, n2 = cells
    return {
        "x": (np.arange(-1, n1 + 1), n1 // 2),
        "d": (np.arange(-n2, n1), (n1 - n2) // 2),
        "y": (np.arange(-1, n2 + 1), -1),
    }


def rows(values: Float64[np.ndarray, "rows columns"]) -> Rows:
    """Compute the row form of nodal values in [0, 1], ``[n_1 + 1, n_2 + 1]``, exact in real arithmetic."""
    n1, n2 = values.shape[0] - 1, values.shape[1] - 1
    a = values.T + FLOOR  # [n2 + 1, n1 + 1]: row j along x
    c = -a.mean(axis=1)
    step = a + c[:, None]  # of f, from i − 1 to i
    reach = np.ptp(np.pad(np.cumsum(step, axis=1), ((0, 0), (1, 0))), axis=1)  # |f(x) − f(d + j)| is at most this
    far = 2.0 ** np.ceil(np.log2(np.maximum(reach, 1.0)))
    above, beneath = np.zeros((n2 + 1, n1 + n2)), np.zeros((n2 + 1, n1 + n2))  # f(d + j) and f(d + j − 1)
    window, lowered, raised = (np.zeros((n2 + 1, n2 + 2)) for _ in range(3))
    for row in range(n2 + 1):
        if row < n2:
            above[row, n2 - 1 - row : n2 + n1 - row] = step[row]
        if row > 0:
            beneath[row, n2 - row : n2 + n1 + 1 - row] = step[row]
        window[row, row : row + 2] = c[row]  # c·(y − j + 1) on j − 1 ≤ y ≤ j + 1; column k is the ramp on cell k − 1
        lowered[row, row + 2 : row + 3], lowered[row, row + 3 : row + 4] = NEAR, far[row]
        if row > 0:
            raised[row, row - 1] = NEAR  # of 1 − the ramp on cell j − 2
        if row > 1:
            raised[row, row - 2] = far[row]
    none = np.zeros((n2 + 1, 1))
    upper = {"x": np.concatenate([none, -step], axis=1), "d": above, "y": window - lowered}
    lower = {"x": np.concatenate([step, none], axis=1), "d": -beneath, "y": -window + raised}
    upper_bias, lower_bias = -2 * c, -raised.sum(axis=1)  # a(−1) = −c
    turn = {group: (lower[group] - upper[group])[1:-1] for group in lower}
    below = {group: np.concatenate([upper[group][:1], lower[group][1:]]) for group in lower}
    below, below_bias = _with_falling(below, np.concatenate([upper_bias[:1], lower_bias[1:]]), (n1, n2))
    turn, turn_bias = _with_falling(turn, (lower_bias - upper_bias)[1:-1], (n1, n2))
    return Rows(below, below_bias, turn, turn_bias)


def _with_falling(
    blocks: dict[str, np.ndarray], bias: np.ndarray, cells: tuple[int, int]
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Write rows over ramps that all rise over those of `ramp_units`."""
    out, bias = {}, bias.copy()
    for group, (keys, first) in ramp_keys(cells).items():
        falls = keys < first
        bias += blocks[group][:, falls].sum(axis=1)
        out[group] = np.where(falls, -blocks[group], blocks[group])
    return out, bias


def hinge_units(cells: tuple[int, int]) -> list[Units]:
    """Return the groups of the first layer, reading ``"h"``: relu(k + 1 − t) for ramps that rise, relu(t − k).

    Example:
        Two cells an axis: the first two ramps of x are written as falling.

        >>> group = hinge_units((2, 2))[0]
        >>> group.name, [coefficient.tolist() for _, _, coefficient in group.terms], group.bias.tolist()
        ('x', [[2.0, 2.0, -2.0, -2.0]], [1.0, 0.0, 2.0, 3.0])
    """
    axes = {"x": [(0, 1.0)], "d": [(0, 1.0), (1, -1.0)], "y": [(1, 1.0)]}
    out = []
    for group, (keys, first) in ramp_keys(cells).items():
        sign = np.where(keys < first, 1.0, -1.0)
        terms = [("h", np.full(len(keys), axis), sign * part * cells[axis]) for axis, part in axes[group]]
        out.append(Units(group, len(keys), terms, np.where(keys < first, -keys, keys + 1.0)))
    return out


def ramp_units(cells: tuple[int, int]) -> list[Units]:
    """Return the groups of the second layer, reading those of the first: 1 less a hinge."""
    sizes = {group: len(keys) for group, (keys, _) in ramp_keys(cells).items()}
    return [Units(group, size, [(group, np.arange(size), -1.0)], 1.0) for group, size in sizes.items()]


def rows_by_carrying(values: np.ndarray, widths: Sequence[Width], per_hinge: int = 1) -> Open:
    """Schedule a z = 2 pattern in row form: hinges, ramps, sides, rows.

    Args:
        values: Nodal values ≥ 0, shape ``[n_1 + 1, n_2 + 1, channels]``.
        widths: Units of the hidden layers after the injection.
        per_hinge: Network units that a ReLU takes.

    Returns:
        The open stack.

    Raises:
        CapacityError: If the widths do not hold the pattern.
    """
    cells = (values.shape[0] - 1, values.shape[1] - 1)
    channels, every = values.shape[2], rooms(widths)
    forms = [rows(values[..., c]) for c in range(channels)]
    stack = Stack(2)
    for number, (role, units) in enumerate((("hinges", hinge_units(cells)), ("ramps", ramp_units(cells)))):
        require_room(units, number, every, per_hinge)
        stack.add(role, units)

    def joined(blocks: list[dict[str, np.ndarray]]) -> list[tuple[str, np.ndarray | None, np.ndarray]]:
        return [(group, None, np.concatenate([block[group] for block in blocks])) for group in ("x", "d", "y")]

    n, inner = cells[1] + 1, cells[1] - 1
    sides = [
        Units("below", channels * n, joined([f.below for f in forms]), np.concatenate([f.below_bias for f in forms])),
        Units("turn", channels * inner, joined([f.turn for f in forms]), np.concatenate([f.turn_bias for f in forms])),
    ]
    require_room(sides, 2, every, per_hinge)
    stack.add("sides", sides)
    row = np.arange(channels * n)
    owner, j = row // n, row % n
    turn = np.where((j > 0) & (j < n - 1), owner * inner + j - 1, -1)
    units = [Units("rows", channels * n, [("below", row, 1.0), ("turn", turn, -1.0)])]
    require_room(units, 3, every, per_hinge)
    stack.add("rows", units)
    read = (owner == np.arange(channels)[:, None]).astype(float)
    return Open(stack, [("rows", read)], np.full(channels, -FLOOR), "rows, in four layers")
