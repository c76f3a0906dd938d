"""The choice of an engine: fast where it can be trusted, plain elsewhere."""

import pytest
import torch
from torch import Tensor, nn

import landform as lf
from landform.errors import ArchitectureError
from landform.scan.engine.affine import AffineEngine
from landform.scan.engine.functional import FunctionalEngine
from landform.scan.plan import build_engine
from landform.testing.zoo import SAMPLES, build, points, space


class Hidden(nn.Module):
    """One hidden layer."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.b(self.a(x).relu())
        return found


def test_a_traceable_model_is_served_by_reuse() -> None:
    task = build("resnet")
    assert isinstance(build_engine(task, space(task)), AffineEngine)


def test_control_flow_goes_the_plain_way() -> None:
    task = build("branching")
    assert isinstance(build_engine(task, space(task)), FunctionalEngine)
    with pytest.raises(ArchitectureError, match="cannot trace Branching"):
        build_engine(task, space(task), engine="affine")


def test_hooks_are_not_overlooked() -> None:
    task = build("mlp")
    assert isinstance(task.model, nn.Module)
    task.model.register_forward_hook(lambda _module, _inputs, output: 2 * output)
    assert isinstance(build_engine(task, space(task)), FunctionalEngine)
    inner = build("mlp")
    inner.model[2].register_forward_hook(lambda _module, _inputs, output: 2 * output)  # type: ignore[index,union-attr]
    subspace, h = space(inner), points(2)
    found, wanted = build_engine(inner, subspace), build_engine(inner, subspace, engine="functional")
    torch.testing.assert_close(found.sums(h).num, wanted.sums(h).num, rtol=1e-4, atol=1e-5)


def test_a_model_that_a_graph_misreads_goes_the_plain_way() -> None:
    class Tricky(Hidden):
        def forward(self, x: Tensor) -> Tensor:
            x = super().forward(x)
            return x if isinstance(x, Tensor) else 2 * x  # a proxy is no tensor

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Tricky()
    generator = torch.Generator().manual_seed(0)
    data = (torch.randn(SAMPLES, 4, generator=generator), torch.randint(3, (SAMPLES,), generator=generator))
    task = lf.Task(model, data=data)
    assert isinstance(build_engine(task, space(task), engine="affine"), AffineEngine)
    assert isinstance(build_engine(task, space(task)), FunctionalEngine)
