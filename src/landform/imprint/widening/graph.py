"""Widen a network that is read as a graph: what to grow by how much, and the copy in which it is done."""

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from landform.calling import as_found
from landform.errors import ArchitectureError, unknown_name
from landform.imprint.lower.graph import read_graph
from landform.imprint.widening.channels import Channels, Places, check, enlarge
from landform.imprint.widening.promise import Batch


def enlarged(
    model: nn.Module, extra: int | Mapping[str, int], inputs: Batch | None, seed: int | None
) -> tuple[nn.Module, dict[str, Places], dict[str, Places]]:
    """Return a wider copy, and the old and new channels that each module makes and each map reads; see `widen`."""
    wide = copied(model)
    sample = inputs.shape[1:] if isinstance(inputs, Tensor) else None
    with as_found(wide):
        graph = read_graph(wide, sample)
    check(wide, graph)
    found = Channels(graph, wide)
    more = wishes(found, extra)
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    heads = {head.op for head in graph.heads}
    places: dict[str, Places] = {}
    columns: dict[str, Places] = {}
    for number, op in enumerate(graph.ops):
        module = found.modules.get(op.name)
        made = None if number in heads else found.places(number, more)
        if module is None or (made is None and number not in heads):
            continue
        read = found.places(op.inputs[0], more) if op.kind == "map" else None
        if isinstance(module, nn.Linear) and read is not None and len(read.old) != module.in_features:
            read = read.spread(module.in_features // len(read.old), fast=op.fast)
        enlarge(module, made, read, generator)
        has = op.kind in ("map", "norm") or getattr(module, "num_parameters", 1) > 1  # one slope of a PReLU serves all
        if made is not None and has:
            places[op.name] = made
        if read is not None and not op.groups > 1:
            columns[op.name] = read
    return wide, places, columns


def copied(model: nn.Module) -> nn.Module:
    """Return a deep copy of a network.

    Raises:
        ArchitectureError: If it cannot be copied.
    """
    try:
        return copy.deepcopy(model)
    except Exception as error:
        raise ArchitectureError(
            f"{type(model).__name__} cannot be copied ({error}); remove old-style weight norm"
            " (torch.nn.utils.remove_weight_norm) and tensors that are results of a computation"
        ) from error


def wishes(found: Channels, extra: int | Mapping[str, int]) -> dict[int, int]:
    """Return by how many channels each space grows."""
    graph = found.graph
    heads = {head.op for head in graph.heads}
    maps = {op.name: number for number, op in enumerate(graph.ops) if op.kind == "map" and number not in heads}
    if isinstance(extra, Mapping):
        wished = dict(extra)
    else:
        wished = {name: extra for name in maps if not isinstance(found.modules[name], nn.Identity)}
    more: dict[int, int] = {}
    for name, count in wished.items():
        if name not in maps:
            if any(head.linear == name for head in graph.heads):
                raise ArchitectureError(f"'{name}' is a head: its outputs are the network's and cannot be widened")
            raise unknown_name("layer to widen", name, maps)
        if not count:
            continue
        leaves = found.spaces.leaves(found.layouts[maps[name]] or ())
        reasons = [found.spaces.fixed(segment) for segment in leaves]
        if None not in reasons:
            raise ArchitectureError(f"'{name}' cannot be widened: {reasons[0]}")
        for segment, reason in zip(leaves, reasons, strict=True):
            if reason is not None:  # zeros beside the channels that do grow
                continue
            step = found.spaces.step(segment)
            needed = int(-(-count // segment.ratio))
            more[segment.space] = max(more.get(segment.space, 0), -(-needed // step) * step)
    return more
