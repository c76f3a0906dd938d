"""Measure loss surfaces: `scan` returns a labelled dataset."""

from landform.scan.grid import scan

__all__ = ["scan"]
