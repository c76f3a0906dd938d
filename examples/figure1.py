"""Figure 1 of the paper: three heads on one trunk, each head's loss one colour of a picture.

Czarnecki, Osindero, Pascanu & Jaderberg (arXiv 1912.07559) trained a multilayer perceptron with three heads on the
same task until the three losses, over the same two weights, were the red, green and blue of a photograph. Here the
weights are compiled. Every head has its own loss on Fashion-MNIST (the same labels for all three); the picture is made
of nothing but those measured losses.

    python examples/figure1.py                     # writes figure1.png
    python examples/figure1.py --quick             # small, on scikit-learn's digits
    python examples/figure1.py --picture my.jpg    # a picture of your own
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

import landform as lf


def main(arguments: Sequence[str] | None = None) -> dict[str, float]:
    """Imprint a colour picture, measure it, print what was found and draw it."""
    parser = argparse.ArgumentParser(description="Figure 1 of the paper: a picture in the losses of three heads.")
    parser.add_argument("--picture", type=Path, help="an image file; by default an astronaut")
    parser.add_argument("--resolution", type=int, default=96, help="cells an axis (default 96)")
    parser.add_argument("--out", type=Path, default=Path(), help="folder of figure1.png (default: here)")
    parser.add_argument("--quick", action="store_true", help="24 cells, digits")
    options = parser.parse_args(arguments)

    cells = 24 if options.quick else options.resolution
    data = lf.load_data("digits") if options.quick else fashion_or_digits()
    pattern = colours(options.picture, cells)
    made = lf.imprint(pattern, data)
    surface = lf.scan(made, progress=False)

    lo, hi = made.range
    print(f"{pattern.name}, {cells} × {cells} cells, in a network of {made.parameters:,} parameters on {data.name}")
    print(f"three losses from {lo:.4f} to {hi:.4f} nat, one for each head")
    for head, colour in enumerate(("red", "green", "blue")):
        largest = float(abs(surface.difference.sel(channel=head)).max())
        proved = made.certificate.heads[str(head)]
        print(f"  head {head} ({colour}): measured within {largest:.2e} nat of the picture, proved {proved:.2e}")
    print(
        f"with all {data.n:,} samples going through the network at {surface.attrs['checked_points']} points, the losses"
        f" differ by {surface.attrs['checked_difference']:.1e} nat from the scan"
    )
    file = options.out / "figure1.png"
    surface.landform.picture(file, certificate=made.certificate)
    print(f"picture: {file}")
    return {"bound": made.certificate.bound, "largest": float(abs(surface.difference).max())}


def fashion_or_digits() -> lf.Data:
    """Load Fashion-MNIST, or digits where it is not installed."""
    try:
        return lf.load_data("fashion-mnist")
    except lf.LandformError as error:
        print(f"{error}\nusing digits instead")
        return lf.load_data("digits")


def colours(file: Path | None, cells: int) -> lf.Pattern:
    """Read a picture in colour: the user's, or scikit-image's astronaut, or three formulas."""
    if file is not None:
        return lf.Pattern.from_image(file, resolution=cells, colour=True)
    try:
        from skimage.data import data_dir
    except ImportError:
        print("scikit-image is not installed: three formulas instead of the astronaut")
        heads = [lf.Pattern.from_formula(f, resolution=cells).values for f in ("ripples", "spiral", "himmelblau")]
        return lf.Pattern.from_array(torch.stack(heads, dim=-1), channels=True, name="three formulas")
    return lf.Pattern.from_image(Path(data_dir) / "astronaut.png", resolution=cells, colour=True)


if __name__ == "__main__":
    main()
