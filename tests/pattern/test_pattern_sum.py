"""Sums of one-dimensional functions."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from landform.errors import InputError, UnknownNameError
from landform.pattern import Pattern, SumPattern
from landform.pattern.catalogue import CATALOGUE

torch.set_num_threads(1)

axes_of_numbers = st.lists(
    st.lists(st.floats(-100, 100).filter(lambda t: t == 0 or abs(t) > 1e-6), min_size=2, max_size=5),
    min_size=1,
    max_size=4,
).filter(lambda axes: any(max(axis) > min(axis) for axis in axes))


@given(axes_of_numbers, st.integers(0, 99))
@settings(max_examples=80, deadline=None)
def test_sums_equal_numpy_and_their_grid(axes: list[list[float]], seed: int) -> None:
    pattern = SumPattern.from_axes(axes)
    lo, hi = pattern.source["range"]
    h = np.random.default_rng(seed).random((20, len(axes)))
    raw = sum(np.interp(h[:, i], np.linspace(0, 1, len(axis)), axis) for i, axis in enumerate(axes))
    got = pattern(torch.from_numpy(h))
    assert np.allclose(lo + (hi - lo) * got.numpy(), raw, atol=1e-10)
    assert all(float(axis.min()) == 0 for axis in pattern.axes)
    assert sum(float(axis.max()) for axis in pattern.axes) == pytest.approx(1, abs=1e-13)
    grid = pattern.to_grid()
    assert grid.resolution == pattern.resolution
    assert torch.allclose(grid(torch.from_numpy(h)), got, atol=1e-12, rtol=0)
    assert (grid.floor, grid.ceiling) == pytest.approx((0, 1), abs=1e-13)


@pytest.mark.parametrize("name", ["sphere", "rastrigin", "styblinski-tang"])
@pytest.mark.parametrize("z", [1, 2, 3])
def test_sums_of_formulas_equal_their_grids(name: str, z: int) -> None:
    summed = SumPattern.from_formula(name, z=z, resolution=12)
    grid = Pattern.from_formula(name, z=z, resolution=12)
    assert torch.allclose(summed.to_grid().values, grid.values, atol=1e-12, rtol=0)
    assert summed.source["range"] == pytest.approx(grid.source["range"])
    assert summed.name == grid.name


@pytest.mark.parametrize("name", ["sphere", "rastrigin", "styblinski-tang"])
def test_a_hundred_dimensions(name: str) -> None:
    pattern = SumPattern.from_formula(name, z=100)
    assert (pattern.z, len(pattern.axes), pattern.resolution[0]) == (100, 100, 64)
    h = torch.randint(0, 65, (50, 100), generator=torch.Generator().manual_seed(0)).double() / 64
    low, high = CATALOGUE[name].bounds(1)[0]
    raw = CATALOGUE[name].function(low + h * (high - low))
    lo, hi = pattern.source["range"]
    assert torch.allclose(pattern(h), (raw - lo) / (hi - lo), atol=1e-12, rtol=0)


def test_extremes_over_the_box_are_zero_and_one() -> None:
    pattern = SumPattern.from_callables(
        [lambda t: (t - 0.25) ** 2, np.sin, lambda t: -t], resolution=(4, 8, 2), name="mixed"
    )
    lowest = torch.tensor([[axis.argmin() / (len(axis) - 1) for axis in pattern.axes]], dtype=torch.float64)
    highest = torch.tensor([[axis.argmax() / (len(axis) - 1) for axis in pattern.axes]], dtype=torch.float64)
    assert float(pattern(lowest)) == pytest.approx(0, abs=1e-15)
    assert float(pattern(highest)) == pytest.approx(1, abs=1e-15)
    assert (pattern.floor, pattern.ceiling, pattern.is_constant, pattern.channels) == (0.0, 1.0, False, None)
    assert (pattern.name, pattern.resolution) == ("mixed", (4, 8, 2))


def test_permuting_the_axes_permutes_the_box() -> None:
    axes = [[0.0, 3.0, 1.0], [2.0, 0.0], [0.0, 0.5, 0.2, 1.0]]
    order = [2, 0, 1]
    h = torch.rand(30, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    permuted = SumPattern.from_axes([axes[i] for i in order])
    assert torch.allclose(permuted(h[:, order]), SumPattern.from_axes(axes)(h), atol=1e-14)


def test_domain_option() -> None:
    pattern = SumPattern.from_formula("sphere", z=2, resolution=2, domain=(0, 1))
    assert pattern.axes[0].tolist() == [0.0, 0.125, 0.5]
    assert pattern.source["domain"] == [[0.0, 1.0]] * 2


def test_unfit_sums() -> None:
    with pytest.raises(InputError, match=r"himmelblau is no sum .* rastrigin, sphere, styblinski-tang"):
        SumPattern.from_formula("himmelblau", z=2)
    with pytest.raises(UnknownNameError, match="did you mean 'sphere'"):
        SumPattern.from_formula("spheres", z=2)
    for z in (0, -1):
        with pytest.raises(InputError, match="at least one axis"):
            SumPattern.from_formula("sphere", z=z)
    with pytest.raises(InputError, match="z must be a whole number"):
        SumPattern.from_formula("sphere", z=2.5)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="2 entries for 3 axes"):
        SumPattern.from_formula("sphere", z=3, resolution=(4, 4))
    with pytest.raises(InputError, match="goes up to 65536"):
        SumPattern.from_formula("sphere", z=3, resolution=65537)
    with pytest.raises(InputError, match="at least one axis"):
        SumPattern.from_axes([])
    with pytest.raises(InputError, match="at least one axis"):
        SumPattern.from_callables([])
    with pytest.raises(InputError, match=r"axis 1 has shape \(1,\)"):
        SumPattern.from_axes([[0.0, 1.0], [2.0]])
    with pytest.raises(InputError, match="axis 0: 1 of 2 values are not finite"):
        SumPattern.from_axes([[0.0, float("nan")]])
    with pytest.raises(InputError, match=r"range 0\.0, so it cannot be normalised"):
        SumPattern.from_axes([[3.0, 3.0], [1.0, 1.0]])
    with pytest.raises(InputError, match="range inf"):
        SumPattern.from_axes([[-1.7e308, 1.7e308]])
    with pytest.raises(InputError, match=r"returned shape \(\)"):
        SumPattern.from_callables([lambda t: t.sum()])


def test_unfit_direct_construction() -> None:
    ramp = torch.tensor([0.0, 1.0], dtype=torch.float64)
    with pytest.raises(InputError, match="at least one axis"):
        SumPattern(())
    with pytest.raises(InputError, match="axis 1 must be a float64 tensor"):
        SumPattern((ramp, ramp.float()))
    with pytest.raises(InputError, match=r"axis 0 has minimum 0\.5, wanted 0"):
        SumPattern((ramp / 2 + 0.5,))
    with pytest.raises(InputError, match=r"sum to 2\.0, wanted 1"):
        SumPattern((ramp, ramp))


def test_points_and_grids_out_of_reach() -> None:
    pattern = SumPattern.from_formula("sphere", z=5, resolution=4)
    with pytest.raises(InputError, match="z = 5 dimensions has no grid"):
        pattern.to_grid()
    with pytest.raises(InputError, match="z = 4 goes up to 16"):
        SumPattern.from_formula("sphere", z=4, resolution=17).to_grid()
    with pytest.raises(InputError, match=r"shape \[points, 5\], got \(3, 4\)"):
        pattern(torch.zeros(3, 4, dtype=torch.float64))
    with pytest.raises(InputError, match=r"must lie in \[0, 1\]"):
        pattern(torch.full((1, 5), 1.5, dtype=torch.float64))
