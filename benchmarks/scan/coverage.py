"""Do the intervals of a multilevel scan hold as often as they say? ``python -m benchmarks.scan.coverage``.

The per-sample losses of a trained network at every node of a grid are computed once. From that table a scan is answered
again and again, each time with the samples in another random order, so that the truth is known at every node and
a repeat takes a second. Reported for each nominal confidence:

- coverage: repeats in which *all* evaluated nodes lie in their intervals, and the one-sided binomial test of "at least
  nominal" (p below 0.01 would speak against it);
- width: the median node's half-width over that of an oracle who knows the true standard error of every node (root mean
  square of its errors over all repeats) and the true quantile of the largest standardised error, which rare samples
  make large; and over that of an oracle who takes errors to be normal, as of 500 independent nodes;
- error: the largest difference at any node of the grid, interpolated ones included, in units of the tolerance;
- cost: sample evaluations of the full grid over those used.

The allowances for heavy tails (``HEAVY``, ``NARROWEST``, … in the sampler) were chosen while looking at the first two
networks, on digits. That heavy samples are set apart, and how variances fall from level to level, was decided after
scans of breast cancer had held too seldom. The others have other data, layers, losses, planes and norms, and chose
nothing. ``visits`` needs statsmodels.
"""

import argparse
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from scipy import stats
from torch import Tensor, nn

import landform as lf
from benchmarks.report import Table, machine, machine_line
from landform.scan.engine.base import Sums, Terms
from landform.scan.plan import build_engine
from landform.scan.sampler import Estimate, Multilevel, sample_order
from landform.scan.sampler.bootstrap import normal

TOLERANCE = 0.005
CONFIDENCES = (0.9, 0.95, 0.99)


CHOSEN_ON = ("mlp", "cnn", "cancer")
"""Networks that were looked at when something was chosen: allowances for heavy tails, and what to do about few heavy
samples. The others were not."""


@dataclass(frozen=True)
class Case:
    """A network, its data, how long it is trained, and the plane."""

    data: str
    steps: int
    seed: int = 0
    norm: str = "filter"
    loss: str = "cross_entropy"
    train: str = "all"
    measure: str = "all"


CASES = {
    "mlp": Case("digits", 600),
    "cnn": Case("digits", 600),
    "fashion": Case("fashion-mnist", 400, 11, "layer", train="train", measure="test"),
    "cancer": Case("breast_cancer", 300, 12, "layer"),
    "diabetes": Case("diabetes", 400, 13, "model", loss="mse"),
    "visits": Case("statsmodels:randhie", 400, 14, "filter", loss="mse"),
    "wine": Case("wine", 200, 15, "filter"),
}


def network(name: str) -> nn.Module:
    """Return an untrained network."""
    torch.manual_seed(0)
    if name == "fashion":
        return nn.Sequential(
            nn.Flatten(), nn.Linear(784, 64), nn.Tanh(), nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10)
        )
    if name == "cancer":
        return nn.Sequential(nn.Linear(30, 24), nn.GELU(), nn.Linear(24, 2))
    if name == "diabetes":
        return nn.Sequential(nn.Linear(10, 32), nn.SiLU(), nn.Linear(32, 32), nn.SiLU(), nn.Linear(32, 1))
    if name == "visits":
        return nn.Sequential(nn.Linear(9, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 1))
    if name == "wine":
        return nn.Sequential(nn.Linear(13, 24), nn.ELU(), nn.Linear(24, 3))
    if name == "mlp":
        return nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10))
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)),
        nn.Conv2d(1, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(256, 10),
    )


def loaded(name: str, split: str) -> lf.Data:
    """Load a data set of landform, or ``statsmodels:NAME`` of that package, of which the first column is predicted.

    Columns are standardised, and at most 2,000 rows are taken (seed 0). The doctor visits of ``randhie`` (of 20,190
    people) have a kurtosis of 55: a few go very often.
    """
    if not name.startswith("statsmodels:"):
        return lf.load_data(name, split=split)
    import importlib

    frame = importlib.import_module(f"statsmodels.datasets.{name.partition(':')[2]}").load_pandas().data
    values = torch.from_numpy(frame.to_numpy(dtype="float64"))
    pick = torch.randperm(len(values), generator=torch.Generator().manual_seed(0))[:2000]
    values = ((values - values.mean(0)) / values.std(0)).float()[pick]
    return lf.Data(values[:, 1:], values[:, :1], name=name)


def trained(name: str) -> lf.Task:
    """Train a network."""
    case = CASES[name]
    data = loaded(case.data, case.train)
    model = network(name)
    loss = getattr(nn.functional, {"mse": "mse_loss"}.get(case.loss, case.loss))
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    for _ in range(case.steps):
        pick = torch.randint(len(data.targets), (128,))
        optimizer.zero_grad()
        loss(model(data.inputs[pick]), data.targets[pick]).backward()
        optimizer.step()
    measured = data if case.measure == case.train else loaded(case.data, case.measure)
    return lf.Task(model, loss=case.loss, data=measured)


