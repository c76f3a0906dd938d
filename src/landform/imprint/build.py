"""Build a network to fit: an MLP with just the widths that a program needs."""

import itertools
import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from landform.errors import InputError

MAX_PARAMETERS = 1 << 30


class Heads(nn.Module):
    """Several linear heads on one trunk; returns a tuple with one output a head.

    Args:
        trunk: Everything up to the last hidden layer.
        heads: One Linear a head.
    """

    def __init__(self, trunk: nn.Module, heads: Sequence[nn.Linear]) -> None:
        super().__init__()
        self.trunk = trunk
        self.heads = nn.ModuleList(heads)

    def forward(self, x: Float[Tensor, "n ..."]) -> tuple[Float[Tensor, "n outputs"], ...]:
        """Apply every head to the trunk's output."""
        features = self.trunk(x)
        return tuple(head(features) for head in self.heads)


def build_network(widths: Sequence[int], sample: Sequence[int], outputs: Sequence[int]) -> nn.Module:
    """Build Flatten, (Linear, ReLU)…, and one Linear a head.

    Args:
        widths: Hidden widths.
        sample: Shape of one input.
        outputs: Outputs of each head.

    Returns:
        ``nn.Sequential`` for one head, `Heads` for several, on the meta device: the imprint brings the weights.

    Raises:
        InputError: If it would have more than 2^30 parameters.

    Example:
        >>> [tuple(p.shape) for p in build_network([2, 3], (8, 8), [10]).parameters()]
        [(2, 64), (2,), (3, 2), (3,), (10, 3), (10,)]
    """
    sizes = [math.prod(sample), *widths]
    count = sum(a * b + b for a, b in itertools.pairwise(sizes)) + sum((sizes[-1] + 1) * c for c in outputs)
    if count > MAX_PARAMETERS:
        raise InputError(
            f"hidden widths {list(widths)} make {count:,} parameters, more than the limit of {MAX_PARAMETERS:,};"
            " lower the resolution, choose form='strips', or pass a network of your own"
        )
    layers: list[nn.Module] = [nn.Flatten()]
    with torch.device("meta"):  # no random initialisation: that would cost more than compiling
        for inputs, units in itertools.pairwise(sizes):
            layers += [nn.Linear(inputs, units), nn.ReLU()]
        heads = [nn.Linear(sizes[-1], c) for c in outputs]
    network = nn.Sequential(*layers, heads[0]) if len(heads) == 1 else Heads(nn.Sequential(*layers), heads)
    return network.eval()
