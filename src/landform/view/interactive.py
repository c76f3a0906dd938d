"""A surface to turn with the mouse: a plotly figure, in a notebook or as one HTML file."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from landform.errors import InputError, MissingExtraError
from landform.view.files import write_atomically
from landform.view.read import Clip, Floats, axes_of, robust_limits, variable_of
from landform.view.style import CMAP, variable_label
from landform.view.trajectory import path_of

if TYPE_CHECKING:
    import plotly.graph_objects
    import xarray


def interactive(
    surface: "xarray.Dataset",
    file: str | Path | None = None,
    *,
    variable: str = "loss",
    channel: int | None = None,
    log: bool = False,
    clip: Clip = None,
    path: Any = None,
    interval: bool = False,
    height: float = 0.6,
    offline: bool = True,
) -> "plotly.graph_objects.Figure":
    """Draw a landscape that turns with the mouse and tells coordinates and values under it.

    Args:
        surface: A surface over two coordinates.
        file: An ``.html`` file to write, replaced whole or not at all; None writes none.
        variable: What to draw; ``"loss"`` by default.
        channel: Which head, where there are several.
        log: Draw log10 of the values; labels still say the values.
        clip: (lo, hi) at which heights are cut, or ``"robust"`` for the 1 % and 95 % quantiles; None cuts nothing.
        path: Checkpoints to draw on the surface, see `landform.view.trajectory`; their height is that of the surface
            below them, not the checkpoint's own loss.
        interval: Also draw the ends of the interval as transparent sheets, where one is claimed.
        height: Height of the box as a fraction of its width.
        offline: Whether the file holds plotly's script (4.5 MB), so that it works without a network; False refers to
            plotly's server.

    Returns:
        The figure; in a notebook it shows itself.

    Raises:
        MissingExtraError: Without plotly.
        InputError: If the surface is not a grid over two coordinates, ``log`` meets values that are not positive, or
            the file is no ``.html`` in an existing folder.
        UnknownNameError: If there is no such variable.

    Example:
        >>> import xarray as xr
        >>> values = xr.DataArray([[0.0, 1.0], [2.0, 3.0]], dims=("h1", "h2"), coords={"h1": [0, 1], "h2": [0, 1]})
        >>> figure = interactive(values.to_dataset(name="loss"))
        >>> figure.data[0].z.tolist()  # rows are h2
        [[0.0, 2.0], [1.0, 3.0]]
    """
    go = _plotly()
    target = None if file is None else _checked(Path(file))
    field = variable_of(surface, variable, channel)
    names = axes_of(field)
    if len(names) != 2 or min(field.sizes[name] for name in names) < 2:
        raise InputError(f"a landscape needs a grid over two coordinates, the surface has {', '.join(names)}")
    x, y = (np.asarray(field[name].values, dtype=np.float64) for name in names)
    values = field.transpose(*names).values.astype(np.float64)
    ends = robust_limits(values) if clip == "robust" else clip
    text = variable_label(variable, str(field.attrs.get("units", "")))
    z = _height(values, log, ends)
    hover = f"h1 %{{x:.4g}}<br>h2 %{{y:.4g}}<br>{text} %{{customdata:.5g}}<extra></extra>"
    bar: dict[str, Any] = {"title": {"text": text, "side": "right"}, "len": 0.7, "thickness": 14}
    if log:
        bar |= _decades(z)
    sheet = {"x": x, "y": y, "colorscale": CMAP.capitalize()}
    figure = go.Figure(
        go.Surface(
            z=z.T, customdata=values.T, hovertemplate=hover, colorbar=bar, name=variable, **sheet,
            contours={"z": {"show": True, "usecolormap": True, "project": {"z": True}, "width": 1}},
        )
    )  # fmt: skip
    if interval:
        for end in (f"{variable}_lower", f"{variable}_upper"):
            if end in surface:
                other = variable_of(surface, end, channel).transpose(*names).values.astype(np.float64)
                z_end = _height(np.maximum(other, np.nanmin(values)) if log else other, log, ends)
                figure.add_surface(z=z_end.T, opacity=0.25, showscale=False, name=end, hoverinfo="skip", **sheet)
    if path is not None:
        _add_path(figure, path, surface, names, z)
    axis: dict[str, Any] = {"backgroundcolor": "#f6f7f8", "gridcolor": "#d5d8dc", "showspikes": False}
    upright = {**axis, "title": text, **(_decades(z) if log else {})}
    scene: dict[str, Any] = {f"{end}axis": {**axis, "title": f"h<sub>{k}</sub>"} for end, k in (("x", 1), ("y", 2))}
    scene |= {"zaxis": upright, "aspectmode": "manual", "aspectratio": {"x": 1, "y": 1, "z": height}}
    title = {"text": str(surface.attrs.get("title", "")), "x": 0.02, "font": {"size": 15}}
    margin, legend = {"l": 0, "r": 0, "t": 40, "b": 0}, {"x": 0.02, "y": 0.95}
    figure.update_layout(title=title, scene=scene, margin=margin, template="plotly_white", legend=legend)
    if target is not None:
        write_atomically(target, figure.to_html(include_plotlyjs=True if offline else "cdn").encode())
    return figure


def _plotly() -> Any:
    try:
        import plotly.graph_objects as go
    except ImportError as error:
        raise MissingExtraError(
            "a surface to turn with the mouse needs plotly, which is not installed; pip install 'landform[view]'"
        ) from error
    return go


def _checked(file: Path) -> Path:
    if file.suffix.lower() != ".html":
        raise InputError(f"'{file.name}' has the suffix '{file.suffix}'; wanted .html")
    if not file.parent.is_dir():
        raise InputError(f"no such folder: {file.parent}; create it first")
    return file


def _height(values: Floats, log: bool, clip: tuple[float | int, float | int] | None) -> Floats:
    """Return heights: not finite values are holes."""
    held = np.where(np.isfinite(values), values, np.nan)
    if clip is not None:
        held = np.clip(held, *clip)
    if not log:
        return held
    least = float(np.nanmin(held)) if np.isfinite(held).any() else 1.0
    if least <= 0:
        raise InputError(f"log=True needs positive values, the least is {least:.3g}; pass clip=(lo, hi) with lo > 0")
    logs: Floats = np.log10(held)
    return logs


def _decades(z: Floats) -> dict[str, Any]:
    """Return ticks at 1, 2 and 5 in every decade, or whole decades where there are many."""
    lo, hi = float(np.nanmin(z)), float(np.nanmax(z))
    steps = (1.0,) if hi - lo > 4 else (1.0, 2.0, 5.0)
    values = [m * 10.0**k for k in range(int(np.floor(lo)), int(np.ceil(hi)) + 1) for m in steps]
    kept = [v for v in values if lo - 1e-9 <= np.log10(v) <= hi + 1e-9]
    return {"tickvals": [float(np.log10(v)) for v in kept], "ticktext": [f"{v:g}" for v in kept]}


def _add_path(figure: Any, path: Any, surface: "xarray.Dataset", names: tuple[str, ...], z: Floats) -> None:
    import xarray

    found = path_of(path)
    if found.coordinates.shape[1] != 2:
        raise InputError(f"a landscape has two coordinates, the path has {found.coordinates.shape[1]}")
    ground = xarray.DataArray(z, dims=names, coords={name: surface[name].values for name in names})
    at = {name: ("step", found.coordinates[:, k]) for k, name in enumerate(names)}
    below = ground.interp({name: xarray.DataArray(v[1], dims=v[0]) for name, v in at.items()}).values
    lift = 0.01 * float(np.nanmax(z) - np.nanmin(z))
    far = [f"step {k}" for k in range(len(below))]
    if found.off_plane is not None:
        far = [f"{text}<br>{distance:.3g} off the plane" for text, distance in zip(far, found.off_plane, strict=True)]
    figure.add_scatter3d(
        x=found.coordinates[:, 0], y=found.coordinates[:, 1], z=below + lift, mode="lines+markers", text=far,
        hoverinfo="text", name="path, on the surface", line={"color": "#2aa9e0", "width": 5},
        marker={"size": 3, "color": "#ffffff", "line": {"color": "#000000", "width": 1}}, showlegend=True,
    )  # fmt: skip
