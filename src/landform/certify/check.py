"""`certify`: prove (or, where no proof exists, measure) how close the loss is to the pattern."""

import math
import time

import numpy as np
import torch

from landform.certify.certificate import Certificate, Kind
from landform.certify.ending import behind
from landform.certify.graph import read_graph_network
from landform.certify.network import Network, read_network
from landform.certify.post_norm import prove_post_stream
from landform.certify.proof_error import ProofError
from landform.certify.prove import Parts, prove
from landform.certify.separable import prove_sum
from landform.certify.stream_curve import prove_stream
from landform.errors import ArchitectureError, InputError
from landform.imprint.collapsed import sample_shape
from landform.imprint.imprint import Imprint
from landform.imprint.lower import network as lower
from landform.imprint.lower.chain import require_no_hooks
from landform.imprint.lower.post_norm import PostStream, find_any_stream
from landform.pattern import Pattern, resampling_error

SLACK = 1 + 1e-9  # the proof repeats the same arithmetic; another BLAS may sum it in another order
SAMPLES = 4096
LANGUAGE_MODEL = "language-model stream"
"""What an imprint beside a trained language model calls its network."""


def certify(imprint: Imprint) -> Certificate:
    """Bound |L(h) − T(h)| over the whole box, from the weights and the label statistics alone.

    Args:
        imprint: Made by `landform.imprint` or loaded from a bundle; its data are not used.

    Returns:
        The certificate. Its parts: the pattern register against T (nodal values as stored, sign changes inside cells),
        the response curve sup_t |ρ(ψ(t)) − t| as stored, and rounding for any order of summation in the network's
        dtype. ``kind`` is ``"measured"`` when the loss is not known to be convex. A network whose weights do not have
        the form the proof covers gets ``holds=False`` and says why.

    Cost:
        About a second for 64×64, under a minute for 256×256.
    """
    if imprint.meta.get("network") == LANGUAGE_MODEL:
        from landform.certify.token_offset import certify_token_offset

        return certify_token_offset(imprint)
    if imprint.meta.get("method") in ("offset", "per-sample"):
        from landform.certify.beside import certify_beside

        return certify_beside(imprint)
    begin = time.perf_counter()
    promised = imprint.certificate.promised if imprint.certificate else None
    failures: tuple[str, ...] = ()
    parts: list[Parts] = []
    stream = imprint.meta.get("network", "").endswith("stream")
    measured = not all(r.convex for r in imprint.responses)
    measured |= stream and not isinstance(imprint.pattern, Pattern)
    own: tuple[str, ...] = ()
    try:
        require_no_hooks(imprint.model)
        if stream:
            parts = _measure(imprint) if measured else [_prove_transformer(imprint)]
        else:
            found = lower.read(imprint.model, sample_shape(imprint), output=imprint.meta.get("output"))
            own = () if found.graph is None else _assumed_of_graphs(sample_shape(imprint))
            _require_consistent(imprint, found)
            buffers = dict(imprint.model.named_buffers())
            if found.chain is not None:
                network = read_network(found.chain, imprint.subspace, buffers, imprint.model)
            else:
                network = read_graph_network(found, imprint.subspace, buffers, imprint.model)
            parts = _measure(imprint) if measured else _prove(imprint, network)
            if not measured:
                parts = [
                    behind(p, end, response, imprint.range, network.unit_roundoff)
                    for p, end, response in zip(parts, found.ends, imprint.responses, strict=True)
                ]
    except (ProofError, InputError, ArchitectureError) as error:
        failures = (str(error),)
    bound = max((p.total for p in parts), default=math.inf)
    worst = max(parts, key=lambda p: p.total, default=Parts(float("inf"), float("inf"), float("inf")))
    lo, hi = imprint.range
    limit = bound if promised is None else promised
    resampling, resampling_kind = _resampling(imprint)
    kind: Kind = "measured" if measured else "certified"
    assumptions = [
        "IEEE arithmetic with round-to-nearest and gradual underflow; no TF32, no autocast",
        "the loss of the emitted outputs is evaluated in float64",
        "h is representable in the network's dtype",
    ]
    if stream:
        assumptions += [
            "the network's structure is what a run with random weights shows",
            "norms and activations are computed to within a few ulp (statistics of norms: any order of sums)",
        ]
    assumptions += own
    assumptions += dict.fromkeys(line for response in imprint.responses for line in response.assumptions)
    return Certificate(
        bound=bound,
        relative_bound=bound / (hi - lo),
        kind=kind,
        holds=bool(np.isfinite(bound)) and bound <= limit * SLACK,
        register=worst.register,
        curve=worst.curve,
        rounding=worst.rounding,
        promised=limit,
        resampling=resampling,
        resampling_kind=resampling_kind,
        range=(lo, hi),
        unit=imprint.response.unit,
        domain=f"[0, 1]^{imprint.z}",
        dtype=str(next(iter(imprint.subspace.origin.values())).dtype).removeprefix("torch."),
        data_hash=_data_hash(imprint),
        assumptions=tuple(assumptions),
        failures=failures,
        heads={str(number): p.total for number, p in enumerate(parts)},
        seconds=time.perf_counter() - begin,
    )