def table_of(task: lf.Task, nodes: int, seed: int = 0, norm: str = "filter") -> tuple[Tensor, Tensor]:
    """Return the nodes of the grid and the loss of every sample at each, float32 ``[nodes, samples]``."""
    line = torch.linspace(-1, 1, nodes, dtype=torch.float64)
    h = torch.cartesian_prod(line, line)
    engine = build_engine(task, lf.random_plane(task, seed=seed, norm=norm))
    parts = [engine.terms(part, 0, task.n).num[:, 0].float() for part in torch.split(h, 64)]
    return h, torch.cat(parts)


def scanned(sampler: Multilevel, h: Tensor, table: Tensor, order: Tensor) -> Estimate:
    """Answer a sampler from the table; no check points, which lie between nodes."""
    nodes = round(math.sqrt(len(h)))
    while (request := sampler.ask()) is not None:
        place = ((request.h - h[0]) / (h[-1] - h[0]) * (nodes - 1)).round().long()
        rows = table[place[:, 0] * nodes + place[:, 1]]
        numbers = rows[:, order[request.samples(table.shape[1])]].double()[:, None]
        ones = torch.ones(1, numbers.shape[-1], dtype=torch.float64)
        found = Terms(numbers, ones) if request.per_sample else Sums(numbers.sum(-1), ones.sum(-1))
        sampler.tell(request, found)
    return sampler.estimate()


def study(
    h: Tensor, table: Tensor, *, strata: Tensor | None, confidence: float, repeats: int, tolerance: float = TOLERANCE
) -> dict[str, Any]:
    """Repeat a scan and compare its intervals with the truth."""
    nodes, n = round(math.sqrt(len(h))), table.shape[1]
    truth = table.double().mean(1)
    begin, used, inside, largest = time.perf_counter(), [], [], []
    errors, halves, measured = [], [], []
    for repeat in range(repeats):
        order = sample_order(n, 10_000 + repeat, strata)
        sampler = Multilevel(
            h, (nodes, nodes), n, ("loss",), tolerance=tolerance, confidence=confidence, check=0, seed=repeat
        )
        found = scanned(sampler, h, table, order)
        error, half = found.value[:, 0] - truth, found.critical[0] * found.stderr[:, 0]
        known = found.samples > 0
        inside.append(bool((error[known].abs() <= half[known] + 1e-9).all()))
        used.append(found.notes["evaluations"])
        largest.append(float(error.abs().max()) / found.notes["loss_tolerance"])
        errors.append(torch.where(known, error, 0.0))
        halves.append(torch.where(known, half, torch.nan))
        measured.append(known)
    error, half, known = torch.stack(errors), torch.stack(halves), torch.stack(measured)
    often = (known.double().mean(0) > 0.5) & (half.nan_to_num().amax(0) > 0)
    true = (error.square().sum(0) / known.sum(0).clamp_min(1)).sqrt()
    often &= true > 0
    worst = (error.abs() / true.clamp_min(1e-300))[:, often].amax(1)
    critical = float(torch.quantile(worst, confidence))
    covered = sum(inside)
    return {
        "confidence": confidence,
        "covered": f"{covered} of {repeats}",
        "coverage": covered / repeats,
        "p (at least nominal)": float(stats.binom.cdf(covered, repeats, confidence)),
        "width / oracle's": float((half.nanmedian(0).values / (critical * true))[often].median()),
        "median half-width / tolerance": float(half[:, often].nanmedian() / (tolerance * robust(truth))),
        "widest / tolerance": float((half.nan_to_num().amax(1) / (tolerance * robust(truth))).median()),
        "largest error / tolerance": max(largest),
        "evaluations": float(torch.tensor(used).median()),
        "cost factor": len(h) / float(torch.tensor(used).median()),
        "seconds": time.perf_counter() - begin,
        "worst": [float(x) for x in worst],
    }


def robust(values: Tensor) -> float:
    """Return the width between the 1 % and 99 % quantiles."""
    low, high = torch.quantile(values, torch.tensor([0.01, 0.99], dtype=torch.float64))
    return float(high - low)


