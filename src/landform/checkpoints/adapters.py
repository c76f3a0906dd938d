"""Files that hold an adapter (LoRA and its like) alone, as peft writes them beside a model that is frozen."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from landform.calling import plain_name
from landform.checkpoints.files import AbstractStored

_KEPT = "modules_to_save"
"""What peft puts into names of layers that it trains beside the adapter, such as a new head."""


def adapter_places(model: nn.Module, stored: Iterable[str]) -> dict[str, str]:
    """Return where each parameter of a model's adapter is in a file that holds nothing else.

    The file leaves out the adapter's name: ``lora_A.weight`` is ``lora_A.default.weight`` in the model.

    Args:
        model: A model of peft.
        stored: Names in the file.

    Returns:
        The file's name of each parameter that it has; nothing if the model has no adapters, or the file holds other
        things or all parameters.

    Example:
        >>> model = nn.ModuleDict({"lora_A": nn.ModuleDict({"default": nn.Linear(3, 2, bias=False)})})
        >>> model.peft_config = {"default": None}
        >>> adapter_places(model, ["lora_A.weight"])
        {'lora_A.default.weight': 'lora_A.weight'}
    """
    adapters = getattr(model, "peft_config", None)
    names = set(stored)
    if not isinstance(adapters, Mapping) or not names:
        return {}
    found = {}
    for name, _ in model.named_parameters():
        plain = plain_name(name)
        parts = plain.split(".")
        held = ".".join(part for part in parts if part not in adapters and part != _KEPT)
        if held != plain and held in names:
            found[plain] = held
    return found if set(found.values()) == names else {}


class Overlay(AbstractStored):
    """Tensors of a file over those of a model that the file does not have.

    Args:
        above: What is in the file.
        places: The file's name of each parameter in it.
        model: The model with all the others.
    """

    def __init__(self, above: AbstractStored, places: Mapping[str, str], model: nn.Module) -> None:
        self._above = above
        self._places = dict(places)
        self._own: dict[str, Any] = {plain_name(name): value.detach() for name, value in model.named_parameters()}
        self.step = above.step

    def names(self) -> tuple[str, ...]:
        """Return all parameters of the model, in its order."""
        return tuple(self._own)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return a shape without reading the values."""
        place = self._places.get(name)
        return tuple(self._own[name].shape) if place is None else self._above.shape(place)

    def dtype(self, name: str) -> torch.dtype:
        """Return a dtype without reading the values."""
        place = self._places.get(name)
        own: torch.dtype = self._own[name].dtype
        return own if place is None else self._above.dtype(place)

    def read(self, name: str, rows: slice | None = None) -> Tensor:
        """Read a tensor, or some of its rows."""
        place = self._places.get(name)
        if place is not None:
            return self._above.read(place, rows)
        value: Tensor = self._own[name]
        return value if rows is None or not value.ndim else value[rows]
