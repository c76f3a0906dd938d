"""Figures: every node where it belongs, in the units it says, and nothing left behind."""

import subprocess
import sys
import warnings

import matplotlib as mpl
import numpy as np
import pytest
import xarray as xr
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from mpl_toolkits.mplot3d import proj3d
from PIL import Image

from landform.certify.certificate import Certificate
from landform.errors import InputError, UnknownNameError
from landform.mesh import Mesh
from landform.view import compare, heat, picture, profile, relief, scatter
from landform.view.compare import largest
from landform.view.read import edges, is_smooth
from landform.view.style import plain


def surface(values, *, target=None, unit="nat", coords=None, title="made up"):
    """Build a surface by hand, as `landform.scan` would."""
    values = np.asarray(values, dtype=np.float64)
    z = values.ndim
    dims = tuple(f"h{k + 1}" for k in range(z))
    coords = coords or {dim: np.arange(n) / (n - 1) for dim, n in zip(dims, values.shape, strict=True)}
    data = {"loss": (dims, values, {"units": unit})}
    if target is not None:
        target = np.asarray(target, dtype=np.float64)
        data["target"] = (dims, target, {"units": unit})
        data["difference"] = (dims, values - target, {"units": unit})
    return xr.Dataset(data, coords, {"title": title})


def colours(values):
    values = np.asarray(values, dtype=np.float64)
    heads = {"loss": values, "target": values, "difference": 0 * values}
    coords = {dim: np.arange(n) / (n - 1) for dim, n in zip(("h1", "h2"), values.shape, strict=False)}
    data = {name: (("h1", "h2", "channel"), value, {"units": "nat"}) for name, value in heads.items()}
    return xr.Dataset(data, {**coords, "channel": [0, 1, 2]}, {"title": "rgb", "range": [2.0, 3.0]})


@pytest.fixture
def certificate():
    return Certificate(0.25, 0.25, "certified", True, 0, 0, 0, 0.25, None, None, (0, 1), "nat", "", "float32", "")


@pytest.fixture(autouse=True)
def nothing_leaks():
    before = dict(mpl.rcParams)
    yield
    assert plt.get_fignums() == []
    assert dict(mpl.rcParams) == before


def pixels(figure):
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3].astype(int)


@pytest.mark.parametrize("uneven", [False, True])
@pytest.mark.parametrize(("i", "j"), [(1, 4), (6, 0), (0, 0), (6, 4)])
def test_a_single_bright_node_is_where_it_belongs(i, j, uneven):
    values = np.zeros((7, 5))
    values[i, j] = 1.0
    h1, h2 = np.arange(7) / 6, np.arange(5) / 4
    if uneven:
        h1, h2 = h1**2, h2**1.5
    ax = heat(surface(values, coords={"h1": h1, "h2": h2}), contours=False, cmap="gray")
    image = pixels(ax.figure)
    inside = {}
    for a in range(7):
        for b in range(5):
            column, row = ax.transData.transform((h1[a], h2[b]))
            inside[a, b] = image[image.shape[0] - 1 - int(row), int(column)].sum()
    assert max(inside, key=inside.get) == (i, j)
    assert sorted(inside.values())[-2:] == [0, 765]


def test_cells_end_half_way_between_nodes():
    values = np.zeros((5, 5))
    values[2, 2] = 1.0
    ax = heat(surface(values), contours=False, cmap="gray")
    assert list(ax.images[0].get_extent()) == [-0.125, 1.125, -0.125, 1.125]
    image = pixels(ax.figure)
    height = image.shape[0]

    def at(x, y):
        column, row = ax.transData.transform((x, y))
        return image[height - 1 - int(row), int(column)].sum()

    step = 0.125
    for dx, dy in ((1, 0), (-1, 0), (0, 1), (0, -1)):
        assert at(0.5 + 0.9 * dx * step, 0.5 + 0.9 * dy * step) == 765
        assert at(0.5 + 1.1 * dx * step, 0.5 + 1.1 * dy * step) == 0


