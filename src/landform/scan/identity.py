"""What a scan is of: enough to tell whether stored answers are answers to the same questions."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor, nn

from landform.calling import model_hash
from landform.data.hashing import hash_tensors
from landform.errors import ArchitectureError
from landform.scan.engine.inplace import LARGE, InplaceEngine
from landform.scan.engine.own import UnsupportedError
from landform.scan.engine.space import AnySpace
from landform.scan.surface import versions
from landform.subspace import Subspace
from landform.task import Task


def identity(
    task: Task,
    subspace: AnySpace,
    h: Float64[Tensor, "points z"],
    quantities: Sequence[str],
    question: Mapping[str, Any],
) -> dict[str, Any]:
    """Describe a scan, for a store to know it by.

    Args:
        task: The task.
        subspace: Where it looks.
        h: The points.
        quantities: What it measures.
        question: What the sampler was asked (tolerance, confidence, subset, seed, …).

    Returns:
        Words, numbers and hashes, fit for JSON. The key ``"versions"`` holds what may change digits only.

    Cost:
        SHA-256 of the model, the data and the subspace: about a second for a gigabyte.
    """
    data = task.data
    return {
        "model": type(task.model).__name__,
        "model_hash": hash_of(task.model),
        "loss": task.loss_form.name,
        "loss_options": {name: str(value) for name, value in task.loss_form.options.items()},
        **({} if task.output is None else {"output": str(task.output)}),
        "settings": {name: str(getattr(task.settings, name)) for name in ("batch_norm", "dtype", "autocast")},
        "data": f"{data.name} ({data.split})",
        "data_hash": data.hash,
        "n_samples": task.n,
        "subspace": subspace_hash(subspace, h),
        "points": hash_tensors([("h", h)]),
        "quantities": list(quantities),
        "question": dict(question),
        "versions": versions(),
    }


def hash_of(model: object) -> str:
    """Hash a model's weights; ``""`` for a function, which has none that could be seen.

    Example:
        >>> hash_of(lambda x: x)
        ''
    """
    try:
        return model_hash(model) if isinstance(model, nn.Module) else ""
    except ArchitectureError:
        return ""


def subspace_hash(subspace: AnySpace, h: Float64[Tensor, "points z"]) -> str:
    """Hash where a scan looks.

    A subspace that knows its own hash (one that is drawn anew from a seed does) gives that. One with tensors is hashed
    by them. Anything else, such as a curve, by the parameters at the first and the last point and one between.

    Args:
        subspace: The subspace.
        h: The points.

    Returns:
        64 hexadecimal digits, or whatever its own hash is.

    Example:
        >>> from landform.subspace import Subspace
        >>> a, b = ({"w": torch.ones(2) * k} for k in (1, 2))
        >>> one, other = Subspace(a, (a,)), Subspace(a, (b,))
        >>> subspace_hash(one, torch.zeros(1, 1)) == subspace_hash(other, torch.zeros(1, 1))
        False
    """
    own = getattr(subspace, "hash", None)
    if isinstance(own, str):
        return own
    origin, directions = getattr(subspace, "origin", None), getattr(subspace, "directions", None)
    if isinstance(origin, Mapping) and isinstance(directions, tuple):
        parts = [(f"origin/{name}", value) for name, value in sorted(origin.items())]
        for number, direction in enumerate(directions):
            parts += [(f"{number}/{name}", direction[name]) for name in sorted(direction)]
        return hash_tensors(parts)
    rows = sorted({0, len(h) // 2, len(h) - 1})
    return hash_tensors((f"{row}/{name}", value) for row in rows for name, value in sorted(subspace.at(h[row]).items()))


def work_of(task: Task) -> float:
    """Count the multiply-adds of one sample at one point; at least 1.

    Counted, not timed, so that it is the same number on every machine. Of a module: its layers' products, by the shapes
    of weights and outputs as they are called; other weights once a sample. Of a function: every operation that PyTorch
    can count (which takes seconds the first time, since PyTorch's compiler is loaded for it).

    Args:
        task: The task.

    Returns:
        Multiply-adds of matrix products and convolutions in a forward pass, per sample.

    Example:
        >>> work_of(Task(nn.Linear(64, 10), data="digits"))
        640.0
    """
    n = min(2, task.n)

    def once() -> None:
        if task.step is None:
            task.run(None, task.batch(slice(0, n)))
        else:
            task.sums(index=slice(0, n))

    if not isinstance(task.model, nn.Module):
        from torch.utils.flop_counter import FlopCounterMode

        with FlopCounterMode(display=False) as counter:
            once()
        return max(1.0, float(counter.get_total_flops()) / (2 * n))
    counted: dict[int, float] = {}
    hooks = []
    for module in task.model.modules():
        weight = module._parameters.get("weight")
        if isinstance(module, nn.Embedding):
            counted[id(weight)] = 0.0  # looked up, not multiplied
        elif weight is not None and weight.ndim > 1:
            hooks.append(module.register_forward_hook(_counter(weight, counted)))
    try:
        once()
    finally:
        for hook in hooks:
            hook.remove()
    others = sum(p.numel() for p in task.model.parameters() if p.ndim > 1 and id(p) not in counted)
    return max(1.0, sum(counted.values()) / n + others)


def _counter(weight: Tensor, counted: dict[int, float]) -> Callable[[nn.Module, Any, object], None]:
    """Return a hook that adds a layer's products: one of the weight's size for every position of its output."""
    convolution = weight.ndim > 2

    def count(_module: nn.Module, _given: Any, returned: object) -> None:
        if isinstance(returned, Tensor) and returned.ndim > 1:
            channels = returned.shape[1] if convolution else returned.shape[-1]
            counted[id(weight)] = counted.get(id(weight), 0.0) + returned.numel() / channels * weight.numel()

    return count


def on_device(task: Task) -> bool:
    """Return whether the model computes on an accelerator, whose tiles may be larger."""
    if not isinstance(task.model, nn.Module):
        return False
    return any(value.device.type != "cpu" for value in task.model.parameters())


def first_values(task: Task, subspace: AnySpace, h: Float64[Tensor, "points z"]) -> list[float]:
    """Evaluate the first point on two samples: what tells changed code from the same code, as no hash can.

    Args:
        task: The task.
        subspace: Where.
        h: The points.

    Returns:
        Every quantity there.
    """
    count = min(2, task.n)
    if isinstance(subspace, Subspace) and sum(subspace.origin[name].numel() for name in subspace.moved) >= LARGE:
        with contextlib.suppress(UnsupportedError):  # a copy of what moves may not fit
            sums = InplaceEngine(task, subspace, batch_size=count).sums(h[:1], 0, count)
            return [float(value) for value in sums.num[0] / sums.den]
    num, den = task.sums(dict(subspace.at(h[0])), index=slice(0, count))
    return [float(value) for value in num / den]


def differ(held: Sequence[float], now: Sequence[float], tolerance: float = 1e-3) -> bool:
    """Return whether first values differ by more than rounding explains.

    Example:
        >>> differ([1.0, float("nan")], [1.0 + 1e-7, float("nan")]), differ([1.0], [1.1])
        (False, True)
    """
    a, b = (torch.tensor(list(values), dtype=torch.float64) for values in (held, now))
    return a.shape != b.shape or not torch.allclose(a, b, rtol=tolerance, atol=tolerance, equal_nan=True)
