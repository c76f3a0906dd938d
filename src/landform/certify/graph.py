"""Read a saved network of any covered architecture as steps on the registers that are alive.

The operations of the graph are taken in order; each becomes a `Step` whose own rows are its channels, while tensors
that a later operation still reads are kept beside them. Channels that are exactly zero are dropped on the way forth,
channels that nothing reads on the way back, so a residual net comes out as the sparse program that was written into it.
Nothing is taken on trust: weights are read as stored, kernels must be zero beside the one tap that never sees padding.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor, nn

from landform.certify.gated import Layer, gated_network
from landform.certify.group_norm import Normed, joined, normed
from landform.certify.network import NORM_ROUNDINGS, Network, Step, exact, norm_offset, require_finite
from landform.certify.proof_error import ProofError
from landform.errors import InputError
from landform.imprint.lower import affine
from landform.imprint.lower import network as lower
from landform.imprint.lower.graph import Op
from landform.imprint.lower.stages import GATE
from landform.subspace import Subspace

GATE_ROUNDINGS = 3.0  # of a sigmoid of zero, and of a product with it
ROUNDOFF = {torch.float32: 2.0**-24, torch.float64: 2.0**-53}


@dataclass(frozen=True)
class _Map:
    """One operation as an affine map of the channels of its input: what `Step.stored` takes."""

    weight: sp.csr_matrix
    bias: np.ndarray
    roundings: float = 0.0
    offset: np.ndarray | None = None
    counted: bool = False
    normed: Normed | None = None


@dataclass(frozen=True)
class _Clip:
    """What a tensor is that a clip makes, low + rise·x: the proof follows x = min(relu(t − start), cap)."""

    low: float
    rise: float
    size: float  # bound of what is stored


CLIP_ROUNDINGS = 3.0  # of (t + 3)/6, and of the product behind it


def read_graph_network(
    found: lower.Network, subspace: Subspace, buffers: Mapping[str, Tensor], model: nn.Module
) -> Network:
    """Read the steps from a graph's saved parameters.

    Args:
        found: The network's reading (architecture only).
        subspace: Origin and directions as saved.
        buffers: BatchNorm statistics by name.
        model: For the settings of its modules.

    Returns:
        The network restricted to the subspace.

    Raises:
        InputError: If a direction moves anything but the injected constant, the input is read, or a number is not
            finite or may overflow.
        ProofError: If something is not known that the proof needs.
    """
    return _Reader(found, subspace, buffers, model).read()


class _Reader:
    def __init__(
        self, found: lower.Network, subspace: Subspace, buffers: Mapping[str, Tensor], model: nn.Module
    ) -> None:
        assert found.graph is not None
        assert found.stages is not None
        self.graph, self.joined = joined(found.graph)
        self.found, self.subspace, self.buffers = found, subspace, buffers
        self.origin = subspace.origin
        self.modules = dict(model.named_modules())
        self.rooms = found.stages.room_maps
        self._check()
        self.dtype = self.origin[found.injected].dtype
        self.maps: dict[int, _Map] = {}
        self.clips: dict[int, _Clip] = {}  # by tensor
        self.reach: list[np.ndarray] = []
        self.live = self._forward()
        self.need = self._backward()

    def _check(self) -> None:
        key = self.found.injected
        if set(self.subspace.moved) != {key}:
            raise InputError(f"the directions move {', '.join(self.subspace.moved)}; the proof covers '{key}' alone")
        for name in self.found.maps:
            if bool((self.origin[f"{name}.weight"] != 0).any()):
                raise InputError(f"'{name}.weight' is not zero everywhere, so the output depends on the input")
        entrance = self.found.entrance
        if entrance not in self.found.maps and bool((self.origin[f"{entrance}.weight"] != 0).any()):
            raise InputError(f"'{entrance}.weight' is not zero everywhere, so its output is not its constant")
        directions = {f"direction {i}": d[key] for i, d in enumerate(self.subspace.directions)}
        require_finite({**self.origin, **self.buffers, **directions})

    # --- operations as maps ---------------------------------------------------------------------------------------

    def _map(self, number: int) -> _Map:
        """Return an operation with one input as a map between channels, in what the proof follows of both."""
        op, made = self.graph.ops[number], self._stored(number)
        clip = self.clips.get(op.inputs[0])
        if op.clips:
            self.clips[number] = _Clip(op.low, op.rise, max(abs(op.low), abs(op.low + op.rise * op.cap)))
        elif clip is not None and op.kind in ("keep", "pool"):
            self.clips[number] = clip
            return replace(made, offset=np.full(op.channels, made.roundings * clip.size / clip.rise))
        if clip is None:
            return made
        terms = np.diff(made.weight.indptr) + 2.0 + made.roundings  # constants cancel: rounding is of what is stored
        offset = terms * (np.asarray(abs(made.weight).sum(axis=1)).ravel() * clip.size + np.abs(made.bias))
        offset = offset if made.offset is None else offset + made.offset
        bias = made.bias + clip.low * np.asarray(made.weight.sum(axis=1)).ravel()
        weight = (made.weight * clip.rise).tocsr()
        return replace(made, weight=weight, bias=bias, offset=offset, roundings=made.roundings + CLIP_ROUNDINGS)

    def _begun(self, part: _Map, act: Op) -> _Map:
        """Return a map that counts from where the activation behind it begins to grow."""
        if not act.clips:
            return part
        none = np.zeros(len(part.bias)) if part.offset is None else part.offset
        extra = (np.diff(part.weight.indptr) + 2.0 + part.roundings) * abs(act.start)
        return replace(part, bias=part.bias - act.start, offset=none + extra)

    def _stored(self, number: int) -> _Map:
        """Return an operation with one input as a map between channels as stored."""
        op = self.graph.ops[number]
        channels = self.graph.ops[op.inputs[0]].channels
        if op.kind == "map":
            weight = self.origin[f"{op.name}.weight"]
            bias = self.origin.get(f"{op.name}.bias")
            constant = np.zeros(op.channels) if bias is None else exact(bias)
            if op.name in self.found.maps:
                return _Map(sp.csr_matrix((op.channels, channels)), constant)
            return _Map(affine.matrix_of(self.modules[op.name], op, weight, channels), constant)
        if op.kind == "shift":
            to = op.offset + np.arange(channels)
            ones = sp.csr_matrix((np.ones(channels), (to, np.arange(channels))), shape=(op.channels, channels))
            return _Map(ones, np.zeros(op.channels))
        if op.kind == "mul":
            half = sp.identity(op.channels, format="csr") * GATE
            return _Map(half, np.zeros(op.channels), GATE_ROUNDINGS)
        if op.kind == "norm" and op.shared:
            return self._grouped(op, self.joined[number])
        if op.kind == "norm":
            norm = self.modules[op.name]
            mean, variance = (exact(self.buffers[f"{op.name}.running_{k}"]) for k in ("mean", "var"))
            gain = exact(self.origin[f"{op.name}.weight"]) / np.sqrt(variance + float(norm.eps))
            shift = exact(self.origin[f"{op.name}.bias"])
            offset = norm_offset(shift, mean * gain)
            return _Map(sp.diags(gain).tocsr(), shift - mean * gain, NORM_ROUNDINGS, offset, counted=True)
        if op.kind == "pool" and op.terms != 1:
            if not op.terms:
                raise ProofError(
                    f"how many numbers '{op.name}' averages depends on the input's shape, which is unknown"
                )
            return _Map(sp.identity(op.channels, format="csr"), np.zeros(op.channels), op.terms + 1.0)
        return _Map(sp.identity(op.channels, format="csr"), np.zeros(op.channels))

    def _grouped(self, op: Op, number: int) -> _Map:
        """Return a map and the norm behind it, which takes means over groups of channels, as one map."""
        norm, made = self.modules[op.name], self.maps[number]
        found = normed(
            op,
            made.weight,
            made.bias,
            self.reach[number],
            self.reach[self.graph.ops[number].inputs[0]],
            per_channel(self.origin[f"{op.name}.weight"], f"{op.name}.weight"),
            per_channel(self.origin[f"{op.name}.bias"], f"{op.name}.bias"),
            float(norm.eps),
            ROUNDOFF[self.dtype],
        )
        return _Map(found.weight, found.bias, found.roundings, found.offset, normed=found)

    def _passes(self, op: Op) -> bool:
        """Say whether an operation changes nothing at all."""
        return op.kind == "keep" or (op.kind == "pool" and op.terms == 1)

    def _forward(self) -> list[np.ndarray]:
        """Return which channels of each tensor may be other than zero; refuse what could overflow."""
        largest = float(torch.finfo(self.dtype).max)
        live: list[np.ndarray] = [np.zeros(0, dtype=bool)]
        reach = self.reach
        reach.append(np.zeros(0))
        for number, op in enumerate(self.graph.ops[1:], start=1):
            if op.channels == 0:  # the input, passed on
                live.append(np.zeros(0, dtype=bool))
                reach.append(np.zeros(0))
                continue
            if op.kind == "gate" or op.gated:
                if live[op.inputs[0]].any():
                    raise ProofError(f"the gate '{op.name}' is not a constant: what it reads may be other than zero")
                alive, size = np.zeros(op.channels, dtype=bool), np.zeros(op.channels)
                self.maps[number] = self._map(number)
            elif op.kind in ("add", "cat"):
                parts, sizes = [live[i] for i in op.inputs], [reach[i] for i in op.inputs]
                join = np.concatenate if op.kind == "cat" else np.sum
                alive, size = np.asarray(join(parts, axis=0)) > 0, np.asarray(join(sizes, axis=0))
            else:
                made = self.maps[number] = self._map(number)
                before = op.inputs[0]
                count = made.weight.shape[1]
                alive = (abs(made.weight) @ live[before].astype(float) > 0) if count else np.zeros(op.channels, bool)
                alive = alive | (made.bias != 0) | (made.offset > 0 if made.offset is not None else False)
                if made.normed is not None:
                    alive = alive | made.normed.means.live
                size = abs(made.weight) @ reach[before] if count else np.zeros(op.channels)
                size = size + np.abs(made.bias) + (0.0 if made.offset is None else made.offset)
                if op.at_zero or op.clips:  # silent channels emit a constant
                    alive = np.ones(op.channels, dtype=bool)
                size = np.full(op.channels, op.cap) if op.clips else size + op.smooth
                if op.kind == "act" and op.slope == 1.0:  # tanh and softsign
                    size = np.minimum(size, 1.0)
                if op.name == self.found.entrance and op.kind in ("map", "norm"):
                    moved = np.stack(
                        [per_channel(d[self.found.injected], "direction") for d in self.subspace.directions]
                    )
                    alive, size = alive | (moved != 0).any(axis=0), size + np.abs(moved).sum(axis=0)
            if not size.max(initial=0.0) < largest / 4:
                raise InputError("some unit may overflow, even if no other reads it: a weight is far too large")
            live.append(alive)
            reach.append(size)
        return live

    def _backward(self) -> list[np.ndarray]:
        """Return which channels of each tensor are read, of those that may be other than zero."""
        need = [np.zeros(len(live), dtype=bool) for live in self.live]
        heads = {head.op for head in self.graph.heads}
        for number in range(len(self.graph.ops) - 1, 0, -1):
            op = self.graph.ops[number]
            if op.channels == 0:
                continue
            wanted = np.ones(op.channels, dtype=bool) if number in heads else need[number]
            wanted = wanted & self.live[number]
            need[number] = wanted
            start = 0
            for source in op.inputs:
                size = len(self.live[source])
                if op.kind == "cat":
                    need[source] |= wanted[start : start + size]
                    start += size
                elif op.kind == "add":
                    need[source] |= wanted
                elif size:
                    made = self.maps[number]
                    rows = made.weight[wanted]
                    if made.normed is not None:  # a mean reads what the other channels of its group read
                        rows = made.normed.means.rows(np.flatnonzero(wanted)).weight
                    need[source][np.unique(rows.indices[rows.data != 0])] = True
        return [need & live for need, live in zip(need, self.live, strict=True)]

    # --- steps ----------------------------------------------------------------------------------------------------

    def read(self) -> Network:
        """Return the steps: one for each operation that computes, with the activation behind it."""
        assert self.found.stages is not None
        if self.found.stages.gated:
            return gated_network(self._layers(), self._ends_of_chain(), self.dtype, ROUNDOFF[self.dtype])
        plan = self._plan()
        ends = self._ends(plan)
        steps: list[Step] = []
        where: dict[int, np.ndarray] = {}  # tensor → positions of its needed channels in the current vector
        width, stage = 0, 0
        for position, (number, target) in enumerate(plan):
            op, act = self.graph.ops[number], self.graph.ops[target]
            if op.kind == "map" and op.name in self.rooms:
                stage = max(stage, self.rooms.index(op.name))
            channels = np.flatnonzero(self.need[target])
            if self._is_entrance(number):
                channels = channels if len(channels) else np.zeros(1, dtype=int)
                part = self._injected(number, channels)
            elif not len(channels):
                where[target] = channels
                continue
            elif not steps:
                raise ProofError(f"'{op.name}' emits constants before the coordinates enter")
            else:
                part = self._part(number, channels, where, width)
            part = self._begun(part, act)
            if act.kind == "act" and act.slope == 1.0:  # the identity but for roundings, where the proof finds it small
                none = np.zeros(len(part.bias)) if part.offset is None else part.offset
                part = replace(part, roundings=part.roundings + act.far, offset=none + act.far * np.abs(part.bias))
            stay = [n for n in where if ends[n] > position and len(where[n])]
            kept = np.concatenate([where[n] for n in stay]) if stay else np.zeros(0, dtype=int)
            slope = self._slope(act, channels)
            cap = act.cap if act.kind == "act" else float("inf")
            steps.append(
                Step.stored(
                    part.weight,
                    part.bias,
                    slope,
                    stage,
                    roundings=part.roundings,
                    offset=part.offset,
                    kept=kept,
                    cap=cap,
                    smooth=act.smooth,
                    far=act.far,
                    counted=part.counted,
                    moved=bool(self.clips),
                )
            )
            if part.normed is not None:
                steps[-1] = replace(
                    steps[-1], inexact=part.normed.inexact, shift=part.normed.shift, means=part.normed.means
                )
            own = len(channels)
            moved = np.cumsum([0, *(len(where[n]) for n in stay)]) + own
            where = {n: np.arange(moved[k], moved[k + 1]) for k, n in enumerate(stay)} | {target: np.arange(own)}
            width = own + len(kept)
        heads = []
        for head in self.graph.heads:
            part = self._part(head.op, np.arange(head.outputs), where, width)
            heads.append(Step.stored(part.weight, part.bias, 1.0, -1))
        return Network(tuple(steps), tuple(heads), self.dtype, ROUNDOFF[self.dtype])

    def _layers(self) -> list[Layer]:
        """Return the hidden layers of a chain: its maps, and what averages behind them round."""
        layers: list[Layer] = []
        heads = {head.op for head in self.graph.heads}
        for number, op in enumerate(self.graph.ops[1:], start=1):
            made = self.maps.get(number)
            if op.kind == "map" and number not in heads:
                assert made is not None
                part = self._injected(number, np.arange(op.channels)) if self._is_entrance(number) else made
                layers.append(Layer(part.weight.tocsr(), part.bias))
            elif op.kind == "pool" and made is not None and layers:
                layers[-1] = replace(layers[-1], averaged=layers[-1].averaged + made.roundings)
        return layers

    def _ends_of_chain(self) -> list[Layer]:
        return [Layer(self.maps[head.op].weight.tocsr(), self.maps[head.op].bias) for head in self.graph.heads]

    def _slope(self, act: Op, channels: np.ndarray) -> float:
        """Return the slope of an activation left of 0, as the network has it."""
        if act.kind != "act":
            return 1.0
        if not act.owns:
            return float(torch.tensor(act.slope, dtype=self.dtype))
        slopes = exact(self.origin[f"{act.name}.weight"])
        found = np.unique(slopes[channels] if len(slopes) > 1 else slopes)
        if len(found) != 1 or not 0 <= found[0] < 1:
            raise ProofError(
                f"'{act.name}' has slopes from {found.min():g} to {found.max():g} on channels that are read; the proof"
                " covers one slope in [0, 1)"
            )
        return float(found[0])

    def _plan(self) -> list[tuple[int, int]]:
        """Return the operations to compute in order, each with the activation that may be done at once."""
        ops, users = self.graph.ops, self.graph.users()
        heads = {head.op for head in self.graph.heads}
        done: set[int] = set()
        plan = []
        for number, op in enumerate(ops[1:], start=1):
            if op.channels == 0 or self._passes(op) or number in heads or number in done:
                continue
            target, at = number, number
            while op.kind != "act" and len(users[at]) == 1:
                at = users[at][0]
                if ops[at].kind == "act":
                    target = at
                if not self._passes(ops[at]):
                    break
            done.add(target)
            plan.append((number, target))
        return plan

    def _same(self, number: int) -> int:
        """Return the tensor that this one is equal to."""
        while self._passes(self.graph.ops[number]):
            number = self.graph.ops[number].inputs[0]
        return number

    def _ends(self, plan: list[tuple[int, int]]) -> dict[int, int]:
        """Return, for each tensor, the position in the plan of the last operation that reads it."""
        ends = {target: -1 for _, target in plan}
        for position, (number, _) in enumerate(plan):
            for source in self.graph.ops[number].inputs:
                ends[self._same(source)] = position
        for head in self.graph.heads:
            ends[self._same(self.graph.ops[head.op].inputs[0])] = len(plan)
        return ends

    def _is_entrance(self, number: int) -> bool:
        op = self.graph.ops[number]
        return op.name == self.found.entrance and op.kind in ("map", "norm")

    def _injected(self, number: int, channels: np.ndarray) -> _Map:
        """Return the coordinates' way in: the constants and what the directions add to them."""
        key = self.found.injected
        columns = np.stack([per_channel(d[key], "direction") for d in self.subspace.directions], axis=1)
        return _Map(sp.csr_matrix(columns[channels]), self.maps[number].bias[channels])

    def _part(self, number: int, channels: np.ndarray, where: Mapping[int, np.ndarray], width: int) -> _Map:
        """Return some channels of an operation as a map of the current vector."""
        op = self.graph.ops[number]
        width = max(width, 1)
        if op.kind not in ("add", "cat"):
            made, source = self.maps[number], self._same(op.inputs[0])
            rows = made.weight[channels]
            at = where.get(source, np.zeros(0, dtype=int))
            needed = np.flatnonzero(self.need[source])
            weight = _embedded(rows[:, needed], at, width)
            offset = None if made.offset is None else made.offset[channels]
            part = _Map(weight, made.bias[channels], made.roundings, offset, made.counted)
            if made.normed is None:
                return part
            inner = made.normed
            means = inner.means.rows(channels).columns(needed).embedded(at, width)
            inexact = _embedded(inner.inexact[channels][:, needed], at, width)
            return replace(
                part,
                normed=replace(
                    inner, weight=weight, bias=part.bias, shift=inner.shift[channels], inexact=inexact, means=means
                ),
            )
        total, start = sp.csr_matrix((len(channels), width)), 0
        for given in op.inputs:
            source = self._same(given)
            size = len(self.live[source])
            shifted = channels - start if op.kind == "cat" else channels
            inside = np.flatnonzero((shifted >= 0) & (shifted < size))
            unit = sp.csr_matrix((np.ones(len(inside)), (inside, shifted[inside])), shape=(len(channels), size))
            at = where.get(source, np.zeros(0, dtype=int))
            total = total + _embedded(unit[:, np.flatnonzero(self.need[source])], at, width)
            start += size
        return _Map(total.tocsr(), np.zeros(len(channels)))


def per_channel(tensor: Tensor, name: str) -> np.ndarray:
    """Return what a norm's parameter is in each channel, which must be the same at all positions.

    Raises:
        InputError: If it is not.
    """
    rows = tensor.reshape(len(tensor), -1)
    if bool((rows != rows[:, :1]).any()):
        raise InputError(f"'{name}' differs between positions; the proof covers tensors that are the same at all")
    return exact(rows[:, 0])


def _embedded(rows: sp.csr_matrix, at: np.ndarray, width: int) -> sp.csr_matrix:
    """Return rows whose columns lie at positions ``at`` of a vector."""
    entries = rows.tocoo()
    out = sp.csr_matrix((entries.data, (entries.row, at[entries.col])), shape=(rows.shape[0], width))
    out.eliminate_zeros()
    return out
