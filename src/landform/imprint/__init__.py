"""Imprints: networks whose loss surface is a pattern.

What makes them is `landform.imprint.make`; measuring needs the class alone, and does not wait for the compiler.
"""

from landform.imprint.imprint import Imprint

__all__ = ["Imprint"]
