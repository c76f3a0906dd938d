"""The compiled pattern: a stack of sparse affine + ReLU layers over named registers, before it meets an architecture.

A `Program` reads h ∈ [0, 1]^z and returns one number a channel. Layer 0 is what the first-layer bias injects: the
identity when the subspace is axis aligned (Theorem 1 of Czarnecki et al., arXiv 1912.07559: θ_b = (h_1, …, h_z, 0, …)),
or any affine map of h otherwise. Weights are kept sparse (SciPy CSR, float64): a dense network stores the same numbers
among zeros.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import scipy.sparse as sp
import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Layer:
    """One hidden layer, x ↦ relu(W x + b).

    Args:
        weight: Sparse W, shape ``[units, inputs]``.
        bias: b, shape ``[units]``.
        carried: Which pre-activations are ≥ 0 on the whole box, shape ``[units]``. Such a unit only carries a register
            through the layer, so any activation that is the identity on [0, ∞) serves, and one unit is enough.
        role: What the layer does, for people: ``"inject"``, ``"hinges"``, ``"hats"``, ``"spline"``, …
        group: Number of the group that a unit belongs to, ascending, shape ``[units]``; None where it has none.
        top: Bounds of the units over the box, where more is known than what intervals say, shape ``[units]``.
    """

    weight: sp.csr_matrix
    bias: np.ndarray
    carried: np.ndarray
    role: str = ""
    group: np.ndarray | None = None
    top: np.ndarray | None = None

    @property
    def units(self) -> int:
        """Number of units."""
        return int(self.bias.shape[0])

    def cost(self, per_hinge: int) -> int:
        """Return the network units needed when a non-carried unit takes ``per_hinge`` of them (2 for LeakyReLU)."""
        return int(self.carried.sum()) + per_hinge * int((~self.carried).sum())


@dataclass(frozen=True)
class Program:
    """A pattern compiled to layers; ``readout`` is affine and has one row a channel.

    Args:
        layers: Hidden layers. ``layers[0]`` reads h, the others the layer before.
        readout: The last affine map (its ``carried`` is unused).
        form: ``"hats"`` | ``"rows"`` | ``"strips"`` | ``"hinges"``.
        schedule: How the units were spread over layers, for people.
        basis: Number of basis functions kept (hats, rows, strips or hinges).
        notes: Facts a user should see: what was chosen, what it costs.
    """

    layers: tuple[Layer, ...]
    readout: Layer
    form: str
    schedule: str
    basis: int
    notes: tuple[str, ...] = field(default=())

    @property
    def z(self) -> int:
        """Number of coordinates of h."""
        return int(self.layers[0].weight.shape[1])

    @property
    def widths(self) -> tuple[int, ...]:
        """Units of every layer."""
        return tuple(layer.units for layer in self.layers)

    @property
    def nonzeros(self) -> int:
        """Number of non-zero weights and biases."""
        every = (*self.layers, self.readout)
        return sum(int(layer.weight.nnz) + int(np.count_nonzero(layer.bias)) for layer in every)

    def costs(self, per_hinge: int = 1) -> tuple[int, ...]:
        """Return the network units each layer takes when a hinge takes ``per_hinge`` units."""
        return tuple(layer.cost(per_hinge) for layer in self.layers)

    def __call__(self, h: Float[Tensor, "points z"]) -> Float[Tensor, "points channels"]:
        """Evaluate the program, in the dtype of ``h`` (weights are rounded to it first).

        Args:
            h: Points in [0, 1]^z.

        Returns:
            One value a channel.

        Cost:
            Two operations for every non-zero weight and point.
        """
        x = h.T.contiguous()
        for layer in self.layers:
            x = torch.relu(_affine(layer, x))
        return _affine(self.readout, x).T.contiguous()

    def merged(self) -> "Program":
        """Return the program with layer 1 moved into the injection: θ_b = A·h + c, one layer less.

        The first-layer biases then move along general directions instead of coordinate axes.
        """
        first, second = self.layers[:2]
        if first.units != self.z or (first.weight != sp.identity(self.z, format="csr")).nnz or first.bias.any():
            raise AssertionError("only an identity injection can be merged")
        joined = Layer(second.weight @ first.weight, second.bias, second.carried, "inject " + second.role)
        return replace(self, layers=(joined, *self.layers[2:]))


def _affine(layer: Layer, x: Float[Tensor, "inputs points"]) -> Float[Tensor, "units points"]:
    """Compute W x + b by a sparse product in the dtype of x."""
    dtype = np.float32 if x.dtype == torch.float32 else np.float64
    product = layer.weight.astype(dtype) @ x.numpy()
    return torch.from_numpy(np.ascontiguousarray(product + layer.bias.astype(dtype)[:, None]))


@dataclass(frozen=True)
class Units:
    """A group of units of one layer, written as affine expressions of groups of the layer before.

    Args:
        name: The name by which the next layer refers to the group.
        size: Number of units.
        terms: ``(group, index, coefficient)``: add ``coefficient[r] · group[index[r]]`` to row r; an index of −1 adds
            nothing. A two-dimensional coefficient with ``index=None``, dense or sparse, adds a block over the group.
        bias: Constant of each row.
        carried: Whether the pre-activations are ≥ 0 on the whole box.
        top: A bound of the units over the box, where one is known.
    """

    name: str
    size: int
    terms: Sequence[tuple[str, np.ndarray | None, np.ndarray | float | sp.csr_matrix]]
    bias: np.ndarray | float = 0.0
    carried: bool = False
    top: np.ndarray | float = np.inf


class Stack:
    """Builds the layers of a program group by group.

    Example:
        >>> stack = Stack(1)
        >>> stack.add("hinges", [Units("x", 2, [("h", np.array([0, 0]), 2.0)], bias=np.array([0.0, -1.0]))])
        >>> program = stack.finish([("x", np.array([[1.0, -2.0]]))], form="hinges", schedule="", basis=2)
        >>> program(torch.tensor([[0.25], [0.5], [1.0]])).tolist()
        [[0.5], [1.0], [0.0]]
    """

    def __init__(self, z: int) -> None:
        identity = sp.identity(z, format="csr")
        self.layers = [Layer(identity, np.zeros(z), np.ones(z, dtype=bool), "inject")]
        self.groups: dict[str, tuple[int, int]] = {"h": (0, z)}

    def add(self, role: str, units: Sequence[Units]) -> None:
        """Append a layer made of these groups."""
        weight, bias = self._assemble(units)
        carried = np.concatenate([np.full(u.size, u.carried) for u in units])
        sizes = [u.size for u in units]
        top = np.concatenate([np.full(u.size, u.top) for u in units])
        self.layers.append(Layer(weight, bias, carried, role, np.repeat(np.arange(len(sizes)), sizes), top))
        start, groups = 0, {}
        for unit in units:
            groups[unit.name] = (start, unit.size)
            start += unit.size
        self.groups = groups

    def carry(self, name: str) -> Units:
        """Return the group that carries ``name``, whose values are ≥ 0, through the next layer unchanged."""
        size = self.groups[name][1]
        return Units(name, size, [(name, np.arange(size), 1.0)], carried=True)

    def finish(
        self,
        terms: Sequence[tuple[str, np.ndarray]],
        *,
        bias: np.ndarray | float = 0.0,
        form: str,
        schedule: str,
        basis: int,
        notes: tuple[str, ...] = (),
    ) -> Program:
        """Close the program with an affine readout, ``Σ block @ group + bias``."""
        rows = terms[0][1].shape[0]
        weight, offset = self._assemble([Units("out", rows, [(g, None, block) for g, block in terms], bias)])
        readout = Layer(weight, offset, np.zeros(rows, dtype=bool), "readout")
        return Program(tuple(self.layers), readout, form, schedule, basis, notes)

    def _assemble(self, units: Sequence[Units]) -> tuple[sp.csr_matrix, np.ndarray]:
        rows, columns, data, bias, start = [], [], [], [], 0
        for unit in units:
            bias.append(np.broadcast_to(np.asarray(unit.bias, dtype=np.float64), (unit.size,)))
            for group, index, coefficient in unit.terms:
                offset, size = self.groups[group]
                if isinstance(coefficient, sp.csr_matrix):
                    entries = coefficient.tocoo()
                    row, column, value = entries.row, entries.col, entries.data
                elif index is None:
                    block = np.broadcast_to(np.asarray(coefficient, dtype=np.float64), (unit.size, size))
                    row, column = np.nonzero(block)
                    value = block[row, column]
                else:
                    row = np.flatnonzero(index >= 0)
                    column = index[row]
                    value = np.broadcast_to(np.asarray(coefficient, dtype=np.float64), (unit.size,))[row]
                rows.append(row + start)
                columns.append(column + offset)
                data.append(value)
            start += unit.size
        inputs = self.layers[-1].units
        flat = [np.concatenate(part) if part else np.zeros(0, dtype=int) for part in (rows, columns, data)]
        weight = sp.csr_matrix((flat[2].astype(np.float64), (flat[0], flat[1])), shape=(start, inputs))
        weight.sum_duplicates()
        weight.eliminate_zeros()
        return weight, np.concatenate(bias).astype(np.float64)
