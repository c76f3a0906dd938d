"""Moved to `landform.imprint.collapsed`."""

from landform.imprint.collapsed import BATCH, losses_at, outputs_at

__all__ = ["BATCH", "losses_at", "outputs_at"]
