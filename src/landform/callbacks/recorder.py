"""What both callbacks do: record the start, every so many steps, and the end."""

from torch import nn

from landform.checkpoints import Trajectory
from landform.errors import InputError


class Recorder:
    """Records a model now and then.

    Args:
        trajectory: Where to.
        every: Record after each so many steps.

    Raises:
        InputError: ``every`` is below 1.
    """

    def __init__(self, trajectory: Trajectory, every: int) -> None:
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise InputError(f"every is {every!r}; wanted a number of steps, at least 1")
        if not isinstance(trajectory, Trajectory):
            raise InputError(f"got a {type(trajectory).__name__}; wanted a landform.Trajectory to record into")
        self.trajectory = trajectory
        self.every = every
        self._last: int | None = trajectory.steps[-1] if len(trajectory) else None

    def record(self, model: nn.Module, step: int, *, due: bool = False) -> None:
        """Record the model if a step is due and was not recorded yet.

        Args:
            model: The model.
            step: Steps of the optimiser so far.
            due: Record whatever the step is (the start and the end).
        """
        if step != self._last and (due or step % self.every == 0):
            self.trajectory.record(model, step)
            self._last = step
