"""landform: make and measure the loss surfaces of neural networks.

*Make*: `imprint` compiles a picture or function into a network whose loss, along a few weight-space directions, is that
picture; `certify` proves how closely. *Measure*: `scan` evaluates a loss surface and labels it.

Names are imported when they are first used, so that ``landform --help`` need not wait for PyTorch.
"""

import importlib
import sys
import types
from importlib.metadata import version as _version
from typing import TYPE_CHECKING, Any

from landform.loading import loading

if TYPE_CHECKING:
    from landform.bundle import load
    from landform.certify import Certificate, certify
    from landform.checkpoints import Trajectory, load_weights
    from landform.data import Data, load_data
    from landform.errors import LandformError
    from landform.imprint import Imprint
    from landform.imprint.accounting import account
    from landform.imprint.make import imprint
    from landform.imprint.widen import Widened, widen
    from landform.mesh import Mesh
    from landform.pattern import Pattern, SumPattern
    from landform.program.capacity import capacity
    from landform.scan import scan, transfer
    from landform.scan.plan import plan_scan
    from landform.subspace import (
        Curve,
        Subspace,
        barrier,
        between,
        bezier,
        combine,
        gradient_line,
        hessian_plane,
        load_subspace,
        pca_plane,
        plane_through,
        project,
        random_plane,
        save_subspace,
        worst_direction,
    )
    from landform.task import Task

__version__ = _version("landform")

__all__ = [  # noqa: RUF022 - grouped: making, measuring, data and files, the rest
    "imprint",
    "certify",
    "capacity",
    "account",
    "widen",
    "Imprint",
    "Widened",
    "Certificate",
    "Pattern",
    "SumPattern",
    "Mesh",
    "scan",
    "plan_scan",
    "transfer",
    "Subspace",
    "random_plane",
    "between",
    "plane_through",
    "pca_plane",
    "hessian_plane",
    "gradient_line",
    "worst_direction",
    "bezier",
    "barrier",
    "Curve",
    "combine",
    "save_subspace",
    "load_subspace",
    "project",
    "Trajectory",
    "Task",
    "Data",
    "load_data",
    "load",
    "load_weights",
    "LandformError",
    "__version__",
]

_HOME = {
    "load_weights": "landform.checkpoints",
    "imprint": "landform.imprint.make",
    "certify": "landform.certify",
    "capacity": "landform.program.capacity",
    "account": "landform.imprint.accounting",
    "widen": "landform.imprint.widen",
    "Widened": "landform.imprint.widen",
    "Imprint": "landform.imprint",
    "Certificate": "landform.certify",
    "Pattern": "landform.pattern",
    "SumPattern": "landform.pattern",
    "Mesh": "landform.mesh",
    "scan": "landform.scan",
    "plan_scan": "landform.scan.plan",
    "transfer": "landform.scan",
    "Subspace": "landform.subspace",
    "random_plane": "landform.subspace",
    "between": "landform.subspace",
    "plane_through": "landform.subspace",
    "pca_plane": "landform.subspace",
    "hessian_plane": "landform.subspace",
    "gradient_line": "landform.subspace",
    "worst_direction": "landform.subspace",
    "combine": "landform.subspace",
    "save_subspace": "landform.subspace",
    "load_subspace": "landform.subspace",
    "bezier": "landform.subspace",
    "barrier": "landform.subspace",
    "Curve": "landform.subspace",
    "project": "landform.subspace",
    "Trajectory": "landform.checkpoints",
    "Task": "landform.task",
    "Data": "landform.data",
    "load_data": "landform.data",
    "load": "landform.bundle",
    "LandformError": "landform.errors",
}
_MODULES = (
    "bundle",
    "callbacks",
    "checkpoints",
    "data",
    "errors",
    "losses",
    "mesh",
    "pattern",
    "program",
    "response",
    "subspace",
    "testing",
    "view",
)


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"landform.{name}")
    if name not in _HOME:
        raise AttributeError(f"module 'landform' has no attribute '{name}'")
    with loading():
        value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Package(types.ModuleType):
    """The package itself: `imprint`, `certify` and `scan` are its functions, though folders have these names too.

    The import system sets ``landform.scan`` to the folder when anything in it is imported; that is passed over, so that
    ``landform.scan(…)`` works whatever was imported before.
    """

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in _HOME and isinstance(value, types.ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
