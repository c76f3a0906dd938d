"""Tables, the machine they were measured on, and the two files they go to."""

import datetime as dt
import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch


@dataclass(frozen=True)
class Table:
    """One table: a title, rows by column name, and notes that say how it was measured."""

    title: str
    rows: list[dict[str, Any]]
    notes: Sequence[str] = field(default=())

    def markdown(self) -> str:
        """Return the table in Markdown; rows may lack columns."""
        columns = list(dict.fromkeys(key for row in self.rows for key in row))
        lines = [f"## {self.title}", "", "| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
        lines += ["| " + " | ".join(show(row.get(key, "")) for key in columns) + " |" for row in self.rows]
        return "\n".join([*lines, "", *(f"- {note}" for note in self.notes)])


def show(value: object) -> str:
    """Format a cell: counts with commas, three significant digits for what is measured.

    Example:
        >>> show(4225), show(0.000123456), show(2.5), show("hats")
        ('4,225', '1.23e-04', '2.5', 'hats')
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    if value != 0 and not 1e-2 <= abs(value) < 1e5:
        return f"{value:.2e}"
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def machine() -> dict[str, Any]:
    """Return CPU model, cores, versions, threads and date."""
    info = Path("/proc/cpuinfo")
    models = [line for line in info.read_text().splitlines() if line.startswith("model name")] if info.exists() else []
    return {
        "cpu": models[0].split(":", 1)[1].strip() if models else platform.processor() or platform.machine(),
        "cores": os.cpu_count() or 1,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 2),
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
    }


def machine_line(facts: dict[str, Any]) -> str:
    """Say the machine in one line."""
    return (
        f"{facts['cpu']}, {facts['cores']} cores, torch {facts['torch']} ({facts['threads']} threads),"
        f" Python {facts['python']}, load {facts['load']} at the start, {facts['date']}"
    )


def write(folder: Path, facts: dict[str, Any], topics: dict[str, list[Table]], seconds: dict[str, float]) -> Path:
    """Write ``results.md`` and ``results.json``; return the path of the first.

    Args:
        folder: Where to.
        facts: From `machine`, taken at the start.
        topics: Tables by topic.
        seconds: Duration of each topic.

    Returns:
        Path of the Markdown file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    took = ", ".join(f"{name} {duration:.0f} s" for name, duration in seconds.items())
    head = ["# Benchmarks", "", machine_line(facts), "", f"Written by `python -m benchmarks`; took {took}.", ""]
    body = [table.markdown() + "\n" for tables in topics.values() for table in tables]
    page = folder / "results.md"
    page.write_text("\n".join(head + body))
    data = {"machine": facts, "seconds": seconds, "topics": {n: [asdict(t) for t in ts] for n, ts in topics.items()}}
    (folder / "results.json").write_text(json.dumps(data, indent=1) + "\n")
    return page
