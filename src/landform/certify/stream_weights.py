"""The proof for transformers: what it reads of a network, and the stream as nodal values with radii."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from landform.certify.proof_error import ProofError
from landform.certify.rounding import SLACK, U64
from landform.imprint.lower.overhear import is_norm
from landform.imprint.lower.stem import Stem
from landform.imprint.lower.stream import Map, Mlp, Norm, Stream
from landform.mesh import Mesh
from landform.subspace import Subspace


@dataclass
class State:
    """The stream: P1 nodal values and radii, ``[coordinates, nodes]``.

    Attributes:
        value: X.
        error: E.
        shared: Errors that all coordinates have in common: ξ(h)·S, with S P1 and one |ξ| ≤ 1 for all coordinates of an
            entry. A norm's λ is of this kind, and where a unit reads a difference of registers it mostly cancels.
    """

    value: np.ndarray
    error: np.ndarray
    shared: list[np.ndarray] = field(default_factory=list)

    @property
    def radius(self) -> np.ndarray:
        """All errors together."""
        out: np.ndarray = sum((np.abs(part) for part in self.shared), self.error)
        return out


class Weights:
    """Stored parameters as float64 arrays, and the float formats that matter.

    Args:
        width: Coordinates of the stream.
        subspace: Origin and directions.
        model: The network, for the names of tied parameters.
    """

    def __init__(self, width: int, subspace: Subspace, model: nn.Module) -> None:
        first = {id(value): name for name, value in model.named_parameters()}
        self.alias = {name: first[id(value)] for name, value in model.named_parameters(remove_duplicate=False)}
        self.width, self.origin, self.directions = width, subspace.origin, subspace.directions
        dtype = next(iter(self.origin.values())).dtype
        self.unit = {torch.float32: 2.0**-24, torch.float64: 2.0**-53}[dtype]
        self.z = subspace.z

    def array(self, name: str) -> np.ndarray:
        """Return a parameter."""
        out: np.ndarray = self.origin[self.alias[name]].detach().double().numpy()
        return out

    def matrix(self, which: Map) -> np.ndarray:
        """Return a map's weight as ``[out, in]``."""
        weight = self.array(which.weight)
        return weight.T if which.transposed else weight

    def bias(self, which: Map) -> np.ndarray:
        """Return a map's bias, zeros where it has none."""
        return self.array(f"{which.name}.bias") if which.bias else np.zeros(which.outputs)

    def moved(self, name: str | None, h: np.ndarray) -> np.ndarray:
        """Return a vector parameter at every node, ``[coordinates, nodes]``; zeros for None."""
        if name is None:
            return np.zeros((self.width, h.shape[1]))
        out = np.repeat(self.array(name)[:, None], h.shape[1], axis=1)
        for coordinate, direction in zip(h, self.directions, strict=True):
            if name in direction:
                out += direction[name].detach().double().numpy()[:, None] * coordinate
        return out

    def norm_unit(self, norm: Norm) -> float:
        """Return the unit roundoff of a norm's own arithmetic: some cast to float32 inside."""
        return 2.0**-24 if norm.single else self.unit


def gamma(terms: np.ndarray | float, unit: float) -> np.ndarray | float:
    """Return k·u/(1 − k·u), the relative error of k roundings."""
    return terms * unit / (1 - terms * unit)


def require_silence(
    model: nn.Module,
    maps: Sequence[Map],
    norms: Sequence[Norm],
    entry: Norm,
    subspace: Subspace,
    tables: Collection[str | None] = (),
    stem: Stem | None = None,
) -> None:
    """Refuse a network in which anything but what the proof follows may add to the stream.

    Args:
        model: The network.
        maps: Linear maps that the proof follows.
        norms: Norms that it follows.
        entry: The norm at which h enters.
        subspace: Origin and directions.
        tables: Names of embeddings that it follows.
        stem: The layer whose bias starts the stream, or None.

    Raises:
        ProofError: Naming the parameter.
    """
    start = set() if stem is None else {stem.bias}
    used = {name for m in maps for name in (m.weight, f"{m.name}.bias")} | set(tables) | start
    first = {id(value): name for name, value in model.named_parameters()}
    used |= {first[id(v)] for name, v in model.named_parameters(remove_duplicate=False) if name in used}
    own = {key for norm in norms for key in (norm.gain, norm.bias)}
    other = {name for name, module in model.named_modules() if is_norm(module)}
    for name, value in subspace.origin.items():
        if not bool(torch.isfinite(value).all()):
            raise ProofError(f"'{name}' holds NaN or infinity")
        if name in used or name in own or not bool((value != 0).any()):
            continue
        if name.rpartition(".")[0] not in other:
            raise ProofError(f"'{name}' is not zero, so something beside the perceptrons may reach the stream")
        if name.endswith("bias"):
            raise ProofError(f"'{name}', the bias of a norm before a mixer, is not zero")
    if set(subspace.moved) - {entry.gain, entry.bias, *start}:
        where = f"norm '{entry.name}'" if stem is None else f"'{stem.bias}' and norm '{entry.name}'"
        raise ProofError(f"the directions move {', '.join(subspace.moved)}; the proof covers {where} alone")


def start(weights: Weights, stream: Stream, h: np.ndarray) -> State:
    """Return the stream that every token starts, ± what tokens differ by."""
    nodes = h.shape[1]
    if stream.stem is not None:
        value = weights.moved(stream.stem.bias, h)
        return State(value, U64 * np.abs(value))
    low = high = np.zeros(stream.width)
    if stream.tokens is not None:
        table: Tensor = weights.origin[stream.tokens].detach().double()
        low, high = table.amin(0).numpy(), table.amax(0).numpy()
    middle = (low + high) / 2
    value = np.repeat(middle[:, None], nodes, axis=1)
    return State(value, np.repeat(((high - low) / 2)[:, None], nodes, axis=1) * SLACK)


def live_units(weights: Weights, mlp: Mlp) -> np.ndarray:
    """Return the hidden units that add to the stream."""
    found: np.ndarray = np.flatnonzero((weights.matrix(mlp.down) != 0).any(0))
    return found


def start_coordinates(mesh: Mesh) -> np.ndarray:
    """Return the coordinates of the nodes, ``[z, nodes]``."""
    out: np.ndarray = mesh.nodes().numpy().T.copy()
    return out
