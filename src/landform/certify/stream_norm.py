"""The proof for transformers: what a norm gives, as intervals around P1 functions.

A norm multiplies everything it reads by 1/σ(h). σ² is a convex function of the stream (a positive quadratic), so its
largest value lies at nodes; from below, each coordinate contributes its least square. With σ0 between, the read is
λ·X/σ0 with |λ − 1| ≤ Λ; the rounding of the root, which all coordinates share, is part of Λ.
"""

from dataclasses import dataclass

import numpy as np

from landform.certify.rounding import SLACK, U64
from landform.certify.stream_weights import State, Weights, gamma
from landform.imprint.lower.stream import Norm

NORM_OPS = 4.0
"""Roundings of one coordinate in a norm at most, beyond those that all coordinates share."""
ROOT_OPS = 10.0
"""Roundings that all coordinates share beside the sum of squares: its mean, ε, the root, its inverse."""


@dataclass(frozen=True)
class Read:
    """What a norm gives to the maps after it: λ·linear + constant.

    Args:
        linear: ``[coordinates, nodes]``, the part that λ multiplies.
        constant: ``[coordinates, nodes]``, the part of the norm's bias.
        error: Radius of each coordinate, without what follows.
        shared: Errors in common, as in `State`.
        gain: Gain/σ0 of each coordinate, for the error of the mean.
        mean: Radius of the mean that all coordinates share.
        factor: Λ ≥ |λ − 1|.
        scale: σ0.
    """

    linear: np.ndarray
    constant: np.ndarray
    error: np.ndarray
    shared: list[np.ndarray]
    gain: np.ndarray
    mean: np.ndarray
    factor: float
    scale: float


def read_norm(
    weights: Weights,
    norm: Norm,
    state: State,
    h: np.ndarray,
    *,
    scale: float | None = None,
    own_error: np.ndarray | None = None,
) -> Read:
    """Push the stream through a norm.

    Args:
        weights: The network.
        norm: Which norm.
        state: The stream.
        h: Coordinates of the nodes, ``[z, nodes]``.
        scale: σ0 to use; by default the middle of the range of σ.
        own_error: Radii of the coordinates for what is read of each of them, where those of ``state`` (which the mean
            and σ feel) also cover a movement that is followed elsewhere.

    Returns:
        What the maps after it read.
    """
    d, unit = weights.width, weights.norm_unit(norm)
    gain = weights.moved(norm.gain, h) + norm.gain_offset
    total = state.radius
    size = np.abs(state.value) + total
    if norm.kind == "layer":
        mean = state.value.mean(0)
        slip = (gamma(d + 1, unit) + gamma(d, U64)) * size.sum(0) / d + total.mean(0)
    else:
        mean, slip = np.zeros(size.shape[1]), np.zeros(size.shape[1])
    centred = state.value - mean
    reach = np.abs(centred) + total + slip
    largest = float(np.sqrt((reach**2).mean(0).max() + norm.eps)) * (1 + 4 * d * U64)
    # from below, mean x² − mean²: the coordinates' least squares do not see the mean move
    sign = np.sign(state.value[:, :1])
    least = np.where(sign * state.value > 0, sign * state.value - total, 0.0).min(1).clip(min=0)
    below = float((least**2).mean() + norm.eps - ((np.abs(mean) + slip) ** 2).max())
    smallest = float(np.sqrt(max(below, 0.0))) * (1 - 4 * d * U64)
    middle = float(np.sqrt(smallest * largest)) if scale is None else scale
    factor = max(middle / smallest - 1, 1 - middle / largest) if smallest > 0 else np.inf
    squares = (smallest**2 - norm.eps) * d if norm.kind == "rms" else np.inf
    factor = (factor + root_rounding(norm, (np.abs(state.value) + total).max(1), squares, unit)) * SLACK
    read = (gain != 0).any(1)
    if not read.any():
        factor, middle = 0.0, 1.0
    linear = np.where(read[:, None], gain * centred / middle, 0.0)
    own = own_rounding(norm, state.value, mean, slip, unit)
    own += state.error if own_error is None else own_error
    error = np.where(read[:, None], np.abs(gain) / middle * own * SLACK * (1 + factor), 0.0)
    shared = [
        np.where(read[:, None], gain * (part - (part.mean(0) if norm.kind == "layer" else 0.0)) / middle, 0.0)
        for part in state.shared
    ]
    constant = weights.moved(norm.bias, h)
    error = error + unit * np.where((constant != 0) & (linear != 0), np.abs(constant) + np.abs(linear), 0.0)
    return Read(linear, constant, error, shared, gain / middle, slip * (1 + factor), float(factor), middle)


def own_rounding(norm: Norm, value: np.ndarray, mean: np.ndarray, slip: np.ndarray | float, unit: float) -> np.ndarray:
    """Bound what a norm rounds in each coordinate by itself, before the gain, in the units of the stream.

    (x − m)·r·g with r = 1/σ, or (x·r − m·r)·g: the difference rounds by u|x − m|, or x·r by u|x| and then the
    difference by u|x − m|; one or two products by u|x − m| each. RMSNorm has the products alone, and rounds 1 + gain
    where it stores gain so.
    """
    if norm.kind == "layer":
        centred = np.abs(value - mean) + slip
        rounded = unit * (2 * centred + np.maximum(np.abs(value), centred))
    else:
        rounded = unit * (3.0 if norm.gain_offset else 2.0) * np.abs(value)
    own: np.ndarray = rounded + 4 * U64 * (np.abs(value) + np.abs(mean))
    return own


def root_rounding(norm: Norm, size: np.ndarray, total: float, unit: float) -> float:
    """Bound the relative error of 1/σ, which all coordinates share.

    Of a variance, d + 16 roundings, half of which the root leaves. A mean of squares is a sum of terms ≥ 0, in whatever
    order: where two parts that hold one of the b largest terms meet, it rounds by u of the total, b − 1 times; where a
    part without one is added, by no more than that part (the other is a number already). So the relative error is at
    most (b − 1)·u + Σ of the others/total, for any b.

    Args:
        norm: Which norm.
        size: The largest |x| of each coordinate.
        total: The least sum of squares that occurs.
        unit: Unit roundoff.
    """
    d = len(size)
    every = float(gamma(d, unit))
    if norm.kind == "rms" and total > 0:
        squares = np.sort(size**2)
        small = np.append(np.cumsum(squares)[::-1], 0.0) / total  # without the 0, 1, 2 … largest
        every = min(every, float((small[1:] * SLACK + np.arange(d) * unit).min()) + d * U64)
    return every / 2 + (8.0 if norm.kind == "layer" else 0.0) * unit + ROOT_OPS * unit
