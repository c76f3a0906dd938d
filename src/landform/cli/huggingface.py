"""``--model hf:PATH``: a network from a folder that `transformers` wrote, without the network and without its code."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from landform.errors import ArchitectureError, BundleError, MissingExtraError

if TYPE_CHECKING:
    from torch import nn


def read_folder(path: str, flag: str = "--model") -> "nn.Module":
    """Load a network from a local folder with ``config.json`` and weights.

    Nothing is downloaded, and no code from the folder is run: the class is the one of `transformers` that the
    configuration names.

    Args:
        path: The folder, as ``model.save_pretrained(path)`` wrote it.
        flag: Which option named it, for errors.

    Returns:
        The network.

    Raises:
        BundleError: No such folder, or no configuration in it.
        ArchitectureError: The configuration names no class of `transformers`, or it does not load.
        MissingExtraError: `transformers` is not installed.
    """
    folder = Path(path)
    config = folder / "config.json"
    if not config.is_file():
        raise BundleError(f"{flag} hf:{path}: there is no {config}; wanted a folder written by model.save_pretrained()")
    try:
        names = json.loads(config.read_text()).get("architectures") or []
    except (ValueError, AttributeError) as error:
        raise BundleError(f"{config} is no configuration: {error}") from error
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        import transformers
    except ImportError as error:
        raise MissingExtraError(f"{flag} hf:{path} needs transformers: pip install transformers") from error
    kind: Any = getattr(transformers, str(names[0]), None) if names else None
    if kind is None or not hasattr(kind, "from_pretrained"):
        raise ArchitectureError(
            f"{config} names {', '.join(map(str, names)) or 'no architecture'}, which is no class of the installed"
            " transformers; a network of your own goes in as --model module:factory"
        )
    try:
        model: nn.Module = kind.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # transformers raises whatever its parts raise
        raise ArchitectureError(f"{flag} hf:{path} could not be loaded as {names[0]}: {error}") from error
    return model
