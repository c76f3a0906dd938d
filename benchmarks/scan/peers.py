"""landform beside the tools that people use: the same work, in the same run, taking turns."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.measure import Spread, ratios
from benchmarks.report import Table
from benchmarks.scan.side import TOOLS
from benchmarks.scan.workloads import WORKLOADS

SIDE = Path(__file__).with_name("side.py")
OTHERS = ("loss-landscapes", "landscaper", "loop of 2018")
REST = 2.0 * (512 * 512 + 512 * 10) * 10_000
"""Operations a point of the MLP that are left when its first layer is reused."""

CASES: dict[str, dict[str, Any]] = {
    "full": {"workloads": tuple(WORKLOADS), "repeats": 5},
    "quick": {"workloads": ("tiny", "lenet8"), "repeats": 2},
}


class Side:
    """A tool in its own process, idle until it is asked to run."""

    def __init__(self, tool: str, workload: str) -> None:
        own = tool in ("loss-landscapes", "landscaper")
        python = Path(os.environ.get("PEERS", "peers")) / "bin" / "python" if own else Path(sys.executable)
        if not python.exists():
            raise FileNotFoundError(f"{python} is not there; make it with benchmarks/scan/make_peers.sh FOLDER")
        begin = time.perf_counter()
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        self._process = subprocess.Popen([str(python), str(SIDE), tool, workload], text=True, **pipes)  # type: ignore[call-overload]
        self._answer()
        self.whole = time.perf_counter() - begin

    def _answer(self) -> dict[str, float]:
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the process ended without an answer")
        return json.loads(line)

    def run(self) -> float:
        """Run once; return seconds."""
        self._process.stdin.write("again\n")
        self._process.stdin.flush()
        return self._answer()["seconds"]

    def close(self) -> None:
        """End the process."""
        self._process.stdin.close()
        self._process.wait()


def run(workloads: tuple[str, ...], repeats: int) -> list[Table]:
    """Measure all workloads."""
    rows, notes = (
        [],
        ["per point: median (least–most) in milliseconds; ratio: that of the tool over landform's, by turns"],
    )
    for workload in workloads:
        found, missing = measure(workload, repeats)
        rows += found
        notes += missing
        print(Table(workload, found, missing).markdown(), "\n", flush=True)
    return [Table("The same work beside other tools", rows, list(dict.fromkeys(notes)))]


def measure(workload: str, repeats: int) -> tuple[list[dict[str, Any]], list[str]]:
    """Measure one workload with every tool that can be started."""
    sides: dict[str, Side] = {}
    missing = []
    for tool in TOOLS:
        try:
            sides[tool] = Side(tool, workload)
        except (FileNotFoundError, RuntimeError) as error:
            missing.append(f"{tool} on {workload}: not measured, {error}")
    seconds: dict[str, list[float]] = {tool: [] for tool in sides}
    for _ in range(repeats):
        for tool, side in sides.items():
            seconds[tool].append(side.run())
    for side in sides.values():
        side.close()
    count = WORKLOADS[workload].grid ** 2
    rows = []
    best = min((Spread.of(seconds[tool]).median for tool in OTHERS if tool in seconds), default=float("nan"))
    peak = 20 * 2 * 1024**3 / Spread.of(seconds["matrix product"]).median
    for tool, times in seconds.items():
        if tool == "matrix product":
            continue
        each = Spread.of([1e3 * value / count for value in times])
        row: dict[str, Any] = {
            "workload": workload,
            "tool": tool,
            "points": count,
            "ms per point": str(each),
            "whole process, s": sides[tool].whole,
            "ratio": str(ratios(times, seconds["landform"])),
        }
        if tool == "landform":
            row["best other / landform"] = best / Spread.of(times).median
            if workload == "mlp":
                row["share of the peak on what is left"] = REST / (each.median / 1e3) / peak
        rows.append(row)
    return rows, missing
