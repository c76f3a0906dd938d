"""Search the best constant output of a loss that is only known as a function, and a ray along which it rises."""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from landform.errors import InputError

Sigma = Callable[[Tensor], Tensor]

BOX = 32.0
"""Outputs are searched in [−BOX, BOX]: beyond it a log loss has spent all but 1e-14 of what it can lose."""

REACH = 16.0
"""A ray that rises by this much (loss units) is taken at once; most patterns need 1."""


def find_minimum(sigma: Sigma, outputs: int) -> Float64[Tensor, " outputs"]:
    """Minimise σ over constant outputs: L-BFGS-B from five starts, polished by Powell's method where that is cheap.

    Args:
        sigma: [points, outputs] → [points].
        outputs: Number of outputs.

    Returns:
        The best output found.

    Raises:
        InputError: If σ keeps falling outside the box.

    Example:
        >>> find_minimum(lambda p: (p - 3.0).square().sum(dim=1), 2).round(decimals=6).tolist()
        [3.0, 3.0]
    """
    from scipy.optimize import minimize

    def value(x: np.ndarray) -> float:
        with torch.no_grad():
            return float(sigma(torch.from_numpy(np.array(x))[None, :]))

    def value_and_gradient(x: np.ndarray) -> tuple[float, np.ndarray]:
        point = torch.from_numpy(np.array(x)).requires_grad_(True)
        with torch.enable_grad():
            loss = sigma(point[None, :])[0]
            (gradient,) = torch.autograd.grad(loss, point)
        return float(loss.detach()), gradient.numpy()

    bounds = [(-BOX, BOX)] * outputs
    starts = [np.zeros(outputs), *np.random.default_rng(0).normal(size=(4, outputs))]
    try:
        value_and_gradient(starts[0])
        objective, gradient = value_and_gradient, True
    except RuntimeError:
        objective, gradient = value, False  # type: ignore[assignment]
    options = {"maxiter": 500, "ftol": 1e-16, "gtol": 1e-12}
    found = [minimize(objective, x, jac=gradient, method="L-BFGS-B", bounds=bounds, options=options).x for x in starts]
    best = min(found, key=value)
    if outputs <= 16:
        powell = minimize(value, best, method="Powell", bounds=bounds, options={"xtol": 1e-10, "ftol": 1e-15}).x
        best = min((best, powell), key=value)
    outside = np.where(np.abs(best) > BOX - 1e-6, 2.0 * best, best)
    if value(outside) < value(best) - 1e-6 * (1.0 + abs(value(best))):
        raise InputError(
            f"the loss of a constant output still falls beyond ±{BOX:g} ({value(best):.4g} there, {value(outside):.4g} "
            "at twice that); it needs a minimum: use a loss that is bounded below, or scale the outputs"
        )
    return torch.from_numpy(np.array(best, dtype=np.float64))


def find_ray(sigma: Sigma, best: Float64[Tensor, " outputs"]) -> tuple[int, float]:
    """Find an axis, up or down, along which σ does not decrease from its minimum.

    Args:
        sigma: [points, outputs] → [points].
        best: Where the ray starts.

    Returns:
        (output, sign): the first that rises by `REACH` before s = 10⁴, else the one that rises most.

    Raises:
        InputError: If σ rises along none.

    Example:
        >>> find_ray(lambda p: p[:, 1].abs(), torch.zeros(2, dtype=torch.float64))
        (1, 1.0)
    """
    grid = torch.cat([torch.linspace(0.0, 4.0, 201), torch.logspace(np.log10(4.0), 4.0, 200)[1:]]).to(torch.float64)
    most, choice = 0.0, None
    for sign in (1.0, -1.0):
        for output in range(len(best)):
            points = best.repeat(len(grid), 1)
            points[:, output] += sign * grid
            with torch.no_grad():
                rho = sigma(points)
            rise = rho - rho[0]
            within = rise.cummax(0).values <= 4 * REACH
            within = within | ~torch.isfinite(rise)
            usable = rise[: int(within.sum()) + 1]
            usable = usable[torch.isfinite(usable)]
            # the minimiser is known to √eps only, so the first steps may fall by a rounding error
            if len(usable) < 2 or bool((usable.diff() < -1e-9 * (1.0 + rho[0].abs())).any()):
                continue
            if float(usable[-1]) >= REACH:
                return output, sign
            if float(usable[-1]) > most:
                most, choice = float(usable[-1]), (output, sign)
    if choice is None:
        raise InputError(
            "the loss rises monotonically along no output, up or down, so it cannot be inverted; check outputs=, or "
            "use a loss that grows with its error"
        )
    return choice


def last_minimum(
    sigma: Sigma, best: Float64[Tensor, " outputs"], output: int, sign: float
) -> Float64[Tensor, " outputs"]:
    """Move a minimum to the last minimiser on its ray, by zooming in on a grid.

    Args:
        sigma: [points, outputs] → [points].
        best: A minimum, up to the accuracy of a search.
        output: The ray's output.
        sign: The ray's direction.

    Returns:
        The last minimiser, to rounding in σ.

    Example:
        >>> flat = last_minimum(lambda p: (p[:, 0].abs() - 1).clamp(min=0), torch.zeros(1).double(), 0, 1.0)
        >>> round(float(flat), 9)
        1.0
    """
    low, high = -1.0, 1.0
    point = best.clone()
    for _ in range(40):
        s = torch.linspace(low, high, 65, dtype=torch.float64)
        points = best.repeat(65, 1)
        points[:, output] += sign * s
        with torch.no_grad():
            rho = sigma(points)
        least = float(rho.min())
        last = int((rho <= least + 4 * torch.finfo(torch.float64).eps * abs(least)).nonzero()[-1])
        point = points[last]
        step = (high - low) / 64
        low, high = float(s[last]) - step, float(s[last]) + step
        if last == 64:  # a flat piece goes on: follow it
            high += 64 * step
        elif step < 1e-15:
            break
    return point.clone()
