"""Short training after reserving channels: what is left of the network makes up for what was taken.

The freed channels stay out of it: what reads them is zero before, during and after. Nothing else of the construction
changes; it starts from the repaired network instead of the damaged one.
"""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from landform.imprint.beside import Trunk, columns_of
from landform.imprint.reserve import reserve
from landform.task import Task

BATCH = 256
RATE = 1e-3


def reserved(
    model: nn.Module, trunk: Trunk, needed: Sequence[int], task: Task, steps: int
) -> tuple[nn.Module, list[list[int]], dict[str, float]]:
    """Reserve channels and repair; see `reserve` and `repair`.

    Returns:
        The network, the free channels of each layer, and for ``steps`` > 0 the loss before and after the repair.
    """
    network, channels = reserve(model, trunk, needed, task)
    if not steps:
        return network, channels, {}
    before = float(task.replace(model=network).evaluate())
    network = repair(network, trunk, channels, task, steps=steps)
    report = {"repair_steps": float(steps), "loss_reserved": before}
    return network, channels, report | {"loss_repaired": float(task.replace(model=network).evaluate())}


def repair(
    network: nn.Module, trunk: Trunk, channels: Sequence[Sequence[int]], task: Task, *, steps: int, seed: int = 0
) -> nn.Module:
    """Train a network on by Adam, some channels of every layer feeding nobody all the while.

    Minibatches of 256 samples are drawn without replacement from a generator of its own; the network stays in eval mode
    (no dropout, statistics of norms as they are), since that is the network whose loss the pattern goes into.

    Args:
        network: After `reserve`; not changed.
        trunk: Its chain.
        channels: Free channels of each hidden layer.
        task: Loss and data.
        steps: Optimiser steps.
        seed: Of the order of samples.

    Returns:
        The trained copy, or an untrained one where training did not lower the loss over all data.

    Cost:
        ``steps`` forward and backward passes of 256 samples, and two passes over the data.
    """
    found = copy.deepcopy(network).eval()
    modules = dict(found.named_modules())
    dead: list[tuple[Any, torch.Tensor]] = [
        (modules[member.name], columns_of(modules[member.name], trunk, member, channels))
        for member in (*trunk.members, trunk.last)
        if member.kind == "map" and member.reads and not member.depthwise
    ]
    data, form = task.data, task.loss_form
    wanted = {name: p.requires_grad for name, p in found.named_parameters()}
    for parameter in found.parameters():
        parameter.requires_grad_(True)
    optimizer = torch.optim.Adam(found.parameters(), lr=RATE)
    generator = torch.Generator().manual_seed(seed)
    order = torch.zeros(0, dtype=torch.long)
    with torch.enable_grad():
        for _ in range(steps):
            if len(order) < min(BATCH, data.n):
                order = torch.randperm(data.n, generator=generator)
            part, order = order[:BATCH], order[BATCH:]
            terms = form.terms(found(data.inputs[part]), data.targets[part])
            assert terms is not None  # cross-entropy, squares and BCE add up over samples
            losses, counts = terms
            share = counts if data.weights is None else counts * data.weights[part]
            loss = (losses if data.weights is None else losses * data.weights[part]).sum() / share.sum()
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            with torch.no_grad():
                for module, cols in dead:
                    module.weight[:, cols] = 0
    for name, parameter in found.named_parameters():
        parameter.requires_grad_(wanted[name])
        parameter.grad = None
    before, after = (float(task.replace(model=each).evaluate()) for each in (network, found))
    return found if after < before else copy.deepcopy(network)
