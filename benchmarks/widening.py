"""Widening: how far the outputs move, what rounding would allow, what is kept, and what it costs.

Fresh networks in CIFAR shapes and transformers from configurations; pretrained ones where their packages are installed.
"""

import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

import landform as lf
from benchmarks import streams
from benchmarks.report import Table
from landform.imprint.widening.promise import outputs
from landform.testing import networks, pretrained
from landform.testing import transformers as small

Made = tuple[nn.Module | None, Tensor]


def _images(size: int = 32) -> Tensor:
    return torch.randn(4, 3, size, size, generator=torch.Generator().manual_seed(0))


def _of(make: Callable[[], Any]) -> Callable[[], Made]:
    def made() -> Made:
        found = make()
        return (None, torch.zeros(0)) if found is None else (found[0], found[1][0][:4])

    return made


NETS: dict[str, tuple[Callable[[], Made], dict[str, int]]] = {
    "VGG-11, BatchNorm": (lambda: (networks.vgg11(), _images()), {"extra": 16}),
    "ResNet-18": (lambda: (networks.resnet18(), _images()), {"extra": 16}),
    "ResNet-20": (lambda: (networks.resnet20(), _images()), {"extra": 16}),
    "ResNet-20, padded shortcuts": (lambda: (networks.resnet20(maps=False), _images()), {"extra": 16}),
    "inverted bottlenecks, 4 of 32": (lambda: (networks.mobile(), _images()), {"extra": 16}),
    "squeeze-and-excitation, 4 of 32": (lambda: (networks.squeezed(), _images()), {"extra": 16}),
    "DenseNet-like, growth 24": (lambda: (networks.densenet(), _images()), {"extra": 16}),
    "EfficientNet-Lite0 (pretrained)": (lambda: (pretrained.efficientnet_lite0(), _images(224)), {"extra": 16}),
    "O-Net (pretrained)": (lambda: (pretrained.onet(), _images(48)), {"extra": 16}),
    "GPT-2, 6 × 256, tied": (_of(streams.gpt2), {"extra": 64}),
    "GPT-2, 6 × 256, tied, stream twice": (_of(streams.gpt2), {"repeat": 2}),
    "Llama, 6 × 256, more heads": (_of(streams.llama), {"heads": 2}),
    "Llama, 6 × 256, stream twice": (_of(streams.llama), {"repeat": 2}),
    "ViT, 6 × 192, stream twice": (_of(streams.vit), {"repeat": 2}),
    "ConvNeXt, 48 … 384": (_of(streams.convnext), {"extra": 64}),
    "RXNFP (pretrained)": (_of(streams.rxnfp), {"extra": 64}),
    "RXNFP (pretrained), stream twice": (_of(streams.rxnfp), {"repeat": 2}),
    "MiniLM (pretrained), stream twice": (_of(streams.minilm), {"repeat": 2}),
    "small encoder": (_of(small.encoder), {"extra": 8}),
}
CASES: dict[str, dict[str, Any]] = {
    "full": {"names": tuple(NETS)[:-1]},
    "quick": {"names": ("ResNet-20", "DenseNet-like, growth 24", "GPT-2, 6 × 256, tied, stream twice")},
    "tiny": {"names": ("small encoder",)},
}


def run(names: Sequence[str]) -> list[Table]:
    """Widen each network, and compare it with the given one."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    rows: list[dict[str, object]] = []
    missing = []
    with torch.random.fork_rng(devices=[]):
        for name in names:
            torch.manual_seed(0)
            make, wish = NETS[name]
            net, inputs = make()
            if net is None:
                missing.append(name)
            else:
                rows.append(_row(name, net.eval(), inputs, wish))
    notes = [
        "float32; added: channels a layer, hidden units a perceptron, heads a block, or copies of the stream",
        "moved: largest |difference| of an output, 4 inputs; allowed: what reordered sums explain, to first order",
        "seconds hold both networks' runs and the bound",
    ]
    if missing:
        notes.append(f"not measured, since the packages are not installed: {', '.join(missing)}")
    return [Table("Widening without changing the function", rows, notes)]


def _row(name: str, net: nn.Module, inputs: Tensor, wish: dict[str, int]) -> dict[str, object]:
    begin = time.perf_counter()
    wide = lf.widen(net, inputs=inputs, **wish)
    seconds = time.perf_counter() - begin
    with torch.no_grad():
        before, after = outputs(net, inputs), outputs(wide.model, inputs)
    return {
        "network": name,
        "added": ", ".join(f"{key} {value}" for key, value in wish.items()),
        "parameters": sum(p.numel() for p in net.parameters()),
        "after": sum(p.numel() for p in wide.model.parameters()),
        "largest output": float(before.abs().max()),
        "moved": wide.difference,
        "allowed": wide.bound,
        "same argmax": bool((before.argmax(1) == after.argmax(1)).all()),
        "seconds": seconds,
    }
