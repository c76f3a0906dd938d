"""Subspaces of parameter space."""

from landform.subspace.subspace import Subspace

__all__ = ["Subspace"]
