"""Out of memory: halves are tried, and that is said."""

import warnings

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from landform.errors import MemoryLimitError
from landform.task import Task
from landform.task.memory import out_of_memory

N, D, C = 21, 4, 3
GENERATOR = torch.Generator().manual_seed(0)
X, Y = torch.randn(N, D, generator=GENERATOR), torch.randint(C, (N,), generator=GENERATOR)


class Small(nn.Linear):
    """Takes a few samples at once."""

    def __init__(self, most):
        super().__init__(D, C)
        self.weight = nn.Parameter(torch.arange(C * D).reshape(C, D) / 10)
        nn.init.zeros_(self.bias)
        self.most = most

    def forward(self, x):
        if len(x) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return super().forward(x * torch.arange(D))


def scalar(outputs, targets):
    return F.cross_entropy(outputs, targets)


def step(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1], reduction="none")


@pytest.mark.parametrize("options", [{}, {"loss": scalar}, {"step": step}, {"metrics": ("accuracy", "top2")}])
def test_halves_give_the_same(options):
    wanted = Task(Small(N), data=(X, Y), **options).sums()
    with pytest.warns(UserWarning, match="not enough memory for .* samples at once; going on with") as said:
        got = Task(Small(3), data=(X, Y), **options).sums()
    assert "for 21 samples at once; going on with 10. Pass batch_size=10" in str(said[0].message)
    for a, b in zip(got, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("options", [{}, {"step": step}])
def test_terms_of_halves_are_in_the_order_of_samples(options):
    small, large = (Task(Small(most), data=(X, Y), **options) for most in (4, N))
    order = torch.randperm(N, generator=torch.Generator().manual_seed(1))
    with pytest.warns(UserWarning, match="not enough memory"):
        got = small.terms_at(None, small.batch(order))
    for a, b in zip(got, large.terms_at(None, large.batch(order)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


def test_not_even_one_sample():
    with pytest.raises(MemoryLimitError, match=r"forward pass of one sample .*Tried to allocate 20.00 GiB.*; use"):
        Task(Small(0), data=(X[:1], Y[:1])).evaluate()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        task = Task(Small(0), data=(X, Y))
        with pytest.raises(MemoryError, match="of one sample"):
            task.terms_at(None, task.batch(slice(0, 2)))


def test_batches_that_normalise_themselves_stay_whole():
    model = nn.Sequential(nn.BatchNorm1d(D), Small(4))
    task = Task(model, data=(X, Y), batch_norm="batch")
    with pytest.raises(MemoryLimitError, match="of 7 samples, which belong together"):
        task.evaluate(batch_size=8)
    assert task.evaluate(batch_size=4).isfinite()


def test_what_counts_as_out_of_memory():
    assert out_of_memory(RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried to allocate"))
    assert out_of_memory(MemoryError())
    assert not out_of_memory(RuntimeError("shapes cannot be multiplied"))
    assert not out_of_memory(ValueError("out of memory"))
