"""Whatever data a user brings: the loss is that of the whole set, computed by PyTorch."""

import datasets
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from landform.data import Data
from landform.errors import DataError, UnknownNameError
from landform.task import Task

N, D, C = 23, 5, 4
GENERATOR = torch.Generator().manual_seed(0)
X, Y = torch.randn(N, D, generator=GENERATOR), torch.randint(C, (N,), generator=GENERATOR)
MODEL = nn.Linear(D, C)
nn.init.normal_(MODEL.weight, generator=GENERATOR)
nn.init.normal_(MODEL.bias, generator=GENERATOR)
WANTED = F.cross_entropy(MODEL(X).double(), Y).item()


@pytest.mark.parametrize(
    "source",
    [
        lambda: (X, Y),
        lambda: {"x": X, "y": Y},
        lambda: DataLoader(TensorDataset(X, Y), batch_size=6, shuffle=True, drop_last=True),
        lambda: [{"features": X[i : i + 7], "label": Y[i : i + 7]} for i in range(0, N, 7)],
        lambda: datasets.Dataset.from_dict({"features": X.tolist(), "label": Y.tolist()}),
    ],
    ids=["tensors", "columns", "dropping loader", "dicts", "hugging face"],
)
@pytest.mark.parametrize("by", ["loss", "step"])
def test_the_loss_is_that_of_the_whole_set(source, by):
    def step(model, batch):
        x, y = batch.values() if isinstance(batch, dict) else batch
        return F.cross_entropy(model(x), y, reduction="none")

    task = Task(MODEL, data=source()) if by == "loss" else Task(MODEL, step=step, data=source())
    assert task.n == N
    assert task.evaluate(batch_size=5).item() == pytest.approx(WANTED, rel=1e-6)


def test_ignored_labels_and_class_weights_in_unequal_batches():
    weight = torch.tensor([1.0, 5.0, 0.1, 2.0])
    loss = nn.CrossEntropyLoss(weight, ignore_index=3)
    batches = [(X[:1], Y[:1]), (X[1:20], Y[1:20]), (X[20:], Y[20:])]
    got = Task(MODEL, loss, batches).evaluate(batch_size=4)
    wanted = F.cross_entropy(MODEL(X).double(), Y, weight.double(), ignore_index=3)
    torch.testing.assert_close(got, wanted, rtol=1e-6, atol=0)
    means = [F.cross_entropy(MODEL(x), y, weight, ignore_index=3).item() for x, y in batches]
    assert got.item() != pytest.approx(sum(m for m in means if m == m) / 3, rel=1e-3)


def test_train_and_test_in_one_task():
    parts = {"train": (X[:15], Y[:15]), "test": (X[15:], Y[15:])}
    task = Task(MODEL, data=parts, metrics="accuracy")
    assert task.splits == ("train", "test")
    assert (task.n, task.data.split) == (15, "train")
    test = task.split("test")
    assert test.quantities() == task.quantities()
    assert test.data.split == "test"
    assert test.evaluate().item() == pytest.approx(F.cross_entropy(MODEL(X[15:]).double(), Y[15:]).item(), rel=1e-6)
    assert task.replace(loss="multi_margin").splits == task.splits
    assert task.replace(data=(X, Y)).splits == ("all",)
    assert Task(MODEL).splits == ()
    with pytest.raises(UnknownNameError, match="unknown split 'tets': did you mean 'test'"):
        task.split("tets")


def test_tokens_of_each_split():
    tokens = torch.randint(9, (4, 3), generator=GENERATOR)
    task = Task(nn.Embedding(9, 9), "causal_lm", {"train": tokens, "test": tokens[:2]})
    assert task.split("test").n == 2


def test_names_of_data_sets_are_split():
    task = Task(nn.Linear(64, 10), data={"train": "digits", "test": "digits"})
    assert (task.n, task.split("test").n) == (1442, 355)


def test_a_step_takes_batches_of_any_structure():
    def contrast(model, batch):
        first, second, mask = batch
        return (model(first) - model(second)).square().mean(1) * mask

    mask = torch.ones(N)
    loader = DataLoader(TensorDataset(X, X + 1, mask), batch_size=4, shuffle=True)
    task = Task(MODEL, step=contrast, data=loader)
    assert task.per_sample
    assert task.evaluate(batch_size=3).item() == pytest.approx(MODEL.weight.sum(1).square().mean().item(), rel=1e-5)
    num, _ = task.terms_at(None, task.batch(torch.tensor([5])))
    assert num.shape == (1, 1)
    assert len(task.data.hash) == 64


def test_random_data_are_refused_unless_allowed():
    class Noisy(TensorDataset):
        def __getitem__(self, i):
            x, y = super().__getitem__(i)
            return x + torch.randn(D), y

    with pytest.raises(DataError, match="allow='augmentation'"):
        Task(MODEL, data=Noisy(X, Y))
    loader = DataLoader(Noisy(X, Y), batch_size=4)
    with pytest.raises(DataError, match="allow='augmentation'"):
        Task(MODEL, step=lambda m, b: m(b[0]).sum(1), data=loader)
    one, two = (Task(MODEL, data=loader, allow="augmentation") for _ in range(2))
    assert torch.equal(one.evaluate(), two.evaluate())
    with pytest.raises(UnknownNameError, match="did you mean 'augmentation'"):
        Task(MODEL, data=(X, Y), allow="augmentatio")


def test_a_loader_that_yields_nothing():
    for options in ({}, {"step": lambda m, b: m(b)}):
        with pytest.raises(DataError, match="no samples"):
            Task(MODEL, data=DataLoader(TensorDataset(X[:0], Y[:0]), batch_size=2), **options)


def test_weights_of_samples():
    data = Data(X, Y).reweight({0: 3.0})
    step = Task(MODEL, step=lambda m, b: F.cross_entropy(m(b[0]), b[1], reduction="none"), data=data)
    torch.testing.assert_close(step.evaluate(batch_size=4), Task(MODEL, data=data).evaluate(), rtol=1e-6, atol=0)
