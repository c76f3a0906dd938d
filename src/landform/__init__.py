"""landform: make and measure the loss surfaces of neural networks.

*Make*: `imprint` compiles a picture or function into a network whose loss, along a few weight-space directions, is that
picture; `certify` proves how closely. *Measure*: `scan` evaluates a loss surface and labels it.
"""

from importlib.metadata import version as _version

from landform.bundle import load
from landform.certify import Certificate, certify
from landform.data import Data, load_data
from landform.errors import LandformError
from landform.imprint import Imprint, imprint
from landform.mesh import Mesh
from landform.pattern import Pattern, SumPattern
from landform.program.capacity import capacity
from landform.scan import scan, transfer
from landform.subspace import Subspace
from landform.task import Task

__version__ = _version("landform")

__all__ = [  # noqa: RUF022 - grouped: making, measuring, data and files, the rest
    "imprint",
    "certify",
    "capacity",
    "Imprint",
    "Certificate",
    "Pattern",
    "SumPattern",
    "Mesh",
    "scan",
    "transfer",
    "Subspace",
    "Task",
    "Data",
    "load_data",
    "load",
    "LandformError",
    "__version__",
]
