"""What norms round, every operation off by a unit either way, against the bound: BatchNorm, and means over groups."""

import itertools

import numpy as np
import pytest
import scipy.sparse as sp

from landform.certify.affine import affine
from landform.certify.curve import Curve
from landform.certify.curve import affine as affine_of_one
from landform.certify.field import Field
from landform.certify.means import Means
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


def means(x, count):
    """Return the means of one group whose channels read one input each, x_1 … x_D."""
    size = len(x)
    return Means(
        weight=sp.diags(x).tocsr(),
        bias=np.zeros(size),
        inexact=sp.csr_matrix((size, size)),
        member=sp.csr_matrix(np.ones((1, size))),
        left=sp.csr_matrix((1, size)),
        level=np.zeros(1),
        back=sp.csr_matrix(np.full((size, 1), 1 / size)),
        count=float(count),
        reach=np.ones(size),
        beside=np.zeros(size),
    )


def worst_sum(terms):
    """Return how far a sum comes out that is added up in this order, each addition off by a unit away from 0."""
    return UNIT * np.abs(np.cumsum(terms))[1:].sum()


def worst_tree(terms, rng):
    """The same for an order in which partial sums are added up to one another."""
    parts, off = list(terms), 0.0
    while len(parts) > 1:
        a, b = (parts.pop(int(rng.integers(len(parts)))) for _ in range(2))
        parts.append(a + b)
        off += UNIT * abs(a + b)
    return off


@pytest.mark.parametrize(
    "x", [(1, -1), (3, -1, -2), (1, 1, -1, -1), (0, 5, -5, 0), (4, 1, 1, 1, 1, -8), (1,) * 15 + (-15,)]
)
def test_a_mean_is_off_by_no_more_than_the_bound_in_any_order(x):
    """Each channel has its number at every position; those of one sign first is the order that rounds most."""
    x, places, rng = np.array(x, dtype=float), 256, np.random.default_rng(0)
    terms = np.repeat(x, places)
    orders = [np.sort(terms), np.sort(terms)[::-1], terms, rng.permutation(terms), terms[np.argsort(-np.abs(terms))]]
    off = max(*(worst_sum(order) for order in orders), worst_tree(terms, rng)) / places
    none = np.zeros((len(x), 1))
    found = means(x, len(terms)).totals(np.abs(x)[:, None], none, none, np.zeros((1, 1)), UNIT)[0, 0]
    assert off <= found
    if len(x) == 2:  # nothing to spare but what Welford's quotients round
        assert found < 1.3 * off
