"""Give the perceptrons of a transformer more hidden units in place, whoever wrote it.

The perceptrons are found as for `landform.imprint`: by running the network once and looking at the numbers. New hidden
units are read by nobody, so whatever they compute, the function stays.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from landform.errors import ArchitectureError, unknown_name
from landform.imprint.lower.post_norm import find_any_stream
from landform.imprint.lower.stream import Map, Mlp
from landform.imprint.widening.channels import Places, enlarge
from landform.imprint.widening.configured import Grown


def with_hidden_units(
    wide: nn.Module, extra: int | Mapping[str, int], sample: Any, generator: torch.Generator | None
) -> Grown:
    """Widen the perceptrons of a network.

    Args:
        wide: The network; it is changed.
        extra: Units more in every perceptron, or by the name of its first map.
        sample: Inputs of two samples or so.
        generator: Draws what new units read, None for zeros.

    Returns:
        The network and what is new.

    Raises:
        ArchitectureError: If it is no residual stream that landform covers; what is in the way is named.
        UnknownNameError: A map that is no perceptron's first.
    """
    stream = find_any_stream(wide, sample)
    by_name = {mlp.up.name: mlp for mlp in stream.mlps}
    wished = extra if isinstance(extra, Mapping) else dict.fromkeys(by_name, extra)
    made = Grown(wide)
    for name, count in wished.items():
        if name not in by_name:
            raise unknown_name("perceptron to widen (by its first map)", name, by_name)
        if count:
            _grow(made, by_name[name], count, generator)
    return made


def _grow(made: Grown, mlp: Mlp, count: int, generator: torch.Generator | None) -> None:
    units = mlp.hidden
    places = Places(tuple(range(units)), tuple(range(units, units + count)))
    for entry in (mlp.up, mlp.gate):
        if entry is not None:
            _enlarge(made.model, entry, places, None, generator)
            made.channels[entry.name] = places.new
    _enlarge(made.model, mlp.down, None, places, generator)
    made.columns[mlp.down.name] = places.new


def _enlarge(
    model: nn.Module, entry: Map, rows: Places | None, columns: Places | None, generator: torch.Generator | None
) -> None:
    module: Any = model.get_submodule(entry.name)
    if isinstance(module, nn.Linear):
        enlarge(module, rows, columns, generator)
        return
    if not entry.transposed or not hasattr(module, "nf"):
        raise ArchitectureError(f"'{entry.name}' is a {type(module).__name__}, which cannot be widened")
    # a Linear with its weight the other way round is widened as one, and turned back
    twin = nn.Linear(1, 1, bias=module.bias is not None)
    twin.weight, twin.bias = nn.Parameter(module.weight.detach().T.contiguous()), module.bias
    twin.in_features, twin.out_features = entry.inputs, entry.outputs
    enlarge(twin, rows, columns, generator)
    module.weight = nn.Parameter(twin.weight.detach().T.contiguous(), requires_grad=module.weight.requires_grad)
    module.bias = twin.bias
    module.nx, module.nf = twin.in_features, twin.out_features
