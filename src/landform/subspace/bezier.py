"""`bezier`: a curve of low loss between two networks."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from landform.errors import InputError
from landform.subspace.between import State, between
from landform.subspace.curve import Curve
from landform.subspace.objective import Objective
from landform.subspace.seeded import direction_dtype
from landform.subspace.select import module_of
from landform.subspace.subspace import Subspace
from landform.task import Task


def bezier(
    task: Task,
    a: State,
    b: State,
    *,
    steps: int = 300,
    rate: float = 0.02,
    batch_size: int = 128,
    seed: int = 0,
    points: int = 21,
) -> Curve:
    """Train a quadratic Bézier curve between two networks so that the loss along it is low (mode connectivity).

    θ(t) = (1 − t)²·a + 2t(1 − t)·c + t²·b. The ends are kept; c starts half way between them and is trained to minimise
    the mean of L(θ(t)) over t uniform in [0, 1], by Adam on batches, each with a t of its own; the rate falls as a
    cosine to zero. Two trained networks with a wall of loss between them can often be joined so.

    Args:
        task: The model, loss and *training* data. The model's own parameters do not enter.
        a: One end: a model, a state dict or a file, as for `landform.between`.
        b: The other.
        steps: Steps of training; each is a forward and backward pass over one batch.
        rate: Rate of Adam, in units of the root mean square of b − a in each parameter tensor, so that it fits any
            network.
        batch_size: Samples a step.
        seed: Seed of batches and t.
        points: At how many t, evenly spaced, the barrier is measured.

    Returns:
        The curve. ``meta`` has ``barrier`` and ``barrier_of_line``, the `Barrier` heights along the curve and along the
        straight line on the task's data, ``at`` and ``losses``.

    Raises:
        InputError: Ends that do not fit the model or each other, a loss that is not finite during training, or options
            that cannot be.

    Note:
        BatchNorm normalises by the statistics of each batch while the curve is trained, as usual in training. Running
        statistics are those of neither end at points between: measure with ``Task(…, batch_norm="recalibrate")`` (or
        ``"batch"``), or the barrier shows the wrong statistics rather than the network. The barrier in ``meta`` is
        measured as the task has it.

    Cost:
        ``steps`` batches, and ``2 · points`` passes over the data; memory for six copies of what differs.

    References:
        Garipov, Izmailov, Podoprikhin, Vetrov, Wilson, arXiv 1802.10026; Draxler, Veschgini, Salmhofer, Hamprecht,
        arXiv 1803.00885.

    Example:
        >>> class Ring(nn.Module):  # the loss is low on the circle |w| = 1, and 1 in its middle
        ...     def __init__(self, x, y):
        ...         super().__init__()
        ...         self.w = nn.Parameter(torch.tensor([x, y]))
        ...     def forward(self, inputs):
        ...         return self.w.square().sum().expand(len(inputs), 1)
        >>> task = Task(Ring(1.0, 0.0), "mse", (torch.zeros(8, 1), torch.ones(8, 1)))
        >>> curve = bezier(task, Ring(1.0, 0.0), Ring(-1.0, 1e-3), steps=200, rate=0.05)
        >>> curve.meta["barrier_of_line"] > 0.9, curve.meta["barrier"] < 0.2
        (True, True)
    """
    if steps < 1 or not rate > 0 or batch_size < 1 or points < 2:
        raise InputError(
            f"steps={steps}, rate={rate}, batch_size={batch_size}, points={points}; wanted at least 1, more than 0, 1"
            " and 2"
        )
    model = module_of(task)
    line = between(a, b, model=task)
    _fit(model, line)
    control = _train(task, model, line, steps, rate, batch_size, seed)
    start = line.origin
    toward = {}
    for name, value in control.items():
        toward[name] = (value.double() - start[name].double()).to(direction_dtype(start[name]))
    curve = Curve(Subspace(start, (toward, line.directions[0]), {"kind": "bezier"}, ((-0.25, 1.25),) * 2))
    along, straight = barrier(task, curve, points=points), barrier(task, line, points=points)
    meta = {
        "kind": "bezier",
        "steps": steps,
        "rate": rate,
        "seed": seed,
        "barrier": along.height,
        "barrier_of_line": straight.height,
        "at": along.at.tolist(),
        "losses": along.losses.tolist(),
    }
    return Curve(curve.plane, meta)


@dataclass(frozen=True, eq=False)
class Barrier:
    """How high the loss rises on the way between two networks.

    Attributes:
        height: max over t of L(θ(t)) − [(1 − t)·L(θ(0)) + t·L(θ(1))], at the points measured; at least 0.
        highest: The t where it is.
        at: The points, shape ``[points]``, from 0 to 1.
        losses: The loss at them.
    """

    height: float
    highest: float
    at: Float64[Tensor, " points"]
    losses: Float64[Tensor, " points"]

    def __repr__(self) -> str:
        """Say how high, and where."""
        return f"Barrier({self.height:.4g} at {self.highest:.3g})"


def barrier(task: Task, path: Subspace | Curve, *, points: int = 21) -> Barrier:
    """Measure the barrier of loss along a line or curve from 0 to 1.

    Args:
        task: What to measure, e.g. on test data. Of several heads, the sum.
        path: A line, such as `landform.between` gives, or a curve.
        points: How many, evenly spaced, both ends included. What lies between them is not seen.

    Returns:
        The height above the straight line between the losses of the ends; not finite if a loss is.

    Raises:
        InputError: More than one coordinate, or fewer than two points.

    Cost:
        A pass over the data a point.

    References:
        Frankle, Dziugaite, Roy, Carbin, arXiv 1912.05671; in this form Entezari, Sedghi, Saukh, Neyshabur, arXiv
        2110.06296, equation 1.

    Example:
        >>> task = Task(nn.Linear(1, 1, bias=False), "mse", (torch.ones(1, 1), torch.zeros(1, 1)))  # L = w²
        >>> ends = [{"weight": torch.tensor([[w]])} for w in (1.0, 3.0)]
        >>> barrier(task, between(*ends), points=3).losses.tolist()
        [1.0, 4.0, 9.0]
    """
    if path.z != 1:
        raise InputError(f"a barrier is along one coordinate; this subspace has {path.z}")
    if points < 2:
        raise InputError(f"points is {points}; wanted at least the two ends")
    at = torch.linspace(0, 1, points, dtype=torch.float64)
    losses = torch.stack([task.evaluate(path.at(t[None])).sum() for t in at])
    rise = losses - ((1 - at) * losses[0] + at * losses[-1])
    height = float(rise.max()) if bool(rise.isfinite().all()) else float("inf")
    highest = int(rise.argmax()) if bool(rise.isfinite().all()) else int((~rise.isfinite()).int().argmax())
    return Barrier(max(height, 0.0), float(at[highest]), at, losses)


def _fit(model: nn.Module, line: Subspace) -> None:
    own = dict(model.named_parameters(remove_duplicate=False))
    for name, value in line.origin.items():
        if name not in own or own[name].shape != value.shape:
            has = f"has it with shape {list(own[name].shape)}" if name in own else "has not"
            raise InputError(
                f"'{name}' of the ends has shape {list(value.shape)}; the task's {type(model).__name__} {has}"
            )


def _train(
    task: Task, model: nn.Module, line: Subspace, steps: int, rate: float, batch_size: int, seed: int
) -> dict[str, Tensor]:
    """Return the control point: what differs between the ends, trained."""
    objective = Objective(task, batch_size=batch_size)
    middle, end = line.at(torch.tensor([0.5])), line.at(torch.ones(1))
    with objective.active():
        for layer in model.modules():
            if isinstance(layer, _BatchNorm):
                layer.training = True  # batch statistics; running ones are copies, and the mode is put back
        like = objective.start(line.moved)
        first, last, leaves = (
            {name: side[name].detach().to(value) for name, value in like.items()} for side in (line.origin, end, middle)
        )
        fixed = {name: value for name, value in line.origin.items() if name not in like}
        leaves = {name: value.clone().requires_grad_() for name, value in leaves.items()}
        groups = [
            {"params": [leaf], "lr": rate * float((last[name] - first[name]).double().square().mean().sqrt())}
            for name, leaf in leaves.items()
        ]
        optimizer = torch.optim.Adam(groups)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        generator = torch.Generator().manual_seed(seed)
        for step, index in enumerate(_batches(task.n, batch_size, steps, generator)):
            t = float(torch.rand(1, generator=generator, dtype=torch.float64))
            here = {
                name: (1 - t) ** 2 * first[name] + 2 * t * (1 - t) * leaf + t * t * last[name]
                for name, leaf in leaves.items()
            }
            num, den = objective.sums(fixed | here, task.batch(index))
            loss = num / den
            if not bool(torch.isfinite(loss)):
                raise InputError(f"the loss is {loss.item()} at step {step} (t = {t:.3f}); pass a smaller rate=")
            optimizer.zero_grad()
            found = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
            for leaf, gradient in zip(leaves.values(), found, strict=True):
                leaf.grad = gradient
            optimizer.step()
            schedule.step()
    return {name: leaf.detach().to(line.origin[name].device) for name, leaf in leaves.items()}


def _batches(n: int, size: int, steps: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Yield sample numbers for each step, every sample once before any twice."""
    order, at = torch.randperm(n, generator=generator), 0
    for _ in range(steps):
        if at + min(size, n) > n:
            order, at = torch.randperm(n, generator=generator), 0
        yield order[at : at + size]
        at += size
