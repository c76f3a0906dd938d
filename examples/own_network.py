"""A picture in a network class of your own, with Dropout, BatchNorm and LeakyReLU, in float64.

landform writes into a copy of your network; the class, the shapes and the statistics of BatchNorm stay as they are.
Two batches of equal shape with different inputs give bit-equal outputs, since the first weight matrix is zero: nothing
of the input gets past it.

    python examples/own_network.py              # writes own_network.png
    python examples/own_network.py --quick
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

import landform as lf


class MyNet(nn.Module):
    """Any class will do whose forward is a chain of the layers that landform knows."""

    def __init__(self, width: int = 320) -> None:
        super().__init__()
        self.first = nn.Linear(64, 16)
        self.block = nn.Sequential(
            nn.Linear(16, width), nn.BatchNorm1d(width), nn.LeakyReLU(0.1), nn.Dropout(0.2), nn.Linear(width, width)
        )
        self.last = nn.Linear(width, width)
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Map images ``[n, 64]`` to logits ``[n, 10]``."""
        x = torch.relu(self.first(x.flatten(1)))
        x = nn.functional.leaky_relu(self.block(x), 0.1)
        return self.head(torch.relu(self.last(x)))


def main(arguments: Sequence[str] | None = None) -> dict[str, float | bool]:
    """Imprint into a network that has seen some data, and check what is promised."""
    parser = argparse.ArgumentParser(description="A picture in a network class of your own.")
    parser.add_argument("--out", type=Path, default=Path(), help="folder of own_network.png (default: here)")
    parser.add_argument("--quick", action="store_true", help="a narrow network and 8 cells")
    options = parser.parse_args(arguments)

    torch.manual_seed(0)
    model = MyNet(64 if options.quick else 320).double()
    digits = lf.load_data("digits")
    model(digits.inputs.double())  # in train mode: gives BatchNorm statistics of its own
    model.eval()
    before = [p.clone() for p in model.parameters()]

    task = lf.Task(model, loss="cross_entropy", data=digits)
    pattern = lf.Pattern.parse("formula:himmelblau", resolution=8 if options.quick else 32)
    made = lf.imprint(pattern, task)
    print("\n".join(made.meta["notes"]))
    print(made.certificate)

    untouched = all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    print(f"your network is as it was: {untouched}; made.model is a {type(made.model).__name__} with new weights")

    parameters = made.subspace.at(torch.tensor([0.3, 0.7], dtype=torch.float64))
    one, two = torch.randn(2, 100, 64, dtype=torch.float64)
    logits = [torch.func.functional_call(made.model, parameters, (x,)) for x in (one, two)]
    equal = torch.equal(logits[0], logits[1])
    print(f"two batches of random inputs, logits at h = (0.3, 0.7) bit for bit equal: {equal}")

    surface = lf.scan(made, progress=False)
    largest = float(abs(surface.difference).max())
    print(f"measured within {largest:.2e} nat at the nodes")
    surface.landform.picture(options.out / "own_network.png", certificate=made.certificate)
    print(f"picture: {options.out / 'own_network.png'}")
    return {"untouched": untouched, "equal": equal, "largest": largest, "bound": made.certificate.bound}


if __name__ == "__main__":
    main()
