"""The certificate of an offset imprint in a language model: proved for patterns with nodal values, else measured."""

import math
import time

import torch

from landform.certify.beside_stream_curve import prove_beside_stream
from landform.certify.certificate import Certificate, Kind
from landform.certify.proof_error import ProofError
from landform.certify.prove import Parts
from landform.errors import ArchitectureError, InputError
from landform.imprint.imprint import Imprint
from landform.imprint.lower.chain import require_no_hooks
from landform.pattern import Pattern, resampling_error

SLACK = 1 + 1e-9
POINTS = 64
"""Points at which an imprint without a proof is measured: each is a pass over the data."""


def certify_token_offset(imprint: Imprint) -> Certificate:
    """Bound |L(h) − T(h)| over the box for a language model whose logits are moved.

    Args:
        imprint: Made with ``method="offset"`` from a language model.

    Returns:
        The certificate: ``certified`` from weights and stored tokens; ``measured`` for sums of functions of one
        coordinate, whose imprint must then have its data.
    """
    begin = time.perf_counter()
    promised = imprint.certificate.promised if imprint.certificate else None
    kind: Kind = "certified" if isinstance(imprint.pattern, Pattern) else "measured"
    failures: tuple[str, ...] = ()
    parts = Parts(math.inf, math.inf, math.inf)
    try:
        require_no_hooks(imprint.model)
        parts = prove_beside_stream(imprint) if kind == "certified" else _measured(imprint)
    except (ProofError, InputError, ArchitectureError, KeyError) as error:
        failures = (str(error),)
    bound, (lo, hi) = parts.total, imprint.range
    limit = bound if promised is None else promised
    data = imprint.task.data.hash if imprint.task is not None and imprint.task.has_data else ""
    if not data and imprint.certificate is not None:
        data = imprint.certificate.data_hash
    away = resampling_error(imprint.pattern)
    return Certificate(
        bound=bound,
        relative_bound=bound / (hi - lo),
        kind=kind,
        holds=not failures and math.isfinite(bound) and bound <= limit * SLACK,
        register=parts.register,
        curve=parts.curve,
        rounding=parts.rounding,
        promised=limit,
        resampling=None if math.isnan(away.value) else away.value,
        resampling_kind=None if math.isnan(away.value) else away.kind,
        range=imprint.range,
        unit=imprint.response.unit,
        domain=f"[0, 1]^{imprint.z}",
        dtype=str(next(iter(imprint.subspace.origin.values())).dtype).removeprefix("torch."),
        data_hash=data,
        assumptions=(
            "IEEE arithmetic with round-to-nearest and gradual underflow; no TF32, no autocast",
            "the loss of the emitted outputs is evaluated in float64",
            "h is representable in the network's dtype",
            "the network's structure is what a run with random weights shows",
            "norms and activations are computed to within a few ulp (statistics of norms: any order of sums)",
            *imprint.response.assumptions,
        ),
        failures=failures,
        heads={} if failures else {"0": bound},
        seconds=time.perf_counter() - begin,
    )


def _measured(imprint: Imprint) -> Parts:
    """Measure the largest difference at random points: no proof."""
    if imprint.task is None or not imprint.task.has_data:
        raise InputError(
            "an imprint of a sum in a language model is measured, which needs its data: lf.load(…, data=…)"
        )
    generator = torch.Generator().manual_seed(0)
    h = torch.rand(POINTS, imprint.z, dtype=torch.float64, generator=generator)
    h = h.to(next(iter(imprint.subspace.origin.values())).dtype).double()
    found = torch.stack([imprint.task.evaluate(imprint.subspace.at(point)).double().reshape(()) for point in h])
    return Parts(0.0, float((found - imprint.target(h)).abs().max()), 0.0)
