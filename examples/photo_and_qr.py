"""A photograph and a QR code as the loss of networks on Fashion-MNIST, with certificates; the code is read back.

The text of the QR code is decoded from the *measured* loss: the network is evaluated at the nodes of the grid, the
losses are drawn as grey pixels, and a reader that knows nothing of landform reads them.

    python examples/photo_and_qr.py                      # writes photo.png, qr.png
    python examples/photo_and_qr.py --text "HELLO"
    python examples/photo_and_qr.py --quick              # small, on scikit-learn's digits
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

import landform as lf

if TYPE_CHECKING:
    import xarray


def main(arguments: Sequence[str] | None = None) -> dict[str, str | float]:
    """Imprint both, measure both, read the code, and say what is proved."""
    parser = argparse.ArgumentParser(description="A photograph and a QR code as loss surfaces.")
    parser.add_argument("--photo", default="demo", help="an image file; by default a cat that comes with landform")
    parser.add_argument("--text", default="https://arxiv.org/abs/1912.07559", help="what the QR code says")
    parser.add_argument("--resolution", type=int, default=64, help="cells an axis of the photograph (default 64)")
    parser.add_argument("--out", type=Path, default=Path(), help="folder of photo.png and qr.png (default: here)")
    parser.add_argument("--quick", action="store_true", help="24 cells, one node a module, digits")
    options = parser.parse_args(arguments)

    data = lf.load_data("digits") if options.quick else fashion_or_digits()
    cells = 24 if options.quick else options.resolution
    patterns = {
        "photo": lf.Pattern.parse(options.photo, resolution=cells),
        "qr": lf.Pattern.from_qr(options.text, scale=1 if options.quick else 2),
    }
    found: dict[str, str | float] = {}
    for name, pattern in patterns.items():
        made = lf.imprint(pattern, data)
        surface = lf.scan(made, progress=False)
        largest = float(abs(surface.difference).max())
        print(f"{name}: {pattern.resolution[0]} × {pattern.resolution[1]} cells, {made.parameters:,} parameters")
        print(f"  {made.certificate}")
        print(f"  measured: within {largest:.2e} nat at all {surface.sizes['h1'] * surface.sizes['h2']:,} nodes")
        surface.landform.picture(options.out / f"{name}.png", certificate=made.certificate)
        print(f"  picture: {options.out / f'{name}.png'}")
        found |= {name: largest, f"{name}_bound": made.certificate.bound}
        if name == "qr":
            found["text"] = read_code(surface)
            print(f"  the measured loss reads: {found['text']}")
    return found


def read_code(surface: "xarray.Dataset") -> str:
    """Decode a QR code from measured losses, with a reader that gets grey pixels and nothing else."""
    try:
        import zxingcpp
    except ImportError:
        return "(pip install zxing-cpp to read it)"
    loss = surface.loss.transpose("h1", "h2").values
    grey = (255 * (loss - loss.min()) / np.ptp(loss)).round().astype(np.uint8)
    pixels = np.flipud(grey.T).repeat(8, axis=0).repeat(8, axis=1)  # h1 points right, h2 up
    codes = zxingcpp.read_barcodes(np.ascontiguousarray(pixels))
    return codes[0].text if codes else "(nothing)"


def fashion_or_digits() -> lf.Data:
    """Load Fashion-MNIST, or digits where it is not installed."""
    try:
        return lf.load_data("fashion-mnist")
    except lf.LandformError as error:
        print(f"{error}\nusing digits instead")
        return lf.load_data("digits")


if __name__ == "__main__":
    main()
