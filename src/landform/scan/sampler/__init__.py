"""Samplers: which points are evaluated on how many samples, and what follows; ask/tell, no model in sight."""

from typing import TYPE_CHECKING

from landform.scan.sampler.base import AbstractSampler, Estimate, Request
from landform.scan.sampler.full import FullGrid
from landform.scan.sampler.order import sample_order

if TYPE_CHECKING:
    from landform.scan.sampler.multilevel import Multilevel

__all__ = ["AbstractSampler", "Estimate", "FullGrid", "Multilevel", "Request", "sample_order"]


def __getattr__(name: str) -> object:
    """Load the multilevel sampler, most of this folder, where it is used."""
    if name == "Multilevel":
        from landform.scan.sampler.multilevel import Multilevel

        return Multilevel
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
