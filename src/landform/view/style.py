"""How figures look: made without pyplot, so that nothing global is left behind and no display is needed."""

import contextlib
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from landform.errors import InputError

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure
    import xarray

CMAP = "magma"
"""Colours of losses: perceptually uniform, and of the widest range of lightness, so that photographs stay readable."""
DIVERGING = "RdBu_r"
"""Colours of differences: white is none."""
MEASURED, TARGET, QUIET = "#1f5fa8", "#d1495b", "#5b6470"
"""Colours of lines and small print."""

_STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "mathtext.fontset": "dejavusans",
    "font.size": 9.0,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.titlepad": 6.0,
    "axes.labelsize": 9.0,
    "axes.linewidth": 0.6,
    "axes.edgecolor": "#444b54",
    "axes.unicode_minus": True,
    "axes.spines.top": True,
    "axes.spines.right": True,
    "axes.facecolor": "white",
    "figure.facecolor": "white",
    "figure.titlesize": 11.5,
    "figure.dpi": 110.0,
    "savefig.dpi": 160.0,
    "savefig.facecolor": "white",
    "savefig.bbox": None,
    "savefig.transparent": False,
    "xtick.labelsize": 8.0,
    "ytick.labelsize": 8.0,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 3.0,
    "ytick.major.size": 3.0,
    "legend.fontsize": 8.0,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "image.interpolation": "antialiased",
    "image.composite_image": False,
    "hatch.linewidth": 0.6,
    "svg.hashsalt": "landform",
    "svg.fonttype": "path",
    "pdf.fonttype": 42,
    "text.usetex": False,
}


@contextlib.contextmanager
def quiet_style() -> Iterator[None]:
    """Use landform's settings of matplotlib inside, and the user's again afterwards.

    Yields:
        Nothing.

    Example:
        >>> import matplotlib
        >>> before = matplotlib.rcParams["font.size"]
        >>> with quiet_style():
        ...     matplotlib.rcParams["font.size"]
        9.0
        >>> matplotlib.rcParams["font.size"] == before
        True
    """
    import matplotlib as mpl

    with mpl.rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        yield


def new_figure(width: float | int, height: float | int) -> "matplotlib.figure.Figure":
    """Make an empty figure in inches that pyplot does not know of, with a canvas that needs no display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    from landform.view.figure import ShownFigure

    figure = ShownFigure(figsize=(width, height), layout=ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.06))
    FigureCanvasAgg(figure)
    return figure


def below(ax: "matplotlib.axes.Axes", points: float = 36.0) -> Any:
    """Return the transform of axes fractions moved down by some points: room for ticks and label, whatever the height.

    Example:
        >>> ax = new_figure(2, 2).add_subplot()
        >>> (ax.transAxes.transform((0, 0)) - below(ax, 36.0).transform((0, 0))).tolist()  # 110 dots an inch
        [0.0, 50.0]
    """
    from matplotlib.transforms import ScaledTranslation

    return ax.transAxes + ScaledTranslation(0.0, -points / 72, ax.figure.dpi_scale_trans)


def plain(text: str, limit: int = 64) -> str:
    r"""Make a name fit for a title: one line, not too long, and nothing that matplotlib reads as a formula.

    Args:
        text: Any text, e.g. a pattern's name.
        limit: Characters at most.

    Returns:
        The text.

    Example:
        >>> plain("price in\n$")
        'price in \\$'
    """
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    if len(line) > limit:
        line = line[: limit - 1] + "…"
    return line.replace("$", r"\$")


def loss_label(name: str, unit: str) -> str:
    """Write the label of a loss axis.

    Example:
        >>> loss_label("loss", "nat"), loss_label("loss", "loss")
        ('loss (nat)', 'loss')
    """
    return name if unit in ("", "1", name) else f"{name} ({unit})"


def variable_label(variable: str, unit: str) -> str:
    """Write the label of a variable's colour bar or axis: a target is a loss, too.

    Example:
        >>> variable_label("target", "nat"), variable_label("difference", "nat")
        ('loss (nat)', 'loss − target (nat)')
    """
    return loss_label(
        {"target": "loss", "difference": "loss − target", "interval": "± loss"}.get(variable, variable), unit
    )


def axis_label(name: str) -> str:
    """Write h1 as h with an index.

    Example:
        >>> axis_label("h12"), axis_label("node")
        ('$h_{12}$', 'node')
    """
    return f"$h_{{{name[1:]}}}$" if name[:1] == "h" and name[1:].isdigit() else name


def axis_text(coordinate: "xarray.DataArray") -> str:
    """Write the label of a coordinate axis: its name, what it is if it says so, and its unit if it has one.

    Example:
        >>> import xarray as xr
        >>> line = xr.DataArray([0.0, 1.0], name="h1", attrs={"direction": "top eigenvector", "units": "filter norms"})
        >>> axis_text(line), axis_text(line.drop_attrs())
        ('$h_{1}$, top eigenvector (filter norms)', '$h_{1}$')
    """
    name, what = axis_label(str(coordinate.name)), str(coordinate.attrs.get("direction", ""))
    unit = str(coordinate.attrs.get("units", ""))
    return (f"{name}, {plain(what)}" if what else name) + (f" ({plain(unit)})" if unit not in ("", "1") else "")


def known_options(what: str, got: str, wanted: tuple[str, ...]) -> None:
    """Refuse a word that is not among those known.

    Raises:
        InputError: Naming all that are.
    """
    if got not in wanted:
        raise InputError(f"{what} is {got!r}; wanted one of {', '.join(wanted)}")
