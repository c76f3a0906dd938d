"""Hats from hinges: the units that realise one hat φ(x) = relu(1 − (max(x_1..x_z, 0) − min(x_1..x_z, 0))) of a mesh.

With x_k = n_k·h_k − i_k, hinges relu(x_k) and relu(x_a − x_b) are shared by all hats. Every formula below is written so
that its terms are small *near the node* (of the order of the hat's own size), which keeps rounding small where it
matters: 1 + x is read from the neighbouring hinge relu(x + 1), exact wherever the hat is not zero anyway.

- z = 1: φ = relu(relu(x + 1) − 2·relu(x))
- z = 2: φ = relu(relu(x_1 + 1) − relu(x_1) − relu(x_2) − relu(x_1 − x_2)), from max(x, y, 0) − min(x, y, 0) =
  ½(|x| + |y| + |x − y|) and |t| = 2·relu(t) − t
- z = 3, 4: max-trees of depth two and three over pairs (Arora, Basu, Mianjy & Mukherjee, ICLR 2018).

A hat of step q has x replaced by x/q.

Read so, a hat's pre-activation is *exactly* 0 wherever its hinges are, which is nothing to a ReLU fed with exact zeros.
A smooth activation behind a norm is fed with errors instead, and would add up those of hundreds of hats far away. There
(``clear``) the pre-activation of a hat shall be clearly negative beyond its neighbours. For z = 2 that is

    φ = relu(1 − relu(−x_1) − relu(x_2) − relu(x_1 − x_2)), as x − relu(x) = −relu(−x):

1 less three hinges, all ≥ 0 and small near the node, so neither the errors of far hats nor those of large numbers reach
the sum. For other z, 1 + x is read as it is.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from landform.program.program import Units

ABSENT = np.iinfo(np.int64).min


@dataclass
class Expression:
    """Affine expressions, one a row: ``(group, key, coefficient)`` terms and a constant. Keys name units in a group."""

    size: int
    terms: list[tuple[str, np.ndarray, np.ndarray]] = field(default_factory=list)
    bias: np.ndarray = field(default_factory=lambda: np.zeros(0))

    def __post_init__(self) -> None:
        if not self.bias.size:
            self.bias = np.zeros(self.size)

    def plus(self, other: "Expression", scale: np.ndarray | float = 1.0) -> "Expression":
        """Return ``self + scale · other``."""
        scaled = [(group, key, coefficient * scale) for group, key, coefficient in other.terms]
        return Expression(self.size, [*self.terms, *scaled], self.bias + other.bias * scale)


@dataclass
class Block:
    """What a set of hats needs: shared hinges, then inner layers of units, then the hats themselves.

    Args:
        hinges: Keys of every hinge group (``"lin0"``, ``"x0"``, ``"d01"``, …).
        inner: For each inner layer, its groups: name, expression (its rows are keyed 0, 1, …).
        hats: Expression of the hats.
    """

    hinges: dict[str, np.ndarray]
    inner: list[dict[str, Expression]]
    hats: Expression

    def needed_from(self, layer: int) -> set[str]:
        """Return the groups that layers from ``layer`` on read (0 is the first layer after the hinges)."""
        later = [e for inner in self.inner[layer:] for e in inner.values()] + [self.hats]
        return {group for e in later for group, _, _ in e.terms}

    def hinge_units(self) -> tuple[int, int]:
        """Return (carried, hinge) units of the hinge layer."""
        carried = sum(len(keys) for name, keys in self.hinges.items() if name.startswith("lin"))
        return carried, sum(len(keys) for keys in self.hinges.values()) - carried


class HatFamily:
    """Writes hats of a mesh with ``cells`` cells an axis, z = 1 … 4, in the registers that the module names."""

    def __init__(self, cells: tuple[int, ...], *, clear: bool = False, corner: bool = False) -> None:
        self.cells, self.clear, self.corner = cells, clear, corner
        self.z = len(cells)

    @property
    def depth(self) -> int:
        """Layers from h to a hat: hinges, inner layers, hats."""
        return max(2, self.z)

    def block(self, index: np.ndarray, step: np.ndarray) -> Block:
        """Return the units that the hats at fine nodes ``index`` (shape ``[hats, z]``) with ``step`` need."""
        build = {1: self._hats_1, 2: self._clear_2 if self.clear else self._hats_2, 3: self._hats_3, 4: self._hats_4}[
            self.z
        ]
        inner, hats = build(index, step)
        keys: dict[str, list[np.ndarray]] = {}
        for expression in [*(e for layer in inner for e in layer.values()), hats]:
            for group, key, _ in expression.terms:
                if group[-1].isdigit():
                    keys.setdefault(group, []).append(key[key != ABSENT])
        hinges = {group: np.unique(np.concatenate(parts)) for group, parts in sorted(keys.items())}
        return Block({g: k for g, k in hinges.items() if len(k)}, inner, hats)

    def hinge_layer(self, hinges: dict[str, np.ndarray]) -> list[Units]:
        """Return the groups of the hinge layer, reading the group ``"h"``."""
        out = []
        for name, keys in hinges.items():
            if name[0] == "d":
                a, b = int(name[1]), int(name[2])
                ones = np.ones(len(keys), dtype=int)
                terms = [("h", a * ones, float(self.cells[a])), ("h", b * ones, -float(self.cells[b]))]
                out.append(Units(name, len(keys), terms, -keys.astype(float)))
            elif name[0] == "r":
                axis = int(name[-1])
                terms = [("h", np.full(len(keys), axis), -float(self.cells[axis]))]
                out.append(Units(name, len(keys), terms, keys.astype(float)))
            else:
                axis = int(name[-1])
                terms = [("h", np.full(len(keys), axis), float(self.cells[axis]))]
                carried = name.startswith("lin")
                out.append(Units(name, len(keys), terms, 0.0 if carried else -keys.astype(float), carried=carried))
        return out

    def axis(self, k: int, key: np.ndarray) -> Expression:
        """Return relu(n_k·h_k − key), which is affine on the box for key ≤ 0 and zero for key ≥ n_k."""
        inside = (key > 0) & (key < self.cells[k])
        out = Expression(len(key), [(f"x{k}", np.where(inside, key, ABSENT), np.ones(len(key)))])
        return out.plus(self._only(key <= 0, self.line(k, key)))

    def difference(self, a: int, b: int, key: np.ndarray) -> Expression:
        """Return relu(n_a·h_a − n_b·h_b − key), affine on the box for key ≤ −n_b and zero for key ≥ n_a."""
        inside = (key > -self.cells[b]) & (key < self.cells[a])
        out = Expression(len(key), [(f"d{a}{b}", np.where(inside, key, ABSENT), np.ones(len(key)))])
        affine = self.line(a, key).plus(self.line(b, np.zeros_like(key)), -1.0)
        return out.plus(self._only(key <= -self.cells[b], affine))

    def line(self, k: int, key: np.ndarray) -> Expression:
        """Return n_k·h_k − key."""
        zeros = np.zeros(len(key), dtype=np.int64)
        return Expression(len(key), [(f"lin{k}", zeros, np.ones(len(key)))], -key.astype(float))

    def _one_plus(self, i: np.ndarray, step: np.ndarray) -> Expression:
        """Return step + x_1: behind a ReLU (see the module), or as it is."""
        return self.line(0, i - step) if self.clear else self.axis(0, i - step)

    def _only(self, mask: np.ndarray, expression: Expression) -> Expression:
        terms = [(g, np.where(mask, key, ABSENT), c * mask) for g, key, c in expression.terms]
        return Expression(expression.size, terms, expression.bias * mask)

    def _hats_1(self, index: np.ndarray, step: np.ndarray) -> tuple[list[dict[str, Expression]], Expression]:
        i = index[:, 0]
        hats = Expression(len(i)).plus(self._one_plus(i, step), 1 / step).plus(self.axis(0, i), -2 / step)
        return [], hats

    def _hats_2(self, index: np.ndarray, step: np.ndarray) -> tuple[list[dict[str, Expression]], Expression]:
        i, j = index.T
        hats = Expression(len(i)).plus(self._one_plus(i, step), 1 / step)
        for part in (self.axis(0, i), self.axis(1, j), self.difference(0, 1, i - j)):
            hats = hats.plus(part, -1 / step)
        return [], hats

    def _clear_2(self, index: np.ndarray, step: np.ndarray) -> tuple[list[dict[str, Expression]], Expression]:
        """Return hats as 1 less three hinges: relu(−x_1) in group ``"r0"``, relu(x_2), relu(x_1 − x_2)."""
        i, j = index.T
        n, m = self.cells
        # x_1 − x_2 is affine on the box: read from two hinges that are there anyway, or from one that is small there
        corner = (i - j <= -m) & (not self.corner)
        sign = np.where(corner, -1.0, 1.0)
        first = Expression(len(i), [("r0", np.where(corner, n, np.where(i > 0, i, ABSENT)), sign)])
        second = Expression(len(i), [("x1", np.where(corner, 0, np.where(j < m, j, ABSENT)), sign)])
        third = Expression(len(i), [("d01", np.where((i - j < n) & ~corner, i - j, ABSENT), np.ones(len(i)))])
        hats = Expression(len(i), bias=1.0 - corner * (n + m) / step)
        for part in (first, second, third):
            hats = hats.plus(part, -1 / step)
        return [], hats

    def _hats_3(self, index: np.ndarray, step: np.ndarray) -> tuple[list[dict[str, Expression]], Expression]:
        i, j, k = index.T
        rows = np.arange(len(i))
        ramp = self.difference(1, 2, j - k)  # relu(x_2 − x_3)
        # max(x_1, x_2, x_3, 0) = relu(x_1) + relu(rise); min = x_1 − relu(x_1) − relu(fall)
        rise = self.line(2, k).plus(ramp).plus(self.axis(0, i), -1.0)
        fall = self.line(0, i).plus(self.axis(0, i), -1.0).plus(self.line(1, j), -1.0).plus(ramp)
        hats = Expression(len(i)).plus(self._one_plus(i, step), 1 / step).plus(self.axis(0, i), -2 / step)
        for name in ("rise", "fall"):
            hats = hats.plus(Expression(len(i), [(name, rows, np.ones(len(i)))]), -1 / step)
        return [{"rise": rise, "fall": fall}], hats

    def _hats_4(self, index: np.ndarray, step: np.ndarray) -> tuple[list[dict[str, Expression]], Expression]:
        i, j, k, m = index.T
        first, second = self.difference(0, 1, i - j), self.difference(2, 3, k - m)
        # p = max(x_1, x_2) = x_2 + relu(x_1 − x_2), q = max(x_3, x_4); lower case with a bar: the minima
        upper, upper_rows = self._distinct(
            lambda s: (
                self.line(1, s[:, 1])
                .plus(self.difference(0, 1, s[:, 0] - s[:, 1]))
                .plus(self.line(3, s[:, 3]), -1.0)
                .plus(self.difference(2, 3, s[:, 2] - s[:, 3]), -1.0)
            ),
            index,
            np.stack([i - j, k - m, j - m], axis=1),
        )
        lower, lower_rows = self._distinct(
            lambda s: (
                self.line(0, s[:, 0])
                .plus(self.difference(0, 1, s[:, 0] - s[:, 1]), -1.0)
                .plus(self.line(2, s[:, 2]), -1.0)
                .plus(self.difference(2, 3, s[:, 2] - s[:, 3]))
            ),
            index,
            np.stack([i - j, k - m, i - k], axis=1),
        )
        ones = np.ones(len(i))
        top = self.line(3, m).plus(second).plus(Expression(len(i), [("upper", upper_rows, ones)]))
        bottom = self.line(0, i).plus(first, -1.0).plus(Expression(len(i), [("lower", lower_rows, ones)]), -1.0)
        bottom = Expression(len(i)).plus(bottom, -1.0)
        rows = np.arange(len(i))
        hats = Expression(len(i), [("top", rows, -1 / step), ("bottom", rows, -1 / step)], ones.copy())
        return [{"upper": upper, "lower": lower}, {"top": top, "bottom": bottom}], hats

    @staticmethod
    def _distinct(
        build: Callable[[np.ndarray], Expression], index: np.ndarray, key: np.ndarray
    ) -> tuple[Expression, np.ndarray]:
        """Build one row for each distinct key; return it and the row of every hat."""
        _, first, inverse = np.unique(key, axis=0, return_index=True, return_inverse=True)
        return build(index[first]), inverse.reshape(-1)


def resolve(expression: Expression, hinges: dict[str, np.ndarray]) -> list[tuple[str, np.ndarray | None, np.ndarray]]:
    """Turn the keys of an expression into positions in the groups of the layer before."""
    out: list[tuple[str, np.ndarray | None, np.ndarray]] = []
    for group, key, coefficient in expression.terms:
        present = key != ABSENT
        if not present.any():
            continue
        position = key
        if group in hinges:
            position = np.searchsorted(hinges[group], np.where(present, key, hinges[group][0]))
        out.append((group, np.where(present, position, -1), coefficient))
    return out
