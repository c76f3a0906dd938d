"""Terms from outputs, many points at once: what does not depend on the point is checked and looked up once a block."""

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  the name everyone knows
from jaxtyping import Float64
from torch import Tensor

from landform.scan.engine.source import Block, Source


class Reading:
    """Numerators of one block of samples, from the outputs at any point.

    The general way asks the task. Cross-entropy on labels, one a sample, has a way of its own: labels are checked once,
    log Σ exp is taken over many points in one call, in float64 as elsewhere. What is not finite goes the general way.

    Args:
        source: The task.
        block: The samples.
        outputs: The outputs at any point, from which denominators and checks are taken.

    Attributes:
        den: Denominators, ``[quantities, samples]``.
        stackable: Whether `many` takes a stack of outputs.
        numel: Numbers of the outputs at a point, where they are stackable.
    """

    def __init__(self, source: Source, block: Block, outputs: Any) -> None:
        self._source = source
        self._block = block
        _, self.den = source.task.terms(outputs, block.batch)
        self.stackable = _is_plain(source, block, outputs)
        self.numel = outputs.numel() if self.stackable else 0
        if self.stackable:
            labels = block.batch.targets
            labels = torch.where((labels >= 0) & (labels < outputs.shape[1]), labels, 0)
            self._labels = labels[None, :, None]
            self._sign = 1.0 - 2.0 * labels.double()
            self._plain = bool((self.den == 1).all())

    def one(self, outputs: Any) -> Float64[Tensor, "quantities samples"]:
        """Return numerators at one point."""
        return self.many(outputs[None])[0] if self.stackable else self._source.task.terms(outputs, self._block.batch)[0]

    def many(self, outputs: Tensor) -> Float64[Tensor, "points quantities samples"]:
        """Return numerators at points, from outputs ``[points, samples, classes]``."""
        if outputs.shape[2] == 2:  # log(1 + exp(other − own)), which F.softplus takes as other − own above 100
            gap = torch.sub(outputs[..., 1].double(), outputs[..., 0]).mul_(self._sign)
            losses = F.softplus(gap, threshold=100)
        else:
            values = outputs.double()
            losses = torch.logsumexp(values, 2).sub_(values.gather(2, self._labels.expand(len(values), -1, 1))[..., 0])
        nums = (losses if self._plain else losses.mul_(self.den[0]))[:, None]
        if not bool(nums.sum().isfinite()):
            for number in (~nums.isfinite()).any(-1).any(-1).nonzero()[:, 0].tolist():
                nums[number] = self._source.task.terms(outputs[number], self._block.batch)[0]
        return nums


def _is_plain(source: Source, block: Block, outputs: Any) -> bool:
    form = source.task.loss_form
    return (
        source.quantities == ("loss",)
        and form.known
        and form.name == "cross_entropy"
        and "label_smoothing" not in form.options
        and isinstance(outputs, Tensor)
        and outputs.ndim == 2
        and outputs.shape[1] > 1
        and outputs.device.type == "cpu"
        and isinstance(block.batch.targets, Tensor)
        and block.batch.targets.ndim == 1
        and not block.batch.targets.is_floating_point()
    )
