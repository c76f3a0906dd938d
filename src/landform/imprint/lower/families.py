"""The families of layers, in the order in which they are asked. A new family is a file with `read`, and a line here."""

from landform.imprint.lower import activation, affine, batchnorm, merge, passing, pooling
from landform.imprint.lower.graph import Call, Op

FAMILIES = (affine, batchnorm, activation, pooling, merge, passing)
INSTEAD = {
    "Softmax": "take it off (model.NAME = nn.Identity()) and let the loss contain it, as cross_entropy does",
    "LogSoftmax": "take it off (model.NAME = nn.Identity()) and use cross_entropy, which contains it",
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
