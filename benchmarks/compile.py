"""Compile and place, as a multiple of writing the same tensors to disk; where the time goes; peak memory."""

import itertools
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from benchmarks.making import make, photograph
from benchmarks.measure import Spread, alternate, in_fresh_process, ratios, stages
from benchmarks.report import Table
from landform.imprint import constant

CASES: dict[str, dict[str, Any]] = {
    "full": {"sizes": (64, 256), "repeats": 5},
    "quick": {"sizes": (64,), "repeats": 3, "dtypes": ("float32",)},
    "tiny": {"sizes": (4,), "repeats": 1, "forms": ("strips",), "dtypes": ("float32",), "memory": False},
}
STAGES = {
    "_responses": "response and spline",
    "_range": "response and spline",
    "fit_spline": "response and spline",
    "compile_pattern": "program",
    "build_network": "network",
    "trace": "network",
    "write": "write into tensors",
    "_rewritten": "deepcopy",
}
MEMORY = """
from benchmarks.making import make, photograph
from benchmarks.measure import peak_memory
make(photograph(8), dtype={dtype!r}, form={form!r})
pattern = photograph({n})
print(peak_memory(lambda: make(pattern, dtype={dtype!r}, form={form!r})))
"""


def run(
    sizes: Sequence[int],
    repeats: int,
    forms: Sequence[str] = ("hats", "strips"),
    dtypes: Sequence[str] = ("float32", "float64"),
    memory: bool = True,
) -> list[Table]:
    """Measure every case; returns the multiples and the split into stages."""
    make(photograph(8))
    multiples, splits = [], []
    for n, form, dtype in itertools.product(sizes, forms, dtypes):
        case = {"n": n, "form": form, "dtype": dtype}
        multiple, weights = _multiple(n, form, dtype, repeats)
        if memory:
            peak = in_fresh_process(MEMORY.format(n=n, form=form, dtype=dtype))
            multiple |= {"peak MB": peak / 1e6, "× weights": peak / weights}
        multiples.append(case | multiple)
        splits.append(case | _split(n, form, dtype, repeats))
    return [
        Table(
            "Compile and place, as a multiple of writing the tensors",
            multiples,
            [
                (
                    "compile = `lf.imprint(…, certify=False)` on digits with a network built to fit: response, spline,"
                    " program, a dense network and its weights. Imports, data and picture are loaded before."
                ),
                (
                    "write = `safetensors.torch.save_file` of the same tensors into a new file in the current folder,"
                    " without fsync. Median (min–max) of alternating repeats; the multiple is of paired repeats."
                ),
                (
                    "peak = growth of the resident set from just before the compilation to its peak (VmHWM, reset"
                    " before), in a fresh process that has already imported everything, loaded data and picture and"
                    " compiled an 8×8 picture. The network itself is one of the multiples of its weights. For a network"
                    " of less than some MB the peak is the fixed cost of compiling, not of the weights."
                ),
            ],
        ),
        Table(
            "Where compilation spends its time (seconds, medians)",
            splits,
            ["Time in the functions of `landform.imprint.constant`, those that they call in turn counted once."],
        ),
    ]


def _multiple(n: int, form: str, dtype: str, repeats: int) -> tuple[dict[str, object], int]:
    tensors = {k: v.contiguous() for k, v in make(photograph(n), dtype=dtype, form=form).model.state_dict().items()}
    weights = sum(t.nbytes for t in tensors.values())
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".benchmark-") as folder:
        names = (Path(folder) / f"{number}.safetensors" for number in itertools.count())
        previous: list[Path] = []

        def write() -> None:
            previous.append(next(names))
            save_file(tensors, previous[-1])

        def compile_and_place() -> None:
            for path in previous[:]:  # between two timed writes, so that neither pays for it
                path.unlink()
            previous.clear()
            begin = time.perf_counter()
            make(photograph(n), dtype=dtype, form=form)
            compiling.append(time.perf_counter() - begin)

        compiling: list[float] = []
        writing = alternate({"compile": compile_and_place, "write": write}, repeats)["write"]
    multiple = ratios(compiling[1:], writing)
    row = {"weights MB": weights / 1e6, "compile s": Spread.of(compiling[1:]), "write s": Spread.of(writing)}
    return {k: str(v) if isinstance(v, Spread) else v for k, v in (row | {"multiple": multiple}).items()}, weights


def _split(n: int, form: str, dtype: str, repeats: int) -> dict[str, float]:
    found: dict[str, list[float]] = defaultdict(list)
    for _ in range(repeats):
        with stages(constant, STAGES) as spent:
            begin = time.perf_counter()
            make(photograph(n), dtype=dtype, form=form)
            total = time.perf_counter() - begin
        for label in dict.fromkeys(STAGES.values()):
            found[label].append(spent[label])
        found["other"].append(total - sum(spent.values()))
        found["total"].append(total)
    return {label: Spread.of(values).median for label, values in found.items()}
