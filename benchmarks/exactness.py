"""How exact: at nodes, between them, what is certified, and how small the bound can be made."""

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

import landform as lf
from benchmarks.making import DTYPES, certified, make, photograph
from benchmarks.report import Table
from landform.imprint.collapsed import losses_at
from landform.program import compile_pattern

MOST_NODES = 16641  # of a mesh: all up to n = 128, as many random ones beyond
EPSILONS = (1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8)
CASES: dict[str, dict[str, Any]] = {
    "full": {"register_sizes": (16, 32, 64, 128, 256), "n": 64, "points": 200_000, "certificate_sizes": (64, 256)},
    "quick": {
        "register_sizes": (16, 64),
        "n": 32,
        "points": 20_000,
        "certificate_sizes": (32,),
        "epsilons": (1e-3, 1e-6),
    },
    "tiny": {"register_sizes": (4,), "n": 4, "points": 50, "certificate_sizes": (4,), "epsilons": (1e-3,)},
}


def run(
    register_sizes: Sequence[int],
    n: int,
    points: int,
    certificate_sizes: Sequence[int],
    epsilons: Sequence[float] = EPSILONS,
) -> list[Table]:
    """Measure the register at nodes, the loss over the box, bounds by epsilon, and the time of certificates."""
    return [_register(register_sizes), _box(n, points), _epsilon(n, points, epsilons), _seconds(certificate_sizes)]


def _register(sizes: Sequence[int]) -> Table:
    rows = []
    for n, form in itertools.product(sizes, ("hats", "strips")):
        row: dict[str, object] = {"n": n, "form": form}
        kept = 49 - 2 * (n.bit_length() - 1)  # bits that landform's strips keep of nodal values in float64
        pictures = {
            "8-bit values": _rounded(photograph(n), 8),
            "49 − 2·log2 n bits": _rounded(photograph(n), kept),
            "all bits": photograph(n),
        }
        for label, pattern in pictures.items():
            program = compile_pattern(pattern, None, form=form, dtype=torch.float64)
            some = torch.randperm(pattern.mesh.n_nodes, generator=torch.Generator().manual_seed(0))[:MOST_NODES]
            nodes, values = pattern.mesh.nodes()[some], pattern.values.reshape(-1)[some]
            off = (torch.cat([program(h) for h in torch.split(nodes, 1024)])[:, 0] - values).abs()
            row |= {f"{label}: exact": f"{int((off == 0).sum()):,} of {len(off):,}", f"{label}: max": float(off.max())}
        rows.append(row)
    notes = [
        (
            "Nodes where the register equals the nodal value bit for bit, in float64 (max in units of the pattern): the"
            " photograph with nodal values rounded to 8 bits, to as many as strips keep, and not at all."
        ),
    ]
    return Table("Pattern register at nodes", rows, notes)


def _box(n: int, points: int) -> Table:
    rows = []
    pattern, nodes = photograph(n), photograph(n).mesh.nodes()
    for dtype, form in itertools.product(DTYPES, ("hats", "strips", "direct")):
        imprint = (
            make(pattern, dtype=dtype, form="hats", direct=True)
            if form == "direct"
            else make(pattern, dtype=dtype, form=form)
        )
        certificate = lf.certify(imprint)
        size = imprint.range[1] - imprint.range[0]
        at_nodes = _difference(imprint, nodes)
        box = float(_difference(imprint, torch.cat([nodes, _between(pattern), _random(points)])).max())
        rows.append(
            {
                "dtype": dtype,
                "form": form,
                "certified bound": certificate.relative_bound,
                "ψ (or gap)": certificate.curve / size,
                "at nodes": float(at_nodes.max()) / size,
                "at nodes, ulp": float((at_nodes / _ulp(imprint.target(nodes), DTYPES[dtype])).max())
                if form == "direct"
                else "",
                "in the box": box / size,
                "in the box beyond ψ": max(0.0, box - certificate.curve) / size,
                "certificate s": certificate.seconds,
            }
        )
    notes = [
        f"The photograph at n = {n}, errors as fractions of the range; ulp of the target in the network's dtype.",
        f"In the box: the nodes, midpoints of all edges, centroids of all simplices and {points:,} random points.",
        "direct: hats without response curve, whose gap between nodes is part of the form.",
    ]
    return Table("Loss against pattern", rows, notes)


def _epsilon(n: int, points: int, epsilons: Sequence[float]) -> Table:
    rows = []
    for dtype, epsilon in itertools.product(DTYPES, (None, *epsilons)):
        row: dict[str, object] = {"dtype": dtype, "epsilon": epsilon or "default"}
        try:
            imprint = make(photograph(n), dtype=dtype, epsilon=epsilon)
        except lf.LandformError as error:
            rows.append(row | {"form": str(error).split(";")[0]})
            continue
        certificate = lf.certify(imprint)
        size = imprint.range[1] - imprint.range[0]
        parts = {name: getattr(certificate, name) / size for name in ("register", "curve", "rounding")}
        measured = float(_difference(imprint, _random(points // 10)).max()) / size
        row |= {"form": imprint.meta["form"], "knots": imprint.meta["knots"], "bound": certificate.relative_bound}
        rows.append(row | parts | {"measured": measured, "certificate s": certificate.seconds})
    notes = [f"The photograph at n = {n}, form chosen by landform, fractions of the range; measured on random points."]
    return Table("How small the certified bound can be made", rows, notes)


def _seconds(sizes: Sequence[int]) -> Table:
    rows: list[dict[str, object]] = []
    for n, (form, dtype) in itertools.product(sizes, (("hats", "float32"), ("strips", "float64"))):
        rows.append({"n": n, "dtype": dtype} | certified("photograph", n, form, dtype))
    return Table("Time of the certificate", rows, ["One run each; bound as a fraction of the range."])


def _difference(imprint: lf.Imprint, h: Tensor) -> Tensor:
    """Return |L − T| at points that are representable in the network's dtype."""
    dtype = next(imprint.model.parameters()).dtype
    h = h.to(dtype).double()
    return (losses_at(imprint, h)[:, 0] - imprint.target(h)).abs()


def _between(pattern: lf.Pattern) -> Tensor:
    """Return midpoints of edges and centroids of simplices."""
    nodes, mesh = pattern.mesh.nodes(), pattern.mesh
    return torch.cat([nodes[mesh.edges()].mean(dim=1), nodes[mesh.simplices()].mean(dim=1)])


def _random(points: int) -> Tensor:
    return torch.rand(points, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def _rounded(pattern: lf.Pattern, bits: int) -> lf.Pattern:
    return lf.Pattern.from_array((pattern.values * 2**bits).round() / 2**bits, normalise=False)


def _ulp(values: Tensor, dtype: torch.dtype) -> Tensor:
    rounded = values.to(dtype)
    return (torch.nextafter(rounded, torch.full_like(rounded, torch.inf)) - rounded).double()
