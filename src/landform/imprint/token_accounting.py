"""An offset imprint in a language model, taken apart: tokens one by one, ρ̃ on other data, what was trained."""

from typing import Any

import torch
from torch import Tensor, nn

from landform.data import Data
from landform.errors import DataError
from landform.imprint.imprint import Imprint
from landform.imprint.lower.anatomy import Anatomy, anatomy_of
from landform.imprint.lower.beside_stream import Scales, gains_of
from landform.imprint.lower.overhear import outputs_of
from landform.imprint.tokens import counting, inputs_of, step_of, tokens_of
from landform.response.token_offset import TokenOffsetResponse
from landform.task import Task


def token_terms(imprint: Imprint, task: Task, point: Tensor) -> tuple[Tensor, Tensor]:
    """Return w_i ℓ_i and w_i of every token that counts, at one point.

    Args:
        imprint: The imprint.
        task: Its network with some data.
        point: h, ``[z]``.

    Returns:
        Two vectors, float64; the loss is the ratio of their sums.

    Cost:
        One pass over the data.
    """
    parameters = {name: value for name, value in imprint.subspace.at(point).items() if name in imprint.subspace.moved}
    losses, shares = [], []
    with torch.no_grad():
        for start in range(0, task.data.n, step_of(task)):
            part = slice(start, min(start + step_of(task), task.data.n))
            logits = outputs_of(imprint.model, inputs_of(task, part), part.stop - part.start, parameters)
            rows, y, w = counting(task, part, logits, imprint.meta["token_loss"], imprint.meta["loss_options"])
            losses.append(w * nn.functional.cross_entropy(rows.double(), y, reduction="none"))
            shares.append(w)
    return torch.cat(losses), torch.cat(shares)


def token_response(imprint: Imprint, data: Data) -> TokenOffsetResponse:
    """Return ρ̃ of other data: the trained network's logits and gains there, along the imprint's own ray.

    Args:
        imprint: Made with ``method="offset"`` from a language model.
        data: The other data.

    Returns:
        Its response.

    Raises:
        DataError: The data are no sequences of the kind that the imprint was made for.
    """
    shape = list(imprint.meta["sample"]["shape"])
    if data.targets.ndim != 2 or data.inputs.ndim != 1 + len(shape):
        raise DataError(
            f"the imprint is for sequences of shape {shape} with a label at every position, got inputs"
            f" {list(data.inputs.shape)} and targets {list(data.targets.shape)}"
        )
    response = imprint.response
    assert isinstance(response, TokenOffsetResponse)
    task = Task(imprint.model, imprint.meta["token_loss"], data)
    anatomy = anatomy_of(imprint.model, inputs_of(task, slice(0, 2)))
    with torch.no_grad():
        found = tokens_of(
            _silent(imprint, anatomy), anatomy, task, imprint.meta["token_loss"], imprint.meta["loss_options"]
        )
    count = len(imprint.meta["stages"])
    eps = [mlp.norm.eps for mlp in anatomy.stream.mlps[1 - count :]] + [anatomy.stream.final.eps]
    scales = Scales(**imprint.meta["scales"])
    gains = gains_of(found.sizes, anatomy.stream.width, eps, scales)
    return response.on(found.logits, found.labels, gains, found.weights)


def _silent(imprint: Imprint, anatomy: Anatomy) -> nn.Module:
    """Return a copy of the network whose head does not read the pattern."""
    from landform.imprint.constant import rewritten

    head: Any = anatomy.stream.head
    weight = imprint.subspace.origin[head.weight].clone()
    (weight.T if head.transposed else weight)[:, imprint.meta["trained_width"] :] = 0
    return rewritten(imprint.model, {head.weight: weight})


def trained_entries(imprint: Imprint) -> dict[str, Tensor]:
    """Return which entries of each parameter belong to the trained network (True), not to what was put beside it.

    Args:
        imprint: Made with ``method="offset"`` from a language model.

    Returns:
        A mask a parameter.
    """
    spec, width = imprint.meta["sample"], imprint.meta["trained_width"]
    sample = torch.zeros([2, *spec["shape"]], dtype=getattr(torch, spec["dtype"]))
    anatomy = anatomy_of(imprint.model, sample)
    mask = {name: torch.ones(value.shape, dtype=torch.bool) for name, value in imprint.subspace.origin.items()}
    first = anatomy.count - len(imprint.meta["stages"])
    for table in anatomy.tables:
        mask[f"{table}.weight"][:, width:] = False
    for norm in anatomy.norms:
        for key in (norm.gain, norm.bias):
            if key is not None:
                mask[key][width:] = False
    for which in (*anatomy.readers, anatomy.stream.head, *anatomy.writers):
        weight = mask[which.weight].T if which.transposed else mask[which.weight]
        if which in anatomy.writers:
            weight[width:] = False
            if which.bias:
                mask[f"{which.name}.bias"][width:] = False
        else:
            weight[:, width:] = False
    for name, entries in mask.items():
        number = name.removeprefix(f"{anatomy.blocks}.").split(".")[0]
        if name.startswith(f"{anatomy.blocks}.") and int(number) >= first:
            entries[:] = False
    return mask
