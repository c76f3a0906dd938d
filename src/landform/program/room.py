"""`Room`: what one hidden layer can hold, all that a schedule knows of an architecture."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Room:
    """Units of a hidden layer, and registers that are carried beside them.

    In a chain of layers a register that is still needed takes a unit of every layer. Beside a residual branch it goes
    along the identity path and takes none.

    Args:
        units: Units that may bend.
        beside: Registers that are carried for nothing.
        curve: Whether the response curve may begin here: its units must read one register through one map.
        stream: Whether the layer computes beside a stream of registers. Then the response curve must fit one layer.
    """

    units: int
    beside: int = 0
    curve: bool = True
    stream: bool = False

    def left(self, carried: int) -> int:
        """Return the units left beside ``carried`` registers; negative if these do not fit."""
        return self.units - max(0, carried - self.beside)

    def holds(self, carried: int, hinges: int, per_hinge: int = 1) -> bool:
        """Say whether registers and hinges fit, a hinge taking ``per_hinge`` units."""
        return per_hinge * hinges <= self.left(carried) and carried <= self.beside + self.units


Width = int | Room


def rooms(widths: Sequence[Width]) -> list[Room]:
    """Return widths as rooms; a number is a plain layer of that many units."""
    return [width if isinstance(width, Room) else Room(int(width)) for width in widths]
