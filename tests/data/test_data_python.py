"""Arrays, loaders, torch data sets, and the user's own ``module:loader``."""

import itertools
import textwrap

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset, WeightedRandomSampler

from landform.data import Data, load_data
from landform.errors import DataError, UnknownNameError

X, Y = torch.arange(14.0).reshape(7, 2), torch.tensor([0, 1, 2, 0, 1, 2, 0])
WHOLE = Data(X, Y)


class Samples(Dataset):
    def __len__(self):
        return 7

    def __getitem__(self, i):
        return X[i].numpy(), int(Y[i])


class Stream(IterableDataset):
    def __iter__(self):
        return iter([(X[i], Y[i]) for i in range(7)])


SOURCES = {
    "tensors": lambda: (X, Y),
    "arrays": lambda: (X.numpy(), Y.numpy()),
    "list of two": lambda: [X.numpy(), Y],
    "backwards": lambda: (X.numpy()[::-1][::-1], Y.numpy().astype(">i4")),
    "batches": lambda: [(X[:3], Y[:3]), (X[3:], Y[3:])],
    "tuple of batches": lambda: ((X[:3], Y[:3]), (X[3:], Y[3:])),
    "generator": lambda: (batch for batch in [(X, Y)]),
    "columns": lambda: {"x": X.numpy(), "y": Y},
    "mappings": lambda: [{"input_ids": X[:3], "labels": Y[:3]}, {"labels": Y[3:], "input_ids": X[3:]}],
    "tensor data set": lambda: TensorDataset(X, Y),
    "data set": Samples,
    "subset": lambda: Subset(TensorDataset(X, Y), range(7)),
    "loader": lambda: DataLoader(TensorDataset(X, Y), batch_size=3),
    "shuffling loader": lambda: DataLoader(TensorDataset(X, Y), batch_size=3, shuffle=True),
    "dropping loader": lambda: DataLoader(TensorDataset(X, Y), batch_size=3, shuffle=True, drop_last=True),
    "stream": lambda: DataLoader(Stream(), batch_size=4),
}


@pytest.mark.parametrize("kind", SOURCES)
def test_all_forms_of_one_set_have_one_hash(kind):
    before = torch.random.get_rng_state()
    data = load_data(SOURCES[kind]())
    assert data.hash == WHOLE.hash
    assert torch.equal(torch.random.get_rng_state(), before)


def test_nested_lists():
    data = load_data(([[1.0, 2.0], [3.0, 4.0]], [0, 1]))
    assert data.inputs.dtype == torch.float64
    assert data.targets.tolist() == [0, 1]


def test_a_read_only_array_is_copied():
    x = X.numpy().copy()
    x.flags.writeable = False
    assert load_data((x, Y)).hash == WHOLE.hash


def test_a_sampler_of_ones_own_is_read_as_it_comes():
    sampler = WeightedRandomSampler([1.0] * 7, 20)
    loader = DataLoader(TensorDataset(X, Y), batch_size=3, sampler=sampler)
    with pytest.raises(DataError, match=r"two passes of its loader visit different samples .* allow='shuffle'"):
        load_data(loader)
    data = load_data(loader, allow="shuffle")
    assert data.n == 20
    assert load_data(loader, allow="shuffle").hash == data.hash
    fixed = DataLoader(TensorDataset(X, Y), batch_size=3, sampler=SubsetSampler([5, 1, 1]))
    assert load_data(fixed).inputs[:, 0].tolist() == [10, 2, 2]


class SubsetSampler(list):
    """A fixed selection."""


def test_data_passes_through_and_divides():
    assert load_data(WHOLE) is WHOLE
    data = Data(torch.arange(20.0)[:, None], torch.tensor([0, 1] * 10))
    train, test = load_data(data, split="train"), load_data(data, split="test")
    assert test.inputs[:, 0].tolist() == [8, 9, 18, 19]
    assert sorted(torch.cat([train.inputs, test.inputs])[:, 0].tolist()) == list(range(20))
    with pytest.raises(DataError, match="already its 'train' part"):
        load_data(train, split="test")


