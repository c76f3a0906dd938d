"""Write a `StreamProgram` into a transformer: norms, smooth activations, gated units and all.

What each part does here:

- **Activation.** a(t) − a(−t) = t for GELU, SiLU and ReLU, so two units pass a signed number exactly. A hinge is
  a(βt)/β with β a power of two: it differs from relu(t) only within some 40/β of the knot, by at most 0.17/β (GELU) or
  0.28/β (SiLU).
- **Stem.** Where the bias of a Linear or convolution starts the stream of every token, h enters there, beside +C and
  −C (RMSNorm: C), and is read as all registers are.
- **LayerNorm.** Gain 0 makes its output its bias: that is where h enters otherwise. Further on the stream carries a
  pair (+C, −C), so its variance is 2C²/d·(1 + |u|²/2C²) whatever the registers u hold, and a gain of C·√(2/d) reads a
  register back as λ·u, λ = (1 + |u|²/2C²)^−½. Each read subtracts a coordinate that is 0, which cancels the mean and
  its rounding; constants are read from the pair, so that a whole unit is scaled by λ and by nothing else.
  Coordinates that are left over hold the registers' sum, negative, so that the mean is (nearly) 0 at all.
- **RMSNorm.** No mean and no bias: one coordinate C of the embedding is the constant, and z more, C0 each, are read as
  gain·C0/rms = gain: the *gains* of these coordinates are h. Behind a stem, C is one of its biases, and so are they.
- **Gated unit.** a(gate)·up: the hinge is in the gate, up reads 1; a signed number is up times a saturated gate.
- **Mixers** (attention) get zero weights and add zero.
- **Tied head.** The embedding is ε·(p0, v, −v, 0 …); coordinates it touches get constants so much larger that its own
  value is lost in rounding, so every token starts the same stream.

After Czarnecki et al., arXiv 1912.07559, Theorem 1, whose injection is a bias of the first layer; a transformer with
embeddings has norms there, and the result says so.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from landform.errors import ArchitectureError, CapacityError
from landform.imprint.lower.checks import refuse_computed, refuse_quantised
from landform.imprint.lower.stream import Map, Mlp, Norm, Stream
from landform.program.stream import Block, StreamProgram

PAIR_SIZE = {torch.float32: 2.0**20, torch.float64: 2.0**30}
"""C: large, so that the norm hardly feels the registers; its rounding is cancelled in every read."""
STEEP = {torch.float32: 2.0**20, torch.float64: 2.0**40}
"""β: the steepness of smooth hinges."""
SATURATED = 64.0
"""a(64) = 64 in every dtype, for every activation covered."""
FAINT = {torch.float32: 2.0**-26, torch.float64: 2.0**-55}
"""ε of tied embeddings: below half an ulp of the constants that it is added to."""


BALANCES = 8
"""Coordinates that balance the others at most."""
LIGHT = 2.0**-15
"""Share of σ² that they may have: λ then feels h no more than it does by rounding."""


def balances(program: StreamProgram, spare: int, size: float) -> int:
    """Return how many spare coordinates hold −1/m of the sum of all registers each, so that the mean is 0.

    A norm subtracts the mean from every register and rounds the difference, which near a hinge's knot is nearly all
    there is to round. A power of two, so that dividing is exact; 0 where none is spare, or they would be too heavy.

    Args:
        program: What is written; the outputs do not count, since ψ writes nothing else.
        spare: Coordinates that are left.
        size: C.
    """
    count = int(2 ** np.floor(np.log2(min(spare, BALANCES)))) if spare > 0 else 0
    return count if count and program.weight_to_balance() ** 2 / count <= LIGHT * 2 * size**2 else 0


@dataclass(frozen=True)
class Layout:
    """Which coordinate of the stream is what.

    Args:
        zero: Subtracted from every read (LayerNorm only, else −1).
        plus: +C, the constant.
        minus: −C (LayerNorm only, else −1).
        injected: Coordinates of the first norm's output that are h.
        base: Coordinate of the constant logits p0 of a tied head, else −1.
        still: Coordinate that the tied head subtracts, else −1.
        first: Where the registers start; the output register is the first of them.
        extra: Hidden units that constants take in the first block.
    """

    zero: int
    plus: int
    minus: int
    injected: tuple[int, ...]
    base: int
    still: int
    first: int
    extra: int


@dataclass(frozen=True)
class LoweredStream:
    """Parameters to write, how the coordinates enter, and where everything is."""

    parameters: dict[str, Tensor]
    directions: tuple[dict[str, Tensor], ...]
    layout: Layout
    injected: str


def layout_of(stream: Stream, z: int) -> Layout:
    """Choose the coordinates of a stream.

    Raises:
        ArchitectureError: The network cannot start a constant stream.
    """
    rms = _is_rms(stream)
    if len({norm.kind for norm in (*(mlp.norm for mlp in stream.mlps), stream.final)}) > 1:
        raise ArchitectureError("the model mixes LayerNorm and RMSNorm on one stream; landform covers one kind")
    if rms and stream.tokens is None and stream.stem is None:
        raise ArchitectureError(
            "a stream under RMSNorm needs a constant to begin with, from one embedding table of full width or the bias"
            " of a first Linear or convolution; this network has neither"
        )
    if not rms and stream.stem is None and stream.mlps[0].norm.bias is None:
        raise ArchitectureError(
            f"norm '{stream.mlps[0].norm.name}' has no bias to inject the coordinates into; use LayerNorm(bias=True)"
        )
    tied = stream.tied is not None
    names = ["plus"] if rms else ["zero", "plus", "minus"]
    names += (["base"] if rms else ["base", "still"]) if tied else []
    place = {name: number for number, name in enumerate(names)}
    early = rms or stream.stem is not None  # h is in the stream from its start
    injected = tuple(len(names) + i for i in range(z)) if early else tuple(range(z))
    return Layout(
        place.get("zero", -1),
        place["plus"],
        place.get("minus", -1),
        injected,
        place.get("base", -1),
        place.get("still", -1),
        len(names) + (z if early else 0),
        0 if early and not tied else 1,
    )


def room_of(stream: Stream, z: int) -> tuple[int, list[int], int]:
    """Return what a program may use: coordinates, hidden units of each block, units that a signed value takes."""
    layout = layout_of(stream, z)
    hidden = [mlp.hidden for mlp in stream.mlps]
    hidden[0] -= layout.extra
    return stream.width - layout.first, hidden, 1 if stream.mlps[0].gate is not None else 2


def _is_rms(stream: Stream) -> bool:
    return stream.final.kind == "rms"


def check_weights(model: nn.Module) -> None:
    """Refuse what cannot be written: mixed or half precision, frozen or absent parameters, other devices, train mode.

    Raises:
        ArchitectureError: Naming the parameter or module and what to do.
    """
    refuse_quantised(model)
    refuse_computed(model)
    for name, parameter in model.named_parameters():
        if parameter.is_meta:
            raise ArchitectureError(f"parameter '{name}' is on the meta device; load the weights first")
        if parameter.device.type != "cpu":
            raise ArchitectureError(f"parameter '{name}' is on {parameter.device}; call model.cpu() first")
        if parameter.dtype not in PAIR_SIZE:
            raise ArchitectureError(
                f"parameter '{name}' has dtype {parameter.dtype}; the construction needs float32 or float64: call"
                " model.float() or model.double() first"
            )
        if not parameter.requires_grad:
            raise ArchitectureError(f"parameter '{name}' is frozen; call model.requires_grad_(True)")
    if len({p.dtype for p in model.parameters()}) > 1:
        raise ArchitectureError("the model mixes float32 and float64; convert it to one of them")
    training = next((n for n, m in model.named_modules() if m.training and isinstance(m, nn.Dropout) and m.p), None)
    if training is not None:
        raise ArchitectureError(f"module '{training}' drops units in train mode; call model.eval() first")


def write_stream(
    stream: Stream, program: StreamProgram, model: nn.Module, best: np.ndarray, ray: np.ndarray, *, reach: float
) -> LoweredStream:
    """Compute the parameters that make the network emit ``best + ray · s(h)`` at every position.

    Args:
        stream: The structure of the network.
        program: Its output is s.
        model: The network, for shapes and dtypes; it is not changed.
        best: p0, ``[outputs]``.
        ray: v, ``[outputs]``.
        reach: Bound of |s| and of its partial sums.

    Returns:
        What to write: every parameter of the network.

    Raises:
        CapacityError: The program does not fit.
    """
    layout = layout_of(stream, program.z)
    if layout.first + program.registers > stream.width:
        raise CapacityError(
            f"the pattern needs {layout.first + program.registers} coordinates, the stream has {stream.width}"
        )
    dtype = next(model.parameters()).dtype
    out = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    end = layout.first + program.registers
    count = 0 if _is_rms(stream) else balances(program, stream.width - end, PAIR_SIZE[dtype])
    writer = _Writer(stream, layout, out, dtype, slice(end, end + count))
    directions, injected = writer.injection(program.z)
    for number, block in enumerate(program.blocks):
        writer.block(number, block, first=number == 0, reach=reach)
    for mlp in stream.mlps:
        if mlp.scale is not None:
            out[mlp.scale].fill_(1.0)
        if mlp.tap is not None:
            mlp.tap.middle(out[mlp.tap.weight]).fill_(1.0)
    for norm in (*(mlp.norm for mlp in stream.mlps), stream.final):
        if norm.gain_offset:
            out[norm.gain] -= norm.gain_offset
    writer.head(best + ray * program.offset[0], ray, reach)
    return LoweredStream(out, directions, layout, injected)


class _Writer:
    """Fills the parameters, one part at a time."""

    def __init__(
        self, stream: Stream, layout: Layout, out: dict[str, Tensor], dtype: torch.dtype, balance: slice
    ) -> None:
        self.stream, self.layout, self.out, self.dtype = stream, layout, out, dtype
        self.rms = _is_rms(stream)
        self.size, self.balance = PAIR_SIZE[dtype], balance

    def gain(self, z: int) -> float:
        """Return the gain that reads a register back: C·√(2/d) under LayerNorm, rms of the constants under RMSNorm."""
        d = self.stream.width
        if self.rms and self.stream.stem is None:
            return self.small(z)
        squares = 1 if self.rms else 2  # of C
        return float(torch.tensor(self.size * (squares / d) ** 0.5, dtype=self.dtype))

    def small(self, z: int) -> float:
        """Return C0 = C/√(d − z), for which C0/rms = 1 in an embedding (C, C0, …, C0, 0, …)."""
        return float(torch.tensor(self.size / (self.stream.width - z) ** 0.5, dtype=self.dtype))

    def injection(self, z: int) -> tuple[tuple[dict[str, Tensor], ...], str]:
        """Let h enter at the first perceptron's norm."""
        norm, layout = self.stream.mlps[0].norm, self.layout
        if self.stream.stem is not None:
            key = self.stream.stem.bias
            self.out[key][layout.plus] = self.size
            if not self.rms:
                self.out[key][layout.minus] = -self.size
            words = f"biases of '{self.stream.stem.name}', the layer that starts the stream, whose weights are 0"
        elif self.rms:
            assert self.stream.tokens is not None
            table = self.out[self.stream.tokens]
            table[:, layout.plus] = self.size
            table[:, list(layout.injected)] = self.small(z)
            self.out[norm.gain][layout.plus] = self.small(z) / self.size  # reads 1
            key, words = norm.gain, f"gains of '{norm.name}' on constant coordinates (the network has no biases there)"
        else:
            assert norm.bias is not None
            self.out[norm.bias][z] = 1.0  # reads 1
            key, words = norm.bias, f"biases of '{norm.name}', a normalisation whose gains are 0"
        directions = []
        for coordinate in layout.injected:
            direction = torch.zeros_like(self.out[key])
            direction[coordinate] = 1.0
            directions.append({key: direction})
        self.z = z
        return tuple(directions), words

    def block(self, number: int, block: Block, *, first: bool, reach: float) -> None:
        """Write one block of units into a perceptron."""
        mlp = self.stream.mlps[number]
        if first and self.stream.stem is None:
            one = self.layout.plus if self.rms else self.z
            columns = np.array(self.layout.injected)
            read = np.zeros((block.read.shape[0], self.stream.width))
            read[:, columns] = block.read.toarray()
            read[:, one] = block.bias
            constant = np.zeros(self.stream.width)
            constant[one] = 1.0
        else:
            read, constant = self.reads(mlp.norm, block, self.layout.injected[0] if first else self.layout.first)
        steep = 1.0 if mlp.activation == "relu" else STEEP[self.dtype]
        write = np.zeros((self.stream.width, block.read.shape[0]))
        write[self.layout.first : self.layout.first + block.write.shape[0]] = block.write.toarray()
        weigh(write, slice(self.layout.first + 1, self.layout.first + block.write.shape[0]), self.balance)
        rows, gates, columns_out = units_of(read, write, block.linear, constant, steep, gated=mlp.gate is not None)
        if first and self.layout.extra:
            rows, gates, columns_out = self.constants(rows, gates, columns_out, constant, reach, mlp)
        _fill(self.out, mlp, rows, gates, columns_out)

    def reads(self, norm: Norm, block: Block, start: int) -> tuple[np.ndarray, np.ndarray]:
        """Return rows that read registers (from ``start`` on) and constants behind a norm, and one that reads 1."""
        layout, d = self.layout, self.stream.width
        gain = self.gain(self.z)
        last = start + block.read.shape[1]
        self.out[norm.gain][start:last] = gain
        self.out[norm.gain][layout.plus] = gain / self.size
        dense = block.read.toarray()
        rows = np.zeros((len(dense), d))
        rows[:, start:last] = dense
        rows[:, layout.plus] = block.bias
        constant = np.zeros(d)
        constant[layout.plus] = 1.0
        if not self.rms:
            self.out[norm.gain][layout.zero] = gain
            rows[:, layout.zero] = -(dense.sum(1) + block.bias / self.size)
            constant[layout.zero] = -1.0 / self.size
        return rows, constant

    def constants(
        self,
        rows: np.ndarray,
        gates: np.ndarray | None,
        columns: np.ndarray,
        constant: np.ndarray,
        reach: float,
        mlp: Mlp,
    ) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
        """Add the unit from which the first block writes the stream's constants."""
        layout = self.layout
        column = np.zeros(self.stream.width)
        if not self.rms:
            column[layout.plus], column[layout.minus] = self.size, -self.size
        if layout.base >= 0:
            column[layout.base] = HEAVY
            column[layout.first] = heavy(reach)
            if layout.still >= 0:
                column[layout.still] = heavy(reach)
        weigh(column[:, None], slice(0, self.balance.start), self.balance)
        if mlp.gate is None:
            rows = np.vstack([rows, SATURATED * constant])
            return rows, None, np.column_stack([columns, column / SATURATED])
        assert gates is not None
        rows, gates = np.vstack([rows, constant]), np.vstack([gates, SATURATED * constant])
        return rows, gates, np.column_stack([columns, column / SATURATED])

    def head(self, best: np.ndarray, ray: np.ndarray, reach: float) -> None:
        """Write the last norm and the head."""
        layout, final, head = self.layout, self.stream.final, self.stream.head
        gain = self.gain(self.z)
        s = layout.first
        if layout.base >= 0:
            self.tied_head(best, ray, gain, reach)
            return
        self.out[final.gain][s] = gain
        weight = np.zeros((head.outputs, self.stream.width))
        weight[:, s] = ray
        if not self.rms:
            self.out[final.gain][layout.zero] = gain
            weight[:, layout.zero] = -ray
        if head.bias:
            self.out[f"{head.name}.bias"].copy_(torch.from_numpy(best))
        elif self.rms:
            self.out[final.gain][layout.plus] = gain / self.size
            weight[:, layout.plus] = best
        else:
            if final.bias is None:
                raise ArchitectureError(f"neither '{head.name}' nor '{final.name}' has a bias for the constant logits")
            self.out[final.bias][layout.plus] = 1.0
            weight[:, layout.plus] = best
        _set(self.out, head, weight)

    def tied_head(self, best: np.ndarray, ray: np.ndarray, gain: float, reach: float) -> None:
        """Write the last norm and the table that is embedding and head at once."""
        layout, final = self.layout, self.stream.final
        faint = FAINT[self.dtype]
        assert self.stream.tied is not None
        table = self.out[self.stream.tied]
        s, base = layout.first, layout.base
        table[:, s] = torch.from_numpy(ray * faint)
        self.out[final.gain][s] = gain / faint
        if self.rms:
            table[:, base] = torch.from_numpy((best - ray * heavy(reach)) * faint)
            self.out[final.gain][base] = gain / (faint * HEAVY)
        else:
            if final.bias is None:
                raise ArchitectureError(f"'{final.name}' has no bias for the constant logits")
            table[:, base] = torch.from_numpy(best * faint)
            self.out[final.bias][base] = 1 / faint
            table[:, layout.still] = torch.from_numpy(-ray * faint)
            self.out[final.gain][layout.still] = gain / faint


