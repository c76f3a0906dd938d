"""Subspaces of parameter space: where to look."""

from landform.subspace.between import between, plane_through
from landform.subspace.orthogonal import cosine
from landform.subspace.random import random_plane
from landform.subspace.subspace import Subspace

__all__ = ["Subspace", "between", "cosine", "plane_through", "random_plane"]
