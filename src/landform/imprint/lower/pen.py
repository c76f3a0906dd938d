"""Write rows and constants into the parameters of one stage: its map, its norms, its channel that is one."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor, nn

from landform.errors import CapacityError
from landform.imprint.lower import affine, batchnorm, groupnorm
from landform.imprint.lower.graph import Op
from landform.imprint.lower.registers import Registers, embed, power_of_two
from landform.imprint.lower.stages import Plain
from landform.program.program import Layer

LARGE = {torch.float32: 2.0**30, torch.float64: 2.0**50}
"""By what units of smooth activations are multiplied: κ/LARGE is below a rounding, and cubes (in GELU) are finite."""

LOST = 2.0**-8
"""What part of a register a rounding may be at most: where more is lost, no program of use is left."""

MANY = 1 << 30  # channels that are one: wherever there is room


@dataclass
class Pen:
    """Collects the new parameters of a network, whose own are not changed.

    Args:
        model: The network, for shapes, dtypes and statistics.
        maps: The operation of each map, by name.
        gain: By what units are written too large, a power of two: 1, or where activations are smooth `LARGE`.
        dry: Write nothing, only check what fits.
        ones: How many stages may keep a channel that is one, from which constants can be read.
        parameters: What was written, by qualified name.
    """

    model: nn.Module
    maps: Mapping[str, Op]
    gain: float = 1.0
    dry: bool = False
    ones: int = MANY
    parameters: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.modules = dict(self.model.named_modules())
        self.dtype = next(self.model.parameters()).dtype
        self.made = 0  # channels that are one

    def factor(self, bound: np.ndarray, cap: float) -> np.ndarray:
        """Return by what to multiply units: 1, less where a cap is near, or the gain."""
        return power_of_two(bound, cap) * self.gain

    def slope(self, slope: float) -> float:
        """Return a slope as the network will use it."""
        return float(torch.tensor(slope, dtype=self.dtype))

    def require(self, wanted: int, width: int, name: str) -> None:
        """Refuse more channels than there are.

        Raises:
            CapacityError: Naming the module.
        """
        if wanted > width:
            raise CapacityError(
                f"'{name}' has {width} channels and {wanted} are needed; lower the resolution or widen it"
            )

    def require_large(self, name: str, tops: np.ndarray) -> None:
        """Refuse registers that vanish in the rounding of a norm's mean, as those scaled for a tanh before it do.

        Raises:
            CapacityError: Naming the norm.
        """
        norm = self.modules[name]
        if not isinstance(norm, batchnorm.KINDS) or norm.running_mean is None:
            return
        mean, least = float(norm.running_mean.abs().max()), tops[tops > 0].min(initial=np.inf)
        if mean * torch.finfo(self.dtype).eps > LOST * least:
            raise CapacityError(
                f"'{name}' takes a mean of up to {mean:.3g} from registers of {least:.3g}, which is how small an"
                f" activation before it needs them, and {self.dtype} holds no such sum; put the norm before that"
                " activation, or use ReLU there"
            )

    def has_bias(self, name: str) -> bool:
        """Say whether a map has a bias."""
        return getattr(self.modules[name], "bias", None) is not None

    def unit(self, layer: Layer, state: Registers) -> int | None:
        """Return the channel that is one, where constants may be read from it: ψ, and what follows, read τ alone."""
        return None if layer.role in ("spline", "clamp") else state.unit

    def skips(self, stage: Plain) -> bool:
        """Say whether nothing would come of writing into a stage: only checking, and no constant can be refused."""
        return self.dry and not stage.shared and (bool(stage.norms) or self.has_bias(stage.map))

    def write(
        self,
        stage: Plain,
        rows: sp.csr_matrix,
        constant: np.ndarray,
        at: np.ndarray,
        unit: int | None = None,
        shift: np.ndarray | None = None,
    ) -> None:
        """Write rows and constants into channels ``at`` of a stage's map and norms; ``shift`` is added by the norm.

        A map without bias leaves constants to its norm, where they meet the rounded product: an error in proportion to
        the product, not to what is left of it. Read from a channel that is one (``unit``) they cancel exactly.
        """
        if unit is not None and constant.any() and not self.has_bias(stage.map):
            some = np.flatnonzero(constant)
            read = sp.csr_matrix((constant[some] / self.gain, (some, np.full(len(some), unit))), shape=rows.shape)
            rows, constant = (rows + read).tocsr(), np.zeros(len(constant))
        used, offset = np.zeros(stage.width, dtype=bool), np.zeros(stage.width)
        used[at] = (np.diff(rows.tocsr().indptr) > 0) | (constant != 0)
        offset[at] = constant if shift is None else constant + shift
        scale = np.ones(stage.width)
        if stage.shared:
            scale = np.full(stage.width, groupnorm.scale_for(self.modules[stage.norms[0]], self.gain))
        elif stage.norms and self.gain == 1.0:  # where units are large, the norm's mean is small beside them
            scale = np.full(stage.width, self.scale_for(stage))
        elif not stage.norms and offset.any() and not self.has_bias(stage.map):
            raise CapacityError(
                f"'{stage.map}' has neither bias nor norm, and a constant is needed there; use bias=True"
            )
        if self.dry and not stage.shared:
            return
        shape = (stage.width, stage.inputs)
        full = embed((sp.diags(scale[at]) @ rows).tocsr(), at, np.arange(rows.shape[1]), shape)
        if stage.shared:
            full = groupnorm.balanced(full, stage.shared, self.dtype, stage.norms[0])
        if self.dry:
            return
        self.set_weight(stage.map, full)
        if self.has_bias(stage.map) and stage.shared:
            self.parameters[f"{stage.map}.bias"] = torch.zeros(stage.width, dtype=self.dtype)
        elif self.has_bias(stage.map):
            self.parameters[f"{stage.map}.bias"] = torch.from_numpy(offset * scale).to(self.dtype)
            offset = np.zeros(stage.width)
        for position, norm in enumerate(stage.norms):
            self.set_norm(norm, used, offset if not position else np.zeros(stage.width), 1.0 if position else scale)

    def scale_for(self, stage: Plain) -> float:
        """Return by what a map multiplies so that the mean of the norm behind it is small beside its numbers."""
        return batchnorm.scale_for(self.modules[stage.norms[0]]) / min(1.0, stage.cap) if stage.norms else 1.0

    def write_wide(self, stage: Plain, rows: sp.csr_matrix, at: np.ndarray) -> None:
        """Write rows over the first channels that a map reads into channels ``at``, without constants."""
        count, inputs = rows.shape
        full = embed(rows, np.arange(count), np.arange(inputs), (count, stage.inputs))
        self.write(stage, full, np.zeros(count), at)

    def silence_stage(self, stage: Plain) -> None:
        """Set the map and the norms of a stage to zero."""
        for name in (stage.map, *stage.norms):
            if name:
                self.silence(name)

    def set_weight(self, name: str, matrix: sp.csr_matrix) -> None:
        """Write a matrix between channels into a map."""
        if not self.dry:
            self.parameters[f"{name}.weight"] = affine.block(self.modules[name], self.maps[name], matrix)

    def set_norm(self, name: str, used: np.ndarray, constant: np.ndarray, scale: np.ndarray | float = 1.0) -> None:
        """Make a norm the identity on the channels used, plus a constant."""
        if self.dry:
            return
        norm = self.modules[name]
        if isinstance(norm, groupnorm.KINDS):
            self.parameters |= groupnorm.parameters(name, norm, used, constant, float(np.max(scale)))
        else:
            self.parameters |= batchnorm.parameters(name, norm, used, constant, scale)

    def silence(self, name: str) -> None:
        """Set every parameter of a module to zero."""
        if self.dry:
            return
        for key, parameter in self.modules[name].named_parameters():
            self.parameters[f"{name}.{key}"] = torch.zeros(parameter.shape, dtype=parameter.dtype)

    def one(self, stage: Plain, channel: int) -> int | None:
        """Make a channel one, times the gain, by constants of a stage's norms; return it, None where it cannot be."""
        room = channel < stage.width and stage.cap >= self.gain
        if self.made >= self.ones or not stage.norms or stage.times != 1.0 or stage.clips or not room:
            return None
        self.made += 1
        if not self.dry:
            for norm in stage.norms:
                bias = self.parameters[f"{norm}.bias"]
                bias[channel] = self.gain
        return channel
