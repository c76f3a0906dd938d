"""Random models over random subspaces: every engine that accepts gives the numbers of a plain loop."""

import copy
from typing import get_args

import pytest
import torch
from hypothesis import Phase, given, note, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import landform as lf
from landform.errors import ArchitectureError
from landform.scan.engine import AbstractEngine
from landform.scan.plan import EngineName, build_engine
from landform.subspace import Subspace
from landform.task import Task
from landform.testing import grids, looped_losses, scan_spaces, scan_tasks

NAMES = get_args(EngineName)
DTYPES = (torch.float32, torch.float64)
ROUNDING = {torch.float64: 1e-11, torch.float32: 2e-4, torch.bfloat16: 2e-4}
quick = settings(deadline=None, derandomize=True, database=None, phases=(Phase.generate, Phase.shrink))


def close(found: Tensor, wanted: Tensor, task: Task) -> None:
    assert isinstance(task.model, nn.Module)
    rounding = ROUNDING[next(task.model.parameters()).dtype]
    torch.testing.assert_close(found, wanted, rtol=rounding, atol=rounding * float(wanted.abs().max()))


def engine(name: str, task: Task, *args: object, **options: object) -> AbstractEngine | None:
    try:
        return build_engine(task, *args, engine=name, **options)  # type: ignore[arg-type]
    except ArchitectureError:
        if name in ("auto", "functional"):  # which take everything
            raise
        return None


def check(data: st.DataObject, dtype: tuple[torch.dtype, ...]) -> None:
    task = data.draw(scan_tasks(dtypes=dtype))
    space = data.draw(scan_spaces(task, curves=True))
    h = torch.cartesian_prod(*data.draw(grids(space.z, most=3))).reshape(-1, space.z)
    order = data.draw(st.permutations(range(task.n)).map(torch.tensor))
    batch_size = data.draw(st.sampled_from((None, 1, 4)))
    start = data.draw(st.integers(0, task.n - 1))
    wanted = looped_losses(task, space, h)[:, order]
    note(f"{task.name}, {space!r}")
    for name in NAMES:
        fast = engine(name, task, space, order=order, batch_size=batch_size)
        if fast is None:
            continue
        note(name)
        close(fast.terms(h, start, task.n).num[:, 0], wanted[:, start:], task)
        close(fast.sums(h).num[:, 0], wanted.sum(-1), task)


@settings(quick, max_examples=30)
@given(st.data())
def test_every_engine_is_the_loop_in_float64(data: st.DataObject) -> None:
    check(data, (torch.float64,))


@settings(quick, max_examples=15)
@given(st.data())
def test_every_engine_is_the_loop_in_float32(data: st.DataObject) -> None:
    check(data, (torch.float32,))


@settings(quick, max_examples=15)
@given(scan_tasks(("perceptron", "tokens"), dtypes=(torch.bfloat16,)), st.data())
def test_half_precision_is_moved_and_run_in_float32(task: Task, data: st.DataObject) -> None:
    space = data.draw(scan_spaces(task, 2))
    h = torch.tensor([[0.0, 0.0], [0.01, -0.5], [0.5, 1.0]], dtype=torch.float64)
    assert isinstance(task.model, nn.Module)
    wide = task.replace(model=copy.deepcopy(task.model).float(), data=_floats(task))
    origin = {name: value.float() for name, value in space.origin.items()}
    wanted = looped_losses(wide, Subspace(origin, space.directions), h)
    for name in NAMES:
        fast = engine(name, task, space)
        if fast is not None:
            note(name)
            close(fast.terms(h, 0, task.n).num[:, 0], wanted, task)


def _floats(task: Task) -> tuple[Tensor, Tensor]:
    inputs = task.data.inputs
    return (inputs.float() if inputs.is_floating_point() else inputs), task.data.targets


@pytest.mark.parametrize(
    "name", [name for name in NAMES if name not in ("constants", "split")]
)  # of which networks are made
def test_no_engine_refuses_everything(name: str) -> None:
    taken = []

    @settings(quick, max_examples=40)
    @given(scan_tasks(deaf=name == "collapsed" or None), st.data())
    def look(task: Task, data: st.DataObject) -> None:
        taken.append(engine(name, task, data.draw(scan_spaces(task, 2))) is not None)

    look()
    assert sum(taken) >= 2  # or the tests above say nothing about it


def plane(data: st.DataObject) -> tuple[Task, Subspace, tuple[int, int]]:
    task = data.draw(scan_tasks(dtypes=(torch.float64,)))
    space = data.draw(scan_spaces(task, 2))
    nodes = data.draw(st.tuples(st.integers(2, 4), st.integers(2, 4)))
    assert isinstance(space, Subspace)
    return task, space.replace(ranges=((-0.75, 0.5), (-0.25, 1.0))), nodes


def surface(task: Task, space: Subspace, nodes: tuple[int, int]) -> Tensor:
    return torch.as_tensor(lf.scan(task, space, grid=nodes, progress=False)["loss"].values)


@settings(quick, max_examples=20)
@given(st.data())
def test_surfaces_have_the_symmetries_of_their_subspace(data: st.DataObject) -> None:
    task, space, (nx, ny) = plane(data)
    here = surface(task, space, (nx, ny))
    (x0, x1), y = space.ranges or ()
    one, two = space.directions
    close(surface(task, space.replace(directions=(two, one), ranges=(y, (x0, x1))), (ny, nx)).T, here, task)
    flipped = {name: -one[name] for name in one}
    mirror = space.replace(directions=(flipped, two), ranges=((-x1, -x0), y))
    close(surface(task, mirror, (nx, ny)).flip(0), here, task)
    shift = torch.tensor([0.5, -0.125], dtype=torch.float64)
    moved = Subspace(space.at(shift), space.directions, ranges=((x0 - 0.5, x1 - 0.5), (y[0] + 0.125, y[1] + 0.125)))
    close(surface(task, moved, (nx, ny)), here, task)
