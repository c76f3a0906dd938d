"""`picture`: the figure of a surface, on screen or in a file."""

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from landform.errors import InputError
from landform.view.beside import side_by_side
from landform.view.compare import compare
from landform.view.files import write_atomically
from landform.view.heat import heat
from landform.view.profile import profile
from landform.view.read import Clip, axes_of, channels_of
from landform.view.regrid import to_grid
from landform.view.relief import relief
from landform.view.style import known_options, new_figure, plain, quiet_style
from landform.view.trajectory import draw_path

if TYPE_CHECKING:
    import matplotlib.figure
    import xarray

    from landform.certify.certificate import Certificate

Kind = Literal["auto", "compare", "heat", "relief"]
SUFFIXES = (".png", ".svg", ".pdf")


def picture(
    surface: "xarray.Dataset",
    path: str | Path | None = None,
    *,
    certificate: "Certificate | None" = None,
    kind: Kind = "auto",
    log: bool = False,
    clip: Clip = None,
    trajectory: Any = None,
) -> "matplotlib.figure.Figure":
    """Draw a surface and, with a path, write it: PNG, SVG or PDF by suffix.

    Nothing is shown and pyplot is not involved; in a notebook the returned figure displays itself.

    Args:
        surface: What `landform.scan` returned, or a dataset with the same names.
        path: A file to write, replaced whole or not at all. Its folder must exist.
        certificate: Its bound is printed in the heading of a comparison.
        kind: ``"compare"``: target, measured loss, difference and relief; ``"heat"``: the map alone (a line for one
            coordinate); ``"relief"``: the landscape alone. ``"auto"``: a comparison where there is a target, parts of
            the data side by side where there are several, else map and landscape.
        log: Logarithmic scale of measured losses; a comparison with a target has none.
        clip: Ends of that scale, as for `landform.view.heat`.
        trajectory: Checkpoints to draw over the map; see `landform.view.trajectory`.

    Returns:
        The figure.

    Raises:
        InputError: If the suffix or the kind is unknown, the folder does not exist, or the kind does not fit the
            surface.

    Example:
        >>> import xarray as xr
        >>> values = xr.DataArray([[0.0, 1.0], [2.0, 3.0]], dims=("h1", "h2"), coords={"h1": [0, 1], "h2": [0, 1]})
        >>> file = getfixture("tmp_path") / "surface.svg"
        >>> figure = picture(values.to_dataset(name="loss"), file)
        >>> file.read_text()[:5], len(figure.axes)
        ('<?xml', 2)
    """
    known_options("kind", kind, ("auto", "compare", "heat", "relief"))
    file = None if path is None else Path(path)
    if file is not None:
        if file.suffix.lower() not in SUFFIXES:
            raise InputError(f"'{file.name}' has the suffix '{file.suffix}'; wanted .png, .svg or .pdf")
        if not file.parent.is_dir():
            raise InputError(f"no such folder: {file.parent}; create it first")
    if "loss" not in surface:
        raise InputError(
            f"a surface has a variable 'loss', this has {', '.join(map(str, surface.data_vars)) or 'none'}"
        )
    if axes_of(surface) == ("node",) and "level" in surface:
        surface = to_grid(surface)
    if "split" in surface.dims and len(axes_of(surface)) == 2:
        if kind != "auto":
            parts = [str(part) for part in surface["split"].values]
            raise InputError(f"kind={kind!r} draws one part of the data, choose it: surface.sel(split='{parts[0]}')")
        figure = side_by_side(surface, title=str(surface.attrs.get("title", "")), log=log, clip=clip)
    elif kind == "compare" or (kind == "auto" and "target" in surface):
        figure = compare(surface, certificate=certificate)
    else:
        figure = _alone(surface, kind, log, clip, trajectory)
    if file is not None:
        write_atomically(file, rendered(figure, file.suffix[1:].lower()))
    return figure


def rendered(figure: "matplotlib.figure.Figure", suffix: str = "png", *, dpi: float | None = None) -> bytes:
    """Return a figure as the bytes of a file; equal figures give equal bytes.

    Args:
        figure: The figure.
        suffix: ``"png"``, ``"svg"`` or ``"pdf"``.
        dpi: Dots per inch; 160 by default.

    Returns:
        The bytes.
    """
    stream = io.BytesIO()
    metadata = {"png": {"Software": "landform"}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}[suffix]
    with quiet_style():
        figure.savefig(stream, format=suffix, metadata=metadata, dpi=160.0 if dpi is None else dpi)
    return stream.getvalue()


def _alone(surface: "xarray.Dataset", kind: Kind, log: bool, clip: Clip, trajectory: Any) -> "matplotlib.figure.Figure":
    """Draw the measured loss without a comparison, one row a head."""
    axes, heads = axes_of(surface), channels_of(surface)
    if axes == ("node",) or not 1 <= len(axes) <= 2:
        raise InputError(
            f"no picture of a surface over {', '.join(axes) or 'nothing'}; scan a plane of it: axes=(1, 2),"
            " or select one: surface.isel(h3=0)"
        )
    if len(axes) == 1 and kind == "relief":
        raise InputError("a relief needs two coordinates, the surface has one; use kind='heat' for its profile")
    with quiet_style():
        if len(axes) == 1:
            figure = new_figure(6.4, 3.6)
            profile(surface, ax=figure.add_subplot(), target=False, log=log)
        else:
            drawn = [name for name in ("heat", "relief") if kind in (name, "auto")]
            figure = new_figure(4.9 * len(drawn), 3.7 * heads + 0.35)
            for head in range(heads):
                channel, title = (head, f"head {head}") if heads > 1 else (None, None)
                for column, name in enumerate(drawn):
                    place = (heads, len(drawn), len(drawn) * head + column + 1)
                    if name == "heat":
                        ax = heat(
                            surface, channel=channel, ax=figure.add_subplot(*place), title=title, log=log, clip=clip
                        )
                        if trajectory is not None:
                            draw_path(ax, trajectory)
                    else:
                        ax3 = figure.add_subplot(*place, projection="3d")
                        relief(surface, channel=channel, ax=ax3, title=title, log=log)
        title = plain(str(surface.attrs.get("title", "")), 60 if kind == "auto" else 44)
        if title:
            figure.suptitle(title, x=0.012, ha="left", fontsize=10.5)
    return figure
