"""Read a saved network as the verifier sees it: sparse affine maps and activations, nothing else.

The verifier is given weights, not the program that made them. Units that no later layer reads are dropped first, so a
changed dead weight changes nothing.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor, nn

from landform.certify.means import Means
from landform.errors import InputError
from landform.imprint.lower.chain import Chain
from landform.subspace import Subspace

NORM_ROUNDINGS = 6.0
"""Roundings of x·a in a norm, a = γ/√(var + eps), before the last sum, which counts as that of any dot product: eps
and var + eps, half of each (1), the root (1), its quotient (1), γ's product (1), x − mean where that comes first (1),
x's product (1)."""


SMOOTH_ROUNDINGS = 8.0
"""Roundings of a smooth activation of a number up to 64: a factor known to a few ulp, then products."""
NEAR = 2.0**16
"""64 times the largest factor by which the first layer's units are followed (see `propagate.injected`)."""


@dataclass(frozen=True)
class Gates:
    """How far hinges are off that other units gate, by what is known of their gates (see `landform.certify.gated`).

    Args:
        width: A gate is open or closed, and not between, where the pre-activation is further than this from 0.
        open: Rounding of a hinge whose gate is open, beside x³/3 of its value x.
        between: What more it is off by where the gate may be between or the wrong way, ``[units]``.
        always: What it is off by even where its gate is closed.
    """

    width: float
    open: float
    between: np.ndarray
    always: float

    def rows(self, units: np.ndarray) -> "Gates":
        """Return what is known of some units."""
        return replace(self, between=self.between[units])

    def added(self, pre: np.ndarray, reach: np.ndarray, spread: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """Return the errors at nodes, which bound those in between by interpolation.

        Args:
            pre: Pre-activations at nodes, ``[units, nodes]``.
            reach: How far they may be off, in between as well.
            spread: Marks all nodes that share a cell with a marked one.
        """
        opened = spread(pre + reach + self.width > 0)
        between = opened & spread(pre - reach - self.width <= 0)
        cubed = (np.maximum(pre, 0.0) + reach) ** 3 / 3
        return np.where(opened, self.open + cubed, 0.0) + np.where(between, self.between[:, None], 0.0) + self.always


@dataclass(frozen=True)
class Step:
    """One affine map and activation, x ↦ act(W x + b), with W and b exactly as stored (widened to float64).

    Args:
        weight: W, sparse, ``[units, inputs]``.
        bias: b, ``[units]``.
        slope: Slope of the activation left of 0; 1 for none.
        stage: Index of the hidden stage it belongs to; −1 for the heads.
        inexact: |W| without the entries that are powers of two *as stored*: products that round.
        roundings: Extra roundings of products (normalisation, averages), in units of |W||x|.
        offset: Extra roundings of constants (normalisation: |β| once, |mean·a| as often as products), ``[units]``.
        kept: Inputs that stay beside the units, unchanged: they are rows behind those of ``weight``.
        cap: Where the activation stops growing; pre-activations must stay below.
        smooth: How far the activation is from one of that slope, at most; 0 for piecewise-linear ones.
        far: Roundings of a smooth activation of large numbers, most of which it returns as they are.
        shift: The part of b that a norm over groups adds after the products were summed, ``[units]``.
        means: What such a norm subtracts.
        moved: Whether units are stored beside a constant that cancels, so that off units, too, may be off by rounding.
        gates: What is known of the gates of its units, from which ``smooth`` is known node by node; None without.
    """

    weight: sp.csr_matrix
    bias: np.ndarray
    slope: float
    stage: int
    inexact: sp.csr_matrix
    roundings: float
    offset: np.ndarray
    kept: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=int))
    cap: float = math.inf
    smooth: float = 0.0
    far: float = 0.0
    shift: np.ndarray | None = None
    means: Means | None = None
    moved: bool = False
    gates: Gates | None = None

    @classmethod
    def stored(
        cls,
        weight: sp.csr_matrix,
        bias: np.ndarray,
        slope: float,
        stage: int,
        *,
        roundings: float = 0.0,
        offset: np.ndarray | None = None,
        kept: np.ndarray | None = None,
        cap: float = math.inf,
        smooth: float = 0.0,
        far: float = 0.0,
        counted: bool = False,
        moved: bool = False,
        gates: Gates | None = None,
    ) -> "Step":
        """Return the step of a map as stored; ``counted``: ``roundings`` count the products too."""
        rounded = sp.csr_matrix(weight.shape) if counted else inexact(weight)
        none = np.zeros(len(bias)) if offset is None else offset
        stays = np.zeros(0, dtype=int) if kept is None else kept
        return cls(
            weight, bias, slope, stage, rounded, roundings, none, stays, cap, smooth, far, moved=moved, gates=gates
        )

    def rows(self, units: np.ndarray) -> "Step":
        """Return the step restricted to some of its own units."""
        return replace(
            self,
            weight=self.weight[units],
            bias=self.bias[units],
            inexact=self.inexact[units],
            offset=self.offset[units],
            kept=np.zeros(0, dtype=int),
            shift=None if self.shift is None else self.shift[units],
            means=None if self.means is None else self.means.rows(units),
            gates=None if self.gates is None else self.gates.rows(units),
        )

    def bent(self, value: np.ndarray, roundoff: float) -> np.ndarray:
        """Return what a smooth activation adds to the error of relu's values, its rounding included."""
        size = np.abs(value)
        near = self.smooth * (1 + 2.0**-10)  # an error of a few ulp where it is neither 0 nor the number itself
        added: np.ndarray = near + roundoff * (SMOOTH_ROUNDINGS * np.minimum(size, NEAR) + self.far * size)
        return added

    def columns(self, units: np.ndarray) -> "Step":
        """Return the step restricted to some inputs; what a mean takes from the others is counted by their bounds."""
        weight, inexact = (matrix[:, units].tocsr() for matrix in (self.weight, self.inexact))
        means = None if self.means is None else self.means.columns(units)
        return replace(self, weight=weight, inexact=inexact, means=means)

    def rescaled(self, left: np.ndarray, right: np.ndarray) -> "Step":
        """Return diag(left)·W·diag(right); which products round stays as stored."""
        weight, inexact = (sp.diags(left) @ m @ sp.diags(right) for m in (self.weight, self.inexact))
        means = None if self.means is None else self.means.rescaled(left, right)
        return replace(self, weight=weight.tocsr(), inexact=inexact.tocsr(), offset=self.offset * left, means=means)


