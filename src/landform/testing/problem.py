"""Small scans whose surface is known in closed form: what a tool that measures loss surfaces can be held against."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float64
from numpy.typing import NDArray
from torch import Tensor, nn

Floats = NDArray[np.float64]
SAMPLES = 101
"""Prime, so that no batch size divides it: a mean of batch means is another number."""


@dataclass(frozen=True, eq=False)
class ScanProblem:
    """A model, a loss, data and directions, and the loss over them in closed form.

    Attributes:
        model: The model; its parameters are the origin.
        loss: Function of ``(outputs, targets)``, a mean over samples.
        inputs: Samples first.
        targets: Likewise.
        directions: One mapping a coordinate, from parameter names to tensors; parameters left out do not move.
        truth: The loss at points ``[points, z]``, in float64, without the model.
    """

    model: nn.Module
    loss: Callable[[Tensor, Tensor], Tensor]
    inputs: Tensor
    targets: Tensor
    directions: tuple[Mapping[str, Tensor], ...]
    truth: Callable[[Floats], Floats]

    def on(self, lines: Sequence[Floats]) -> Floats:
        """Return the true loss at the nodes of a grid.

        Args:
            lines: Coordinates along each axis.

        Returns:
            ``[n_1, …, n_z]``: the first axis is that of the first direction.
        """
        nodes = np.stack(np.meshgrid(*lines, indexing="ij"), axis=-1).reshape(-1, len(lines))
        return self.truth(nodes).reshape([len(line) for line in lines])

    def swapped(self) -> "ScanProblem":
        """Return the problem with its directions in reverse order."""
        return replace(self, directions=self.directions[::-1], truth=lambda h: self.truth(h[:, ::-1]))

    def flipped(self, k: int) -> "ScanProblem":
        """Return the problem with direction ``k`` reversed."""
        signs = np.array([-1.0 if j == k else 1.0 for j in range(len(self.directions))])
        turned = tuple(
            {name: -value for name, value in direction.items()} if j == k else direction
            for j, direction in enumerate(self.directions)
        )
        return replace(self, directions=turned, truth=lambda h: self.truth(h * signs))

    def translated(self, shift: Sequence[float]) -> "ScanProblem":
        """Return the problem seen from another origin, ``shift`` along the directions."""
        import copy

        model = copy.deepcopy(self.model)
        with torch.no_grad():
            for name, value in model.named_parameters():
                for step, direction in zip(shift, self.directions, strict=True):
                    if name in direction:
                        value.add_(direction[name], alpha=float(step))
        return replace(self, model=model, truth=lambda h: self.truth(h + np.asarray(shift)))


def quadratic(*, seed: int = 0, size: int = 6) -> ScanProblem:
    """Return a loss ½·(θ − θ*)ᵀ H (θ − θ*) + c with a Hessian H that is known, along two skew directions.

    The model's output is θ + x, one x a sample with Σ x = 0, and the loss the mean over samples of ½·outputᵀ H output:
    hence θ* = 0, and c is the mean of ½·xᵀ H x.

    Args:
        seed: Of its own generator.
        size: Numbers in θ.

    Returns:
        The problem.

    Example:
        >>> problem = quadratic()
        >>> loss = problem.loss(problem.model(problem.inputs), problem.targets).item()
        >>> bool(abs(loss - problem.truth(np.zeros((1, 2)))[0]) < 1e-12)
        True
    """
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(size, size, generator=generator, dtype=torch.float64)
    hessian = root @ root.T / size + torch.eye(size, dtype=torch.float64)
    x = torch.randn(SAMPLES, size, generator=generator, dtype=torch.float64)
    x -= x.mean(0)
    model = _Shift(torch.randn(size, generator=generator, dtype=torch.float64))
    directions = tuple({"theta": torch.randn(size, generator=generator, dtype=torch.float64)} for _ in range(2))

    def loss(outputs: Tensor, _: Tensor) -> Tensor:
        return 0.5 * torch.einsum("ni,ij,nj->n", outputs, hessian.to(outputs.dtype), outputs).mean()

    constant = float(loss(x, x))
    start, rows = model.theta.detach().clone(), torch.stack([d["theta"] for d in directions])

    def truth(h: Floats) -> Floats:
        theta = start + torch.from_numpy(np.ascontiguousarray(h)) @ rows
        return (0.5 * torch.einsum("pi,ij,pj->p", theta, hessian, theta) + constant).numpy()

    return ScanProblem(model, loss, x, torch.zeros(SAMPLES, 1, dtype=torch.float64), directions, truth)


def regression(*, seed: int = 0, inputs: int = 4, outputs: int = 3) -> ScanProblem:
    """Return linear regression, mean squared error over samples and outputs, along random directions.

    L(h) = ‖X·(W + Σ h_i W_i)ᵀ + b + Σ h_i b_i − Y‖² / (samples · outputs). The last samples lie far from the others, so
    that an average of batch averages is another number.

    Args:
        seed: Of its own generator.
        inputs: Features.
        outputs: Outputs.

    Returns:
        The problem, in float32 as models are.
    """
    generator = torch.Generator().manual_seed(seed)
    X = torch.randn(SAMPLES, inputs, generator=generator)
    Y = torch.randn(SAMPLES, outputs, generator=generator)
    Y[-3:] += 20.0
    model = nn.Linear(inputs, outputs)
    with torch.no_grad():
        for value in model.parameters():
            value.copy_(torch.randn(value.shape, generator=generator))
    directions = tuple(
        {name: torch.randn(value.shape, generator=generator) for name, value in model.named_parameters()}
        for _ in range(2)
    )
    weight, bias = model.weight.detach().clone(), model.bias.detach().clone()

    def truth(h: Floats) -> Floats:
        found = []
        for point in torch.from_numpy(np.ascontiguousarray(h)):
            w, b = weight.double(), bias.double()
            for step, direction in zip(point, directions, strict=True):
                w, b = w + step * direction["weight"].double(), b + step * direction["bias"].double()
            found.append(float(((X.double() @ w.T + b - Y.double()) ** 2).mean()))
        return np.array(found)

    return ScanProblem(model, nn.functional.mse_loss, X, Y, directions, truth)


def with_modes(*, seed: int = 0) -> ScanProblem:
    """Return a model with BatchNorm and Dropout, in training mode, whose loss in evaluation mode is in closed form.

    The normalisation has running statistics far from those of the data, so that a tool that normalises by the batch,
    lets the statistics drift, moves them or leaves dropout on gives other numbers.

    Args:
        seed: Of its own generator.

    Returns:
        The problem; directions move the last layer alone.
    """
    generator = torch.Generator().manual_seed(seed)
    X, Y = torch.randn(SAMPLES, 4, generator=generator), torch.randn(SAMPLES, 2, generator=generator)
    norm, last = nn.BatchNorm1d(4), nn.Linear(4, 2)
    with torch.no_grad():
        for value in last.parameters():
            value.copy_(torch.randn(value.shape, generator=generator))
        norm.running_mean.copy_(torch.tensor([1.0, -1.0, 2.0, 0.0]))  # type: ignore[union-attr]
        norm.running_var.copy_(torch.tensor([4.0, 0.25, 1.0, 9.0]))  # type: ignore[union-attr]
    model = nn.Sequential(norm, nn.Dropout(0.5), last).train()
    features = ((X.double() - norm.running_mean.double()) / (norm.running_var.double() + norm.eps).sqrt()).clone()  # type: ignore[union-attr]
    weight, bias = last.weight.detach().double().clone(), last.bias.detach().double().clone()
    directions = tuple({"2.weight": torch.randn(2, 4, generator=generator)} for _ in range(2))

    def truth(h: Floats) -> Floats:
        found = []
        for point in torch.from_numpy(np.ascontiguousarray(h)):
            w = weight
            for step, direction in zip(point, directions, strict=True):
                w = w + step * direction["2.weight"].double()
            found.append(float(((features @ w.T + bias - Y.double()) ** 2).mean()))
        return np.array(found)

    return ScanProblem(model, nn.functional.mse_loss, X, Y, directions, truth)


def pole() -> ScanProblem:
    """Return a loss |log(p)| with p = 1 + h_1 + h_2: +inf at p = 0, and no number where p < 0.

    Returns:
        The problem.

    Example:
        >>> pole().on([np.array([-2.0, -1.0, 0.0]), np.array([0.0])]).tolist()
        [[nan], [inf], [0.0]]
    """
    inputs, one = torch.zeros(SAMPLES, 1), torch.ones(1)

    def truth(h: Floats) -> Floats:
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(np.abs(np.log(1 + h.sum(axis=1))))

    return ScanProblem(
        _Log(), nn.functional.l1_loss, inputs, torch.zeros(SAMPLES, 1), ({"p": one}, {"p": one.clone()}), truth
    )


class _Shift(nn.Module):
    def __init__(self, theta: Float64[Tensor, " size"]) -> None:
        super().__init__()
        self.theta = nn.Parameter(theta)

    def forward(self, x: Tensor) -> Tensor:
        return self.theta + x


class _Log(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.p = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.log(self.p) + x
