"""What a network has that no family covers is named, with the module."""

import pytest
from torch import nn
from torch.nn import functional

from landform.errors import ArchitectureError
from landform.imprint.lower.network import read


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.ZeroPad2d(1), nn.MaxPool2d(2)), r"'2' reads a tensor padded"),
        (
            lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.ZeroPad2d(3), nn.Conv2d(8, 8, 3)),
            r"'2' pads by 3 .*kernel of 3",
        ),
        (lambda: _with(lambda x: x.permute(0, 3, 1, 2)), r"permutes dimensions to \(0, 3, 1, 2\)"),
        (lambda: _with(lambda x: functional.pad(x, (1, 1), value=1.0)), r"pads with other numbers than zero"),
        (lambda: _with(lambda x: x[:, :4]), r"takes .* of a tensor"),
        (lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.PReLU(2)), r"'1' has 2 slopes for 8 channels"),
        (
            lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.Tanh()),
            r"1 hidden layers of Tanh; a hinge takes two, and h one more",
        ),
        (
            lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.Tanh(), nn.GELU()),
            r"'2' is a hinge only for large .*'1' the id",
        ),
        (lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.ELU(-1.0)), r"'1' has alpha = -1\.0"),
        (
            lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Sigmoid(), nn.Conv2d(8, 8, 1)),
            r"'2' is a sigmoid that gates nothing",
        ),
        (lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.GELU(), nn.ReLU6()), r"'1' is a hinge only for large numbers"),
        (lambda: _with(lambda x: x * x), r"is a product; landform covers"),
    ],
)
def test_what_does_not_fit_is_named(make, message):
    with pytest.raises(ArchitectureError, match=message):
        read(nn.Sequential(*make(), nn.Flatten(), nn.Linear(8 * 36, 10)), (3, 8, 8))


def _with(function):
    class Middle(nn.Module):
        def forward(self, x):
            return function(x)

    return nn.Sequential(nn.Conv2d(3, 8, 3), Middle())
