"""Models that no graph shows: what no point changes is computed once, and only that."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import landform as lf
from landform.errors import ArchitectureError
from landform.scan.engine.functional import FunctionalEngine
from landform.scan.engine.inplace import CachedEngine, InplaceEngine
from landform.scan.engine.memo import Memo, Memos
from landform.scan.plan import build_engine, engine_name
from landform.subspace import Subspace
from landform.testing.zoo import build, points, space


class Counted(TorchDispatchMode):
    """Counts products that are really made."""

    products = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.products += any(name in str(func) for name in ("addmm", "aten.mm", "convolution"))
        return func(*args, **(kwargs or {}))


class Wandering(nn.Module):
    """Branches on values, in a way that may differ between points; residual, with a function between layers."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)
        self.register_buffer("shift", torch.ones(6))

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.a(x)) + self.shift
        x = x + (self.b(x) if float(x.detach()[:, 0].abs().mean()) >= 0 else x)
        x = torch.cat([x[..., :3], x[..., 3:] * 2], -1)
        found: Tensor = self.d(self.c(x) if float(self.c.bias.sum()) > 0 else torch.tanh(self.c(x)))
        return found


def wandering() -> tuple[lf.Task, Subspace]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Wandering()
    task = build("mlp").replace(model=model)
    return task, space(task, moves=lambda name: name in ("c.bias", "d.weight"))


def test_products_before_the_moved_part_are_made_once() -> None:
    task, subspace = wandering()
    h = points(2, 6) * 3
    cached = build_engine(task, subspace, batch_size=8)
    assert isinstance(cached, CachedEngine)
    with Counted() as counted:
        found = cached.terms(h, 0, task.n)
    assert counted.products == 3 * (2 + 2 * 6)  # in each of three blocks a and b once, c and d at each point
    with Counted() as counted:
        again = cached.terms(h[:2], 0, task.n)
    assert counted.products == 3 * 2 * 2  # blocks are kept
    wanted = FunctionalEngine(task, subspace).terms(h, 0, task.n).num
    torch.testing.assert_close(found.num, wanted, rtol=1e-5, atol=1e-6)
    assert torch.equal(again.num, found.num[:2])


def test_memory_bounds_what_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    task, subspace = wandering()
    h = points(2, 4)
    wanted = FunctionalEngine(task, subspace).sums(h).num
    monkeypatch.setattr(Memos, "LIMIT", 700)  # of few samples
    small = CachedEngine(task, subspace)
    torch.testing.assert_close(small.sums(h).num, wanted, rtol=1e-5, atol=1e-5)
    with Counted() as counted:
        small.sums(h[:1])
    assert counted.products > 4 * 8  # blocks are small, and made again


def test_what_is_written_to_is_computed_again() -> None:
    class Writing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            hidden = self.a(x)
            seen = hidden[:, :3]
            hidden += self.b.bias.repeat(2)  # moved; ``seen`` sees it too
            mask = torch.zeros(3)
            mask[0] = float(self.b.bias[0])
            found: Tensor = self.b(hidden.relu_()) + seen + mask
            return found if float(found.sum()) < 1e9 else -found

    with torch.random.fork_rng():
        torch.manual_seed(0)
        task = build("mlp").replace(model=Writing())
    subspace = space(task, moves=lambda name: name.startswith("b."))
    h = points(2, 5)
    found = CachedEngine(task, subspace).terms(h, 0, task.n)
    wanted = FunctionalEngine(task, subspace).terms(h, 0, task.n)
    torch.testing.assert_close(found.num, wanted.num, rtol=1e-5, atol=1e-6)


def test_numbers_that_vary_are_part_of_the_call() -> None:
    class Numbers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 3), nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            scale = float(self.b.bias.detach().sum())
            found: Tensor = self.a(x) * scale + F.leaky_relu(self.a(x), negative_slope=scale)
            return found

    with torch.random.fork_rng():
        torch.manual_seed(0)
        task = build("mlp").replace(model=Numbers())
    subspace = space(task, moves=lambda name: name == "b.bias")
    h = points(2, 5)
    cached = CachedEngine(task, subspace)
    found, wanted = cached.terms(h, 0, task.n), FunctionalEngine(task, subspace).terms(h, 0, task.n)
    torch.testing.assert_close(found.num, wanted.num, rtol=1e-5, atol=1e-6)
    assert len({float(value) for value in wanted.num[:, 0, 0]}) == len(h)


def test_a_memo_tells_numbers_apart_and_does_not_grow() -> None:
    x = torch.ones(3)
    with torch.no_grad(), (memo := Memo([x])):
        assert torch.equal(torch.div(x, 0.0), torch.full((3,), torch.inf))
        assert torch.equal(torch.div(x, -0.0), torch.full((3,), -torch.inf))
        assert torch.add(x, 1).dtype == torch.float32
        parts = x.split(2)
        memo.close()
        held = memo.bytes
        assert torch.sub(x, 5).tolist() == [-4] * 3
        assert x.split(2)[0] is parts[0]
        assert memo.bytes == held
        x.add_(1)
        assert torch.add(x, 1).tolist() == [3] * 3  # another version


def test_nothing_to_remember_is_left_to_the_engine_for_models_as_they_are() -> None:
    task = build("branching")
    with pytest.raises(ArchitectureError, match="every product depends on the point"):
        build_engine(task, space(task), engine="cached")
    assert isinstance(build_engine(task, space(task)), InplaceEngine)
    assert engine_name(build_engine(task, space(task))) == "inplace"


def test_hooks_and_transformers_run_as_they_are() -> None:
    task = build("transformer")
    assert isinstance(task.model, nn.Module)
    task.model.get_submodule("body").register_forward_hook(lambda _module, _inputs, output: 2 * output)
    subspace = space(task, moves=lambda name: name.startswith("body.layers.1"))
    cached = build_engine(task, subspace)
    assert isinstance(cached, CachedEngine)
    h = points(2, 4)
    with Counted() as first:
        cached.sums(h[:1])
    with Counted() as others:
        found = cached.sums(h).num
    torch.testing.assert_close(found, FunctionalEngine(task, subspace).sums(h).num, rtol=1e-4, atol=1e-4)
    assert 0 < others.products < 0.8 * 4 * first.products
