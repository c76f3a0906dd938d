"""Small models of every kind, with data that fit them, for tests of engines."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from landform.subspace import Subspace
from landform.task import Task

SAMPLES = 23
"""Samples of every task."""


class Residual(nn.Module):
    """Two convolutions with BatchNorm, added to the input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the outputs."""
        out = F.relu(self.bn1(self.conv1(x)))
        found: Tensor = self.bn2(self.conv2(out)) + x
        return found.relu()


class ResNet(nn.Module):
    """A stem, two residual blocks, an average."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(4)
        self.blocks = nn.Sequential(Residual(4), Residual(4))
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the outputs."""
        x = self.bn(self.stem(x))
        x = self.blocks(F.relu(x))
        found: Tensor = self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))
        return found


class Transformer(nn.Module):
    """Embedding and positions, two encoder layers, LayerNorm, a head tied to the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(11, 8)
        self.place = nn.Parameter(torch.zeros(6, 8))
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.body = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 11, bias=False)
        self.head.weight = self.tokens.weight  # tied

    def forward(self, x: Tensor) -> Tensor:
        """Compute the outputs."""
        found: Tensor = self.head(self.norm(self.body(self.tokens(x) + self.place)))
        return found.transpose(1, 2)


class Heads(nn.Module):
    """Two heads in a tuple or a dict, one of which is affine in the input."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.body = nn.Linear(4, 6)
        self.a, self.b = nn.Linear(6, 3), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Any:
        """Compute the outputs."""
        first, second = self.a(torch.tanh(self.body(x))), self.b(x)
        return {"a": first, "b": second} if self.kind == "dict" else (first, second)


class Branching(nn.Module):
    """Control flow that depends on values: no graph shows it."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the outputs."""
        x = self.a(x)
        found: Tensor = self.b(x.relu() if x.sum() > 0 else x.sigmoid())
        return found


def mlp() -> nn.Module:
    """Build a plain MLP."""
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 7), nn.ReLU(), nn.Linear(7, 3))


def batch_norm_mlp() -> nn.Module:
    """Build an MLP with BatchNorm before its activations."""
    return nn.Sequential(
        nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 3)
    )


def cnn() -> nn.Module:
    """Build a convolutional network whose first pooling is linear and whose second is not."""
    return nn.Sequential(
        *(nn.Conv2d(1, 4, 3, padding=1), nn.AvgPool2d(2), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(6, 5), nn.GELU(), nn.Dropout(), nn.Linear(5, 3)),
    )


KINDS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "linear": (lambda: nn.Linear(4, 3), "vector"),
    "mlp": (mlp, "vector"),
    "batch_norm_mlp": (batch_norm_mlp, "vector"),
    "cnn": (cnn, "image"),
    "resnet": (ResNet, "image"),
    "transformer": (Transformer, "tokens"),
    "tuple": (lambda: Heads("tuple"), "vector"),
    "dict": (lambda: Heads("dict"), "vector"),
    "branching": (Branching, "vector"),
}


def build(kind: str, *, loss: Any = "cross_entropy", dtype: torch.dtype = torch.float32) -> Task:
    """Build a task of a kind, weights and data from a generator of its own.

    Args:
        kind: A key of `KINDS`.
        loss: The loss.
        dtype: Of the model and its inputs.

    Returns:
        The task, with `SAMPLES` samples.
    """
    generator = torch.Generator().manual_seed(7)
    make, data = KINDS[kind]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = make().to(dtype)
    for name, value in [*model.named_parameters(), *model.named_buffers()]:
        if value.is_floating_point():
            with torch.no_grad():
                value.copy_(torch.randn(value.shape, generator=generator, dtype=torch.float64) * 0.4)
                if name.endswith("running_var"):
                    value.abs_().add_(0.2)
    inputs: Tensor
    if data == "tokens":
        inputs = torch.randint(11, (SAMPLES, 6), generator=generator)
        targets = torch.randint(11, (SAMPLES, 6), generator=generator)
    else:
        shape = (4,) if data == "vector" else (1, 8, 8)
        inputs = torch.randn(SAMPLES, *shape, generator=generator).to(dtype)
        targets = torch.randint(3, (SAMPLES,), generator=generator)
    return Task(model, loss, (inputs, targets))


def space(task: Task, z: int = 2, *, moves: Callable[[str], bool] = lambda _: True, seed: int = 0) -> Subspace:
    """Build directions over some parameters; the last one leaves out every second of them.

    Args:
        task: The task.
        z: Number of directions.
        moves: Says of a parameter's name whether it is moved.
        seed: Of the directions.

    Returns:
        The subspace, with the model's own parameters as the origin.
    """
    generator = torch.Generator().manual_seed(seed)
    assert isinstance(task.model, nn.Module)
    origin = {name: value.detach().clone() for name, value in task.model.named_parameters()}
    directions = []
    for number in range(z):
        names = [name for name in origin if moves(name)]
        if number == z - 1 and z > 1:
            names = names[::2]
        directions.append(
            {name: torch.randn(origin[name].shape, generator=generator).to(origin[name].dtype) * 0.3 for name in names}
        )
    return Subspace(origin, tuple(directions))


def points(z: int, count: int = 7, seed: int = 1) -> Tensor:
    """Draw points, some of which lie on a line along the last coordinate; the first is the origin.

    Args:
        z: Number of coordinates.
        count: Number of points.
        seed: Of the points.

    Returns:
        Points, shape ``[count, z]``.
    """
    h = torch.randn(count, z, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    h[1::2, :-1] = h[0, :-1]
    h[0] = 0
    return h
