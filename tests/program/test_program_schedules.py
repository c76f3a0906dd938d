"""Scheduling: what is returned fits, more room never holds less, and errors name numbers."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from landform import Pattern
from landform.errors import CapacityError, InputError
from landform.program.bend import padded
from landform.program.compile import compile_pattern
from landform.testing import hard_points, patterns

torch.set_num_threads(1)


def pattern_of(n, z, seed=0):
    return Pattern(torch.from_numpy(np.random.default_rng(seed).random((n + 1,) * z)))


def compiled(pattern, widths, per_hinge=1, **options):
    """Compile the direct form; None if it does not fit. What fits must fit."""
    try:
        program = compile_pattern(pattern, None, widths=widths, per_hinge=per_hinge, dtype=torch.float64, **options)
    except CapacityError as error:
        if not any(character.isdigit() for character in str(error)):
            raise
        return None
    assert len(program.layers) <= len(widths)
    assert all(cost <= width for cost, width in zip(program.costs(per_hinge), widths, strict=False))
    return program


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(st.data())
def test_returned_programs_fit_and_more_room_never_holds_less(data):
    pattern = data.draw(patterns(data.draw(st.integers(1, 3)), max_cells=5))
    widths = data.draw(st.lists(st.integers(pattern.z, 50), min_size=2, max_size=8))
    per_hinge = data.draw(st.sampled_from((1, 2)))
    schedule = data.draw(st.sampled_from(("auto", "carry", "recompute")))
    form = "hats" if schedule == "recompute" else data.draw(st.sampled_from(("auto", "hats")))
    options = {"form": form, "schedule": schedule}
    program = compiled(pattern, widths, per_hinge, **options)
    if program is None:
        return
    h = hard_points(pattern.resolution, 5)
    assert program(h)[:, 0].sub(pattern(h)).abs().max() < 1e-11
    place = data.draw(st.integers(0, len(widths) - 1))
    wider = [w + (7 if i == place else 0) for i, w in enumerate(widths)]
    assert compiled(pattern, wider, per_hinge, **options) is not None
    assert compiled(pattern, [*widths, pattern.z], per_hinge, **options) is not None
    if per_hinge == 2:
        assert compiled(pattern, widths, 1, **options) is not None


def test_the_test_above_sees_both_outcomes():
    assert compiled(pattern_of(3, 2), [2, 11, 16]) is not None
    assert compiled(pattern_of(3, 2), [2, 5, 5]) is None


def test_depth_buys_resolution_at_constant_width():
    """With h and one sum carried, about ten units hold any n."""
    for n in (2, 5, 9):
        pattern = pattern_of(n, 2)
        program = compiled(pattern, [2] + [12] * (2 * (n + 1) ** 2), form="hats", schedule="recompute")
        assert program is not None
        assert max(program.widths) <= 12
        assert program(pattern.mesh.nodes())[:, 0].sub(pattern.values.reshape(-1)).abs().max() < 1e-12


@pytest.mark.parametrize(("form", "channels"), [("hats", None), ("strips", 12)])
def test_carrying_over_many_layers_equals_one_layer(form, channels):
    shape = (6, 6) if channels is None else (6, 6, channels)
    pattern = Pattern(torch.from_numpy(np.random.default_rng(0).random(shape)), channels=channels)
    one = compile_pattern(pattern, None, form=form, schedule="carry", dtype=torch.float64)
    room = one.widths[1] + (channels or 1) + 9
    spread = compiled(pattern, [2] + [room] * 9, form=form, schedule="carry")
    assert spread is not None
    assert len(spread.layers) > len(one.layers)
    h = hard_points((5, 5), 30)
    torch.testing.assert_close(spread(h), one(h), rtol=0, atol=1e-12)


def test_a_leaky_unit_costs_two():
    program = compile_pattern(pattern_of(4, 2), None, form="hats", dtype=torch.float64)
    for layer, single, double in zip(program.layers, program.costs(1), program.costs(2), strict=True):
        assert single == layer.units
        assert double == 2 * layer.units - int(layer.carried.sum())


def test_padding_carries_the_output():
    program = compile_pattern(pattern_of(4, 2), None, dtype=torch.float64)
    longer = padded(program, 3)
    h = hard_points((4, 4), 20)
    assert len(longer.layers) == len(program.layers) + 3
    torch.testing.assert_close(longer(h), program(h), rtol=0, atol=1e-14)
    assert padded(program, 0) is program


def test_merging_needs_an_identity_injection():
    program = compile_pattern(pattern_of(3, 2), None, dtype=torch.float64)
    merged = program.merged()
    assert len(merged.layers) == len(program.layers) - 1
    assert merged.z == 2
    with pytest.raises(AssertionError, match="only an identity injection"):
        merged.merged()


@pytest.mark.parametrize(
    ("widths", "message"),
    [
        ([1, 40, 40], "z = 2 is injected into 2 first-layer biases, but the first layer has 1 units"),
        ([2], "1 hidden layers are too few"),
        ([2, 10, 90], r"the hinge layer needs 19 units in hidden layer 2, which has 10"),
        ([2, 19, 5], r"carrying the hinges needs \d+ units in hidden layer 3, which has 5"),
        ([2, 19, 24, 25], r"hats \(carry\): \d+ of 36 hats are left after the last hidden layer"),
    ],
)
def test_capacity_errors_name_numbers(widths, message):
    with pytest.raises(CapacityError, match=message):
        compile_pattern(pattern_of(5, 2), None, widths=widths, form="hats", dtype=torch.float64)


def test_no_form_fits_says_why_each_does_not():
    with pytest.raises(CapacityError, match=r"hats \(carry\).*hats \(recompute\).*strips \(carry\)"):
        compile_pattern(pattern_of(9, 2), None, widths=[2, 9, 9])


def test_unknown_schedule():
    with pytest.raises(InputError, match="schedule='later' does not exist"):
        compile_pattern(pattern_of(3, 2), None, schedule="later")
