"""Theorem 2 in a language model, what is checked before the proof: trained and compiled parts are separate.

From the stored weights: the coordinates of the pattern are 0 in the trained network, h enters in the first block behind
it, the blocks there read and write nothing else, the ballast is taken away as it was put there, and the head reads one
coordinate of theirs along the ray. So no trained activation depends on h, and s(h) depends on the input through norms
only, each of which divides by a σ of the token.
"""

from dataclasses import dataclass

import numpy as np
import torch

from landform.certify.proof_error import ProofError
from landform.certify.stream_weights import State, Weights, live_units
from landform.imprint.imprint import Imprint
from landform.imprint.lower.anatomy import Anatomy, anatomy_of, named
from landform.imprint.lower.stream import Mlp
from landform.response.token_offset import TokenOffsetResponse


@dataclass(frozen=True)
class Own:
    """The blocks of the pattern, and where the trained stream ends."""

    anatomy: Anatomy
    mlps: tuple[Mlp, ...]
    width: int
    faint: float

    @property
    def free(self) -> slice:
        """Coordinates that the trained network does not use."""
        return slice(self.width, None)


def own_of(imprint: Imprint) -> Own:
    """Find the network's parts again, in a copy with random weights."""
    spec, meta = imprint.meta["sample"], imprint.meta
    dtype = getattr(torch, spec["dtype"])
    anatomy = anatomy_of(imprint.model, torch.zeros([2, *spec["shape"]], dtype=dtype))
    count = len(meta["stages"])
    if not 3 <= count < len(anatomy.stream.mlps):
        raise ProofError(f"{count} blocks of the pattern are recorded, the network has {len(anatomy.stream.mlps)}")
    return Own(anatomy, anatomy.stream.mlps[-count:], int(meta["trained_width"]), float(meta["scales"]["faint"]))


def _isown_of(own: Own, name: str) -> bool:
    """Say whether a part lies in one of the pattern's blocks."""
    first = own.anatomy.count - len(own.mlps)
    prefix = f"{own.anatomy.blocks}."
    number = name.removeprefix(prefix).split(".")[0] if name.startswith(prefix) else ""
    return number.isdigit() and int(number) >= first


def require_separate(imprint: Imprint, own: Own, weights: Weights) -> None:
    """Refuse a network in which anything but the pattern's blocks touches the pattern's coordinates."""
    for name, value in imprint.subspace.origin.items():
        if not bool(torch.isfinite(value).all()):
            raise ProofError(f"'{name}' holds NaN or infinity")
    if not all(_isown_of(own, mlp.up.name) for mlp in own.mlps):
        raise ProofError("the pattern's perceptrons are not those of the last blocks")
    for name in own.anatomy.tables:
        if weights.array(f"{name}.weight")[:, own.free].any():
            raise ProofError(f"'{name}' starts the stream with something in the pattern's coordinates")
    perceptrons = {mlp.down.name for mlp in own.mlps}
    for which in own.anatomy.writers:
        weight, bias = weights.matrix(which), weights.bias(which)
        if which.name in perceptrons:
            bad = weight[: own.width].any() or bias.any()
        elif _isown_of(own, which.name):
            bad = weight.any() or bias.any()
        else:
            bad = weight[own.free].any() or bias[own.free].any()
        if bad:
            raise ProofError(f"'{which.name}' writes where it must not: trained and compiled parts are not separate")
    for mlp in own.mlps:
        if weights.matrix(mlp.up)[live_units(weights, mlp), : own.width].any() or weights.bias(mlp.up).any():
            raise ProofError(f"'{mlp.up.name}' reads the trained stream, or has a bias")
    _require_ballast(own, weights)
    entry = own.mlps[0].norm
    if (weights.array(entry.gain) + entry.gain_offset).any() or entry.bias is None:
        raise ProofError(f"'{entry.name}', at which h enters, reads the stream")
    for direction in imprint.subspace.directions:
        if set(direction) != {entry.bias}:
            raise ProofError(f"the directions move {', '.join(direction)}; the proof covers '{entry.bias}' alone")


