"""landform beside the tools that people use: the same work, in the same run, taking turns."""

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.measure import Spread, ratios
from benchmarks.report import Table
from benchmarks.scan.side import TOOLS
from benchmarks.scan.workloads import WORKLOADS, Workload

SIDE = Path(__file__).with_name("side.py")
OTHERS = ("loss-landscapes", "landscaper", "loop of 2018")
REST = 2.0 * (512 * 512 + 512 * 10)
"""Operations a sample and point of the MLP that are left when its first layer is reused."""
FIRST = 3 * 2.0 * 784 * 512
"""Operations a sample that serve all points: the first layer at the origin and along two directions."""
LEAST = 3
"""Turns that are always taken: a median and its spread need as many."""

CASES: dict[str, dict[str, Any]] = {
    "full": {"workloads": list(WORKLOADS), "repeats": 5, "budget": 200.0},
    "quick": {"workloads": list(WORKLOADS), "repeats": 1, "budget": 0.0, "part": 0.05},
}


class Side:
    """A tool in its own process, idle until it is asked to run."""

    def __init__(self, tool: str, workload: str, case: Workload) -> None:
        own = tool in ("loss-landscapes", "landscaper")
        python = Path(os.environ.get("PEERS", "peers")) / "bin" / "python" if own else Path(sys.executable)
        if not python.exists():
            raise FileNotFoundError(f"{python} is not there; make it with benchmarks/scan/make_peers.sh FOLDER")
        begin = time.perf_counter()
        call = [str(python), str(SIDE), tool, workload, str(case.samples), str(case.grid)]
        self._said = tempfile.TemporaryFile("w+")  # noqa: SIM115
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": self._said}
        self._process = subprocess.Popen(call, text=True, **pipes)  # type: ignore[call-overload]
        self._answer()
        self.whole = time.perf_counter() - begin

    def _answer(self) -> dict[str, float]:
        line = self._process.stdout.readline()
        if not line:
            self._said.seek(0)
            said = self._said.read().strip().splitlines()
            self.close()
            raise RuntimeError(said[-1] if said else "the process ended without an answer")
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
        self._process.stdout.close()
        self._said.close()


@dataclass(frozen=True)
class Found:
    """What a workload took, in seconds, by tool: each turn, and each whole process."""

    workload: str
    case: Workload
    turns: dict[str, list[float]]
    whole: dict[str, list[float]]
    missing: list[str]

    @property
    def best(self) -> dict[str, Any] | None:
        """The best other tool over landform, turn by turn; None where no other tool ran."""
        found = {tool: Spread.of(self.turns[tool]).median for tool in OTHERS if tool in self.turns}
        if not found or "landform" not in self.turns:
            return None
        tool = min(found, key=lambda name: found[name])
        return {"tool": tool} | asdict(ratios(self.turns[tool], self.turns["landform"]))

    def table(self) -> Table:
        """One row a tool."""
        points, samples = self.case.grid**2, self.case.samples
        rows = []
        for tool, times in self.turns.items():
            if tool == "matrix product":
                continue
            each = Spread.of([1e3 * value / points for value in times])
            row: dict[str, Any] = {"tool": tool, "points": points, "samples": samples, "ms per point": str(each)}
            row["whole process, s"] = str(Spread.of(self.whole[tool]))
            if "landform" in self.turns:
                row["ratio"] = str(ratios(times, self.turns["landform"]))
            if tool == "landform" and self.workload == "mlp" and "matrix product" in self.turns:
                peak = [20 * 2 * 1024**3 / value for value in self.turns["matrix product"]]
                work = samples * (REST * points + FIRST)
                shares = [work / took / most for took, most in zip(times, peak, strict=True)]
                row["share of the peak on what is left"] = str(Spread.of(shares))
            rows.append(row)
        wholes = max(map(len, self.whole.values()), default=0)
        counts = f"{len(next(iter(self.turns.values()), []))} turns, {wholes} whole processes"
        return Table(self.workload, rows, [counts, *self.missing])


def measure(workload: str, repeats: int, budget: float, part: float = 1.0) -> Found:
    """Measure one workload with every tool that can be started.

    Args:
        workload: Its name.
        repeats: Turns of each tool, if the budget lasts; at least `LEAST` are taken, unless fewer are asked for.
        budget: Seconds after which no further turn, and no further whole process, is begun.
        part: Share of the samples that is measured, for smoke runs; the grid is 3 × 3 then.

    Returns:
        Seconds by tool.
    """
    case = WORKLOADS[workload].cut(part)
    begin = time.perf_counter()
    sides: dict[str, Side] = {}
    missing = []
    for tool in TOOLS:
        try:
            sides[tool] = Side(tool, workload, case)
        except (FileNotFoundError, RuntimeError) as error:
            missing.append(f"{tool}: not measured, {error}")
    turns: dict[str, list[float]] = {tool: [] for tool in sides}
    whole = {tool: [side.whole] for tool, side in sides.items()}
    for turn in range(repeats):
        if turn >= LEAST and (time.perf_counter() - begin) * (turn + 2) / (turn + 1) > budget:
            break
        for tool, side in sides.items():
            turns[tool].append(side.run())
    for side in sides.values():
        side.close()
    each = sum(values[0] for values in whole.values())
    while len(next(iter(whole.values()), [0] * 3)) < LEAST and time.perf_counter() - begin + each < budget:
        for tool in sides:
            again = Side(tool, workload, case)
            whole[tool].append(again.whole)
            again.close()
    return Found(workload, case, turns, whole, missing)
