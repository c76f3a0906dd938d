"""What an imprint of Theorem 2 shows on other data, predicted from the trained network's outputs or scores there."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

from landform.data import Data, load_data
from landform.errors import InputError
from landform.imprint.beside import head_columns, trunk_of
from landform.imprint.imprint import Imprint
from landform.imprint.lower.network import read
from landform.imprint.offset import effective_weights
from landform.imprint.scores import stored, without_tail
from landform.imprint.token_accounting import token_response
from landform.response.offset import OffsetResponse
from landform.response.per_sample import PerSampleResponse
from landform.response.token_offset import TokenOffsetResponse


@dataclass(frozen=True, eq=False)
class OffsetTransfer:
    """What an offset imprint's surface becomes on other data, predicted from the outputs there.

    Attributes:
        response: ρ, of the imprint's own data.
        other: ρ̃, of the other data.
        start: ρ̃'(0). Where it is negative, the least loss on the other data lies at some s > 0.
        monotone: Whether ρ̃ is increasing over the range, so that level sets are the same.
        turning_point: Loss on the first data at which ρ̃ turns; None where it is monotone.
    """

    response: OffsetResponse | TokenOffsetResponse
    other: OffsetResponse | TokenOffsetResponse
    start: float
    monotone: bool
    turning_point: float | None

    def remap(self, t: Float64[Tensor, "*shape"]) -> Float64[Tensor, "*shape"]:
        """Return ρ̃(ρ⁻¹(t)): the loss on the other data where the first have loss t."""
        s = self.response.inverse(t.clamp(min=self.response.lowest))
        return self.other.loss(s.reshape(-1, 1)).reshape(t.shape)

    @property
    def order(self) -> str:
        """``"kept"`` or ``"folded"``."""
        return "kept" if self.monotone else "folded"

    @property
    def identical(self) -> bool:
        """Whether the level sets on the other data are the same."""
        return self.monotone

    @property
    def condition(self) -> str:
        """The decision in words."""
        if self.monotone:
            return f"rho~'(0) = {self.start:.2e} >= 0: the other data's loss rises with s, level sets are the same"
        return (
            f"rho~'(0) = {self.start:.2e} < 0: below {self.turning_point:.4g} on the first data the other data's loss"
            " falls as the first rises"
        )


def offset_transfer(imprint: Imprint, data: object) -> OffsetTransfer:
    """Predict the surface of an offset imprint on other data: heights go from t to ρ̃(ρ⁻¹(t)).

    Args:
        imprint: Made with ``method="offset"``.
        data: The other data, anything that `landform.data.load_data` takes.

    Returns:
        The prediction.

    Raises:
        InputError: For an imprint of another method.

    Cost:
        One pass over the other data.
    """
    response = imprint.response
    if not isinstance(response, (OffsetResponse, TokenOffsetResponse)):
        raise InputError("this prediction is for method='offset'; landform.transfer chooses by method")
    other: Data = load_data(data)
    moved: OffsetResponse | TokenOffsetResponse
    if isinstance(response, TokenOffsetResponse):
        moved = token_response(imprint, other)
    else:
        by_class = imprint.task.loss_form.options.get("weight") if imprint.task is not None else None
        weights = effective_weights(by_class, other.targets, other.weights)
        moved = response.on(untouched(imprint, other.inputs), other.targets, weights)
    start = moved.start()
    s = torch.linspace(0.0, float(response.inverse(torch.tensor([imprint.range[1]]).double())), 513).double()
    low = s[int(moved.loss(s[:, None]).argmin())]
    turning = None if start >= 0 else float(response.loss(low.reshape(1, 1)))
    return OffsetTransfer(response, moved, start, start >= 0, turning)


def untouched(imprint: Imprint, inputs: Tensor) -> Float64[Tensor, "n outputs"]:
    """Return the trained network's outputs f(x): the imprint's, the pattern's columns of the head left out."""
    model = imprint.model
    trunk = trunk_of(read(model, imprint.meta.get("sample")))
    name = f"{trunk.head}.weight"
    weight = imprint.subspace.origin[name].clone()
    weight[:, head_columns(model, trunk, imprint.meta["channels"])] = 0
    parameters = {**imprint.subspace.origin, name: weight}
    dtype = weight.dtype
    found = []
    with torch.no_grad():
        for start in range(0, len(inputs), 1024):
            x = inputs[start : start + 1024]
            x = x.to(dtype) if x.is_floating_point() else x
            found.append(torch.func.functional_call(model, parameters, (x,)))
    return torch.cat(found).double()


