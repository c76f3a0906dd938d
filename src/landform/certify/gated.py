"""Read a network of tanh's, in which one unit gates another, as steps.

The verifier takes the layers behind the injected one two by two (`imprint/lower/gated.py` says why) and finds in each
pair what it needs to see:

- a unit of the second layer that reads one unit of the first, with weight 1 and without constant: it carries;
- two units p = (w·lin + H·gate − H) and q = (H·gate − H), the row of gate a positive power of two times that of lin,
  and every later row reading p and q with opposite weights.

Then p − q is relu(x), x = w·lin ≤ c, up to an error δ that depends on the gate. With B = 2H, at which tanh is ±1 in
the dtype, and u the roundoff:

- closed, x < −wB/ratio: both are tanh of −B or less, −1 exactly, and δ = 0;
- open, x > wB/ratio: q = tanh(0) = 0. However the three numbers x, H and −H are added, H ± x or nothing is rounded
  before the last sum, so the argument of p is x to within u·(H + 2c), and δ = x³/3 + u·(H + 10c), 8 of x for tanh;
- between: p is rounded thrice by at most B and a bit, q once; tanh itself and a product twice, of 1 at most. What is
  added then is u·(6B + 20 + 8c) + 2wB/ratio, for all of x is in doubt.

The rows of lin and gate round apart, by r each at most. So gates may be between, or the wrong way, down to
x = −2r − wB/ratio, and relu(x) is off by as much where they may be: in cells where x comes that near to 0. Averages in
between are no exact copies of ±1: what they round counts everywhere. A row that reads k hinges adds k numbers −w and
as many w, so 2k terms are rounded, and no partial sum is larger than Σ|w| and what hinges and others are worth.
"""

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
import torch

from landform.certify.network import Gates, Network, Step
from landform.certify.proof_error import ProofError
from landform.certify.rounding import SLACK
from landform.imprint.lower.activation import STRAIGHT, TANH_ROUNDINGS
from landform.imprint.lower.gated import SATURATED, SIZE

ABOVE = 8.0  # c as a multiple of what is written: rounding may take x above that; errors are those of x itself


@dataclass(frozen=True)
class Layer:
    """A map between channels, tanh behind it, as stored.

    Args:
        weight: ``[units, inputs]``; of the injected layer, what the directions add, ``[units, z]``.
        bias: ``[units]``.
        averaged: Roundings of the averages behind it, in units of the numbers averaged.
    """

    weight: sp.csr_matrix
    bias: np.ndarray
    averaged: float = 0.0


@dataclass(frozen=True)
class _Read:
    """What a tensor holds: which of its channels are followed, and which of them are less another one.

    Args:
        channels: The channel of each unit, in the order of the steps.
        minus: The channel that is subtracted from it, −1 for none.
        roundings: What the units rounded since the last step, relative to themselves.
        averaged: Roundings of averages since then, relative to the numbers that cancel.
    """

    channels: np.ndarray
    minus: np.ndarray
    roundings: float = 0.0
    averaged: float = 0.0


def gated_network(layers: list[Layer], heads: list[Layer], dtype: torch.dtype, roundoff: float) -> Network:
    """Return the steps of a chain of tanh's.

    Args:
        layers: The hidden layers, the injected one first.
        heads: The maps behind the last one.
        dtype: Dtype of the network.
        roundoff: Its unit roundoff.

    Returns:
        The network restricted to the subspace.

    Raises:
        ProofError: Some unit that is read is neither carried nor half of a hinge.
    """
    needed = _needed(layers, heads)
    odd = (len(layers) - 1) % 2
    first, read = _carrying(layers[0], None, needed[0], 0)
    steps = [first]
    if odd:
        step, read = _carrying(layers[1], read, needed[1], 0)
        steps.append(step)
    for number in range(1 + odd, len(layers), 2):
        stage = (number - odd + 1) // 2
        made, read = _pair(layers[number], layers[number + 1], read, needed[number + 1], stage, dtype, roundoff)
        steps += made
    ends = [_step(head, np.arange(len(head.bias)), read, 1.0, -1) for head in heads]
    return Network(tuple(steps), tuple(ends), dtype, roundoff)


