"""Measure loss surfaces: `scan` returns a labelled dataset, `transfer` predicts one from labels alone."""

from landform.scan.grid import scan
from landform.scan.transfer import transfer

__all__ = ["scan", "transfer"]