@dataclass(frozen=True, eq=False)
class PerSampleTransfer:
    """What a per-sample imprint's surface becomes on other data, predicted from the scores there.

    Attributes:
        other: The response with the other data's scores.
        error: e, the share of the samples there whose scores choose another class.
        served: Share of the samples there whose loss is T(h).
        lo: Least loss of the pattern.
        hi: Greatest loss of the pattern.
    """

    other: PerSampleResponse
    error: float
    served: float
    lo: float
    hi: float

    @property
    def order(self) -> str:
        """``"kept"`` where the other data's loss rises with t over the range (at 257 places), else ``"folded"``."""
        t = torch.linspace(self.lo, self.hi, 257, dtype=torch.float64)
        return "kept" if bool((self.remap(t).diff() > 0).all()) else "folded"

    @property
    def identical(self) -> bool:
        """Whether the level sets on the other data are the same."""
        return self.order == "kept"

    @property
    def condition(self) -> str:
        """The decision in words."""
        least = -math.log1p(-self.error) if self.error < 1 else math.inf
        return (
            f"scores are wrong on a share e = {self.error:.4g} of the other data: their mean loss rises from"
            f" -log(1 - e) = {least:.4g} on, and the range begins at {self.lo:.4g} (level sets {self.order})"
        )

    def remap(self, t: Float64[Tensor, "*shape"]) -> Float64[Tensor, "*shape"]:
        """Return the other data's mean loss where the served samples have loss t, from every score there."""
        s = self.other.inverse(t.reshape(-1).clamp(min=self.other.lowest))
        parts = [self.other.sample_losses(part) @ self.other.share for part in torch.split(s, 64)]
        found: Tensor = torch.cat(parts).reshape(t.shape)
        return found

    def formula(self, t: Float64[Tensor, "*shape"]) -> Float64[Tensor, "*shape"]:
        """Return (1 − e)·t + e·(log(C − 1) − log(1 − e^(−t))): what it would be if every score had its margin."""
        wrong = math.log(self.other.outputs - 1) - torch.log(-torch.expm1(-t))
        found: Tensor = (1 - self.error) * t + self.error * wrong
        return found


def per_sample_transfer(imprint: Imprint, data: object) -> PerSampleTransfer:
    """Predict the surface of a per-sample imprint on other data.

    Args:
        imprint: Made with ``method="per-sample"``.
        data: The other data.

    Returns:
        The prediction.

    Raises:
        InputError: For an imprint of another method.

    Cost:
        One pass over the other data.
    """
    response = imprint.response
    if not isinstance(response, PerSampleResponse):
        raise InputError("this prediction is for method='per-sample'; landform.transfer chooses by method")
    other = load_data(data)
    stem = without_tail(imprint.model, imprint.meta["tail"])
    dtype = next(stem.parameters()).dtype
    with torch.no_grad():
        parts = [stem(other.inputs[i : i + 1024].to(dtype)) for i in range(0, len(other.inputs), 1024)]
    against = torch.cat(parts).double()[:, :-1].reshape(other.n, response.outputs, response.groups)
    scores = stored(against, response.cap)
    share = torch.ones(len(scores), dtype=torch.float64) if other.weights is None else other.weights.double()
    rows = torch.cat([share[:, None], other.targets.double()[:, None], scores], dim=1).numpy()
    moved = PerSampleResponse(rows, **response.config()["options"])
    wrong = float(moved.share @ (scores.argmax(dim=1) != other.targets).double())
    return PerSampleTransfer(moved, wrong, float(moved.served(*imprint.range).double().mean()), *imprint.range)


def predicted(imprint: Imprint, data: object, target: Float64[Tensor, "*shape"]) -> Float64[Tensor, "*shape"]:
    """Return the other data's losses where the imprint promises ``target`` on its own, for either form of Theorem 2."""
    if isinstance(imprint.response, PerSampleResponse):
        return per_sample_transfer(imprint, data).remap(target)
    return offset_transfer(imprint, data).remap(target)
