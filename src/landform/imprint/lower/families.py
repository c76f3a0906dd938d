"""The families of layers, in the order in which they are asked. A new family is a file with `read`, and a line here."""

from landform.imprint.lower import activation, affine, batchnorm, groupnorm, merge, passing, pooling, probabilities
from landform.imprint.lower.graph import Call, Op

FAMILIES = (affine, batchnorm, groupnorm, activation, pooling, merge, passing, probabilities)
_OWN_MEAN = (
    "it takes from every channel its own mean, and what an imprint carries is just that; use BatchNorm, GroupNorm, or"
    " track_running_stats=True"
)
INSTEAD = {
    "InstanceNorm1d": _OWN_MEAN,
    "InstanceNorm2d": _OWN_MEAN,
    "InstanceNorm3d": _OWN_MEAN,
    "LSTM": "its gates saturate, and what it keeps has passed a tanh; use layers without recurrence",
    "GRU": "its gates saturate, and what it keeps has passed a tanh; use layers without recurrence",
}
"""What would work instead of modules that are often met and not covered."""
COVERED = "; ".join(family.COVERS for family in FAMILIES)


def read_call(call: Call) -> Op | None:
    """Return the operation that a call is, None if no family covers it."""
    for family in FAMILIES:
        op: Op | None = family.read(call)
        if op is not None:
            return op
    return None
