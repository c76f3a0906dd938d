"""GroupNorm and LayerNorm over a whole sample: norms that take mean and spread from several channels together.

y = (x − μ)·γ/√(v + eps) + β, μ and v the mean and variance over a group of channels and all positions. Two things stand
in the way of registers, and both can be arranged away.

- **The spread.** Registers are written so small that v is nothing beside eps: x = δ·u with δ = √eps·2^-50. Then
  1/√(v + eps) = 1/√eps but for (δu)²/eps ≈ 2^-100·u², and γ = √eps/δ undoes δ. Powers of two cost no accuracy.
- **The mean.** One channel of each group is given up: its row of the map is minus the sum of the other rows, so that
  the group's mean is 0 whatever the registers hold, and its γ is 0. What remains of the mean is its rounding.

So GroupNorm is a BatchNorm with one channel a group less. With γ = 0 its output is exactly β, as there: channels that
are left alone are constants, and a pattern may enter. A LayerNorm over channels and positions is a GroupNorm of one
group, whose γ and β stand at every position: they are written the same at all. A group of a single channel
(InstanceNorm) carries nothing.

Carries: any registers, one fewer a group than channels. Computes: constants. Holds: nothing of its own.
"""

import math

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor, nn
from torch.nn import functional

from landform.errors import ArchitectureError, CapacityError
from landform.imprint.lower.graph import Call, Op

COVERS = "GroupNorm, LayerNorm over features or whole samples"
KINDS = (nn.GroupNorm, nn.LayerNorm)
SMALL = 2.0**-50
"""How large registers of size 1 are beside √eps: squares are 2^-100, and registers up to 2^20 are as good as exact."""
LEAST = 1e-20
"""The smallest eps that leaves room above what float32 can hold."""


def read(call: Call) -> Op | None:
    """Return a norm for the modules covered.

    Raises:
        ArchitectureError: If its groups carry nothing, it has no eps to lean on, or it normalises positions one by one.
    """
    module = call.module
    if isinstance(module, KINDS) and not call.channels[0]:
        raise ArchitectureError(f"'{call.name}' normalises the network's input; put a layer before it")
    if isinstance(module, nn.GroupNorm):
        groups = module.num_groups
    elif isinstance(module, nn.LayerNorm):
        groups = 1
        _require_sample(call, module)
    else:
        if call.target in (functional.group_norm, functional.layer_norm):
            raise ArchitectureError(f"'{call.name}' is called as a function; use the module, nn.GroupNorm")
        return None
    channels = call.channels[0]
    if channels == groups:
        raise ArchitectureError(
            f"'{call.name}' takes from every channel its own mean, and what an imprint carries is just that; use groups"
            " of at least two channels"
        )
    if module.eps < LEAST:
        raise ArchitectureError(
            f"'{call.name}' has eps = {module.eps}; registers are written small beside it: use 1e-5"
        )
    shape = call.shapes[0]
    known = module.normalized_shape if isinstance(module, nn.LayerNorm) else None if shape is None else shape[1:]
    positions = 0 if known is None else math.prod(known[1:])
    return Op("norm", call.name, call.inputs[:1], channels, terms=positions, shared=channels // groups)


def _require_sample(call: Call, module: nn.LayerNorm) -> None:
    """Refuse a LayerNorm that is no GroupNorm of one group, over all of ``[batch, channels, …]``."""
    shape, wanted = call.shapes[0], tuple(module.normalized_shape)
    if wanted[0] != call.channels[0] or (shape is not None and wanted != tuple(shape[1:])):
        raise ArchitectureError(
            f"'{call.name}' is a LayerNorm over {wanted} of a tensor with {call.channels[0]} channels"
            f"{'' if shape is None else f', each {tuple(shape[1:])}'}; landform covers it over a whole sample, and in"
            " transformers; in a convolutional net use nn.GroupNorm(1, channels)"
        )


def everywhere(values: Tensor, like: Tensor) -> Tensor:
    """Return one value a channel in the shape of a norm's parameter: the same at all positions, where it has some.

    Example:
        >>> everywhere(torch.tensor([1.0, 2.0]), torch.zeros(2, 3)).tolist()
        [[1.0, 1.0, 1.0], [2.0, 2.0, 2.0]]
    """
    return values.reshape(-1, *[1] * (like.ndim - 1)).expand(like.shape).clone() if like.ndim > 1 else values


def scale_for(norm: nn.Module, gain: float) -> float:
    """Return the power of two by which a map before the norm multiplies, for units ``gain`` times too large."""
    assert isinstance(norm, KINDS)
    return float(2.0 ** math.ceil(math.log2(math.sqrt(norm.eps)))) * SMALL / gain


def parameters(name: str, norm: nn.Module, used: np.ndarray, constant: np.ndarray, scale: float) -> dict[str, Tensor]:
    """Return γ and β that map x·scale to x + constant on the channels used, and anything to ``constant`` elsewhere.

    Args:
        name: The norm's qualified name.
        norm: The norm.
        used: Which channels carry something.
        constant: Constant of every channel.
        scale: By what the input is multiplied, the same for all channels.
    """
    assert isinstance(norm, KINDS)
    dtype = norm.weight.dtype
    gain = torch.from_numpy(np.where(used, math.sqrt(norm.eps) / scale, 0.0)).to(dtype)
    shift = torch.from_numpy(np.asarray(constant, dtype=float)).to(dtype)
    return {f"{name}.weight": everywhere(gain, norm.weight), f"{name}.bias": everywhere(shift, norm.bias)}


def balanced(rows: sp.csr_matrix, shared: int, dtype: torch.dtype, name: str) -> sp.csr_matrix:
    """Return rows ``[channels, inputs]`` as they are stored, a free one of each group minus the sum of its others.

    Raises:
        CapacityError: If all channels of a group are taken.

    Example:
        >>> rows = sp.csr_matrix(np.array([[1.0, 0.0], [2.0, 3.0], [0.0, 0.0]]))
        >>> balanced(rows, 3, torch.float32, "norm").toarray().tolist()
        [[1.0, 0.0], [2.0, 3.0], [-3.0, -3.0]]
    """
    stored = rows.tocsr().copy()
    stored.data = torch.from_numpy(stored.data).to(dtype).double().numpy()
    stored.eliminate_zeros()
    count = len(stored.indptr) - 1
    member = sp.csr_matrix((np.ones(count), (np.arange(count) // shared, np.arange(count))))
    sums = (member @ stored).tocsr()
    sums.eliminate_zeros()
    taken = (np.diff(stored.indptr) > 0).reshape(-1, shared)
    groups = np.flatnonzero(np.diff(sums.indptr))  # others need nothing to balance them
    if taken[groups].all(axis=1).any():
        raise CapacityError(
            f"'{name}' shares its mean between {shared} channels, one of which must stay free, and all are needed;"
            " lower the resolution or widen it"
        )
    free = groups * shared + shared - 1 - np.argmin(taken[groups, ::-1], axis=1)
    place = sp.csr_matrix((np.ones(len(groups)), (free, groups)), shape=(count, count // shared))
    out: sp.csr_matrix = (stored - place @ sums).tocsr()
    return out
