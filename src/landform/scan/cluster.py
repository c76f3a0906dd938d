"""Items on a dask cluster, of this machine or of many; needs the extra ``dask``."""

import itertools
import time
import uuid
import warnings
from collections import deque
from collections.abc import Generator, Iterable
from importlib import import_module
from typing import Any

from distributed import KilledWorker, WorkerPlugin

from landform.errors import ExecutorError
from landform.scan.executor import AbstractPool
from landform.scan.pages import hold_pages, release_pages
from landform.scan.worker import Answer, Factory, Item, Payload, compute_all, forget, keep, pin_device

distributed: Any = import_module("distributed")  # most of it has no annotations
CONNECT_SECONDS = 10
TRIES = 3
AHEAD = 3
"""Bundles under way for each thread of the cluster, so that none waits for the scheduler."""
BUNDLE_SECONDS = 0.25
"""Work in a bundle: a message to and fro takes milliseconds of the scheduler and of the worker, whatever is in it."""
BUNDLE_NUMBERS = 1 << 22
"""Numbers in the answers of a bundle, for each quantity."""


class _Deliver(WorkerPlugin):
    """Hands the payload to every worker once: those that are there, and those that join or restart later."""

    def __init__(self, payload: Payload) -> None:
        self.name = f"landform-{payload.key[:16]}"
        self._payload = payload

    def setup(self, worker: Any) -> None:
        if isinstance(worker.name, int):  # numbered by a local cluster
            pin_device(worker.name)
        hold_pages()
        keep(self._payload)

    def teardown(self, worker: Any) -> None:
        del worker
        release_pages()
        forget(self._payload.key)


class DaskPool(AbstractPool):
    """Computes on a dask cluster.

    A worker that is lost costs the items it was at, which the scheduler gives to others.

    Args:
        factory: Builds the engine.
        workers: Start a cluster here, of so many processes with one thread each.
        cluster: Address of a scheduler, or a client, which is left open.

    Raises:
        ExecutorError: No scheduler answers.
    """

    def __init__(self, factory: Factory, *, workers: int | None = None, cluster: object = None) -> None:
        self._local: Any = None
        self._own = not isinstance(cluster, distributed.Client)
        if workers is not None:
            self._local = distributed.LocalCluster(
                n_workers=workers, threads_per_worker=1, processes=True, dashboard_address="127.0.0.1:0"
            )
            self._client = distributed.Client(self._local)
        elif isinstance(cluster, distributed.Client):
            self._client = cluster
        else:
            self._client = _connect(str(cluster))
        try:
            payload = Payload.of(factory, same_machine=self._local is not None)
            self._plugin = _Deliver(payload)
            self._key = payload.key
            self._register()
            if not self._client.scheduler_info(n_workers=1)["workers"]:
                text = f"the dask cluster at {self._client.scheduler.address} has no workers yet; waiting for one"
                warnings.warn(text, stacklevel=2)
        except BaseException:
            self.close()
            raise

    def _register(self) -> None:
        """Hand out the payload; once more where a connection broke, as when a worker has just died."""
        for attempt in range(TRIES):
            try:
                self._client.register_plugin(self._plugin)
                return
            except OSError as error:
                if attempt == TRIES - 1:
                    raise ExecutorError(f"the dask cluster did not take the model ({error}); is it running?") from error
                time.sleep(1)

    def compute(self, items: Iterable[Item]) -> Generator[Answer]:
        """Compute items as the scheduler places them; short ones travel in bundles of about `BUNDLE_SECONDS`."""
        queue, run, number = deque(items), uuid.uuid4().hex[:8], itertools.count()
        threads = _Threads(self._client)
        done = distributed.as_completed()
        futures: dict[str, tuple[Any, int]] = {}
        spent, computed = 0.0, 0
        try:
            while queue or futures:
                count = threads()
                size = 1 if not computed else round(BUNDLE_SECONDS * computed / max(spent, 1e-9))
                parts: list[list[Item]] = []
                while queue and len(futures) + len(parts) < AHEAD * count + 1:
                    fair = len(queue) // (2 * count)  # so that all workers end at about the same time
                    parts.append(_take(queue, max(1, min(size, fair))))
                if parts:
                    keys = [f"landform-{run}-{next(number)}" for _ in parts]
                    sent = self._client.map(compute_all, [self._key] * len(parts), parts, key=keys)
                    futures |= {future.key: (future, len(part)) for future, part in zip(sent, parts, strict=True)}
                    done.update(sent)
                ready = done.next_batch(block=True)
                failed = [future for future in ready if future.status != "finished"]
                if failed:
                    raise _failed(failed[0])
                for future, found in zip(ready, self._client.gather(ready), strict=True):
                    if found is None:
                        raise ExecutorError(f"a worker has no engine {self._key[:8]}; run the same call again")
                    spent, computed = spent + found[1], computed + futures.pop(future.key)[1]
                    yield from found[0]
        finally:
            if futures:
                self._client.cancel([future for future, _ in futures.values()], force=True)

    def close(self) -> None:
        """Take the payload back, and close what was opened here."""
        plugin = getattr(self, "_plugin", None)
        if plugin is not None and self._local is None:
            self._client.unregister_worker_plugin(plugin.name)
        if self._own:
            self._client.close()
        if self._local is not None:
            self._local.close()


class _Threads:
    """How many threads the cluster has; asked every few seconds, since clusters grow."""

    def __init__(self, client: Any) -> None:
        self._client, self._count, self._next = client, 1, 0.0

    def __call__(self) -> int:
        if time.monotonic() >= self._next:
            self._count = max(1, sum(self._client.nthreads().values()))
            self._next = time.monotonic() + 5
        return self._count


def _take(queue: "deque[Item]", most: int) -> list[Item]:
    part, numbers = [queue.popleft()], 0
    while queue and len(part) < most:
        numbers += len(part[-1].h) * (part[-1].stop - part[-1].start if part[-1].per_sample else 1)
        if numbers > BUNDLE_NUMBERS:
            break
        part.append(queue.popleft())
    return part


def _connect(address: str) -> Any:
    try:
        return distributed.Client(address, timeout=CONNECT_SECONDS)
    except (OSError, TimeoutError, ValueError) as error:
        raise ExecutorError(
            f"no dask scheduler answers at {address} ({type(error).__name__}); start one with 'dask scheduler', workers"
            " with 'dask worker ADDRESS --nthreads 1', and pass the address that the scheduler prints"
        ) from error


def _failed(future: Any) -> BaseException:
    """Return the error of an item."""
    if future.status == "cancelled":
        return ExecutorError("the dask cluster cancelled the work; is its scheduler still running?")
    error = future.exception()
    if isinstance(error, KilledWorker):
        return ExecutorError(
            f"dask gave up on an item after several workers died at it ({error}); often they lack memory: fewer workers"
            " a machine, or a smaller batch_size="
        )
    return error if isinstance(error, BaseException) else ExecutorError(f"an item failed on the cluster: {error!r}")
