"""Figures of surfaces: heat map, relief, profile, and promised against measured.

Everything is drawn without pyplot, takes ``ax=`` where one panel is drawn, and writes PNG, SVG or PDF.
"""

import sys

from landform.view.accessor import SurfaceAccessor, register
from landform.view.compare import compare
from landform.view.heat import heat
from landform.view.notebook import imprint_html, surface_html
from landform.view.picture import picture
from landform.view.profile import profile, scatter
from landform.view.relief import relief

__all__ = [
    "SurfaceAccessor",
    "compare",
    "heat",
    "imprint_html",
    "picture",
    "profile",
    "register",
    "relief",
    "scatter",
    "surface_html",
]

if "xarray" in sys.modules:
    register()