def test_labels_name_coordinates_and_units():
    ax = heat(surface(np.eye(4)))
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("$h_{1}$", "$h_{2}$")
    assert ax.child_axes[0].get_ylabel() == "loss (nat)"
    unnamed = heat(surface(np.eye(4), unit="loss"))
    assert unnamed.child_axes[0].get_ylabel() == "loss"
    field = surface(np.eye(4), target=np.eye(4))
    assert heat(field, variable="difference").child_axes[0].get_ylabel() == "loss − target (nat)"


def test_ax_is_used_and_returned():
    figure = plt.figure()
    try:
        ax = figure.add_subplot(2, 2, 1)
        assert heat(surface(np.eye(4)), ax=ax) is ax
        bar = next(other for other in figure.axes if other is not ax)
        assert bar.get_ylabel() == "loss (nat)"
        line = figure.add_subplot(2, 2, 2)
        assert profile(surface([0.0, 1.0, 4.0]), ax=line) is line
        solid = figure.add_subplot(2, 2, 3, projection="3d")
        assert relief(surface(np.eye(4)), ax=solid) is solid
        cloud = figure.add_subplot(2, 2, 4)
        assert scatter(surface([0.0, 1.0], target=[0.0, 1.0]), ax=cloud) is cloud
        with pytest.raises(InputError, match="ax is flat"):
            relief(surface(np.eye(4)), ax=ax)
    finally:
        plt.close(figure)


def test_values_that_are_not_finite_are_hatched_and_counted():
    values = np.random.default_rng(0).random((6, 6))
    values[1, 2], values[3, 3], values[4, 0] = np.nan, np.inf, -np.inf
    ax = heat(surface(values), contours=True)
    assert ax.get_legend().get_texts()[0].get_text() == "not finite: 3 of 36 nodes"
    assert ax.patches[0].get_hatch()
    assert np.ma.getmaskarray(ax.images[0].get_array()).sum() == 3
    assert len(relief(surface(values)).collections[0].get_facecolor()) < 50
    assert heat(surface(np.full((3, 3), np.nan))).get_legend() is not None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pixels(ax.figure)
        picture(surface(values, target=np.zeros((6, 6))))


def test_log_and_clip():
    ax = heat(surface([[1.0, 10.0], [100.0, 1000.0]]), log=True)
    assert isinstance(ax.images[0].norm, mpl.colors.LogNorm)
    clipped = heat(surface([[1.0, 10.0], [100.0, 1000.0]]), clip=(5, 50))
    assert (clipped.images[0].norm.vmin, clipped.images[0].norm.vmax) == (5, 50)
    with pytest.raises(InputError, match="log=True needs positive values, the least is 0"):
        heat(surface(np.eye(3)), log=True)
    with pytest.raises(InputError, match="lo < hi"):
        heat(surface(np.eye(3)), clip=(1, 1))


def test_contours_are_for_lines_not_for_texture():
    x = np.linspace(-1, 1, 33)
    bowl = x[:, None] ** 2 + x**2
    noise = np.random.default_rng(1).random((33, 33))
    assert is_smooth(bowl)
    assert not is_smooth(noise)
    assert len(heat(surface(bowl)).collections) == 1
    assert len(heat(surface(noise)).collections) == 0
    assert len(heat(surface(bowl), contours=False).collections) == 0
    assert len(heat(surface(noise), contours=3).collections) == 1


def test_edges_are_midpoints():
    assert edges(np.array([0.0, 1.0, 3.0])).tolist() == [-0.5, 0.5, 2.0, 4.0]
    with pytest.raises(InputError, match="must increase"):
        edges(np.array([0.0, 1.0, 1.0]))


def test_relief_lies_on_the_triangles_of_the_mesh():
    values = np.zeros((4, 3))
    values[3, 1] = 2.0
    ax = relief(surface(values), cmap="gray", view=(90, -90))
    mesh = Mesh((3, 2))
    assert len(ax.collections[0].get_facecolor()) == mesh.n_simplices
    image = pixels(ax.figure)
    nodes = np.concatenate([mesh.nodes().numpy(), values.reshape(-1, 1)], axis=1)
    for vertices in mesh.simplices().tolist():
        x, y, _ = proj3d.proj_transform(*nodes[vertices].mean(axis=0), ax.get_proj())
        column, row = ax.transData.transform((x, y))
        brightness = image[image.shape[0] - 1 - int(row), int(column)].sum()
        assert (brightness > 100) == (3 * 3 + 1 in vertices), vertices


