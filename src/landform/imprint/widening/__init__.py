"""Parts of `landform.widen`: which channels belong together, new tensors, and what rounding may do to the outputs."""
