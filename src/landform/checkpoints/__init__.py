"""Points of parameter space kept in files or in memory: checkpoints, and trajectories of training."""

from landform.checkpoints.checkpoint import Checkpoint, checkpoint
from landform.checkpoints.trajectory import Trajectory

__all__ = ["Checkpoint", "Trajectory", "checkpoint"]
