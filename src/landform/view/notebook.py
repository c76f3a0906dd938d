"""How imprints and surfaces show themselves in a notebook: a small picture and what is proved."""

import base64
import html
import math
from typing import TYPE_CHECKING

from landform.imprint.imprint import Imprint
from landform.view.compare import compare
from landform.view.picture import picture, rendered
from landform.view.read import axes_of

if TYPE_CHECKING:
    import matplotlib.figure
    import xarray

MAX_BYTES = 200_000
WORK = 2e10
"""Multiply-adds for the picture of an imprint: about a second."""


def imprint_html(imprint: Imprint) -> str:
    """Return an imprint as HTML: a heading, a picture of the measured loss, and the certificate.

    Args:
        imprint: The imprint.

    Returns:
        HTML that needs nothing from outside, with every name escaped.

    Cost:
        A scan of at most 65 × 65 points (fewer for large networks) and a drawing: a second or two.
    """
    from landform.scan.grid import scan

    budget = max(17, min(65, int(math.sqrt(WORK / max(1, imprint.parameters)))))
    axes = (1, 2) if imprint.z > 2 else tuple(range(1, imprint.z + 1))
    grid = [min(budget, imprint.pattern.resolution[k - 1] + 1) for k in axes]
    surface = scan(imprint, grid=grid, axes=axes, check=0, progress=False)
    figure = compare(surface, certificate=imprint.certificate, with_relief=False)
    lo, hi = imprint.range
    facts = (
        f"{imprint.z} coordinate{'s' * (imprint.z != 1)}, loss {lo:.4g} to {hi:.4g} {imprint.response.unit}, "
        f"{imprint.parameters:,} parameters"
    )
    proof = "no certificate yet: landform.certify(imprint)" if imprint.certificate is None else str(imprint.certificate)
    name = html.escape(imprint.pattern.name)
    head = f"<p><b>{name}</b> &middot; {html.escape(facts)}</p>"
    return f"<div>{head}{_image(figure, name)}<pre>{html.escape(proof)}</pre></div>"


def surface_html(surface: "xarray.Dataset") -> str:
    """Return a surface as HTML: its picture, thinned to 65 nodes an axis, and where it comes from.

    Args:
        surface: The surface.

    Returns:
        HTML that needs nothing from outside, with every name escaped.
    """
    surface = _drawable(surface)
    steps = {name: slice(None, None, -(-(surface.sizes[name] - 1) // 64) or 1) for name in axes_of(surface)}
    small = surface if "node" in steps else surface.isel(steps)
    figure = compare(small, with_relief=False) if "target" in small else picture(small, kind="heat")
    title = html.escape(str(surface.attrs.get("title", "surface")))
    keys = ("loss", "model", "data", "dtype", "engine", "confidence", "evaluations")
    facts = ", ".join(f"{key} {surface.attrs[key]}" for key in keys if surface.attrs.get(key) not in (None, ""))
    return f"<div><p><b>{title}</b></p>{_image(figure, title)}<p>{html.escape(facts)}</p></div>"


def _drawable(surface: "xarray.Dataset") -> "xarray.Dataset":
    """Return the first part of the data, on a grid if the nodes belong to one."""
    from landform.view.regrid import to_grid

    first = surface.isel(split=0) if "split" in surface.dims and len(axes_of(surface)) > 1 else surface
    return to_grid(first) if axes_of(first) == ("node",) and "level" in first else first


def _image(figure: "matplotlib.figure.Figure", escaped: str) -> str:
    """Embed a figure as a PNG of at most `MAX_BYTES`."""
    dpi = 90.0
    content = rendered(figure, "png", dpi=dpi)
    while len(content) > MAX_BYTES and dpi > 30:
        dpi *= 0.75
        content = rendered(figure, "png", dpi=dpi)
    text = base64.b64encode(content).decode("ascii")
    return f'<img alt="picture of {escaped}" style="max-width:100%" src="data:image/png;base64,{text}">'