def figure(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw coverage against nominal confidence, with the range that chance allows, and the widths."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    groups = [[row for row in rows if (row["network"] in CHOSEN_ON) == chosen] for chosen in (False, True)]
    words = ("nothing was chosen by these", "something was chosen by these")
    shown = [(group, word) for group, word in zip(groups, words, strict=True) if group]
    plot, panels = plt.subplots(len(shown), 2, figsize=(10, 4.2 * len(shown)), layout="constrained", squeeze=False)
    for (group, word), (left, right) in zip(shown, panels, strict=True):
        _panel(group, word, left, right)
    plot.savefig(path, dpi=150)


def _panel(rows: list[dict[str, Any]], word: str, left: Any, right: Any) -> None:
    """Draw coverage and widths of some cases."""
    names = list(dict.fromkeys((row["network"], row["order"]) for row in rows))
    for place, name in enumerate(names):
        own = [row for row in rows if (row["network"], row["order"]) == name]
        shift = (place - (len(names) - 1) / 2) * 0.16
        x = [CONFIDENCES.index(row["confidence"]) + shift for row in own]
        repeats = int(own[0]["covered"].split()[-1])
        low, high = zip(*(interval(row["coverage"], repeats) for row in own), strict=True)
        values = [row["coverage"] for row in own]
        below = [v - a for v, a in zip(values, low, strict=True)]
        above = [b - v for v, b in zip(values, high, strict=True)]
        left.errorbar(x, values, [below, above], fmt="o", capsize=3, label=f"{name[0]}, {name[1]} order")
        right.bar(x, [row["width / normal oracle's"] for row in own], 0.15, label=f"{name[0]}, {name[1]} order")
    for k, nominal in enumerate(CONFIDENCES):
        left.plot([k - 0.4, k + 0.4], [nominal, nominal], color="black", lw=1.2, label="nominal" if k == 0 else None)
    left.set(ylabel="repeats in which every node is inside", title=f"Simultaneous coverage, {word}", ylim=(0.8, 1.01))
    right.axhline(1, color="black", lw=1.2)
    right.axhline(3, color="black", lw=1, ls=":")
    right.text(2.2, 3.03, "aim: at most 3", va="bottom", ha="right", fontsize=9)
    right.set(ylabel="median half-width / normal oracle's", title="Width of the intervals", ylim=(0, 3.5))
    for axes in (left, right):
        axes.set_xticks(range(len(CONFIDENCES)), [f"{c:.0%}" for c in CONFIDENCES])
        axes.set_xlabel("nominal confidence")
        axes.spines[["top", "right"]].set_visible(False)
    left.legend(fontsize=8, loc="lower right")


def interval(share: float, repeats: int) -> tuple[float, float]:
    """Return the 95 % Clopper–Pearson interval of a proportion."""
    found = stats.binomtest(round(share * repeats), repeats).proportion_ci(0.95)
    return float(found.low), float(found.high)


def main(arguments: list[str] | None = None) -> None:
    """Run the study."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scan.coverage", description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--orders", nargs="+", default=["balanced", "random"], choices=["balanced", "random"])
    parser.add_argument("--confidences", nargs="+", type=float, default=list(CONFIDENCES), choices=CONFIDENCES)
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("--nodes", type=int, default=65)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent)
    parser.add_argument("--draw", nargs="+", type=Path, help="only draw and tabulate the rows of these JSON files")
    options = parser.parse_args(arguments)
    rows: list[dict[str, Any]] = []
    for path in options.draw or ():
        kept = json.loads(path.read_text())["rows"]
        rows += [{"network": row["network"], "data": "digits", "samples": 1797, "nodes": 65} | row for row in kept]
    facts = machine()
    for name in () if options.draw else options.networks:
        task, case = trained(name), CASES[name]
        h, table = table_of(task, options.nodes, case.seed, case.norm)
        orders = [order for order in options.orders if case.loss == "cross_entropy" or order == "random"]
        for order in orders:  # without classes there is nothing to balance
            strata = task.data.targets if order == "balanced" else None
            for confidence in options.confidences:
                found = study(h, table, strata=strata, confidence=confidence, repeats=options.repeats)
                own = {
                    "network": name,
                    "data": task.data.name,
                    "samples": task.n,
                    "nodes": options.nodes,
                    "order": order,
                }
                rows.append(own | found)
                print({k: v for k, v in rows[-1].items() if k != "worst"}, flush=True)
                options.output.mkdir(parents=True, exist_ok=True)
                text = json.dumps({"machine": facts, "rows": rows}, indent=1)
                (options.output / "coverage.json").write_text(text + "\n")
    if options.draw:
        (options.output / "coverage.json").write_text(json.dumps({"machine": facts, "rows": rows}, indent=1) + "\n")
    for row in rows:
        true = float(torch.quantile(torch.tensor(row["worst"]), row["confidence"]))
        row["width / normal oracle's"] = row["width / oracle's"] * true / normal(1 - (1 - row["confidence"]) / 500)
    hidden = ("worst", "seconds", "median half-width / tolerance", "widest / tolerance")
    shown = [
        {"network": row["network"], "chosen on it": "yes" if row["network"] in CHOSEN_ON else "no"}
        | {k: v for k, v in row.items() if k not in hidden}
        for row in rows
    ]
    notes = [
        f"nodes: along each of two axes; tolerance {TOLERANCE:.1%} of the range.",
        "chosen on it: whether anything (allowances for heavy tails, the rule for heavy samples) was chosen by it.",
        "p: one-sided binomial test of coverage at least nominal.",
        machine_line(facts),
    ]
    text = Table("Coverage of multilevel scans", shown, notes).markdown()
    (options.output / "coverage.md").write_text(text + "\n")
    figure(rows, options.output / "coverage.png")
    print(text)


if __name__ == "__main__":
    main()
