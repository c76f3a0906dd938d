"""How far rounding may move the outputs of a network whose sums got longer by zeros.

Adding exact zeros changes no sum in exact arithmetic. In floating point a wider layer may be added up in another
order: every dot product of K terms then differs by at most 2·γ_K·Σ|w||x|, γ_K = K·u/(1 − K·u) (Higham, *Accuracy and
Stability of Numerical Algorithms*, §3.1), and so do the other operations by a few ulp of what they add. What becomes of
these differences at the outputs is, to first order in u, Σ |∂out/∂value|·difference over all values in the network.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from landform.calling import as_found, split_heads

Batch = Tensor | Mapping[str, Tensor]
FEW_ULP = 16.0
"""Units of rounding that an elementwise operation or a normalisation of one number is given."""

_DOTS: dict[Any, int] = {
    F.linear: 2,
    F.conv1d: 2,
    F.conv2d: 2,
    F.conv3d: 2,
    F.conv_transpose1d: 2,
    F.conv_transpose2d: 2,
    F.conv_transpose3d: 2,
    torch.conv1d: 2,
    torch.conv2d: 2,
    torch.conv3d: 2,
    torch.matmul: 2,
    Tensor.matmul: 2,
    Tensor.__matmul__: 2,
    torch.bmm: 2,
    Tensor.bmm: 2,
    torch.addmm: 3,
}
_MEANS: tuple[Any, ...] = (
    torch.mean,
    Tensor.mean,
    torch.sum,
    Tensor.sum,
    F.avg_pool1d,
    F.avg_pool2d,
    F.avg_pool3d,
    F.adaptive_avg_pool1d,
    F.adaptive_avg_pool2d,
    F.adaptive_avg_pool3d,
)
# fmt: off
_EXACT = frozenset((
    "relu", "relu_", "relu6", "hardtanh", "max_pool1d", "max_pool2d", "max_pool3d", "cat", "concat", "stack",
    "reshape", "view", "flatten", "unflatten", "squeeze", "unsqueeze", "transpose", "permute", "contiguous", "expand",
    "chunk", "split", "__getitem__", "__get__", "detach", "clone", "to", "dropout", "embedding", "pad", "repeat",
    "abs", "neg",
))
# fmt: on
"""Operations that move numbers, or cut them off, without rounding."""


def outputs(model: nn.Module, batch: Batch) -> Tensor:
    """Return all heads of a model on a batch side by side, ``[n, outputs]``."""
    found = model(**batch) if isinstance(batch, Mapping) else model(batch)
    heads, _ = split_heads(found, _length(batch), type(model).__name__)
    return torch.cat([value.reshape(len(value), -1) for value in heads.values()], dim=1)


def rounding(model: nn.Module, batch: Batch, chosen: Sequence[int]) -> Tensor:
    """Return how far reordered sums may move some outputs, to first order in the unit of rounding.

    Args:
        model: The network before widening; left as it is.
        batch: Inputs.
        chosen: Outputs, as columns of `outputs`.

    Returns:
        ``[n, len(chosen)]``.

    Cost:
        A forward pass whose values are kept, and one backward pass an output.
    """
    wanted = [p.requires_grad for p in model.parameters()]
    with as_found(model), torch.enable_grad():
        try:
            for parameter in model.parameters():
                parameter.requires_grad_(parameter.is_floating_point())
            with _Listener() as listener:
                found = outputs(model, batch)
            values = [value for value, _ in listener.heard]
            bounds = []
            for column in chosen:
                slopes = torch.autograd.grad(found[:, column].sum(), values, retain_graph=True, allow_unused=True)
                total = torch.zeros(len(found), dtype=torch.float64)
                for slope, (_, size) in zip(slopes, listener.heard, strict=True):
                    if slope is not None:
                        part = (slope.double().abs() * size).reshape(len(slope), -1).sum(dim=1).cpu()
                        total += part if len(part) == len(total) else part.sum()
                bounds.append(total)
        finally:
            for parameter, want in zip(model.parameters(), wanted, strict=True):
                parameter.requires_grad_(want)
    return torch.stack(bounds, dim=1)


class _Listener(TorchFunctionMode):
    """Notes every value that a forward pass makes, and by how much rounding may move it."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[tuple[Tensor, Tensor]] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if getattr(func, "__name__", "") in _EXACT:
            return func(*args, **kwargs)
        slack = _slack(func, args, kwargs)
        result = func(*args, **kwargs)
        if isinstance(result, Tensor) and result.requires_grad and result.is_floating_point():
            if slack is None:
                unit = torch.finfo(result.dtype).eps / 2
                slack = result.detach().double().abs() * (FEW_ULP * unit)
            self.heard.append((result, slack))
        return result