def inexact(weight: sp.csr_matrix) -> sp.csr_matrix:
    """Return |W| without the entries that are powers of two: products that round."""
    out = abs(weight).tocsr()
    out.data = np.where(np.frexp(out.data)[0] == 0.5, 0.0, out.data)
    out.eliminate_zeros()
    return out


@dataclass(frozen=True)
class Network:
    """The steps from h to the last hidden layer, and the heads' maps."""

    steps: tuple[Step, ...]
    heads: tuple[Step, ...]
    dtype: torch.dtype
    unit_roundoff: float


def read_network(chain: Chain, subspace: Subspace, buffers: Mapping[str, Tensor], model: nn.Module) -> Network:
    """Read the maps from a chain's saved parameters.

    Args:
        chain: The traced network (architecture only).
        subspace: Origin and directions as saved.
        buffers: BatchNorm statistics by name.
        model: For the eps of BatchNorms.

    Returns:
        The network restricted to the subspace, dead units dropped.

    Raises:
        InputError: If a direction moves anything but the first layer's bias, the first layer reads its input, or a
            number is not finite or may overflow.
    """
    first = chain.stages[0].linear
    if set(subspace.moved) != {f"{first}.bias"}:
        raise InputError(f"the directions move {', '.join(subspace.moved)}; the proof covers '{first}.bias' alone")
    if bool((subspace.origin[f"{first}.weight"] != 0).any()):
        raise InputError(f"'{first}.weight' is not zero everywhere, so the output depends on the input")
    origin = subspace.origin
    require_finite(
        {**origin, **buffers, **{f"direction {i}": d[f"{first}.bias"] for i, d in enumerate(subspace.directions)}}
    )
    steps: list[Step] = []
    modules = dict(model.named_modules())
    for number, stage in enumerate(chain.stages):
        bias = exact(origin[f"{stage.linear}.bias"])
        if number == 0:
            columns = [exact(direction[f"{first}.bias"]) for direction in subspace.directions]
            weight = sp.csr_matrix(np.stack(columns, axis=1))
        else:
            weight = _sparse(origin[f"{stage.linear}.weight"])
        act = float(torch.tensor(stage.slope, dtype=origin[f"{first}.bias"].dtype))  # as PyTorch rounds it
        slope = act if not stage.before else 1.0
        steps.append(Step.stored(weight, bias, slope, number))
        for position, name in enumerate(stage.before):
            last = position == len(stage.before) - 1
            steps.append(_norm(origin, buffers, name, modules[name], act if last else 1.0, number))
        steps += [_norm(origin, buffers, name, modules[name], 1.0, number) for name in stage.after]
    heads = [
        Step.stored(_sparse(origin[f"{h.linear}.weight"]), exact(origin[f"{h.linear}.bias"]), 1.0, -1)
        for h in chain.heads
    ]
    dtype = origin[f"{first}.bias"].dtype
    roundoff = {torch.float32: 2.0**-24, torch.float64: 2.0**-53}[dtype]
    _require_no_overflow(steps, heads, float(torch.finfo(dtype).max))
    return Network(*_without_dead_units(steps, heads), dtype, roundoff)


