"""`gradient_line`: the line along which the loss rises fastest."""

from landform.errors import InputError
from landform.subspace.objective import Objective
from landform.subspace.scaling import Scale, inner, scaled
from landform.subspace.select import Patterns, module_of, select
from landform.subspace.subspace import Subspace
from landform.task import Task


def gradient_line(
    task: Task,
    *,
    norm: Scale = "unit",
    samples: int | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    include: Patterns | None = None,
    exclude: Patterns | None = None,
    biases: bool = True,
    adapters: bool = False,
) -> Subspace:
    """Return the line through a model along the gradient of its loss, θ(h) = θ + h·∇L/‖∇L‖.

    The loss rises along it: L(h) = L(0) + h·‖∇L‖ + O(h²), and a step of gradient descent with rate η goes to
    h = −η·‖∇L‖.

    Args:
        task: A task with data. The loss is the one it measures: evaluation mode, weights and ignored labels counted.
        norm: ``"unit"``: length 1, the gradient itself. ``"model"``: as long as the weights that move. ``"layer"`` and
            ``"filter"``: scaled block by block, which can be compared between networks, but is steepest no more.
        samples: Take the gradient over so many samples, drawn from ``seed``; all by default.
        seed: Seed of the draw.
        batch_size: Samples a pass; the task's choice by default.
        include: Patterns over parameter names; None for all.
        exclude: Patterns of what to leave out.
        biases: Also biases and parameters of normalisation layers; on by default, as the gradient has them.
        adapters: Adapters alone, see `landform.subspace.select.select`.

    Returns:
        The line. ``meta`` has ``slope`` (dL/dh at 0), ``gradient_norm`` and ``loss`` over the samples that were used.

    Raises:
        InputError: A gradient that is zero or not finite, or a model without parameters.
        UnknownNameError: A pattern that matches nothing, or an unknown ``norm``.

    Cost:
        A forward and backward pass over the samples; memory for three copies of what moves.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(1, 1, bias=False)
        >>> _ = torch.nn.init.constant_(model.weight, 3.0)
        >>> line = gradient_line(Task(model, "mse", (torch.ones(4, 1), torch.ones(4, 1))))  # L = (w − 1)²
        >>> line.meta["slope"], line.at(torch.tensor([1.0]))["weight"].item()
        (4.0, 4.0)
    """
    model = module_of(task)
    names = select(model, include=include, exclude=exclude, biases=biases, adapters=adapters)
    objective = Objective(task, samples=samples, seed=seed, batch_size=batch_size)
    origin = {name: value.detach().clone() for name, value in model.named_parameters()}
    with objective.active():
        loss, gradient = objective.gradient(objective.start(names))
    length = inner(gradient, gradient) ** 0.5
    if not length > 0:
        raise InputError("the gradient is zero, so it has no direction; the model is at a stationary point")
    direction = scaled(gradient, origin, model, norm)
    meta = {
        "kind": "gradient",
        "norm": norm,
        "samples": objective.n,
        "loss": loss,
        "gradient_norm": length,
        "slope": inner(gradient, direction),
    }
    return Subspace(origin, (direction,), meta, ((-1.0, 1.0),))