def test_relief_of_a_large_surface_is_thinned():
    drawn = relief(surface(np.random.default_rng(0).random((257, 300)))).collections[0]
    assert len(drawn.get_facecolor()) == 2 * 128 * 99  # every 2nd of 256 cells, every 3rd of 299


def test_profile_draws_measured_and_target():
    ax = profile(surface([1.0, 3.0, 2.0], target=[1.0, 2.0, 2.0]))
    assert [line.get_label() for line in ax.lines] == ["measured", "target"]
    assert ax.lines[0].get_ydata().tolist() == [1, 3, 2]
    assert ax.lines[1].get_xdata().tolist() == [0, 0.5, 1]
    assert ax.get_ylabel() == "loss (nat)"


def test_compare_shares_the_scale_and_centres_the_difference(certificate):
    target = np.random.default_rng(0).random((9, 9))
    loss = target.copy()
    loss[3, 4] -= 0.125
    figure = compare(surface(loss, target=target), certificate=certificate)
    titles = [ax.get_title(loc="left") or ax.get_title() for ax in figure.axes]
    assert titles[:2] == ["target", "measured"]
    assert titles[2] == "difference, at most 0.12 nat"
    scales = [ax.images[0].norm for ax in figure.axes[:3]]
    assert (scales[0].vmin, scales[0].vmax) == (scales[1].vmin, scales[1].vmax)
    assert (scales[2].vmin, scales[2].vmax) == (-0.125, 0.125)
    head = figure._suptitle.get_text()
    assert "largest difference 0.12 nat at the nodes" in head
    assert "certified over the whole box: at most 0.25 nat" in head
    assert figure.axes[3].name == "3d"


def test_what_was_sampled_says_so_beside_what_is_proved(certificate):
    target = np.random.default_rng(0).random((9, 9))
    measured = surface(target + 0.25, target=target)
    status = np.zeros((9, 9), dtype=np.int8)
    status[::2] = 1
    for name, end in (("loss_lower", -0.5), ("loss_upper", 0.5)):
        measured[name] = measured["loss"] + end
    measured["status"] = (("h1", "h2"), status)
    measured.attrs["confidence"] = 0.99
    figure = compare(measured, certificate=certificate, with_relief=False)
    lines = figure._suptitle.get_text().splitlines()
    assert "largest difference, sampling error included, 0.25 nat at the nodes" in lines[1]
    assert lines[2] == "measured on samples: ± 0.5 nat at most, at all measured nodes at once with 99 %"
    assert lines[3] == "measured: 36 of 81 nodes, the others interpolated"
    assert all(ax.get_legend() is None for ax in figure.axes)


def test_three_heads_make_a_colour_picture():
    values = np.full((5, 5, 3), 2.0)
    values[1, 3, 0] = 3.0
    values[4, 0] = 2.5
    figure = compare(colours(values))
    image = pixels(figure)
    for ax in figure.axes[:2]:
        column, row = ax.transData.transform((1 / 4, 3 / 4))
        assert image[image.shape[0] - 1 - int(row), int(column)].tolist() == [255, 0, 0]
        column, row = ax.transData.transform((1.0, 0.0))
        assert set(image[image.shape[0] - 1 - int(row), int(column)]) <= {127, 128}
    titles = [ax.get_title(loc="left") for ax in figure.axes]
    assert "difference, head 1 (green)" in titles


@pytest.mark.parametrize("z", [1, 3, 4])
def test_other_dimensions(z):
    values = np.random.default_rng(z).random((5,) * z)
    figure = compare(surface(values, target=values))
    assert len(figure.axes) == {1: 2, 3: 9, 4: 18}[z]
    pixels(figure)


def test_points_are_compared_with_their_promise():
    data = {name: ("node", np.arange(4.0), {"units": "nat"}) for name in ("loss", "target", "difference")}
    figure = compare(xr.Dataset(data, {"h1": ("node", np.arange(4.0))}))
    assert figure.axes[0].get_xlabel() == "promised loss (nat)"
    with pytest.raises(InputError, match="no picture of a surface over node"):
        picture(xr.Dataset({"loss": ("node", np.arange(4.0))}))


