"""Figures of measurements: intervals, interpolated nodes, paths, several surfaces on one scale."""

import matplotlib as mpl
import numpy as np
import pytest
import xarray as xr
from matplotlib import pyplot as plt

from landform.errors import InputError, MissingExtraError, UnknownNameError
from landform.view import (
    contour,
    draw_path,
    heat,
    interactive,
    picture,
    profile,
    register,
    relief,
    side_by_side,
    spread,
    surface_html,
    trajectory,
    uncertainty,
)
from landform.view.trajectory import path_of

register()


def bowl(n=33, m=None, **attrs):
    """A bowl with intervals, every second node measured, on [−1, 1] × [0, 2]."""
    x, y = np.linspace(-1, 1, n), np.linspace(0, 2, m or n)
    value = 0.5 + x[:, None] ** 2 + (y - 1) ** 2
    status = np.ones(value.shape, dtype=np.int8)
    status[::2, ::2] = 0
    half = np.where(status == 0, 0.1, 0.2)
    dims = ("h1", "h2")
    variables = {
        "loss": (dims, value, {"units": "nat"}),
        "loss_stderr": (dims, half / 3, {"units": "nat"}),
        "loss_lower": (dims, value - half, {"units": "nat"}),
        "loss_upper": (dims, value + half, {"units": "nat"}),
        "status": (dims, status),
    }
    return xr.Dataset(variables, {"h1": x, "h2": y}, {"confidence": 0.99, **attrs})


@pytest.fixture(autouse=True)
def nothing_leaks():
    before = dict(mpl.rcParams)
    yield
    assert plt.get_fignums() == []
    assert dict(mpl.rcParams) == before


