"""Growth with resolution and dimension: time, non-zeros, parameters, with fitted exponents."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.making import certified
from benchmarks.report import Table

FAMILIES = {  # dimension, form, dtype
    "z = 1 hats": (1, "hats", "float32"),
    "z = 1 hinges": (1, "hinges", "float64"),
    "z = 2 hats": (2, "hats", "float32"),
    "z = 2 strips": (2, "strips", "float64"),
    "z = 3 hats": (3, "hats", "float32"),
    "z = 4 hats": (4, "hats", "float32"),
}
CASES: dict[str, dict[str, Any]] = {
    "full": {
        "sizes": {
            "z = 1 hats": (16, 64, 256, 1024, 4096),
            "z = 1 hinges": (16, 64, 256, 1024, 4096),
            "z = 2 hats": (16, 32, 64, 128, 256),
            "z = 2 strips": (16, 32, 64, 128, 256),
            "z = 3 hats": (4, 8, 12, 16),
            "z = 4 hats": (2, 3, 4, 6),
        }
    },
    "quick": {
        "sizes": {
            "z = 1 hinges": (16, 64, 256),
            "z = 2 hats": (8, 16, 32),
            "z = 2 strips": (8, 16, 32),
            "z = 3 hats": (2, 4, 6),
            "z = 4 hats": (2, 3),
        }
    },
    "tiny": {"sizes": {"z = 1 hinges": (4, 8, 16), "z = 2 strips": (2, 4, 8)}},
}
COLUMNS = ("compile s", "non-zeros", "parameters", "certificate s")


def run(sizes: dict[str, Sequence[int]]) -> list[Table]:
    """Compile and certify every size; fit cost ≈ n^exponent for each family."""
    rows: list[dict[str, Any]] = []
    fits: list[dict[str, Any]] = []
    certified("smooth", 4, "auto", "float32")  # warm up
    for family, resolutions in sizes.items():
        z, form, dtype = FAMILIES[family]
        kind = "photograph" if z == 2 else "random"
        found = [certified(kind, n, form, dtype, z) for n in resolutions]
        cells = [{"family": family, "dtype": dtype, "n": n} for n in resolutions]
        rows += [
            cell | {column: case[column] for column in (*COLUMNS, "bound")}
            for cell, case in zip(cells, found, strict=True)
        ]
        fit: dict[str, Any] = {"family": family, "n": f"{resolutions[0]} … {resolutions[-1]}"}
        for column in COLUMNS:
            exponent, r2 = fitted(resolutions, [case[column] for case in found])
            fit[column] = f"{exponent:.2f} (r² {r2:.3f})"
        fits.append(fit)
    notes = [
        (
            "Networks built to fit on digits, response curve included; the photograph for z = 2, random nodal values"
            " else. One run each (times of a few ms are mostly fixed cost); bound as a fraction of the range."
        ),
    ]
    power = ["Least squares of log cost on log n, all sizes of the family. Fixed costs at small n lower an exponent."]
    return [Table("Growth", rows, notes), Table("Fitted exponents: cost ≈ n^exponent", fits, power)]


def fitted(sizes: Sequence[float], costs: Sequence[float]) -> tuple[float, float]:
    """Fit cost = c·n^exponent by least squares in logarithms; return the exponent and r².

    Example:
        >>> fitted([2, 4, 8], [12, 48, 192])
        (2.0, 1.0)
    """
    x, y = np.log(np.asarray(sizes, dtype=float)), np.log(np.maximum(np.asarray(costs, dtype=float), 1e-9))
    slope, start = np.polyfit(x, y, 1)
    left, total = float(((y - slope * x - start) ** 2).sum()), float(((y - y.mean()) ** 2).sum())
    return round(float(slope), 12), round(1 - left / total, 12) if total else 1.0
