"""Figures of surfaces: maps, level lines, reliefs, profiles, uncertainty, paths, side by side; and what exports them.

Everything is drawn without pyplot, takes ``ax=`` where one panel is drawn, and writes PNG, SVG or PDF; `interactive` is
drawn by plotly.
"""

import sys

from landform.view.accessor import SurfaceAccessor, register
from landform.view.beside import side_by_side, spread
from landform.view.compare import compare
from landform.view.contour import contour
from landform.view.errors import error_histogram
from landform.view.export import to_csv, to_netcdf
from landform.view.heat import heat
from landform.view.interactive import interactive
from landform.view.notebook import imprint_html, surface_html
from landform.view.picture import picture
from landform.view.profile import profile, scatter
from landform.view.regrid import measured_nodes, to_grid
from landform.view.relief import relief
from landform.view.slices import measure_slices, slices
from landform.view.trajectory import draw_path, trajectory
from landform.view.uncertainty import uncertainty

__all__ = [  # noqa: RUF022 - one surface, several, nodes and files
    "heat",
    "contour",
    "relief",
    "profile",
    "scatter",
    "uncertainty",
    "trajectory",
    "draw_path",
    "interactive",
    "picture",
    "compare",
    "imprint_html",
    "surface_html",
    "side_by_side",
    "spread",
    "slices",
    "measure_slices",
    "error_histogram",
    "to_grid",
    "measured_nodes",
    "to_csv",
    "to_netcdf",
    "SurfaceAccessor",
    "register",
]

if "xarray" in sys.modules:
    register()
