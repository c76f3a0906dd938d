"""What happens where the work is done: an engine is built from a payload once, and items are computed with it."""

import hashlib
import io
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from landform.data.spill import map_place, place_of
from landform.errors import ExecutorError
from landform.scan.engine.base import AbstractEngine

Factory = Callable[..., AbstractEngine]
"""Builds an engine; called once in every process or thread that computes, and again with positions of samples if a
scan wants these before all others."""


@dataclass(frozen=True, eq=False)
class Payload:
    """An engine's recipe as bytes, so that it can travel: model, data and subspace, pickled by value where needed.

    Attributes:
        key: SHA-256 of the bytes, by which a worker knows what it has already.
        data: What `cloudpickle` made of the factory.
    """

    key: str
    data: bytes = field(repr=False)

    @classmethod
    def of(cls, factory: Factory, *, same_machine: bool = False) -> "Payload":
        """Pickle a factory.

        Args:
            factory: A function of nothing that builds an engine.
            same_machine: Whether workers are on this machine: data that are larger than memory, and kept in files, are
                named then and not copied.

        Returns:
            The payload.

        Raises:
            TypeError: From pickle, if something in it (an open file, a lock, a running iterator) cannot travel.
        """
        data = _dumps(factory, files=same_machine)
        return cls(hashlib.sha256(data).hexdigest(), data)


def _dumps(factory: Factory, *, files: bool) -> bytes:
    import cloudpickle

    class Pickler(cloudpickle.Pickler):  # type: ignore[misc]
        def reducer_override(self, obj: object) -> Any:
            place = place_of(obj) if files and type(obj) is torch.Tensor else None
            return super().reducer_override(obj) if place is None else (map_place, place)

    with io.BytesIO() as file:
        Pickler(file).dump(factory)
        return file.getvalue()


@dataclass(frozen=True, eq=False)
class Item:
    """A tile of a round: the unit that is computed, stored and, after a crash, computed again.

    Arrays are NumPy's: PyTorch would send tensors through shared memory, whose handles do not outlive the sender.

    Attributes:
        number: Which tile of its round.
        h: Points, shape ``[points, z]``, float64.
        start: First sample, in the engine's order.
        stop: One past the last.
        per_sample: Whether terms are wanted, or sums.
        front: Samples that come before all others, as in `landform.scan.sampler.base.Request`.
    """

    number: int
    h: "np.ndarray[Any, np.dtype[np.float64]]"
    start: int
    stop: int
    per_sample: bool
    front: "np.ndarray[Any, np.dtype[np.int64]] | None" = None


@dataclass(frozen=True, eq=False)
class Answer:
    """What an item gave.

    Attributes:
        number: That of the item.
        num: Numerators, ``[points, quantities]`` or ``[points, quantities, samples]``.
        den: Denominators, without the points.
    """

    number: int
    num: "np.ndarray[Any, np.dtype[np.float64]]"
    den: "np.ndarray[Any, np.dtype[np.float64]]"


def answer(engine: AbstractEngine, item: Item) -> Answer:
    """Compute an item.

    Args:
        engine: What computes.
        item: What is wanted.

    Returns:
        The answer, in float64.
    """
    h = torch.from_numpy(item.h)
    if item.per_sample:
        terms = engine.terms(h, item.start, item.stop)
        return Answer(item.number, terms.num.numpy(), terms.den.numpy())
    sums = engine.sums(h, item.start, item.stop)
    return Answer(item.number, sums.num.numpy(), sums.den.numpy())


class _Engines(threading.local):
    """The engine of this thread: an engine holds caches and a model of its own, so threads do not share one."""

    def __init__(self) -> None:
        self.key = ""
        self.factory: Factory | None = None
        self.engine: AbstractEngine | None = None
        self.front = b""


_engines = _Engines()
_payloads: dict[str, bytes] = {}
"""Payloads kept for every thread of this process that may come to need them."""


def keep(payload: Payload) -> None:
    """Keep a payload in this process until `forget`."""
    _payloads[payload.key] = payload.data


def forget(key: str) -> None:
    """Let go of a payload and of this thread's engine made from it."""
    _payloads.pop(key, None)
    if _engines.key == key:
        _engines.key, _engines.factory, _engines.engine = "", None, None


def compute(key: str, data: bytes | None, item: Item) -> Answer | None:
    """Compute an item in a worker, building the engine at the first one.

    Args:
        key: Of the payload.
        data: The payload's bytes; None where this process is believed to have it already.
        item: What is wanted.

    Returns:
        The answer; None if this thread has no such engine and no payload to build it from, so that the caller sends
        the item again with it.
    """
    front = front_of(item)
    if _engines.key != key or _engines.factory is None:
        recipe = data if data is not None else _payloads.get(key)
        if recipe is None:
            return None
        _engines.key, _engines.factory, _engines.engine = key, _load(recipe), None
    if _engines.engine is None or _engines.front != front:
        _engines.engine = None  # the old one's memory, before the new one takes its own
        _engines.engine, _engines.front = build(_engines.factory, item), front
    return answer(_engines.engine, item)


def front_of(item: Item) -> bytes:
    """Return what tells the orders of samples apart that items are about."""
    return b"" if item.front is None else item.front.tobytes()


def build(factory: Factory, item: Item) -> AbstractEngine:
    """Build the engine for an item."""
    return factory() if item.front is None else factory(torch.from_numpy(item.front.copy()))


def _load(recipe: bytes) -> Factory:
    import cloudpickle

    try:
        factory: Factory = cloudpickle.loads(recipe)
    except ImportError as error:
        raise ExecutorError(
            f"a worker cannot import what the model, the loss or the data need ({error}); install it there, put its"
            " folder on PYTHONPATH where the workers start, or with dask: client.upload_file('my_module.py')"
        ) from error
    return factory


def compute_all(key: str, items: list[Item]) -> tuple[list[Answer], float] | None:
    """Compute several items in a worker that was given the payload.

    Args:
        key: Of the payload.
        items: What is wanted.

    Returns:
        The answers and the seconds that they took; None as `compute`.
    """
    begin = time.perf_counter()
    answers = [compute(key, None, item) for item in items]
    found = [one for one in answers if one is not None]
    return (found, time.perf_counter() - begin) if len(found) == len(items) else None


def pin_device(index: int) -> None:
    """Show this process one CUDA device only, by the worker's number, unless the user chose devices already.

    Effective before CUDA starts in the process, so a worker calls it before it loads a model.

    Args:
        index: Number of the worker on its machine.
    """
    if "CUDA_VISIBLE_DEVICES" in os.environ or torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return
    count = torch.cuda.device_count()
    if count > 1:
        os.environ["CUDA_VISIBLE_DEVICES"] = str(index % count)
