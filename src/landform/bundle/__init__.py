"""The bundle: an imprint as a folder of standard formats, readable without landform (see ``docs/bundle.md``)."""

from landform.bundle.layout import FORMAT_VERSION
from landform.bundle.loading import info, load
from landform.bundle.saving import save

__all__ = ["FORMAT_VERSION", "info", "load", "save"]
