"""Samplers: which points are evaluated on how many samples, and what follows; ask/tell, no model in sight."""

from landform.scan.sampler.base import AbstractSampler, Estimate, Request
from landform.scan.sampler.full import FullGrid
from landform.scan.sampler.multilevel import Multilevel
from landform.scan.sampler.order import sample_order

__all__ = ["AbstractSampler", "Estimate", "FullGrid", "Multilevel", "Request", "sample_order"]
