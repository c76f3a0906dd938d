"""The bundled sets: shapes, parts, standardisation, and names."""

import subprocess
import sys

import pytest
import torch

from landform.data import bundled, load_data
from landform.errors import InputError, UnknownNameError


@pytest.mark.parametrize(
    ("name", "n", "shape", "classes"),
    [
        ("digits", 1797, (64,), 10),
        ("wine", 178, (13,), 3),
        ("breast_cancer", 569, (30,), 2),
        ("diabetes", 442, (10,), None),
    ],
)
def test_parts_are_disjoint_stratified_and_complete(name, n, shape, classes):
    train, test, both = (load_data(name, split=split) for split in ("train", "test", "all"))
    assert both.inputs.shape == (n, *shape)
    assert both.inputs.dtype == torch.float32
    assert train.n + test.n == n
    assert both.classes == classes
    assert both.targets.dtype == (torch.int64 if classes else torch.float32)
    rows = {tuple(row) for row in torch.cat([train.inputs, test.inputs]).tolist()}
    assert rows == {tuple(row) for row in both.inputs.tolist()}
    if classes:
        assert torch.equal(test.label_counts, (both.label_counts / 5).floor())
        assert torch.equal(train.label_counts + test.label_counts, both.label_counts)
        assert len(both.label_names) == classes
    else:
        assert both.targets.shape == (n, 1)
        assert both.targets.max() == 346


def test_digits_are_known():
    data = load_data("digits")
    assert (data.split, data.n) == ("train", 1442)
    assert float(data.inputs.max()) == 1
    assert set((data.inputs * 16).unique().tolist()) == set(range(17))
    assert data.hash == "f902cb9f1ddca999001047778ee36120c1b5b36fcb43551b3c6745dcbf9f854f"


def test_digits_are_those_of_scikit_learn(monkeypatch):
    read = load_data("digits", split="all")
    monkeypatch.setattr(bundled, "_digits", lambda: None)
    assert read.hash == load_data("digits", split="all").hash


def test_digits_do_not_import_scikit_learn():
    code = "import sys; from landform.data import load_data; load_data('digits'); print('sklearn' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"


@pytest.mark.parametrize("name", ["wine", "breast_cancer", "diabetes"])
def test_tables_are_standardised_by_their_training_part(name):
    inputs = load_data(name).inputs.double()
    torch.testing.assert_close(inputs.mean(0), torch.zeros(inputs.shape[1]).double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(inputs.std(0, correction=0), torch.ones(inputs.shape[1]).double(), atol=1e-6, rtol=0)
    assert float(load_data(name, split="test").inputs.mean().abs()) > 1e-5


def test_unknown_names_get_the_nearest():
    with pytest.raises(UnknownNameError, match="unknown data set 'digit': did you mean 'digits'"):
        load_data("digit")
    with pytest.raises(InputError, match="split is 'valid'"):
        load_data("digits", split="valid")


def test_importing_does_not_load_scikit_learn():
    code = "import sys, landform.task, landform.data; print('sklearn' in sys.modules, 'torch' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.split() == ["False", "True"]
