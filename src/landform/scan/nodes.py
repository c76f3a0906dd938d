"""Metrics of a point (gradient norm, curvature), which are no means over samples: computed node by node."""

import torch
from jaxtyping import Float64
from torch import Tensor

from landform.scan.engine.space import AnySpace, parameters_at
from landform.scan.places import Places
from landform.scan.sampler import Estimate
from landform.task import Task


def node_metrics(
    task: Task, subspace: AnySpace, places: Places, estimate: Estimate, progress: bool | None
) -> dict[str, Float64[Tensor, "..."]]:
    """Compute a task's metrics of a point at every node that was measured with all samples.

    In this process, after the scan; not kept in a store. After Ctrl-C the nodes that are left are NaN.

    Args:
        task: The task.
        subspace: Where.
        places: The nodes.
        estimate: What was measured there.
        progress: As of `landform.scan`.

    Returns:
        Values by name, ``[points]``, or ``[points, heads]``; NaN where a node was not measured in full.

    Cost:
        As of `Task.node_values`, a node.
    """
    if not task.node_metrics:
        return {}
    from tqdm.auto import tqdm

    names = task.node_quantities()
    found = torch.full((len(places.h), len(names)), torch.nan, dtype=torch.float64)
    nodes = (estimate.samples == task.n).nonzero()[:, 0].tolist()
    quiet = {None: None, True: False, False: True}[progress]  # to tqdm, None means: not on a terminal
    try:
        for node in tqdm(
            nodes, desc=", ".join(task.node_metrics), disable=quiet, delay=0 if progress else 1, leave=False
        ):
            found[node] = task.node_values(parameters_at(subspace, places.h[node]))
    except KeyboardInterrupt:
        pass
    heads = len(names) // len(task.node_metrics)
    parts = {name: found[:, i * heads : (i + 1) * heads] for i, name in enumerate(task.node_metrics)}
    return {name: part[:, 0] if heads == 1 else part for name, part in parts.items()}
