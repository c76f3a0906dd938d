"""Where items are computed: in this process, or by anything with the interface of `concurrent.futures`."""

import abc
import concurrent.futures
import contextlib
import os
import time
from collections.abc import Generator, Iterable, Mapping
from concurrent.futures.process import BrokenProcessPool
from types import TracebackType
from typing import Any, Self

from landform.errors import ExecutorError, InputError, MissingExtraError
from landform.scan.engine.base import AbstractEngine
from landform.scan.pages import hold_pages, release_pages
from landform.scan.worker import Answer, Factory, Item, Payload, answer, build, compute, forget, front_of

AHEAD = 3
"""Items under way for each worker: one computed, the others waiting so that it never is."""


_OF_THIS_MACHINE = (concurrent.futures.ProcessPoolExecutor, concurrent.futures.ThreadPoolExecutor)


class AbstractPool(abc.ABC):
    """Computes items; a context manager that lets go of what it started."""

    @abc.abstractmethod
    def compute(self, items: Iterable[Item]) -> Generator[Answer]:
        """Compute items and yield the answers as they come, in any order.

        Closing the iterator early calls off what has not begun.

        Args:
            items: The items.

        Yields:
            One answer an item.

        Raises:
            ExecutorError: Workers were lost that the executor cannot replace.
        """

    def close(self) -> None:  # noqa: B027 - most pools have nothing to let go of
        """Let go of what this pool started."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class HerePool(AbstractPool):
    """Computes in this process, one item after another; the engine is built when the first one comes."""

    def __init__(self, factory: Factory) -> None:
        self._factory = factory
        self._engine: AbstractEngine | None = None
        self._front = b""
        self._holds = False

    def compute(self, items: Iterable[Item]) -> Generator[Answer]:
        """Compute items in their order."""
        if not self._holds:
            self._holds = True
            hold_pages()
        for item in items:
            if self._engine is None or self._front != front_of(item):
                self._engine = None  # the old one's memory, before the new one takes its own
                self._engine, self._front = build(self._factory, item), front_of(item)
            yield answer(self._engine, item)

    def close(self) -> None:
        """Give back the memory that was kept between items."""
        if self._holds:
            self._holds = False
            release_pages()


class FuturesPool(AbstractPool):
    """Computes with an executor of the user's, which is left running.

    The payload goes along with the first items. Later ones name it only; a worker that does not have it says so, and
    gets the item again with the payload. Executors whose every call starts a new process are noticed by that, and get
    it with every item.
    """

    def __init__(self, executor: concurrent.futures.Executor, factory: Factory) -> None:
        self._executor = executor
        self._payload = Payload.of(factory, same_machine=isinstance(executor, _OF_THIS_MACHINE))
        self._workers = int(getattr(executor, "_max_workers", None) or os.cpu_count() or 1)
        self._free = isinstance(executor, concurrent.futures.ThreadPoolExecutor)  # nothing is copied to a thread
        self._lacking = self._having = 0
        self.sent = 0

    def compute(self, items: Iterable[Item]) -> Generator[Answer]:
        """Compute items as the executor takes them."""
        waiting: dict[concurrent.futures.Future[Answer | None], tuple[Item, bool]] = {}
        queue = iter(items)
        try:
            for item in queue:
                self._submit(waiting, item, with_payload=self.sent < self._workers)
                if len(waiting) >= AHEAD * self._workers:
                    yield from self._collect(waiting)
            while waiting:
                yield from self._collect(waiting)
        finally:
            for future in waiting:
                future.cancel()

    def close(self) -> None:
        """Let go of the engine, if the executor computed in this very thread."""
        forget(self._payload.key)

    def _submit(self, waiting: dict[Any, tuple[Item, bool]], item: Item, *, with_payload: bool) -> None:
        full = with_payload or self._free or self._lacking > self._workers + self._having
        try:
            future = self._executor.submit(compute, self._payload.key, self._payload.data if full else None, item)
        except BrokenProcessPool as error:
            raise _lost(error) from error
        except RuntimeError as error:
            raise ExecutorError(f"the executor takes no more work ({error}); pass one that is running") from error
        self.sent += full
        waiting[future] = (item, full)

    def _collect(self, waiting: dict[Any, tuple[Item, bool]]) -> Generator[Answer]:
        for future in _first(waiting):
            item, full = waiting.pop(future)
            try:
                found = future.result()
            except BrokenProcessPool as error:
                raise _lost(error) from error
            if found is None:
                self._lacking += 1
                self._submit(waiting, item, with_payload=True)
            else:
                self._having += not full
                yield found


def open_pool(
    factory: Factory, *, executor: object = None, workers: int | None = None, dask: object = None
) -> AbstractPool:
    """Choose where items are computed; at most one of the options may be given.

    Args:
        factory: Builds the engine; it must be picklable by `cloudpickle` for anything but this process.
        executor: Anything with the interface of `concurrent.futures.Executor` (thread and process pools, mpi4py's
            and dask's executors, …), which stays the caller's to shut down.
        workers: Start a dask cluster on this machine: so many processes of one thread each.
        dask: Address of a dask scheduler (``"tcp://host:8786"``), or a ``distributed.Client``.

    Returns:
        The pool; this process itself when nothing is asked for.

    Raises:
        InputError: More than one option, or something that is no executor.
        MissingExtraError: dask is not installed.
        ExecutorError: No scheduler answers at the address.
    """
    given = [
        name for name, value in (("executor", executor), ("workers", workers), ("dask", dask)) if value is not None
    ]
    if len(given) > 1:
        raise InputError(f"{' and '.join(f'{name}=' for name in given)} are given; wanted one of them at most")
    if not given:
        return HerePool(factory)
    if workers is not None and (isinstance(workers, bool) or not isinstance(workers, int) or workers < 1):
        raise InputError(f"workers is {workers!r}; wanted a number of processes, at least 1")
    if executor is not None:
        client = _client_of(executor)
        if client is None:
            if not isinstance(executor, concurrent.futures.Executor) and not _looks_like_executor(executor):
                raise InputError(
                    f"executor is {executor!r}; wanted an object with submit(function, *arguments) that returns"
                    " futures, e.g. concurrent.futures.ProcessPoolExecutor(4) or client.get_executor() of dask"
                )
            return FuturesPool(executor, factory)  # type: ignore[arg-type]
        dask = client
    try:
        from landform.scan.cluster import DaskPool
    except ImportError as error:
        raise MissingExtraError(
            f"{given[0]}= needs dask, which is not installed; pip install 'landform[dask]', or pass executor=…"
        ) from error
    return DaskPool(factory, workers=workers, cluster=dask)


def _first(waiting: Mapping[Any, object]) -> list[Any]:
    """Wait for the first futures; those that are not of the standard library (submitit's jobs) are asked in turn."""
    if all(isinstance(future, concurrent.futures.Future) for future in waiting):
        return list(concurrent.futures.wait(waiting, return_when=concurrent.futures.FIRST_COMPLETED).done)
    pause = 0.01
    while not (done := [future for future in waiting if future.done()]):
        time.sleep(pause)
        pause = min(1.0, 1.5 * pause)
    return done


def _client_of(executor: object) -> object | None:
    """Return the dask client behind an executor, or None: dask has a better way to hand a payload to its workers."""
    if not type(executor).__module__.startswith("distributed."):
        return None
    return executor if hasattr(executor, "get_executor") else getattr(executor, "_client", None)


def _looks_like_executor(value: object) -> bool:
    with contextlib.suppress(Exception):
        return callable(value.submit)  # type: ignore[attr-defined]
    return False


def _lost(error: BaseException) -> ExecutorError:
    return ExecutorError(
        f"a worker process died, perhaps for lack of memory ({error}); with a store= the finished tiles are kept, and"
        " the same call goes on from there; try fewer workers or a smaller batch_size="
    )
