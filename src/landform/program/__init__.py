"""Programs: a pattern compiled to sparse affine + ReLU layers, before it meets an architecture."""

from landform.program.compile import compile_pattern
from landform.program.program import Layer, Program

__all__ = ["Layer", "Program", "compile_pattern"]
