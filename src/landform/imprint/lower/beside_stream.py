"""Write a layered program into the blocks behind a trained language model, where no trained part can see it.

The blocks behind the trained ones compute s(h) in coordinates of the stream that the trained network does not use:

- **In.** The first of them has a norm with gains 0: its output is its bias, and z coordinates of that bias are h.
- **Small.** Registers are held as ε·u, ε a power of two so small that the last norm, which the trained logits need,
  does not feel them: its σ² moves by 2⁻²² of itself at most.
- **Reading.** A norm of gain G at two coordinates, a register's and one that is always 0, gives (G ε/σ_i)·u as their
  difference: the mean, and its rounding, cancel. All constants are read from a register that holds 1, so a unit's
      input is
  λ·(what it should be), and with it what all blocks compute together: token i gets g_i·s(h), g_i = Π λ.
- **Ballast.** Between the first and the last of these blocks two more coordinates hold ±C, several times what the
  trained stream holds, so there σ_i hardly depends on the token. Both are written from a bias, hence exactly, and
  taken away exactly. What remains of g_i is 1/σ_i of the last norm, the factor that the trained logits have as well.
- **Out.** The head reads the difference of s's coordinate and the zero along v.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from landform.errors import ArchitectureError
from landform.imprint.lower.anatomy import Anatomy
from landform.imprint.lower.smooth import SATURATED, STEEP, units_of
from landform.imprint.lower.stream import Map, Mlp
from landform.program.layered import LayeredProgram
from landform.program.stream import Block

FAINT = {torch.float32: 2.0**-11, torch.float64: 2.0**-26}
"""Largest size of all registers together, as a fraction of the trained stream of any token."""
BALLAST = 2.0
"""C, at least so many times the trained stream of any token: σ then differs by 6 % between tokens at most."""

FEWEST = 64
"""Units of the smallest perceptron: activations are told apart by what they do to random numbers, a few are too few."""


@dataclass(frozen=True)
class Scales:
    """The numbers that fit a program to a trained stream.

    Args:
        faint: ε.
        ballast: C.
        middle: G of the norms between, as the network stores it.
        last: G of the last norm.
    """

    faint: float
    ballast: float
    middle: float
    last: float


@dataclass(frozen=True)
class Place:
    """Which coordinates are what: from ``width`` on a zero, ±C, and the registers of one stage after the other.

    Args:
        width: Coordinates of the trained stream.
        stages: Registers of each stage.
    """

    width: int
    stages: tuple[int, ...]

    @property
    def zero(self) -> int:
        """The coordinate that is always 0."""
        return self.width

    @property
    def plus(self) -> int:
        """The coordinate of +C, the next is −C."""
        return self.width + 1

    def stage(self, number: int) -> slice:
        """Return the coordinates of a stage."""
        start = self.width + 3 + sum(self.stages[:number])
        return slice(start, start + self.stages[number])

    @property
    def signal(self) -> int:
        """The coordinate of s."""
        return int(self.stage(len(self.stages) - 1).start)

    def needed(self, z: int) -> int:
        """Return the coordinates that a stream needs beside its own."""
        return max(3 + sum(self.stages), z + 1)


def place_of(width: int, program: LayeredProgram) -> Place:
    """Lay a program out beside a stream of some width."""
    return Place(width, program.stages)


def hidden_of(program: LayeredProgram) -> list[int]:
    """Return the hidden units that each block needs: the first and the last move the ballast."""
    sizes = list(program.hidden())
    sizes[0] += 1
    sizes[-1] += 1
    return [max(FEWEST, size) for size in sizes]


def require_layer_norms(anatomy: Anatomy) -> None:
    """Refuse streams whose norms have no bias, and gated perceptrons.

    Raises:
        ArchitectureError: Naming what is missing.
    """
    last = anatomy.stream.mlps[-1]
    if any(norm.kind != "layer" for norm in anatomy.norms) or last.norm.bias is None or last.gate is not None:
        kind = "gated perceptrons" if last.gate is not None else "norms without a bias (RMSNorm)"
        raise ArchitectureError(
            f"the network has {kind}; Theorem 2 in language models lets h enter at the bias of a LayerNorm, behind"
            " which comes a plain perceptron (GPT-2 and its like). method='constant' covers this network"
        )


def scales_of(sizes: Tensor, width: int, eps: tuple[float, float], most: float, dtype: torch.dtype) -> Scales:
    """Choose ε, C and the gains.

    Args:
        sizes: Σ (x − mean)² of the trained stream of each token.
        width: Coordinates of the stream.
        eps: ε of the norms between, and of the last one.
        most: Largest |u| over h.
        dtype: Of the network.

    Returns:
        The scales; the gains make g about 1.
    """
    least, largest = float(sizes.min()), float(sizes.max())
    faint = 2.0 ** np.floor(np.log2(FAINT[dtype] * least**0.5 / most))
    ballast = 2.0 ** np.ceil(np.log2(BALLAST * largest**0.5))
    middle = ((2 * ballast**2 + largest) / width + eps[0]) ** 0.5
    last = float((sizes / width + eps[1]).log().mean().div(2).exp())

    def stored(value: float) -> float:
        return float(torch.tensor(value / faint, dtype=dtype))

    return Scales(float(faint), float(ballast), stored(middle), stored(last))


def gains_of(sizes: Tensor, width: int, eps: Sequence[float], scales: Scales) -> Tensor:
    """Return g_i = Π λ: what s is multiplied by on its way to the logits of token i.

    Args:
        sizes: Σ (x − mean)² of the trained stream of each token.
        width: Coordinates of the stream.
        eps: ε of the norms that read registers, the last one at the end.
        scales: The scales.
    """
    out = torch.ones_like(sizes)
    for value in eps[:-1]:
        out = out * (scales.middle * scales.faint) / ((sizes + 2 * scales.ballast**2) / width + value).sqrt()
    return out * (scales.last * scales.faint) / (sizes / width + eps[-1]).sqrt()


def write_beside(
    model: nn.Module, anatomy: Anatomy, program: LayeredProgram, place: Place, scales: Scales, ray: Tensor
) -> tuple[dict[str, Tensor], ...]:
    """Write a program into the last blocks of a model that has grown, in place.

    Args:
        model: The network with room.
        anatomy: Its parts, the new blocks included.
        program: What they shall compute.
        place: Where.
        scales: ε, C and gains.
        ray: v, ``[outputs]``.

    Returns:
        The directions.
    """
    mlps = anatomy.stream.mlps[-len(program.blocks) :]
    z, directions = program.z, []
    with torch.no_grad():
        for number, (mlp, block) in enumerate(zip(mlps, program.blocks, strict=True)):
            first, last = number == 0, number == len(mlps) - 1
            rows, constant = (
                _first(model, mlp, block, place, z) if first else _reads(model, mlp, block, place, number, scales)
            )
            write = np.zeros((anatomy.stream.width, block.read.shape[0]))
            write[place.stage(number)] = scales.faint * block.write.toarray()
            dtype = next(model.parameters()).dtype
            steep = 1.0 if mlp.activation == "relu" else STEEP[dtype]
            up, _, down = units_of(rows, write, block.linear, constant, steep, gated=False)
            if first or last:
                if last:
                    _bias(model, mlp)[place.plus] = 1.0
                    constant = np.zeros(anatomy.stream.width)
                    constant[place.plus] = 1.0
                column = np.zeros(anatomy.stream.width)
                column[[place.plus, place.plus + 1]] = np.array([1, -1]) * scales.ballast * (1 if first else -1)
                up = np.vstack([up, SATURATED * constant])
                down = np.column_stack([down, column / SATURATED])
            _store(model, mlp.up, up)
            _store(model, mlp.down, down)
        _head(model, anatomy, place, scales, ray)
        name = mlps[0].norm.bias
        assert name is not None
        for coordinate in range(place.width, place.width + z):
            direction = torch.zeros_like(model.get_parameter(name))
            direction[coordinate] = 1.0
            directions.append({name: direction})
    return tuple(directions)


def _bias(model: nn.Module, mlp: Mlp) -> Tensor:
    assert mlp.norm.bias is not None
    return model.get_parameter(mlp.norm.bias).data


def _first(model: nn.Module, mlp: Mlp, block: Block, place: Place, z: int) -> tuple[np.ndarray, np.ndarray]:
    """Return rows over a norm's output that is its bias: h in z coordinates, 1 in the next."""
    bias = _bias(model, mlp)
    one = place.width + z
    bias[one] = 1.0
    rows = np.zeros((block.read.shape[0], len(bias)))
    rows[:, place.width : one] = block.read.toarray()
    rows[:, one] = block.bias
    constant = np.zeros(len(bias))
    constant[one] = 1.0
    return rows, constant


