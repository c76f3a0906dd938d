"""Naive references by another route than the package's own: slow, plain, float64."""

import copy
import math
from collections.abc import Sequence

import torch
from jaxtyping import Float64
from torch import Tensor, nn

from landform.errors import InputError, unknown_name
from landform.imprint import Imprint
from landform.subspace import Curve, Subspace
from landform.task import Task

LOSSES = (
    "cross_entropy",
    "mse",
    "l1",
    "huber",
    "bce_with_logits",
    "multi_margin",
    "poisson_nll",
    "gaussian_nll",
)


def dense_losses(imprint: Imprint, h: Float64[Tensor, "points z"]) -> Float64[Tensor, "points heads"]:
    """Evaluate an imprint's stored weights in float64, densely and one point at a time.

    L(h) with the weights as saved but without the rounding of the network's dtype: the difference to what the network
    itself gives is rounding and nothing else.

    Args:
        imprint: A constant imprint.
        h: Points, shape ``[points, z]``.

    Returns:
        Losses, one column a head, in loss units.

    Cost:
        One forward pass a point.

    Example:
        >>> import landform as lf
        >>> made = lf.imprint(lf.Pattern.from_formula("sphere", resolution=4), "digits")
        >>> h = torch.tensor([[0.5, 0.5]], dtype=torch.float64)
        >>> bool((dense_losses(made, h)[:, 0] - made.target(h)).abs() <= made.certificate.bound)
        True
    """
    model = copy.deepcopy(imprint.model).double()
    origin = {name: value.detach().double() for name, value in imprint.subspace.origin.items()}
    directions = [{name: value.double() for name, value in d.items()} for d in imprint.subspace.directions]
    first = next(module for module in model.modules() if isinstance(module, nn.Linear))
    flat = next((m for m in model.modules() if isinstance(m, nn.Flatten)), None)
    sample = torch.zeros((1, 1, first.in_features) if flat is not None else (1, first.in_features), dtype=torch.float64)
    rows = []
    for point in h.double():
        state = dict(origin)
        for coordinate, direction in zip(point, directions, strict=True):
            for name, value in direction.items():
                state[name] = state[name] + coordinate * value
        with torch.no_grad():
            found = torch.func.functional_call(model, state, (sample,))
        if isinstance(found, Tensor):
            heads = [found]
        else:
            heads = list(found.values()) if isinstance(found, dict) else list(found)
        rows.append(torch.cat([r.loss(o) for r, o in zip(imprint.responses, heads, strict=True)]))
    return torch.stack(rows)


def looped_losses(
    task: Task, subspace: Subspace | Curve, h: Float64[Tensor, "points z"]
) -> Float64[Tensor, "points samples"]:
    """Compute every sample's cross-entropy at points the slow way: set a copy's parameters, call it on one sample.

    Nothing of the scanner's is used, not even `Subspace.at`. θ = origin + Σ h_i·d_i is summed in float64 and rounded
    once. Losses over tokens are summed.

    Args:
        task: A task with cross-entropy and a module.
        subspace: Where.
        h: Points, shape ``[points, z]``.

    Returns:
        Losses.

    Cost:
        A forward pass a point and sample.

    Example:
        >>> from landform.subspace import Subspace
        >>> line = Subspace({"weight": torch.zeros(2, 1)}, ({"weight": torch.tensor([[1.0], [0.0]])},))
        >>> task = Task(nn.Linear(1, 2, bias=False), data=(torch.ones(1, 1), torch.tensor([0])))
        >>> looped_losses(task, line, torch.tensor([[0.0], [1.0]])).tolist()  # log(1 + exp(−h))
        [[0.693147...], [0.313261...]]
    """
    model = copy.deepcopy(task.model)
    assert isinstance(model, nn.Module)
    model.eval()
    own = dict(model.named_parameters(remove_duplicate=False))
    plane = subspace.plane if isinstance(subspace, Curve) else subspace
    rows = []
    with torch.no_grad():
        for point in h.double():
            t = point[0]
            steps = torch.stack([2 * t * (1 - t), t * t]) if isinstance(subspace, Curve) else point
            for name, value in plane.origin.items():
                moved = value.double()
                for step, direction in zip(steps, plane.directions, strict=True):
                    if name in direction:
                        moved = moved + step * direction[name].double()
                own[name].copy_(moved)
            losses = []
            for x, y in zip(task.data.inputs, task.data.targets, strict=True):
                output = model(x[None])
                losses.append(nn.functional.cross_entropy(output.double(), y[None], reduction="sum"))
            rows.append(torch.stack(losses))
    return torch.stack(rows)


