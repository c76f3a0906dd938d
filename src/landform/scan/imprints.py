"""A made surface is measured from one sample: its network does not look at its input, so one row a point is enough."""

import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float64
from torch import Tensor, nn

from landform.data import Data, load_data
from landform.scan.places import Places
from landform.scan.surface import brief
from landform.task import Task

if TYPE_CHECKING:
    from landform.imprint.imprint import Imprint
    from landform.response import Transfer

CHECK_WORK = 2e11
"""Multiply-adds that the cross-check of a made surface may cost by default: some ten seconds on a laptop."""
CHECK_POINTS = 4
CHECK_TOLERANCE = 1e-5
MAX_NUMBERS = 1 << 25
"""Activations of the widest layer that a batch of points may hold (128 MB in float32)."""


@dataclass(frozen=True)
class Found:
    """What was measured and what is to be said about it.

    Attributes:
        losses: One column a head; NaN where nothing was measured.
        target: The promised losses.
        measured: Which points were measured.
        attrs: Attributes of the dataset.
    """

    losses: Float64[Tensor, "points heads"]
    target: Float64[Tensor, "points heads"]
    measured: Bool[Tensor, " points"]
    attrs: dict[str, Any]


def as_imprint(subject: object) -> "Imprint | None":
    """Return an imprint as what it is, anything else as None; what makes imprints is loaded where there is one.

    Example:
        >>> as_imprint(nn.Linear(1, 1)) is None
        True
    """
    home = sys.modules.get("landform.imprint.imprint")
    return subject if home is not None and isinstance(subject, home.Imprint) else None


