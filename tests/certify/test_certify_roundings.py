"""Bounds for transformers hold for any rounding: each operation off by a unit of its own, sums in any order."""

import copy

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import landform as lf
from landform.certify.stream_norm import root_rounding
from landform.imprint.lower.stream import Norm
from landform.imprint.stream import outputs_at
from landform.pattern import Pattern
from landform.subspace import Subspace
from landform.testing.transformers import NETWORKS

aten = torch.ops.aten
UNIT = 2.0**-24
ROUNDED = {
    *(aten.add.Tensor, aten.add.Scalar, aten.sub.Tensor, aten.mul.Tensor, aten.mul.Scalar, aten.div.Tensor),
    *(aten.div.Scalar, aten.pow.Tensor_Scalar, aten.mean.dim, aten.rsqrt.default, aten.gelu.default),
    *(aten.silu.default, aten.tanh.default, aten.sqrt.default),
}


class AnyRounding(TorchDispatchMode):
    """Runs a network in float64, each operation off by up to 2⁻²⁴ of its result, as float32 in bad luck.

    Sums of products are added up one after the other, in an order of their own; products with powers of two and
    additions of zero are exact, as they are in floats.
    """

    def __init__(self, seed, bias):
        super().__init__()
        self.generator, self.bias, self.rounded = torch.Generator().manual_seed(seed), bias, 0

    def off(self, x):
        self.rounded += 1
        sign = torch.rand(x.shape, generator=self.generator, dtype=torch.float64) * 2 - 1 + self.bias
        return x * (1 + UNIT * sign.sign())

    def dot(self, a, b):  # [n, k] · [k, m]
        exact = torch.frexp(b)[0].abs() == 0.5
        total = torch.zeros(a.shape[0], b.shape[1], dtype=torch.float64)
        used = ((b != 0).any(1) & (a != 0).any(0)).nonzero().reshape(-1)
        for k in used[torch.randperm(len(used), generator=self.generator)].tolist():
            term = a[:, k : k + 1] * b[k]
            term = torch.where(exact[k], term, self.off(term))
            total = torch.where((term != 0) & (total != 0), self.off(total + term), total + term)
        return total

    def variance(self, x):
        total = torch.zeros(x.shape[:-1], dtype=torch.float64)
        for k in torch.randperm(x.shape[-1], generator=self.generator).tolist():
            total = self.off(total + self.off(x[..., k] ** 2))
        return self.off(total / x.shape[-1])[..., None]

    def mean(self, x):
        total = torch.zeros(x.shape[:-1], dtype=torch.float64)
        used = x.reshape(-1, x.shape[-1]).any(0).nonzero().reshape(-1)
        for k in used[torch.randperm(len(used), generator=self.generator)].tolist():
            total = self.off(total + x[..., k])
        return self.off(total / x.shape[-1])[..., None]

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is aten._to_copy.default and kwargs.get("dtype") is torch.float32 and args[0].is_floating_point():
            return args[0].clone()
        if func is aten.mm.default:
            return self.dot(*args)
        if func is aten.addmm.default:
            out = self.dot(args[1], args[2])
            return torch.where((out != 0) & (args[0] != 0), self.off(out + args[0]), out + args[0])
        if func is aten.native_layer_norm.default:
            x, _, gain, bias, eps = args
            mean = self.mean(x)
            scale = self.off(self.off(self.off(self.variance(self.off(x - mean)) + eps).sqrt()).reciprocal())
            out = self.off(self.off(self.off(x * scale) + self.off(-mean * scale)) * gain)
            if bias is not None:
                out = torch.where((out != 0) & (bias != 0), self.off(out + bias), out + bias)
            return out, mean, scale
        out = func(*args, **kwargs)
        if func in ROUNDED and out.dtype == torch.float64:
            exact = representable(func, args, out)
            shifted = func in (aten.add.Tensor, aten.sub.Tensor) and isinstance(args[1], torch.Tensor)
            exact = exact | (args[0] == 0) | (args[1] == 0) if shifted else exact
            return torch.where(exact, out, self.off(out))
        return out


