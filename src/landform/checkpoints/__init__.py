"""Points of parameter space kept in files or in memory: checkpoints, and trajectories of training."""

from landform.checkpoints.checkpoint import Checkpoint, checkpoint
from landform.checkpoints.trajectory import Trajectory
from landform.checkpoints.weights import load_weights

__all__ = ["Checkpoint", "Trajectory", "checkpoint", "load_weights"]
