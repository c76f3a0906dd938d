r"""Smooth phantoms: a loss that is exactly quadratic in h, so that second derivatives exist everywhere.

A network of ReLUs is piecewise affine in the first bias, and behind a convex loss it is convex *inside* every cell:
a pattern's negative curvature lies in its kinks, and a Hessian taken at a point sees none of it. To test instruments
that compute second derivatives, the network here carries h (which is ≥ 0) through one ReLU and emits D = z outputs

    p(h) = mean(y) + B (h − c),      L(h) = floor + 1/D Σ_j σ_j (B (h − c))_j²,

σ_j = 1 under the mean squared error, so L = floor + ½ (h − c)ᵀ H (h − c) with H = 2/D Bᵀ diag(σ) B: any positive
semi-definite H. For a saddle the loss has signs (`SignedSquares`); no convex loss can have one here.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn

from landform.data import Data
from landform.subspace import Subspace
from landform.task import Task


class SignedSquares:
    """The loss 1/D Σ_j σ_j (p_j − y_j)², one value a sample; all σ_j = 1 is the mean squared error.

    Args:
        signs: σ, ±1 each.

    Example:
        >>> SignedSquares((1.0, -1.0))(torch.tensor([[3.0, 1.0]]), torch.zeros(1, 2)).tolist()
        [4.0]
    """

    def __init__(self, signs: tuple[float, ...]) -> None:
        self.signs = signs
        self.__name__ = "signed_squares"

    def __call__(self, outputs: Float[Tensor, "n d"], targets: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """Return the loss of each sample."""
        return ((outputs - targets).square() * outputs.new_tensor(self.signs)).mean(dim=1)


@dataclass(frozen=True)
class Quadratic:
    """A network whose loss is quadratic in h: task, subspace, and the exact function of the stored weights."""

    task: Task
    subspace: Subspace
    matrix: Float64[Tensor, "d z"]
    offset: Float64[Tensor, " d"]
    signs: Float64[Tensor, " d"]
    floor: float
    bound: float

    def true(self, h: Float64[Tensor, "points z"]) -> Float64[Tensor, " points"]:
        """Return the loss at h, from the weights as they are stored."""
        s = self.offset + h @ self.matrix.T
        return self.floor + (s.square() * self.signs).mean(dim=1)

    @property
    def hessian(self) -> Float64[Tensor, "z z"]:
        """The second derivatives over h, the same everywhere."""
        return 2 / len(self.signs) * self.matrix.T @ (self.signs[:, None] * self.matrix)


def quadratic(
    data: Data, hessian: Float64[Tensor, "z z"], centre: tuple[float, ...], *, dtype: torch.dtype = torch.float32
) -> Quadratic:
    """Build the network.

    Args:
        data: Inputs; the targets are z numbers a sample, the mean brightness of z bands of the input, so that there is
            a real data set with a floor above 0.
        hessian: H wanted.
        centre: Where the loss is stationary.
        dtype: Of the network.

    Returns:
        Its parts. ``bound``: how far rounding can take the loss from `Quadratic.true`, γ_{z+2} a dot product, for any
        order of summation, with sums over the data in float64.
    """
    z = len(centre)
    inputs = data.inputs.to(dtype)
    flat = inputs.reshape(len(inputs), -1)
    targets = torch.stack([part.double().mean(dim=1) for part in torch.tensor_split(flat, z, dim=1)], dim=1)
    targets = targets.to(dtype)
    values, vectors = torch.linalg.eigh(hessian)
    signs = torch.where(values < 0, -1.0, 1.0).double()
    matrix = ((values.abs() * z / 2).sqrt()[:, None] * vectors.T).to(dtype).double()
    mean = targets.double().mean(dim=0)
    bias = (mean - matrix @ torch.tensor(centre, dtype=torch.float64)).to(dtype).double()
    with torch.device("meta"):  # no random initialisation: it would move the caller's generator
        first, last = nn.Linear(flat.shape[1], z, dtype=dtype), nn.Linear(z, z, dtype=dtype)
    first, last = first.to_empty(device="cpu"), last.to_empty(device="cpu")
    model = nn.Sequential(nn.Flatten(), first, nn.ReLU(), last).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        last.weight.copy_(matrix)
        last.bias.copy_(bias)
    origin = {name: parameter.detach() for name, parameter in model.named_parameters()}
    unit = torch.eye(z, dtype=dtype)
    space = Subspace(origin, tuple({"1.bias": unit[i]} for i in range(z)), {"kind": "phantom"}, ((0.0, 1.0),) * z)
    plain = bool((signs > 0).all())
    loss = "mse" if plain else SignedSquares(tuple(signs.tolist()))
    task = Task(model, loss, (inputs, targets), name="smooth phantom")
    spread = (targets.double() - mean).square().mean(dim=0)
    floor = float((spread * signs).mean())
    # one output is z products and a bias: γ_{z+2}; the loss is quadratic in it
    unit_roundoff = torch.finfo(dtype).eps / 2
    gamma = (z + 2) * unit_roundoff / (1 - (z + 2) * unit_roundoff)
    noise = gamma * (matrix.abs().sum(dim=1) + bias.abs())
    largest = (matrix.clamp(min=0).sum(dim=1) + (bias - mean)).abs()
    largest = torch.maximum(largest, (matrix.clamp(max=0).sum(dim=1) + (bias - mean)).abs())
    bound = float(((2 * largest + noise) * noise).mean()) + 2.0**-40 * (abs(floor) + float(largest.square().mean()))
    return Quadratic(task, space, matrix, bias - mean, signs, floor, math.nextafter(bound, math.inf))
