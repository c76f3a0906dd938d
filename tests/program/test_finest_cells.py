"""The finest resolution alone, found without the forms that lose."""

import pytest

from landform.imprint.lower.network import read
from landform.program.capacity import _before_curve, _schedule, capacity, finest_cells
from landform.testing import networks


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


def test_the_search_finds_what_an_architecture_holds_whatever_it_begins_with():
    net = networks.with_statistics(networks.ResNet(16, ((16, 1), (32, 2)), 2))
    found = read(net)
    check = found.checker(net)
    for held in capacity(found.rooms, check=check).holdings:
        inner = found.rooms[1:]
        for last, cells in ((1, held.cells), (0, held.direct_cells)):
            layers = inner[: _before_curve(inner)] if last else inner
            fits = [
                _schedule(held.form, held.schedule, (n, n), layers, 1, 1, check) is not None
                for n in range(2, cells + 3)
            ]
            assert cells >= 4 or held.form == "rows"  # the wide layers are too few for four
            assert fits == [True] * max(0, cells - 1) + [False] * (2 if cells else 1)


def test_a_schedule_that_is_told_where_to_begin_falls_back_to_any_other():
    units = [4, 4, 31, 81, 64]
    apart = [_schedule("strips", "carry", (8, 8), units, 1, 1, None, begin) for begin in (0, 2, 1, 4, 9)]
    assert [state.begins for state in apart] == [2] * 5
