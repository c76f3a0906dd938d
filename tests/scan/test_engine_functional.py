"""The plain engine against the data-set loss, sample by sample and in sums."""

import pytest
import torch
from torch import Tensor, nn

import landform as lf
from landform.errors import InputError, UnknownNameError
from landform.scan.plan import build_engine
from landform.subspace import Subspace


def line(model: nn.Module, z: int = 2, seed: int = 0) -> Subspace:
    generator = torch.Generator().manual_seed(seed)
    origin = {name: value.detach().clone() for name, value in model.named_parameters()}
    directions = tuple({k: torch.randn(v.shape, generator=generator) for k, v in origin.items()} for _ in range(z))
    return Subspace(origin, directions)


def small_task(**options: object) -> lf.Task:
    generator = torch.Generator().manual_seed(3)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    inputs = torch.randn(20, 4, generator=generator)
    targets = torch.randint(3, (20,), generator=generator)
    return lf.Task(model, options.get("loss", "cross_entropy"), (inputs, targets))  # type: ignore[arg-type]


H = torch.tensor([[0.0, 0.0], [0.3, -0.2], [1.0, 0.5]], dtype=torch.float64)


def test_sums_are_the_data_set_loss() -> None:
    task = small_task()
    space = line(task.model)  # type: ignore[arg-type]
    found = build_engine(task, space, batch_size=7).sums(H)
    wanted = torch.stack([task.evaluate(space.at(point)) for point in H])
    torch.testing.assert_close(found.num[:, 0] / found.den[0], wanted, rtol=1e-6, atol=1e-7)


def test_order_permutes_terms() -> None:
    task = small_task(loss=nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 3.0]), ignore_index=2))
    space = line(task.model)  # type: ignore[arg-type]
    order = torch.randperm(20, generator=torch.Generator().manual_seed(1))
    plain = build_engine(task, space).terms(H, 0, 20)
    mixed = build_engine(task, space, order=order, batch_size=3).terms(H, 4, 17)
    torch.testing.assert_close(mixed.num, plain.num[..., order[4:17]], rtol=1e-5, atol=1e-6)
    assert torch.equal(mixed.den, plain.den[:, order[4:17]])
    assert (plain.den == 0).any()


def test_a_loss_of_batches_has_sums_but_no_terms() -> None:
    def rough(outputs: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.cross_entropy(outputs, targets)

    task = small_task(loss=rough)
    space = line(task.model)  # type: ignore[arg-type]
    engine = build_engine(task, space, batch_size=6)
    found = engine.sums(H)
    wanted = torch.stack([task.evaluate(space.at(point)) for point in H])
    torch.testing.assert_close(found.num[:, 0] / found.den[0], wanted, rtol=1e-6, atol=1e-7)
    with pytest.raises(InputError, match="one number a batch"):
        engine.terms(H, 0, 3)


def test_bad_input_is_named() -> None:
    task = small_task()
    space = line(task.model)  # type: ignore[arg-type]
    with pytest.raises(UnknownNameError, match="did you mean 'functional'"):
        build_engine(task, space, engine="functionl")
    with pytest.raises(InputError, match="wanted a permutation of 0 … 19"):
        build_engine(task, space, order=torch.zeros(20, dtype=torch.int64))
    with pytest.raises(InputError, match="batch_size is 0"):
        build_engine(task, space, batch_size=0)
    with pytest.raises(InputError, match="there are 20"):
        build_engine(task, space).terms(H, 0, 21)
