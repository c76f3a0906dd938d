"""Samplers: which points are evaluated on how many samples, and what follows; ask/tell, no model in sight."""

from landform.scan.sampler.base import AbstractSampler, Estimate, Request

__all__ = ["AbstractSampler", "Estimate", "Request"]
