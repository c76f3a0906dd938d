"""Record a trajectory while somebody else's loop trains: callbacks for Lightning and for Hugging Face trainers.

Each is imported when it is first used, so that neither library is needed for the other.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from landform.callbacks.hugging_face import HuggingFaceTrajectory
    from landform.callbacks.lightning import LightningTrajectory

__all__ = ["HuggingFaceTrajectory", "LightningTrajectory"]

_HOME = {
    "HuggingFaceTrajectory": "landform.callbacks.hugging_face",
    "LightningTrajectory": "landform.callbacks.lightning",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'landform.callbacks' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOME[name]), name)