def notes(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def test_interpolated_nodes_can_be_told_from_measured_ones():
    ax = heat(bowl(9, 5), contours=False)
    assert notes(ax)[0] == "measured: 15 of 45 nodes, the others interpolated"
    points = np.asarray(ax.collections[0].get_offsets())
    assert {tuple(point) for point in points} == {(x, y) for x in np.linspace(-1, 1, 5) for y in (0, 1, 2)}
    assert len(heat(bowl(9), contours=False, dots=False).collections) == 0
    assert heat(bowl(9), notes=False).get_legend() is None


def test_a_map_says_how_sure_it_is():
    shown = [text.get_text() for text in heat(bowl(confidence=0.99)).get_legend().get_texts()]
    assert shown[-1] == "± 0.1 nat at most, at all measured nodes at once with 99 %"
    quiet = heat(bowl(confidence=0.99), notes=False)
    assert quiet.get_legend() is None
    exact = bowl().assign(loss_lower=bowl().loss, loss_upper=bowl().loss)
    assert len(heat(exact).get_legend().get_texts()) == 1


def test_labels_of_the_axes_of_a_landscape_do_not_meet():
    ax = relief(bowl())  # [−1, 1] × [0, 2]
    ax.figure.canvas.draw()
    low, high = ax.get_ylim()
    shown = [place for place in ax.get_yticks() if low <= place <= high]
    assert shown == [0.5, 1.0, 1.5]
    ticks = relief(bowl().assign(loss=100 * bowl().loss), log=True)
    ticks.figure.canvas.draw()
    assert [text.get_text() for text in ticks.get_zticklabels() if text.get_text()]
    assert not any("e" in text.get_text() for text in ticks.get_zticklabels())


def test_a_surface_measured_everywhere_has_no_dots():
    surface = bowl(9)
    surface["status"][:] = 0
    ax = heat(surface, contours=False)
    assert notes(ax) == ["± 0.2 nat at most, at all measured nodes at once with 99 %"]
    assert len(ax.collections) == 0


def test_nodes_that_were_not_reached_differ_from_values_that_are_not_finite():
    surface = bowl(9)
    surface["loss"][0, :] = np.nan
    surface["status"][0, :] = 3
    surface["loss"][5:, :] = np.nan
    surface["status"][5:, :] = 2
    ax = heat(surface)
    assert notes(ax)[:2] == ["not finite: 9 of 81 nodes", "not measured: 36 of 81 nodes"]
    hatches = [collection.get_hatch() for collection in ax.collections if collection.get_hatch()]
    assert len(hatches) == len(set(hatches)) == 2


def test_robust_colours_ignore_the_corners():
    surface = bowl(21)
    surface["loss"][0, 0] = 1e6
    ax = heat(surface, clip="robust")
    assert ax.images[0].norm.vmax < 4
    assert ax.images[0].colorbar.extend == "both"
    assert heat(surface.assign(loss=surface.loss * 0 + 1.0), clip="robust").images[0].norm.vmin == 1.0


def test_axes_say_what_a_coordinate_is_and_in_which_unit():
    surface = bowl(5)
    surface["h1"].attrs = {"direction": "top eigenvector", "units": "filter norms"}
    ax = heat(surface)
    assert ax.get_xlabel() == "$h_{1}$, top eigenvector (filter norms)"
    assert ax.get_ylabel() == "$h_{2}$"


def test_level_lines_lie_where_the_loss_has_that_value():
    ax = contour(bowl(65), levels=[1.0])
    path = ax.collections[0].get_paths()[0].vertices
    np.testing.assert_allclose(np.hypot(path[:, 0], path[:, 1] - 1), 0.5**0.5, atol=1e-3)
    assert ax.get_xlim() == (-1, 1)
    assert ax.get_ylim() == (0, 2)


def test_level_lines_refuse_what_has_none():
    with pytest.raises(InputError, match="the surface is flat there"):
        contour(xr.zeros_like(bowl(5)))
    with pytest.raises(InputError, match="level lines need a grid over two coordinates, the surface has h1"):
        contour(bowl(5).isel(h2=0))
    with pytest.raises(UnknownNameError, match="loss"):
        contour(bowl(5), variable="los")
    with pytest.raises(InputError, match="log=True needs positive values"):
        contour(bowl(5) - 3, log=True)


@pytest.mark.parametrize("log", [False, True])
def test_filled_levels_have_holes_where_nothing_is_finite(log):
    surface = bowl(17)
    surface["loss"][4:7, 4:7] = np.inf
    ax = contour(surface, filled=True, log=log)
    ax.figure.canvas.draw()
    levels = ax.collections[0].levels
    assert len(levels) >= 3
    assert (levels > 0.5).all()


def test_a_profile_shades_the_interval():
    ax = profile(bowl(9).isel(h2=4))
    band = ax.collections[0]
    assert band.get_label() == "interval, 99 % at all nodes"
    ends = band.get_paths()[0].vertices
    inside = ends[np.isclose(ends[:, 0], 0.0)][:, 1]
    np.testing.assert_allclose([inside.min(), inside.max()], [0.4, 0.6])
    np.testing.assert_allclose(ax.lines[1].get_xdata(), np.linspace(-1, 1, 5))  # the measured nodes
    assert not profile(bowl(9).isel(h2=4), band=False).collections


def test_an_exact_profile_has_no_band():
    line = bowl(9).isel(h2=4)
    line = line.assign(loss_lower=line.loss, loss_upper=line.loss)
    assert not profile(line).collections


def test_parts_of_the_data_are_lines_of_one_profile():
    line = bowl(9).isel(h2=4).drop_vars("h2")
    parts = xr.concat([line, line + 1], dim=xr.DataArray(["train", "test"], dims="split", name="split"))
    ax = profile(parts)
    labels = [line.get_label() for line in ax.lines if not line.get_label().startswith("_")]
    assert labels == ["train", "test"]
    assert len(picture(parts).axes) == 1
    with pytest.raises(InputError, match=r"parts train, test; choose one: surface.sel\(split='train'\)"):
        heat(xr.concat([bowl(5), bowl(5)], dim=parts["split"]))


def test_uncertainty_is_half_the_interval():
    ax = uncertainty(bowl(9))
    np.testing.assert_allclose(np.unique(ax.images[0].get_array().round(12)), [0.1, 0.2])
    line = bowl(9).isel(h2=0).drop_vars(["loss_lower", "loss_upper"])
    np.testing.assert_allclose(np.unique(uncertainty(line).lines[0].get_ydata().round(6)), [0.033333, 0.066667])
    with pytest.raises(InputError, match="nothing is known about the error of 'loss'"):
        uncertainty(line.drop_vars("loss_stderr"))


def sampled(n=9):
    """A surface whose interpolated nodes have no interval."""
    surface = bowl(n)
    for end in ("loss_lower", "loss_upper", "loss_stderr"):
        surface[end] = surface[end].where(surface.status == 0)
    return surface


def test_interpolated_nodes_without_an_interval_are_blank_not_broken():
    ax = uncertainty(sampled())
    assert notes(ax) == ["interpolated, no interval: 56 of 81 nodes"]
    broken = sampled()
    broken["loss_upper"][0, 0] = np.inf
    assert notes(uncertainty(broken)) == ["not finite: 1 of 81 nodes", "interpolated, no interval: 56 of 81 nodes"]


def test_a_profile_with_gaps_in_its_band_has_bars():
    ax = profile(sampled().isel(h2=4))
    bars = ax.collections[0]
    assert bars.get_label() == "interval, 99 % at all nodes"
    np.testing.assert_allclose([bar[0][0] for bar in bars.get_segments()], np.linspace(-1, 1, 5))
    np.testing.assert_allclose(bars.get_segments()[2][:, 1], [0.4, 0.6])


STEPS = np.stack([np.linspace(1, 0, 6), np.linspace(2, 1, 6)], axis=1)


class Recorded:
    coordinates = STEPS
    off_plane = np.arange(6.0)


def test_a_path_is_read_from_whatever_holds_one():
    dataset = xr.Dataset(
        {"h1": ("step", STEPS[:, 0]), "h2": ("step", STEPS[:, 1]), "off_plane": ("step", np.arange(6.0))}
    )
    for path in (dataset, Recorded(), (STEPS, np.arange(6.0)), (STEPS.tolist(), list(range(6)))):
        found = path_of(path)
        np.testing.assert_array_equal(found.coordinates, STEPS)
        np.testing.assert_array_equal(found.off_plane, np.arange(6))
    assert path_of(STEPS).off_plane is None
    for bad, said in (
        (STEPS[0], r"shape \[steps, z\], at least one step; got \[2\]"),
        ("path", "got str"),
        ((STEPS, [1.0]), r"there are \[1\] distances from the plane for 6 steps"),
        (xr.Dataset({"a": 1}), "has variables h1, h2, …; this dataset has a"),
    ):
        with pytest.raises(InputError, match=said):
            path_of(bad)


def test_a_surface_may_hold_the_path_that_its_plane_was_made_from():
    surface = bowl(9, path=STEPS.tolist(), off_plane=[0.0] * 6)
    np.testing.assert_array_equal(surface.landform.trajectory().lines[0].get_xydata(), STEPS)
    with pytest.raises(InputError, match="was not made from checkpoints; pass their path"):
        bowl(9).landform.trajectory()


def test_the_path_lies_on_its_coordinates_and_the_map_keeps_its_limits():
    ax = trajectory(bowl(9), (STEPS * 3, np.arange(6.0)))
    np.testing.assert_array_equal(ax.lines[0].get_xydata(), STEPS * 3)
    assert ax.get_xlim() == heat(bowl(9)).get_xlim()
    assert ax.get_legend().get_title().get_text() == "6 of 6 outside"
    assert "5" in notes(ax)
    with pytest.raises(InputError, match="a map has two coordinates, the path has 3"):
        draw_path(ax, np.zeros((4, 3)))


def test_a_checkpoint_far_from_the_plane_has_a_larger_marker():
    ax = trajectory(bowl(9), (STEPS, [0.0, 1.0, 2.0, 4.0, 2.0, 0.0]))
    sizes = next(c.get_sizes() for c in ax.collections if len(c.get_sizes()) == 6)
    assert sizes.argmax() == 3
    assert sizes[0] == sizes[5] == sizes.min()
    assert (np.diff(sizes[:4]) > 0).all()


def test_both_notes_stay_when_a_path_is_drawn_over_a_map_with_interpolated_nodes():
    ax = trajectory(bowl(9), STEPS)
    legends = [child for child in ax.get_children() if isinstance(child, mpl.legend.Legend)]
    assert len(legends) == 2


def test_the_spread_is_the_standard_deviation_over_the_range():
    surfaces = [bowl(9).assign(loss=bowl(9).loss + shift) for shift in (-0.1, 0.0, 0.1)]
    found = spread(surfaces)
    np.testing.assert_allclose(found["std"], 0.1)
    height = np.ptp(np.quantile(bowl(9).loss, (0.01, 0.99)))
    assert found.attrs["share"] == pytest.approx(0.1 / height)
    errors = bowl(9).loss_stderr.values
    assert found.attrs["noise"] == pytest.approx(np.sqrt((errors**2).mean()) / height)
    assert spread(surfaces[:1] * 2).attrs["share"] == 0


def test_the_spread_leaves_out_what_is_not_finite():
    one, two = bowl(9), bowl(9)
    two["loss"][0, 0] = np.inf
    found = spread({"a": one, "b": two})
    assert np.isnan(found["std"][0, 0])
    assert found.attrs["share"] == 0


def test_a_spread_needs_surfaces_over_the_same_places():
    with pytest.raises(InputError, match="there is one; scan more"):
        spread([bowl(5)])
    with pytest.raises(InputError, match=r"not over the same coordinates; .*to_grid\(33\)"):
        spread([bowl(5), bowl(9)])


def test_surfaces_side_by_side_have_one_scale():
    figure = side_by_side({"a": bowl(9), "b": bowl(9).assign(loss=bowl(9).loss * 3)}, title="two")
    maps = [ax for ax in figure.axes if ax.images]
    assert [ax.get_title(loc="left") for ax in maps] == ["a", "b", "standard deviation"]
    assert {(ax.images[0].norm.vmin, ax.images[0].norm.vmax) for ax in maps[:2]} == {(0.5, 7.5)}
    assert "between 2 surfaces the value varies by" in figure.get_suptitle()
    assert len(side_by_side([bowl(5), bowl(9)]).axes) == 2  # other grids: maps, but no spread
    assert side_by_side([bowl(5, seed=3), bowl(5, seed=3)]).axes[1].get_title(loc="left") == "seed 3 (2)"


def test_side_by_side_refuses_what_does_not_fit():
    with pytest.raises(InputError, match="there is no surface to draw"):
        side_by_side([])
    with pytest.raises(InputError, match="these are over h1, h2; h1"):
        side_by_side([bowl(5), bowl(5).isel(h2=0)])


def test_parts_of_the_data_are_pictured_side_by_side():
    both = xr.concat([bowl(5), bowl(5)], dim=xr.DataArray(["train", "test"], dims="split", name="split"))
    assert [ax.get_title(loc="left") for ax in picture(both).axes[:2]] == ["train", "test"]
    with pytest.raises(InputError, match="draws one part of the data"):
        picture(both, kind="relief")
    assert "<img" in surface_html(both)
    assert "<img" in surface_html(bowl(9).landform.measured().assign(level=("node", np.zeros(25, dtype=int))))


def test_a_landscape_to_turn_has_the_values_and_the_path_on_it(tmp_path):
    pytest.importorskip("plotly")
    surface = bowl(9, 5)
    surface["loss"][0, 0] = np.nan
    figure = interactive(surface, tmp_path / "s.html", path=(STEPS, np.arange(6.0)), interval=True, offline=False)
    np.testing.assert_array_equal(figure.data[0].z, surface.loss.values.T)
    assert list(figure.data[0].y) == [0, 0.5, 1, 1.5, 2]
    assert [trace.name for trace in figure.data[1:]] == ["loss_lower", "loss_upper", "path, on the surface"]
    assert "plotly" in (tmp_path / "s.html").read_text()
    logged = interactive(surface, log=True, clip=(0.6, 2))
    assert np.nanmin(logged.data[0].z) == pytest.approx(np.log10(0.6))
    assert logged.layout.scene.zaxis.ticktext == ("1", "2")
    for bad, said in (("s.png", "wanted .html"), ("none/s.html", "no such folder")):
        with pytest.raises(InputError, match=said):
            interactive(surface, tmp_path / bad)
    with pytest.raises(InputError, match="needs a grid over two coordinates"):
        interactive(surface.isel(h1=0))


def test_without_plotly_the_error_names_the_command(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "plotly.graph_objects", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'landform\[view\]'"):
        interactive(bowl(5))


def test_the_accessor_draws_everything():
    surface = bowl(9)
    figure = plt.figure()
    try:
        ax = figure.add_subplot()
        for draw in (
            surface.landform.plot,
            surface.landform.heat,
            surface.landform.contour,
            surface.landform.uncertainty,
        ):
            assert draw(ax) is ax
        assert surface.landform.trajectory(STEPS, ax) is ax
        assert surface.landform.plot(ax, path=STEPS, log=True) is ax
        line = figure.add_subplot()
        assert surface.isel(h1=0).landform.profile(line) is line
    finally:
        plt.close(figure)