def _assumed_of_graphs(shape: tuple[int, ...] | None) -> tuple[str, ...]:
    """Return what the proof takes for granted of networks with convolutions and pools."""
    size = "" if shape is None else f", of shape {' × '.join(map(str, shape))}"
    return (
        "convolutions are dot products, in any order of summation: no Winograd or FFT algorithm",
        f"inputs are finite{size}; the network is in evaluation mode",
    )


def _require_consistent(imprint: Imprint, chain: lower.Network) -> None:
    """Refuse an imprint whose parts do not belong together, as a damaged or altered bundle may."""
    first = chain.injected
    space, channels = imprint.subspace, imprint.pattern.channels or 1
    if space.z != imprint.z or any(first not in direction for direction in space.directions):
        raise InputError(f"a pattern with z = {imprint.z} needs as many directions, each moving '{first}'")
    wanted = {name: (tuple(p.shape), p.dtype) for name, p in imprint.model.named_parameters()}
    got = {name: (tuple(p.shape), p.dtype) for name, p in space.origin.items()}
    if wanted != got:
        name = next(n for n in (*wanted, *got) if wanted.get(n) != got.get(n))
        raise InputError(f"parameter '{name}' is {got.get(name)} in the origin and {wanted.get(name)} in the model")
    dtypes = {dtype for _, dtype in got.values()}
    if len(dtypes) != 1 or not dtypes <= {torch.float32, torch.float64}:
        raise InputError(f"the proof covers float32 or float64, got {sorted(map(str, dtypes))}")
    if len(imprint.responses) != len(chain.heads) or channels not in (1, len(chain.heads)):
        raise InputError(
            f"{len(chain.heads)} heads, {len(imprint.responses)} responses and {channels} channels do not fit each"
            " other"
        )
    sizes = [r.n_outputs for r in imprint.responses]
    if sizes != [head.outputs for head in chain.heads]:
        raise InputError(f"the heads have {[h.outputs for h in chain.heads]} outputs, the responses {sizes}")


def _prove(imprint: Imprint, network: Network) -> list[Parts]:
    pattern = imprint.pattern
    if not isinstance(pattern, Pattern):
        return prove_sum(network, pattern, imprint.responses, imprint.range, imprint.spline_stage)
    mesh = pattern.mesh
    values = pattern.values.reshape(mesh.n_nodes, -1).numpy()
    return prove(network, values, mesh, imprint.responses, imprint.range, imprint.spline_stage)


def _prove_transformer(imprint: Imprint) -> Parts:
    """Find the structure of a transformer again, in a copy with random weights, and prove with it."""
    spec = imprint.meta["sample"]
    dtype = getattr(torch, spec["dtype"])
    stream = find_any_stream(imprint.model, torch.zeros([2, *spec["shape"]], dtype=dtype))
    return prove_post_stream(imprint, stream) if isinstance(stream, PostStream) else prove_stream(imprint, stream)


def _data_hash(imprint: Imprint) -> str:
    if imprint.task is not None and imprint.task.has_data:
        return imprint.task.data.hash
    return imprint.certificate.data_hash if imprint.certificate is not None else ""


def _resampling(imprint: Imprint) -> tuple[float | None, str | None]:
    """Return the distance of the pattern from its original; a loaded pattern has none, but its certificate knows."""
    if imprint.certificate is not None and imprint.certificate.resampling is not None:
        return imprint.certificate.resampling, imprint.certificate.resampling_kind
    found = resampling_error(imprint.pattern)
    return (None, None) if math.isnan(found.value) else (found.value, found.kind)


def _measure(imprint: Imprint) -> list[Parts]:
    """Measure the largest difference on nodes and random points: no proof."""
    from landform.imprint.collapsed import losses_at

    generator = torch.Generator().manual_seed(0)
    h = torch.rand(SAMPLES, imprint.z, dtype=torch.float64, generator=generator)
    if isinstance(imprint.pattern, Pattern) and imprint.pattern.mesh.n_nodes <= 1 << 16:
        h = torch.cat([imprint.pattern.mesh.nodes(), h])
    difference = (losses_at(imprint, h) - imprint.target(h).reshape(len(h), -1)).abs().amax(dim=0)
    return [Parts(0.0, float(d), 0.0) for d in difference]
