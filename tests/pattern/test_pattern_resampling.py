"""The resampling error against closed forms and brute force."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from landform.errors import InputError
from landform.pattern import Pattern, SumPattern, resampling, resampling_error
from landform.pattern.original import Pixels

torch.set_num_threads(1)


def f64(values: object) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def naive_bilinear(pixels: np.ndarray, x: float, y: float) -> float:
    """Interpolate along rows, then along columns, with numpy.interp, which extends constantly."""
    width, height = pixels.shape
    column = [np.interp(x, (np.arange(width) + 0.5) / width, pixels[:, r]) for r in range(height)]
    return float(np.interp(y, (np.arange(height) + 0.5) / height, column))


@given(st.integers(1, 5), st.integers(1, 5), st.integers(0, 999))
@settings(max_examples=40, deadline=None)
def test_pixels_interpolate_like_numpy(width: int, height: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    pixels, h = rng.random((width, height)), rng.random((20, 2))
    got = Pixels(torch.from_numpy(pixels))(torch.from_numpy(h))
    assert np.allclose(got, [naive_bilinear(pixels, x, y) for x, y in h], atol=1e-14)


@given(*(st.integers(1, 4) for _ in range(4)), st.integers(0, 999), st.sampled_from([None, 2]))
@settings(max_examples=60, deadline=None)
def test_sound_and_tight_against_brute_force(
    width: int, height: int, n1: int, n2: int, seed: int, channels: int | None
) -> None:
    generator = torch.Generator().manual_seed(seed)
    tail = () if channels is None else (channels,)
    original = Pixels(torch.rand(width, height, *tail, dtype=torch.float64, generator=generator))
    values = torch.rand(n1 + 1, n2 + 1, *tail, dtype=torch.float64, generator=generator)
    pattern = Pattern(values, channels=channels, original=original)
    error = resampling_error(pattern)
    axis = torch.arange(289, dtype=torch.float64) / 288  # hits every crossing of lines and diagonals
    h = torch.cartesian_prod(axis, axis)
    seen = float((pattern(h) - original(h)).abs().max())
    assert error.kind == "certified"
    assert seen <= error.value <= seen + 1e-2  # a peak inside a diagonal may lie between the samples


def test_peak_inside_a_diagonal() -> None:
    """On x = y the pattern is 0 and the pixels give 2·0.8·s(1 − s): 0.4 in the middle, where no two lines cross."""
    pattern = Pattern(f64([[0.0, 1.0], [1.0, 0.0]]), original=Pixels(f64([[0.0, 0.8], [0.8, 0.0]])))
    assert resampling_error(pattern).value == pytest.approx(0.4, abs=1e-10)


def test_corner_beyond_the_outermost_centres() -> None:
    """Pixels of xy on one cell: the extension is constant, so the corner (1, 1) differs most, by 1 − 9/16."""
    centres = [0.25, 0.75]
    pixels = Pixels(f64([[x * y for y in centres] for x in centres]))
    pattern = Pattern(f64([[0.0, 0.0], [0.0, 1.0]]), original=pixels)
    assert resampling_error(pattern).value == pytest.approx(1 - 9 / 16, abs=1e-10)


def test_constant_and_exact_cases() -> None:
    flat = Pattern(f64([[0.3, 0.3], [0.3, 0.3]]), original=Pixels(f64([[0.3]])))
    assert resampling_error(flat).value <= 1e-12
    steps = Pattern(f64([[0.0] * 2, [0.0] * 2, [1.0] * 2, [1.0] * 2]), original=Pixels(f64([[0.0], [1.0]])))
    assert resampling_error(steps).value == pytest.approx(1 / 6, abs=1e-10)  # at h1 = 1/3


def test_chunks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(3)
    original = Pixels(torch.rand(9, 7, dtype=torch.float64, generator=generator))
    pattern = Pattern(torch.rand(6, 4, dtype=torch.float64, generator=generator), original=original)
    formula = Pattern.from_formula("ripples", resolution=8)
    whole = resampling_error(pattern), resampling_error(formula)
    monkeypatch.setattr(resampling, "_CHUNK", 17_000)
    assert resampling_error(formula) == whole[1]
    monkeypatch.setattr(resampling, "_CHUNK", 5)
    assert resampling_error(pattern) == whole[0]


def test_invariant_under_inverting_and_turning_by_half(tmp_path: Path) -> None:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (13, 11), dtype=np.uint8))
    turned = picture.transpose(Image.Transpose.ROTATE_180)
    errors = []
    for image, invert in ((picture, False), (picture, True), (turned, False)):
        image.save(tmp_path / "x.png")
        errors.append(resampling_error(Pattern.from_image(tmp_path / "x.png", resolution=6, invert=invert)).value)
    assert errors == pytest.approx([errors[0]] * 3, abs=1e-11)


def test_shrinks_as_the_grid_becomes_finer(tmp_path: Path) -> None:
    x = np.linspace(0, 3, 40)
    smooth = 127 + 100 * np.sin(x)[:, None] * np.cos(x)[None]
    Image.fromarray(smooth.astype(np.uint8)).save(tmp_path / "x.png")
    coarse, fine = (resampling_error(Pattern.from_image(tmp_path / "x.png", resolution=n)).value for n in (5, 20))
    assert fine < coarse / 2


@pytest.mark.parametrize("z", [1, 2, 3])
def test_measured_for_formulas(z: int) -> None:
    """Between nodes 2ε = domain/N apart x² is off by ε² on each axis."""
    error = resampling_error(Pattern.from_formula("sphere", resolution=8, z=z))
    assert error.kind == "measured"
    assert error.value == pytest.approx(1 / 64, rel=1e-9)


def test_measured_in_four_dimensions_and_for_callables_with_channels() -> None:
    assert resampling_error(Pattern.from_formula("sphere", resolution=4, z=4)).value == pytest.approx(1 / 16)
    pattern = Pattern.from_callable(
        lambda h: torch.stack([h[:, 0], h[:, 0] ** 2], dim=1), resolution=2, z=1, channels=2
    )
    assert resampling_error(pattern).value == pytest.approx(1 / 16)


def test_measured_for_sums_adds_the_axes() -> None:
    summed = resampling_error(SumPattern.from_formula("sphere", z=30, resolution=8))
    assert summed.kind == "measured"
    assert summed.value == pytest.approx(1 / 64, rel=1e-9)
    opposed = SumPattern.from_callables([lambda t: t**2, lambda t: -(t**2)], resolution=4)  # one above, one below
    assert resampling_error(opposed).value == pytest.approx(1 / 64 / 2)


def test_arrays_are_their_own_original() -> None:
    for pattern in (Pattern.from_array([0.0, 1.0]), SumPattern.from_axes([[0.0, 1.0]])):
        assert resampling_error(pattern) == resampling.ResamplingError(0.0, "certified")


def test_unknown_where_the_original_was_not_kept() -> None:
    error = resampling_error(Pattern(f64([0.0, 1.0]), source={"kind": "image"}))
    assert error.kind == "unknown"
    assert math.isnan(error.value)


def test_other_types_are_refused() -> None:
    with pytest.raises(InputError, match="wanted a Pattern or SumPattern, got list"):
        resampling_error([0.0, 1.0])  # type: ignore[arg-type]
