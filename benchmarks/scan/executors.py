"""What it costs to compute elsewhere: time of an empty work item, dask workers against one process, stores.

Run alone: ``python -m benchmarks.scan.executors [quick]``; two free cores are assumed.
"""

import concurrent.futures
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import nn

import landform as lf
from benchmarks.measure import alternate, ratios
from benchmarks.report import Table, machine, machine_line
from landform.scan.engine.base import AbstractEngine, Sums, Terms
from landform.scan.executor import AbstractPool, open_pool
from landform.scan.run import run as run_sampler
from landform.scan.sampler import FullGrid
from landform.scan.store import ScanStore

CASES: dict[str, dict[str, Any]] = {
    "full": {"items": 4000, "grid": 21, "samples": 4000, "widths": (784, 512, 512, 10), "repeats": 5, "cluster": True},
    "quick": {"items": 500, "grid": 5, "samples": 2000, "widths": (784, 512, 512, 10), "repeats": 3, "cluster": True},
    "tiny": {"items": 20, "grid": 2, "samples": 20, "widths": (8, 8, 3), "repeats": 1, "cluster": False},
}


class Empty(AbstractEngine):
    """Computes nothing, so that what is left is the way there and back."""

    quantities = ("loss",)
    n = 1

    def terms(self, h: torch.Tensor, start: int, stop: int) -> Terms:
        """Return zeros."""
        return Terms(h[:, :1, None] * 0, torch.ones(1, stop - start, dtype=torch.float64))

    def sums(self, h: torch.Tensor, start: int = 0, stop: int | None = None) -> Sums:
        """Return zeros."""
        del start, stop
        return Sums(h[:, :1] * 0, torch.ones(1, dtype=torch.float64))


def run(items: int, grid: int, samples: int, widths: tuple[int, ...], repeats: int, *, cluster: bool) -> list[Table]:
    """Measure items, then workers."""
    tables = [overhead(items, cluster=cluster)]
    if cluster:
        tables.append(workers(grid, samples, widths, repeats))
    return tables


def overhead(items: int, *, cluster: bool) -> Table:
    """Time empty items, one point each."""
    h = torch.rand(items, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def seconds(pool: AbstractPool, store: ScanStore | None = None) -> float:
        begin = time.perf_counter()
        run_sampler(FullGrid(h, 1, ("loss",)), pool, 1, tile=lambda *_: 1, store=store, progress=False)
        return time.perf_counter() - begin

    rows = [{"where": "this process", "ms an item": 1e3 * seconds(open_pool(Empty)) / items}]
    with tempfile.TemporaryDirectory() as folder:
        store = ScanStore(Path(folder) / "new", {"of": "nothing"})
        took = seconds(open_pool(Empty), store)
        rows.append({"where": "this process, into a store", "ms an item": 1e3 * took / items})
        took = seconds(open_pool(Empty), ScanStore(Path(folder) / "new", {"of": "nothing"}))
        rows.append({"where": "found in the store", "ms an item": 1e3 * took / items})
    with concurrent.futures.ThreadPoolExecutor(1) as threads:
        rows.append(
            {"where": "thread pool of 1", "ms an item": 1e3 * seconds(open_pool(Empty, executor=threads)) / items}
        )
    if cluster:
        context = multiprocessing.get_context("spawn")
        with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as processes:
            seconds(open_pool(Empty, executor=processes))  # started and imported
            took = seconds(open_pool(Empty, executor=processes))
            rows.append({"where": "process pool of 1", "ms an item": 1e3 * took / items})
        for count in (1, 2):
            with open_pool(Empty, workers=count) as pool:
                seconds(pool)
                rows.append({"where": f"dask, {count} worker(s)", "ms an item": 1e3 * seconds(pool) / items})
    for row in rows:
        row["10^6 items, minutes"] = float(row["ms an item"]) * 1e3 / 60
    notes = [
        f"{items:,} items of one point on one sample, whose engine computes nothing; clusters and pools are warm",
        "an item holds some tenths of a second of work, so that 10^6 of them are days of computing",
    ]
    return Table("Time of an empty work item", rows, notes)


def workers(grid: int, samples: int, widths: tuple[int, ...], repeats: int) -> Table:
    """Time one scan in this process on one and two threads, and on one and two dask workers of one thread."""
    from distributed import Client, LocalCluster

    generator = torch.Generator().manual_seed(0)
    layers: list[nn.Module] = []
    for a, b in pairwise(widths):
        layers += [nn.Linear(a, b), nn.ReLU()]
    inputs = torch.rand(samples, widths[0], generator=generator)
    targets = torch.randint(0, widths[-1], (samples,), generator=generator)
    task = lf.Task(nn.Sequential(*layers[:-1]), data=(inputs, targets))
    plane = lf.random_plane(task, seed=0)

    def scan(**options: Any) -> None:
        lf.scan(task, plane, grid=grid, ranges=[(-1, 1), (-1, 1)], progress=False, **options)

    def here(threads: int) -> Callable[[], None]:
        def measured() -> None:
            before = torch.get_num_threads()
            torch.set_num_threads(threads)
            try:
                scan()
            finally:
                torch.set_num_threads(before)

        return measured

    begin = time.perf_counter()
    one = LocalCluster(n_workers=1, threads_per_worker=1, processes=True, dashboard_address="127.0.0.1:0")
    started = time.perf_counter() - begin
    two = LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address="127.0.0.1:0")
    with one, two, Client(one) as client_one, Client(two) as client_two:
        seconds = alternate(
            {
                "this process, 1 thread": here(1),
                "this process, 2 threads": here(2),
                "dask, 1 worker": lambda: scan(dask=client_one),
                "dask, 2 workers": lambda: scan(dask=client_two),
            },
            repeats,
        )
    plain, single = seconds["this process, 2 threads"], seconds["dask, 1 worker"]
    rows = [
        {
            "where": where,
            "median s": median(took),
            "times as fast as this process on 2 threads": str(ratios(plain, took)),
            "times as fast as 1 worker": str(ratios(single, took)),
        }
        for where, took in seconds.items()
    ]
    what = f"{'-'.join(map(str, widths))} perceptron, {samples:,} samples, {grid}×{grid} points"
    notes = [
        f"{what}; median of {repeats} repeats, ratio with its spread; the model travels to the workers in each repeat",
        f"starting a cluster of one worker took {started:.1f} s, which is not in the numbers",
        "wanted: 2 workers ≥ 1.7 times as fast as 1, and ≥ 0.95 times as fast as this process on 2 threads",
    ]
    return Table("Dask workers against one process", rows, notes)


if __name__ == "__main__":
    print(machine_line(machine()), "\n", flush=True)
    for table in run(**CASES["quick" if "quick" in sys.argv else "full"]):
        print(table.markdown(), "\n", flush=True)