def _require_ballast(own: Own, weights: Weights) -> None:
    """Refuse a last block that adds anything to a coordinate but the signal, unless it takes away what the first wrote.

    Both come from a bias of a norm and a unit that gives 64 for 64, so the sum is exactly 0.
    """
    first, last = (weights.matrix(mlp.down) for mlp in (own.mlps[0], own.mlps[-1]))
    written = np.flatnonzero((last != 0).any(1))
    again = [c for c in written if (first[c] != 0).any()]
    if len(written) != len(again) + 1:
        raise ProofError(f"the last block writes {len(written) - len(again)} coordinates of its own; wanted one")
    for c in again:
        taken = []
        for mlp, down in ((own.mlps[0], first), (own.mlps[-1], last)):
            units = np.flatnonzero(down[c])
            row = weights.matrix(mlp.up)[units[0]]
            reads = np.flatnonzero(row)
            bias = weights.array(mlp.norm.bias or "")
            gain = weights.array(mlp.norm.gain) + mlp.norm.gain_offset
            moved = any(mlp is own.mlps[0] and bool(d[mlp.norm.bias or ""][reads].any()) for d in weights.directions)
            if len(units) != 1 or len(reads) != 1 or gain[reads[0]] or moved or row[reads[0]] * bias[reads[0]] != 64:
                raise ProofError(f"coordinate {c} is written by more than a constant in '{mlp.down.name}'")
            taken.append(down[c, units[0]])
        between = any((weights.matrix(mlp.down)[c] != 0).any() for mlp in own.mlps[1:-1])
        if taken[0] != -taken[1] or between:
            raise ProofError(f"what the last block takes from coordinate {c} is not what the first one put there")


def require_head(imprint: Imprint, own: Own, weights: Weights, response: TokenOffsetResponse) -> int:
    """Refuse a head that reads the pattern otherwise than as v times (one coordinate less a zero); return which one."""
    head, final = own.anatomy.stream.head, own.anatomy.stream.final
    weight, _ = named(imprint.model, head, imprint.subspace.origin)
    part = weight.detach().double()[:, own.free].numpy()
    gain = (weights.array(final.gain) + final.gain_offset)[own.free]
    shift = np.zeros_like(gain) if final.bias is None else weights.array(final.bias)[own.free]
    reads = np.flatnonzero((part != 0).any(0))
    v = response.v.numpy()
    if len(reads) != 2 or shift.any() or gain[reads[0]] != gain[reads[1]] or gain[reads[0]] <= 0:
        raise ProofError("the head reads other coordinates of the pattern than one and a zero, or with other gains")
    plus = [int(k) for k in reads if np.array_equal(part[:, k], v)]
    minus = [int(k) for k in reads if np.array_equal(part[:, k], -v)]
    if len(plus) != 1 or len(minus) != 1:
        raise ProofError("what the head reads of the pattern is not along the ray")
    written = [(weights.matrix(m.down)[own.width + minus[0]] != 0).any() for m in own.mlps]
    early = [(weights.matrix(m.down)[own.width + plus[0]] != 0).any() for m in own.mlps[:-1]]
    if any(written) or any(early):
        raise ProofError("the coordinate that the head subtracts is not 0, or the signal's has other writers")
    return own.width + plus[0]


def stand_in(own: Own, weights: Weights, response: TokenOffsetResponse, nodes: int) -> State:
    """Return the stream of a token whose coordinates have equal size and the largest Σ (x − mean)² of all."""
    size = (response.about["largest"] * (1 + 1e-9) / own.width) ** 0.5
    value = np.zeros((weights.width, nodes))
    value[: own.width] = (size * np.where(np.arange(own.width) % 2, -1.0, 1.0))[:, None]
    error = np.zeros_like(value)
    # its mean is 0 (or one coordinate's share); that of the tokens is at most this
    error[: own.width] = response.about["mean"] + (size / own.width if own.width % 2 else 0.0)
    return State(value, error)
