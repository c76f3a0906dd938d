"""PCA of trajectories: closed forms, NumPy's SVD as a reference, laws; and projections on any subspace."""

import numpy as np
import pytest
import torch
from torch import nn

from landform import Task, Trajectory, pca_plane, project, random_plane, scan
from landform.errors import InputError, UnknownNameError
from landform.subspace import Subspace, cosine

torch.set_num_threads(1)

SHAPES = {"a": (6, 5), "b": (7,), "c": ()}


def walk(n, rank=None, dtype=torch.float64, seed=0):
    """Points of a random walk, in a plane through nowhere special if a rank is given."""
    generator = torch.Generator().manual_seed(seed)
    numbers = sum(int(torch.Size(shape).numel()) for shape in SHAPES.values())
    steps = torch.randn(n, numbers, generator=generator, dtype=torch.float64)
    if rank is not None:
        basis = torch.randn(rank, numbers, generator=generator, dtype=torch.float64)
        steps = steps[:, :rank] @ basis
    flat = 5 + steps.cumsum(0)
    return flat.to(dtype), [unflat(row.to(dtype)) for row in flat]


def unflat(row):
    parts = row.split([int(torch.Size(shape).numel()) for shape in SHAPES.values()])
    return {name: part.reshape(shape).clone() for (name, shape), part in zip(SHAPES.items(), parts, strict=True)}


def flat(state):
    return torch.cat([state[name].double().flatten() for name in SHAPES])


@pytest.mark.parametrize("z", [1, 2, 4])
def test_directions_are_the_right_singular_vectors(z):
    matrix, states = walk(9)
    plane = pca_plane(states, z=z)
    _, values, vectors = np.linalg.svd((matrix - matrix.mean(0)).numpy(), full_matrices=False)
    for axis, direction in enumerate(plane.directions):
        found = flat(direction).numpy()
        assert abs(found @ vectors[axis]) == pytest.approx(1, abs=1e-12)
        assert np.linalg.norm(found) == pytest.approx(1, abs=1e-12)
    shares = values**2 / (values**2).sum()
    assert plane.meta["explained_variance"] == pytest.approx(shares[:z].tolist(), abs=1e-12)
    torch.testing.assert_close(cosine(plane), torch.eye(z, dtype=torch.float64), atol=1e-12, rtol=0)


@pytest.mark.parametrize("origin", ["last", "first", "mean"])
def test_a_planar_trajectory_lies_in_its_plane(origin):
    matrix, states = walk(8, rank=2)
    plane = pca_plane(states, origin=origin)
    want = {"last": matrix[-1], "first": matrix[0], "mean": matrix.mean(0)}[origin]
    torch.testing.assert_close(flat(plane.origin), want)
    assert sum(plane.meta["explained_variance"]) == pytest.approx(1)
    assert max(plane.meta["off_plane"]) < 1e-12 * float(matrix.norm())
    for coordinates, state in zip(plane.meta["coordinates"], states, strict=True):
        there = plane.at(torch.tensor(coordinates, dtype=torch.float64))
        torch.testing.assert_close(flat(there), flat(state), atol=1e-12, rtol=1e-12)
    assert all(c >= 0 for c in plane.meta["coordinates"][-1 if origin == "first" else 0])
    for (lo, hi), column in zip(plane.ranges, np.array(plane.meta["coordinates"]).T, strict=True):
        assert lo < min(column) <= max(column) < hi
        assert lo < 0 < hi


def test_distances_off_the_plane_are_those_of_the_residual():
    matrix, states = walk(10)
    plane = pca_plane(states)
    basis = torch.stack([flat(direction) for direction in plane.directions])
    moved = matrix - matrix[-1]
    coordinates = moved @ basis.T
    residual = (moved - coordinates @ basis).norm(dim=1)
    torch.testing.assert_close(torch.tensor(plane.meta["coordinates"], dtype=torch.float64), coordinates)
    torch.testing.assert_close(torch.tensor(plane.meta["off_plane"], dtype=torch.float64), residual, atol=1e-12, rtol=0)
    found = project(plane, states)
    torch.testing.assert_close(found.distance, moved.norm(dim=1))
    assert found.steps == (None,) * 10


def test_scaling_shifting_and_order():
    matrix, states = walk(7)
    plane = pca_plane(states)
    shifted = pca_plane([unflat(3 * row + 100) for row in matrix])
    assert shifted.meta["explained_variance"] == pytest.approx(plane.meta["explained_variance"])
    np.testing.assert_allclose(shifted.meta["coordinates"], 3 * np.array(plane.meta["coordinates"]), atol=1e-10)
    reordered = pca_plane([states[k] for k in (3, 1, 5, 0, 2, 4, 6)])
    for one, two in zip(plane.directions, reordered.directions, strict=True):
        assert abs(float(flat(one) @ flat(two))) == pytest.approx(1, abs=1e-10)


