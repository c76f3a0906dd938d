"""Measure an input-independent network: one forward pass serves every sample, and many points at once.

The first layer of a constant imprint has θ_W = 0, so its output is its bias (or the constant of the norm behind it). A
batch whose rows are these constants at many points therefore gives the outputs at all of them, computed by the
network's own layers after it. Pixels and time steps get the same constant.
"""

import math

import torch
from jaxtyping import Float64
from torch import Tensor, nn

from landform.calling import split_heads
from landform.errors import InputError
from landform.imprint.heads import signals
from landform.imprint.imprint import Imprint
from landform.imprint.lower.network import Network, read

BATCH = 4096
STREAM_BATCH = 256
"""Points in a batch of a transformer, whose activations are wide."""
NUMBERS = 1 << 24  # numbers of the widest tensor that a batch may make: 64 MB in float32


def outputs_at(imprint: Imprint, h: Float64[Tensor, "points z"]) -> tuple[Tensor, ...]:
    """Return the network's outputs at points, one tensor ``[points, outputs]`` a head, in the network's dtype.

    Of a head that ends in a softmax the logarithms are returned, in float64: what its response takes.

    Args:
        imprint: A constant imprint.
        h: Points, shape ``[points, z]``.

    Returns:
        The outputs of each head.

    Raises:
        InputError: If the first layer reads its input, or the shape of an input is not known.

    Cost:
        One pass of the layers after the first over ``points`` rows; memory for `BATCH` rows, fewer where a row has many
        positions.
    """
    if h.ndim != 2 or h.shape[1] != imprint.z:
        raise InputError(f"points of this imprint have shape [points, {imprint.z}], got {tuple(h.shape)}")
    if imprint.meta.get("network", "").endswith("stream"):
        return (stream_outputs(imprint, h),)
    found = read(imprint.model, sample_shape(imprint), output=imprint.meta.get("output"))
    modules = dict(imprint.model.named_modules())
    for name in {*found.maps, found.entrance}:
        if name in found.maps or found.entrance not in found.maps:
            weight = modules[name].weight
            assert isinstance(weight, Tensor)
            if bool((weight != 0).any()):
                raise InputError(f"'{name}.weight' is not zero, so the output depends on the input; use a full scan")
    entrance = modules[found.entrance]
    sample, positions = _sample(imprint, found)
    key = found.injected
    dtype = imprint.subspace.origin[key].dtype
    rows: list[tuple[Tensor, ...]] = []
    for points in torch.split(h, max(1, min(BATCH, NUMBERS // (positions * max(found.widths))))):
        # the same additions, in the same order, as Subspace.at
        bias = imprint.subspace.origin[key].expand(len(points), *imprint.subspace.origin[key].shape).clone()
        for coordinate, direction in zip(points.T, imprint.subspace.directions, strict=True):
            bias += coordinate.to(dtype).reshape(-1, *[1] * (bias.ndim - 1)) * direction[key]
        hook = entrance.register_forward_hook(lambda _module, _inputs, output, bias=bias: _everywhere(bias, output))
        try:
            with torch.no_grad():
                result = imprint.model(sample.expand(len(points), *sample.shape[1:]))
        finally:
            hook.remove()
        heads = split_heads(result, len(points), type(imprint.model).__name__, imprint.meta.get("output"))[0]
        rows.append(signals(tuple(heads.values()), found))
    return tuple(torch.cat([part[number] for part in rows]) for number in range(len(rows[0])))


def sample_shape(imprint: Imprint) -> tuple[int, ...] | None:
    """Return the shape of one input; a bundle remembers it. None for those that do not."""
    if imprint.task is not None and imprint.task.has_data:
        return tuple(imprint.task.data.inputs.shape[1:])
    shape = imprint.meta.get("sample")
    return tuple(int(n) for n in shape) if isinstance(shape, (list, tuple)) else None


def _sample(imprint: Imprint, found: Network) -> tuple[Tensor, int]:
    """Return one input of zeros, and how many positions the entrance's output has."""
    dtype = imprint.subspace.origin[found.injected].dtype
    first = dict(imprint.model.named_modules())[found.maps[0]]
    if isinstance(first, nn.Linear):
        return torch.zeros(1, first.in_features, dtype=dtype), 1
    shape = sample_shape(imprint)
    if shape is None:
        raise InputError("the shape of an input is not known; pass data: lf.load(path, data=…)")
    return torch.zeros(1, *shape, dtype=dtype), max(1, math.prod(shape[1:]))


def _everywhere(bias: Tensor, output: Tensor) -> Tensor:
    """Return the constants in the shape of the entrance's output: the same at all positions."""
    return bias.reshape(*bias.shape, *[1] * (output.ndim - bias.ndim)).expand_as(output).contiguous()


def stream_outputs(imprint: Imprint, h: Float64[Tensor, "points z"]) -> Tensor:
    """Return the outputs of a transformer at points, ``[points, outputs]``: one position, many points as a batch.

    The coordinates enter at one norm; a hook gives each row of the batch the norm's output at its own point, which is
    the bias plus the moved biases, or (RMSNorm) the normalised constants times the moved gains.
    """
    from landform.imprint.lower.overhear import outputs_of

    (key,) = imprint.subspace.moved
    name, _, which = key.rpartition(".")
    norm = dict(imprint.model.named_modules())[name]
    dtype = imprint.subspace.origin[key].dtype
    spec = imprint.meta["sample"]
    shape, tokens = list(spec["shape"]), not spec["dtype"].startswith("float")
    kind = torch.long if tokens else dtype
    directions = torch.stack([direction[key] for direction in imprint.subspace.directions])
    moved = directions.abs().sum(0) != 0
    found = []
    for points in torch.split(h, STREAM_BATCH):
        shift = points.to(dtype) @ directions
        sample = torch.zeros([len(points), *([1] if tokens else shape)], dtype=kind)

        def enter(_module: nn.Module, _inputs: object, output: Tensor, shift: Tensor = shift) -> Tensor:
            rows = shift.reshape(len(shift), *[1] * (output.ndim - 2), -1)
            return torch.where(moved, output * rows if which == "weight" else rows, output)

        gains = {key: torch.where(moved, torch.ones_like(norm.weight), norm.weight)} if which == "weight" else {}
        hook = norm.register_forward_hook(enter)
        try:
            with torch.no_grad():
                outputs = outputs_of(imprint.model, sample, len(points), gains)
        finally:
            hook.remove()
        found.append(outputs.reshape(len(points), -1, outputs.shape[-1])[:, 0])
    return torch.cat(found)


def losses_at(imprint: Imprint, h: Float64[Tensor, "points z"]) -> Float64[Tensor, "points heads"]:
    """Return the data-set loss at points, one column a head, computed in float64 from the network's outputs."""
    columns = [
        response.loss(outputs.double())
        for outputs, response in zip(outputs_at(imprint, h), imprint.responses, strict=True)
    ]
    return torch.stack(columns, dim=1)
