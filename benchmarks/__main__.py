"""Run the benchmarks, all or topic by topic: ``python -m benchmarks --help``."""

import argparse
import importlib
import tempfile
import time
from pathlib import Path

from benchmarks import report

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
    "phantom_study",
)
COMMANDS = """Topics are measured one at a time, on a quiet machine; one that is measured again replaces only itself:

```sh
python -m benchmarks --only theorem2 language    # these two
python -m benchmarks --quick                     # small cases of everything, into a temporary folder
python -m benchmarks --draw                      # this page again, from results.json
```"""


def main(arguments: list[str] | None = None) -> None:
    """Run topics, and write each when it is done."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure cost and exactness.")
    parser.add_argument("--quick", action="store_true", help="small cases: a smoke run, into a temporary folder")
    parser.add_argument("--only", nargs="+", choices=TOPICS, default=TOPICS, metavar="NAME", help=", ".join(TOPICS))
    parser.add_argument("--draw", action="store_true", help="measure nothing; write results.md from results.json")
    parser.add_argument("--output", type=Path, help="folder of results.md, results.json (default: beside this file)")
    options = parser.parse_args(arguments)
    folder = options.output or (Path(tempfile.mkdtemp()) if options.quick else Path(__file__).parent)
    if options.draw:
        print(f"written to {draw(folder)}")
        return
    for name in options.only:
        facts, begin = report.machine(), time.perf_counter()
        print(report.machine_line(facts), flush=True)
        module = importlib.import_module(f"benchmarks.{name}")
        tables = module.run(**module.CASES["quick" if options.quick else "full"])
        seconds = time.perf_counter() - begin
        print(f"\n{name}: {seconds:.0f} s\n", flush=True)
        for table in tables:
            print(table.markdown(), "\n", flush=True)
        report.add(folder, name, tables, facts, order=TOPICS, seconds=seconds)
        written = draw(folder)
    print(f"written to {written}")


def draw(folder: Path) -> Path:
    """Write ``results.md`` from ``results.json``; return its path."""
    file = folder / "results.md"
    report.replace(file, report.page(report.load(folder), COMMANDS))
    return file


if __name__ == "__main__":
    main()
