"""The pattern register: exact at nodes, equal to a naive interpolation between them, and its laws."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings

from landform import Mesh, Pattern, SumPattern
from landform.errors import InputError
from landform.program.basis import compressed_basis
from landform.program.compile import compile_pattern
from landform.program.strips import hinge_units, strips
from landform.testing import hard_points, kuhn_value, patterns, sums

torch.set_num_threads(1)
DOUBLE = torch.float64


def random_pattern(cells, *, seed=0, channels=None, denominator=None):
    shape = [n + 1 for n in cells] + ([channels] if channels else [])
    values = torch.from_numpy(np.random.default_rng(seed).random(shape))
    if denominator:
        values = (values * denominator).round() / denominator
    return Pattern(values, channels=channels)


def register(pattern, **options):
    return compile_pattern(pattern, None, dtype=DOUBLE, **options)


FORMS = {1: ("hats", "hinges"), 2: ("hats", "rows", "strips"), 3: ("hats",), 4: ("hats",)}


@settings(max_examples=25, deadline=None, derandomize=True, database=None)
@given(patterns())
def test_every_form_and_schedule_is_the_p1_interpolant(pattern):
    h = hard_points(pattern.resolution, 4)
    want = torch.tensor([kuhn_value(pattern.values, point) for point in h.tolist()], dtype=DOUBLE)
    tried = 0
    for form in FORMS[pattern.z]:
        for schedule in ("carry", "recompute") if form == "hats" else ("carry",):
            if form != "hats" and pattern.z == 2 and min(pattern.resolution) == 1:
                continue
            for axis_aligned in (True, False):
                program = register(pattern, form=form, schedule=schedule, axis_aligned=axis_aligned)
                assert program(h)[:, 0].sub(want).abs().max() < 1e-12
                tried += 1
    assert tried >= 2


@settings(max_examples=10, deadline=None, derandomize=True, database=None)
@given(sums())
def test_sums_are_their_sum(pattern):
    h = hard_points([len(f) - 1 for f in pattern.axes], 4)
    want = [sum(kuhn_value(axis, [x]) for axis, x in zip(pattern.axes, point, strict=True)) for point in h.tolist()]
    for axis_aligned in (True, False):
        program = register(pattern, axis_aligned=axis_aligned)
        torch.testing.assert_close(program(h)[:, 0], torch.tensor(want, dtype=DOUBLE), rtol=0, atol=1e-13)


@pytest.mark.parametrize(("z", "n"), [(1, 64), (2, 16), (3, 4), (4, 2)])
@pytest.mark.parametrize("schedule", ["carry", "recompute"])
@pytest.mark.parametrize("axis_aligned", [True, False])
def test_hats_are_exact_at_nodes_of_dyadic_meshes(z, n, schedule, axis_aligned):
    pattern = random_pattern((n,) * z)
    program = register(pattern, form="hats", schedule=schedule, axis_aligned=axis_aligned)
    assert torch.equal(program(pattern.mesh.nodes())[:, 0], pattern.values.reshape(-1))


@pytest.mark.parametrize(("form", "cells"), [("strips", (16, 16)), ("strips", (8, 32)), ("hinges", (64,))])
def test_strips_and_hinges_are_exact_at_nodes_for_dyadic_values(form, cells):
    pattern = random_pattern(cells, denominator=1024)
    program = register(pattern, form=form)
    assert torch.equal(program(pattern.mesh.nodes())[:, 0], pattern.values.reshape(-1))
    rough = random_pattern(cells)
    assert register(rough, form=form)(rough.mesh.nodes())[:, 0].sub(rough.values.reshape(-1)).abs().max() < 1e-12


@pytest.mark.parametrize("form", ["hats", "rows", "strips"])
def test_channels_do_not_mix(form):
    pattern = random_pattern((4, 3), channels=3)
    h = hard_points((4, 3), 20)
    found = register(pattern, form=form)(h)
    for channel in range(3):
        single = Pattern(pattern.values[..., channel].contiguous())
        torch.testing.assert_close(found[:, channel], single(h), rtol=0, atol=1e-13)


@pytest.mark.parametrize("form", ["hats", "rows", "strips"])
def test_swapping_axes_swaps_coordinates(form):
    pattern = random_pattern((5, 3))
    swapped = Pattern(pattern.values.T.contiguous())
    h = hard_points((5, 3), 30)
    torch.testing.assert_close(
        register(pattern, form=form)(h), register(swapped, form=form)(h.flip(1)), rtol=0, atol=1e-13
    )


def test_all_registers_are_non_negative_where_they_claim_to_be_carried():
    """A carried unit must be the identity under any activation that is one on [0, ∞), LeakyReLU for instance."""
    for z, n, form in [
        (1, 7, "hinges"),
        (1, 7, "hats"),
        (2, 5, "rows"),
        (2, 5, "strips"),
        (2, 5, "hats"),
        (3, 2, "hats"),
        (4, 2, "hats"),
    ]:
        for widths in (None, [z] + [40] * 12):
            try:
                program = register(random_pattern((n,) * z), form=form, widths=widths)
            except ValueError:  # too narrow for z = 4
                continue
            x = hard_points((n,) * z, 50).T.numpy()
            for layer in program.layers:
                pre = layer.weight @ x + layer.bias[:, None]
                assert pre[layer.carried].min(initial=0.0) > -1e-12, (z, form, layer.role)
                x = np.maximum(pre, 0)


def test_growth_of_unit_counts():
    for n in (4, 8, 16):
        rough = random_pattern((n, n))
        hats, rows, strips = (register(rough, form=form) for form in ("hats", "rows", "strips"))
        assert rows.basis == n + 1
        assert rows.widths == (2, 4 * n + 4, 4 * n + 4, 2 * n, n + 1)
        assert hats.basis == (n + 1) ** 2
        assert strips.basis == n - 1
        assert strips.widths == (2, 4 * n - 1, n)
        assert hats.widths == (2, 4 * n - 1, (n + 1) ** 2)
    assert register(random_pattern((32,)), form="hinges").widths == (1, 32)
    many = SumPattern.from_axes(
        [torch.rand(9, dtype=DOUBLE, generator=torch.Generator().manual_seed(i)) for i in range(100)]
    )
    assert register(many).widths == (100, 800, 100)  # h, then h and its hinges, then f_i


@pytest.mark.parametrize("tolerance", [0.01, 0.05, 0.1, 0.2, 0.5, 0.9])
@pytest.mark.parametrize("cells", [(16, 16), (32,), (4, 4, 4)])
def test_compression_keeps_its_tolerance_and_reports_its_error_exactly(tolerance, cells):
    for seed in range(3):
        pattern = random_pattern(cells, seed=seed)
        basis = compressed_basis(pattern.mesh, pattern.values, tolerance)
        h = torch.cat([pattern.mesh.nodes(), hard_points(cells, 50)])
        found = register(pattern, form="hats", tolerance=tolerance)(h)[:, 0]
        measured = float((found - pattern(h)).abs().max())
        assert measured == pytest.approx(basis.error, abs=1e-12)
        assert basis.error <= tolerance


def test_compression_drops_what_a_coarser_mesh_holds():
    coarse = random_pattern((4, 4))
    fine = Pattern(coarse(Mesh((16, 16)).nodes()).reshape(17, 17))
    basis = compressed_basis(fine.mesh, fine.values, 1e-9)
    assert basis.size <= 25
    assert basis.error < 1e-12


@pytest.mark.parametrize(("cells", "tolerance"), [((5, 5), 0.0), ((3, 7), 0.0), ((16, 16), 0.05), ((6,), 0.0)])
def test_hats_that_are_clearly_off_are_the_same_hats(cells, tolerance):
    pattern = random_pattern(cells)
    h = hard_points(pattern.resolution, 40)
    made = register(pattern, form="hats", clear=True, tolerance=tolerance)
    plain = register(pattern, form="hats", tolerance=tolerance)
    assert (made(h) - plain(h)).abs().max() < 1e-13


def test_hats_that_are_clearly_off_read_three_hinges_that_are_small_near_the_node():
    cells = 9
    h = Mesh((cells, cells)).nodes()
    program = register(random_pattern((cells, cells)), form="hats", clear=True)
    hinges = program.layers[1]
    x = np.maximum(hinges.weight @ h.numpy().T + hinges.bias[:, None], 0)
    hats = program.layers[2]
    own = np.flatnonzero(~hats.carried)
    pre = hats.weight[own] @ x + hats.bias[own, None]
    size = abs(hats.weight[own]) @ x + np.abs(hats.bias[own, None])
    assert len(own) == (cells + 1) ** 2
    assert np.diff(hats.weight[own].indptr).max() <= 3
    corner = cells  # at (0, n), whose third hinge would serve no other hat
    assert np.delete(np.where(pre > -0.5, size, 0), corner, axis=0).max() < 2 + 1e-9  # 1, and hinges of 1 together
    assert size[corner, corner] == 1 + 4 * cells - 2
    assert (np.abs(pre) < 0.5).sum(0).max() <= 6  # no node but the neighbours' is near a hat's knot


def test_unknown_forms_name_what_there_is():
    with pytest.raises(InputError, match=r"form='strips'.*does not exist for z = 1; there are: .*hinges \(carry\)"):
        register(random_pattern((4,)), form="strips")
    with pytest.raises(InputError, match="does not exist for z = 2"):
        register(random_pattern((4, 4)), form="strips", schedule="recompute")


def test_hinges_of_strips_are_half_as_large_and_half_as_many_at_once():
    """Up to the middle they fall, from there they rise: the same functions over either basis."""
    values = torch.from_numpy(np.random.default_rng(0).random((7, 6)))
    form = strips(values.numpy())
    h = torch.from_numpy(np.random.default_rng(1).random((200, 2)))
    on: dict[str, torch.Tensor] = {}
    for group in hinge_units((6, 5)):
        x = torch.zeros(len(h), group.size, dtype=DOUBLE) + torch.as_tensor(group.bias)
        for _, axis, coefficient in group.terms:
            x = x + h[:, torch.as_tensor(axis)] * torch.as_tensor(coefficient)
        on[group.name] = x.relu()
    half = {"x0": (3, 3), "x1": (3, 3), "d01": (6, 6)}  # of 5, 4 and 10 hinges, up to 6, 5 and 11
    for group, (size, count) in half.items():
        assert on[group].max() <= size
        assert (on[group] > 0).sum(dim=1).max() <= count
    total = form.line_bias - form.offset + sum(on[g] @ torch.from_numpy(row[0]) for g, row in form.line.items())
    units = torch.from_numpy(form.unit_bias) + sum(on[g] @ torch.from_numpy(b.T.copy()) for g, b in form.units.items())
    torch.testing.assert_close(total + units.relu().sum(dim=1), Pattern(values)(h), atol=1e-13, rtol=0)