def representable(func, args, out):
    """Say where floats round nothing: a(t) = t or 0 far out, tanh = ±1, 1 + 1, and products with powers of two."""
    if func in (aten.gelu.default, aten.silu.default):
        return args[0].abs() > 750
    if func is aten.mul.Tensor or func is aten.mul.Scalar:
        parts = (torch.as_tensor(part, dtype=torch.float64) for part in args[:2])
        return sum(torch.frexp(part)[0].abs() == 0.5 for part in parts) > 0
    return out.abs() == (2 if func in (aten.add.Tensor, aten.add.Scalar) else 1)


def rough(n):
    values = torch.rand(n + 1, n + 1, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    return Pattern(values, name="rough")


@pytest.mark.parametrize("name", ["gpt2", "llama", "encoder, relu", "bert, masked"])
def test_the_bound_holds_however_the_network_rounds(name):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, (x, y) = NETWORKS[name]()
        made = lf.imprint(rough(6), lf.Task(model, data=(x, y)), epsilon=2e-5)
    spec = made.meta["sample"]
    network = copy.deepcopy(made.model).double()
    space = Subspace(
        {key: value.detach() for key, value in network.named_parameters()},
        tuple({key: value.double() for key, value in d.items()} for d in made.subspace.directions),
    )
    kind = torch.long if spec["dtype"] == "int64" else torch.float64
    sample = torch.zeros([1, *spec["shape"]], dtype=kind)
    if spec["dtype"] == "int64":
        sample = sample[:, :1]  # one token will do
    points = torch.tensor([[1.0, 1.0], [0.83, 0.0]]).double()
    proof, worst = made.certificate, 0.0

    def loss(point):
        out = outputs_at(network, space, point, sample, 1)
        return made.response.loss(out.reshape(-1, out.shape[-1]))

    for number, point in enumerate(points):
        with torch.no_grad():
            exact = loss(point)
            for bias in (0.0, 2.0, -2.0):  # at random; all upwards; all downwards
                with AnyRounding(number, bias) as rounding:
                    found = loss(point)
                assert rounding.rounded > 100
                assert float((found - made.target(point[None])).abs().max()) <= proof.bound
                worst = max(worst, float((found - exact).abs().max()))
    # both runs lie within the radius around what the program says; under ReLU all of it is rounding
    assert 1e-7 < worst <= 2 * (proof.register + proof.rounding)


@pytest.mark.parametrize("kind", ["rms", "layer"])
def test_what_a_norm_rounds_in_common_is_bounded_whatever_the_order_of_its_sum(kind):
    norm = Norm("norm", kind, 1e-6, "gain", None, 0.0, single=False)
    generator = np.random.default_rng(0)
    d, worst = 128, 0.0
    for _ in range(40):
        x = (60 * generator.random(d)).astype(np.float32)
        x[:3] = 2.0**20, *((-(2.0**20), 0.0) if kind == "layer" else (2.0**16, 2.0**16))
        x = generator.permutation(x)
        if kind == "layer":
            x -= np.float32(x.mean(dtype=np.float64))
        total = np.float32(0.0)
        for term in x * x:
            total += term
        scale = np.float32(1) / np.sqrt(total / np.float32(d) + np.float32(1e-6))
        exact = 1 / np.sqrt((x.astype(float) ** 2).mean() + 1e-6)
        allowed = root_rounding(norm, np.abs(x).astype(float), float((x.astype(float) ** 2).sum()), UNIT)
        worst = max(worst, abs(float(scale) / exact - 1))
        assert worst <= allowed
    assert worst > 0
    assert allowed < (16 if kind == "rms" else 91) * UNIT  # far below the 144 roundings of a sum of any numbers
