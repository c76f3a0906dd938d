"""From an imprint to the contents of ``imprint.json``, and the arrays beside it."""

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import torch

from landform.bundle.architecture import describe, persistent_buffers
from landform.bundle.layout import FORMAT, FORMAT_VERSION, plain
from landform.calling import model_hash
from landform.errors import InputError
from landform.imprint.imprint import Imprint
from landform.pattern import Pattern
from landform.response import AbstractResponse

SAVED = "saved"
"""Key of ``Imprint.meta`` under which a loaded imprint keeps what its bundle said of task, loss and data."""


def distinct_responses(imprint: Imprint) -> tuple[list[AbstractResponse], list[int]]:
    """Return the responses without repeats, and which of them each head has.

    Heads that are trained on the same targets share one response, whose statistics are then stored once.
    """
    found: list[AbstractResponse] = []
    heads = []
    for response in imprint.responses:
        number = next((i for i, other in enumerate(found) if _same(response, other)), len(found))
        if number == len(found):
            found.append(response)
        heads.append(number)
    return found, heads


def _same(a: AbstractResponse, b: AbstractResponse) -> bool:
    if a is b:
        return True
    own = getattr(a, "function", None) is getattr(b, "function", None)
    return own and plain(a.config()) == plain(b.config()) and np.array_equal(a.statistics(), b.statistics())


def pattern_array(imprint: Imprint) -> np.ndarray:
    """Return the nodal values: the grid's, or those of a sum's axes one after the other."""
    pattern = imprint.pattern
    if isinstance(pattern, Pattern):
        return pattern.values.numpy()
    return np.concatenate([axis.numpy() for axis in pattern.axes])


def targets_array(responses: list[AbstractResponse]) -> np.ndarray:
    """Return the statistics of the distinct responses, each row by row, one after the other."""
    return np.concatenate([r.statistics().reshape(-1) for r in responses])


def check_imprint(imprint: Imprint) -> None:
    """Refuse an imprint whose parts do not fit each other, before anything is written.

    Raises:
        InputError: If the origin does not hold exactly the model's parameters, or directions are not one a coordinate.
    """
    names, own = set(imprint.subspace.origin), {name for name, _ in imprint.model.named_parameters()}
    if names != own:
        raise InputError(
            f"the origin holds {len(names)} parameters and the model {len(own)}; they differ in"
            f" {', '.join(sorted(names ^ own)[:5])}: an imprint is saved with all parameters of its model"
        )
    if imprint.subspace.z != imprint.pattern.z:
        raise InputError(f"the subspace has {imprint.subspace.z} directions and the pattern {imprint.pattern.z} axes")


def make_document(imprint: Imprint) -> dict[str, Any]:
    """Return everything of ``imprint.json`` but the hashes of the other files; no time, no path, no user name."""
    responses, heads = distinct_responses(imprint)
    meta = {key: value for key, value in imprint.meta.items() if key != SAVED}
    pattern = imprint.pattern
    tensors = {name: (tensor, False) for name, tensor in imprint.subspace.origin.items()}
    tensors |= {name: (tensor, True) for name, tensor in persistent_buffers(imprint.model).items()}
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "versions": _versions(),
        "method": str(meta.get("method", "constant")),
        "architecture": plain(describe(imprint.model)),
        "tensors": {
            name: {"shape": list(t.shape), "dtype": str(t.dtype).removeprefix("torch.")}
            | ({"buffer": True} if b else {})
            for name, (t, b) in tensors.items()
        },
        "model_hash": model_hash(imprint.model),
        "z": imprint.z,
        "responses": {
            "heads": heads,
            "distinct": [
                plain(r.config(), "response") | {"shape": list(r.statistics().shape), "floor": r.floor}
                for r in responses
            ],
        },
        "range": [float(bound) for bound in imprint.range],
        "spline_stage": imprint.spline_stage,
        "pattern": {
            "kind": "grid" if isinstance(pattern, Pattern) else "sum",
            "name": pattern.name,
            "channels": pattern.channels,
            "resolution": list(pattern.resolution),
            "source": plain(pattern.source, "pattern.source"),
        },
        **_task(imprint),
        "meta": plain(meta, "meta"),
    }


def _task(imprint: Imprint) -> dict[str, Any]:
    """Return task, loss and data: of the task, or as they were read from another bundle."""
    task = imprint.task
    if task is None:
        saved = imprint.meta.get(SAVED, {})
        return {key: plain(saved.get(key)) for key in ("task", "loss", "data")}
    form = task.loss_form
    data = None
    if task.has_data:
        data = {
            "name": task.data.name,
            "split": task.data.split,
            "hash": task.data.hash,
            "samples": task.data.n,
            "sample_shape": list(task.data.inputs.shape[1:]),
            "classes": task.data.classes,
        }
    loss = {"name": form.name, "options": plain(form.options, "loss options"), "known": form.known}
    return {"task": task.name, "loss": loss, "data": data}


def _versions() -> dict[str, str]:
    try:
        own = version("landform")
    except PackageNotFoundError:  # run from a source tree that was not installed
        own = "unknown"
    return {
        "landform": own,
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "python": platform.python_version(),
    }
