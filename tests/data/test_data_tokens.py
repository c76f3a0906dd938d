"""Token sequences, Hugging Face data sets, and batches of named tensors."""

import collections

import datasets
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Dataset

from landform.data import load_data
from landform.errors import DataError, UnknownNameError

IDS = torch.arange(12).reshape(4, 3)
LABELS = torch.tensor([0, 1, 1, 0])
RAGGED = [[1, 2, 3], [4], [5, 6]]


def test_tokens_are_their_own_labels():
    data = load_data(IDS)
    assert torch.equal(data.inputs, IDS)
    assert torch.equal(data.targets, IDS)
    masked = load_data({"input_ids": IDS, "attention_mask": torch.tensor([[1, 1, 0]] * 4)})
    assert masked.targets.tolist() == [[0, 1, -100], [3, 4, -100], [6, 7, -100], [9, 10, -100]]
    assert masked.keys == ("input_ids", "labels")


@pytest.mark.parametrize("form", [None, "torch", "numpy", "columns"])
def test_a_hugging_face_data_set(form):
    source = datasets.Dataset.from_dict(
        {"input_ids": IDS.tolist(), "attention_mask": [[1, 1, 1]] * 4, "label": LABELS.tolist(), "text": list("abcd")}
    )
    if form == "columns":
        source = source.with_format("torch", columns=["input_ids", "label"])
    elif form is not None:
        source = source.with_format(form)
    data = load_data(source)
    assert torch.equal(data.inputs, IDS)
    assert torch.equal(data.targets, LABELS)
    assert list(data.extras) == ([] if form == "columns" else ["attention_mask"])
    assert data.keys == ("input_ids", "label")
    assert source.format["type"] == (None if form is None else "numpy" if form == "numpy" else "torch")


