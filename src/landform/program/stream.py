"""A program on a residual stream: registers that stay where they are, and blocks that read them and add to them.

A transformer block computes x ← x + V·act(U·norm(x) + a). So a register is a coordinate of the stream, carried for
free; what was a layer of a `Program` becomes one block, or several when it has more units than a block is wide. Only
what later units read must be written to the stream:

- a register a unit (hinges that many hats read in different combinations), or
- a register a *read*: the one linear combination that a later unit, or a whole layer of them, asks for (the pattern
  register τ that every hinge of ψ reads; the pre-activations of strips). It is summed up over blocks.

Whichever takes fewer coordinates is chosen, layer by layer.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from landform.errors import CapacityError
from landform.program.program import Program


@dataclass(frozen=True)
class Block:
    """One block: units read registers (the first block: h), and what they add to the registers.

    Args:
        read: Sparse ``[units, registers]``; in the first block ``[units, z]``.
        bias: ``[units]``.
        linear: Units that pass their pre-activation on unchanged, ``[units]``; the others are ReLUs.
        write: Sparse ``[registers, units]``: what is added to each register.
    """

    read: sp.csr_matrix
    bias: np.ndarray
    linear: np.ndarray
    write: sp.csr_matrix

    def cost(self, per_linear: int) -> int:
        """Return the network units needed when a linear unit takes ``per_linear`` of them."""
        return int((~self.linear).sum()) + per_linear * int(self.linear.sum())


@dataclass(frozen=True)
class StreamProgram:
    """Registers and blocks; the output of channel c is ``register[c] + offset[c]`` after the last block.

    Args:
        blocks: The blocks in order.
        registers: Number of registers, the outputs first.
        offset: Constant of each channel's output.
        z: Coordinates of h.
    """

    blocks: tuple[Block, ...]
    registers: int
    offset: np.ndarray
    z: int

    def __call__(self, h: np.ndarray) -> np.ndarray:
        """Evaluate in float64: points ``[points, z]`` → ``[points, channels]``."""
        out: np.ndarray = (self.held(h)[: len(self.offset)] + self.offset[:, None]).T
        return out

    def held(self, h: np.ndarray) -> np.ndarray:
        """Return what the registers hold after the last block: points ``[points, z]`` → ``[registers, points]``."""
        state = np.zeros((self.registers, len(h)))
        for number, block in enumerate(self.blocks):
            pre = block.read @ (h.T if number == 0 else state) + block.bias[:, None]
            state = state + block.write @ np.where(block.linear[:, None], pre, np.maximum(pre, 0))
        return state

    def weight_to_balance(self) -> float:
        """Return the largest |sum of all registers but the outputs| at the corners and the middle of the box.

        Hinges are convex, so of a sum of them it is the largest.
        """
        corners = np.array([*itertools.product((0.0, 1.0), repeat=min(self.z, 10))])
        h = np.vstack([np.pad(corners, ((0, 0), (0, self.z - corners.shape[1]))), np.full((1, self.z), 0.5)])
        return float(np.abs(self.held(h)[len(self.offset) :].sum(0)).max(initial=0.0))


@dataclass(frozen=True)
class _Layer:
    """Units of one depth: their pre-activations over all earlier variables (h first), and where they start."""

    pre: sp.csr_matrix
    bias: np.ndarray
    linear: bool
    start: int


def to_stream(program: Program, *, room: int, hidden: Sequence[int], per_linear: int = 2) -> StreamProgram:
    """Turn a program of layers into one on a residual stream.

    Args:
        program: Layers that carry what later ones need; here carrying costs nothing.
        room: Coordinates of the stream that registers may take.
        hidden: Hidden units of each block, in order.
        per_linear: Units that a signed value takes: 2 where act(t) − act(−t) = t.

    Returns:
        The program; its output equals that of ``program``.

    Raises:
        CapacityError: Too few coordinates, or too few or too narrow blocks.

    Example:
        >>> from landform.program.compile import compile_pattern
        >>> from landform.pattern import Pattern
        >>> program = compile_pattern(Pattern.from_formula("sphere", resolution=4), None, form="hats")
        >>> stream = to_stream(program, room=60, hidden=[100, 100])
        >>> h = np.random.default_rng(0).random((5, 2))
        >>> import torch
        >>> bool(np.allclose(stream(h), program(torch.from_numpy(h)).numpy()))
        True
    """
    layers, readout, constant = _unrolled(program)
    variables = layers[-1].start + layers[-1].pre.shape[0] if layers else program.z
    demands = [layer.pre for layer in layers[1:]] + [readout]
    registers, reads = _registers(demands, variables)
    if registers.shape[0] > room:
        raise CapacityError(
            f"the pattern needs {registers.shape[0]} coordinates of the residual stream, which has {room} to spare;"
            " lower the resolution or choose another form"
        )
    blocks: list[Block] = []
    for number, layer in enumerate(layers):
        read = layer.pre[:, : program.z] if number == 0 else reads[number - 1]
        done, total = 0, layer.pre.shape[0]
        size = per_linear if layer.linear else 1
        while done < total:
            if len(blocks) >= len(hidden):
                raise CapacityError(
                    f"{total - done} units of the pattern are left after the last of {len(hidden)} blocks; lower the"
                    " resolution, choose another form, or use a deeper or wider network"
                )
            # the coordinates themselves, signed, are the last units of the first layer
            signed = program.z * (per_linear - 1) if number == 0 else 0
            count = min(total - done, (hidden[len(blocks)] - signed) // size)
            if count < 1 or (number == 0 and count < total):
                raise CapacityError(
                    f"a block has {hidden[len(blocks)]} hidden units and {total * size + signed} must be in one; lower"
                    " the resolution"
                )
            part = slice(done, done + count)
            write = registers[:, layer.start + done : layer.start + done + count]
            linear = layer.linear | np.zeros(count, dtype=bool)
            if number == 0:
                linear = _linear_first(layers)
            blocks.append(Block(read[part].tocsr(), layer.bias[part], linear, write.tocsr()))
            done += count
    return StreamProgram(tuple(blocks), registers.shape[0], constant, program.z)


def _linear_first(layers: Sequence[_Layer]) -> np.ndarray:
    """Return which units of the first layer are the coordinates themselves, appended after its ReLUs."""
    total = layers[0].pre.shape[0]
    out = np.zeros(total, dtype=bool)
    out[total - layers[0].pre.shape[1] :] = True
    return out


def _unrolled(program: Program) -> tuple[list[_Layer], sp.csr_matrix, np.ndarray]:
    """Write every ReLU that does bend over the earlier ones and h, carried units multiplied out.

    Variables are numbered: the ReLUs of the first layer, then h itself as ``z`` signed units of the same block, then
    the ReLUs of the second layer, …; the first layer alone reads h.
    """
    z = program.z
    injected = program.layers[0]
    expression = injected.weight.tocsr()  # of the current layer's units, over [h | variables]
    constant = injected.bias.astype(float)
    layers: list[_Layer] = []
    count = z  # columns: h is 0 … z − 1
    if not injected.carried.all():
        raise CapacityError("a stream is injected with h itself; use axis_aligned=True")
    for layer in program.layers[1:]:
        pre = (layer.weight @ expression).tocsr()
        bias = layer.weight @ constant + layer.bias
        bends = np.flatnonzero(~layer.carried)
        start = count
        if len(bends):
            layers.append(_Layer(pre[bends], bias[bends], False, start))
            count += len(bends)
        own = sp.csr_matrix((np.ones(len(bends)), (bends, start + np.arange(len(bends)))), shape=(layer.units, count))
        kept = sp.diags((layer.carried).astype(float)) @ _wide(pre, count)
        expression = (kept + own).tocsr()
        constant = np.where(layer.carried, bias, 0.0)
    readout = (program.readout.weight @ _wide(expression, count)).tocsr()
    offset = program.readout.weight @ constant + program.readout.bias
    return (*_reordered(layers, readout, z, count), offset)


def _wide(matrix: sp.csr_matrix, columns: int) -> sp.csr_matrix:
    out = matrix.tocsr(copy=True)
    out.resize(matrix.shape[0], columns)
    return out


def _reordered(layers: list[_Layer], readout: sp.csr_matrix, z: int, count: int) -> tuple[list[_Layer], sp.csr_matrix]:
    """Move h behind the first layer's ReLUs, as z signed units of it: variables are then what blocks compute.

    h is kept as a multiple by the power of two with which it is read most, so that a norm's rounding, which is relative
    to the stream, is not multiplied afterwards.
    """
    first = layers[0].pre.shape[0] if layers else 0
    order = np.concatenate([np.arange(z, z + first), np.arange(z), np.arange(z + first, count)])
    most = np.ones(z)
    for matrix in [*(layer.pre for layer in layers[1:]), readout]:
        columns = abs(matrix[:, :z]).tocsc()
        most = np.maximum(most, columns.max(axis=0).toarray().reshape(-1))
    scale = 2.0 ** np.floor(np.log2(most))
    shrink = sp.diags(np.concatenate([np.ones(first), 1 / scale, np.ones(count - z - first)]))

    def moved(matrix: sp.csr_matrix) -> sp.csr_matrix:
        return (_wide(matrix, count)[:, order] @ shrink).tocsr()

    if not layers:
        return [_Layer(sp.diags(scale).tocsr(), np.zeros(z), True, 0)], moved(readout)
    head = sp.vstack([layers[0].pre[:, :z], sp.diags(scale)]).tocsr()
    out = [_Layer(head, np.concatenate([layers[0].bias, np.zeros(z)]), False, 0)]
    out += [_Layer(moved(layer.pre), layer.bias, False, layer.start) for layer in layers[1:]]
    return out, moved(readout)


def _registers(demands: Sequence[sp.csr_matrix], variables: int) -> tuple[sp.csr_matrix, list[sp.csr_matrix]]:
    """Choose registers (rows over variables, outputs first) and how each later layer reads them.

    Returns:
        ``[registers, variables]``, and for each later layer ``[units, registers]``.
    """
    outputs = demands[-1]
    rows: list[sp.csr_matrix] = [outputs]
    total = outputs.shape[0]
    owned = np.full(variables, -1)  # register that holds a variable by itself
    pending: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for demand in demands[:-1]:
        used = np.unique(demand.indices[demand.data != 0])
        missing = used[owned[used] < 0]
        unique, index, factor = _distinct(demand)
        if len(missing) <= unique.shape[0]:
            owned[missing] = total + np.arange(len(missing))
            rows.append(
                sp.csr_matrix((np.ones(len(missing)), (np.arange(len(missing)), missing)), (len(missing), variables))
            )
            total += len(missing)
            entries = demand.tocoo()
            pending.append((entries.row, owned[entries.col], entries.data))
        else:
            rows.append(unique)
            reading = np.flatnonzero(index >= 0)
            pending.append((reading, total + index[reading], factor[reading]))
            total += unique.shape[0]
    reads = [
        sp.csr_matrix((data, (row, column)), shape=(demand.shape[0], total))
        for (row, column, data), demand in zip(pending, demands[:-1], strict=True)
    ]
    return sp.vstack(rows).tocsr(), reads


def _distinct(demand: sp.csr_matrix) -> tuple[sp.csr_matrix, np.ndarray, np.ndarray]:
    """Return the distinct rows up to a factor, and for each row which one it is and the factor; −1 for empty rows.

    Factors are powers of two or ±1 only, so that reading a register rounds nothing that the unit itself would not.
    """
    demand = demand.tocsr(copy=True)
    demand.eliminate_zeros()
    demand.sort_indices()
    seen: dict[tuple[bytes, bytes], int] = {}
    chosen: list[tuple[int, float]] = []
    index, factor = np.full(demand.shape[0], -1), np.ones(demand.shape[0])
    for row in range(demand.shape[0]):
        part = slice(demand.indptr[row], demand.indptr[row + 1])
        if part.start == part.stop:
            continue
        data = demand.data[part]
        scale = np.sign(data[0]) * 2.0 ** np.floor(np.log2(abs(data[0])))
        key = (demand.indices[part].tobytes(), (data / scale).tobytes())
        if key not in seen:
            seen[key] = len(chosen)
            chosen.append((row, scale))
        index[row] = seen[key]
        factor[row] = scale / chosen[seen[key]][1]
    picked = demand[[row for row, _ in chosen]] if chosen else sp.csr_matrix((0, demand.shape[1]))
    return picked.tocsr(), index, factor
