"""Two slices through one network: its loss on random directions, beside its loss on the directions of an imprint."""

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from landform.errors import InputError
from landform.imprint.imprint import Imprint
from landform.pattern import Pattern
from landform.scan import scan
from landform.subspace import Subspace, random_plane
from landform.task import Task
from landform.view.heat import heat
from landform.view.read import how_sure
from landform.view.relief import relief
from landform.view.style import new_figure, plain, quiet_style

if TYPE_CHECKING:
    import matplotlib.figure
    import xarray

RANDOM, COMPILED = "random", "compiled"
STEEP = 0.02
"""Least to greatest loss of a random plane below which its colours are logarithmic: its corners explode."""


def measure_slices(
    imprint: Imprint,
    *,
    at: Sequence[float] | Tensor | None = None,
    seed: int = 0,
    span: float = 1.0,
    grid: int = 33,
    random_grid: int | None = None,
    tolerance: float = 0.0,
    progress: bool | None = None,
) -> "dict[str, xarray.Dataset]":
    """Measure a network around one point, along random directions and along those of its imprint.

    Both surfaces are of the *same* network, data and loss, and meet in the point h*: there all parameters are equal.
    The random plane is filter-normalised (`landform.random_plane`) and moves the weights of the trained part only, in
    Theorem 2; what is compiled stays as it is, so that the plane is one through the trained network.

    Args:
        imprint: With data and one head; over two coordinates or more (the first two are drawn).
        at: h*, the point through which the random plane goes; None: the node where the pattern is least, the first of
            several.
        seed: Of the random directions.
        span: Half the width of the random plane, in filter norms; 1 as in the literature.
        grid: Nodes an axis of both.
        random_grid: Nodes an axis of the random plane, where fewer will do; None: as many.
        tolerance: As in `landform.scan`; 0 measures every node on all samples.
        progress: As in `landform.scan`.

    Returns:
        The surfaces by name, ``"random"`` and ``"compiled"``; both have ``attrs["at"]`` and ``attrs["loss_at"]``.

    Raises:
        InputError: If the imprint has no data, one coordinate, or several heads.

    Cost:
        grid² + random_grid² passes over the data, for constant imprints the latter.

    References:
        Filter normalisation: Li, Xu, Taylor, Studer, Goldstein, arXiv 1712.09913.

    Example:
        >>> import landform as lf
        >>> made = lf.imprint("formula:sphere", "digits", range=(2.4, 2.8), certify=False)
        >>> found = measure_slices(made, grid=3)
        >>> [round(float(found[k].loss.sel(h1=x, h2=x)), 3) for k, x in (("random", 0.0), ("compiled", 0.5))]
        [2.4, 2.4]
    """
    if imprint.task is None:
        raise InputError("the imprint has no data to measure on; load it with data: lf.load(path, data=…)")
    if imprint.z < 2 or (imprint.pattern.channels or 1) > 1:
        raise InputError(f"slices are drawn over two coordinates of one head; this imprint has z = {imprint.z},"
                         f" {imprint.pattern.channels or 1} channels")  # fmt: skip
    point = lowest(imprint) if at is None else torch.as_tensor(at, dtype=torch.float64)
    if point.shape != (imprint.z,):
        raise InputError(f"at is a point of {imprint.z} coordinates, got shape {tuple(point.shape)}")
    origin = imprint.subspace.at(point)
    plane = random_plane(_at(imprint, origin), seed=seed)
    around = Subspace(dict(origin), within(plane, trained_part(imprint)), plane.meta, ((-span, span),) * 2)
    network = imprint.task.model
    task = Task(network, imprint.task.loss, imprint.task.data, name=imprint.task.name)
    found = {
        RANDOM: scan(task, around, grid=random_grid or grid, tolerance=tolerance, progress=progress),
        COMPILED: scan(
            imprint,
            grid=grid,
            axes=(1, 2) if imprint.z > 2 else None,
            at=point if imprint.z > 2 else None,
            tolerance=tolerance,
            progress=progress,
        ),
    }
    loss = float(imprint.task.evaluate(origin))
    for surface in found.values():
        surface.attrs.update({"at": [float(x) for x in point], "loss_at": loss, "seed": seed})
    return found


