"""`LightningTrajectory`: record while a Lightning trainer trains."""

from typing import TYPE_CHECKING, Any

from torch import nn

from landform.callbacks.recorder import Recorder
from landform.checkpoints import Trajectory
from landform.errors import MissingExtraError

try:
    from lightning.pytorch import Callback
except ImportError:
    try:
        from pytorch_lightning import Callback  # type: ignore[import-not-found,assignment,no-redef,unused-ignore]
    except ImportError as error:
        raise MissingExtraError("LightningTrajectory needs Lightning: pip install lightning") from error

if TYPE_CHECKING:
    Base = object
else:
    Base = Callback


class LightningTrajectory(Base):
    """Records the trajectory of a Lightning run: the start, every so many optimiser steps, and the end.

    Args:
        trajectory: A `landform.Trajectory`; with a folder a resumed run continues it.
        every: Steps of the optimiser from one point to the next; 100 by default: parameters are copied each time.
        attribute: Record this part of the LightningModule, e.g. ``"model"`` for what it keeps as ``self.model``, so
            that names are those of the plain model; None for all of it.

    Raises:
        InputError: ``every`` is below 1, or ``trajectory`` is none.

    Example:
        >>> trajectory = Trajectory()
        >>> callback = LightningTrajectory(trajectory, every=10)  # Trainer(callbacks=[callback]).fit(…)
        >>> callback.every
        10
    """

    def __init__(self, trajectory: Trajectory, *, every: int = 100, attribute: str | None = None) -> None:
        super().__init__()
        self._recorder = Recorder(trajectory, every)
        self.attribute = attribute

    @property
    def trajectory(self) -> Trajectory:
        """What is recorded into."""
        return self._recorder.trajectory

    @property
    def every(self) -> int:
        """Steps from one point to the next."""
        return self._recorder.every

    def on_train_start(self, trainer: Any, pl_module: nn.Module) -> None:
        """Record the start."""
        self._record(trainer, pl_module, due=True)

    def on_train_batch_end(self, trainer: Any, pl_module: nn.Module, *_: Any, **__: Any) -> None:
        """Record a step that is due."""
        self._record(trainer, pl_module)

    def on_train_end(self, trainer: Any, pl_module: nn.Module) -> None:
        """Record the end."""
        self._record(trainer, pl_module, due=True)

    def _record(self, trainer: Any, module: nn.Module, *, due: bool = False) -> None:
        if trainer.is_global_zero and not trainer.sanity_checking:
            model = module if self.attribute is None else module.get_submodule(self.attribute)
            self._recorder.record(model, int(trainer.global_step), due=due)
