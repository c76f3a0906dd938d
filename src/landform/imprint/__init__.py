"""Imprints: networks whose loss surface is a pattern."""

from landform.imprint.imprint import Imprint
from landform.imprint.make import imprint

__all__ = ["Imprint", "imprint"]