def _needed(layers: list[Layer], heads: list[Layer]) -> list[np.ndarray]:
    """Return which units of each layer are read, from the heads backwards."""
    found = [np.unique(np.concatenate([head.weight.indices[head.weight.data != 0] for head in heads]))]
    for layer in layers[:0:-1]:
        rows = layer.weight[found[0]]
        found.insert(0, np.unique(rows.indices[rows.data != 0]))
    return [units if len(units) else np.zeros(1, dtype=int) for units in found]


def _step(layer: Layer, rows: np.ndarray, read: _Read | None, slope: float, stage: int, *, cap: float = np.inf) -> Step:
    """Return some rows of a layer as a step that reads the units followed, tanh being the identity."""
    own, bias = layer.weight[rows].tocsr(), layer.bias[rows]
    tanh = TANH_ROUNDINGS + layer.averaged if cap < np.inf else layer.averaged
    weight, roundings, offset = own, tanh, tanh * np.abs(bias)
    if read is not None:
        weight, roundings = own[:, read.channels].tocsr(), roundings + read.roundings
        pairs = read.minus >= 0
        less = own[:, read.minus[pairs]]
        if (weight[:, pairs] + less).nnz and abs(weight[:, pairs] + less).max() > 0:
            raise ProofError("some row reads two units that gate each other with weights that are not opposite")
        counts = np.diff(own.indptr) + 2.0
        half = np.asarray(abs(weight[:, pairs]).sum(axis=1)).ravel()  # what cancels: as much of either sign
        more = float(np.diff(less.indptr).max(initial=0))  # terms that are not in ``weight``
        roundings, offset = roundings + more, offset + (counts + 2 * read.averaged) * half + more * np.abs(bias)
    return Step.stored(weight, bias, slope, stage, roundings=roundings, offset=offset, cap=cap, moved=True)


def _carrying(layer: Layer, read: _Read | None, rows: np.ndarray, stage: int) -> tuple[Step, _Read]:
    """Return a layer whose units are all so small that tanh is the identity."""
    step = _step(layer, rows, read, 1.0, stage, cap=STRAIGHT["tanh"])
    return step, _Read(rows, np.full(len(rows), -1))


def _pair(
    first: Layer, second: Layer, read: _Read, needed: np.ndarray, stage: int, dtype: torch.dtype, roundoff: float
) -> tuple[list[Step], _Read]:
    """Return two layers as a step of small numbers and one of hinges, beside which the others are kept."""
    carried, hinges, partners = _units(second, needed)
    lin = np.array([line for _, line, *_ in hinges] + [line for _, line in carried], dtype=int)
    small = _step(first, lin, read, 1.0, stage, cap=STRAIGHT["tanh"])
    rates = np.array([_ratio(first, line, gate) for _, line, gate, _, _ in hinges])
    weights = np.array([weight for *_, weight, _ in hinges])
    half = np.array([half for *_, half in hinges])
    if len(half) and not (half.min() * 2 >= SATURATED[dtype] and (np.frexp(half)[0] == 0.5).all()):
        raise ProofError(f"gates move tanh by {2 * half.min():g} only; the proof needs {SATURATED[dtype]:g}")
    cap, size = ABOVE * SIZE[dtype], 2 * float(half.max(initial=0.0))
    width = float((np.abs(weights) * 2 * size / rates).max(initial=0.0))
    count = len(hinges)
    slip = np.abs(weights) * _rounded(small, read, dtype, roundoff)[:count]
    gates = Gates(
        width=width,
        open=roundoff * (size / 2 + 10 * cap),
        between=roundoff * (6 * size + 20 + 8 * cap) + 2 * width + 2 * slip,
        always=roundoff * 2 * (first.averaged + second.averaged) * (size + 1),
    )
    bent = sp.csr_matrix((weights, (np.arange(count), np.arange(count))), shape=(count, len(lin)))
    hinge = Step.stored(
        bent,
        np.zeros(count),
        0.0,
        stage,
        kept=np.arange(count, len(lin)),
        cap=cap,
        smooth=SLACK * (cap**3 / 3 + gates.open + float(gates.between.max(initial=0.0)) + gates.always),
        moved=True,
        gates=gates,
    )
    channels = np.array([row for row, *_ in hinges] + [row for row, _ in carried], dtype=int)
    minus = np.concatenate([partners, np.full(len(carried), -1)]).astype(int)
    return [small, hinge], _Read(channels, minus, TANH_ROUNDINGS + 1 + second.averaged, second.averaged)


