"""`HuggingFaceTrajectory`: record while a Hugging Face trainer trains."""

from typing import TYPE_CHECKING, Any

from landform.callbacks.recorder import Recorder
from landform.checkpoints import Trajectory
from landform.errors import InputError, MissingExtraError

try:
    from transformers import TrainerCallback
except ImportError as error:
    raise MissingExtraError("HuggingFaceTrajectory needs transformers: pip install transformers") from error

if TYPE_CHECKING:
    Base = object
else:
    Base = TrainerCallback


class HuggingFaceTrajectory(Base):
    """Records the trajectory of a `transformers.Trainer`: the start, every so many optimiser steps, and the end.

    Args:
        trajectory: A `landform.Trajectory`; with a folder a resumed run continues it.
        every: Steps of the optimiser from one point to the next; 100 by default: parameters are copied each time.

    Raises:
        InputError: ``every`` is below 1, or ``trajectory`` is none.

    Example:
        >>> trajectory = Trajectory()
        >>> callback = HuggingFaceTrajectory(trajectory, every=10)  # Trainer(…, callbacks=[callback]).train()
        >>> callback.every
        10
    """

    def __init__(self, trajectory: Trajectory, *, every: int = 100) -> None:
        super().__init__()
        self._recorder = Recorder(trajectory, every)

    @property
    def trajectory(self) -> Trajectory:
        """What is recorded into."""
        return self._recorder.trajectory

    @property
    def every(self) -> int:
        """Steps from one point to the next."""
        return self._recorder.every

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Record the start."""
        self._record(state, kwargs, due=True)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Record a step that is due."""
        self._record(state, kwargs)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Record the end."""
        self._record(state, kwargs, due=True)

    def _record(self, state: Any, given: dict[str, Any], *, due: bool = False) -> None:
        model = given.get("model")
        if model is None:
            raise InputError(
                "the trainer passes no model to its callbacks; record in the loop: trajectory.record(model)"
            )
        if state.is_world_process_zero:
            self._recorder.record(model, int(state.global_step), due=due)