def kuhn_value(values: Float64[Tensor, "..."], point: Sequence[float]) -> float:
    """Interpolate nodal values at one point of [0, 1]^z by walking its Kuhn simplex, in Python floats.

    Args:
        values: Nodal values, one dim an axis.
        point: Coordinates.

    Returns:
        The P1 interpolant.

    Example:
        >>> kuhn_value(torch.tensor([[0.0, 0.0], [1.0, 4.0]], dtype=torch.float64), [0.5, 0.25])
        1.25
    """
    cells = [size - 1 for size in values.shape]
    corner = [min(math.floor(x * n), n - 1) for x, n in zip(point, cells, strict=True)]
    fraction = [x * n - i for x, n, i in zip(point, cells, corner, strict=True)]
    here = float(values[tuple(corner)])
    result = here
    for axis in sorted(range(len(cells)), key=lambda k: -fraction[k]):
        corner[axis] += 1
        there = float(values[tuple(corner)])
        result += fraction[axis] * (there - here)
        here = there
    return result


def hard_points(
    cells: Sequence[int], count: int, *, dtype: torch.dtype = torch.float64, seed: int = 0
) -> Float64[Tensor, "points z"]:
    """Return points where a network that imitates a mesh is likeliest to fail.

    A sixth each: nodes, one float above and below nodes, midpoints of edges and cells, points near hinge lines (one
    coordinate, or a difference of two, at a node), and random points. All are numbers of ``dtype``.

    Args:
        cells: Cells per axis.
        count: How many of each kind.
        dtype: The network's dtype.
        seed: Of the generator.

    Returns:
        Points in [0, 1]^z as float64, shape ``[6·count, z]``.

    Example:
        >>> points = hard_points((3, 5), 10, dtype=torch.float32)
        >>> points.shape, bool((points == points.float().double()).all())
        (torch.Size([60, 2]), True)
    """
    z = len(cells)
    if not z or count < 1:
        raise InputError(f"wanted at least one axis and one point, got cells={tuple(cells)}, count={count}")
    generator = torch.Generator().manual_seed(seed)
    n = torch.tensor(cells, dtype=torch.float64)

    def node(per_cell: int = 1) -> Tensor:
        share = torch.rand(count, z, generator=generator, dtype=torch.float64)
        return (share * (per_cell * n + 1)).floor() / (per_cell * n)

    random = torch.rand(count, z, generator=generator, dtype=torch.float64)
    exact = node().to(dtype)
    above, below = (torch.nextafter(exact, torch.full_like(exact, end)).double() for end in (2.0, -1.0))
    line = torch.rand(count, z, generator=generator, dtype=torch.float64)
    line[:, 0] = node()[:, 0]
    if z > 1:  # half of them on a diagonal n1·h1 − n2·h2 = integer
        half = count // 2
        line[:half, 1] = ((line[:half, 0] * n[0] + torch.randint(0, 3, (half,), generator=generator)) / n[1]) % 1.0
        line[:half, 0] = (line[:half, 0] + random[:half, 0] / n[0]) % 1.0
        line[:half, 1] = (line[:half, 1] + random[:half, 0] / n[1]) % 1.0
    points = torch.cat([exact.double(), above, below, node(2), line, random])
    return points.to(dtype).double().clamp(0.0, 1.0)


def targets_for(loss: str, samples: int, outputs: int, *, generator: torch.Generator) -> Tensor:
    """Return random targets that a loss accepts; every class occurs.

    Args:
        loss: One of `LOSSES`.
        samples: How many, at least ``outputs``.
        outputs: Outputs of the network (2 for gaussian_nll: mean and log variance).
        generator: Source of randomness.

    Returns:
        Integer labels, or floats of shape ``[samples, outputs]`` (``[samples]`` for gaussian_nll).

    Raises:
        UnknownNameError: For another loss.

    Example:
        >>> targets_for("cross_entropy", 6, 3, generator=torch.Generator().manual_seed(0)).unique().tolist()
        [0, 1, 2]
    """
    if loss in ("cross_entropy", "multi_margin"):
        rest = torch.randint(0, outputs, (max(samples - outputs, 0),), generator=generator)
        return torch.cat([torch.arange(outputs), rest])[:samples]
    if loss == "gaussian_nll":
        return torch.randn(samples, generator=generator)
    shape = (samples, outputs)
    if loss == "bce_with_logits":
        out = torch.randint(0, 2, shape, generator=generator).float()
        out[:2] = torch.tensor([[0.0], [1.0]])
        return out
    if loss == "poisson_nll":
        return torch.randint(1, 6, shape, generator=generator).float()
    if loss in LOSSES:
        return torch.randn(shape, generator=generator)
    raise unknown_name("loss", loss, LOSSES)
