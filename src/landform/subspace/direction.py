"""Directions whose tensors are made on demand."""

import abc
from collections.abc import Mapping, Sequence

from torch import Size, Tensor


class AbstractDirection(Mapping[str, Tensor]):
    """A direction that makes each tensor when it is asked for, and keeps none.

    It is a mapping of names to tensors as any direction is, so that code which knows nothing of it works; code that
    does saves memory by `add_into`.
    """

    @property
    @abc.abstractmethod
    def identity(self) -> str:
        """A text that is equal for two directions on equal origins only if they are equal."""

    @abc.abstractmethod
    def shape(self, name: str) -> Size:
        """Return the shape of one tensor without making it."""

    @abc.abstractmethod
    def akin(self, other: object) -> bool:
        """Say whether another direction is best made together with this one, by one call of `add_into`."""

    @abc.abstractmethod
    def add_into(self, name: str, moving: Sequence[tuple[Tensor, "Mapping[str, Tensor]"]], out: Tensor) -> None:
        """Add Σ h_i d_i of one parameter for directions that are akin, in the order given.

        Gives the numbers of ``out += h_i.to(out.dtype) * d_i[name]``, bit for bit.

        Args:
            name: The parameter.
            moving: Pairs of a coordinate and a direction.
            out: Where to add; float32 or float64.
        """

    @abc.abstractmethod
    def __contains__(self, name: object) -> bool:
        """Say whether a parameter is moved, without making its tensor."""


def shape_in(direction: Mapping[str, Tensor], name: str) -> Size:
    """Return the shape of a tensor of any direction, made on demand or not.

    Args:
        direction: The direction.
        name: The parameter.

    Returns:
        The shape.
    """
    return direction.shape(name) if isinstance(direction, AbstractDirection) else direction[name].shape
