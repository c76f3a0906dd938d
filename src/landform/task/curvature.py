"""Gradient and curvature of a task's loss at a point: what no mean over samples estimates."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from landform.errors import InputError
from landform.task.summing import parts_of

if TYPE_CHECKING:
    from landform.task.task import Task

DENSE = 16
"""Parameters up to which the Hessian is built as a whole: Lanczos needs more dimensions than it looks for."""
TOLERANCE = 1e-4
"""Relative accuracy of an eigenvalue; float32 products hold no more."""


def gradients(task: "Task", parameters: Mapping[str, Tensor] | None) -> list[dict[str, Tensor]]:
    """Compute the gradient of the data-set loss of every head by all floating-point parameters.

    Args:
        task: The task.
        parameters: Where; None for the model's own.

    Returns:
        One dict a head, float64 on the CPU, tied parameters once.

    Raises:
        InputError: A loss that cannot be differentiated.

    Cost:
        A forward and a backward pass over the data, and one more backward pass for every further head.
    """
    return _accumulate(task, parameters, _gradient)


def top_eigenvalues(task: "Task", parameters: Mapping[str, Tensor] | None) -> list[float]:
    """Compute the largest eigenvalue of the Hessian of the data-set loss of every head, by Lanczos iterations.

    Products with the Hessian come from differentiating twice (with attention in plain operations, as the fused kernels
    have no second derivative). The first vector is fixed, so the result is the same every time.

    Args:
        task: The task.
        parameters: Where; None for the model's own.

    Returns:
        One number a head, accurate to 1e-4 relative; NaN where the loss is not finite.

    Raises:
        InputError: A loss that cannot be differentiated twice.

    Cost:
        Some 10 to 40 passes over the data, each about four forward passes, a head.

    References:
        Yao, Gholami, Keutzer, Mahoney, "PyHessian", arXiv 1912.07145, §III: the top eigenvalue as a metric of
        sharpness; Pearlmutter, Neural Computation 6 (1994) for the product.
    """
    return [_top(task, parameters, head, first) for head, first in enumerate(gradients(task, parameters))]


def _top(task: "Task", parameters: Mapping[str, Tensor] | None, head: int, first: dict[str, Tensor]) -> float:
    from scipy.sparse.linalg import LinearOperator, eigsh

    if not all(bool(value.isfinite().all()) for value in first.values()):
        return float("nan")
    size = sum(value.numel() for value in first.values())

    def product(vector: NDArray[np.float64]) -> NDArray[np.float64]:
        direction = _unflatten(torch.as_tensor(np.asarray(vector, dtype=np.float64).reshape(-1)), first)
        found = _accumulate(task, parameters, lambda loss, leaves: _product(loss, leaves, direction), only=head)[0]
        return torch.cat([found[name].reshape(-1) for name in first]).numpy()

    start = np.random.default_rng(0).standard_normal(size)
    if not np.isfinite(product(start)).all():
        return float("nan")
    if size <= DENSE:
        hessian = np.stack([product(column) for column in np.eye(size)])
        return float(np.linalg.eigvalsh((hessian + hessian.T) / 2)[-1])
    operator = LinearOperator((size, size), matvec=product, dtype=np.float64)
    return float(eigsh(operator, k=1, which="LA", v0=start, tol=TOLERANCE, return_eigenvectors=False)[0])


Derivative = Callable[[Tensor, dict[str, Tensor]], dict[str, Tensor]]


def _accumulate(
    task: "Task", parameters: Mapping[str, Tensor] | None, derivative: Derivative, *, only: int | None = None
) -> list[dict[str, Tensor]]:
    """Add up derivatives of each batch's part of the data-set loss."""
    totals: list[dict[str, Tensor]] = []
    weights: list[float] = []
    with task.mode(), sdpa_kernel(SDPBackend.MATH):
        parameters = task.prepare(parameters)
        heads = range(len(task.heads()) if task.step is None else 1) if only is None else (only,)
        for part in parts_of(task.n, task.batch_size(), even=not task.frozen):
            batch = task.batch(part)
            for place, head in enumerate(heads):
                with torch.enable_grad():
                    num, den, leaves = task.differentiable(parameters, batch, head)
                    if not num.requires_grad:
                        raise InputError(f"the loss of task {task.name} cannot be differentiated by the parameters")
                    found = derivative(num, leaves)
                if place == len(totals):
                    totals.append(found)
                    weights.append(float(den))
                else:
                    totals[place] = {name: value + found[name] for name, value in totals[place].items()}
                    weights[place] += float(den)
    return [
        {name: value.double().cpu() / weight for name, value in total.items()}
        for total, weight in zip(totals, weights, strict=True)
    ]


def _gradient(loss: Tensor, leaves: dict[str, Tensor]) -> dict[str, Tensor]:
    found = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True, materialize_grads=True)
    return dict(zip(leaves, found, strict=True))


def _product(loss: Tensor, leaves: dict[str, Tensor], direction: dict[str, Tensor]) -> dict[str, Tensor]:
    values = list(leaves.values())
    first = torch.autograd.grad(loss, values, create_graph=True, allow_unused=True, materialize_grads=True)
    along = sum(
        ((slope * direction[name].to(slope)).sum() for name, slope in zip(leaves, first, strict=True)),
        start=torch.zeros((), device=loss.device),
    )
    if not along.requires_grad:  # a loss that is linear in all parameters
        return {name: torch.zeros_like(value) for name, value in leaves.items()}
    found = torch.autograd.grad(along, values, allow_unused=True, materialize_grads=True)
    return dict(zip(leaves, found, strict=True))


def _unflatten(vector: Tensor, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    parts = torch.split(vector, [value.numel() for value in like.values()])
    return {name: part.reshape(value.shape) for (name, value), part in zip(like.items(), parts, strict=True)}
