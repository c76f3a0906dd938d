"""Small engines and samplers with known answers, for what runs them."""

import os
import sys
import time
from dataclasses import dataclass

import cloudpickle
import numpy as np
import pytest
import torch

from landform.scan.engine import AbstractEngine, Terms
from landform.scan.sampler import AbstractSampler, Estimate, Request

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import a conftest


class Waves(AbstractEngine):
    """Two quantities of n samples: num = (sin(i + Σ h), (i + 1) Σ h²), den = (1, i + 1)."""

    quantities = ("loss", "other")
    n = 7

    def __init__(self, log=None, wait=0.0, fail_at=None):
        self.log, self.wait, self.fail_at = log, wait, fail_at
        if log is not None:
            self._note(f"built {os.getpid()}")

    def _note(self, text):
        descriptor = os.open(self.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(descriptor, f"{text}\n".encode())
        os.close(descriptor)

    def terms(self, h, start, stop):
        if self.log is not None:
            self._note(f"points {len(h)}")
        if self.fail_at is not None and bool((h == self.fail_at).all(1).any()):
            raise ArithmeticError(f"no number at {self.fail_at}")
        time.sleep(self.wait)
        i = torch.arange(start, stop, dtype=torch.float64)
        size = h.sum(1, keepdim=True)
        num = torch.stack([torch.sin(i + size), (i + 1) * (h**2).sum(1, keepdim=True)], 1)
        num[h[:, 0] > 0.99] = torch.nan  # a value like any other
        return Terms(num, torch.stack([torch.ones_like(i), i + 1]))


@dataclass
class Recipe:
    """A factory that can be pickled."""

    log: str | None = None
    wait: float = 0.0
    fail_at: tuple | None = None

    def __call__(self):
        return Waves(self.log, self.wait, None if self.fail_at is None else torch.tensor(self.fail_at))


class Rounds(AbstractSampler):
    """Asks for all points, in rounds of so many, on all samples or some; keeps what it is told."""

    def __init__(self, h, n, size=None, per_sample=False):
        self.h, self.n, self.size, self.per_sample = h, n, size or len(h), per_sample
        self.value = torch.full((len(h), 2), torch.nan, dtype=torch.float64)
        self.samples = torch.zeros(len(h), dtype=torch.int64)
        self.at = 0
        self.told = []

    def ask(self):
        if self.at >= len(self.h):
            return None
        return Request(self.h[self.at : self.at + self.size], 0, self.n, self.per_sample)

    def tell(self, request, found):
        self.told.append(found)
        num, den = (found.num.sum(-1), found.den.sum(-1)) if self.per_sample else (found.num, found.den)
        part = slice(self.at, self.at + len(request.h))
        self.value[part], self.samples[part] = num / den, self.n
        self.at = part.stop

    def tell_part(self, rows, found):
        if found is None:
            return
        num, den = (found.num.sum(-1), found.den.sum(-1)) if self.per_sample else (found.num, found.den)
        self.value[self.at + rows], self.samples[self.at + rows] = num / den, self.n

    def estimate(self):
        zeros = torch.where(self.samples[:, None] > 0, 0.0, torch.nan).double().expand(-1, 2).clone()
        level = torch.zeros(len(self.h), dtype=torch.int64)
        return Estimate(self.value.clone(), zeros, self.samples.clone(), torch.ones(2).double(), level, {})

    uncertainty = 0.25

    @property
    def expected(self):
        return self.n * len(self.h)


@pytest.fixture
def recipe():
    return Recipe


@pytest.fixture
def rounds():
    return Rounds


@pytest.fixture
def square():
    """The 25 nodes of a grid."""
    line = torch.linspace(0, 1, 5, dtype=torch.float64)
    return torch.cartesian_prod(line, line)


@pytest.fixture
def truth(square):
    """What a run over `square` must give."""
    terms = Waves().terms(square, 0, Waves.n)
    return (terms.num.sum(-1) / terms.den.sum(-1)).numpy()


@pytest.fixture
def same():
    """Assert bit-equality, NaN included."""

    def check(a, b):
        np.testing.assert_array_equal(np.asarray(a).view(np.uint64), np.asarray(b).view(np.uint64))

    return check
