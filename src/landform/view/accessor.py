"""`surface.landform`: what a surface can do, as an accessor of xarray datasets."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from landform.view.files import write_atomically
from landform.view.picture import Kind, picture
from landform.view.read import axes_of

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure
    import xarray

    from landform.certify.certificate import Certificate


class SurfaceAccessor:
    """Draw and export a surface: ``surface.landform.plot()``.

    Args:
        surface: The dataset.
    """

    def __init__(self, surface: "xarray.Dataset") -> None:
        self._surface = surface

    def plot(self, ax: "matplotlib.axes.Axes | None" = None, **options: Any) -> "matplotlib.axes.Axes":
        """Draw the loss: a heat map over two coordinates, a line over one.

        Args:
            ax: Where to draw; a new figure by default.
            **options: Those of `landform.view.heat` or `landform.view.profile`, e.g. ``variable="difference"``.

        Returns:
            The axes.

        Raises:
            InputError: If there are more than two coordinates.
        """
        from landform.view.heat import heat
        from landform.view.profile import profile

        draw = profile if len(axes_of(self._surface)) == 1 else heat
        return draw(self._surface, ax=ax, **options)

    def relief(self, ax: "matplotlib.axes.Axes | None" = None, **options: Any) -> "matplotlib.axes.Axes":
        """Draw the loss as a lit landscape.

        Args:
            ax: 3-D axes; a new figure by default.
            **options: Those of `landform.view.relief`.

        Returns:
            The axes.
        """
        from landform.view.relief import relief

        return relief(self._surface, ax=ax, **options)

    def picture(
        self, path: str | Path | None = None, *, certificate: "Certificate | None" = None, kind: Kind = "auto"
    ) -> "matplotlib.figure.Figure":
        """Draw the whole picture and, with a path, write it; see `landform.view.picture`."""
        return picture(self._surface, path, certificate=certificate, kind=kind)

    def to_csv(self, path: str | Path | None = None) -> str:
        """Write one row a node (and head): coordinates, then every variable, in numbers that read back exactly.

        Args:
            path: A file, replaced whole or not at all; None only returns the text.

        Returns:
            The text.

        Example:
            >>> import xarray as xr
            >>> register()
            >>> values = xr.DataArray([0.5, 2.0], dims="h1", coords={"h1": [0.0, 1.0]})
            >>> print(values.to_dataset(name="loss").landform.to_csv())
            h1,loss
            0.0,0.5
            1.0,2.0
            <BLANKLINE>
        """
        frame = self._surface.to_dataframe().reset_index()
        places = [name for name in ("node", *_coordinates(self._surface), "channel") if name in frame]
        ordered = frame[places + [name for name in frame.columns if name not in places]]
        text: str = ordered.to_csv(index=False)
        if path is not None:
            write_atomically(Path(path), text.encode())
        return text

    def _repr_html_(self) -> str:
        """Show the surface in a notebook."""
        from landform.view.notebook import surface_html

        return surface_html(self._surface)


def _coordinates(surface: "xarray.Dataset") -> list[str]:
    names = [str(name) for name in surface.coords if str(name)[:1] == "h" and str(name)[1:].isdigit()]
    return sorted(names, key=lambda name: int(name[1:]))


def register() -> None:
    """Give xarray's datasets the accessor ``landform``; done by `landform.scan`, harmless when done again.

    Example:
        >>> import xarray as xr
        >>> register()
        >>> type(xr.Dataset().landform).__name__
        'SurfaceAccessor'
    """
    import xarray

    if not hasattr(xarray.Dataset, "landform"):
        xarray.register_dataset_accessor("landform")(SurfaceAccessor)  # type: ignore[no-untyped-call]
