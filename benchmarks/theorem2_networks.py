"""Theorem 2 in networks that branch: a ResNet-20 trained here, and pretrained ones (MTCNN's O-Net, EfficientNet-Lite0).

A network whose package is missing is left out (`landform.testing.pretrained`), and so is the ResNet-20 trained on
CIFAR-10, unless ``CIFAR`` names the folder where ``examples/trained_resnet.py`` was run: with ``package``, the images,
and ``resnet20.safetensors``.
"""

import copy
import functools
import os
import runpy
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_model
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

import landform as lf
from benchmarks.report import Table
from landform.testing import pretrained
from landform.testing.networks import ResNet

CASES: dict[str, dict[str, Any]] = {
    "tiny": {"networks": ("resnet",), "epochs": 5, "samples": 200, "cells": 2, "points": 1, "forms": 1},
    "quick": {"networks": ("resnet", "faces"), "epochs": 5, "samples": 200, "cells": 4, "points": 2},
    "full": {
        "networks": ("resnet", "cifar", "faces", "photographs"),
        "epochs": 8,
        "samples": 1200,
        "cells": 8,
        "points": 3,
    },
}
LABELS = {"chelsea": 281, "coffee": 967, "camera": 872, "rocket": 657, "china": 698, "flower": 985}
"""Photographs of scikit-image and scikit-learn, and what ImageNet calls them: tabby, espresso, tripod, missile (the
nearest to a rocket), palace, daisy."""

FORMS = (("offset", "widen"), ("offset", "reserve"), ("per-sample", "widen"))


@dataclass(frozen=True)
class Case:
    """A trained network, what it was trained on (or is shown), and other data."""

    name: str
    task: lf.Task
    test: tuple[Tensor, Tensor] | None


def resnet(epochs: int, samples: int, dtype: torch.dtype) -> Case:
    """Train a ResNet-20 (16, 32, 64 channels) on digits scaled to 16 × 16; the others are the test set."""
    model, x, y = _trained(epochs, samples)
    shown = min(samples, 400)
    task = lf.Task(copy.deepcopy(model).to(dtype), data=(x[:shown].to(dtype), y[:shown]))
    return Case("ResNet-20, digits", task, (x[samples : samples + 400].to(dtype), y[samples : samples + 400]))


