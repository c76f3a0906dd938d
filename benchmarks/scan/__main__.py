"""Run the benchmarks of measuring: ``python -m benchmarks.scan [--quick] [--only NAME…] [--output FOLDER]``.

Other tools run in an environment of their own: ``make_peers.sh FOLDER`` (beside this file) makes it, ``PEERS=FOLDER``
names it. Without it they are said to be missing. Two free cores and some twenty minutes are assumed.
"""

import argparse
import importlib
import time
from pathlib import Path

from benchmarks.report import Table, machine, machine_line, write

TOPICS = ("peers", "scaling", "executors")


def main(arguments: list[str] | None = None) -> None:
    """Run topics and write the results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scan", description="Measure what measuring costs.")
    parser.add_argument("--quick", action="store_true", help="small cases: a smoke run")
    parser.add_argument("--only", nargs="+", choices=TOPICS, default=TOPICS, metavar="NAME", help=", ".join(TOPICS))
    parser.add_argument("--output", type=Path, default=Path(__file__).parent, help="folder of the results")
    options = parser.parse_args(arguments)
    facts = machine()
    print(machine_line(facts), flush=True)
    topics: dict[str, list[Table]] = {}
    seconds: dict[str, float] = {}
    for name in options.only:
        begin = time.perf_counter()
        module = importlib.import_module(f"benchmarks.scan.{name}")
        topics[name] = module.run(**module.CASES["quick" if options.quick else "full"])
        seconds[name] = time.perf_counter() - begin
        for table in topics[name]:
            print(table.markdown(), "\n", flush=True)
        written = write(options.output, facts, topics, seconds)
        if name == "peers":
            figure(topics[name][0], options.output / "results.png")
    print(f"written to {written}")


def figure(table: Table, path: Path) -> None:
    """Draw time per point of every tool over landform's, workload by workload."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    workloads = list(dict.fromkeys(row["workload"] for row in table.rows))
    tools = list(dict.fromkeys(row["tool"] for row in table.rows if row["tool"] != "landform"))
    drawing, axes = plt.subplots(figsize=(9, 4), layout="constrained")
    for number, tool in enumerate(tools):
        found = {row["workload"]: float(str(row["ratio"]).split()[0]) for row in table.rows if row["tool"] == tool}
        places = [place + 0.2 * number - 0.3 for place, name in enumerate(workloads) if name in found]
        axes.bar(places, [found[name] for name in workloads if name in found], 0.2, label=tool)
    axes.axhline(1, color="black", lw=1)
    axes.set_xticks(range(len(workloads)), workloads)
    axes.set(yscale="log", ylabel="time per point / landform's")
    axes.legend()
    drawing.savefig(path, dpi=150)
    plt.close(drawing)


if __name__ == "__main__":
    main()
