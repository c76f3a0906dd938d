"""Which channels the units of one layer take, by what they are multiplied there, and how they are read back.

Behind a norm over groups a unit shares its mean with the others of its group. Hinges of one family are put beside each
other. A register that is only carried gets a group of its own and is written twice, as x + s and T + s − x: their mean
is a constant whatever x is, and its error, which both have, is not in their difference,

    x = ½(y_1 − y_2 + T).

T is a power of two ≥ x; s keeps both above 0, so that no activation bends them.
"""

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from landform.imprint.lower.stages import slots
from landform.program.program import Layer

PAIRS = 16  # registers carried by a layer for which pairs are tried
MARGIN = 2.0**-6  # s/T


@dataclass(frozen=True)
class Placing:
    """Where units are.

    Args:
        rows: From pre-activations of the units to those of the channels, ``[channels taken, units]``.
        shift: What is added to them behind the map, ``[channels taken]``.
        back: From channels to units, ``[units, channels taken]``.
        level: What is added to the units read so, ``[units]``.
        at: The channels taken.
        top: Bounds of the channels.
    """

    rows: sp.csr_matrix
    shift: np.ndarray
    back: sp.csr_matrix
    level: np.ndarray
    at: np.ndarray
    top: np.ndarray


def single(rows: sp.csr_matrix, back: sp.csr_matrix, at: np.ndarray, top: np.ndarray) -> Placing:
    """Return a placing of units that are each in the channels of one row."""
    return Placing(rows, np.zeros(rows.shape[0]), back, np.zeros(back.shape[0]), at, top)


def among_groups(
    layer: Layer, units: np.ndarray, expand: sp.csr_matrix, found: Placing, width: int, shared: int, cap: float
) -> Placing:
    """Return where units go if ``shared`` channels share a mean.

    Args:
        layer: Their layer.
        units: Which of its units.
        expand: The map from these to network units.
        found: Their placing otherwise; its rows are those of ``expand`` times a factor.
        width: Channels of the stage.
        shared: Channels in a group.
        cap: Where the activation stops growing.
    """
    count, groups = expand.shape[0], width // shared
    carried = np.flatnonzero(layer.carried[units])
    rest = np.setdiff1d(np.arange(count), carried)  # carried units are the first rows of ``expand`` that read them
    group = np.zeros(layer.units, dtype=int) if layer.group is None else layer.group
    family = group[units][expand.indices]  # one entry a row
    pairs = len(carried)
    size = np.exp2(np.ceil(np.log2(np.maximum(found.top[carried], 1e-300))))
    roomy = len(rest) <= (groups - pairs) * (shared - 1) and (size * (1 + MARGIN) <= cap).all()
    if not 0 < pairs <= PAIRS or not roomy:
        at = _by_family(width, shared, family)
        return Placing(found.rows, found.shift, found.back, found.level, at, found.top)
    at = np.empty(count + pairs, dtype=int)
    first = np.arange(pairs) * shared
    at[carried], at[count:] = first, first + 1
    at[rest] = pairs * shared + _by_family(width - pairs * shared, shared, family[rest])
    rows = sp.vstack([found.rows, -found.rows[carried]]).tocsr()
    shift = np.zeros(count + pairs)
    shift[carried], shift[count:] = MARGIN * size, (1 + MARGIN) * size
    half = np.ones(count)
    half[carried] = 0.5
    back = sp.hstack([found.back @ sp.diags(half), -0.5 * found.back[:, carried]]).tocsr()
    level = found.level + 0.5 * (found.back[:, carried] @ size)
    top = np.concatenate([found.top, size])
    return Placing(rows, shift, back, level, at, top + shift)


def _by_family(width: int, shared: int, family: np.ndarray) -> np.ndarray:
    """Return the channel of each unit, those of one family beside each other."""
    order = np.argsort(family, kind="stable")
    at = np.empty(len(family), dtype=int)
    at[order] = slots(width, shared, len(family), family[order])
    return at
