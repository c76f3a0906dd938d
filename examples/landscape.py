"""The loss around a network that you trained: where the optimiser went, how sure each value is, and other directions.

A small convolutional network learns images; its weights are recorded on the way. Then three questions:

    where did training go?           the plane in which the weights moved most, with the path and its distance from it
    how sure is the picture?         the surface is sampled to ± 1 % of its range; each node has an interval
    does it depend on the plane?     random planes with other seeds, on one scale, and how much they differ

    python examples/landscape.py            # writes landscape.png and seeds.png, about a minute
    python examples/landscape.py --quick    # small, on scikit-learn's digits
"""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

import landform as lf
from landform.view import draw_path, heat, side_by_side, spread, uncertainty
from landform.view.picture import rendered
from landform.view.style import new_figure, quiet_style

if TYPE_CHECKING:
    import xarray


def main(arguments: Sequence[str] | None = None) -> dict[str, float]:
    """Train, measure and draw; return what was found."""
    parser = argparse.ArgumentParser(description="The loss around a trained network.")
    parser.add_argument("--out", type=Path, default=Path(), help="folder of the pictures (default: here)")
    parser.add_argument("--quick", action="store_true", help="digits, a coarse grid")
    options = parser.parse_args(arguments)

    data = lf.load_data("digits") if options.quick else images()
    model, trajectory = train(data, steps=60 if options.quick else 240)
    task = lf.Task(model, loss="cross_entropy", data=data, metrics="accuracy")

    plane = lf.pca_plane(trajectory, model=task)
    surface = lf.scan(task, plane, grid=17 if options.quick else 65, tolerance=0.01)
    shares = plane.meta["explained_variance"]
    print(f"the plane holds {100 * sum(shares):.1f} % of the variance of {len(trajectory)} checkpoints,")
    print(f"which lie up to {max(plane.meta['off_plane']):.3g} off it, {length(trajectory):.3g} from start to end")
    evaluations, nodes = surface.attrs["evaluations"], surface.loss.size
    print(f"{nodes:,} nodes for {evaluations:.0f} passes over the data, {nodes / evaluations:.1f} times fewer")
    draw(surface, options.out / "landscape.png")

    grid = 9 if options.quick else 65
    surfaces = {
        f"seed {seed}": lf.scan(task, lf.random_plane(task, seed=seed), grid=grid, tolerance=0.02) for seed in range(3)
    }
    differ = spread(surfaces)
    print(f"random planes: the loss at a node varies by {100 * differ.attrs['share']:.2g} % of its range between seeds")
    figure = side_by_side(surfaces, log=True, title=f"a CNN on {data.name}, three random planes")
    (options.out / "seeds.png").write_bytes(rendered(figure))
    half = (surface.loss_upper - surface.loss_lower).max() / 2
    return {
        "explained": float(sum(shares)),
        "saved": float(nodes / evaluations),
        "half_width": float(half),
        "spread": float(differ.attrs["share"]),
        "start": float(surface.loss.max()),
        "end": float(task.evaluate()),
    }


def images() -> lf.Data:
    """Return 6,000 images of Fashion-MNIST, or digits where it is not installed."""
    try:
        return lf.load_data("fashion-mnist", split="train").subset(range(6000))
    except lf.LandformError as error:
        print(f"{error}\nusing digits instead")
        return lf.load_data("digits")


def train(data: lf.Data, *, steps: int) -> tuple[nn.Module, lf.Trajectory]:
    """Train a small convolutional network, and record it twenty times on the way."""
    torch.manual_seed(0)
    side = math.isqrt(data.inputs[0].numel())
    layers = [
        nn.Flatten(),
        nn.Unflatten(1, (1, side, side)),
        nn.Conv2d(1, 8, 3, stride=2),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3),
    ]
    model = nn.Sequential(*layers, nn.ReLU(), nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(144, 10))
    optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
    trajectory, generator = lf.Trajectory(), torch.Generator().manual_seed(0)
    for step in range(steps + 1):
        if step % max(1, steps // 20) == 0:
            trajectory.record(model, step)
        batch = torch.randint(0, data.n, (256,), generator=generator)
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(data.inputs[batch]), data.targets[batch]).backward()
        optimiser.step()
    return model.eval(), trajectory


def length(trajectory: lf.Trajectory) -> float:
    """Return the distance of the last checkpoint from the first."""
    first, last = trajectory[0].state(), trajectory[-1].state()
    return float(torch.cat([(last[name] - first[name]).flatten() for name in first]).norm())


def draw(surface: "xarray.Dataset", file: Path) -> None:
    """Draw the loss with the path of training over it, the accuracy, and how sure the loss is."""
    with quiet_style():
        figure = new_figure(11.8, 4.4)
        grid = figure.add_gridspec(2, 2, width_ratios=(1.7, 1))
        left, upper, lower = (figure.add_subplot(grid[k]) for k in ((slice(None), 0), (0, 1), (1, 1)))
        draw_path(heat(surface, ax=left, log=True, title="loss, and the path of training", notes=False), surface)
        heat(surface, variable="accuracy", ax=upper, cmap="viridis", title="accuracy", notes=False, dots=False)
        uncertainty(surface, ax=lower)
        upper.set_xlabel("")
        figure.suptitle(str(surface.attrs["title"]), x=0.012, ha="left", fontsize=10.5)
        file.write_bytes(rendered(figure))


if __name__ == "__main__":
    main()
