"""Where the numbers of a program are while it is written: registers in the channels of a tensor.

`Registers` says what the next layer of the program reads, as an affine function of the channels:

    pre = read @ channels + offset.

Units that are only carried need no channel of their own: they are a row of ``read``. Channels are ≥ 0 (activations may
come between), except where a leaky hinge keeps its second unit or a map's result is bent later.
"""

import math
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from landform.errors import CapacityError
from landform.program.program import Program

MOST_NODES = 1 << 17
"""Nodes at which a program is evaluated at most: of 362 × 362 cells."""
NODES_AT_ONCE = 1 << 12


@dataclass(frozen=True)
class Registers:
    """What a tensor holds.

    Args:
        read: How the next layer's pre-activations read the channels, ``[rows, channels]``.
        offset: Their constants, ``[rows]``.
        empty: Which channels are exactly zero.
        top: Bound of each channel over the box.
        raw: A constant that the next norm must add to a channel before it is bent, ``[channels]``.
        waits: Which channels hold pre-activations that the next activation bends, ``[channels]``.
        unit: A channel that is exactly one, if there is.
    """

    read: sp.csr_matrix
    offset: np.ndarray
    empty: np.ndarray
    top: np.ndarray
    raw: np.ndarray
    waits: np.ndarray
    unit: int | None = None

    @property
    def channels(self) -> int:
        """Channels of the tensor."""
        return int(self.read.shape[1])

    @property
    def needed(self) -> np.ndarray:
        """The channels that are read."""
        return np.unique(self.read.indices[self.read.data != 0])


@dataclass(frozen=True)
class Functionals:
    """A matrix as ``rows = mix @ parts``, ``parts`` with no negative entries, few of them.

    Args:
        parts: ``[parts, columns]``; each is to be held in a channel.
        mix: ``[rows, parts]``.
    """

    parts: sp.csr_matrix
    mix: sp.csr_matrix


def compress(rows: sp.csr_matrix) -> Functionals:
    """Write rows over values ≥ 0 by as few functionals ≥ 0 as is easily seen.

    Rows that are equal up to sign share functionals; one with coefficients of both signs is the difference of two. If
    single columns are fewer, they are taken instead.

    Example:
        >>> found = compress(sp.csr_matrix(np.array([[1.0, 2.0, 0.0], [-1.0, -2.0, 0.0]])))
        >>> found.parts.toarray().tolist(), found.mix.toarray().tolist()
        ([[1.0, 2.0, 0.0]], [[1.0], [-1.0]])
    """
    rows = rows.tocsr().copy()
    rows.sum_duplicates()
    rows.eliminate_zeros()
    columns = np.unique(rows.indices)
    known: dict[bytes, int] = {}
    parts: list[tuple[np.ndarray, np.ndarray]] = []
    mix: list[tuple[int, int, float]] = []
    for row in range(rows.shape[0]):
        span = slice(rows.indptr[row], rows.indptr[row + 1])
        for sign in (1.0, -1.0):
            chosen = rows.data[span] * sign > 0
            index, data = rows.indices[span][chosen], rows.data[span][chosen] * sign
            if not len(index):
                continue
            key = index.tobytes() + data.tobytes()
            if key not in known:
                known[key] = len(parts)
                parts.append((index, data))
            mix.append((row, known[key], sign))
        if len(parts) > len(columns):
            break
    if len(parts) >= len(columns):
        count = len(columns)
        single = sp.csr_matrix((np.ones(count), (np.arange(count), columns)), shape=(count, rows.shape[1]))
        return Functionals(single, rows[:, columns].tocsr())
    owner = np.repeat(np.arange(len(parts)), [len(index) for index, _ in parts]) if parts else np.zeros(0, dtype=int)
    column = np.concatenate([index for index, _ in parts]) if parts else np.zeros(0, dtype=int)
    data = np.concatenate([data for _, data in parts]) if parts else np.zeros(0)
    made = sp.csr_matrix((data, (owner, column)), shape=(len(parts), rows.shape[1]))
    r, c, v = (
        (np.array(x) for x in zip(*mix, strict=True)) if mix else (np.zeros(0, int), np.zeros(0, int), np.zeros(0))
    )
    return Functionals(made, sp.csr_matrix((v, (r, c)), shape=(rows.shape[0], len(parts))))


def embed(matrix: sp.csr_matrix, rows: np.ndarray, columns: np.ndarray, shape: tuple[int, int]) -> sp.csr_matrix:
    """Return a matrix of ``shape`` with the entries of another at some rows and columns."""
    entries = matrix.tocoo()
    return sp.csr_matrix((entries.data, (rows[entries.row], columns[entries.col])), shape=shape)


