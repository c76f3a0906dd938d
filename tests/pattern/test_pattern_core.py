"""The Pattern itself: its promises, and what it refuses."""

import copy
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from landform.errors import InputError
from landform.pattern import Pattern
from landform.pattern.resolution import LIMITS, cells_of

torch.set_num_threads(1)


def f64(values: object) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.sampled_from([None, 1, 3]), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_nodes_get_their_values(cells: list[int], channels: int | None, seed: int) -> None:
    shape = [n + 1 for n in cells] + ([] if channels is None else [channels])
    values = torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    pattern = Pattern(values, channels=channels)
    assert pattern.resolution == tuple(cells) == pattern.mesh.cells
    assert pattern.z == len(cells)
    at_nodes = pattern(pattern.mesh.nodes())
    assert torch.allclose(at_nodes.reshape(shape), values, atol=1e-15, rtol=0)


def test_affine_patterns_are_exact_between_nodes() -> None:
    pattern = Pattern.from_callable(lambda h: 0.2 + 0.5 * h[:, 0] + 0.3 * h[:, 1], resolution=(5, 3))
    h = torch.rand(200, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(pattern(h), 0.2 + 0.5 * h[:, 0] + 0.3 * h[:, 1], atol=1e-14, rtol=0)


def test_floor_ceiling_constant() -> None:
    pattern = Pattern(f64([0.25, 0.5, 0.75]))
    assert (pattern.floor, pattern.ceiling, pattern.is_constant) == (0.25, 0.75, False)
    assert Pattern(f64([0.5, 0.5])).is_constant
    assert Pattern(f64([0.5, 0.5 + 1e-16])).is_constant
    assert not Pattern(f64([0.5, 0.5 + 1e-9])).is_constant


def test_patterns_can_be_copied() -> None:
    pattern = Pattern.from_formula("sphere", resolution=4)
    twin = copy.deepcopy(pattern)
    assert torch.equal(twin.values, pattern.values)
    assert twin.source == pattern.source


@pytest.mark.parametrize(
    ("values", "channels", "match"),
    [
        (torch.zeros(3), None, "float64 tensor, got torch.float32"),
        ([0.0, 1.0], None, "float64 tensor, got list"),
        (f64([0.0, 1.5]), None, r"lie in \[0.0, 1.5\]"),
        (f64([-0.1, 0.5]), None, r"lie in \[-0.1, 0.5\]"),
        (f64([0.0, float("nan"), float("inf")]), None, r"2 of 3 values are not finite, the first at index \(1,\)"),
        (f64([0.0]), None, "at least 1 cell"),
        (f64(0.5), None, "1 to 4 dimensions, got 0"),
        (f64([[0.0, 1.0]] * 2), 3, r"channels = 3, but values have shape \(2, 2\)"),
        (torch.zeros(2, 0, dtype=torch.float64), 0, "1 to 64 channels"),
        (torch.zeros([2] * 5, dtype=torch.float64), None, "1 to 4 dimensions, got 5"),
    ],
)
def test_unfit_values_are_refused(values: object, channels: int | None, match: str) -> None:
    with pytest.raises(InputError, match=match):
        Pattern(values, channels=channels)  # type: ignore[arg-type]


@pytest.mark.parametrize("z", [1, 2, 3, 4])
def test_limits_are_reached_and_named(z: int) -> None:
    assert cells_of(LIMITS[z], z) == (LIMITS[z],) * z
    with pytest.raises(InputError, match=f"z = {z} goes up to {LIMITS[z]} cells"):
        cells_of(LIMITS[z] + 1, z)


@pytest.mark.parametrize(
    ("resolution", "z", "match"),
    [
        (0, 2, "at least 1 cell"),
        (-3, 2, "at least 1 cell"),
        (2.5, 2, r"whole number, got 2.5 \(float\)"),
        (True, 2, "whole number, got True"),
        ("64", 2, "whole number"),
        ((4, 4, 4), 2, "has 3 entries"),
        (4, 5, "z = 5"),
        (4, 0, "z = 0"),
    ],
)
def test_unfit_resolutions_are_refused(resolution: object, z: int, match: str) -> None:
    with pytest.raises(InputError, match=match):
        cells_of(resolution, z)  # type: ignore[arg-type]


def test_points_outside_the_box_are_refused() -> None:
    with pytest.raises(InputError, match=r"must lie in \[0, 1\]"):
        Pattern(f64([0.0, 1.0]))(f64([[1.1]]))


HEAVY = ["PIL", "matplotlib", "segno", "scipy", "xarray", "sklearn"]
LOOK = f"print([m for m in {HEAVY} if m in sys.modules])"
ALONE = """
import importlib.util, sys, types
package = types.ModuleType("landform")  # the package without its __init__, which imports other parts
package.__path__ = list(importlib.util.find_spec("landform").submodule_search_locations)
sys.modules["landform"] = package
import landform.pattern
"""


def test_import_is_cheap_and_this_test_can_fail() -> None:
    script = f"{ALONE}; {LOOK}; import PIL; {LOOK}".replace("\n; ", "\n")
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines() == ["[]", "['PIL']"]