def _rounded(step: Step, read: _Read, dtype: torch.dtype, roundoff: float) -> np.ndarray:
    """Bound what sums may round, whatever the numbers they read: their caps are checked."""
    most = np.where(read.minus >= 0, ABOVE * SIZE[dtype], STRAIGHT["tanh"])
    size = abs(step.weight) @ most + np.abs(step.bias)
    count = np.diff(step.weight.indptr) + step.roundings + 2.0
    out: np.ndarray = SLACK * roundoff * (count * size + step.offset)
    return out


Hinge = tuple[int, int, int, float, float]


def _units(layer: Layer, needed: np.ndarray) -> tuple[list[tuple[int, int]], list[Hinge], np.ndarray]:
    """Return which rows carry (row, lin), which are hinges (row, lin, gate, w, H), and the partner of each hinge."""
    carried: list[tuple[int, int]] = []
    hinges: list[Hinge] = []
    partner: dict[int, tuple[int, float]] = {}
    for row in needed:
        span = slice(layer.weight.indptr[row], layer.weight.indptr[row + 1])
        index, data, half = layer.weight.indices[span], layer.weight.data[span], -float(layer.bias[row])
        index, data = index[data != 0], data[data != 0]
        gates = np.flatnonzero(data == half)
        if half == 0 and len(data) == 1 and data[0] == 1:
            carried.append((int(row), int(index[0])))
        elif half > 0 and len(data) == 1 and len(gates) == 1:
            partner[int(index[0])] = (int(row), half)
        elif half > 0 and len(data) == 2 and len(gates) == 1 and data[1 - gates[0]] > 0:
            other = 1 - int(gates[0])
            hinges.append((int(row), int(index[other]), int(index[gates[0]]), float(data[other]), half))
        else:
            raise ProofError(f"unit {row} of a layer of tanh's is neither carried nor gated")
    for row, _, gate, _, half in hinges:
        if partner.get(gate, (0, 0.0))[1] != half:
            raise ProofError(f"unit {row} of a layer of tanh's has no partner that reads the same gate")
    if len({gate for _, _, gate, _, _ in hinges}) != len(hinges) or len(partner) != len(hinges):
        raise ProofError("a gate of a layer of tanh's is not that of one hinge alone")
    return carried, hinges, np.array([partner[gate][0] for _, _, gate, _, _ in hinges], dtype=int)


def _ratio(layer: Layer, line: int, gate: int) -> float:
    """Return by what a gate's row is larger than that of the number that it gates."""
    small, large = layer.weight[line], layer.weight[gate]
    data, bias = np.append(small.data, layer.bias[line]), np.append(large.data, layer.bias[gate])
    some = np.flatnonzero(data)
    if not len(some):  # a hinge that is never on
        if bias.any():
            raise ProofError(f"unit {gate} gates unit {line}, which reads nothing")
        return np.inf
    ratio = float(bias[some[0]] / data[some[0]])
    same = np.array_equal(small.indices, large.indices) and np.array_equal(ratio * data, bias)
    if not (same and ratio > 0 and np.frexp(ratio)[0] == 0.5):
        raise ProofError(f"unit {gate} gates unit {line}, but does not read a power of two times what that reads")
    return ratio
