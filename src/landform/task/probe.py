"""Passing a few samples through a task before anything expensive."""

from typing import TYPE_CHECKING

from torch import Tensor

from landform.errors import InputError

if TYPE_CHECKING:
    from landform.task.task import Task


def outputs_probe(task: "Task", n: int = 2) -> dict[str, tuple[int, ...]]:
    """Pass a few samples through model and loss, to find shapes and misfits before anything expensive.

    Args:
        task: The task.
        n: Samples; two by default, so that a model that loses the sample dimension is found out.

    Returns:
        The shape of each head's output, samples first, by the head's name.

    Raises:
        InputError: Model and data, or outputs and targets, do not fit; shapes are named, and what is likely missing.
        DataError: Labels that the loss cannot take.

    Example:
        >>> from torch import nn
        >>> from landform.task import Task
        >>> outputs_probe(Task(nn.Linear(64, 10), data="digits"))
        {'output': (2, 10)}
    """
    data = task.data.subset(range(min(n, task.data.n)))
    outputs = task.outputs(inputs=data.take(slice(None))[0])
    heads = {"output": outputs} if isinstance(outputs, Tensor) else outputs
    for name, output in heads.items():
        task.losses_from_outputs(output, data.targets)
        labels = not data.targets.is_floating_point() and task.loss_form.name in (
            "cross_entropy",
            "multi_margin",
            "nll",
        )
        if labels and data.classes is not None and output.shape[1] < data.classes:
            raise InputError(
                f"model {type(task.model).__name__} gives {output.shape[1]} outputs ({name}) but {data.name} has "
                f"{data.classes} classes; make the last layer {data.classes} wide"
            )
    return {name: tuple(output.shape) for name, output in heads.items()}