@pytest.mark.parametrize("how", ["memory", "disk", "pattern"])
def test_slices_and_files_change_nothing(how, tmp_path, monkeypatch):
    _, states = walk(6, dtype=torch.float32)
    whole = pca_plane(states)
    monkeypatch.setattr("landform.subspace.pca.NUMBERS", 30)  # a row of 'a' at a time
    monkeypatch.setattr("landform.subspace.projection._NUMBERS", 30)
    points = states
    if how != "memory":
        for step, state in enumerate(states):
            torch.save(state, tmp_path / f"{step}.pt")
        points = Trajectory.from_files(tmp_path) if how == "disk" else str(tmp_path / "*.pt")
    plane = pca_plane(points)
    assert plane.directions[0]["a"].dtype == torch.float32
    for one, two in zip(whole.directions, plane.directions, strict=True):
        for name in SHAPES:
            torch.testing.assert_close(one[name], two[name])
    assert plane.meta["off_plane"] == pytest.approx(whole.meta["off_plane"])
    assert plane.meta["steps"] == ([None] * 6 if how == "memory" else list(range(6)))


def test_a_part_of_the_parameters():
    _, states = walk(6)
    plane = pca_plane(states, include=["a", "b"], exclude="b")
    assert plane.moved == ("a",)
    assert torch.equal(plane.origin["b"], states[-1]["b"])


def test_a_training_run_is_scanned_through_its_last_point():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(64, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 10))
    task = Task(model, data="digits")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    trajectory = Trajectory()
    for step in range(12):
        trajectory.record(model, step)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(task.data.inputs), task.data.targets).backward()
        optimizer.step()
    trajectory.record(model, 12)
    plane = pca_plane(trajectory, model=task)
    assert set(plane.moved) == {name for name, _ in model.named_parameters()}
    surface = scan(task, plane, points=[[0.0, 0.0], plane.meta["coordinates"][-1]])
    assert surface.loss.values == pytest.approx([float(task.evaluate())] * 2, abs=1e-9)
    assert 0.5 < sum(plane.meta["explained_variance"]) <= 1
    seen = project(random_plane(model), trajectory)  # any subspace will do
    assert seen.coordinates.shape == (13, 2)
    assert float(seen.off_plane[-1]) == 0
    assert bool((seen.off_plane <= seen.distance).all())


def test_bad_trajectories():
    _, states = walk(4)
    with pytest.raises(InputError, match=r"2 points span at most 1 directions; wanted z = 2.*at least 3 points"):
        pca_plane(states[:2])
    with pytest.raises(InputError, match="all points are equal"):
        pca_plane([states[0]] * 3)
    with pytest.raises(InputError, match="the points vary in 1 directions only; wanted z = 2"):
        pca_plane([unflat(flat(states[0]) * k) for k in (1, 2, 4)])
    with pytest.raises(UnknownNameError, match="did you mean 'last'"):
        pca_plane(states, origin="lats")
    with pytest.raises(UnknownNameError, match="parameter in include= 'd'"):
        pca_plane(states, include="d")
    with pytest.raises(InputError, match="no parameter is left to move"):
        pca_plane(states, exclude="*")
    with pytest.raises(InputError, match="z is 0"):
        pca_plane(states, z=0)
    with pytest.raises(InputError, match="got Linear; wanted a Trajectory, several points"):
        pca_plane(nn.Linear(2, 2))
    with pytest.raises(InputError, match=r"point 1 has no 'weight', which Linear has"):
        pca_plane(states, model=nn.Linear(2, 2))
    with pytest.raises(InputError, match=r"has no 'weight', which Linear has; is it of another model"):
        pca_plane(Trajectory.of(states), model=nn.Linear(2, 2))
    states[1]["a"][0, 0] = torch.nan
    with pytest.raises(InputError, match="point 2 has values in 'a' that are not finite"):
        pca_plane(states)


def test_projections_on_skewed_and_impossible_directions():
    origin = {"w": torch.zeros(3, dtype=torch.float64)}
    one, two = torch.tensor([1.0, 0.0, 0.0]).double(), torch.tensor([1.0, 2.0, 0.0]).double()
    skewed = Subspace(origin, ({"w": one}, {"w": two}))
    found = project(skewed, [{"w": 3 * one - 2 * two + torch.tensor([0.0, 0.0, 5.0])}])
    torch.testing.assert_close(found.coordinates, torch.tensor([[3.0, -2.0]], dtype=torch.float64))
    assert float(found.off_plane[0]) == pytest.approx(5)
    with pytest.raises(InputError, match="the directions depend on each other"):
        project(Subspace(origin, ({"w": one}, {"w": 2 * one})), [origin])
    with pytest.raises(InputError, match=r"'w' of the subspace has shape \[3\]; point 1 has it with shape \[2\]"):
        project(skewed, [{"w": torch.zeros(2)}])
    with pytest.raises(InputError, match=r"'w' of the subspace has shape \[3\]; point 1 has no such parameter"):
        project(skewed, [{"v": torch.zeros(2)}])
