"""Subspaces of parameter space: where to look."""

from landform.subspace.between import between, plane_through
from landform.subspace.orthogonal import cosine
from landform.subspace.pca import pca_plane
from landform.subspace.projection import Projection, project
from landform.subspace.random import random_plane
from landform.subspace.subspace import Subspace

__all__ = [
    "Projection",
    "Subspace",
    "between",
    "cosine",
    "pca_plane",
    "plane_through",
    "project",
    "random_plane",
]
