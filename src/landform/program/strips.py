"""Strips: a z = 2 pattern with n − 1 units after the hinges, instead of (n + 1)² hats.

With x = n_1·h_1, y = n_2·h_2 and d = x − y, on the strip j ≤ y ≤ j + 1 every P1 function on the Kuhn mesh is

    G_j = f1(x) + f3(d + j) + c·(y − j),

linear in the hinges of x, d and y. With a = row j and b = row j + 1 (values along x) and any c: f3(−1) = 0,
f3(i) − f3(i − 1) = a_i − b_i + c, f1 = a − f3. D_j = G_j − G_{j−1} vanishes on y = j; with M_j = max(−∂_y D_j) over the
box (f3 continued with its end slopes), the pattern is

    T = G_m + Σ_{j>m} [relu(D_j + M_j(y − j)) − M_j·relu(y − j)] + Σ_{j≤m} [relu(M_j(j − y) − D_j) − M_j·relu(j − y)].

Hinges up to the middle of their axis fall, relu(k − t), the others rise: half as many are on at once, none exceeds half
the axis, and sums over them, whose terms cancel, round less.

The price is cancellation, about n²·u for rough patterns: strips are for float64, smooth patterns, or narrow networks.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from landform.program.program import Units

# c = mean(b − a) keeps the numbers small; rounded to a multiple of this, node values stay exact for dyadic patterns
C_QUANTUM = 2.0**-20


@dataclass(frozen=True)
class Strips:
    """The coefficients of one channel, over the hinge groups lin0, lin1, x0 (1 … n_1−1), x1 (1 … n_2−1), d01.

    They are those of `hinge_units`.

    Args:
        units: Rows of the n_2 − 1 strip units, one array a group, shape ``[strips, keys]``.
        unit_bias: Shape ``[strips]``.
        line: The linear part (G_m and the M_j terms), one row a group.
        line_bias: Its constant, chosen so that the linear part is ≥ 0 on the box.
        offset: What was added to make it so: subtract it from the sum.
    """

    units: dict[str, Float64[np.ndarray, "strips keys"]]
    unit_bias: Float64[np.ndarray, "strips"]
    line: dict[str, Float64[np.ndarray, "1 keys"]]
    line_bias: float
    offset: float


def hinge_keys(cells: tuple[int, int]) -> dict[str, np.ndarray]:
    """Return the keys of every hinge group: 2(n_1 + n_2) − 1 units."""
    n1, n2 = cells
    return {
        "d01": np.arange(-n2 + 1, n1),
        "lin0": np.zeros(1, dtype=int),
        "lin1": np.zeros(1, dtype=int),
        "x0": np.arange(1, n1),
        "x1": np.arange(1, n2),
    }


def hinge_units(cells: tuple[int, int]) -> list[Units]:
    """Return the groups of the hinge layer, reading the group ``"h"``: h_1 and h_2 in cells, and hinges of all keys.

    Example:
        Hinges of h_2 on three cells: one falls towards 1, one rises from 2.

        >>> group = hinge_units((2, 3))[-1]
        >>> group.name, [coefficient.tolist() for _, _, coefficient in group.terms], group.bias.tolist()
        ('x1', [[-3.0, 3.0]], [1.0, -2.0])
    """
    out = []
    for group, keys in hinge_keys(cells).items():
        if not len(keys):
            continue
        sign = np.ones(len(keys)) if group.startswith("lin") else _signs(group, cells)
        axes = [int(k) for k in group if k.isdigit()]
        terms = [
            ("h", np.full(len(keys), axis), sign * cells[axis] * (1.0 if number == 0 else -1.0))
            for number, axis in enumerate(axes)
        ]
        out.append(Units(group, len(keys), terms, -sign * keys, carried=group.startswith("lin")))
    return out


def _signs(group: str, cells: tuple[int, int]) -> np.ndarray:
    """Return 1 for each hinge of a group that rises, −1 for each that falls."""
    middle = {"x0": cells[0] // 2, "x1": cells[1] // 2, "d01": (cells[0] - cells[1]) // 2}[group]
    return np.where(hinge_keys(cells)[group] > middle, 1.0, -1.0)


def _with_falling(
    rows: dict[str, np.ndarray], bias: np.ndarray, cells: tuple[int, int]
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Write rows over hinges that all rise over those of `hinge_units`: relu(t − k) = t − k + relu(k − t)."""
    out, bias = {group: block.copy() for group, block in rows.items()}, bias.copy()
    for group, keys in hinge_keys(cells).items():
        if group.startswith("lin"):
            continue
        falling = _signs(group, cells) < 0
        total = rows[group][:, falling].sum(axis=1)
        bias -= rows[group][:, falling] @ keys[falling]
        for number, axis in enumerate(int(k) for k in group if k.isdigit()):
            out[f"lin{axis}"] += (total if number == 0 else -total)[:, None]
    return out, bias


