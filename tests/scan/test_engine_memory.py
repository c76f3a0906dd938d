"""Out of memory: every engine tries smaller blocks, says so, and gives the same numbers."""

import subprocess
import sys
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

import landform as lf
from landform.errors import MemoryLimitError
from landform.scan.engine.affine import AffineEngine
from landform.scan.engine.functional import FunctionalEngine
from landform.scan.engine.own import Theta
from landform.scan.plan import build_engine, engine_name
from landform.subspace import Subspace
from landform.task.memory import out_of_memory
from landform.testing.zoo import build, points, space

MOST = [1000]


def spend(x: Tensor) -> Tensor:
    """Pass a tensor on, unless it has more rows than there is memory for."""
    if len(x) > MOST[0]:
        raise RuntimeError(
            "[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory: you tried"
        )
    return x


fx.wrap("spend")


class Spending(nn.Module):
    """A perceptron that wants memory at run time, in a graph too."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 6), nn.Linear(6, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.b(self.a(x).relu())
        found: Tensor = self.c(spend(x).relu())
        return found


def task_of(kind: type[nn.Module] = Spending) -> tuple[lf.Task, Subspace]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        task = build("mlp").replace(model=kind())
    return task, space(task, moves=lambda name: name.startswith(("b.bias", "c.")))


@pytest.fixture
def most() -> Any:
    yield MOST
    MOST[0] = 1000


@pytest.mark.filterwarnings("ignore:not enough memory")
@pytest.mark.parametrize("name", ["functional", "affine", "cached", "inplace"])
def test_smaller_blocks_are_tried_and_that_is_said(name: str, most: list[int]) -> None:
    task, subspace = task_of()
    h = points(2, 5)
    wanted = FunctionalEngine(task, subspace).terms(h, 0, task.n)
    engine = build_engine(task, subspace, engine=name)
    most[0] = 6
    with pytest.warns(UserWarning, match="not enough memory for 23 samples at once; going on with 11"):
        found = engine.terms(h, 0, task.n)
    torch.testing.assert_close(found.num, wanted.num, rtol=1e-5, atol=1e-6)
    assert torch.equal(found.den, wanted.den)
    if name != "functional":  # which divides each batch as it comes
        assert engine.batch_size == 5  # type: ignore[attr-defined]
        with warnings.catch_warnings(action="error"):
            torch.testing.assert_close(engine.sums(h).num, wanted.num.sum(-1), rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore:not enough memory")
@pytest.mark.parametrize("name", ["functional", "affine", "cached", "inplace"])
def test_one_sample_too_many_is_an_error(name: str, most: list[int]) -> None:
    task, subspace = task_of()
    engine = build_engine(task, subspace, engine=name, batch_size=8)
    most[0] = 0
    with pytest.raises(MemoryLimitError, match=r"forward pass of one sample .*can't allocate memory.*; use a smaller"):
        engine.sums(points(2, 2))


def test_other_errors_are_no_matter_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    task, subspace = task_of()
    engine = build_engine(task, subspace, engine="affine")
    monkeypatch.setattr(AffineEngine, "_ready", lambda *_: (_ for _ in ()).throw(RuntimeError("shapes cannot be")))
    with pytest.raises(RuntimeError, match="shapes cannot be"):
        engine.sums(points(2, 2))


def test_no_room_for_copies_leaves_the_engines_without(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(Theta, "__init__", full)
    task = build("mlp")
    assert engine_name(build_engine(task, space(task))) == "inplace"


@pytest.mark.skipif(sys.platform != "linux", reason="limits of the address space are Linux's")
def test_what_the_allocator_really_says_is_understood() -> None:
    code = (
        "import resource, torch\n"
        "from landform.task.memory import out_of_memory\n"
        "resource.setrlimit(resource.RLIMIT_AS, (1 << 33, 1 << 33))\n"
        "try:\n    torch.empty(1 << 34)\n"
        "except RuntimeError as error:\n    print(out_of_memory(error))\n"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "True\n"
    assert not out_of_memory(MemoryLimitError("said"))
