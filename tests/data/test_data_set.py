"""`Data`: what it refuses, and the statistics it gives."""

import hashlib

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from landform.data import Data, hash_tensors
from landform.errors import DataError, InputError


def toy(**options):
    return Data(torch.arange(12.0).reshape(6, 2), torch.tensor([0, 1, 1, 2, 2, 2]), **options)


def test_counts_classes_and_length():
    data = toy()
    assert (data.n, len(data), data.classes) == (6, 6, 3)
    assert data.label_counts.tolist() == [1, 2, 3]
    assert data.label_counts.dtype == torch.float64


def test_an_absent_class_counts_zero_when_classes_are_given():
    assert toy(classes=5).label_counts.tolist() == [1, 2, 3, 0, 0]
    assert toy(label_names=("a", "b", "c", "d")).classes == 4


def test_soft_labels_count_by_probability_and_weight():
    soft = torch.tensor([[0.5, 0.5], [0.25, 0.75]])
    assert Data(torch.zeros(2, 1), soft, classes=2).label_counts.tolist() == [0.75, 1.25]
    weighted = Data(torch.zeros(2, 1), soft, classes=2, weights=torch.tensor([3.0, 1.0]))
    assert weighted.label_counts.tolist() == [0.5 * 1.5 + 0.25 * 0.5, 0.5 * 1.5 + 0.75 * 0.5]


def test_ignored_labels_do_not_count():
    data = Data(torch.zeros(3, 1), torch.tensor([0, -100, 1]))
    assert data.label_counts.tolist() == [1, 1]
    dense = Data(torch.zeros(2, 1), torch.tensor([[0, 1], [-100, 1]]))
    assert dense.label_counts.tolist() == [1, 2]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.bool])
def test_labels_become_int64(dtype):
    assert Data(torch.zeros(2, 1), torch.tensor([0, 1]).to(dtype)).targets.dtype == torch.int64


def test_repr_shows_shapes_not_values():
    assert repr(toy()) == "Data('data', 'all', inputs float32 [6, 2], targets int64 [6], 3 classes)"


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"inputs": torch.zeros(0, 2), "targets": torch.zeros(0)}, "no samples"),
        ({"inputs": torch.zeros(3, 2)}, "3 inputs but 2 targets"),
        (
            {"inputs": torch.tensor([[1.0], [float("nan")]])},
            "inputs hold 1 NaN and 0 infinite values, first in sample 1",
        ),
        ({"targets": torch.tensor([float("inf"), 0.0])}, "targets hold 0 NaN and 1 infinite"),
        ({"targets": torch.tensor([-1, 0])}, r"1 negative labels \(such as -1\)"),
        ({"targets": torch.tensor([0, 3]), "classes": 3}, "1 labels reach beyond 3 classes, the largest is 3"),
        ({"classes": 0}, "classes is 0"),
        ({"classes": 3, "label_names": ("a", "b")}, "2 label_names for 3 classes"),
        ({"targets": torch.zeros(2), "classes": 3}, r"soft labels \[n, 3\]"),
        ({"inputs": torch.tensor(1.0)}, "single number"),
        ({"inputs": [[1.0], [2.0]]}, "must be a torch tensor, got list"),
        ({"inputs": torch.zeros(2, 1).to_sparse()}, "dense tensor"),
        ({"inputs": torch.zeros(2, 1, device="meta")}, "device meta"),
        ({"inputs": torch.zeros(2, 1, dtype=torch.complex64)}, "real numbers"),
        ({"weights": torch.ones(3)}, "wanted 2 weights"),
        ({"weights": torch.zeros(2)}, "not all zero"),
        ({"weights": torch.tensor([-1.0, 2.0])}, "not negative"),
        ({"weights": torch.tensor([float("nan"), 2.0])}, "finite"),
    ],
)
def test_refusals_say_what_was_got(options, match):
    arguments = {"inputs": torch.zeros(2, 1), "targets": torch.tensor([0, 1])} | options
    with pytest.raises(DataError, match=match):
        Data(**arguments)


def test_regression_has_no_label_counts():
    with pytest.raises(DataError, match="has no classes"):
        _ = Data(torch.zeros(2, 1), torch.zeros(2)).label_counts


def test_hash_is_fixed_for_ever():
    """The digest of a known set, built here byte by byte."""
    data = Data(torch.tensor([[1.0, 2.0]]), torch.tensor([1]))
    wanted = hashlib.sha256(
        b"landform-tensors-1"
        b"\0inputs\0torch.float32\0(1, 2)\0\x00\x00\x80\x3f\x00\x00\x00\x40"
        b"\0targets\0torch.int64\0(1,)\0\x01" + bytes(7)
    ).hexdigest()
    assert data.hash == wanted


