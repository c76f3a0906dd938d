"""What engines that look into a model begin with: an own copy of it, and what directions add to its tensors."""

from torch import Tensor, nn

from landform.scan.engine.own import Affine, UnsupportedError, compute_dtype, moved_names, own_copy
from landform.subspace import Subspace
from landform.task import Task


def moving_copy(task: Task, subspace: Subspace) -> tuple[nn.Module, dict[str, Tensor], dict[int, Affine]]:
    """Copy a task's model, for engines that trace it.

    Args:
        task: The task.
        subspace: What moves.

    Returns:
        The copy; its parameters and buffers by name; and those that move, by ``id``, as origin + Σ_i h_i·part_i.

    Raises:
        UnsupportedError: No affine subspace with directions, a task that is more than a call of its model, hooks, or
            what `own_copy` cannot copy.
    """
    if not isinstance(subspace, Subspace) or subspace.z == 0:
        raise UnsupportedError("only an affine subspace with directions has anything to share")
    require_plain(task)
    assert isinstance(task.model, nn.Module)
    if hooked(task.model):
        raise UnsupportedError(f"model {type(task.model).__name__} has forward hooks, which a graph does not show")
    model, tensors = own_copy(task.model, subspace.origin, dtype=compute_dtype(task.model))
    steps = {
        id(tensors[name]): Affine(
            tensors[name].detach(),
            tuple(_like(direction.get(alias), tensors[name]) for direction in subspace.directions),
        )
        for name, alias in moved_names(task.model, subspace.moved).items()
    }
    return model, tensors, steps


def require_plain(task: Task) -> None:
    """Refuse a task whose evaluation is more than one call of its model in evaluation mode.

    Raises:
        UnsupportedError: A function in place of a module, a step, a loss of batches, autocast, another dtype or
            device, another BatchNorm policy, permitted randomness.
    """
    settings = task.settings
    if not isinstance(task.model, nn.Module) or task.step is not None or not task.per_sample:
        raise UnsupportedError(f"task {task.name}: wanted a module and a loss of single samples")
    if settings.autocast is not None or settings.batch_norm != "frozen" or settings.allow:
        asked = {"batch_norm": settings.batch_norm != "frozen", "autocast": settings.autocast, "allow": settings.allow}
        told = ", ".join(f"{name}={getattr(settings, name)!r}" for name in asked if asked[name])
        raise UnsupportedError(f"task {task.name} has {told}, which engine='functional' follows alone")
    if settings.dtype is not None or settings.device is not None:
        raise UnsupportedError(f"task {task.name} runs in another dtype, or on another device, than its model")


def hooked(model: nn.Module) -> bool:
    """Say whether a module that is traced through has hooks; those of leaves run as they are."""
    inner = [module for module in model.modules() if module is model or any(True for _ in module.children())]
    return any(module._forward_hooks or module._forward_pre_hooks for module in inner)


def _like(step: Tensor | None, value: Tensor) -> Tensor | None:
    return None if step is None else step.detach().to(value.device, value.dtype)
