"""Trajectories: recorded in a loop, kept in files or memory, read back in order."""

import pytest
import torch
from safetensors import safe_open
from torch import nn

from landform import Trajectory
from landform.errors import ArchitectureError, InputError

torch.set_num_threads(1)


def train(trajectory, steps=5):
    """Train a little network and record each step; return copies of what it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
        inputs = torch.randn(8, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    seen = []
    for step in range(steps):
        trajectory.record(model, 10 * step)
        seen.append({name: value.detach().clone() for name, value in model.named_parameters()})
        optimizer.zero_grad()
        model(inputs).square().mean().backward()
        optimizer.step()
    return model, seen


@pytest.mark.parametrize("on_disk", [True, False])
def test_recorded_points_are_what_the_model_was(on_disk, tmp_path):
    trajectory = Trajectory(tmp_path / "run" if on_disk else None)
    _, seen = train(trajectory)
    assert trajectory.steps == (0, 10, 20, 30, 40)
    assert len(trajectory) == 5
    for point, state in zip(trajectory, seen, strict=True):
        assert set(point.names) == set(state)  # parameters, no buffers
        assert all(torch.equal(point.read(name), value) for name, value in state.items())
    assert torch.equal(trajectory[-1].read("0.weight"), seen[-1]["0.weight"])
    if on_disk:
        with safe_open(tmp_path / "run" / "000002.safetensors", framework="pt") as stream:
            assert stream.metadata() == {"step": "20"}  # readable without landform


def test_a_folder_is_continued(tmp_path):
    _, seen = train(Trajectory(tmp_path))
    again = Trajectory(tmp_path)
    assert again.steps == (0, 10, 20, 30, 40)
    model, _ = train(Trajectory())
    again.record(model, 50)
    assert len(list(tmp_path.iterdir())) == 6
    assert Trajectory(tmp_path).steps[-1] == 50
    assert torch.equal(Trajectory(tmp_path)[0].read("2.weight"), seen[0]["2.weight"])


def test_half_the_space(tmp_path):
    trajectory = Trajectory(tmp_path, dtype=torch.bfloat16)
    _, seen = train(trajectory)
    assert trajectory[0].dtype("0.weight") == torch.bfloat16
    assert torch.equal(trajectory[0].read("0.weight"), seen[0]["0.weight"].bfloat16())


def test_files_come_in_the_order_of_their_numbers(tmp_path):
    for step in (1, 2, 9, 10, 100):
        torch.save({"w": torch.tensor([float(step)])}, tmp_path / f"ckpt-{step}.pt")
    for found in (
        Trajectory.from_files(str(tmp_path / "ckpt-*.pt")),
        Trajectory.from_files(tmp_path),
        Trajectory.from_files([tmp_path / f"ckpt-{step}.pt" for step in (1, 2, 9, 10, 100)]),
    ):
        assert found.steps == (1, 2, 9, 10, 100)
        assert [float(point.read("w")) for point in found] == [1, 2, 9, 10, 100]
    backwards = Trajectory.from_files([tmp_path / "ckpt-10.pt", tmp_path / "ckpt-9.pt"])
    assert backwards.steps == (10, 9)  # a list is in order


def test_what_does_not_fit(tmp_path):
    with pytest.raises(InputError, match=r"no checkpoint matches '.*nothing\*'"):
        Trajectory.from_files(str(tmp_path / "nothing*"))
    torch.save({"w": torch.ones(2)}, tmp_path / "1.pt")
    torch.save({"w": torch.ones(3)}, tmp_path / "2.pt")
    with pytest.raises(InputError, match=r"'w' has shape \[2\] in 1.pt, \[3\] in 2.pt"):
        Trajectory.from_files(tmp_path)
    with pytest.raises(InputError, match=r"holds 1.pt, which is no recorded point.*from_files"):
        Trajectory(tmp_path)
    with pytest.raises(InputError, match="cannot be made"):
        Trajectory(tmp_path / "1.pt")
    trajectory = Trajectory()
    trajectory.record(nn.Linear(2, 2))
    with pytest.raises(InputError, match="differ first at 'bias', which point 1 has and point 2 has not"):
        trajectory.record(nn.Linear(2, 2, bias=False))
    with pytest.raises(InputError, match="the trajectory has 1 points, there is no number 1"):
        trajectory[1]
    with pytest.raises(InputError, match=r"got \[1\]; wanted a torch.nn.Module, or its state dict, to record"):
        trajectory.record([1])
    with pytest.raises(InputError, match="differ first at 'weight', which point 1 has and point 2 has not"):
        trajectory.record({"w": torch.ones(1)})
    with pytest.raises(InputError, match=r"dtype is torch.int8; wanted a floating-point dtype"):
        Trajectory(dtype=torch.int8)
    with pytest.raises(InputError, match="a trajectory of no points"):
        Trajectory.of([])
    assert "1 points, 2 parameters, in memory" in repr(trajectory)


def test_a_disk_that_takes_nothing_leaves_no_half_point(tmp_path, monkeypatch):
    trajectory = Trajectory(tmp_path)
    trajectory.record(nn.Linear(2, 2))

    def full(tensors, file, metadata):
        file.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(InputError, match=r"cannot be written.*No space left.*the points before it are there"):
        trajectory.record(nn.Linear(2, 2))
    assert [file.name for file in tmp_path.iterdir()] == ["000000.safetensors"]
    assert len(trajectory) == 1


def test_a_state_dict_is_recorded_as_its_model():
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    trajectory = Trajectory()
    trajectory.record(model, 1)
    trajectory.record(model.state_dict(), 2)  # running statistics are no parameters
    assert trajectory[1].names == trajectory[0].names
    assert all(torch.equal(trajectory[1].read(name), trajectory[0].read(name)) for name in trajectory.names)


@pytest.mark.filterwarnings("ignore")  # of torch.distributed
@pytest.mark.skipif(not torch.distributed.is_available(), reason="PyTorch was built without torch.distributed")
def test_a_sharded_model_is_refused_with_what_to_record_and_that_is_recorded():
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    model = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3))
    whole = {name: value.detach().clone() for name, value in model.named_parameters()}
    trajectory = Trajectory()
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        fully_shard(model, mesh=init_device_mesh("cpu", (1,)))
        with pytest.raises(ArchitectureError, match=r"'0.weight' is sharded, .*get_model_state_dict with full_state"):
            trajectory.record(model)
        trajectory.record(get_model_state_dict(model, options=StateDictOptions(full_state_dict=True)), 7)
    finally:
        torch.distributed.destroy_process_group()
    assert trajectory.steps == (7,)
    assert all(torch.equal(trajectory[0].read(name), value) for name, value in whole.items())
