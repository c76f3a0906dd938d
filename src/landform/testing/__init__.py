"""Tools for tests of landform and of code built on it: strategies, naive references, tampering.

The strategies need hypothesis (``pip install landform[testing]``), imported when one is called; the rest needs nothing
but landform.
"""

from landform.testing.perturb import dead_entries, live_entries, perturbed
from landform.testing.reference import dense_losses, hard_points, kuhn_value, targets_for
from landform.testing.strategies import losses, mlps, patterns, sums, tasks, widths

__all__ = [  # noqa: RUF022 - by kind
    # strategies
    "losses",
    "mlps",
    "patterns",
    "sums",
    "tasks",
    "widths",
    # references
    "dense_losses",
    "hard_points",
    "kuhn_value",
    "targets_for",
    # tampering
    "dead_entries",
    "live_entries",
    "perturbed",
]