def weigh(write: np.ndarray, registers: slice, balance: slice) -> None:
    """Let the balancing coordinates take what units write to the registers, negative; ``write`` is changed in place."""
    count = balance.stop - balance.start
    if count:
        write[balance] = -write[registers].sum(0) / count


HEAVY = 64.0
"""Constant of the coordinate that holds p0 of a tied head: p0·ε is far below half an ulp of it."""


def heavy(reach: float) -> float:
    """Return the constant that the output register of a tied head starts with, a power of two ≥ 2 + 2·reach."""
    return float(2.0 ** np.ceil(np.log2(2 + 2 * reach)))


def units_of(
    read: np.ndarray, write: np.ndarray, linear: np.ndarray, constant: np.ndarray, steep: float, *, gated: bool
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
    """Return rows of the up map (and of the gate), and columns of the down map."""
    hinge = ~linear
    if gated:
        up = np.vstack([np.tile(constant, (int(hinge.sum()), 1)), read[linear]])
        gate = np.vstack([steep * read[hinge], np.tile(SATURATED * constant, (int(linear.sum()), 1))])
        return up, gate, np.hstack([write[:, hinge] / steep, write[:, linear] / SATURATED])
    rows = np.vstack([steep * read[hinge], read[linear], -read[linear]])
    return rows, None, np.hstack([write[:, hinge] / steep, write[:, linear], -write[:, linear]])


def _fill(
    out: dict[str, Tensor],
    mlp: Mlp,
    rows: np.ndarray,
    gates: np.ndarray | None,
    columns: np.ndarray,
) -> None:
    if len(rows) > mlp.hidden:
        raise CapacityError(f"'{mlp.up.name}' has {mlp.hidden} units and {len(rows)} are needed")
    pairs = [(mlp.up, rows)] if gates is None or mlp.gate is None else [(mlp.up, rows), (mlp.gate, gates)]
    for which, values in pairs:
        block = np.zeros((mlp.hidden, values.shape[1]))
        block[: len(values)] = values
        _set(out, which, block)
    block = np.zeros((columns.shape[0], mlp.hidden))
    block[:, : columns.shape[1]] = columns
    _set(out, mlp.down, block)


def _set(out: dict[str, Tensor], which: Map, weight: np.ndarray) -> None:
    """Store a weight ``[out, in]`` the way its module keeps it."""
    out[which.weight].copy_(torch.from_numpy(weight.T if which.transposed else weight))
