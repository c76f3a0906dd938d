"""The networks that are measured. PyTorch only: the environments of other tools import this file too."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn


class Block(nn.Module):
    """A residual block of ResNet-20 (He et al. 2016), with shortcuts that pad (option A)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        stride = 1 if inputs == outputs else 2
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.pad = outputs - inputs

    def forward(self, x: Tensor) -> Tensor:
        """Compute the block."""
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.pad:
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 0, self.pad))
        return F.relu(out + x)


class ResNet20(nn.Module):
    """ResNet-20 for 32 × 32 images."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn = nn.BatchNorm2d(16)
        sizes = [16] * 4 + [32] * 3 + [64] * 3
        self.blocks = nn.Sequential(*(Block(a, b) for a, b in itertools.pairwise(sizes)))
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Compute logits."""
        x = self.blocks(F.relu(self.bn(self.conv(x))))
        return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))


class Transformer(nn.Module):
    """Six encoder layers over tokens, logits for each position."""

    def __init__(self, words: int = 256, width: int = 128, length: int = 64) -> None:
        super().__init__()
        self.tokens = nn.Embedding(words, width)
        self.places = nn.Parameter(torch.randn(length, width) * 0.02)
        layer = nn.TransformerEncoderLayer(width, 4, 4 * width, dropout=0.0, batch_first=True, norm_first=True)
        self.body = nn.TransformerEncoder(layer, 6, enable_nested_tensor=False)
        self.head = nn.Linear(width, words)

    def forward(self, x: Tensor) -> Tensor:
        """Compute logits ``[n, words, length]``."""
        return self.head(self.body(self.tokens(x) + self.places)).transpose(1, 2)


def mlp(*sizes: int) -> nn.Module:
    """Build an MLP."""
    layers: list[nn.Module] = [nn.Flatten()]
    for a, b in itertools.pairwise(sizes):
        layers += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def lenet(channels: int) -> nn.Module:
    """Build a LeNet-like network."""
    return nn.Sequential(
        *(nn.Conv2d(1, channels, 5), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(channels, 2 * channels, 5), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(32 * channels, 10)),
    )


@dataclass(frozen=True)
class Workload:
    """A network, the shape of its inputs, how many samples, and the nodes of the grid an axis."""

    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    classes: int
    samples: int
    grid: int
    tokens: bool = False

    def cut(self, part: float) -> "Workload":
        """Return the workload itself, or for smoke runs a share of its samples on a 3 × 3 grid."""
        return self if part >= 1 else replace(self, samples=max(8, round(part * self.samples)), grid=3)

    def make(self) -> tuple[nn.Module, Tensor, Tensor]:
        """Build model, inputs and targets, the same in every process."""
        torch.manual_seed(0)
        model = self.build().eval()
        generator = torch.Generator().manual_seed(1)
        for value in model.parameters():
            if not value.any():  # as training leaves none; loss-landscapes divides by the norm of each bias
                value.data.normal_(0, 0.01, generator=generator)
        if self.tokens:
            size = (self.samples, *self.shape)
            both = [torch.randint(self.classes, size, generator=generator) for _ in range(2)]
            return model, both[0], both[1]
        inputs = torch.randn(self.samples, *self.shape, generator=generator)
        return model, inputs, torch.randint(self.classes, (self.samples,), generator=generator)


IMAGE = (1, 28, 28)
WORKLOADS = {
    "mlp": Workload(lambda: mlp(784, 512, 512, 10), IMAGE, 10, 10_000, 15),
    "tiny": Workload(lambda: mlp(2, 64, 64, 2), (2,), 2, 1_000, 51),
    "lenet8": Workload(lambda: lenet(8), IMAGE, 10, 4_000, 4),
    "lenet32": Workload(lambda: lenet(32), IMAGE, 10, 1_500, 4),
    "lenet64": Workload(lambda: lenet(64), IMAGE, 10, 750, 4),
    "resnet20": Workload(ResNet20, (3, 32, 32), 10, 200, 4),
    "transformer": Workload(Transformer, (64,), 256, 128, 4, tokens=True),
}
"""Fashion-MNIST's sizes; that the numbers are random changes no time."""
