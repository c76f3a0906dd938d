"""Data larger than the memory that they may take: read once, kept in files, measured like any other."""

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

import landform as lf
from landform.data import load_data
from landform.data.records import collect_records
from landform.data.spill import Spill
from landform.errors import DataError

ROW = 4096


class Slow(Dataset[tuple[Tensor, int]]):
    """Makes a sample when it is asked for one, and counts."""

    def __init__(self, n: int, width: int = 4) -> None:
        self.n, self.width, self.read = n, width, 0
        self.wave = torch.sin(torch.arange(width + 97) * 0.37)

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        self.read += 1
        return self.wave[i % 97 : i % 97 + self.width], i % 3


class Batches(IterableDataset[tuple[Tensor, Tensor]]):
    """Batches of unknown number."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for i in range(10):
            yield torch.full((3, 4), float(i)), torch.tensor([0, 1, 2])


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the data sets that went to files."""
    made: list[str] = []
    plain = Spill.tensors

    def tensors(self: Spill) -> dict[str, Tensor]:
        made.append(self._name)
        return plain(self)

    monkeypatch.setattr(Spill, "tensors", tensors)
    return made


def test_what_does_not_fit_is_the_same_data(files: list[str]) -> None:
    few = load_data(Slow(50))
    assert not files
    many = load_data(Slow(50), max_bytes=100)
    assert files == ["Slow"]
    assert torch.equal(few.inputs, many.inputs)
    assert torch.equal(few.targets, many.targets)
    assert few.hash == many.hash
    assert (few.classes, few.n) == (many.classes, many.n)


def test_extras_and_names_are_kept(files: list[str]) -> None:
    rows = [{"input_ids": torch.full((2, 3), i), "attention_mask": torch.ones(2, 3), "labels": [i, 1]} for i in (1, 2)]
    few, many = load_data(rows), load_data(rows, max_bytes=50)
    assert len(files) == 1
    assert many.hash == few.hash
    assert many.keys == ("input_ids", "labels")


def test_no_file_is_left(files: list[str], tmp_path: Path) -> None:
    data = load_data(Slow(50), max_bytes=100, spill=tmp_path)
    assert files
    assert not list(tmp_path.iterdir())  # the mapping holds them, until it goes
    assert data.inputs.sum().isfinite()


def test_a_length_or_a_folder_says_that_it_ends(files: list[str], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"is it endless.*spill= with a folder"):
        load_data(((torch.ones(1, 4), torch.zeros(1).long()) for _ in itertools.count()), max_bytes=1000)
    with pytest.raises(DataError, match="is it endless"):
        load_data(DataLoader(Batches(), batch_size=None), max_bytes=100)
    data = load_data(DataLoader(Batches(), batch_size=None), max_bytes=100, spill=tmp_path)
    assert (data.n, len(files)) == (30, 1)
    once = load_data(((torch.ones(3, 4), torch.zeros(3).long()) for _ in range(9)), max_bytes=100, spill=tmp_path)
    assert (once.n, len(files)) == (27, 2)


def test_other_shapes_and_missing_folders_are_named(tmp_path: Path) -> None:
    batches = [(torch.ones(2, 4), torch.zeros(2).long())] * 3 + [(torch.ones(2, 5), torch.zeros(2).long())]
    with pytest.raises(DataError, match=r"batch 3 have sample shape \[5\]"):
        load_data(batches, max_bytes=100)
    with pytest.raises(DataError, match=r"cannot keep samples in .*nowhere"):
        load_data(Slow(50), max_bytes=100, spill=tmp_path / "nowhere")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Path.open
    monkeypatch.setattr(Path, "open", lambda self, mode: plain(Path("/dev/full"), mode))
    with Spill(None, "set") as spill:
        spill.add({"inputs": torch.zeros(100_000)})
        with pytest.raises(DataError, match=r"after 100000 of them.*No space left"):
            spill.tensors()
    assert not spill._folder.exists()


def test_batches_for_a_step_go_to_files_too(files: list[str]) -> None:
    batches = [{"a": (torch.full((2, 3), i), torch.ones(2)), "b": torch.tensor([i, i + 1])} for i in range(5)]
    few, many = (collect_records(batches, max_bytes=most) for most in (1 << 20, 100))
    assert len(files) == 1
    assert many.hash == few.hash
    assert torch.equal(many.raw(slice(3, 5))["a"][0], few.raw(slice(3, 5))["a"][0])
    at_once = collect_records(batches, max_bytes=1)
    assert at_once.hash == few.hash
    with pytest.raises(DataError, match="batch 5 has samples of"):
        collect_records([*batches, {"a": (torch.ones(2, 4), torch.ones(2)), "b": torch.ones(2)}], max_bytes=100)
    with pytest.raises(DataError, match="is it endless"):
        collect_records(iter(batches), max_bytes=100)


def test_values_that_are_not_finite_are_found() -> None:
    batches = [(torch.ones(2, 4), torch.zeros(2).long())] * 2 + [(torch.full((2, 4), torch.nan), torch.zeros(2).long())]
    with pytest.raises(DataError, match="first in sample 4"):
        load_data(batches, max_bytes=100)


class Watched(nn.Module):
    """Notes how much memory of its own the process holds, pages of files left out."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(ROW, 3)
        self.most = 0

    def forward(self, x: Tensor) -> Tensor:
        self.most = max(self.most, anonymous())
        found: Tensor = self.layer(x)
        return found if float(self.layer.bias.detach()[0]) < 1e9 else -found


def anonymous() -> int:
    status = Path(f"/proc/{os.getpid()}/status").read_text(encoding="utf-8")
    return next(int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("RssAnon"))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_a_scan_of_a_large_set_reads_it_once_and_holds_little() -> None:
    samples = 10_000  # 164 MB
    slow = Slow(samples, ROW)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Watched()
    small = lf.Task(model, data=load_data(Slow(9, ROW)))
    lf.scan(small, lf.random_plane(small, seed=0), grid=(3, 2), progress=False)  # imports what scans need
    before, model.most = anonymous(), 0
    data = load_data(DataLoader(slow, batch_size=64), max_bytes=1 << 20)
    task = lf.Task(model, data=data)
    assert slow.read <= samples + 16  # and some that are read twice, to see whether they differ
    found = lf.scan(task, lf.random_plane(task, seed=0), grid=(3, 2), progress=False)
    assert slow.read <= samples + 16
    assert model.most - before < 100 << 20  # half of it and more is not there
    assert found["loss"].notnull().all()


def test_scans_do_not_tell_where_samples_are(files: list[str]) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))
    few, many = (lf.Task(model, data=load_data(Slow(50), max_bytes=most)) for most in (1 << 20, 100))
    assert len(files) == 1
    for options in ({}, {"subset": 20}):
        here, there = (
            lf.scan(task, lf.random_plane(task, seed=0), grid=(3, 2), progress=False, **options) for task in (few, many)
        )
        assert torch.equal(torch.as_tensor(here["loss"].values), torch.as_tensor(there["loss"].values))