def require_finite(tensors: Mapping[str, Tensor]) -> None:
    """Refuse tensors that are not finite.

    Raises:
        InputError: Naming one.
    """
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise InputError(f"'{name}' holds NaN or infinity")


def _require_no_overflow(steps: list[Step], heads: list[Step], largest: float) -> None:
    """Refuse numbers that could overflow anywhere, in dead units too: 0·inf is NaN in the units that read them."""
    size = np.ones(steps[0].weight.shape[1])
    for step in [*steps, *heads]:
        reach = abs(step.weight) @ size + np.abs(step.bias) + step.offset
        if not reach.max(initial=0.0) < largest / 4:
            raise InputError("some unit may overflow, even if no other reads it: a weight is far too large")
        size = reach if step.stage >= 0 else size


def exact(tensor: Tensor) -> np.ndarray:
    """Return a tensor as stored, widened to float64."""
    out: np.ndarray = tensor.detach().double().numpy()
    return out


def _sparse(tensor: Tensor) -> sp.csr_matrix:
    """Convert a dense weight, most of whose entries are zero, to float64 CSR."""
    dense = tensor.detach()
    rows, columns = dense.nonzero(as_tuple=True)
    return sp.csr_matrix(
        (dense[rows, columns].double().numpy(), (rows.numpy(), columns.numpy())), shape=tuple(dense.shape)
    )


def _norm(
    origin: Mapping[str, Tensor], buffers: Mapping[str, Tensor], name: str, norm: nn.Module, slope: float, stage: int
) -> Step:
    assert isinstance(norm, nn.BatchNorm1d)
    mean, variance = exact(buffers[f"{name}.running_mean"]), exact(buffers[f"{name}.running_var"])
    gain = exact(origin[f"{name}.weight"]) / np.sqrt(variance + norm.eps)
    shift = exact(origin[f"{name}.bias"])
    return Step.stored(
        sp.diags(gain).tocsr(),
        shift - mean * gain,
        slope,
        stage,
        roundings=NORM_ROUNDINGS,
        counted=True,
        offset=norm_offset(shift, mean * gain),
    )


def norm_offset(shift: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Return what the constants of a norm, β and mean·a, may round by, in units of the roundoff; 0 where a is 0."""
    out: np.ndarray = np.where(mean == 0, 0.0, np.abs(shift) + (NORM_ROUNDINGS + 1) * np.abs(mean))
    return out


def _without_dead_units(steps: list[Step], heads: list[Step]) -> tuple[tuple[Step, ...], tuple[Step, ...]]:
    """Drop units that nothing reads, from the heads backwards."""
    live = np.unique(np.concatenate([head.weight.indices[head.weight.data != 0] for head in heads]))
    live = live if len(live) else np.zeros(1, dtype=int)
    kept_heads = tuple(head.columns(live) for head in heads)
    out: list[Step] = []
    for step in reversed(steps):
        kept = step.rows(live)
        below = np.unique(kept.weight.indices[kept.weight.data != 0])
        below = below if len(below) else np.zeros(1, dtype=int)  # a pattern of zeros: nothing is read below
        out.append(kept.columns(below) if step is not steps[0] else kept)
        live = below
    return tuple(reversed(out)), kept_heads
