"""One call of a task's model at given parameters: names, dtypes, devices, and buffers that stay as they are."""

import contextlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from landform.calling import Model, explain_misfit, given_state, own_state, state_at
from landform.errors import InputError
from landform.task.memory import out_of_memory

BatchNorm = Literal["frozen", "recalibrate", "batch"]
"""What normalises: the model's running statistics, statistics recomputed at each point, or those of each batch."""

FINDINGS = ("augmentation", "shuffle", "dropout", "batch_norm", "random", "coupled")
"""What a probe may find and ``allow=`` may accept."""

HALF = (torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Settings:
    """How a task runs its model.

    Attributes:
        device: Where; None for where the model is.
        dtype: In which dtype; None for the model's own, or float32 where that has half precision.
        autocast: The dtype of an autocast region, or None for none.
        batch_norm: What normalises.
        allow: Findings of the probe that are accepted.
    """

    device: torch.device | None = None
    dtype: torch.dtype | None = None
    autocast: torch.dtype | None = None
    batch_norm: BatchNorm = "frozen"
    allow: tuple[str, ...] = ()

    @property
    def noisy(self) -> bool:
        """Whether draws of the model are accepted, and hence seeded."""
        return "dropout" in self.allow or "random" in self.allow

    @property
    def plain(self) -> bool:
        """Whether the model runs as it stands: then an engine may compute its layers by itself."""
        return self == Settings(allow=self.allow) and not self.noisy


class Prepared(dict[str, Tensor]):
    """Parameters with running statistics that were recalibrated for them."""


class Session:
    """The model's own state, brought to device and dtype once, for many calls.

    Args:
        model: The model, already in the mode it shall run in.
        settings: How to run.
        dtype: Overrides the settings' dtype.
    """

    def __init__(self, model: Model, settings: Settings, dtype: torch.dtype | None = None) -> None:
        if dtype is not None and not dtype.is_floating_point:
            raise InputError(f"dtype is {dtype}; wanted a floating-point dtype")
        self.model = model
        self.settings = settings
        own, self._alias = own_state(model) if isinstance(model, nn.Module) else ({}, {})
        self._lead = next((name for name, value in own.items() if value.is_floating_point()), None)
        self.dtype = dtype or settings.dtype
        if self.dtype is None and any(value.dtype in HALF for value in own.values()):
            self.dtype = torch.float32
        self.device = settings.device
        self._own = {name: self._placed(value) for name, value in own.items()}
        self._named: dict[tuple[str, ...], bool] = {}
        self.writes: bool | None = None  # whether the model changes its inputs in place; found by the first call
        self.buffers = [name for name, _ in model.named_buffers()] if isinstance(model, nn.Module) else []

    def _placed(self, value: Tensor) -> Tensor:
        dtype = self.dtype if value.is_floating_point() else None
        return value.to(self.device or value.device, dtype or value.dtype)

    def state(self, parameters: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
        """Collect what the model shall run with: given values over its own, buffers as copies.

        Args:
            parameters: Values by name; may be partial.

        Returns:
            Every parameter and buffer, on the session's device and in its dtype.
        """
        if not isinstance(self.model, nn.Module):
            return state_at(self.model, parameters, None)
        given = given_state(self._own, self._alias, parameters or {})
        copies = {name: self._own[name].clone() for name in self.buffers if name not in given}
        return self._own | copies | {name: self._placed(value).detach() for name, value in given.items()}

    def call(self, function: Callable[..., Any], state: Mapping[str, Tensor], inputs: Any) -> Any:
        """Call the model, or a function of it, with a state in place of its own.

        Args:
            function: What to call with the inputs in place of the model; the model itself, for most.
            state: As of `state`.
            inputs: A tensor, or a mapping of arguments by name.

        Returns:
            Whatever it returns.

        Raises:
            InputError: Model and inputs do not fit.
        """
        lead = None if self._lead is None else state[self._lead]
        want = self.dtype if self.dtype is not None or lead is None else lead.dtype
        device = self.device if self.device is not None or lead is None else lead.device
        inputs = moved(inputs, device, want)
        if self.writes is not False:  # the data may be the caller's own tensors
            inputs = tree_map(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, inputs)
        found = self._called(function, state, inputs, device)
        if self.writes is None:
            self.writes = any(isinstance(leaf, Tensor) and leaf._version > 0 for leaf in tree_leaves(inputs))
        return found

    def _called(
        self, function: Callable[..., Any], state: Mapping[str, Tensor], inputs: Any, device: torch.device | None
    ) -> Any:
        arguments: tuple[Any, ...] = (inputs,)
        named: dict[str, Any] = {}
        if isinstance(inputs, Mapping) and function is self.model and self._takes(tuple(inputs)):
            arguments, named = (), dict(inputs)
        try:
            with self._autocast(device):
                if isinstance(self.model, nn.Module):
                    target = self.model if function is self.model else _Around(self.model, function)
                    prefix = "" if target is self.model else "model."
                    given = {prefix + name: value for name, value in state.items()}
                    return torch.func.functional_call(target, given, arguments, named)
                return function(*arguments, **named)
        except (RuntimeError, ValueError, IndexError, TypeError) as error:
            if out_of_memory(error) or function is not self.model:
                raise
            raise InputError(explain_misfit(self.model, state, inputs, error)) from error

    def _takes(self, names: tuple[str, ...]) -> bool:
        if names not in self._named:
            self._named[names] = takes_names(self.model, names)
        return self._named[names]

    @contextlib.contextmanager
    def _autocast(self, device: torch.device | None) -> Iterator[None]:
        if self.settings.autocast is None:
            yield
            return
        with torch.autocast((device or torch.device("cpu")).type, dtype=self.settings.autocast):
            yield


class _Around(nn.Module):
    """A user's function of the model, so that `torch.func.functional_call` can set the model's parameters for it."""

    def __init__(self, model: nn.Module, function: Callable[..., Any]) -> None:
        super().__init__()
        self.model = model
        self.function = function

    def forward(self, inputs: Any) -> Any:
        return self.function(self.model, inputs)


def moved(inputs: Any, device: torch.device | None, dtype: torch.dtype | None) -> Any:
    """Bring every tensor of a batch to a device, and those of floats to a dtype.

    Args:
        inputs: A tensor, or tensors in mappings, tuples and lists; anything else is passed through.
        device: Where; None leaves it.
        dtype: Of floats; None leaves it.

    Returns:
        The same structure.
    """

    def move(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        return value.to(device or value.device, dtype if dtype and value.is_floating_point() else value.dtype)

    return tree_map(move, inputs)


def takes_names(model: Model, names: tuple[str, ...]) -> bool:
    """Whether a model takes its inputs as arguments with these names; otherwise it gets one mapping.

    Args:
        model: The model.
        names: Names of the inputs.

    Returns:
        True where they are arguments.

    Raises:
        InputError: It takes some of them only.
    """
    try:
        signature = inspect.signature(model.forward if isinstance(model, nn.Module) else model)
    except (TypeError, ValueError):
        return True
    arguments = signature.parameters.values()
    if any(argument.kind is argument.VAR_KEYWORD for argument in arguments):
        return True
    known = {argument.name for argument in arguments if argument.kind is not argument.POSITIONAL_ONLY}
    if set(names) <= known:
        return True
    if known & set(names) or len(signature.parameters) != 1:
        raise InputError(
            f"model {type(model).__name__} takes {', '.join(signature.parameters) or 'nothing'}; the data also give "
            f"{', '.join(sorted(set(names) - known))}: leave that out of the batches, or give the model that argument"
        )
    return False
