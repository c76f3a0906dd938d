"""The choice of an engine: fast where it can be trusted, plain elsewhere."""

import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import landform as lf
from landform.errors import ArchitectureError, InputError
from landform.scan.engine.affine import AffineEngine, StackedEngine
from landform.scan.engine.collapsed import CollapsedEngine
from landform.scan.engine.functional import FunctionalEngine
from landform.scan.engine.inplace import InplaceEngine
from landform.scan.engine.own import UnsupportedError
from landform.scan.plan import build_engine, engine_name, plan_scan
from landform.subspace import Subspace
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


def test_control_flow_is_followed_by_the_model_itself() -> None:
    task = build("branching")
    assert isinstance(build_engine(task, space(task)), InplaceEngine)
    with pytest.raises(ArchitectureError, match="cannot trace Branching"):
        build_engine(task, space(task), engine="affine")


def test_hooks_are_not_overlooked() -> None:
    task = build("mlp")
    assert isinstance(task.model, nn.Module)
    task.model.register_forward_hook(lambda _module, _inputs, output: 2 * output)
    assert not isinstance(build_engine(task, space(task)), AffineEngine)
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
    assert not isinstance(build_engine(task, space(task)), AffineEngine)


def test_small_mlps_are_stacked_and_images_are_not() -> None:
    assert isinstance(build_engine(build("mlp"), space(build("mlp"))), StackedEngine)
    assert engine_name(build_engine(build("cnn"), space(build("cnn")))) == "affine"


def test_a_plan_says_what_it_costs() -> None:
    task = build("mlp")
    plan = plan_scan(task, space(task), points(2, 9))
    assert (plan.engine, plan.points, plan.samples, plan.sample_evaluations) == ("stacked", 9, SAMPLES, 9 * SAMPLES)
    assert plan.seconds > 0
    assert plan.tile == 9  # all of them: so few are no work
    numbers = sum(value.numel() for value in task.model.parameters())  # type: ignore[union-attr]
    assert plan.memory >= 4 * numbers + task.data.inputs.nbytes + task.data.targets.nbytes
    assert "stacked: a small MLP" in plan.describe()
    assert plan_scan(task, space(task), points(2, 9), engine="functional", batch_size=5).reason == "asked for"
    with pytest.raises(InputError, match="no points"):
        plan_scan(task, space(task), points(2, 9)[:0])


def test_an_affine_engine_counts_all_that_it_holds() -> None:
    net = nn.Sequential(
        nn.Linear(4, 7), nn.Tanh(), nn.Linear(7, 5), nn.Tanh(), nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3)
    )
    n, z = 20, 2
    data = (torch.randn(n, 4, generator=torch.Generator().manual_seed(0)), torch.zeros(n, dtype=torch.int64))
    task = lf.Task(net, data=data)
    engine = AffineEngine(task, space(task, z=z))
    engine.sums(points(z, 3))
    late = 7 * 5 + 5 + 5 * 6 + 6 + 6 * 3 + 3
    parameters = (1 + z + 2) * late  # origin, directions, a point and a line
    first = (1 + z + 2) * n * 7  # likewise, of the first layer's values
    assert engine.held == 4 * (parameters + first + n * (5 + 6))  # and those of two layers; the last one gives its out


def test_a_made_surface_collapses_to_its_labels() -> None:
    made = lf.imprint(lf.Pattern.from_formula("sphere", resolution=4), "digits")
    task, h = made.task, torch.rand(5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert task is not None
    order = torch.randperm(task.n, generator=torch.Generator().manual_seed(1))
    fast = build_engine(task, made.subspace, order=order)
    assert isinstance(fast, CollapsedEngine)
    plain = FunctionalEngine(task, made.subspace, order=order)
    for start, stop in ((0, task.n), (3, 40)):
        torch.testing.assert_close(
            fast.terms(h, start, stop).num, plain.terms(h, start, stop).num, rtol=1e-5, atol=1e-6
        )
        both = fast.sums(h, start, stop), plain.sums(h, start, stop)
        torch.testing.assert_close(both[0].num, both[1].num, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(both[0].den, both[1].den)
    weighted = task.replace(data=task.data.reweight({0: 3.0, 2: 0.0}))
    both = CollapsedEngine(weighted, made.subspace).sums(h), FunctionalEngine(weighted, made.subspace).sums(h)
    torch.testing.assert_close(both[0].num, both[1].num, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(both[0].den, both[1].den)


def test_equal_outputs_do_not_make_a_network_collapse() -> None:
    task = build("mlp")
    with torch.no_grad():
        task.model[0].weight.zero_()  # type: ignore[index,union-attr]
    with pytest.raises(UnsupportedError, match="may depend on its input"):
        CollapsedEngine(task, space(task))  # the directions read it


def test_inplace_makes_one_tensor_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    task = build("mlp")
    subspace, live, most = space(task), weakref.WeakSet(), []
    plain = Subspace.tensor

    def counted(self: Subspace, name: str, h: Tensor, **options: Any) -> Tensor:
        made = plain(self, name, h, **options)
        live.add(made)
        most.append(sum(value.numel() for value in live))
        return made

    monkeypatch.setattr(Subspace, "tensor", counted)
    InplaceEngine(task, subspace).sums(points(2))
    largest = max(value.numel() for value in subspace.origin.values())
    assert largest <= max(most) <= largest + 8  # a layer's weight and its bias
