"""`Task`: a model, a loss and a data set, which is what a loss surface is a surface of."""

from landform.calling import Model, model_hash
from landform.task.batch import Batch
from landform.task.caller import DEFAULT_BATCH
from landform.task.probe import outputs_probe
from landform.task.task import Task

__all__ = ["DEFAULT_BATCH", "Batch", "Model", "Task", "model_hash", "outputs_probe"]
