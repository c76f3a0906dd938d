"""What is proved about pattern versus loss, and how it reads."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Kind = Literal["certified", "statistical", "measured"]


@dataclass(frozen=True)
class Certificate:
    """A bound on |loss(h) − target(h)| over the whole continuous box.

    Attributes:
        bound: sup over h of |L(h) − T(h)|, in loss units; the sum of the three parts below.
        relative_bound: ``bound`` as a fraction of the range hi − lo.
        kind: ``"certified"`` (proved), ``"statistical"`` or ``"measured"`` (a largest observed difference, no proof).
        holds: Whether the bound is finite and no larger than ``promised``.
        register: Part from the pattern register: nodal values as stored, and sign changes inside cells.
        curve: One-dimensional part, sup_t |ρ(ψ(t)) − t| as stored; in the direct form, the largest chord gap.
        rounding: Part from floating-point rounding, valid for any order of summation.
        promised: The bound that was promised when the imprint was made (the same as ``bound`` then).
        resampling: sup |pattern − original picture|, in units of the pattern (0 … 1), or None if there is no original.
        resampling_kind: How that was obtained.
        range: (lo, hi) in loss units.
        unit: Unit of the loss.
        domain: Where the bound holds.
        dtype: Arithmetic of the network.
        data_hash: Which data the label statistics come from.
        assumptions: What is taken for granted.
        failures: Why a proof was not possible, empty if it was.
        heads: The bound of each head.
        seconds: Time the proof took.
    """

    bound: float
    relative_bound: float
    kind: Kind
    holds: bool
    register: float
    curve: float
    rounding: float
    promised: float
    resampling: float | None
    resampling_kind: str | None
    range: tuple[float, float]
    unit: str
    domain: str
    dtype: str
    data_hash: str
    assumptions: tuple[str, ...] = ()
    failures: tuple[str, ...] = ()
    heads: Mapping[str, float] = field(default_factory=dict)
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Return the certificate in JSON types."""
        return asdict(self) | {"heads": dict(self.heads), "range": list(self.range)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Certificate":
        """Build a certificate from `to_json`'s output."""
        known = {name: data[name] for name in cls.__dataclass_fields__ if name in data}
        known["range"] = (float(data["range"][0]), float(data["range"][1]))
        for name in ("assumptions", "failures"):
            known[name] = tuple(data.get(name, ()))
        return cls(**known)

    def __str__(self) -> str:
        """Say what is proved in a few lines."""
        if self.failures:
            return "not certified: " + "; ".join(self.failures)
        word = "at most" if self.kind == "certified" else "observed up to"
        lines = [
            (
                f"|loss − pattern| is {word} {self.bound:.3g} {self.unit} ({self.relative_bound:.2e} of the range)"
                f" over {self.domain} [{self.kind}, {self.dtype}]"
            ),
            f"  pattern register {self.register:.2e} + response curve {self.curve:.2e} + rounding {self.rounding:.2e}",
        ]
        if self.resampling is not None:
            lines.append(
                f"  before any network: at its worst place the pattern is {self.resampling:.2g} of 1 from its original"
                f" ({self.resampling_kind})"
            )
        return "\n".join(lines)
