"""`surface.landform`: what a surface can do, as an accessor of xarray datasets."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from landform.view.export import Version, to_csv, to_netcdf
from landform.view.picture import Kind, picture
from landform.view.read import axes_of

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure
    import plotly.graph_objects
    import xarray

    from landform.certify.certificate import Certificate


class SurfaceAccessor:
    """Draw and export a surface: ``surface.landform.plot()``.

    Args:
        surface: The dataset.
    """

    def __init__(self, surface: "xarray.Dataset") -> None:
        self._surface = surface

    def plot(
        self, ax: "matplotlib.axes.Axes | None" = None, *, path: Any = None, **options: Any
    ) -> "matplotlib.axes.Axes":
        """Draw the loss: a heat map over two coordinates, a line with its interval over one.

        Args:
            ax: Where to draw; a new figure by default.
            path: Checkpoints of an optimiser to draw over the map; see `landform.view.trajectory`.
            **options: Those of `landform.view.heat` or `landform.view.profile`, e.g. ``variable="accuracy"``,
                ``log=True``, ``clip="robust"``.

        Returns:
            The axes.

        Raises:
            InputError: If there are more than two coordinates.
        """
        from landform.view.heat import heat
        from landform.view.profile import profile
        from landform.view.trajectory import trajectory

        if path is not None:
            return trajectory(self._surface, path, ax=ax, **options)
        draw = profile if len(axes_of(self._surface)) == 1 else heat
        return draw(self._surface, ax=ax, **options)

    def heat(self, ax: "matplotlib.axes.Axes | None" = None, **options: Any) -> "matplotlib.axes.Axes":
        """Draw one coloured cell a node; see `landform.view.heat`."""
        from landform.view.heat import heat

        return heat(self._surface, ax=ax, **options)

    def contour(self, ax: "matplotlib.axes.Axes | None" = None, **options: Any) -> "matplotlib.axes.Axes":
        """Draw level lines; see `landform.view.contour`."""
        from landform.view.contour import contour

        return contour(self._surface, ax=ax, **options)

    def profile(self, ax: "matplotlib.axes.Axes | None" = None, **options: Any) -> "matplotlib.axes.Axes":
        """Draw a line over one coordinate with the interval that holds at all nodes; see `landform.view.profile`."""
        from landform.view.profile import profile

        return profile(self._surface, ax=ax, **options)

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

    def uncertainty(self, ax: "matplotlib.axes.Axes | None" = None, **options: Any) -> "matplotlib.axes.Axes":
        """Draw half the width of each node's interval; see `landform.view.uncertainty`."""
        from landform.view.uncertainty import uncertainty

        return uncertainty(self._surface, ax=ax, **options)

    def trajectory(
        self, path: Any = None, ax: "matplotlib.axes.Axes | None" = None, **options: Any
    ) -> "matplotlib.axes.Axes":
        """Draw the path of an optimiser over the map, and how far off it is; see `landform.view.trajectory`.

        Args:
            path: The checkpoints; None: those that the plane was made from.
            ax: Where to draw; a new figure by default.
            **options: Those of `landform.view.heat`.

        Returns:
            The axes.

        Raises:
            InputError: If there is no path.
        """
        return self.plot(ax, path=self._surface if path is None else path, **options)

    def interactive(self, file: str | Path | None = None, **options: Any) -> "plotly.graph_objects.Figure":
        """Return a landscape to turn with the mouse, and write it as HTML; see `landform.view.interactive`."""
        from landform.view.interactive import interactive

        return interactive(self._surface, file, **options)

    def picture(
        self,
        path: str | Path | None = None,
        *,
        certificate: "Certificate | None" = None,
        kind: Kind = "auto",
        **options: Any,
    ) -> "matplotlib.figure.Figure":
        """Draw the whole picture and, with a path, write it; see `landform.view.picture`."""
        return picture(self._surface, path, certificate=certificate, kind=kind, **options)

    def to_grid(self, nodes: int | Sequence[int] | None = None) -> "xarray.Dataset":
        """Interpolate linearly on the mesh, to another grid or from the nodes of an adaptive scan.

        Args:
            nodes: Nodes per axis; None: the surface's own, or the finest of a list of nodes.

        Returns:
            A surface over a grid; see `landform.view.to_grid`.
        """
        from landform.view.regrid import to_grid

        return to_grid(self._surface, nodes)

    def measured(self) -> "xarray.Dataset":
        """Return the nodes that were measured, not interpolated, as a list; see `landform.view.measured_nodes`."""
        from landform.view.regrid import measured_nodes

        return measured_nodes(self._surface)

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
        return to_csv(self._surface, path)

    def to_netcdf(self, path: str | Path, *, version: Version = "auto") -> int:
        """Write NetCDF 4, or 3 without the netCDF4 package, and return which; see `landform.view.to_netcdf`."""
        return to_netcdf(self._surface, path, version=version)

    def _repr_html_(self) -> str:
        """Show the surface in a notebook."""
        from landform.view.notebook import surface_html

        return surface_html(self._surface)


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
