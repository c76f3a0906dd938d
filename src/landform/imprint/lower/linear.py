"""Write a `Program` into a chain of Linear layers, in the widths and activations they come with.

- A ReLU unit is one unit; in a LeakyReLU network it is two, since relu(t) = (lr(t) + α·lr(−t)) / (1 − α²).
- BatchNorm in eval mode is an affine map: γ = √(var + eps), β = mean make it the identity, and γ = β = 0 silences the
  channels that are not used. Its running statistics are buffers and stay as they are.
- A stage without activation copies registers; stages beyond the program carry its output.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor, nn

from landform.errors import ArchitectureError, CapacityError
from landform.imprint.lower.chain import Chain
from landform.imprint.lower.checks import check_module
from landform.program.bend import padded
from landform.program.program import Layer, Program


@dataclass(frozen=True)
class Lowered:
    """Parameters to write, and how the coordinates enter.

    Args:
        parameters: New value of every parameter of the chain, by qualified name.
        directions: For each coordinate, the direction in each parameter it moves.
        spline_stage: Index of the first stage that bends (ψ), or None in the direct form.
    """

    parameters: dict[str, Tensor]
    directions: tuple[dict[str, Tensor], ...]
    spline_stage: int | None


def capacities(chain: Chain) -> tuple[list[int], int]:
    """Return the widths that a program can use, one for each stage that bends, and the units a ReLU takes.

    A stage without activation only copies what the stage before holds, so it caps that width.
    """
    widths: list[int] = []
    for number, stage in enumerate(chain.stages):
        if stage.slope == 1.0 and number:
            widths[-1] = min(widths[-1], stage.width)
        else:
            widths.append(stage.width)
    return widths, 2 if any(0 < stage.slope < 1 for stage in chain.stages) else 1


def check_parameters(model: nn.Module, chain: Chain) -> None:
    """Refuse parameters that cannot be written: frozen, tied, half precision, meta, on an accelerator, or no bias.

    Raises:
        ArchitectureError: Naming the parameter and what to do.
    """
    modules = dict(model.named_modules())
    names = [s.linear for s in chain.stages] + [h.linear for h in chain.heads]
    norms = [n for s in chain.stages for n in (*s.before, *s.after)]
    seen: dict[int, str] = {}
    for name in [*names, *norms]:
        module = modules[name]
        check_module(name, module, seen)
        if isinstance(module, nn.Linear) and "bias" not in dict(module.named_parameters()):
            first = " that the pattern is injected into" if name == chain.stages[0].linear else ""
            raise ArchitectureError(f"layer '{name}' has no bias{first}; use nn.Linear(…, bias=True)")
    dtypes = {p.dtype for p in model.parameters()}
    if len(dtypes) > 1:
        raise ArchitectureError(f"the model mixes dtypes {sorted(map(str, dtypes))}; convert it to one of them")
    random = [n for n, m in model.named_modules() if isinstance(m, (nn.Dropout, nn.BatchNorm1d)) and m.training]
    if random:
        raise ArchitectureError(
            f"module '{random[0]}' is in train mode, where its output is random or depends on the batch; call"
            " model.eval() first"
        )


def write(
    chain: Chain,
    program: Program,
    model: nn.Module,
    best: Sequence[np.ndarray],
    ray: Sequence[np.ndarray],
    *,
    scale: Sequence[float] | None = None,
) -> Lowered:
    """Compute the parameters that make the chain emit ``best + ray · s(h)`` at every head.

    Args:
        chain: The network's chain.
        program: Its output is s, one channel a head (or one channel for all heads).
        model: The network, for shapes, dtypes and BatchNorm statistics; it is not changed.
        best: p0 of each head.
        ray: v of each head.
        scale: In the direct form the program's output is s / scale.

    Returns:
        What to write.

    Raises:
        CapacityError: If the program does not fit the chain.
    """
    modules = dict(model.named_modules())
    program = _deepened(chain, program)
    layers, spline = _assign(chain, program)
    dtype = next(model.parameters()).dtype
    parameters: dict[str, Tensor] = {}
    directions: tuple[dict[str, Tensor], ...] = ()
    recover = sp.identity(program.z, format="csr")  # registers of the layer before from its network units
    for number, (stage, layer) in enumerate(zip(chain.stages, layers, strict=True)):
        slope = float(torch.tensor(stage.slope, dtype=dtype))  # the slope that the network will use
        pairs = _expanded(layer, slope)
        units = pairs.shape[0]
        if units > stage.width:
            raise CapacityError(
                f"layer '{stage.linear}' has {stage.width} units and {units} are needed; lower the resolution or widen"
                " it"
            )
        linear = modules[stage.linear]
        weight = (pairs @ layer.weight @ recover).tocsr()
        bias = torch.zeros(stage.width, dtype=dtype)
        bias[:units] = torch.from_numpy(pairs @ layer.bias).to(dtype)
        if number == 0:
            parameters[f"{stage.linear}.weight"] = torch.zeros(linear.weight.shape, dtype=dtype)
            dense = torch.zeros(stage.width, program.z, dtype=dtype)
            dense[:units] = torch.from_numpy(weight.toarray()).to(dtype)
            directions = tuple({f"{stage.linear}.bias": dense[:, i].clone()} for i in range(program.z))
        else:
            parameters[f"{stage.linear}.weight"] = _dense(weight, linear.weight)
        parameters[f"{stage.linear}.bias"] = bias
        for name in (*stage.before, *stage.after):
            parameters |= _identity_norm(name, modules[name], units)
        recover = _recovery(layer, slope)
    readout = program.readout
    for number, head in enumerate(chain.heads):
        row = min(number, readout.units - 1)
        factor = 1.0 if scale is None else scale[row]
        weight = sp.csr_matrix(ray[number][:, None]) @ (readout.weight[row] @ recover) * factor
        parameters[f"{head.linear}.weight"] = _dense(weight.tocsr(), modules[head.linear].weight)
        bias_row = best[number] + ray[number] * (readout.bias[row] * factor)
        parameters[f"{head.linear}.bias"] = torch.from_numpy(bias_row).to(dtype)
    return Lowered(parameters, directions, spline)


def _deepened(chain: Chain, program: Program) -> Program:
    """Return the program with as many layers as the chain has stages that bend, its output carried to the end."""
    bending = sum(1 for number, stage in enumerate(chain.stages) if stage.slope < 1.0 or number == 0)
    if len(program.layers) > bending:
        raise CapacityError(f"the program has {len(program.layers)} layers and the network {bending} hidden layers")
    return padded(program, bending - len(program.layers))


def _assign(chain: Chain, program: Program) -> tuple[list[Layer], int | None]:
    """Give every stage a layer: the program's, or a copy of the one before where there is no activation."""
    program_layers = list(program.layers)
    out: list[Layer] = []
    for number, stage in enumerate(chain.stages):
        if stage.slope == 1.0 and number:
            size = out[-1].units
            copy = Layer(sp.identity(size, format="csr"), np.zeros(size), np.ones(size, dtype=bool), "copy")
            out.append(copy)
        else:
            out.append(program_layers.pop(0))
    if chain.stages[0].slope == 1.0 and not out[0].carried.all():
        raise CapacityError("the first layer has no activation, so it can only carry h; use axis_aligned=True")
    spline = next((number for number, layer in enumerate(out) if layer.role == "spline"), None)
    return out, spline


