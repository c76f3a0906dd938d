"""One network, other data: what its loss surface becomes is known from the labels alone, and then measured.

A network made for one data set has, on another with the same loss, the surface ρ̃(ρ⁻¹(T)): ρ and ρ̃ are the losses of a
constant output on the two sets, as functions of what the network emits. The level sets stay the same iff ρ̃ is monotone
over the range. For cross-entropy that can be read off the share of one class, the one that the network moves:

    order kept      its share on the new set is at most its softmax probability at the bottom of the range
    order reversed  its share is at least that probability at the top: valleys become hills
    folded          between the two: level sets merge

Balanced data sets are all alike to this network, so beside the test split there are sets with other label shares, one
of them a real subset and two re-weighted, on both sides of the condition.

    python examples/transfer.py                 # writes transfer.png
    python examples/transfer.py --quick         # small, on scikit-learn's digits
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

import landform as lf

if TYPE_CHECKING:
    import xarray

    from landform.response import Transfer


def main(arguments: Sequence[str] | None = None) -> dict[str, tuple[str, float]]:
    """Predict and measure the surface on four other sets; print the differences and draw them."""
    parser = argparse.ArgumentParser(description="Predicted and measured surfaces on other data.")
    parser.add_argument("--pattern", default="demo", help="what Pattern.parse takes (default: a cat)")
    parser.add_argument("--out", type=Path, default=Path(), help="folder of transfer.png (default: here)")
    parser.add_argument("--quick", action="store_true", help="16 cells, digits")
    options = parser.parse_args(arguments)

    name = "digits" if options.quick else name_of_data()
    train, test = lf.load_data(name), lf.load_data(name, split="test")
    made = lf.imprint(lf.Pattern.parse(options.pattern, resolution=16 if options.quick else 64), train)
    c = int(made.response.output)
    print(
        f"made for {train.name} ({train.split}), range {made.range[0]:.4f} … {made.range[1]:.4f} nat, class {c} moves"
    )
    print(f"{made.certificate}")

    found: dict[str, tuple[str, float]] = {}
    surfaces = {}
    for title, data in others(test, c).items():
        prediction = lf.transfer(made, data)
        surface = lf.scan(made, data=data, progress=False)
        largest = float(abs(surface.difference).max())
        share = float(data.label_counts[c] / data.label_counts.sum())
        print(f"{title}: {data.n:,} samples, share of class {c}: {share:.3f}")
        print(f"  predicted: {prediction.condition}")
        print(f"  measured:  within {largest:.2e} nat of the prediction, losses {span(surface)}")
        print(f"  all samples through the network: within {surface.attrs['checked_difference']:.1e} nat of the scan")
        found[title] = (prediction.order, largest)
        surfaces[title] = (prediction, surface)
    draw(made, surfaces, options.out / "transfer.png")
    print(f"picture: {options.out / 'transfer.png'}")
    return found


def others(test: lf.Data, c: int) -> dict[str, lf.Data]:
    """Return the test split and three sets with other label shares of class c."""
    rare = test.label_counts.long()
    rare[c] = rare[c] // 5

    def weighted(share: float) -> lf.Data:
        now = float(test.label_counts[c] / test.label_counts.sum())
        return test.reweight({c: share / (1 - share) * (1 - now) / now})

    return {
        "test split": test,
        f"few of class {c}": test.resample_labels(rare),
        "half and half": weighted(0.5),
        f"nearly all class {c}": weighted(0.98),
    }


def span(surface: "xarray.Dataset") -> str:
    """Say from where to where the measured loss goes."""
    return f"{float(surface.loss.min()):.3f} … {float(surface.loss.max()):.3f}"


def draw(made: lf.Imprint, surfaces: dict[str, tuple["Transfer", "xarray.Dataset"]], file: Path) -> None:
    """Draw the curves that re-map heights, with measured points on them, and the surfaces."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from landform.view import heat

    figure = Figure(figsize=(13.2, 2.9), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 1 + len(surfaces), width_ratios=[1.25] + [1] * len(surfaces))
    t = torch.linspace(*made.range, 400, dtype=torch.float64)
    for number, (title, (prediction, surface)) in enumerate(surfaces.items()):
        h = torch.cartesian_prod(*(torch.tensor(surface[name].values) for name in ("h1", "h2")))
        target = made.target(h).numpy()
        axes[0].plot(t, prediction.remap(t), color=f"C{number}", linewidth=1, label=f"{title}: {prediction.order}")
        axes[0].plot(target[::37], surface.loss.values.reshape(-1)[::37], ".", color=f"C{number}", markersize=3)
        heat(surface, ax=axes[number + 1], title=f"{title}: {prediction.order}", contours=False)
    axes[0].set(xlabel="loss on the first data set (nat)", ylabel="loss on the other (nat)")
    axes[0].set_title("lines: predicted, points: measured", fontsize=9.5, loc="left")
    low, high = axes[0].get_ylim()
    axes[0].set_ylim(low, high + 0.45 * (high - low))  # room for the legend
    axes[0].legend(fontsize=8, frameon=False, loc="upper left")
    figure.savefig(file, dpi=94)


def name_of_data() -> str:
    """Return Fashion-MNIST's name, or that of digits where it is not installed."""
    try:
        lf.load_data("fashion-mnist", split="test")
    except lf.LandformError as error:
        print(f"{error}\nusing digits instead")
        return "digits"
    return "fashion-mnist"


if __name__ == "__main__":
    main()
