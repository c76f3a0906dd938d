"""What was measured, part by part: ``results.json`` is added to, ``results.md`` and ``results.png`` are drawn from it.

A part (`benchmarks.report`) is a workload or a topic, measured on a quiet machine.
"""

from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.report import Table, load, machine_line
from benchmarks.scan.workloads import WORKLOADS

AIMS = {"mlp": 2.5, "tiny": 5.0}
"""How many times faster than the best other tool; 1 (never slower) for the workloads that are not named."""
PARTS = {
    "peers": "The same work beside other tools",
    "scaling": "How cost grows",
    "memory": "Memory of a large model",
    "executors": "Executors",
    "beside": "Patterns beside trained networks",
}
"""Title of each topic, in the order of the page."""
PEERS = """Other tools on the same work: the mean loss over all samples at every node of a square grid, in a plane of
random directions. Each tool is a process of its own; they take turns. Per point: median (least–most) of the turns, in
milliseconds; whole process: from its start to the end of a first scan, likewise; ratio: the tool's time over
landform's, turn by turn. *Best other* is the tool with the smallest median among loss-landscapes, landscaper and the
loop of 2018; a bare forward pass of the model and a matrix product are yardsticks, not tools."""
COMMANDS = """Parts are measured one at a time, on a machine with two free cores and without
`OMP_NUM_THREADS`; each takes one to four minutes (the perceptron seven), and one that is measured again replaces only
itself:

```sh
benchmarks/scan/make_peers.sh peers    # once: an environment with the other tools
export PEERS=peers                     # or wherever it is
for w in mlp tiny lenet8 lenet32 lenet64 resnet20 transformer; do
  python -m benchmarks.scan --only peers --workload $w
done
python -m benchmarks.scan --only scaling
python -m benchmarks.scan --only memory     # 3 GB
python -m benchmarks.scan --only executors
python -m benchmarks.scan --only beside
python -m benchmarks.scan.accuracy --networks mlp                  # accuracy.md: a 65×65 sub-grid in full, 2 minutes
python -m benchmarks.scan.accuracy --networks cnn --seconds 500    # the same, 20 minutes: again until it is done
python -m benchmarks.scan --draw            # this page and the figure again, from results.json
python -m benchmarks.scan --quick           # small cases of everything, into a temporary folder
```

Equal accuracy is in [accuracy.md](accuracy.md), coverage of the intervals in [coverage.md](coverage.md)."""


def add(folder: Path, key: str, tables: list[Table], facts: dict[str, Any], **more: Any) -> None:
    """Put a part in, and draw page and figure again.

    Args:
        folder: Where the results are.
        key: ``topic`` or ``topic/workload``.
        tables: What was measured.
        facts: The machine, at the start of the part.
        more: Settings, seconds, ratios: whatever else is worth keeping.
    """
    report.add(folder, key, tables, facts, order=[*(f"peers/{name}" for name in WORKLOADS), *PARTS], **more)
    draw(folder)


def draw(folder: Path) -> None:
    """Write ``results.md``, and ``results.png`` where other tools were measured."""
    parts = load(folder)
    report.replace(folder / "results.md", page(parts))
    if any(key.startswith("peers/") for key in parts):
        figure(parts, folder / "results.png")


def page(parts: dict[str, Any]) -> str:
    """Return the page in Markdown."""
    lines = ["# Benchmarks of measuring", "", COMMANDS, ""]
    for topic, title in PARTS.items():
        found = {key: part for key, part in parts.items() if key.split("/")[0] == topic}
        if not found:
            continue
        lines += [f"# {title}", ""]
        if topic == "peers":
            lines += [PEERS, "", "![Best other tool over landform](results.png)", "", summary(found).markdown(), ""]
        for part in found.values():
            for table in part["tables"]:
                lines += [Table(**table).markdown(), ""]
            lines += [machine_line(part["machine"]), ""]
    return "\n".join(lines)


def summary(parts: dict[str, Any]) -> Table:
    """Return one row a workload: best other tool over landform, and what was aimed for."""
    rows = []
    for key, part in parts.items():
        name, ratio = key.split("/")[1], part["best other / landform"]
        if ratio is None:
            continue
        aim = AIMS.get(name, 1.0)
        shown = "{median:.3g} ({least:.3g}–{most:.3g})".format(**ratio)
        reached = "yes" if ratio["median"] >= aim else "no"
        rows.append(
            {"workload": name, "best other": ratio["tool"], "best other / landform": shown}
            | {"aim": aim, "reached": reached}
        )
    return Table("In short", rows)


def figure(parts: dict[str, Any], path: Path) -> None:
    """Draw best other tool over landform, workload by workload, with its spread and the aim."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    found = {
        key.split("/")[1]: part["best other / landform"] for key, part in parts.items() if key.startswith("peers/")
    }
    found = {name: ratio for name, ratio in found.items() if ratio is not None}
    drawing, axes = plt.subplots(figsize=(8, 4), layout="constrained")
    for place, (name, ratio) in enumerate(found.items()):
        below, above = ratio["median"] - ratio["least"], ratio["most"] - ratio["median"]
        axes.bar(place, ratio["median"], 0.6, color="tab:blue", yerr=[[below], [above]], capsize=4)
        aim = AIMS.get(name, 1.0)
        axes.hlines(aim, place - 0.4, place + 0.4, color="tab:red", lw=2, label="aim" if place == 0 else None)
    axes.axhline(1, color="black", lw=0.8)
    names = [f"{name}\n{ratio['tool']}" for name, ratio in found.items()]
    axes.set_xticks(range(len(found)), names, fontsize=8)
    axes.set(ylabel="time of the best other tool / landform's", ylim=(0, None))
    axes.set_title("The same grid, all samples: median and range of paired repeats; the best other tool", fontsize=9)
    if found:
        axes.legend(loc="upper right")
    drawing.savefig(path, dpi=150, metadata={"Software": None})
    plt.close(drawing)
