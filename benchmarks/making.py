"""What the topics measure: pictures, and imprints of them on digits."""

import functools
import math
import time

import torch
from torch import Tensor

import landform as lf
from benchmarks.measure import default_dtype

DTYPES = {"float32": torch.float32, "float64": torch.float64}


@functools.cache
def digits() -> lf.Data:
    """Load the digits data set once."""
    return lf.load_data("digits")


def make(pattern: lf.Pattern, *, dtype: str = "float32", form: str = "auto", **options: object) -> lf.Imprint:
    """Compile a pattern into a network built to fit, on digits, without certificate."""
    with default_dtype(DTYPES[dtype]):
        return lf.imprint(pattern, digits(), form=form, certify=False, **options)


@functools.cache
def photograph(n: int) -> lf.Pattern:
    """Return the bundled photograph at n × n cells."""
    return lf.Pattern.parse("demo", resolution=n)


def picture(kind: str, n: int, z: int = 2) -> lf.Pattern:
    """Return a random, disc or smooth picture: white noise, a sharp edge, one period of sines."""
    if kind == "random":
        shape = (n + 1,) * z
        values = torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(n))
        return lf.Pattern.from_array(values, normalise=False, name="random")
    functions = {"disc": _disc, "smooth": _smooth}
    return lf.Pattern.from_callable(functions[kind], resolution=n, z=z, normalise=False, name=kind)


def _disc(h: Tensor) -> Tensor:
    return ((h - 0.5).square().sum(dim=1) < 0.09).double()


def _smooth(h: Tensor) -> Tensor:
    return 0.5 + 0.5 * torch.sin(2 * math.pi * h + 0.3).prod(dim=1)


@functools.cache
def certified(kind: str, n: int, form: str, dtype: str, z: int = 2) -> dict[str, float]:
    """Compile and certify one case; return seconds, sizes and parts of the bound (not the network, which is large)."""
    pattern = photograph(n) if kind == "photograph" else picture(kind, n, z)
    begin = time.perf_counter()
    imprint = make(pattern, dtype=dtype, form=form)
    seconds = time.perf_counter() - begin
    certificate = lf.certify(imprint)
    return {
        "compile s": seconds,
        "certificate s": certificate.seconds,
        "non-zeros": int(imprint.meta["nonzeros"]),
        "parameters": imprint.parameters,
        "bound": certificate.relative_bound,
        "form": imprint.meta["form"],
    }
