"""The annotated shapes and dtypes hold while the package does its work (jaxtyping + beartype, in tests only)."""

import subprocess
import sys

SCRIPT = """
from jaxtyping import install_import_hook
with install_import_hook("landform", "beartype.beartype"):
    import landform as lf
    from landform.program import compile_pattern
import torch
generator = torch.Generator().manual_seed(0)
for shape in [(6,), (5, 4), (3, 3, 3), (2, 2, 2, 3)]:
    pattern = lf.Pattern(torch.rand(shape, dtype=torch.float64, generator=generator))
    made = lf.imprint(pattern, "digits")
    assert made.certificate.holds, made.certificate
    lf.scan(made, grid=3, check=1)
made = lf.imprint(lf.SumPattern.from_formula("sphere", z=5), "digits")
assert made.certificate.holds
lf.imprint("formula:ripples", "digits", form="strips", axis_aligned=False)
lf.imprint(lf.Pattern.from_formula("ripples", resolution=8), "digits", schedule="recompute", form="hats", tolerance=0.1)
lf.imprint(lf.Pattern.from_formula("ripples", resolution=8), "digits", direct=True)
net = torch.nn.Sequential(torch.nn.Linear(64, 8), torch.nn.ReLU(), torch.nn.Linear(8, 10))
plane = lf.random_plane(net, seed=0)
lf.between(net, plane.at(torch.tensor([1.0, 0.0])))
lf.scan(lf.Task(net, data="digits"), plane, grid=3, ranges=[(-1, 1), (-1, 1)])
print("checked", type(lf.Mesh.interpolate).__name__)
"""


def test_annotations_hold_on_the_main_path():
    done = subprocess.run([sys.executable, "-W", "error", "-c", SCRIPT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "checked" in done.stdout


def test_the_check_can_fail():
    script = """
from jaxtyping import install_import_hook
with install_import_hook("landform", "beartype.beartype"):
    from landform.mesh import Mesh
import torch
Mesh((2, 2)).locate(torch.rand(3, 2))  # float32 where float64 is annotated
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "locate" in done.stderr
