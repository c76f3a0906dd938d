"""Metrics of a point (gradient norm, curvature), which are no means over samples: computed node by node."""

import hashlib

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from landform.scan.engine.space import AnySpace, parameters_at
from landform.scan.places import Places
from landform.scan.sampler import Estimate
from landform.scan.sampler.base import Request
from landform.scan.store import Round, ScanStore
from landform.scan.worker import Answer
from landform.task import Task


def node_metrics(
    task: Task,
    subspace: AnySpace,
    places: Places,
    estimate: Estimate,
    *,
    compute: bool = True,
    store: ScanStore | None = None,
    progress: bool | None = None,
) -> tuple[dict[str, Float64[Tensor, "..."]], bool]:
    """Compute a task's metrics of a point at every node that was measured with all samples.

    In this process, after the scan is complete, coarse nodes first.

    Args:
        task: The task.
        subspace: Where.
        places: The nodes.
        estimate: What was measured there.
        compute: False to leave all NaN, since the scan was interrupted and its nodes are not yet decided.
        store: Where values are kept as they come, node by node, and looked up first.
        progress: As of `landform.scan`.

    Returns:
        Values by name, ``[points]``, or ``[points, heads]``; NaN where a node was not measured in full, or not reached
        before Ctrl-C. And whether all were reached, which is ``compute`` where there is nothing to do.

    Raises:
        StoreError: The store cannot be read or written.

    Cost:
        As of `Task.node_values`, a node.
    """
    if not task.node_metrics:
        return {}, compute
    from tqdm.auto import tqdm

    names = task.node_quantities()
    found = torch.full((len(places.h), len(names)), torch.nan, dtype=torch.float64)
    nodes = places.order[(estimate.samples == task.n)[places.order] & compute]
    kept = _round(store, places.h[nodes], task.n, names) if store is not None and len(nodes) else None
    missing = dict(enumerate(nodes.tolist()))
    for number in kept.done() if kept is not None else ():
        assert kept is not None
        if (answer := kept.read(number)) is not None:
            found[missing.pop(number)] = torch.from_numpy(answer.num[0])
    quiet = {None: None, True: False, False: True}[progress]  # to tqdm, None means: not on a terminal
    complete = compute
    try:
        for number, node in tqdm(
            missing.items(), desc=", ".join(task.node_metrics), disable=quiet, delay=0 if progress else 1, leave=False
        ):
            found[node] = task.node_values(parameters_at(subspace, places.h[node]))
            if kept is not None:
                kept.write(Answer(number, found[node, None].numpy(), np.ones(len(names))))
    except KeyboardInterrupt:
        complete = False
    heads = len(names) // len(task.node_metrics)
    parts = {name: found[:, i * heads : (i + 1) * heads] for i, name in enumerate(task.node_metrics)}
    return {name: part[:, 0] if heads == 1 else part for name, part in parts.items()}, complete


def _round(store: ScanStore, h: Float64[Tensor, "nodes z"], n: int, names: tuple[str, ...]) -> Round:
    """Open the part of a store that has these metrics, one tile a node."""
    digest = hashlib.sha256("\n".join(names).encode()).hexdigest()[:12]
    return store.round(f"nodes-{digest}", Request(h, 0, n, per_sample=False), len(names), 1)