def _reads(
    model: nn.Module, mlp: Mlp, block: Block, place: Place, number: int, scales: Scales
) -> tuple[np.ndarray, np.ndarray]:
    """Return rows over a norm's output that read the stage before, each less the zero coordinate."""
    gain = model.get_parameter(mlp.norm.gain).data
    before = place.stage(number - 1)
    gain[before] = scales.middle - mlp.norm.gain_offset
    gain[place.zero] = scales.middle - mlp.norm.gain_offset
    dense = block.read.toarray()
    rows = np.zeros((len(dense), len(gain)))
    rows[:, before] = dense
    stored = torch.from_numpy(dense).to(gain.dtype).double().numpy()  # what is subtracted is what is read
    rows[:, place.zero] = -stored.sum(1)
    return rows, np.zeros(len(gain))


def _head(model: nn.Module, anatomy: Anatomy, place: Place, scales: Scales, ray: Tensor) -> None:
    final, head = anatomy.stream.final, anatomy.stream.head
    gain = model.get_parameter(final.gain).data
    gain[[place.signal, place.zero]] = scales.last - final.gain_offset
    weight = model.get_parameter(head.weight).data
    weight = weight.T if head.transposed else weight
    weight[:, place.signal] = ray.to(weight.dtype)
    weight[:, place.zero] = -ray.to(weight.dtype)


def _store(model: nn.Module, which: Map, values: np.ndarray) -> None:
    """Store ``[out, in]`` in the first rows and columns of a map that is zero."""
    parameter: Any = model.get_parameter(which.weight).data
    weight = parameter.T if which.transposed else parameter
    rows, columns = values.shape
    if rows > weight.shape[0] or columns > weight.shape[1]:
        raise ArchitectureError(f"'{which.name}' is {tuple(weight.shape)}, too small for {values.shape}")
    weight[:rows, :columns] = torch.from_numpy(values).to(weight.dtype)