def strips(values: Float64[np.ndarray, "rows columns"]) -> Strips:
    """Compute the strip form of nodal values ``[n_1 + 1, n_2 + 1]``, exact in real arithmetic."""
    cells = (values.shape[0] - 1, values.shape[1] - 1)
    form = rising(values)
    units, unit_bias = _with_falling(form.units, form.unit_bias, cells)
    line, line_bias = _with_falling(form.line, np.array([form.line_bias]), cells)
    return Strips(units, unit_bias, line, float(line_bias[0]), form.offset)


def rising(values: Float64[np.ndarray, "rows columns"]) -> Strips:
    """Compute the strip form over hinges that all rise, relu(t − k)."""
    n1, n2 = values.shape[0] - 1, values.shape[1] - 1
    a, b = values[:, :-1].T, values[:, 1:].T  # [n2, n1 + 1]: rows j and j + 1 along x
    c = np.round((b - a).mean(axis=1) / C_QUANTUM) * C_QUANTUM
    f3 = np.concatenate([np.zeros((n2, 1)), np.cumsum(a - b + c[:, None], axis=1)], axis=1)  # at −1 … n1
    f1 = a - f3[:, 1:]
    g3 = np.stack([_continued(f3[j], n1, n2, j) for j in range(n2)])  # f3(d + j) at d = −n2 … n1

    f1_step, g3_step, c_step = np.diff(f1, axis=0), np.diff(g3, axis=0), np.diff(c)  # of D_j, j = 1 … n2 − 1
    j = np.arange(1, n2)
    constant = -(c[1:] * j - c[:-1] * (j - 1))
    slope = np.diff(g3_step, axis=1).max(axis=1) - c_step if n2 > 1 else np.zeros(0)
    slope = np.maximum(slope, 0.0)
    base = n2 // 2
    sign = np.where(j > base, 1.0, -1.0)

    rows, bias = _expand(f1_step, g3_step, c_step, constant)
    rows["lin1"] += (slope)[:, None]  # D_j + M_j(y − j); below the base the whole row changes sign
    unit_bias = bias - slope * j
    units = {group: sign[:, None] * block for group, block in rows.items()}

    line, line_bias = _expand(f1[base : base + 1], g3[base : base + 1], c[base : base + 1], -c[base : base + 1] * base)
    line["x1"] = line["x1"] - slope[None]
    below = j <= base
    line["lin1"] = line["lin1"] + (slope * below).sum()
    line_bias = line_bias - (slope * j * below).sum()
    total = _line_at_nodes(line, float(line_bias[0]), n1, n2)
    offset = max(0.0, -float(total.min()))
    offset = float(2.0 ** np.ceil(np.log2(offset))) if offset else 0.0  # a power of two adds no digits
    return Strips(units, sign * unit_bias, line, float(line_bias[0]) + offset, offset)


def _continued(f3: np.ndarray, n1: int, n2: int, j: int) -> np.ndarray:
    """Return f3(d + j) at d = −n2 … n1, f3 given at −1 … n1 and continued with its end slopes."""
    t = np.arange(-n2, n1 + 1) + j
    inside = f3[np.clip(t, -1, n1) + 1]
    left, right = f3[1] - f3[0], f3[-1] - f3[-2]
    out: np.ndarray = inside + np.minimum(t + 1, 0) * left + np.maximum(t - n1, 0) * right
    return out


def _expand(
    f1: np.ndarray, g3: np.ndarray, c: np.ndarray, constant: np.ndarray
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Write f1(x) + g3(d) + c·y + constant over the hinge groups, row by row."""
    s1, s3 = np.diff(f1, axis=1), np.diff(g3, axis=1)
    n2 = s3.shape[1] - s1.shape[1]
    rows = {
        "lin0": s1[:, :1] + s3[:, :1],
        "x0": np.diff(s1, axis=1),
        "d01": np.diff(s3, axis=1),
        "lin1": c[:, None] - s3[:, :1],
        "x1": np.zeros((len(f1), n2 - 1)),
    }
    return rows, constant + f1[:, 0] + g3[:, 0] + s3[:, 0] * n2


def _line_at_nodes(line: dict[str, np.ndarray], bias: float, n1: int, n2: int) -> np.ndarray:
    """Evaluate the linear part at all nodes (it is P1, so its minimum is there)."""
    x, y = np.arange(n1 + 1), np.arange(n2 + 1)
    along_x = line["lin0"][0, 0] * x + np.maximum(x[:, None] - np.arange(1, n1), 0) @ line["x0"][0]
    along_y = line["lin1"][0, 0] * y + np.maximum(y[:, None] - np.arange(1, n2), 0) @ line["x1"][0]
    d = np.arange(-n2, n1 + 1)
    along_d = np.maximum(d[:, None] - np.arange(-n2 + 1, n1), 0) @ line["d01"][0]
    total: np.ndarray = along_x[:, None] + along_y[None] + along_d[x[:, None] - y[None] + n2] + bias
    return total
