"""Every engine gives the numbers of the plain loop, on every kind of model."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from landform.scan.engine.affine import AffineEngine, StackedEngine
from landform.scan.engine.base import AbstractEngine
from landform.scan.engine.functional import FunctionalEngine
from landform.scan.engine.inplace import InplaceEngine
from landform.scan.engine.own import UnsupportedError
from landform.testing.zoo import KINDS, SAMPLES, build, points, space

ENGINES: dict[str, Callable[..., AbstractEngine]] = {
    "affine": AffineEngine,
    "stacked": StackedEngine,
    "inplace": InplaceEngine,
}
TRACEABLE = [kind for kind in KINDS if kind != "branching"]
STACKED = ("linear", "mlp", "batch_norm_mlp", "tuple", "dict")
"""What the stacked engine is for: values of shape [samples, features]; it must take all of these, and no others."""
PAIRS = [(engine, kind) for engine in ENGINES for kind in TRACEABLE if engine != "stacked" or kind in STACKED]


def reference(task: Any, subspace: Any, h: Tensor) -> Tensor:
    """Sample by sample, at one point after the other, without any engine: ``[points, heads, samples]``."""
    data = task.data
    rows = []
    for point in h:
        parameters = subspace.at(point)
        values = [task.replace(data=data.subset([i])).evaluate(parameters).reshape(-1) for i in range(data.n)]
        rows.append(torch.stack(values, 1))
    return torch.stack(rows)


@pytest.mark.parametrize("kind", KINDS)
def test_the_plain_engine_is_the_loop_over_samples(kind: str) -> None:
    task = build(kind)
    subspace = space(task)
    h = points(2, 3)
    found = FunctionalEngine(task, subspace, batch_size=5 if kind != "branching" else 1).terms(h, 0, SAMPLES)
    torch.testing.assert_close(found.num / found.den, reference(task, subspace, h), rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("z", [1, 2, 3])
@pytest.mark.parametrize(("engine", "kind"), PAIRS)
def test_terms_agree(engine: str, kind: str, z: int) -> None:
    task = build(kind)
    subspace = space(task, z)
    order = torch.randperm(SAMPLES, generator=torch.Generator().manual_seed(2))
    h = points(z)
    plain = FunctionalEngine(task, subspace, order=order)
    fast = ENGINES[engine](task, subspace, order=order, batch_size=9)
    assert fast.quantities == plain.quantities
    assert fast.n == SAMPLES
    for start, stop in ((0, SAMPLES), (3, 4), (5, 22)):
        wanted, found = plain.terms(h, start, stop), fast.terms(h, start, stop)
        torch.testing.assert_close(found.num, wanted.num, rtol=5e-5, atol=5e-6)
        assert torch.equal(found.den, wanted.den)
        both = fast.sums(h, start, stop), plain.sums(h, start, stop)
        torch.testing.assert_close(both[0].num, both[1].num, rtol=5e-5, atol=5e-6)
        torch.testing.assert_close(both[0].den, both[1].den)


@pytest.mark.parametrize(("engine", "kind"), PAIRS)
def test_float64_agrees_to_its_own_rounding(engine: str, kind: str) -> None:
    task = build(kind, dtype=torch.float64)
    subspace = space(task)
    h = points(2)
    found, wanted = (
        ENGINES[engine](task, subspace).terms(h, 0, SAMPLES),
        FunctionalEngine(task, subspace).terms(h, 0, SAMPLES),
    )
    torch.testing.assert_close(found.num, wanted.num, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("part", ["first", "last", "weights", "biases"])
@pytest.mark.parametrize(("engine", "kind"), PAIRS)
def test_directions_over_a_part_of_the_model(engine: str, kind: str, part: str) -> None:
    task = build(kind)
    names = [name for name, _ in task.model.named_parameters()]  # type: ignore[union-attr]
    moves = {
        "first": lambda name: name == names[0],
        "last": lambda name: name in names[-2:],
        "weights": lambda name: "weight" in name,
        "biases": lambda name: "bias" in name or name == names[0],
    }[part]
    subspace = space(task, moves=moves)
    h = points(2)
    found, wanted = (
        ENGINES[engine](task, subspace).terms(h, 0, SAMPLES),
        FunctionalEngine(task, subspace).terms(h, 0, SAMPLES),
    )
    torch.testing.assert_close(found.num, wanted.num, rtol=5e-5, atol=5e-6)


@pytest.mark.parametrize(
    "loss",
    [
        nn.CrossEntropyLoss(weight=torch.tensor([0.5, 2.0, 1.0]), ignore_index=1),
        nn.CrossEntropyLoss(label_smoothing=0.1),
        nn.MultiMarginLoss(),
        lambda outputs, targets: outputs.square().sum(1) + targets,
    ],
    ids=["weighted", "smoothed", "margin", "function"],
)
@pytest.mark.parametrize("engine", ENGINES)
def test_losses_agree(engine: str, loss: Any) -> None:
    task = build("mlp", loss=loss)
    task = task.replace(data=task.data.reweight({0: 3.0, 2: 0.0}))
    subspace = space(task)
    h = points(2)
    found, wanted = (
        ENGINES[engine](task, subspace).terms(h, 0, SAMPLES),
        FunctionalEngine(task, subspace).terms(h, 0, SAMPLES),
    )
    torch.testing.assert_close(found.num, wanted.num, rtol=5e-5, atol=5e-6)
    assert torch.equal(found.den, wanted.den)


@pytest.mark.parametrize("engine", ENGINES)
def test_two_classes_agree(engine: str) -> None:
    task = build("mlp")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        pair = nn.Sequential(task.model, nn.Linear(3, 2))  # type: ignore[arg-type]
    task = task.replace(model=pair, data=(task.data.inputs, task.data.targets % 2))
    subspace = space(task)
    h = points(2) * 20
    found, wanted = (
        ENGINES[engine](task, subspace).terms(h, 0, SAMPLES),
        FunctionalEngine(task, subspace).terms(h, 0, SAMPLES),
    )
    torch.testing.assert_close(found.num, wanted.num, rtol=5e-5, atol=5e-4)


@pytest.mark.parametrize("engine", ENGINES)
def test_values_that_are_not_finite_are_kept(engine: str) -> None:
    task = build("mlp")
    subspace = space(task)
    h = torch.tensor([[0.1, 0.2], [1e30, 1e30], [0.3, 0.4]], dtype=torch.float64)
    found, wanted = (
        ENGINES[engine](task, subspace).terms(h, 0, SAMPLES),
        FunctionalEngine(task, subspace).terms(h, 0, SAMPLES),
    )
    assert not wanted.num[1].isfinite().all()
    assert torch.equal(found.num.isfinite(), wanted.num.isfinite())
    torch.testing.assert_close(found.num[[0, 2]], wanted.num[[0, 2]], rtol=5e-5, atol=5e-6)


@pytest.mark.parametrize(("engine", "kind"), PAIRS)
def test_model_is_left_as_found_and_points_do_not_drift(engine: str, kind: str) -> None:
    task = build(kind)
    model = task.model
    assert isinstance(model, nn.Module)
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    subspace = space(task)
    kept = {name: value.clone() for name, value in subspace.origin.items()}
    fast = ENGINES[engine](task, subspace)
    h = points(2)
    first = fast.terms(h, 0, SAMPLES).num
    fast.terms(points(2, 40, seed=5), 2, 9)
    assert torch.equal(fast.terms(h, 0, SAMPLES).num, first)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(torch.equal(value, kept[name]) for name, value in subspace.origin.items())
    assert model.training
    assert all(module.training for module in model.modules())
    assert all(value.requires_grad for value in model.parameters())


@pytest.mark.parametrize("kind", [kind for kind in TRACEABLE if kind not in STACKED])
def test_stacks_refuse_what_has_positions(kind: str) -> None:
    task = build(kind)
    with pytest.raises(UnsupportedError, match="wants values of shape"):
        StackedEngine(task, space(task))
