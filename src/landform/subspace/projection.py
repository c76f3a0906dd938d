"""`project`: where points of parameter space fall on a subspace, and how far off it they lie."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float64
from torch import Tensor

from landform.checkpoints import Trajectory
from landform.checkpoints.files import rows_of
from landform.errors import InputError
from landform.subspace.subspace import Subspace

if TYPE_CHECKING:
    from landform.subspace.pca import Points

_NUMBERS = 1 << 20


@dataclass(frozen=True, eq=False)
class Projection:
    """Points of parameter space seen from a subspace.

    Attributes:
        coordinates: The nearest point of the subspace to each, shape ``[points, z]``, float64.
        off_plane: Distance of each point from the subspace, ``[points]``: a Euclidean norm over all parameters.
        distance: Distance of each point from the origin; ``(off_plane / distance)²`` is the share that a plot over the
            subspace does not show.
        steps: The step of training of each, None where it is not known.
    """

    coordinates: Float64[Tensor, "points z"]
    off_plane: Float64[Tensor, " points"]
    distance: Float64[Tensor, " points"]
    steps: tuple[int | None, ...]

    def __repr__(self) -> str:
        """Say what it is in one line."""
        worst = float(self.off_plane.max()) if len(self.off_plane) else 0.0
        return f"Projection({len(self.steps)} points, z={self.coordinates.shape[1]}, at most {worst:.3g} off the plane)"


def project(subspace: Subspace, points: "Points") -> Projection:
    """Find the coordinates of points in a subspace, and their distance from it.

    The coordinates minimise ‖θ − origin − Σ_i h_i d_i‖₂ over all parameters; directions may be skewed. What no
    direction moves counts for the distance too.

    Args:
        subspace: The subspace, with linearly independent directions.
        points: A `landform.Trajectory`; or models, state dicts or files; or a pattern over files. Each needs the
            origin's parameters; what it has beyond those is passed over.

    Returns:
        Coordinates and distances.

    Raises:
        InputError: Points that do not fit the subspace, or directions that depend on each other.

    Cost:
        Two passes over the points, a slice of 1 Mi numbers at a time.

    Example:
        >>> line = Subspace({"w": torch.zeros(3)}, ({"w": torch.tensor([2.0, 0.0, 0.0])},))
        >>> found = project(line, [{"w": torch.tensor([1.0, 0.0, 0.0])}, {"w": torch.tensor([4.0, 3.0, 0.0])}])
        >>> found.coordinates.tolist(), found.off_plane.tolist(), found.distance.tolist()
        ([[0.5], [2.0]], [0.0, 3.0], [1.0, 5.0])
    """
    from landform.subspace.pca import trajectory_of

    trajectory = trajectory_of(points, None)
    for name, value in subspace.origin.items():
        if not value.is_floating_point():
            continue
        for point in trajectory:
            if name not in point.names or point.shape(name) != tuple(value.shape):
                got = f"has it with shape {list(point.shape(name))}" if name in point.names else "has no such parameter"
                raise InputError(
                    f"'{name}' of the subspace has shape {list(value.shape)}; {point.label} {got}: is it of another"
                    " model?"
                )
    gram = torch.zeros(subspace.z, subspace.z, dtype=torch.float64)
    products = torch.zeros(subspace.z, len(trajectory), dtype=torch.float64)
    for moves, values in _slices(subspace, trajectory):
        gram += moves @ moves.T
        products += moves @ values.T
    scale = gram.diagonal().sqrt()
    if not bool((scale > 0).all()) or float(torch.linalg.eigvalsh(gram / scale / scale[:, None])[0]) < 1e-12:
        raise InputError("the directions depend on each other, so a point has no coordinates; take independent ones")
    coordinates = torch.linalg.solve(gram / scale / scale[:, None], products / scale[:, None]) / scale[:, None]
    off, all_of = torch.zeros(len(trajectory), dtype=torch.float64), torch.zeros(len(trajectory), dtype=torch.float64)
    for moves, values in _slices(subspace, trajectory):  # residuals themselves: differences of squares would cancel
        off += (values - coordinates.T @ moves).square().sum(1)
        all_of += values.square().sum(1)
    return Projection(coordinates.T.contiguous(), off.sqrt(), all_of.sqrt(), trajectory.steps)


def _slices(subspace: Subspace, trajectory: Trajectory) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield slices of the directions ``[z, m]`` and of the points less the origin ``[points, m]``, in float64."""
    for name, value in subspace.origin.items():
        if not value.is_floating_point():
            continue
        made = [direction[name].detach() if name in direction else None for direction in subspace.directions]
        for rows in rows_of(tuple(value.shape), _NUMBERS // max(1, len(trajectory) + subspace.z)):
            part = value.detach() if rows is None else value.detach()[rows]
            at = part.cpu().double().flatten()
            moves = [
                torch.zeros_like(at)
                if move is None
                else (move if rows is None else move[rows]).cpu().double().flatten()
                for move in made
            ]
            points = [point.read(name, rows).cpu().double().flatten() - at for point in trajectory]
            yield torch.stack(moves) if moves else at.new_zeros(0, len(at)), torch.stack(points)
