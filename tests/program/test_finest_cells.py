"""The finest resolution alone, found without the forms that lose."""

import pytest

from landform.program.capacity import capacity, finest_cells


@pytest.mark.parametrize("widths", [[2, 31, 81, 64], [2, 200, 40, 90, 64], [1, 50, 50, 50], [2, 5], [64] * 6])
@pytest.mark.parametrize("z", [1, 2])
def test_it_is_that_of_the_best_holding(widths, z):
    best = capacity(widths, z=z).best.cells
    assert finest_cells(widths, z=z) == best
    assert finest_cells(widths, z=z, at_least=best) == best


def test_hinges_that_are_injected_themselves_leave_more_room():
    widths = [40, 40, 60]
    assert finest_cells(widths, axis_aligned=False) == capacity(widths, axis_aligned=False).best.cells
    assert finest_cells(widths, axis_aligned=False) > finest_cells(widths)
