"""Tools for tests of landform and of code built on it: phantoms, strategies, references, tampering, checks of scanners.

The strategies need hypothesis (``pip install landform[testing]``), imported when one is called; the rest needs nothing
but landform.
"""

from landform.testing.diagnose import diagnose
from landform.testing.perturb import dead_entries, live_entries, perturbed
from landform.testing.phantom import Phantom, phantom
from landform.testing.phantoms import Critical
from landform.testing.problem import ScanProblem
from landform.testing.random_networks import convnets, encoders, perceptrons
from landform.testing.reference import dense_losses, hard_points, kuhn_value, looped_losses, targets_for
from landform.testing.scanner import Finding, ScanReport, check_scan, landform_scanner
from landform.testing.scans import grids, scan_spaces, scan_tasks
from landform.testing.strategies import losses, mlps, patterns, sums, tasks, widths

__all__ = [  # noqa: RUF022 - by kind
    # phantoms: known surfaces
    "phantom",
    "Phantom",
    "Critical",
    # strategies
    "convnets",
    "encoders",
    "losses",
    "mlps",
    "patterns",
    "perceptrons",
    "sums",
    "tasks",
    "widths",
    "scan_tasks",
    "scan_spaces",
    "grids",
    # references
    "dense_losses",
    "hard_points",
    "kuhn_value",
    "looped_losses",
    "targets_for",
    # tampering
    "dead_entries",
    "live_entries",
    "perturbed",
    # tools that measure loss surfaces
    "check_scan",
    "landform_scanner",
    "diagnose",
    "ScanProblem",
    "ScanReport",
    "Finding",
]
