"""BatchNorm that nothing moves is part of the convolution before it, wherever that changes no number."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

import landform as lf
from landform.scan.engine.affine import AffineEngine
from landform.scan.engine.functional import FunctionalEngine
from landform.subspace import Subspace
from landform.testing.networks import resnet20
from landform.testing.zoo import points, space

N = 6


class Net(nn.Module):
    """A stem, a body, a mean over positions."""

    def __init__(self, body: nn.Module, d: int = 2) -> None:
        super().__init__()
        self.stem = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[d - 1](2, 4, 1)
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.body(self.stem(x).relu()).flatten(2).mean(2)
        return found


class Twice(nn.Module):
    """Reads a convolution's output beside its norm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return F.relu(self.norm(x)) + x


class Shared(nn.Module):
    """Runs one convolution twice, with a norm each."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.one, self.two = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.two(self.conv(self.one(self.conv(x)).relu()))
        return found


def tied() -> nn.Module:
    first, second = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
    second.weight = first.weight
    return nn.Sequential(first, nn.BatchNorm2d(4), nn.ReLU(), second)


def hooked() -> nn.Module:
    norm = nn.BatchNorm2d(4)
    norm.register_forward_hook(lambda _module, _inputs, output: output + 1)
    return nn.Sequential(nn.Conv2d(4, 4, 1), norm)


def setting(body: nn.Module, moves: Callable[[str], bool], d: int = 2) -> tuple[lf.Task, Subspace]:
    generator = torch.Generator().manual_seed(0)
    model = Net(body, d).double().eval()
    with torch.no_grad():
        for name, value in [*model.named_parameters(), *model.named_buffers()]:
            if value.is_floating_point():
                value.normal_(std=0.5, generator=generator)
            if name.endswith("running_var"):
                value.abs_().add_(0.1)
    inputs = torch.randn(N, 2, *[5] * d, generator=generator, dtype=torch.float64)
    task = lf.Task(model, data=(inputs, torch.arange(N) % 4))
    return task, space(task, moves=moves)


def norms(engine: AffineEngine) -> int:
    """Count the norms that are left for every point."""
    rest = engine.cut.rest
    modules = [rest.get_submodule(str(n.target)) for n in rest.graph.nodes if n.op == "call_module"]
    return sum(isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d) for module in modules)


def weights(name: str) -> bool:
    return "norm" not in name and not name.startswith("body.1")


def biases(name: str) -> bool:
    return "stem" in name or name == "body.0.bias"


@pytest.mark.parametrize(
    ("body", "moves", "d", "left"),
    [
        (lambda: nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)), weights, 2, 0),
        (lambda: nn.Sequential(nn.Conv2d(4, 4, 3, bias=False), nn.BatchNorm2d(4)), weights, 2, 0),
        (lambda: nn.Sequential(nn.Conv2d(4, 4, 3, groups=2), nn.BatchNorm2d(4, affine=False)), weights, 2, 0),
        (lambda: nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)), lambda name: "stem" in name, 2, 0),
        (lambda: nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)), biases, 2, 0),
        (lambda: nn.Sequential(nn.Conv1d(4, 4, 3, 1, 1, padding_mode="circular"), nn.BatchNorm1d(4)), weights, 1, 0),
        (lambda: nn.Sequential(nn.Conv3d(4, 4, 3), nn.BatchNorm3d(4)), weights, 3, 0),
        (lambda: nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)), lambda _: True, 2, 1),
        (lambda: nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)), lambda name: name != "body.1.weight", 2, 1),
        (Twice, weights, 2, 1),
        (Shared, lambda name: "conv" in name or "stem" in name, 2, 2),
        (tied, lambda name: "weight" in name and not name.startswith("body.1"), 2, 1),
        (hooked, weights, 2, 1),
    ],
)
def test_numbers_stay_and_norms_go_where_they_can(
    body: Callable[[], nn.Module], moves: Callable[[str], bool], d: int, left: int
) -> None:
    task, subspace = setting(body(), moves, d)
    before = {name: value.clone() for name, value in task.model.state_dict().items()}  # type: ignore[union-attr]
    engine, plain = AffineEngine(task, subspace), FunctionalEngine(task, subspace)
    assert norms(engine) == left
    h = points(2, 5)
    found, wanted = engine.terms(h, 0, N), plain.terms(h, 0, N)
    torch.testing.assert_close(found.num, wanted.num, rtol=1e-11, atol=1e-12)
    assert all(torch.equal(v, before[k]) for k, v in task.model.state_dict().items())  # type: ignore[union-attr]


def test_a_random_plane_leaves_no_norm_of_a_resnet() -> None:
    data = (torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0)), torch.arange(4))
    task = lf.Task(resnet20(), data=data)
    plane = lf.random_plane(task, seed=0)
    engine = AffineEngine(task, plane)
    assert norms(engine) == 0
    h = points(2, 3) * 0.3
    torch.testing.assert_close(engine.sums(h).num, FunctionalEngine(task, plane).sums(h).num, rtol=1e-4, atol=1e-4)
