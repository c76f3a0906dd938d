"""Every architecture: what each holds without widening, how exact it is, what is proved, and what it costs.

Networks in CIFAR shapes, and two pretrained ones where their packages are installed; random patterns (the hardest), 10
unbalanced classes. For each network the finest pattern that its widths hold with a response curve, in float32 and
float64.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import landform as lf
from benchmarks.report import Table
from landform.imprint.lower.network import read
from landform.program.capacity import capacity
from landform.testing import networks, pretrained

FINEST = 64  # finer patterns fit some networks; they are not measured, so that the whole run takes minutes
NETS: dict[str, Any] = {
    "LeNet-like": lambda: networks.lenet(32),
    "VGG-11, BatchNorm": networks.vgg11,
    "ResNet-20": networks.resnet20,
    "ResNet-18": networks.resnet18,
    "pre-activation, 4 blocks of 48": networks.preact,
    "inverted bottlenecks, 4 of 32": networks.mobile,
    "DenseNet-like, growth 24": networks.densenet,
    "ResNet-20, shortcuts without weights": lambda: networks.resnet20(maps=False),
    "ResNet-20, GELU": lambda: networks.resnet20(act=nn.GELU),
    "ResNet-18, GroupNorm (32 groups)": lambda: networks.grouped(networks.resnet18(), 32),
    "gated bottlenecks, Hardswish, 4 of 32": networks.squeezed,
    "up and down, transposed, SiLU": networks.upsampling,
    "MTCNN's O-Net (pretrained)": pretrained.onet,
    "EfficientNet-Lite0 (pretrained)": pretrained.efficientnet_lite0,
}
SIZES = {"MTCNN's O-Net (pretrained)": 48, "EfficientNet-Lite0 (pretrained)": 224}
"""Sizes of images where they are not the case's."""
CASES: dict[str, dict[str, Any]] = {
    "full": {"names": tuple(NETS), "points": 10, "size": 32},
    "quick": {"names": ("LeNet-like", "ResNet-20"), "points": 4, "size": 32},
    "tiny": {"names": ("inverted bottlenecks, 4 of 32",), "points": 2, "size": 8},
}


def run(names: Sequence[str], points: int, size: int) -> list[Table]:
    """Measure resolution, error, bound and cost of each network."""
    with torch.random.fork_rng(devices=[]):  # layers draw their first weights from the global generator
        return _tables(names, points, size)


def _tables(names: Sequence[str], points: int, size: int) -> list[Table]:
    rows = [row for name in names for row in _network(name, points, size)]
    notes = [
        (
            "no network is widened; holds: the finest pattern of that form that fits with a response curve; n: that of"
            f" the random pattern measured (at most {FINEST}; epsilon 1e-4)"
        ),
        "error: largest |loss − pattern| at random nodes and points, of the range, the whole network run at each point",
        "times: compiling, proving, and compiling as a multiple of writing the weights to disk once",
        "same bits: outputs for two different inputs agree in every bit",
    ]
    return (
        [Table("Architectures", rows, notes), _figures(points, size)]
        if "ResNet-18" in names
        else [Table("Architectures", rows, notes)]
    )


def _data(size: int, classes: int = 10) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 10, (1000 if size < 100 else 20,), generator=generator).pow(2) // 9
    labels = torch.cat([labels.clamp(max=9), torch.arange(10)]) % classes
    return torch.randn(len(labels), 3, size, size, generator=generator), labels


def _pattern(n: int) -> lf.Pattern:
    values = torch.rand(n + 1, n + 1, dtype=torch.float64, generator=torch.Generator().manual_seed(n))
    return lf.Pattern(values, name=f"random {n}")


def _network(name: str, points: int, size: int) -> list[dict[str, object]]:
    net = NETS[name]()
    if net is None:  # its package is not installed
        return []
    inputs, labels = _data(SIZES.get(name, size), 2 if "O-Net" in name else 10)
    found = read(net, inputs.shape[1:])
    held = capacity(found.rooms, per_hinge=found.per_hinge, check=found.checker(net))
    rows: list[dict[str, object]] = []
    for form in ("hats", "rows", "strips"):
        finest = max((h.cells for h in held.holdings if h.form == form), default=0)
        n = min(finest, FINEST)
        for dtype in (torch.float64, torch.float32):
            if n:
                made = _measured(net.to(dtype), _pattern(n), (inputs.to(dtype), labels), points, form=form)
                rows.append(
                    {"network": name, "parameters": sum(p.numel() for p in net.parameters()), "holds n": finest} | made
                )
    return rows


