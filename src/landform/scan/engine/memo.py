"""Remember what a model computes from values that no point changes, whatever Python code lies between."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode, resolve_name
from torch.utils._pytree import tree_leaves

from landform.scan.engine.source import Block

PRODUCTS = ("linear", "conv", "matmul", "addmm", "bmm", "einsum", "attention", "multi_head", "lstm", "gru")
"""Parts of names of functions that are worth remembering; the others, looking up embeddings too, come along."""

Key = tuple[Any, ...]


class Unknown(Exception):  # noqa: N818  no error
    """An argument that cannot be part of a key."""


class Memo(TorchFunctionMode):
    """While active, a call of PyTorch with the same arguments as in the first pass returns the first pass's result.

    A tensor counts as *fixed* if it was given as such, or was returned by a call whose tensors were all fixed; it is
    known by the object that it is and by the version that PyTorch raises with every writing to it. So nothing is
    assumed about the model's control flow: a call is skipped only where the very tensors, unwritten, are handed to the
    very function with equal numbers. Whatever meets a moved parameter is computed. A call that writes to a tensor is
    made each time, and what is written to is fixed no longer.

    What is taken on trust is that functions of PyTorch give equal results for equal arguments: the task's probe finds
    random ones. Has to be used under ``torch.no_grad()``, not in inference mode, where tensors have no versions.

    Args:
        fixed: Tensors that are the same at every point: parameters, buffers, and a block's inputs.

    Attributes:
        bytes: Memory of what is remembered.
        products: How many of the remembered calls are products.
        hits: Calls that were skipped.

    Example:
        >>> x, w = torch.ones(2, 2), torch.eye(2)
        >>> with torch.no_grad(), (memo := Memo([x, w])):
        ...     first = torch.relu(x @ w) + torch.ones(2)
        >>> memo.close()
        >>> with memo:
        ...     again = torch.relu(x @ w) + torch.ones(2)
        >>> again is first, memo.hits
        (True, 4)
    """

    def __init__(self, fixed: list[Tensor]) -> None:
        super().__init__()
        self._fixed: dict[int, tuple[Tensor, int]] = {}
        self._found: dict[Key, tuple[Any, list[Tensor]]] = {}
        self._open = True
        self.bytes = 0
        self.products = 0
        self.hits = 0
        fixed = [value for value in fixed if not _unversioned(value)]
        for value in fixed:
            self._fix(value)
        self._given = {_place(value) for value in fixed}

    def close(self) -> None:
        """End the first pass: from now on nothing is added, so that memory does not grow with points."""
        self._open = False

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Look a call up, or make it."""
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") == "__get__":  # shapes; and x.data, which is written to without a version
            return func(*args, **kwargs)
        try:
            tensors: list[Tensor] = []
            key = (func, self._key(args, tensors), self._key(kwargs, tensors))
            found = self._found.get(key)
        except (Unknown, TypeError):  # an argument that varies, or is no number
            return func(*args, **kwargs)
        if found is not None:
            if all(self._is_fixed(part) for part in found[1]):
                self.hits += 1
                return list(found[0]) if isinstance(found[0], list) else found[0]
            del self._found[key]  # somebody writes to it
        result = func(*args, **kwargs)
        if self._open and found is None and all(self._is_fixed(value) for value in tensors):
            parts = _tensors(result)
            if parts is not None and not any(_unversioned(part) for part in parts):
                self._found[key] = list(result) if isinstance(result, list) else result, parts
                for part in parts:
                    self._fix(part)
                    if _place(part) not in self._given:
                        self._given.add(_place(part))
                        self.bytes += part.numel() * part.element_size()
                self.products += any(word in _name(func) for word in PRODUCTS)
        return result

    def _fix(self, value: Tensor) -> None:
        self._fixed[id(value)] = value, value._version

    def _is_fixed(self, value: Tensor) -> bool:
        known = self._fixed.get(id(value))
        return known is not None and known[0] is value and known[1] == value._version

    def _key(self, value: Any, tensors: list[Tensor]) -> Any:
        if isinstance(value, Tensor):
            if not self._is_fixed(value):
                raise Unknown
            tensors.append(value)
            return Tensor, id(value), value._version
        if isinstance(value, tuple | list):
            return type(value), *[self._key(part, tensors) for part in value]
        if isinstance(value, dict):
            return dict, *[(name, self._key(part, tensors)) for name, part in value.items()]
        if isinstance(value, slice):
            return slice, *[self._key(part, tensors) for part in (value.start, value.stop, value.step)]
        if isinstance(value, float):
            return float, value.hex()  # 0.0 equals −0.0
        if value is None or isinstance(value, int | str | torch.dtype | torch.device | torch.memory_format):
            return type(value), value  # True equals 1
        if value is Ellipsis:
            return Ellipsis
        raise Unknown


def _place(value: Tensor) -> int:
    return value.untyped_storage().data_ptr()


def _unversioned(value: Tensor) -> bool:
    return type(value) not in (Tensor, torch.nn.Parameter) or torch.is_inference(value) or value.is_sparse


def _tensors(result: Any) -> list[Tensor] | None:
    """Return the tensors of a result that is one, or a tuple or list of them (and None); else None."""
    if isinstance(result, Tensor):
        return [result]
    if isinstance(result, tuple | list) and result and all(isinstance(p, Tensor) or p is None for p in result):
        return [part for part in result if part is not None]
    return None


def _name(func: Callable[..., Any]) -> str:
    return str(resolve_name(func) or getattr(func, "__name__", ""))


@dataclass(eq=False)
class Prepared:
    """A block of samples, as a model takes it."""

    block: Block
    inputs: Any
    named: bool
    memo: Memo | None = None


class Memos:
    """What is remembered of each block, as far as memory holds it.

    Args:
        prepare: Makes a block ready.
        fixed: Parameters and buffers that no direction moves.
    """

    LIMIT: ClassVar[int] = 512 << 20
    """Bytes."""

    def __init__(self, prepare: Callable[[int, int], Prepared], fixed: list[Tensor]) -> None:
        self._prepare = prepare
        self._fixed = fixed
        self._held: dict[tuple[int, int], Prepared] = {}

    def clear(self) -> None:
        """Forget everything."""
        self._held.clear()

    def get(self, start: int, stop: int, keep: range) -> Prepared:
        """Return a block; keep it for the next call, in place of blocks outside ``keep`` if need be."""
        key = (start, stop)
        if key in self._held:
            return self._held[key]
        for other in list(self._held):
            if other[0] not in keep and self.bytes > self.LIMIT // 2:
                del self._held[other]
        found = self._prepare(start, stop)
        inputs = [leaf for leaf in tree_leaves(found.inputs) if isinstance(leaf, Tensor)]
        found.memo = Memo([*self._fixed, *inputs])
        if self.bytes <= self.LIMIT // 2:  # a block is half of it at most
            self._held[key] = found
        return found

    @property
    def bytes(self) -> int:
        """Memory of what is remembered."""
        return sum(ready.memo.bytes for ready in self._held.values() if ready.memo is not None)