@pytest.mark.parametrize(
    ("source", "match"),
    [
        (list, "no samples; it yielded nothing"),
        (lambda: iter(()), "no samples"),
        (lambda: (X, Y[:4]), "7 inputs but 4 targets"),
        (lambda: [(X, Y), (X, Y[:2])], "batch 1 has 7 inputs but 2 targets"),
        (lambda: [(X, Y), (X[:, :1], Y)], r"inputs of batch 1 have sample shape \[1\].*before \[2\]"),
        (lambda: [(X, Y), (X.double(), Y)], r"float64\), those before .*float32"),
        (lambda: [(X, Y, Y)], r"batch 0 is a tuple of 3; wanted \(inputs, targets\)"),
        (lambda: [X, X, X], "batch 0 is a Tensor"),
        (lambda: [{"input_ids": X, "labels": Y, "target": X}], "has keys input_ids, labels, target"),
        (lambda: [{"inputs": X}], "has keys inputs; wanted exactly one target"),
        (lambda: {"a": X, "labels": Y}, "has keys a, labels; wanted exactly one target"),
        (lambda: TensorDataset(X), "TensorDataset of 1 tensors"),
        (lambda: ([[1.0], [2.0, 3.0]], [0, 1]), "samples of different lengths"),
        (lambda: (np.array(["a", "b"]), Y[:2]), "inputs: wanted numbers, got an array of <U1"),
        (lambda: [(X, object())], "targets: wanted numbers, got object"),
        (lambda: [(X[0, 0], Y[0])], "single number"),
        (lambda: 3, "cannot read data from int"),
        (
            lambda: {"first": (X, Y), "second": (X, Y)},
            r"several data sets \(first, second\); say which one, e.g. split='first'",
        ),
        (lambda: (X * float("nan"), Y), "14 NaN"),
    ],
)
def test_refusals(source, match):
    with pytest.raises(DataError, match=match):
        load_data(source())


def test_an_endless_iterable_ends():
    with pytest.raises(DataError, match="is it endless"):
        load_data(((X, Y) for _ in itertools.count()), max_bytes=10_000)


@pytest.fixture
def module(tmp_path, monkeypatch, request):
    """A module of the user's in the current folder, with a name that no other test has imported."""
    name = f"own_{abs(hash(request.node.name))}"
    (tmp_path / f"{name}.py").write_text(
        textwrap.dedent("""
        import torch
        X, Y = torch.arange(20.0)[:, None], torch.arange(20) % 2
        pair = (X, Y)
        def train(): return X, Y
        def batches(): return iter([(X[:5], Y[:5]), (X[5:], Y[5:])])
        def parts(split): return (X[:15], Y[:15]) if split == "train" else (X[15:], Y[15:])
        def fails(): raise RuntimeError("disk on fire")
        def text(): return "digits"
        class Group:
            @staticmethod
            def load(): return X, Y
        """)
    )
    (tmp_path / f"{name}_broken.py").write_text("import nothing_of_this_name\n")
    monkeypatch.chdir(tmp_path)
    return name


def test_loader_returns_anything(module):
    hashes = {load_data(f"{module}:{name}").hash for name in ("train", "batches", "pair", "Group.load")}
    assert len(hashes) == 1
    assert load_data(f"{module}:train").name == f"{module}:train"
    assert load_data(f"{module}:train", split="test").n == 4


def test_loader_with_a_split_of_its_own(module):
    assert load_data(f"{module}:parts").n == 15
    test = load_data(f"{module}:parts", split="test")
    assert (test.n, test.split) == (5, "test")


@pytest.mark.parametrize(
    ("spec", "error", "match"),
    [
        ("{}:trian", UnknownNameError, "attribute of module own_.* 'trian': did you mean 'train'"),
        ("{}:Group.lod", UnknownNameError, r"own_\d+.Group 'lod': did you mean 'load'"),
        ("{}_missing:train", DataError, "importing own_.*_missing failed: ModuleNotFoundError"),
        ("{}_broken:train", DataError, "No module named 'nothing_of_this_name'"),
        ("{}:fails", DataError, "raised RuntimeError: disk on fire"),
        ("{}:text", DataError, "returned the text 'digits'"),
    ],
)
def test_loader_errors_name_module_and_attribute(module, spec, error, match):
    with pytest.raises(error, match=match):
        load_data(spec.format(module))


def test_the_path_of_imports_is_restored(module):
    import sys

    before = list(sys.path)
    load_data(f"{module}:train")
    assert sys.path == before
