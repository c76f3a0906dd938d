"""Run the benchmarks: ``python -m benchmarks [--quick] [--only NAME…] [--output FOLDER]``."""

import argparse
import importlib
import time
from pathlib import Path

from benchmarks.report import Table, machine, machine_line, write

TOPICS = (
    "compile",
    "exactness",
    "alternatives",
    "forms",
    "growth",
    "architectures",
    "streams",
    "widening",
    "theorem2",
    "theorem2_networks",
    "language",
)


def main(arguments: list[str] | None = None) -> None:
    """Run topics and write the results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure cost and exactness.")
    parser.add_argument("--quick", action="store_true", help="small cases: a smoke run of about a minute")
    parser.add_argument("--only", nargs="+", choices=TOPICS, default=TOPICS, metavar="NAME", help=", ".join(TOPICS))
    parser.add_argument("--output", type=Path, default=Path(__file__).parent, help="folder of results.md, results.json")
    options = parser.parse_args(arguments)
    facts = machine()
    print(machine_line(facts), flush=True)
    topics: dict[str, list[Table]] = {}
    seconds: dict[str, float] = {}
    for name in options.only:
        begin = time.perf_counter()
        module = importlib.import_module(f"benchmarks.{name}")
        topics[name] = module.run(**module.CASES["quick" if options.quick else "full"])
        seconds[name] = time.perf_counter() - begin
        print(f"\n{name}: {seconds[name]:.0f} s\n", flush=True)
        for table in topics[name]:
            print(table.markdown(), "\n", flush=True)
        written = write(options.output, facts, topics, seconds)  # after each topic: an interrupted run keeps its tables
    print(f"written to {written}")


if __name__ == "__main__":
    main()