def _measured(
    net: nn.Module, pattern: lf.Pattern, data: tuple[Tensor, Tensor], points: int, **options: Any
) -> dict[str, object]:
    task = lf.Task(net, data=data)
    begin = time.perf_counter()
    made = lf.imprint(pattern, task, certify=False, **options)
    seconds = time.perf_counter() - begin
    proof = lf.certify(made)
    worst, same = _error(made, data[0][:2], points)
    lo, hi = made.range
    return {
        "dtype": str(data[0].dtype).removeprefix("torch."),
        "form": made.meta["form"],
        "n": pattern.resolution[0],
        "knots": made.meta["knots"],
        "error": worst / (hi - lo),
        "bound": proof.relative_bound,
        "kind": proof.kind if proof.holds else "; ".join(proof.failures),
        "bound / error": proof.bound / worst,
        "same bits": str(same),
        "compile, s": seconds,
        "prove, s": proof.seconds,
        "× saving": seconds / _saving(made.model),
    }


def _error(made: lf.Imprint, inputs: Tensor, points: int) -> tuple[float, bool]:
    """Return the largest |loss − pattern| at nodes and random points, and whether two inputs give equal outputs."""
    generator = torch.Generator().manual_seed(1)
    mesh = made.pattern.mesh
    chosen = torch.randperm(mesh.n_nodes, generator=generator)[: points // 2]
    h = torch.cat([mesh.nodes()[chosen], torch.rand(points - len(chosen), 2, dtype=torch.float64, generator=generator)])
    h = h.to(inputs.dtype)
    worst, same = 0.0, True
    for point in h:
        state = {**made.subspace.at(point), **dict(made.model.named_buffers())}
        outputs, others = (_heads(torch.func.functional_call(made.model, state, (x,))) for x in inputs.split(1))
        same = same and all(torch.equal(a, b) for a, b in zip(outputs, others, strict=True))
        target = float(made.target(point.double()[None])[0])
        for output, response in zip(outputs, made.responses, strict=True):
            worst = max(worst, abs(float(response.loss(output[:1].double())[0]) - target))
    return worst, same


def _heads(result: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(r.detach() for r in (result if isinstance(result, tuple) else (result,)))


def _saving(model: nn.Module) -> float:
    with TemporaryDirectory() as folder:
        begin = time.perf_counter()
        save_file(
            {k: v.detach().contiguous() for k, v in model.named_parameters()}, Path(folder) / "weights.safetensors"
        )
        return time.perf_counter() - begin


def _figures(points: int, size: int) -> Table:
    """Return what the pattern alone costs in ResNet-18: the direct form, whose signals are exact but for rounding."""
    inputs, labels = _data(size)
    rows = []
    for n, form, dtype in ((64, "strips", torch.float64), (36, "hats", torch.float32)):
        net = networks.resnet18().to(dtype)
        made = lf.imprint(_pattern(n), lf.Task(net, data=(inputs.to(dtype), labels)), form=form, direct=True)
        worst, top = _signal_error(made, inputs[:1].to(dtype), points)
        rows.append(
            {
                "n": n,
                "form": form,
                "dtype": str(dtype).removeprefix("torch."),
                "signal error": worst,
                "of the register": worst / top,
            }
            | {"rounding proved (loss)": made.certificate.rounding, "gap between nodes": made.certificate.curve}
        )
    return Table(
        "ResNet-18, the pattern alone (direct form)",
        rows,
        ["signal: the emitted logit against P1 of ρ⁻¹(T); of the register: as a fraction of the largest signal"],
    )


def _signal_error(made: lf.Imprint, inputs: Tensor, points: int) -> tuple[float, float]:
    """Return the largest error of the emitted signal, and the signal's largest value."""
    response, (lo, hi) = made.response, made.range
    signals = response.inverse((lo + (hi - lo) * made.pattern.values).reshape(-1))
    top = float(signals.max())
    wanted = lf.Pattern((signals / top).clamp(0, 1).reshape(made.pattern.values.shape))
    ray = int(response.ray.argmax())
    generator = torch.Generator().manual_seed(1)
    chosen = torch.randperm(made.pattern.mesh.n_nodes, generator=generator)[: points // 2]
    h = torch.cat(
        [made.pattern.mesh.nodes()[chosen], torch.rand(points // 2, 2, dtype=torch.float64, generator=generator)]
    )
    worst = 0.0
    for point in h.to(inputs.dtype):
        state = {**made.subspace.at(point), **dict(made.model.named_buffers())}
        output = torch.func.functional_call(made.model, state, (inputs,)).detach().double()[0, ray]
        signal = float(output - response.best[ray]) / float(response.ray[ray])
        worst = max(worst, abs(signal - top * float(wanted(point.double()[None])[0])))
    return worst, top
