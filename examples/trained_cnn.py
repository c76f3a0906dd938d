"""A picture in the loss of a CNN that still does its job: Theorem 2 on Fashion-MNIST.

A small CNN is trained on all 60,000 images, half a minute on one core. Then a photograph is compiled into it twice, for
its loss over 500 of them (``--samples``):

    offset       the mean loss over the data follows the picture; its darkest point is the trained network, as it was
    per sample   the loss of *every* image that the network gets right follows the picture, and every prediction is kept

For each, on training and test images: what the network gets right before and after, how far every single image's loss
is from the picture (table, histogram), and the same network's loss on random directions beside that on the compiled
ones (sampled, within 5 % of its range).

    python examples/trained_cnn.py              # cnn_offset.png, cnn_per_sample.png, cnn_errors.png: two minutes
    python examples/trained_cnn.py --quick      # small, on scikit-learn's digits
"""

import argparse
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

import landform as lf
from landform.view import error_histogram, measure_slices, slices
from landform.view.slices import lowest
from landform.view.style import new_figure, quiet_style

POINTS = 4
TOLERANCE = 0.05
"""Of the pictures that are measured: half-width of every value, of the range."""


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Train, imprint twice, account, draw."""
    parser = argparse.ArgumentParser(description="A picture in the loss of a trained CNN.")
    parser.add_argument("--pattern", default="demo", help="what Pattern.parse takes (default: a cat)")
    parser.add_argument("--resolution", type=int, default=None, help="cells an axis (default: 32)")
    parser.add_argument("--samples", type=int, default=500, help="training images that the loss is taken over")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path(), help="folder of the pictures (default: here)")
    parser.add_argument("--quick", action="store_true", help="8 cells, digits")
    options = parser.parse_args(arguments)
    cells = options.resolution or (8 if options.quick else 32)

    name = "digits" if options.quick else name_of_data()
    train, test = lf.load_data(name), lf.load_data(name, split="test")
    begin = time.perf_counter()
    model = trained(images(train), 20 if name == "digits" else options.epochs)
    seconds, share = time.perf_counter() - begin, accuracy(model, images(test))
    print(f"trained on {train.n:,} images of {name} in {seconds:.0f} s, test accuracy {share:.3f}")
    x, y = images(train)
    task = lf.Task(model, data=(x[: options.samples], y[: options.samples]))
    picture = lf.Pattern.parse(options.pattern, resolution=cells)
    low, high = picture.values.min(), picture.values.max()
    pattern = lf.Pattern((picture.values - low) / (high - low), name=picture.name)  # its darkest point is 0

    out: dict[str, Any] = {}
    with quiet_style():
        figure = new_figure(6.6, 6.4)
        axes = figure.subplots(2, 1)
    for ax, method in zip(axes, ("offset", "per-sample"), strict=True):
        begin = time.perf_counter()
        made = lf.imprint(pattern, task, method=method, scores="own", form="hats")  # strips: a weaker proof in float32
        print(f"\n{method}: {made.parameters:,} parameters, made and proved in {time.perf_counter() - begin:.1f} s")
        print("\n".join(f"  {note}" for note in made.meta["notes"]))
        print(f"  {made.certificate}")
        after = accuracy(made.model, images(test), made.subspace.at(lowest(made)))
        print(f"  test accuracy where the picture is 0: {after:.4f}, of the network as trained: {share:.4f}")
        h = torch.rand(POINTS, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        found = [lf.account(made, points=h), lf.account(made, images(test), points=h)]
        found = [named(each, word) for each, word in zip(found, ("train", "test"), strict=True)]
        for each in found:
            print(each)
        error_histogram(*found, ax=ax, title=method)
        begin = time.perf_counter()
        surfaces = measure_slices(
            made,
            grid=5 if options.quick else 33,
            random_grid=5 if options.quick else 17,
            tolerance=0 if options.quick else TOLERANCE,
        )
        passes = sum(surface.attrs["evaluations"] for surface in surfaces.values())
        nodes = sum(surface.loss.size for surface in surfaces.values())
        print(f"{nodes} nodes measured by {passes:.0f} passes over the data in {time.perf_counter() - begin:.0f} s")
        file = options.out / f"cnn_{method.replace('-', '_')}.png"
        slices(made, surfaces, title=f"{pattern.name} in a CNN trained on {name}: {method}").savefig(file, dpi=94)
        print(f"picture: {file}")
        out[method] = {"made": made, "train": found[0].row, "test": found[1].row, "accuracy": (share, after)}
    figure.savefig(options.out / "cnn_errors.png", dpi=94)
    return out


def trained(data: tuple[torch.Tensor, torch.Tensor], epochs: int) -> nn.Module:
    """Train a CNN of two convolutions and three hidden Linear layers, 128 images a step."""
    x, y = data
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(
            *(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
            *(nn.Linear(16 * (x.shape[-1] // 4) ** 2, 64), nn.ReLU(), nn.Linear(64, 48), nn.ReLU()),
            *(nn.Linear(48, 32), nn.ReLU(), nn.Linear(32, 10)),
        )
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
        for epoch in range(epochs):
            for part in torch.randperm(len(x)).split(128):
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(x[part]), y[part]).backward()
                optimizer.step()
            if epoch in (0, epochs // 2):  # smaller steps towards the end
                optimizer.param_groups[0]["lr"] /= 2
    return model.eval()


def accuracy(
    model: nn.Module, data: tuple[torch.Tensor, torch.Tensor], parameters: dict[str, torch.Tensor] | None = None
) -> float:
    """Return the share of images that the network gets right, with its own parameters or others."""
    with torch.no_grad():
        found = torch.cat([torch.func.functional_call(model, parameters or {}, (x,)) for x in data[0].split(1000)])
    return float((found.argmax(dim=1) == data[1]).double().mean())


def images(data: lf.Data) -> tuple[torch.Tensor, torch.Tensor]:
    """Return images with one channel, and their labels."""
    side = math.isqrt(data.inputs[0].numel())
    return data.inputs.reshape(data.n, 1, side, side), data.targets


def named(found: Any, word: str) -> Any:
    """Return an accounting under another name."""
    from dataclasses import replace

    return replace(found, name=word)


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