@functools.cache
def _trained(epochs: int, samples: int) -> tuple[nn.Module, Tensor, Tensor]:
    """Return the network, in float32, and all digits."""
    digits = lf.load_data("digits", split="all")
    images = digits.inputs.reshape(-1, 1, 8, 8).float()
    x = functional.interpolate(images, size=16, mode="bilinear").repeat(1, 3, 1, 1)
    y = digits.targets
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = ResNet(16, ((16, 1), (32, 2), (64, 2)), 3).train()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 0.3  # few steps
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
        for _ in range(epochs):
            for part in torch.split(torch.randperm(samples), min(100, samples // 4)):
                optimizer.zero_grad()
                functional.cross_entropy(model(x[part]), y[part]).backward()
                optimizer.step()
    return model.eval(), x, y


def cifar(dtype: torch.dtype) -> Case | None:
    """Return the ResNet-20 of ``examples/trained_resnet.py`` on 300 training images; the others are test images."""
    folder = Path(os.environ.get("CIFAR", ""))
    if not (folder / "resnet20.safetensors").is_file():
        return None
    example = runpy.run_path(str(Path(__file__).parents[1] / "examples" / "trained_resnet.py"), run_name="example")
    model = example["network"](3).eval()
    load_model(model, folder / "resnet20.safetensors")
    (x, y), other = (example["cifar"](folder / "package", split) for split in ("train", "test"))
    task = lf.Task(model.to(dtype), data=(x[:300].to(dtype), y[:300]))
    return Case("ResNet-20, CIFAR-10", task, (other[0][:1000].to(dtype), other[1][:1000]))


def faces(dtype: torch.dtype) -> Case | None:
    """Return MTCNN's O-Net on the 200 faces and non-faces of scikit-image."""
    net = pretrained.face_score()
    if net is None:
        return None
    from skimage.data import lfw_subset

    images = torch.from_numpy(np.asarray(lfw_subset())).to(dtype)[:, None]
    x = 2 * functional.interpolate(images, size=48, mode="bilinear").repeat(1, 3, 1, 1) - 1
    y = (torch.arange(200) < 100).long()
    shown, other = torch.arange(0, 200, 2), torch.arange(1, 200, 2)
    return Case("O-Net, faces", lf.Task(net.to(dtype), data=(x[shown], y[shown])), (x[other], y[other]))


def photographs(dtype: torch.dtype) -> Case | None:
    """Return EfficientNet-Lite0 on six photographs."""
    net = pretrained.efficientnet_lite0()
    if net is None:
        return None
    import skimage.data
    from sklearn.datasets import load_sample_images

    found = dict(zip(("china", "flower"), load_sample_images().images, strict=True))
    parts = []
    for name in LABELS:
        image = np.asarray(found[name] if name in found else getattr(skimage.data, name)()).astype(np.float32)
        image = np.repeat(image[:, :, None], 3, 2) if image.ndim == 2 else image[:, :, :3]
        side = min(image.shape[:2])
        top, left = ((n - side) // 2 for n in image.shape[:2])
        pixels = torch.from_numpy(image[top : top + side, left : left + side].copy()).permute(2, 0, 1)[None]
        parts.append(functional.interpolate(pixels, size=224, mode="bilinear", antialias=True))
    x = (torch.cat(parts) - 127) / 128
    return Case(
        "EfficientNet-Lite0, photographs",
        lf.Task(net.to(dtype), data=(x.to(dtype), torch.tensor([*LABELS.values()]))),
        None,
    )


def row(case: Case, method: str, units: str, dtype: str, pattern: lf.Pattern, points: int) -> dict[str, Any]:
    """Compile, prove and measure once."""
    model, data = case.task.model, case.task.data
    assert isinstance(model, nn.Module)
    begin = time.perf_counter()
    made = lf.imprint(pattern, case.task, method=method, units=units)
    seconds = time.perf_counter() - begin
    proof = made.certificate
    assert proof is not None
    h = torch.rand(points, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    own = lf.account(made, points=h)
    best = pattern.mesh.nodes()[int(pattern.values.reshape(-1).argmin())]
    with torch.no_grad():
        before = model(data.inputs)
        after = functional_call(made.model, made.subspace.at(best), (data.inputs,))
    out = {
        "network": case.name,
        "dtype": dtype,
        "method": method,
        "units": units,
        "loss given": float(case.task.evaluate()),
        "loss at h*": float(made.task.evaluate(made.subspace.at(best))),  # type: ignore[union-attr]
        "predictions kept": float((before.argmax(1) == after.argmax(1)).double().mean()),
        "certified": proof.relative_bound if proof.holds else proof.failures[0],
        "mean loss off by": float(own.difference.max()) / (made.range[1] - made.range[0]),
        "mean ε": float(own.mean.max()) / (made.range[1] - made.range[0]),
        "served": own.served if method == "per-sample" else "",
    }
    if case.test is not None:
        other = lf.account(made, case.test, points=h)
        surface = lf.scan(made, grid=3, data=case.test)
        out["served (test)"] = other.served if method == "per-sample" else ""
        out["test surface − predicted"] = float(abs(surface.difference).max())
    taken = [len(part) for part in made.meta["channels"]]
    out["channels"] = f"{sum(taken)} (at most {max(taken)})"
    out["parameters ×"] = made.parameters / sum(p.numel() for p in model.parameters())
    out["seconds"] = seconds
    return out


def run(
    networks: tuple[str, ...],
    epochs: int,
    samples: int,
    cells: int,
    points: int,
    forms: int = 3,
) -> list[Table]:
    """Run every network in the first of `FORMS`; float64 too where there is more than one."""
    makers: dict[str, Callable[[torch.dtype], Case | None]] = {
        "resnet": lambda dtype: resnet(epochs, samples, dtype),
        "cifar": cifar,
        "faces": faces,
        "photographs": photographs,
    }
    pattern = lf.Pattern.from_formula("sphere", resolution=cells)
    rows = []
    for name in networks:
        for dtype in ("float32", "float64")[:forms]:
            case = makers[name](getattr(torch, dtype))
            if case is None or (name in ("cifar", "photographs") and dtype == "float64"):
                continue
            for method, units in FORMS[:forms]:
                rows.append(row(case, method, units, dtype, pattern, points))
                print(f"{case.name}, {dtype}, {method}, {units}: {rows[-1]['seconds']:.0f} s", flush=True)
    notes = (
        (
            f"sphere, {cells} cells an axis, at {points} random points; certified, mean loss off by and mean ε (of the"
            " samples' errors, which bounds the former) are fractions of the range"
        ),
        "offset keeps predictions and loss (reserve: those of the network after reserving); per-sample replaces losses",
        "test surface − predicted: other data's loss on a 3 × 3 grid against its prediction, in nat",
    )
    return [Table("Theorem 2: networks that branch, and pretrained ones", rows, notes)]