def power_of_two(bound: np.ndarray, cap: float) -> np.ndarray:
    """Return powers of two ≤ 1 that bring bounds below half of a cap."""
    if not np.isfinite(cap):
        return np.ones(len(bound))
    out: np.ndarray = np.exp2(-np.maximum(np.ceil(np.log2(np.maximum(bound, 1e-300) / (cap / 2))), 0.0))
    return out


def shifted(offset: int, width: int, state: Registers) -> Registers:
    """Return the registers as part of a wider tensor."""
    to = offset + np.arange(state.channels)
    empty, top, raw = np.ones(width, dtype=bool), np.zeros(width), np.zeros(width)
    waits = np.zeros(width, dtype=bool)
    empty[to], top[to], raw[to], waits[to] = state.empty, state.top, state.raw, state.waits
    rows = state.read.shape[0]
    read = embed(state.read, np.arange(rows), to, (rows, width))
    unit = None if state.unit is None else int(to[state.unit])
    return Registers(read, state.offset, empty, top, raw, waits, unit)


def require_bent(state: Registers, name: str) -> None:
    """Refuse to read channels that still wait for an activation.

    Raises:
        CapacityError: Naming the module that would read them.
    """
    if state.waits[state.needed].any():
        raise CapacityError(f"'{name}' reads the stream without the activation that its registers wait for")


def same_column(
    columns: sp.csc_matrix, wanted: sp.csc_matrix, placed: Registers, window: np.ndarray, taken: np.ndarray
) -> int:
    """Return a channel that every row reads just as it reads a functional, so that it may be added there; −1 if none.

    What is added is ≥ 0, as is the channel, so activations on the way change nothing.
    """
    wanted = wanted.copy()
    wanted.eliminate_zeros()
    wanted.sort_indices()
    for channel in np.flatnonzero(window & ~placed.empty):
        if channel in taken or placed.raw[channel]:
            continue
        span = slice(columns.indptr[channel], columns.indptr[channel + 1])
        kept = columns.data[span] != 0
        index, data = columns.indices[span][kept], columns.data[span][kept]
        order = np.argsort(index)
        same = np.array_equal(index[order], wanted.indices) and np.array_equal(data[order], wanted.data)
        if len(index) and same:
            return int(channel)
    return -1


def unit_bounds(program: Program) -> list[np.ndarray]:
    """Return upper bounds of every unit over the box, by intervals."""
    size = np.ones(program.z)
    bounds = []
    for layer in program.layers:
        size = np.maximum(layer.weight.maximum(0) @ size + layer.bias, 0.0)
        size = size if layer.top is None else np.minimum(size, layer.top)
        bounds.append(size)
    return bounds


def unit_tops(program: Program) -> list[np.ndarray]:
    """Return the largest values of a program's units, layer by layer.

    Units are affine between the lines at which hinges of single coordinates bend, and on the diagonals of the cells, so
    they are largest at a node. Where the nodes are too many, `unit_bounds` has to do.
    """
    axes = _breaks(program)
    if math.prod(len(axis) for axis in axes) > MOST_NODES:
        return unit_bounds(program)
    nodes = np.stack(np.meshgrid(*axes, indexing="ij")).reshape(program.z, -1)
    tops = [np.zeros(layer.units) for layer in program.layers]
    for start in range(0, nodes.shape[1], NODES_AT_ONCE):
        x = nodes[:, start : start + NODES_AT_ONCE]
        for layer, top in zip(program.layers, tops, strict=True):
            x = np.maximum(layer.weight @ x + layer.bias[:, None], 0.0)
            np.maximum(top, x.max(axis=1), out=top)
    return [np.minimum(top, bound) for top, bound in zip(tops, unit_bounds(program), strict=True)]


def _breaks(program: Program) -> list[np.ndarray]:
    """Return where on each axis units that read one coordinate bend, and the ends."""
    found: list[list[float]] = [[0.0, 1.0] for _ in range(program.z)]
    weight, bias = sp.identity(program.z, format="csr"), np.zeros(program.z)
    for layer in program.layers:
        bias = layer.weight @ bias + layer.bias
        weight = (layer.weight @ weight).tocsr()
        for row in np.flatnonzero(np.diff(weight.indptr) == 1):
            at = weight.indptr[row]
            knot = -bias[row] / weight.data[at] if weight.data[at] else 0.0
            if 0 < knot < 1:
                found[weight.indices[at]].append(round(float(knot), 12))
        if not layer.carried.all():
            break
    return [np.unique(knots) for knots in found]
