"""`hessian_plane`: the directions of largest curvature."""

from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from landform.errors import InputError, unknown_name
from landform.subspace.curvature import CurvatureProduct, need_curvlinops
from landform.subspace.objective import Objective
from landform.subspace.scaling import Scale, scaled
from landform.subspace.select import Patterns, module_of, select
from landform.subspace.subspace import Subspace
from landform.task import Task

Curvature = Literal["hessian", "ggn"]
"""The Hessian of the loss, or the generalised Gauss–Newton matrix, which leaves out the model's own curvature."""

Which = Literal["largest", "magnitude", "smallest"]
"""Which end of the spectrum: the largest eigenvalues, the largest in modulus, or the smallest (most negative)."""

_ARPACK = {"largest": "LA", "magnitude": "LM", "smallest": "SA"}
_DENSE = 64
"""Up to so many parameters the matrix is written out: Lanczos wants more of them than eigenvectors."""


def hessian_plane(
    task: Task,
    *,
    z: int = 2,
    curvature: Curvature = "hessian",
    which: Which = "largest",
    norm: Scale = "unit",
    samples: int | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    include: Patterns | None = None,
    exclude: Patterns | None = None,
    biases: bool = True,
    adapters: bool = False,
    dtype: torch.dtype | None = None,
    tolerance: float = 1e-5,
    max_products: int = 1000,
) -> Subspace:
    """Return the space through a model along eigenvectors of the Hessian of its loss.

    H = ∇²L over the parameters that move, H d_i = λ_i d_i, ‖d_i‖ = 1: around a minimum L(h) = L(0) + ½ Σ_i λ_i h_i² up
    to third order. The eigenvectors are found by Lanczos' method from products H·v, without H.

    Args:
        task: A task with data. The loss is the one it measures: evaluation mode, weights and ignored labels counted.
        z: Number of directions.
        curvature: ``"hessian"``, or ``"ggn"`` for the generalised Gauss–Newton matrix JᵀH_ℓJ (one head, no ``step``).
        which: Which eigenvalues: ``"largest"``, ``"magnitude"`` or ``"smallest"``.
        norm: ``"unit"``: length 1, so that eigenvalues are curvatures of the surface. ``"model"``: as long as the
            weights that move. ``"layer"``, ``"filter"``: scaled block by block, no eigenvectors any more.
        samples: Take the loss over so many samples, drawn from ``seed``; all by default.
        seed: Seed of that draw and of the vector that Lanczos starts from, so that a second run gives the same.
        batch_size: Samples a pass; the task's choice by default. A product takes about four times the memory of a
            forward pass.
        include: Patterns over parameter names; None for all. The Hessian is that over the parameters chosen.
        exclude: Patterns of what to leave out.
        biases: Also biases and parameters of normalisation layers; on by default, as the Hessian has them.
        adapters: Adapters alone, see `landform.subspace.select.select`.
        dtype: Compute in this dtype, e.g. float64; None for the task's.
        tolerance: Residual ‖Hd − λd‖ relative to λ at which Lanczos stops; float32 reaches 1e-5.
        max_products: Most products before it gives up.

    Returns:
        The space. ``meta`` has ``eigenvalues`` in the order of the directions, ``residuals`` ‖H d_i − λ_i d_i‖, the
        number of ``products``, and ``loss`` over the samples that were used. The sign is such that the largest entry of
        a direction is positive.

    Raises:
        MissingExtraError: curvlinops is not installed.
        InputError: More directions than parameters, parameters of several dtypes or devices, a loss without second
            derivatives, values that are not finite, or no convergence.
        UnknownNameError: A pattern that matches nothing, or an unknown option.

    Cost:
        Some tens of products for a few eigenvectors, each about four passes over the samples; memory for some twenty
        vectors of the parameters.

    References:
        Products with the Hessian: Pearlmutter, "Fast exact multiplication by the Hessian", 1994, by curvlinops. The
        eigenvectors as axes: Ghorbani, Krishnan, Xiao, arXiv 1901.10159; Yao, Gholami, Keutzer, Mahoney, arXiv
        1912.07145.

    Example:
        >>> model = torch.nn.Linear(2, 1, bias=False)
        >>> x = torch.tensor([[3.0, 0.0], [0.0, 1.0]])
        >>> plane = hessian_plane(Task(model, "mse", (x, torch.zeros(2, 1))))  # H = XᵀX = diag(9, 1)
        >>> [round(value, 4) for value in plane.meta["eigenvalues"]]
        [9.0, 1.0]
    """
    for kind, got, known in (("curvature", curvature, Curvature), ("eigenvalues in which=", which, Which)):
        if got not in get_args(known):
            raise unknown_name(kind, str(got), get_args(known))
    if isinstance(z, bool) or not isinstance(z, int) or z < 1:
        raise InputError(f"z is {z!r}; wanted a number of directions, at least 1")
    need_curvlinops()
    model = module_of(task)
    names = select(model, include=include, exclude=exclude, biases=biases, adapters=adapters)
    origin = {name: value.detach().clone() for name, value in model.named_parameters()}
    size = sum(origin[name].numel() for name in names)
    if z > size:
        raise InputError(f"more directions than parameters: z = {z}, but only {size} numbers move; take a smaller z")
    objective = Objective(task, samples=samples, seed=seed, batch_size=batch_size)
    with objective.active(dtype):
        product = CurvatureProduct(objective, names, curvature)
        values, vectors = _eigen(product, z, which, seed, tolerance, max_products)
        residuals = [float(np.linalg.norm(product(v) - e * v)) for e, v in zip(values, vectors.T, strict=True)]
    directions = tuple(scaled(product.split(vector), origin, model, norm) for vector in vectors.T)
    meta = {
        "kind": curvature,
        "norm": norm,
        "which": which,
        "samples": objective.n,
        "seed": seed,
        "loss": product.loss,
        "eigenvalues": values.tolist(),
        "residuals": residuals,
        "products": product.count,
    }
    return Subspace(origin, directions, meta, ((-1.0, 1.0),) * z)


def _eigen(
    product: CurvatureProduct, z: int, which: str, seed: int, tolerance: float, most: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return z eigenvalues, the wanted end first, and eigenvectors in columns."""
    from scipy.sparse.linalg import ArpackNoConvergence, eigsh

    if product.size <= max(_DENSE, 2 * z + 2):
        matrix = np.stack([product(row) for row in np.eye(product.size)])
        values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    else:
        start = np.random.Generator(np.random.Philox(seed % 2**64)).standard_normal(product.size)
        lanczos = min(product.size - 1, max(2 * z + 1, 20))
        rounds = max(1, (most - lanczos) // max(1, lanczos - z))
        try:
            values, vectors = eigsh(
                product.scipy(), k=z, which=_ARPACK[which], v0=start, ncv=lanczos, maxiter=rounds, tol=tolerance
            )
        except ArpackNoConvergence as error:
            raise InputError(
                f"{len(error.eigenvalues)} of {z} eigenvectors were found to {tolerance:g} in {product.count} products;"
                " pass a larger tolerance= or max_products=, or dtype=torch.float64"
            ) from error
    key = {"largest": -values, "magnitude": -np.abs(values), "smallest": values}[which]
    order = np.argsort(key, kind="stable")[:z]
    values, vectors = values[order], vectors[:, order]
    largest = vectors[np.abs(vectors).argmax(axis=0), np.arange(z)]
    return values, vectors * np.where(largest < 0, -1.0, 1.0)
