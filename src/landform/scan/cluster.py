"""Items on a dask cluster, of this machine or of many; needs the extra ``dask``."""

import itertools
import uuid
import warnings
from collections.abc import Generator, Iterable
from importlib import import_module
from typing import Any

from distributed import KilledWorker, WorkerPlugin

from landform.errors import ExecutorError
from landform.scan.executor import AbstractPool
from landform.scan.worker import Answer, Factory, Item, Payload, compute, forget, keep, pin_device

distributed: Any = import_module("distributed")  # most of it has no annotations
CONNECT_SECONDS = 10
BATCH = 256
"""Items handed to the scheduler in one message, which is what makes an item cheap."""


class _Deliver(WorkerPlugin):
    """Hands the payload to every worker once: those that are there, and those that join or restart later."""

    def __init__(self, payload: Payload) -> None:
        self.name = f"landform-{payload.key[:16]}"
        self._payload = payload

    def setup(self, worker: Any) -> None:
        if isinstance(worker.name, int):  # numbered by a local cluster
            pin_device(worker.name)
        keep(self._payload)

    def teardown(self, worker: Any) -> None:
        del worker
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
                n_workers=workers, threads_per_worker=1, processes=True, dashboard_address=None
            )
            self._client = distributed.Client(self._local)
        elif isinstance(cluster, distributed.Client):
            self._client = cluster
        else:
            self._client = _connect(str(cluster))
        try:
            payload = Payload.of(factory)
            self._plugin = _Deliver(payload)
            self._key = payload.key
            self._client.register_plugin(self._plugin)
            if not self._client.scheduler_info(n_workers=1)["workers"]:
                text = f"the dask cluster at {self._client.scheduler.address} has no workers yet; waiting for one"
                warnings.warn(text, stacklevel=2)
        except BaseException:
            self.close()
            raise

    def compute(self, items: Iterable[Item]) -> Generator[Answer]:
        """Compute items as the scheduler places them."""
        queue, run = iter(items), uuid.uuid4().hex[:8]
        counter = itertools.count()
        under_way = distributed.as_completed(with_results=True, raise_errors=False)
        futures: dict[str, Any] = {}

        def feed() -> None:
            part = list(itertools.islice(queue, BATCH))
            if part:
                keys = [f"landform-{run}-{next(counter)}" for _ in part]
                sent = self._client.map(compute, [self._key] * len(part), [None] * len(part), part, key=keys)
                futures.update((future.key, future) for future in sent)
                under_way.update(sent)

        try:
            while True:
                if len(futures) <= BATCH // 2:
                    feed()
                if not futures:
                    return
                for future, found in under_way.next_batch(block=True):
                    del futures[future.key]
                    if future.status != "finished":
                        raise _failed(future, found)
                    if found is None:
                        raise ExecutorError(f"worker lost its engine {self._key[:8]}; run the same call again")
                    yield found
        finally:
            if futures:
                self._client.cancel(list(futures.values()), force=True)

    def close(self) -> None:
        """Take the payload back, and close what was opened here."""
        plugin = getattr(self, "_plugin", None)
        if plugin is not None and self._local is None:
            self._client.unregister_worker_plugin(plugin.name)
        if self._own:
            self._client.close()
        if self._local is not None:
            self._local.close()


def _connect(address: str) -> Any:
    try:
        return distributed.Client(address, timeout=CONNECT_SECONDS)
    except (OSError, TimeoutError, ValueError) as error:
        raise ExecutorError(
            f"no dask scheduler answers at {address} ({type(error).__name__}); start one with 'dask scheduler', workers"
            " with 'dask worker ADDRESS --nthreads 1', and pass the address that the scheduler prints"
        ) from error


def _failed(future: Any, found: Any) -> BaseException:
    """Return the error of an item; `found` is what dask gives instead of a result, which is not always one."""
    if future.status == "cancelled":
        return ExecutorError("the dask cluster cancelled the work; is its scheduler still running?")
    error = found[1] if isinstance(found, tuple) and len(found) == 3 else found
    if isinstance(error, KilledWorker):
        return ExecutorError(
            f"dask gave up on an item after several workers died at it ({error}); often they lack memory: fewer workers"
            " a machine, or a smaller batch_size="
        )
    return error if isinstance(error, BaseException) else ExecutorError(f"an item failed on the cluster: {found!r}")
