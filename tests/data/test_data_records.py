"""Batches of any structure, for a step."""

import pytest
import torch
from torch.utils.data import DataLoader, Dataset, TensorDataset

from landform.data import Data
from landform.data.records import Records, collect_records
from landform.errors import DataError

A, B, C = torch.arange(10.0).reshape(5, 2), torch.arange(5), torch.ones(5, 1, 3)


def read(source, **options):
    return collect_records(source, max_bytes=options.pop("max_bytes", 1 << 20), **options)


class Nested(Dataset):
    def __len__(self):
        return 5

    def __getitem__(self, i):
        return {"view": (A[i], A[i] + 1), "id": int(B[i])}


@pytest.mark.parametrize(
    "source",
    [
        lambda: (A, B, C),
        lambda: TensorDataset(A, B, C),
        lambda: DataLoader(TensorDataset(A, B, C), batch_size=2, shuffle=True, drop_last=True),
        lambda: [(A[:3], B[:3], C[:3]), (A[3:], B[3:], C[3:])],
        lambda: ((A[i : i + 1], B[i : i + 1], C[i : i + 1]) for i in range(5)),
    ],
)
def test_triples(source):
    records = read(source())
    assert records.n == 5
    for got, wanted in zip(records.raw(torch.tensor([4, 0])), (A, B, C), strict=True):
        assert torch.equal(got, wanted[[4, 0]])
    assert isinstance(records, Records)


def test_structures_stay_and_their_hash_sees_everything():
    records = read(Nested())
    assert records.raw(slice(1, 3))["view"][1].tolist() == [[3, 4], [5, 6]]
    assert records.subset([1, 2]).hash == Records.of(records.raw(slice(1, 3)), name="x").hash
    changed = records.raw(slice(None))
    changed["view"] = (changed["view"][0], changed["view"][1] + 1)
    assert Records.of(changed, name="x").hash != records.hash
    assert repr(records) == "Records('Nested', 'all', float32 [5, 2], float32 [5, 2], int64 [5])"
    assert records.subset([3], split="test").split == "test"


def test_single_tensors_and_values_that_no_loss_would_take():
    assert read(A).raw(slice(0, 1)).tolist() == [[0, 1]]
    assert read((torch.full((2, 1), torch.nan), torch.tensor([-7, 3]))).n == 2
    data = Data(A, B)
    assert read(data) is data


def test_ragged_tokens_are_padded_by_their_mask():
    batches = [{"input_ids": torch.ones(1, k).long(), "attention_mask": torch.ones(1, k).long()} for k in (1, 3)]
    assert read(batches).raw(slice(None))["attention_mask"].tolist() == [[1, 0, 0], [1, 1, 1]]


@pytest.mark.parametrize(
    ("source", "match"),
    [
        (list, "no samples; it yielded nothing"),
        (lambda: [(A, "name")], "wanted numbers"),
        (lambda: [(A, 3.0)], "holds a single number"),
        (lambda: [(A, B[:2])], r"shapes \[5, 2\], \[2\]; wanted one row a sample"),
        (lambda: [(A, B), (A, C)], r"batch 1 has samples of \[2\] torch.float32, \[1, 3\]"),
        (lambda: [(A,), [A]], "batch 1 has samples of"),
        (lambda: 3, "cannot read batches from int"),
        (lambda: {"train": [(A,)]}, "cannot read batches from dict"),
    ],
)
def test_refusals(source, match):
    with pytest.raises(DataError, match=match):
        read(source())


def test_an_endless_iterable_ends():
    with pytest.raises(DataError, match="is it endless"):
        read(((A,) for _ in iter(int, 1)), max_bytes=1000)