def test_hash_sees_values_shape_dtype_order_and_weights_only():
    data = toy()
    assert toy(name="other", split="test").hash == data.hash
    x, y = data.inputs, data.targets
    others = [
        Data(x + 1, y),
        Data(x.double(), y),
        Data(x.reshape(6, 2, 1), y),
        Data(x.flip(0), y.flip(0)),
        data.reweight({0: 2.0}),
    ]
    assert len({other.hash for other in [data, *others]}) == 6


def test_hash_ignores_strides_and_chunks(monkeypatch):
    x = torch.arange(1000.0).reshape(10, 100)
    whole = hash_tensors([("x", x)])
    assert hash_tensors([("x", x.T.contiguous().T)]) == whole
    monkeypatch.setattr("landform.data.hashing._CHUNK", 7)
    assert hash_tensors([("x", x)]) == whole


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.bool, torch.uint8])
def test_hash_takes_any_dtype(dtype):
    assert (
        len(hash_tensors([("x", torch.ones(3).to(dtype)), ("scalar", torch.tensor(1.0)), ("none", torch.ones(0))]))
        == 64
    )


def test_batches_cover_everything_in_order():
    data = toy()
    for size in (1, 4, 6, 100, None):
        assert torch.equal(torch.cat([x for x, _ in data.batches(size)]), data.inputs)
        assert torch.equal(torch.cat([y for _, y in data.batches(size)]), data.targets)
    with pytest.raises(InputError, match="batch_size is 0"):
        next(data.batches(0))


def test_subset_takes_rows_and_rescales_weights():
    data = toy(weights=torch.tensor([1.0, 1, 1, 1, 1, 7]))
    part = data.subset([5, 0, 0], split="some")
    assert part.inputs[:, 0].tolist() == [10, 0, 0]
    assert part.split == "some"
    assert part.classes == 3
    assert part.weights.tolist() == pytest.approx([7 / 3, 1 / 3, 1 / 3])
    with pytest.raises(InputError, match="index 6 is out of range"):
        data.subset([6])
    with pytest.raises(InputError, match="booleans"):
        data.subset(data.targets > 0)
    with pytest.raises(DataError, match="no samples"):
        data.subset([])


@given(st.lists(st.floats(0.01, 100), min_size=3, max_size=3))
def test_reweighting_gives_the_wanted_marginal(factors):
    data = toy().reweight(torch.tensor(factors))
    wanted = torch.tensor([1.0, 2, 3], dtype=torch.float64) * torch.tensor(factors).double()
    assert data.weights.sum().item() == pytest.approx(6)
    torch.testing.assert_close(data.label_counts, wanted * 6 / wanted.sum())
    torch.testing.assert_close(toy().reweight(torch.tensor(factors) * 2).weights, data.weights)


def test_reweighting_twice_multiplies():
    once = toy().reweight({0: 6.0, 1: 1.5})
    twice = toy().reweight({0: 2.0}).reweight({0: 3.0, 1: 1.5})
    torch.testing.assert_close(once.weights, twice.weights)
    assert toy().weights is None


def test_reweighting_refusals():
    with pytest.raises(InputError, match="no class 3"):
        toy().reweight({3: 1.0})
    with pytest.raises(InputError, match="one number for each of 3 classes"):
        toy().reweight(torch.ones(2))
    with pytest.raises(InputError, match="not negative"):
        toy().reweight({0: -1.0})
    with pytest.raises(DataError, match="not all zero"):
        toy().reweight(torch.zeros(3))
    with pytest.raises(DataError, match="one integer label a sample"):
        Data(torch.zeros(2, 1), torch.full((2, 2), 0.5), classes=2).reweight({0: 2.0})


def test_resampling_takes_the_first_of_each_class():
    part = toy().resample_labels({1: 1, 2: 2})
    assert part.inputs[:, 0].tolist() == [2, 6, 8]
    assert part.label_counts.tolist() == [0, 1, 2]
    assert part.classes == 3
    assert toy().resample_labels(torch.tensor([1, 2, 3])).hash == toy().hash
    with pytest.raises(DataError, match="4 samples of class 2 wanted, data has 3"):
        toy().resample_labels({2: 4})
    with pytest.raises(InputError, match="whole numbers"):
        toy().resample_labels(torch.tensor([0.5, 0, 0]))
    with pytest.raises(DataError, match="resample first"):
        toy().reweight({0: 2.0}).resample_labels({0: 1})