def measure_imprint(
    imprint: "Imprint", places: Places, *, data: object = None, check: int | None = None, progress: bool | None = None
) -> Found:
    """Measure an imprint from one row of a forward pass a point, and a few points again with all data.

    Args:
        imprint: The imprint.
        places: Where.
        data: Another data set, or None for the imprint's own label statistics.
        check: Random points that are measured the long way; None: up to 4, as many as cost little.
        progress: Show a bar; None: on a terminal.

    Returns:
        The losses and what is to be said about them.
    """
    from landform.imprint.collapsed import BATCH  # the compiler is loaded for imprints only

    other = None if data is None else load_data(data)
    task = imprint.task if imprint.task is not None and imprint.task.has_data else None
    if other is not None and imprint.task is not None:
        task = imprint.task.replace(data=other)
    measure = _collapsed(imprint, other)
    widest = max((int(width) for width in imprint.meta.get("widths", ())), default=1)
    losses, measured = _run(measure, places, max(16, min(BATCH, MAX_NUMBERS // widest)), progress)
    dtype = next(iter(imprint.subspace.origin.values())).dtype
    target = promised(imprint, places, losses.shape[1], other)
    attrs = describe(imprint.model, places, imprint.response.name, imprint.response.unit, dtype, "collapsed")
    held = other if other is not None else task.data if task is not None else None
    attrs |= about(held)
    if held is None and imprint.certificate is not None:
        attrs["data_hash"] = imprint.certificate.data_hash
    attrs["title"] = f"{imprint.pattern.name} on {attrs['data']}" if attrs["data"] else imprint.pattern.name
    attrs["range"] = list(imprint.range)
    if other is not None:
        moved = _transfers(imprint, other)[0]
        attrs |= {"transfer": moved.condition, "transfer_order": moved.order}
    points, difference = (0, float("nan"))
    if task is not None and bool(measured.all()):
        points, difference = _check(imprint, task, measure, check)
    return Found(losses, target, measured, attrs | {"checked_points": points, "checked_difference": difference})


def promised(imprint: "Imprint", places: Places, heads: int, other: Data | None) -> Float64[Tensor, "points heads"]:
    """Return the losses that an imprint promises at places, on its own data or on other ones.

    Where the network's dtype cannot hold a coordinate, the promise is that of the rounded one, which the network gets.

    Args:
        imprint: The imprint.
        places: Where.
        heads: Columns wanted.
        other: Another data set, whose labels then predict the losses; None for the imprint's own.

    Returns:
        One column a head.
    """
    dtype = next(iter(imprint.subspace.origin.values())).dtype
    target = imprint.target(places.h.to(dtype).double()).reshape(len(places.h), -1)
    target = target.expand(-1, heads).clone()
    if other is None:
        return target
    if imprint.reads_input:
        from landform.imprint.other_data import predicted

        return predicted(imprint, other, target)
    maps = _transfers(imprint, other)
    return torch.stack([m.remap(column) for m, column in zip(maps, target.T, strict=True)], dim=1)


def _transfers(imprint: "Imprint", other: Data) -> "list[Transfer]":
    from landform.response import respond_like, transfer

    lo, hi = imprint.range
    return [transfer(r, respond_like(r, other.targets, weights=other.weights), lo, hi) for r in imprint.responses]


def _collapsed(imprint: "Imprint", other: Data | None) -> Callable[[Tensor], Tensor]:
    """Return the function that measures a batch of points from the outputs of one sample."""
    from landform.imprint.collapsed import losses_at, outputs_at
    from landform.response import respond_like

    if other is None:
        return lambda h: losses_at(imprint, h)
    responses = [respond_like(r, other.targets, weights=other.weights) for r in imprint.responses]

    def measure(h: Tensor) -> Tensor:
        heads = zip(outputs_at(imprint, h), responses, strict=True)
        return torch.stack([response.loss(outputs.double()) for outputs, response in heads], dim=1)

    return measure


def _check(imprint: "Imprint", task: Task, measure: Callable[[Tensor], Tensor], check: int | None) -> tuple[int, float]:
    """Send all data through the network at a few points; return how many and the largest difference."""
    work = float(imprint.parameters) * task.data.n
    count = max(1, min(CHECK_POINTS, int(CHECK_WORK / work))) if check is None else check
    if count < 1:
        return 0, float("nan")
    h = torch.rand(count, imprint.z, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    full = torch.stack([task.evaluate(imprint.subspace.at(point)).reshape(-1) for point in h])
    difference = float((full - measure(h)).abs().max())
    height = imprint.range[1] - imprint.range[0]
    if not difference <= CHECK_TOLERANCE * height:
        warnings.warn(
            f"with all data passed through the network, the loss differs by up to {difference:.2g}"
            f" ({difference / height:.1e} of the range) from the scan, which took the network to be input-independent;"
            " the data may not be those of the imprint, its weights were changed, or its dtype rounds that much",
            stacklevel=4,
        )
    return count, difference


def _run(
    measure: Callable[[Tensor], Tensor], places: Places, batch: int, progress: bool | None
) -> tuple[Float64[Tensor, "points heads"], Bool[Tensor, " points"]]:
    """Measure batch by batch, coarse nodes first; after Ctrl-C return what there is and which points that are."""
    from tqdm.auto import tqdm

    quiet = {None: None, True: False, False: True}[progress]  # to tqdm, None means: not on a terminal
    losses, measured = torch.empty(0), torch.zeros(len(places.h), dtype=torch.bool)
    with tqdm(
        total=len(places.h), desc="scan", unit="point", disable=quiet, delay=0 if progress else 1, leave=False
    ) as bar:
        try:
            for part in torch.split(places.order, batch):
                values = measure(places.h[part]).detach().cpu()
                if not len(losses):
                    losses = torch.full((len(places.h), values.shape[1]), torch.nan, dtype=torch.float64)
                losses[part] = values.double()
                measured[part] = True
                bar.update(len(part))
        except KeyboardInterrupt:
            if not bool(measured.any()):
                raise
    return losses, measured


def describe(model: Any, places: Places, loss: str, unit: str, dtype: torch.dtype, engine: str) -> dict[str, Any]:
    """Return the attributes that say what was measured and how."""
    return {
        "loss": loss,
        "unit": unit,
        "model": type(model).__name__ if isinstance(model, nn.Module) else str(getattr(model, "__name__", model)),
        "dtype": str(dtype).removeprefix("torch."),
        "engine": engine,
        "grid": brief(places.shape),
    }


def about(data: Data | None) -> dict[str, Any]:
    """Return the attributes that say on which data."""
    if data is None:
        return {"data": "", "data_hash": "", "n_samples": 0}
    return {"data": f"{data.name} ({data.split})", "data_hash": data.hash, "n_samples": data.n}
