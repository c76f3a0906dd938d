"""Clocks: alternating repeats, spread, time spent in named functions, peak memory of a fresh process."""

import contextlib
import ctypes
import gc
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch


@dataclass(frozen=True)
class Spread:
    """Median, least and greatest of some repeats."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Summarise repeats."""
        return cls(statistics.median(values), min(values), max(values))

    def __str__(self) -> str:
        """Show ``median (min–max)``."""
        return f"{self.median:.3g} ({self.least:.3g}–{self.most:.3g})"


def alternate(sides: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    """Time several sides in turn, so that what disturbs one disturbs the others.

    Args:
        sides: What to time, by name; each is called once without being timed first.
        repeats: Timed calls of each.

    Returns:
        Seconds of every call.
    """
    for call in sides.values():
        call()
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, call in sides.items():
            begin = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - begin)
    return seconds


def ratios(above: Sequence[float], below: Sequence[float]) -> Spread:
    """Return the spread of the ratios of paired repeats."""
    return Spread.of([a / b for a, b in zip(above, below, strict=True)])


@contextlib.contextmanager
def stages(module: Any, names: Mapping[str, str]) -> Iterator[dict[str, float]]:
    """Add up the time spent in functions that a module calls by these names, nested calls not counted twice.

    Args:
        module: The module whose globals are wrapped for the duration.
        names: Label of each function; a function that does not exist (any more) is passed over.

    Yields:
        Seconds by label, filled in as the functions return.
    """
    spent: dict[str, float] = defaultdict(float)
    inner = [0.0]

    def timed(function: Callable[..., Any], label: str) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            inner.append(0.0)
            begin = time.perf_counter()
            try:
                return function(*args, **options)
            finally:
                took = time.perf_counter() - begin
                spent[label] += took - inner.pop()
                inner[-1] += took

        return call

    with contextlib.ExitStack() as stack:
        for name, label in names.items():
            if hasattr(module, name):
                stack.enter_context(mock.patch.object(module, name, timed(getattr(module, name), label)))
        yield spent


@contextlib.contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Make networks that are built to fit have this dtype."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def peak_memory(call: Callable[[], Any]) -> int:
    """Return by how many bytes the resident set of this process grows at most during a call (Linux; 0 elsewhere).

    ``ru_maxrss`` would not do: it cannot be reset, and a child inherits its parent's. Free memory that the allocator
    keeps is given back first, or it would hide what the call takes.
    """
    status = Path("/proc/self/status")
    if not status.exists():
        return 0
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts again from the present size
    before = _kilobytes(status, "VmRSS")
    kept = call()
    after = _kilobytes(status, "VmHWM")
    del kept
    return 1024 * max(0, after - before)


def _kilobytes(status: Path, key: str) -> int:
    return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith(key + ":"))


def in_fresh_process(code: str) -> float:
    """Run code in a new interpreter and return the number it prints last."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])
