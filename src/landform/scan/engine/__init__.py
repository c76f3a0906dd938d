"""Engines: ways of computing the same per-sample losses at points of a subspace, one file a way."""

from landform.scan.engine.base import AbstractEngine, Sums, Terms

__all__ = ["AbstractEngine", "Sums", "Terms"]
