"""The proof for Theorem 2: the pattern's channels are a network of their own, proved as Theorem 1's is.

The channels are taken out of the stored weights (and must neither read nor feed others), and their one output s is
followed over the whole box. The loss as a function of s comes from what is stored with the imprint: the trained
network's outputs (offset), or nothing but the number of classes (per sample). What is added is the rounding where
trained and compiled part meet: that of the last layer's sums, bounded sample by sample (offset), or that of one sum
(per sample).
"""

import math
import time
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from landform.certify.certificate import Certificate
from landform.errors import ArchitectureError, InputError
from landform.imprint.beside import head_columns, taken, trunk_of
from landform.imprint.imprint import Imprint
from landform.imprint.lower.chain import require_no_hooks
from landform.imprint.lower.network import read
from landform.imprint.scores import noise_of, slack_of, tail_weights, without_tail
from landform.pattern import Pattern
from landform.response.offset import OffsetResponse
from landform.response.per_sample import PerSampleResponse
from landform.subspace import Subspace

Noise = Callable[[float], float]


def certify_beside(imprint: Imprint) -> Certificate:
    """Bound |L(h) − T(h)| (per sample: |ℓ_i(h) − T(h)| of every sample served) over the box."""
    from landform.certify.check import SLACK, certify

    begin = time.perf_counter()
    promised = imprint.certificate.promised if imprint.certificate else None
    try:
        require_no_hooks(imprint.model)
        inner, most, head = inner_imprint(imprint)
        found = certify(inner)
        row = inner.subspace.origin[f"{head}.weight"]
        extra = loss_noise(imprint, most, head, feeding=max(1, int((row != 0).sum())), inner=found.bound)
    except (InputError, ArchitectureError, KeyError, IndexError) as error:
        return _failed(imprint, str(error), promised, time.perf_counter() - begin)
    bound = math.nextafter((found.bound + extra) * (1 + 1e-12), math.inf)
    limit = bound if promised is None else promised
    lo, hi = imprint.range
    about: dict[str, object] = {}
    if isinstance(imprint.response, PerSampleResponse):
        domain, lines = every_sample(imprint.response, imprint.range, bound, score_slack(imprint))
        about = {"domain": f"{found.domain}, {domain}", "assumptions": (*found.assumptions, *lines)}
    return replace(
        found,
        **about,  # type: ignore[arg-type]
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


def inner_imprint(imprint: Imprint) -> tuple[Imprint, float, str]:
    """Return the network of the pattern's channels as an imprint, sup over nodes of Σ|w||x| in its head, its name."""
    model, stored = imprint.model, dict(imprint.subspace.origin)
    sample = imprint.meta.get("sample")
    if imprint.meta["method"] == "per-sample":
        tail = imprint.meta["tail"]
        model = without_tail(model, tail)
        for key in ("weight", "bias"):
            stored[f"{tail}.{key}"] = stored[f"{tail}.0.{key}"]
    trunk = trunk_of(read(model, sample))
    channels = imprint.meta["channels"]
    if len(channels) != len(trunk.hidden):
        raise InputError(f"{len(channels)} layers of channels are recorded, the network has {len(trunk.hidden)}")
    if imprint.meta["method"] == "per-sample":
        _require_tail(imprint, head_columns(model, trunk, channels))
    response = imprint.response
    if isinstance(response, OffsetResponse):
        v, output = response.v, int((response.v.abs() == 1.0).nonzero()[0])
    else:
        v, output = torch.zeros(trunk.outputs, dtype=torch.float64), trunk.outputs - 1
        v[output] = 1.0
    small, _ = taken(stored, model, trunk, channels, output)
    with torch.no_grad():
        small.get_parameter(f"{trunk.head}.weight").mul_(float(v[output]))  # 1 or −1
    if isinstance(response, PerSampleResponse):  # the signal has an output of its own, and with it a constant
        with torch.no_grad():
            small.get_parameter(f"{trunk.head}.bias").copy_(stored[f"{trunk.head}.bias"][output])
    _require_ray(stored[f"{trunk.head}.weight"][:, head_columns(model, trunk, channels)], v, output)
    origin = {name: parameter.detach() for name, parameter in small.named_parameters()}
    directions = []
    where = trunk.places(channels)
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
    return inner, _largest(inner, small, trunk.head), trunk.head


def every_sample(
    response: PerSampleResponse, bounds: tuple[float, float], bound: float, slack: float
) -> tuple[str, list[str]]:
    """Say which samples the bound is for, and bound |L − T| over all data, those not served included.

    Their losses are known functions of a, Lipschitz with constant 2; T has 1. A grid of a bounds the difference. Scores
    that are off by ``slack`` move a loss by at most twice that, and never by more than twice the largest logit.
    """
    served = response.served(*bounds, slack)
    count = int(served.sum())
    total = bound * float(response.share[served].sum())
    if count < len(served):
        s = torch.linspace(0.0, float(response.inverse(torch.tensor([bounds[1]]).double())), 257).double()
        others = PerSampleResponse(
            response.statistics()[~served.numpy()],
            top=response.top,
            cap=response.cap,
            magnitudes=response.magnitudes.tolist(),
            groups=response.groups,
        )
        off = (others.sample_losses(s) - response.along(s)[:, None]).abs().amax(dim=0)
        off = off + 1.5 * float(s[1]) + 2 * min(slack, response.cap) + bound
        total += float(response.share[~served] @ off)
    word = f"the loss of each of {count} of {len(served)} samples"
    return word, [f"over all data, |mean loss - pattern| is at most {total:.3g} (samples that are not served included)"]


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


def _require_tail(imprint: Imprint, own: Tensor) -> None:
    """Refuse an end other than logit_c = relu(u_c) − relu(u_c − A + s); the signal reads the columns ``own`` alone."""
    origin, tail = imprint.subspace.origin, imprint.meta["tail"]
    response = imprint.response
    assert isinstance(response, PerSampleResponse)
    first = origin[f"{tail}.0.weight"]
    weight, bias, out = tail_weights(response, first.dtype)
    if not torch.equal(origin[f"{tail}.4.weight"], out) or bool((origin[f"{tail}.4.bias"] != 0).any()):
        raise InputError(f"the outputs of '{tail}' are not differences of its units")
    if not torch.equal(origin[f"{tail}.2.weight"], weight) or not torch.equal(origin[f"{tail}.2.bias"], bias):
        raise InputError(f"the units of '{tail}' are not B − guards and B − A − guards + signal")
    others = torch.ones(first.shape[1], dtype=torch.bool)
    others[own] = False
    if bool((first[-1, others] != 0).any()):
        raise InputError(f"the signal of '{tail}' reads more than the pattern")


def _require_ray(columns: Tensor, v: Tensor, output: int) -> None:
    """Refuse a head whose rows are not v times the row of the ray's own output, to rounding."""
    part = columns.double()
    unit = torch.finfo(columns.dtype).eps
    wanted = v[:, None] * v[output] * part[output]
    if bool(((part - wanted).abs() > unit * wanted.abs()).any()):
        raise InputError("the rows of the head that read the pattern are not along the ray")


def loss_noise(imprint: Imprint, most: float, head: str, *, feeding: int, inner: float) -> float:
    """Return how far a loss may be off by rounding behind the pattern's channels, for any order of summation.

    Args:
        imprint: The imprint.
        most: sup Σ|w||x| over the units of the pattern that the head reads.
        head: Its name.
        feeding: How many these are.
        inner: What is proved of the pattern's channels alone: no signal is beyond ρ⁻¹(hi + inner).

    Returns:
        The bound: of each served sample's loss (per sample), or of the mean loss (offset).

    Raises:
        InputError: If the response does not know the rounding of the trained part.
    """
    response = imprint.response
    if isinstance(response, PerSampleResponse):
        dtype = imprint.subspace.origin[f"{imprint.meta['tail']}.0.weight"].dtype
        return noise_of(response, most, dtype)  # the loss is 1-Lipschitz in the own logit, the others are exactly 0
    assert isinstance(response, OffsetResponse)
    if response.radii is None or response.terms is None:
        raise InputError("the response does not say how far the trained outputs may be off; make the imprint again")
    unit = torch.finfo(imprint.subspace.origin[f"{head}.weight"].dtype).eps / 2
    own, terms = feeding, response.terms[:, None]
    if not math.isfinite(inner):
        return math.inf
    crowd = terms + own + 3  # nodes of the sum, products, and the roundings of v's own products with the row
    still = response.radii * (1 + 2 * own / terms) / (1 - crowd * unit)  # a node more sums at most 2/n of all nodes
    growth = unit * crowd / (1 - crowd * unit) * response.v.abs()
    if own > 1:  # its terms may be far larger than s
        still, growth = still + growth * most, 0 * growth
    top = float(response.inverse(torch.tensor([imprint.range[1] + inner], dtype=torch.float64)))
    return response.moved_by(still, growth, 1.001 * top)


def score_slack(imprint: Imprint) -> float:
    """Return how far the scores of a per-sample imprint may be off by rounding."""
    response, first = imprint.response, imprint.subspace.origin[f"{imprint.meta['tail']}.0.weight"]
    assert isinstance(response, PerSampleResponse)
    return slack_of(response, first.shape[1], first.dtype)


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
