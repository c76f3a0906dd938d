"""Run the benchmarks of measuring, all or piece by piece: ``python -m benchmarks.scan --help``.

Other tools run in an environment of their own: ``make_peers.sh FOLDER`` (beside this file) makes it, ``PEERS=FOLDER``
names it. Without it they are said to be missing. Each part is written as soon as it is measured.
"""

import argparse
import importlib
import tempfile
import time
from pathlib import Path

from benchmarks.report import machine, machine_line
from benchmarks.scan import collect, peers
from benchmarks.scan.workloads import WORKLOADS


def main(arguments: list[str] | None = None) -> None:
    """Run parts, and write each when it is done."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scan", description="Measure what measuring costs.")
    parser.add_argument(
        "--only",
        nargs="+",
        choices=collect.PARTS,
        default=list(collect.PARTS),
        metavar="TOPIC",
        help=", ".join(collect.PARTS),
    )
    parser.add_argument(
        "--workload", nargs="+", choices=WORKLOADS, metavar="NAME", help=f"for peers: {', '.join(WORKLOADS)}"
    )
    parser.add_argument("--repeats", type=int, help="for peers: at most so many turns of each tool (default 5)")
    parser.add_argument(
        "--budget", type=float, help="for peers: seconds a workload may take; 3 turns are always taken (default 200)"
    )
    parser.add_argument("--quick", action="store_true", help="small cases: a smoke run, into a temporary folder")
    parser.add_argument("--draw", action="store_true", help="measure nothing; draw page and figure from results.json")
    parser.add_argument("--output", type=Path, help="folder of the results (default: beside this file)")
    options = parser.parse_args(arguments)
    folder = options.output or (Path(tempfile.mkdtemp()) if options.quick else Path(__file__).parent)
    if options.draw:
        collect.draw(folder)
        print(f"written to {folder / 'results.md'}")
        return
    size = "quick" if options.quick else "full"
    for topic in options.only:
        if topic == "peers":
            settings = peers.CASES[size] | {"workloads": options.workload} if options.workload else peers.CASES[size]
            chosen = {"repeats": options.repeats, "budget": options.budget}
            _peers(folder, **settings | {key: value for key, value in chosen.items() if value is not None})
            continue
        facts, begin = machine(), time.perf_counter()
        print(machine_line(facts), flush=True)
        module = importlib.import_module(f"benchmarks.scan.{topic}")
        tables = module.run(**module.CASES[size])
        collect.add(folder, topic, tables, facts, seconds=time.perf_counter() - begin)
        for table in tables:
            print(table.markdown(), "\n", flush=True)
    print(f"written to {folder / 'results.md'}")


def _peers(folder: Path, workloads: list[str], **settings: float) -> None:
    for workload in workloads:
        facts, begin = machine(), time.perf_counter()
        print(machine_line(facts), flush=True)
        found = peers.measure(workload, **settings)
        took = time.perf_counter() - begin
        more = {
            "seconds": took,
            "best other / landform": found.best,
            "turns": found.turns,
            "whole processes": found.whole,
        }
        collect.add(folder, f"peers/{workload}", [found.table()], facts, **more)
        print(found.table().markdown(), f"\n\ntook {took:.0f} s\n", flush=True)


if __name__ == "__main__":
    main()
