"""A stream program in which every block reads only what the block before it wrote.

In a stream whose norms divide each token by a σ of its own, what a block reads arrives multiplied by λ = 1/σ, and what
it adds is multiplied by λ too. Registers of different depth then differ in their power of λ, and a unit that reads
both, or a register and a constant, computes nonsense. So every register that is needed later is passed on, block by
block, and so is a register that holds 1, of which all constants are read: each unit is homogeneous, and the whole
program only gets a factor, the product of the λ.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from landform.errors import CapacityError
from landform.program.stream import Block, StreamProgram


@dataclass(frozen=True)
class LayeredProgram:
    """Blocks in a row; block k reads the registers of stage k − 1 (the first: h), the last of which is 1.

    Args:
        blocks: In order; ``write`` maps to the registers of the block's own stage.
        z: Coordinates of h.
    """

    blocks: tuple[Block, ...]
    z: int

    @property
    def stages(self) -> tuple[int, ...]:
        """Registers that each block writes; those of all but the last end with 1, the last is the output alone."""
        return tuple(block.write.shape[0] for block in self.blocks)

    def hidden(self, per_linear: int = 2) -> tuple[int, ...]:
        """Return the units that each block takes in a network."""
        return tuple(block.cost(per_linear) for block in self.blocks)

    def states(self, h: np.ndarray) -> list[np.ndarray]:
        """Return the registers of every stage at points ``[points, z]``: ``[registers, points]`` each."""
        state, out = h.T, []
        for block in self.blocks:
            pre = block.read @ state + block.bias[:, None]
            state = block.write @ np.where(block.linear[:, None], pre, np.maximum(pre, 0))
            out.append(state)
        return out

    def __call__(self, h: np.ndarray) -> np.ndarray:
        """Evaluate in float64: points ``[points, z]`` → ``[points]``."""
        found: np.ndarray = self.states(h)[-1][0]
        return found


def to_layers(stream: StreamProgram) -> LayeredProgram:
    """Pass every register on, and 1 with them.

    Args:
        stream: A program of one channel without a constant in its output.

    Returns:
        The same function.

    Raises:
        CapacityError: If the output has a constant, which no factor would multiply.

    Example:
        >>> from landform.program.compile import compile_pattern
        >>> from landform.program.stream import to_stream
        >>> from landform.pattern import Pattern
        >>> pattern = Pattern.from_formula("himmelblau", resolution=4)
        >>> stream = to_stream(compile_pattern(pattern, None, form="hats"), room=60, hidden=[100] * 3)
        >>> h = np.random.default_rng(0).random((5, 2))
        >>> bool(np.allclose(to_layers(stream)(h), stream(h)[:, 0]))
        True
    """
    if len(stream.offset) != 1 or stream.offset[0] != 0:
        raise CapacityError("the output of a layered program is one number without a constant of its own")
    live = _live(stream)
    blocks = []
    for number, block in enumerate(stream.blocks):
        last = number == len(stream.blocks) - 1
        before: Sequence[int] = range(stream.z) if number == 0 else live[number - 1]
        place = {register: column for column, register in enumerate(before)}
        read = block.read.tocsc()[:, list(before)]
        passed = [r for r in live[number] if number and r in place]
        write = block.write.tocsr()[live[number]]
        size, units = len(before) + (number > 0), block.read.shape[0]
        # rows: the block's own units, registers passed on, and 1
        rows = [sp.hstack([read, sp.csr_matrix(block.bias[:, None])]) if number else read]
        bias = [block.bias if number == 0 else np.zeros(units)]
        linear = [block.linear]
        columns = [sp.vstack([write, sp.csr_matrix((int(not last), units))])]
        if passed:
            where = ([place[r] for r in passed], [live[number].index(r) for r in passed])
            ones, count = np.ones(len(passed)), np.arange(len(passed))
            rows.append(sp.csr_matrix((ones, (count, where[0])), shape=(len(passed), size)))
            bias.append(np.zeros(len(passed)))
            linear.append(np.ones(len(passed), dtype=bool))
            columns.append(sp.csr_matrix((ones, (where[1], count)), shape=(columns[0].shape[0], len(passed))))
        if not last:
            one = sp.csr_matrix(([1.0], ([0], [size - 1])), shape=(1, size)) if number else sp.csr_matrix((1, size))
            rows.append(one)
            bias.append(np.array([0.0 if number else 1.0]))
            linear.append(np.zeros(1, dtype=bool))  # it is positive: a hinge passes it
            columns.append(sp.csr_matrix(([1.0], ([len(live[number])], [0])), shape=(len(live[number]) + 1, 1)))
        blocks.append(
            Block(sp.vstack(rows).tocsr(), np.concatenate(bias), np.concatenate(linear), sp.hstack(columns).tocsr())
        )
    return LayeredProgram(tuple(blocks), stream.z)


def _live(stream: StreamProgram) -> list[list[int]]:
    """Return the registers of each stage: written by then, and read later or the output."""
    needed: set[int] = {0}
    out: list[list[int]] = []
    for block in reversed(stream.blocks):
        out.append(sorted(needed))
        needed |= _columns(block.read)
    out.reverse()
    written: set[int] = set()
    for number, block in enumerate(stream.blocks):
        written |= {int(r) for r in np.flatnonzero(np.diff(block.write.tocsr().indptr))}
        last = number == len(stream.blocks) - 1
        out[number] = [r for r in out[number] if r in written or last]
    return out


def _columns(matrix: sp.csr_matrix) -> set[int]:
    """Return the columns that hold anything."""
    return {int(c) for c in np.unique(matrix.tocsr().indices)}