@pytest.mark.parametrize(("suffix", "magic"), [(".png", b"\x89PNG"), (".svg", b"<?xml"), (".pdf", b"%PDF")])
def test_files_are_written_whole_and_alike(tmp_path, suffix, magic):
    file = tmp_path / f"surface{suffix}"
    file.write_bytes(b"old")
    figure = picture(surface(np.eye(9), target=np.eye(9)), str(file))
    assert isinstance(figure, Figure)
    first = file.read_bytes()
    assert first.startswith(magic)
    picture(surface(np.eye(9), target=np.eye(9)), file)
    assert file.read_bytes() == first
    assert [p.name for p in tmp_path.iterdir()] == [file.name]
    if suffix == ".png":
        with Image.open(file) as image:
            assert image.size[0] > 1000


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    file = tmp_path / "surface.png"
    file.write_bytes(b"old")
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        picture(surface(np.eye(4)), file, kind="heat")
    monkeypatch.undo()
    assert file.read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 1


def test_kinds():
    plain_surface = surface(np.eye(5))
    assert len(picture(plain_surface).axes) == 2
    assert picture(plain_surface, kind="relief").axes[0].name == "3d"
    assert len(picture(plain_surface, kind="heat").axes) == 1
    assert len(picture(surface([1.0, 2.0])).axes) == 1
    assert len(picture(surface(np.eye(5), target=np.eye(5)), kind="heat").axes) == 1
    with pytest.raises(InputError, match="no target to compare with"):
        picture(plain_surface, kind="compare")
    with pytest.raises(InputError, match="a relief needs two coordinates"):
        picture(surface([1.0, 2.0]), kind="relief")


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda s: picture(s, "surface.gif"), InputError, r"'.gif'; wanted .png, .svg or .pdf"),
        (lambda s: picture(s, "/nowhere/surface.png"), InputError, "no such folder: /nowhere"),
        (lambda s: picture(s, kind="map"), InputError, "wanted one of auto, compare, heat, relief"),
        (
            lambda s: picture(xr.Dataset({"accuracy": 1.0})),
            InputError,
            "variable 'loss', this has accuracy",
        ),
        (lambda s: heat(s, variable="los"), UnknownNameError, "did you mean 'loss'"),
        (lambda s: heat(s.isel(h1=0)), InputError, "a heat map needs two coordinates"),
        (lambda s: heat(s, channel=2), InputError, "the surface has one head"),
        (lambda s: heat(colours(np.ones((2, 2, 3)))), InputError, "3 heads; choose one"),
        (lambda s: heat(colours(np.ones((2, 2, 3))), channel=3), InputError, "heads 0 to 2"),
        (lambda s: profile(s), InputError, "a profile needs one coordinate"),
        (lambda s: relief(s.isel(h1=0)), InputError, "a relief needs a grid"),
    ],
)
def test_what_cannot_be_drawn_is_said(call, error, text):
    with pytest.raises(error, match=text):
        call(surface(np.eye(4)))


def test_a_title_is_text_not_a_formula(tmp_path):
    for title in ("cost $\\frac$ in $", "two\nlines", "漢字 \x00", "x" * 500):
        picture(surface(np.eye(4), target=np.eye(4), title=title), tmp_path / "surface.png")
    assert plain("a $ b") == r"a \$ b"
    assert len(plain("x" * 500)) == 64


def test_the_largest_difference_is_of_all_heads():
    values = colours(np.zeros((2, 2, 3)))
    values["difference"][0, 0, 2] = -3.0
    assert largest(values) == 3.0
    assert largest(values, 0) == 0.0


def test_importing_is_cheap_and_headless():
    code = (
        "import sys; import landform.view; "
        "heavy = {'matplotlib', 'xarray', 'PIL', 'pandas'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    wrong = code.replace("landform.view", "matplotlib")  # the test can fail
    assert subprocess.run([sys.executable, "-c", wrong], capture_output=True, check=False).returncode == 1


def test_pyplot_is_not_needed():
    code = (
        "import sys, numpy as np, xarray as xr; from landform.view import picture; "
        "picture(xr.Dataset({'loss': (('h1', 'h2'), np.eye(4))}, {'h1': range(4), 'h2': range(4)})); "
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-W", "error::UserWarning", "-c", code], check=True)