def _expanded(layer: Layer, slope: float) -> sp.csr_matrix:
    """Return the map from a layer's pre-activations to its network units: (t) or, for a LeakyReLU hinge, (t, −t)."""
    identity = sp.identity(layer.units, format="csr")
    if slope in (0.0, 1.0):
        return identity
    return sp.vstack([identity, -identity[~layer.carried]]).tocsr()


def _recovery(layer: Layer, slope: float) -> sp.csr_matrix:
    """Return the map from network units to registers: relu(t) = (lr(t) + α·lr(−t)) / (1 − α²)."""
    identity = sp.identity(layer.units, format="csr")
    if slope in (0.0, 1.0):
        return identity
    hinge = ~layer.carried
    gain = np.where(hinge, 1 / (1 - slope**2), 1.0)
    return sp.hstack([sp.diags(gain), identity[:, hinge] * (slope / (1 - slope**2))]).tocsr()


def _dense(block: sp.csr_matrix, like: Tensor) -> Tensor:
    """Return a zero tensor like a weight with a sparse block in its top left corner."""
    out = torch.zeros(like.shape, dtype=like.dtype)  # not zeros_like: the system's zero pages cost nothing
    block = block.tocsr()
    rows = np.repeat(np.arange(block.shape[0]), np.diff(block.indptr))
    out.numpy()[rows, block.indices] = block.data
    return out


def _identity_norm(name: str, norm: nn.Module, units: int) -> dict[str, Tensor]:
    """Return γ and β that make a BatchNorm the identity on the first ``units`` channels and 0 on the others."""
    assert isinstance(norm, nn.BatchNorm1d)
    assert norm.running_var is not None
    assert norm.running_mean is not None
    used = torch.arange(norm.num_features) < units
    gain = torch.where(used, (norm.running_var.double() + norm.eps).sqrt(), 0.0).to(norm.weight.dtype)
    shift = torch.where(used, norm.running_mean.double(), 0.0).to(norm.weight.dtype)
    return {f"{name}.weight": gain, f"{name}.bias": shift}
