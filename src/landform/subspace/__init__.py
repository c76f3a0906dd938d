"""Subspaces of parameter space: where to look."""

from landform.subspace.between import between, plane_through
from landform.subspace.bezier import Barrier, barrier, bezier
from landform.subspace.combine import combine
from landform.subspace.curve import Curve
from landform.subspace.gradient import gradient_line
from landform.subspace.hessian import hessian_plane
from landform.subspace.orthogonal import cosine
from landform.subspace.pca import pca_plane
from landform.subspace.projection import Projection, project
from landform.subspace.random import random_plane
from landform.subspace.saved import load_subspace, save_subspace
from landform.subspace.subspace import Subspace
from landform.subspace.worst import worst_direction

__all__ = [
    "Barrier",
    "Curve",
    "Projection",
    "Subspace",
    "barrier",
    "between",
    "bezier",
    "combine",
    "cosine",
    "gradient_line",
    "hessian_plane",
    "load_subspace",
    "pca_plane",
    "plane_through",
    "project",
    "random_plane",
    "save_subspace",
    "worst_direction",
]