def _slack(func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor | None:
    """Return by how much another order of a sum may move its result, None for a few ulp of the result."""
    count = _DOTS.get(func)
    with torch.no_grad(), torch._C.DisableTorchFunction():
        if count is not None:
            terms = _terms(func, args)
            plain = [_size(a) for a in args]
            named = {k: _size(v) if k in ("input", "weight", "bias", "other", "mat2") else v for k, v in kwargs.items()}
            total: Tensor = func(*plain, **named)
            return total * (2 * _gamma(terms + 2, args, kwargs))
        if func in _MEANS:
            value: Tensor = args[0] if args else kwargs["input"]
            if not value.is_floating_point():
                return None
            result: Tensor = func(_size(value), *args[1:], **kwargs)
            terms = max(value.numel() // max(result.numel(), 1), 1)
            return result * (2 * _gamma(terms + 2, (value,), {}))
        if func is F.batch_norm or func is torch.batch_norm:
            return _of_batch_norm(*args, **kwargs)
        if func in (F.layer_norm, torch.layer_norm):
            return _of_layer_norm(*args, **kwargs)
        if func is F.scaled_dot_product_attention:
            return _of_attention(*args, **kwargs)
        if func is F.multi_head_attention_forward:
            return None  # nothing in it gets wider
    return None


def _of_batch_norm(
    value: Tensor,
    mean: Tensor | None,
    variance: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,  # noqa: ARG001 - the signature of torch's own
    momentum: float = 0.1,  # noqa: ARG001
    eps: float = 1e-5,
    *_: Any,
) -> Tensor | None:
    if mean is None or variance is None:
        return None
    shape = (1, -1, *([1] * (value.ndim - 2)))
    gain = (variance.double() + eps).rsqrt() * (1.0 if weight is None else weight.double().abs())
    size = (value.double().abs() + mean.double().abs().reshape(shape)) * gain.reshape(shape)
    if bias is not None:
        size = size + bias.double().abs().reshape(shape)
    return size * (FEW_ULP * torch.finfo(value.dtype).eps / 2)


def _of_layer_norm(
    value: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *_: Any,
) -> Tensor:
    dims = tuple(range(-len(normalized_shape), 0))
    x = value.double()
    root = (x.var(dims, correction=0, keepdim=True) + eps).sqrt()
    centred = (x - x.mean(dims, keepdim=True)).abs()
    count = math.prod(normalized_shape)
    slip = _gamma(count + 8, (value,), {})
    size = 2 * slip * (x.abs().mean(dims, keepdim=True) + 2 * centred) / root
    size = size if weight is None else size * weight.double().abs()
    return size if bias is None else size + bias.double().abs() * (FEW_ULP * torch.finfo(value.dtype).eps / 2)


def _of_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *_: Any,
    scale: float | None = None,
    **__: Any,
) -> Tensor:
    """A score that is off by e moves a softmax by 2e at most, in the sum of its sides; values are summed with it."""
    q, k, v = query.double().abs(), key.double().abs(), value.double().abs()
    if q.ndim > 2 and k.shape[-3] != q.shape[-3]:
        k, v = (t.repeat_interleave(q.shape[-3] // t.shape[-3], dim=-3) for t in (k, v))
    factor = q.shape[-1] ** -0.5 if scale is None else abs(scale)
    off = (q @ k.transpose(-1, -2)).amax(-1, keepdim=True) * factor * 2 * _gamma(q.shape[-1] + 4, (query,), {})
    return (2 * off + 2 * _gamma(k.shape[-2] + 16, (query,), {})) * v.amax(-2, keepdim=True)


def _size(value: Any) -> Any:
    if isinstance(value, Tensor) and value.is_floating_point():
        return value.detach().double().abs()
    return value


def _terms(func: Callable[..., Any], args: Sequence[Any]) -> int:
    """Return how many products a dot product adds up."""
    tensors = [a for a in args if isinstance(a, Tensor)]
    if func in (F.linear, torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.bmm, Tensor.bmm):
        return tensors[0].shape[-1]
    if func is torch.addmm:
        return tensors[1].shape[-1]
    weight = tensors[1]
    return weight.numel() // weight.shape[1] if "transpose" in func.__name__ else weight[0].numel()


def _gamma(terms: int, args: Sequence[Any], kwargs: Mapping[str, Any]) -> float:
    value = next(a for a in (*args, *kwargs.values()) if isinstance(a, Tensor) and a.is_floating_point())
    error = terms * torch.finfo(value.dtype).eps / 2
    return math.inf if error >= 1 else error / (1 - error)


def _length(batch: Batch) -> int:
    return len(next(iter(batch.values()))) if isinstance(batch, Mapping) else len(batch)
