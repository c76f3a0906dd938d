"""What a scan warns of when it is done: what is missing, and where the surface is not what was asked for."""

import warnings
from collections.abc import Mapping
from typing import Any


def interrupted(done: int, points: int) -> None:
    """Say that points are missing."""
    text = f"interrupted: {done} of {points} points are measured; status says what the others are"
    warnings.warn(text, stacklevel=4)  # at the line that called landform.scan


def sampled(notes: Mapping[str, Any], n: int) -> None:
    """Say where a scan with a tolerance fell short of it: at nodes, or at random points between them.

    Args:
        notes: Of the estimate.
        n: Samples in the data set.
    """
    heads = loss_heads(notes)
    if heads and not notes.get("tolerance_reached", True):
        _not_reached(max(heads, key=lambda head: head["half_width"] / head["tolerance"]), n)
    checked = [head for head in heads if head.get("check_outside")]
    if checked:
        _beyond(max(checked, key=lambda head: head["check_outside"]), float(notes["confidence"]))


def loss_heads(notes: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what a scan with a tolerance noted about the loss of each head.

    Args:
        notes: Of the estimate, or attributes of the surface.

    Returns:
        One mapping a head: ``tolerance``, ``half_width``, ``truncation``, ``check_points``, … as in
        `landform.scan.sampler.Multilevel`, without the name in front.

    Example:
        >>> loss_heads({"loss_0_half_width": 1.0, "loss_0_tolerance": 2.0, "loss_1_half_width": 3.0, "unit": "nat"})
        [{'half_width': 1.0, 'tolerance': 2.0}, {'half_width': 3.0}]
    """
    key = "half_width"
    names = [str(name).removesuffix(key) for name in notes if str(name).startswith("loss") and str(name).endswith(key)]
    return [{str(k).removeprefix(name): v for k, v in notes.items() if str(k).startswith(name)} for name in names]


def _not_reached(head: Mapping[str, Any], n: int) -> None:
    """Say that all samples are not enough, which is so only where they are themselves a sample."""
    text = (
        f"the tolerance is not reached: intervals are up to ±{head['half_width']:.3g}, asked for were"
        f" ±{head['tolerance']:.3g}; towards the population {n:,} samples cannot tell more: bring more data, or"
        " ask for a wider tolerance"
    )
    warnings.warn(text, stacklevel=5)


def _beyond(head: Mapping[str, Any], confidence: float) -> None:
    largest, tolerance = head["check_largest"], head["tolerance"]
    far = f", by up to {largest:.3g}" if largest > tolerance else ", where only one of the two is finite"
    text = (
        f"between the nodes the surface is off by more than the tolerance of ±{tolerance:.3g} at"
        f" {head['check_outside']} of {head['check_points']} random points{far};"
        f" with {100 * confidence:g} % that is so in up to {100 * head['volume_beyond']:.3g} % of the volume:"
        " take a finer grid, or a smaller box where it is rough"
    )
    warnings.warn(text, stacklevel=5)
