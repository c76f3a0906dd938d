"""``.npz`` and ``.csv``: good files, and errors that name row and column."""

import io
import zipfile

import numpy as np
import pytest
import torch

from landform.data import load_data
from landform.errors import DataError, InputError, UnknownNameError


@pytest.mark.parametrize("names", [("x", "y"), ("X", "Y"), ("inputs", "targets"), ("data", "target")])
def test_npz_pairs(tmp_path, names):
    x, y = np.arange(6.0).reshape(3, 2), np.array([0, 1, 1])
    np.savez(tmp_path / "d.npz", **dict(zip(names, (x, y), strict=True)))
    data = load_data(tmp_path / "d.npz")
    assert torch.equal(data.inputs, torch.from_numpy(x))
    assert data.targets.tolist() == [0, 1, 1]
    assert (data.name, data.split) == ("d.npz", "all")


def test_npz_with_its_own_splits(tmp_path):
    arrays = {
        "x_train": np.zeros((4, 2)),
        "y_train": np.zeros(4, int),
        "x_test": np.ones((2, 2)),
        "y_test": np.ones(2, int),
    }
    np.savez_compressed(tmp_path / "d.npz", **arrays)
    assert (load_data(tmp_path / "d.npz").n, load_data(tmp_path / "d.npz").split) == (4, "train")
    assert (load_data(tmp_path / "d.npz", split="test").n, load_data(tmp_path / "d.npz", split="test").split) == (
        2,
        "test",
    )
    with pytest.raises(DataError, match=r"x_all and y_all.*x_test, x_train, y_test, y_train"):
        load_data(tmp_path / "d.npz", split="all")


def test_npz_refusals(tmp_path):
    path = tmp_path / "d.npz"
    np.savez(path, x=np.zeros((2, 2)), labels=np.zeros(2))
    with pytest.raises(DataError, match="it holds labels, x"):
        load_data(path)
    np.savez(path, x=np.zeros((2, 2)), y=np.array([{}, {}]))
    with pytest.raises(DataError, match="pickle"):
        load_data(path)
    np.savez(path, x=np.zeros((2, 2)), y=np.array(["a", "b"]))
    with pytest.raises(DataError, match="targets: wanted numbers"):
        load_data(path)
    np.savez(path, x=np.zeros((100, 2)), y=np.zeros(100))
    with pytest.raises(DataError, match="the limit is 1000"):
        load_data(path, max_bytes=1000)
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(DataError, match=r"not a readable .npz"):
        load_data(path)
    path.write_text("hello")
    with pytest.raises(DataError, match=r"not a readable .npz"):
        load_data(path)


def test_npz_header_that_asks_for_more_than_there_is(tmp_path):
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"shape": (1 << 50,), "fortran_order": False, "descr": "<f8"})
    with zipfile.ZipFile(tmp_path / "d.npz", "w") as archive:
        archive.writestr("x.npy", buffer.getvalue())
        archive.writestr("y.npy", buffer.getvalue())
    with pytest.raises(DataError, match=r"x.npy is 128 bytes, its header asks for 9007199254741120"):
        load_data(tmp_path / "d.npz")


def csv(tmp_path, text, encoding="utf-8", **options):
    path = tmp_path / "table.csv"
    path.write_bytes(text.encode(encoding))
    return load_data(path, **options)


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_csv_with_header_and_whole_labels(tmp_path, delimiter):
    text = "a,b,label\n1,2.5,0\n3,-4e1,2\n\n".replace(",", delimiter)
    data = csv(tmp_path, text, encoding="utf-8-sig")
    assert data.inputs.tolist() == [[1, 2.5], [3, -40]]
    assert data.inputs.dtype == torch.float32
    assert data.targets.tolist() == [0, 2]
    assert data.classes == 3


def test_csv_without_header_and_words_as_labels(tmp_path):
    data = csv(tmp_path, "1,2,dog\n3,4,cat\n5,6,dog\n")
    assert data.targets.tolist() == [1, 0, 1]
    assert data.label_names == ("cat", "dog")


def test_csv_regression_and_target_by_name_or_number(tmp_path):
    text = "price,a,b\n1.5,0,1\n-2,1,0\n"
    for target in ("price", 0, -3):
        data = csv(tmp_path, text, target=target)
        assert data.targets.tolist() == [[1.5], [-2.0]]
        assert data.classes is None
        assert data.inputs.tolist() == [[0, 1], [1, 0]]


def test_csv_target_kinds(tmp_path):
    text = "0,-1\n1,1\n2,1\n"
    assert csv(tmp_path, text).classes is None
    labels = csv(tmp_path, text, target_kind="labels")
    assert labels.targets.tolist() == [0, 1, 1]
    assert labels.label_names == ("-1", "1")
    assert csv(tmp_path, "0,10\n1,2\n", target_kind="labels").label_names == ("2", "10")
    assert csv(tmp_path, "0,1\n1,2\n", target_kind="values").targets.tolist() == [[1.0], [2.0]]


def test_csv_numeric_header_must_be_said(tmp_path):
    assert csv(tmp_path, "2019,2020,0\n1,2,1\n").n == 2
    assert csv(tmp_path, "2019,2020,0\n1,2,1\n", header=True).n == 1


@pytest.mark.parametrize(
    ("text", "options", "error", "match"),
    [
        ("", {}, DataError, "no rows"),
        ("a,b\n", {}, DataError, "a header but no rows"),
        ("1\n2\n", {}, DataError, "one column only"),
        ("a,b,y\n1,2,0\n1,x,0\n", {}, DataError, "row 3, column b: 'x' is not a finite number"),
        ("1,,0\n1,2,0\n", {}, DataError, "row 1, column 2: '' is not"),
        ("1,2,0\n1,nan,0\n", {}, DataError, "row 2, column 2: 'nan' is not"),
        ("1,2,0\n1,2\n", {}, DataError, "row 2: 2 cells, the rows before have 3"),
        ("1,2,0\n1,2,\n", {}, DataError, "row 2, column 3: target '' is missing"),
        ("1,2,0\n1,2,inf\n", {}, DataError, "row 2, column 3: target 'inf' is missing or not finite"),
        ("1,2,a\n", {"target_kind": "values"}, DataError, "'a' is not a number"),
        ("a,price\n1,2\n", {"target": "prize"}, UnknownNameError, "did you mean 'price'"),
        ("a,b\n1,2\n", {"target": 2}, InputError, "target column 2 is out of range, there are 2"),
        ("a,b\n1,2\n", {"target_kind": "words"}, InputError, "wanted 'auto', 'labels' or 'values'"),
        ("a,b\n1,2\n", {"max_bytes": 3}, DataError, "8 bytes, the limit is 3"),
    ],
)
def test_csv_refusals(tmp_path, text, options, error, match):
    with pytest.raises(error, match=match):
        csv(tmp_path, text, **options)


def test_csv_that_is_not_text(tmp_path):
    with pytest.raises(DataError, match="not a UTF-8 table"):
        csv(tmp_path, "é,1\n", encoding="latin-1")


def test_other_files(tmp_path):
    (tmp_path / "d.xlsx").write_bytes(b"")
    with pytest.raises(DataError, match="unknown kind of file"):
        load_data(tmp_path / "d.xlsx")
    with pytest.raises(DataError, match="no such file"):
        load_data("nothing/there.csv")
    with pytest.raises(DataError, match="no such file"):
        load_data("there.csv")