def test_ragged_columns_are_padded_with_a_mask():
    data = load_data(datasets.Dataset.from_dict({"input_ids": RAGGED}))
    assert data.inputs.tolist() == [[1, 2, 3], [4, 0, 0], [5, 6, 0]]
    assert data.extras["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0], [1, 1, 0]]
    assert data.targets.tolist() == [[1, 2, 3], [4, -100, -100], [5, 6, -100]]
    with pytest.raises(DataError, match=r"column features has rows of shapes \[3\], \[1\]"):
        load_data(datasets.Dataset.from_dict({"features": RAGGED, "label": [0, 1, 0]}))


def test_streams_and_splits_of_hugging_face():
    source = datasets.Dataset.from_dict({"input_ids": IDS.tolist(), "labels": LABELS.tolist()})
    assert load_data(source.to_iterable_dataset()).hash == load_data(source).hash
    both = datasets.DatasetDict(train=source, test=source.select([1]))
    assert load_data(both, split="test").n == 1
    with pytest.raises(DataError, match=r"several data sets \(train, test\); say which one"):
        load_data(both)
    with pytest.raises(DataError, match="none of them called 'dev'"):
        load_data(both, split="dev")
    with pytest.raises(DataError, match="only text in text; tokenize first"):
        load_data(datasets.Dataset.from_dict({"text": ["a", "b"]}))


XS = [[float(i), 1.0] for i in range(11)]


@pytest.mark.parametrize("n", [8, 11])  # a last batch that is full, and one that is not
@pytest.mark.parametrize("form", [None, "torch"])
def test_a_stream_in_batches_is_read_batch_by_batch(n, form):
    source = datasets.Dataset.from_dict({"x": XS[:n], "label": [i % 3 for i in range(n)]})
    data = load_data(source.to_iterable_dataset().with_format(form).batch(4))
    assert torch.equal(data.inputs, torch.tensor(XS[:n]))
    assert data.targets.tolist() == [i % 3 for i in range(n)]


def test_a_table_of_batches_that_do_not_fit_says_why():
    source = datasets.Dataset.from_dict({"x": XS, "label": [0] * 11})
    with pytest.raises(DataError, match=r"if rows are batches, made by data\.batch\(…\), pass the data set as it was"):
        load_data(source.batch(4))


@pytest.mark.parametrize("stream", [False, True])
def test_labels_that_are_words_are_not_passed_over(stream):
    source = datasets.Dataset.from_dict({"x": XS, "label": ["cat", "dog"] * 5 + ["ant"], "note": ["a"] * 11})
    with pytest.raises(DataError, match=r"column label holds no numbers \('ant', 'cat', 'dog'\).*class_encode_column"):
        load_data(source.to_iterable_dataset() if stream else source)
    assert load_data(source.class_encode_column("label")).targets[:3].tolist() == [1, 2, 1]
    beside = source.add_column("y", list(range(11)))  # a target that is one, beside the words for it
    assert load_data(beside).targets.tolist() == list(range(11))


@settings(deadline=None, max_examples=20)
@given(lengths=st.lists(st.integers(1, 5), min_size=1, max_size=6), labelled=st.booleans())
def test_batches_padded_by_a_collator_are_padded_to_one_length(lengths, labelled):
    batches = []
    for i, length in enumerate(lengths):
        ids = torch.full((2, length), i + 1)
        batch = collections.UserDict({"input_ids": ids, "attention_mask": torch.ones_like(ids)})
        if labelled:
            batch["labels"] = ids
        batches.append(batch)
    data = load_data(batches)
    assert data.inputs.shape == (2 * len(lengths), max(lengths))
    mask = torch.arange(max(lengths)) < torch.tensor(lengths).repeat_interleave(2)[:, None]
    assert torch.equal(data.extras["attention_mask"], mask.long())
    assert torch.equal(data.targets, torch.where(mask, data.inputs, -100))
    assert not bool(data.inputs[~mask].any())


def test_without_a_mask_lengths_must_agree():
    with pytest.raises(DataError, match=r"shape \[2\] .* before \[3\] .* or give an attention_mask"):
        load_data([{"input_ids": IDS, "labels": IDS}, {"input_ids": IDS[:, :2], "labels": IDS[:, :2]}])


def test_batches_must_have_the_same_keys():
    with pytest.raises(DataError, match="batch 1 has inputs, targets, mask"):
        load_data([{"x": IDS, "y": LABELS}, {"x": IDS, "y": LABELS, "mask": IDS}])


class Augmented(Dataset):
    def __init__(self, source):
        self.source = source

    def __len__(self):
        return 6

    def __getitem__(self, i):
        noise = {
            "torch": lambda: float(torch.rand(())),
            "numpy": lambda: float(np.random.random()),  # noqa: NPY002
            "python": __import__("random").random,
            "none": lambda: 0.0,
        }[self.source]()
        return torch.full((3,), i + noise), i % 2


def masking(samples):
    inputs, targets = torch.utils.data.default_collate(samples)
    return inputs * (torch.rand(inputs.shape) > 0.5), targets


@pytest.mark.parametrize("source", ["torch", "numpy", "python", "collator", "transform"])
@pytest.mark.parametrize("loaded", [False, True])
def test_random_augmentation_is_found_and_frozen_if_allowed(source, loaded):
    if source == "transform":
        rows = datasets.Dataset.from_dict({"x": [[1.0], [2.0]], "y": [0, 1]}).with_transform(
            lambda batch: {"x": [torch.tensor(v) + torch.rand(1) for v in batch["x"]], "y": batch["y"]}
        )
        given_ = rows
    else:
        rows = Augmented("none" if source == "collator" else source)
        given_ = DataLoader(rows, batch_size=4, collate_fn=masking if source == "collator" else None)
        given_ = given_ if loaded or source == "collator" else rows
    before = torch.random.get_rng_state(), np.random.get_state()[1].tolist()  # noqa: NPY002
    with pytest.raises(DataError, match=r"two reads of the same samples differ.* allow='augmentation'"):
        load_data(given_)
    once, twice = load_data(given_, allow="augmentation"), load_data(given_, allow="augmentation")
    assert once.hash == twice.hash
    assert torch.equal(torch.random.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]  # noqa: NPY002
    assert load_data(Augmented("none")).n == 6


def test_unknown_permissions_name_the_nearest():
    with pytest.raises(UnknownNameError, match="did you mean 'augmentation'"):
        load_data((IDS, LABELS), allow="augmentations")
