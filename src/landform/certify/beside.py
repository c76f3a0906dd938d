"""The proof for Theorem 2: the pattern's channels are a network of their own, proved as Theorem 1's is.

The channels are taken out of the stored weights (and must neither read nor feed others), and their one output s is
followed over the whole box. The loss as a function of s comes from what is stored with the imprint: the trained
network's outputs (offset), or nothing but the number of classes (per sample). What is added is the rounding of the last
layer, where trained and compiled part meet: γ_K Σ|w||x|, K the layer's inputs.
"""

import math
import time
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from landform.certify.certificate import Certificate
from landform.errors import ArchitectureError, InputError
from landform.imprint.beside import columns, gamma, taken, trunk_of
from landform.imprint.imprint import Imprint
from landform.imprint.lower.chain import require_no_hooks
from landform.imprint.lower.network import read
from landform.pattern import Pattern
from landform.response.offset import OffsetResponse
from landform.subspace import Subspace

Noise = Callable[[float], float]


def certify_beside(imprint: Imprint) -> Certificate:
    """Bound |L(h) − T(h)| (per sample: |ℓ_i(h) − T(h)| of every sample served) over the box."""
    from landform.certify.check import SLACK, certify

    begin = time.perf_counter()
    promised = imprint.certificate.promised if imprint.certificate else None
    try:
        require_no_hooks(imprint.model)
        inner, most = inner_imprint(imprint)
        found = certify(inner)
        noise = head_noise(imprint, most)
    except (InputError, ArchitectureError, KeyError, IndexError) as error:
        return _failed(imprint, str(error), promised, time.perf_counter() - begin)
    extra = loss_noise(imprint, noise)
    bound = math.nextafter((found.bound + extra) * (1 + 1e-12), math.inf)
    limit = bound if promised is None else promised
    lo, hi = imprint.range
    return replace(
        found,
        bound=bound,
        relative_bound=bound / (hi - lo),
        rounding=found.rounding + extra,
        holds=not found.failures and math.isfinite(bound) and bound <= limit * SLACK,
        promised=limit,
        data_hash=_data_hash(imprint),
        resampling=found.resampling,
        heads={"0": bound},
        seconds=time.perf_counter() - begin,
    )


def inner_imprint(imprint: Imprint) -> tuple[Imprint, float]:
    """Return the network of the pattern's channels as an imprint, and sup over nodes of Σ|w||x| in its head."""
    model = imprint.model
    sample = imprint.meta.get("sample")
    network = read(model, sample)
    trunk = trunk_of(network)
    channels = imprint.meta["channels"]
    if len(channels) != len(trunk.hidden):
        raise InputError(f"{len(channels)} layers of channels are recorded, the network has {len(trunk.hidden)}")
    response = imprint.response
    output = int((response.v == 1.0).nonzero()[0]) if isinstance(response, OffsetResponse) else 0
    small, _ = taken(imprint.subspace.origin, model, trunk, channels, output)
    if isinstance(response, OffsetResponse):
        _require_ray(imprint, trunk.head, channels[-1], trunk.hidden[-1].width, response.v, output)
    origin = {name: parameter.detach() for name, parameter in small.named_parameters()}
    directions = []
    where = {layer.map: part for layer, part in zip(trunk.hidden, channels, strict=True)}
    where |= {name: part for layer, part in zip(trunk.hidden, channels, strict=True) for name in layer.norms}
    for direction in imprint.subspace.directions:
        moved = {}
        for name, value in direction.items():
            part = where.get(name.rpartition(".")[0])
            index = torch.as_tensor(list(part or ()), dtype=torch.long)
            others = torch.ones(len(value), dtype=torch.bool)
            others[index] = False
            if part is None or bool((value[others] != 0).any()):
                raise InputError(f"a direction moves '{name}' outside the channels of the pattern")
            moved[name] = value[index]
        directions.append(moved)
    inner = replace(
        imprint,
        model=small,
        subspace=Subspace(origin, tuple(directions)),
        task=None,
        certificate=None,
        meta={"method": "constant", "sample": sample, "widths": [len(part) for part in channels]},
    )
    return inner, _largest(inner, small, trunk.head)


def _largest(inner: Imprint, small: nn.Module, head: str) -> float:
    """Return sup over the nodes of Σ|w_k||x_k| in the head: every unit is affine between nodes, up to its kinks."""
    from landform.imprint.collapsed import outputs_at

    module = small.get_submodule(head)
    assert isinstance(module, nn.Linear)
    weight = module.weight.detach().double().abs()[0]
    seen = [0.0]
    hook = module.register_forward_pre_hook(
        lambda _module, inputs: seen.append(float((inputs[0].double().abs() @ weight).max()))
    )
    if isinstance(inner.pattern, Pattern):
        h = inner.pattern.mesh.nodes()
    else:
        h = torch.rand(4096, inner.z, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    try:
        outputs_at(inner, h)
    finally:
        hook.remove()
    return 1.01 * max(seen)


def _require_ray(imprint: Imprint, head: str, free: list[int], width: int, v: Tensor, output: int) -> None:
    """Refuse a head whose rows are not v times the row of the ray's own output, to rounding."""
    module = imprint.model.get_submodule(head)
    weight = imprint.subspace.origin[f"{head}.weight"]
    part = weight[:, columns(module, free, width)].double()
    unit = torch.finfo(weight.dtype).eps
    if bool(((part - v[:, None] * part[output]).abs() > unit * (v[:, None] * part[output]).abs()).any()):
        raise InputError(f"the rows of '{head}' that read the pattern are not along the ray")


def head_noise(imprint: Imprint, most: float) -> Tensor:
    """Return how far each output may be from f(x_i) + s·v by rounding in the head, for any order of summation."""
    response = imprint.response
    name = trunk_of(read(imprint.model, imprint.meta.get("sample"))).head
    weight = imprint.subspace.origin[f"{name}.weight"]
    factor = gamma(weight.shape[1] + 2, weight.dtype)
    assert isinstance(response, OffsetResponse)
    return 2 * factor * (response.magnitudes + response.v.abs() * most)


def loss_noise(imprint: Imprint, noise: Tensor) -> float:
    """Return how far the loss may be off for it."""
    response = imprint.response
    assert isinstance(response, OffsetResponse)
    return response.lipschitz(noise, imprint.range[1] * 1.01 + 1e-3)


def _data_hash(imprint: Imprint) -> str:
    if imprint.task is not None and imprint.task.has_data:
        return imprint.task.data.hash
    return imprint.certificate.data_hash if imprint.certificate is not None else ""


def _failed(imprint: Imprint, why: str, promised: float | None, seconds: float) -> Certificate:
    return Certificate(
        bound=math.inf,
        relative_bound=math.inf,
        kind="certified",
        holds=False,
        register=math.inf,
        curve=math.inf,
        rounding=math.inf,
        promised=math.inf if promised is None else promised,
        resampling=None,
        resampling_kind=None,
        range=imprint.range,
        unit=imprint.response.unit,
        domain=f"[0, 1]^{imprint.z}",
        dtype=str(next(iter(imprint.subspace.origin.values())).dtype).removeprefix("torch."),
        data_hash=_data_hash(imprint),
        failures=(why,),
        heads={},
        seconds=seconds,
    )
