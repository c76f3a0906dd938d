"""What a BatchNorm rounds: every way of computing it, every operation off by a unit either way, against the bound."""

import itertools

import numpy as np
import pytest
import scipy.sparse as sp

from landform.certify.affine import affine
from landform.certify.curve import Curve
from landform.certify.curve import affine as affine_of_one
from landform.certify.field import Field
from landform.certify.network import NORM_ROUNDINGS, Step, norm_offset
from landform.mesh import Mesh

UNIT = 2.0**-24
EPS = 1e-3
WORST = np.array(list(itertools.product([-1.0, 1.0], repeat=9))).T  # [operations, ways to round]


def rounded(x, mean, variance, gain, shift, first):
    """Return (x − mean)·a + β, or x·a + (β − mean·a), however each operation rounds."""
    off = iter(1 + UNIT * WORST)
    scale = gain * (1 / ((EPS * next(off) + variance) * next(off)) ** 0.5 * next(off) * next(off)) * next(off)
    if first:
        return total(total(x, -mean, off) * scale * next(off), shift, off)
    return total(x * scale * next(off), total(shift, -mean * scale * next(off), off), off)


def total(a, b, off):
    """Return a + b; adding an exact zero is exact."""
    return a + b if not np.any(a) or not np.any(b) else (a + b) * next(off)


def bounds(x, mean, variance, gain, shift):
    """Return the norm of one number in exact arithmetic, and its bound over the mesh and behind the register."""
    a = gain / np.sqrt(variance + EPS)
    step = Step.stored(
        sp.csr_matrix([[a]]),
        np.array([shift - mean * a]),
        1.0,
        0,
        roundings=NORM_ROUNDINGS,
        counted=True,
        offset=norm_offset(np.array([shift]), np.array([mean * a])),
    )
    value = np.full((1, 2), x)
    field = Field.dense(Mesh((1,)), value, np.zeros((1, 2)), np.zeros(1))
    exact, bound = affine(field, step, np.array([0]), UNIT)
    same, other = affine_of_one(Curve(np.array([0.0, 1.0]), value, np.zeros((1, 2))), step, UNIT)
    assert (exact == same).all()
    return exact[0, 0], bound[0, 0], other[0, 0]


@pytest.mark.parametrize("variance", [1.0, 0.01, 0.0])
@pytest.mark.parametrize(
    ("mean", "shift"), [(0.0, 0.0), (0.0, 1e-2), (1.0, 0.5), (-3.0, 4.0), (0.25, 0.25), (1.0, -2.0)]
)
@pytest.mark.parametrize("first", [True, False])
def test_a_norm_rounds_no_more_than_the_bound(mean, shift, variance, first):
    for x, gain in itertools.product([0.0, 1.0, 7.0, 300.0], [1.0, -0.3]):
        exact, *bound = bounds(x, mean, variance, gain, shift)
        off = np.abs(rounded(x, mean, variance, gain, shift, first) - exact).max()
        assert off <= min(bound)


def test_a_constant_that_cancels_in_exact_arithmetic_still_rounds():
    """β = mean·a leaves nothing to add, but each is rounded for itself."""
    a = 1 / np.sqrt(1.0 + EPS)
    exact, *bound = bounds(1.0, 1.0, 1.0, 1.0, a)
    assert np.abs(rounded(1.0, 1.0, 1.0, 1.0, a, first=False) - exact).max() <= min(bound)


def test_the_bound_is_no_larger_than_need_be():
    """Where x is large beside the constants and eps is all there is, an unlucky order of roundings reaches it."""
    exact, *bound = bounds(300.0, 0.1, 0.0, 1.0, 0.5)
    off = np.abs(rounded(300.0, 0.1, 0.0, 1.0, 0.5, first=True) - exact).max()
    assert 0.95 * max(bound) < off <= min(bound)
