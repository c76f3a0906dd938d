"""landform: make and measure the loss surfaces of neural networks."""

from landform.certify import Certificate, certify
from landform.imprint import Imprint, imprint
from landform.mesh import Mesh
from landform.pattern import Pattern, SumPattern
from landform.subspace import Subspace
from landform.task import Task

__all__ = ["Certificate", "Imprint", "Mesh", "Pattern", "Subspace", "SumPattern", "Task", "certify", "imprint"]