def slices(
    imprint: Imprint,
    surfaces: "dict[str, xarray.Dataset] | None" = None,
    *,
    seed: int = 0,
    grid: int = 33,
    tolerance: float = 0.0,
    title: str | None = None,
    with_relief: bool = False,
) -> "matplotlib.figure.Figure":
    """Draw a network's loss on random directions beside its loss on those of its imprint.

    Each map has colours of its own, since the heights differ; a cross marks h*, one and the same network in both.

    Args:
        imprint: The imprint.
        surfaces: What `measure_slices` returned; None measures now.
        seed: Of the random directions.
        grid: Nodes an axis.
        tolerance: As in `landform.scan`.
        title: Above; None: pattern and method.
        with_relief: Draw the reliefs too.

    Returns:
        The figure.

    Raises:
        InputError: As `measure_slices`.

    Cost:
        As `measure_slices`; drawing takes about a second.

    Example:
        >>> import landform as lf
        >>> made = lf.imprint("formula:sphere", "digits", certify=False)
        >>> [ax.get_title(loc="left") for ax in slices(made, grid=3).axes[:2]]
        ['random directions, seed 0', 'compiled directions']
    """
    found = measure_slices(imprint, seed=seed, grid=grid, tolerance=tolerance) if surfaces is None else surfaces
    random, compiled = found[RANDOM], found[COMPILED]
    point = random.attrs["at"]
    with quiet_style():
        figure = new_figure(8.6, 3.6 + (3.2 if with_relief else 0.0))
        panels = (
            (random, (0.0, 0.0), f"random directions, seed {random.attrs['seed']}"),
            (compiled, (point[0], point[1]), "compiled directions"),
        )
        for column, (surface, cross, name) in enumerate(panels, start=1):
            ax = figure.add_subplot(1 + with_relief, 2, column)
            values = surface["loss"].values
            steep = surface is random and bool(0 < np.nanmin(values) < STEEP * np.nanmax(values))
            heat(surface, ax=ax, title=name, dots=False, notes=False, log=steep)
            ax.plot(*cross, marker="+", markersize=11, markeredgewidth=2.4, color="black")
            ax.plot(*cross, marker="+", markersize=9, markeredgewidth=1.0, color="white")
            if with_relief:
                relief(surface, ax=figure.add_subplot(2, 2, 2 + column, projection="3d"))
        method = str(imprint.meta.get("method", "constant"))
        first = title or f"{imprint.pattern.name}, {method}, {imprint.task.data.name if imprint.task else ''}"
        unit = imprint.response.unit
        known = {kind: how_sure(found[kind], "loss") for kind in (RANDOM, COMPILED)}
        sure = "".join(f"\n{kind} directions, sampled: {words}" for kind, words in known.items() if words)
        figure.suptitle(
            f"{plain(first)}\none network, one data set; at + in both maps its loss is {random.attrs['loss_at']:.4g}"
            f"{'' if unit == 'loss' else ' ' + unit}{sure}",
            x=0.012,
            ha="left",
            fontsize=10,
            linespacing=1.4,
        )
    return figure


def lowest(imprint: Imprint) -> Tensor:
    """Return the node where the pattern is least, the first of several; the middle of the box where it has no nodes."""
    if not isinstance(imprint.pattern, Pattern):
        return torch.full((imprint.z,), 0.5, dtype=torch.float64)
    nodes = imprint.pattern.mesh.nodes()
    return nodes[int(imprint.pattern.values.reshape(len(nodes), -1)[:, 0].argmin())]


def _at(imprint: Imprint, origin: "dict[str, Tensor]") -> torch.nn.Module:
    """Return a copy of the network at a point."""
    network = copy.deepcopy(imprint.model)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.copy_(origin[name])
    return network


def trained_part(imprint: Imprint) -> "dict[str, Tensor]":
    """Return which entries of each parameter belong to the trained network (True), not to what is compiled beside it.

    A constant imprint has no trained part: everything counts.
    """
    from landform.imprint.beside import columns_of, trunk_of  # the compiler is loaded for imprints only
    from landform.imprint.lower.network import read
    from landform.imprint.scores import without_tail
    from landform.imprint.token_accounting import trained_entries
    from landform.response.token_offset import TokenOffsetResponse

    if isinstance(imprint.response, TokenOffsetResponse):
        return trained_entries(imprint)
    origin = imprint.subspace.origin
    mask = {name: torch.ones(value.shape, dtype=torch.bool) for name, value in origin.items()}
    if not imprint.reads_input:
        return mask
    model, tail = imprint.model, imprint.meta.get("tail")
    if tail is not None:
        model = without_tail(model, tail)
        for name in origin:
            if name.startswith(f"{tail}.") and not name.startswith(f"{tail}.0."):
                mask[name][:] = False
        for key in ("weight", "bias"):
            mask[f"{tail}.0.{key}"][-1] = False
    trunk = trunk_of(read(model, imprint.meta.get("sample")))
    channels = imprint.meta["channels"]
    for member in (*trunk.members, trunk.last):
        stored = f"{member.name}.0" if member.name == tail else member.name
        rows = trunk.joined(member.makes, channels)
        for key in ("weight", "bias"):
            if f"{stored}.{key}" in mask:
                mask[f"{stored}.{key}"][rows] = False
        if member.kind == "map" and member.reads and not member.depthwise:
            mask[f"{stored}.weight"][:, columns_of(model.get_submodule(member.name), trunk, member, channels)] = False
    return mask


def within(plane: Subspace, mask: "dict[str, Tensor]") -> "tuple[dict[str, Tensor], ...]":
    """Restrict a plane to some entries: filter by filter orthogonal again, and as long as what they move."""
    first, second = ({name: d[name] * mask[name] for name in d} for d in plane.directions)
    for name in first:
        a, b = (d[name].reshape(len(d[name]), -1) for d in (first, second))
        b = b - (a * b).sum(dim=1, keepdim=True) / a.square().sum(dim=1, keepdim=True).clamp(min=1e-30) * a
        size = (plane.origin[name] * mask[name]).reshape(len(a), -1).norm(dim=1, keepdim=True)
        for found, d in ((a, first), (b, second)):
            length = found.norm(dim=1, keepdim=True)
            scaled = torch.where(length > 1e-6 * size, found * size / length.clamp(min=1e-30), 0.0)
            d[name] = scaled.reshape(d[name].shape)
    return first, second
