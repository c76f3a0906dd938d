"""Tables, the machine they were measured on, and the two files they go to.

A part is what is measured at once: a topic, or one workload of it. It carries its own machine, date and duration,
because parts are measured one at a time, and a part that is measured again replaces only itself.
"""

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


def load(folder: Path) -> dict[str, Any]:
    """Read the parts measured so far from ``results.json``; none where it is missing."""
    path = folder / "results.json"
    return dict(json.loads(path.read_text())["parts"]) if path.exists() else {}


def add(
    folder: Path, key: str, tables: Sequence[Table], facts: dict[str, Any], *, order: Sequence[str], **more: Any
) -> dict[str, Any]:
    """Put a part into ``results.json``, in place of an older one of that name.

    Args:
        folder: Where the results are; made if missing.
        key: Name of the part.
        tables: What was measured.
        facts: From `machine`, taken at the start.
        order: Names of all parts there are, in the order of the page; a part not named is dropped.
        more: Seconds, settings, ratios: whatever else is worth keeping.

    Returns:
        All parts.
    """
    folder.mkdir(parents=True, exist_ok=True)
    parts = load(folder) | {key: {"machine": facts, **more, "tables": [asdict(table) for table in tables]}}
    parts = {name: parts[name] for name in order if name in parts}
    replace(folder / "results.json", json.dumps({"parts": parts}, indent=1) + "\n")
    return parts


def page(parts: dict[str, Any], commands: str) -> str:
    """Return the page in Markdown: how to measure, then the tables of each part and the machine they are from."""
    lines = ["# Benchmarks", "", commands, ""]
    for name, part in parts.items():
        lines += [f"# {name}", "", f"{machine_line(part['machine'])}; took {part['seconds']:.0f} s", ""]
        for table in part["tables"]:
            lines += [Table(**table).markdown(), ""]
    return "\n".join(lines)


def replace(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    beside = path.with_name(path.name + ".new")
    beside.write_text(text)
    beside.replace(path)
