"""`Imprint`: a network, a subspace, and the promise that the loss over it is the pattern."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxtyping import Float64
from torch import Tensor, nn

from landform.pattern import Pattern, SumPattern
from landform.response import AbstractResponse
from landform.subspace import Subspace
from landform.task import Task

if TYPE_CHECKING:
    from landform.certify import Certificate


@dataclass(frozen=True, eq=False, repr=False)
class Imprint:
    """A network whose loss over a subspace is a pattern.

    Attributes:
        model: The network at the origin of the subspace: a copy of the class and shapes that were given, new weights.
        subspace: Origin and z directions; ``subspace.at(h)`` is the full parameter dict at h.
        pattern: T, with values in [0, 1].
        task: Model, loss and data, or None when loaded from a bundle without data.
        responses: One response a head: loss as a function of the emitted signal.
        range: (lo, hi) in loss units: pattern value 0 is loss lo, 1 is hi.
        certificate: What is proved; None until it is made.
        spline_stage: Hidden layer at which the response curve begins, None in the direct form.
        meta: How it was made, in JSON types: form, schedule, widths, units, notes.
    """

    model: nn.Module
    subspace: Subspace
    pattern: Pattern | SumPattern
    task: Task | None
    responses: tuple[AbstractResponse, ...]
    range: tuple[float, float]
    certificate: "Certificate | None" = None
    spline_stage: int | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)

    @property
    def response(self) -> AbstractResponse:
        """The response of the first head."""
        return self.responses[0]

    @property
    def z(self) -> int:
        """Number of coordinates."""
        return self.pattern.z

    @property
    def reads_input(self) -> bool:
        """Whether the network still reads its input (Theorem 2), so that only all samples tell its loss."""
        return bool(self.meta.get("method", "constant") != "constant")

    @property
    def parameters(self) -> int:
        """Number of parameters of the network."""
        return sum(p.numel() for p in self.model.parameters())

    def target(self, h: Float64[Tensor, "points z"]) -> Float64[Tensor, "points *channels"]:
        """Return the promised loss T_n(h) = lo + (hi − lo)·pattern(h), in loss units.

        Args:
            h: Points in [0, 1]^z, shape ``[points, z]``.

        Returns:
            ``[points]``, or ``[points, channels]`` for a pattern with channels.

        Raises:
            InputError: If a point is outside the box: nothing is promised there.
        """
        lo, hi = self.range
        out: Tensor = lo + (hi - lo) * self.pattern(h)
        return out

    def save(self, path: str | Path, *, force: bool = False, surface: Any = None, picture: Any = None) -> Path:
        """Write the imprint as a bundle, atomically; arguments as in `landform.bundle.save`."""
        from landform.bundle import save

        return save(self, path, force=force, surface=surface, picture=picture)

    def with_certificate(self, certificate: "Certificate") -> "Imprint":
        """Return the same imprint with another certificate."""
        return replace(self, certificate=certificate)

    def __repr__(self) -> str:
        """Say what it is in one line."""
        lo, hi = self.range
        proof = f", {self.certificate.kind} {self.certificate.bound:.1e}" if self.certificate else ""
        return (
            f"Imprint({self.pattern!r} → {type(self.model).__name__}, {self.parameters:,} parameters,"
            f" {self.response.name} {lo:.4g} … {hi:.4g} {self.response.unit}{proof})"
        )

    def _repr_html_(self) -> str:
        """Show the promise and, where it is cheap, the picture in a notebook."""
        from landform.view.notebook import imprint_html

        return imprint_html(self)
