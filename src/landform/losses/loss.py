"""`Loss` and `LossSum`: a loss as a ratio of sums, so that it adds up over batches."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Float64, Shaped
from torch import Tensor

from landform.errors import InputError
from landform.losses.formulas import Terms, double


@dataclasses.dataclass(frozen=True, eq=False)
class Loss:
    """A loss in a form that adds up over batches.

    Attributes:
        name: ``"cross_entropy"``, …, or the name of the user's own function or class.
        options: What the module was built with, where it differs from the default (``weight``, ``label_smoothing``,
            ``beta``, …); tensors as lists, so that it can be written as JSON.
        known: Whether landform knows the loss's formula; then `terms` never returns None.
    """

    name: str
    options: Mapping[str, Any]
    known: bool
    _terms: Callable[[Tensor, Tensor], Terms] | None = dataclasses.field(repr=False, default=None)
    _function: Callable[[Any, Any], Any] | None = dataclasses.field(repr=False, default=None)

    def terms(
        self, outputs: Shaped[Tensor, "n ..."], targets: Shaped[Tensor, "n ..."]
    ) -> tuple[Float64[Tensor, " n"], Float64[Tensor, " n"]] | None:
        """Return each sample's numerator and denominator, or None for a function that gives one number a batch.

        Args:
            outputs: What the model returned, any float dtype.
            targets: As in the data set.

        Returns:
            Two float64 vectors; the loss over these samples is the ratio of their sums.

        Raises:
            InputError: Shapes or dtypes that do not fit each other; a function that returns something else.
            DataError: Labels out of range.
        """
        outputs, targets = double(outputs, targets)
        if self._terms is not None:
            numerator, denominator = self._terms(outputs, targets)
        else:
            value = self._call(outputs, targets)
            if value.ndim == 0:
                return None
            if value.shape[0] != len(outputs):
                raise InputError(
                    f"loss {self.name} returned shape {list(value.shape)} for {len(outputs)} samples; "
                    "wanted a scalar, or one value a sample in the first dimension"
                )
            numerator, denominator = value, torch.ones_like(value)
        n = len(outputs)
        return numerator.reshape(n, -1).sum(1), denominator.reshape(n, -1).sum(1)

    def _call(self, outputs: Tensor, targets: Tensor) -> Float64[Tensor, "..."]:
        """Call the user's function in float64, or in float32 if it holds float32 tensors of its own."""
        assert self._function is not None
        try:
            value = self._function(outputs, targets)
        except RuntimeError as error:
            if "dtype" not in str(error) and "scalar type" not in str(error):
                raise
            single = targets.float() if targets.is_floating_point() else targets
            value = self._function(outputs.float(), single)
        if not isinstance(value, Tensor):
            raise InputError(f"loss {self.name} returned a {type(value).__name__}; wanted a tensor")
        return value.to(torch.float64)


class LossSum:
    """Adds up one loss over batches.

    For a function that returns one number a batch, outputs are kept and the function is called once on all of them,
    which makes its own normaliser right; above 2^24 output numbers it is called on chunks of that size, whose values
    are averaged by their numbers of samples.

    Example:
        >>> from landform.losses import resolve_loss
        >>> total = LossSum(resolve_loss("mse"))
        >>> total.add(torch.zeros(1, 1), torch.full((1, 1), 2.0))
        >>> total.add(torch.zeros(3, 1), torch.zeros(3, 1))
        >>> total.value().item()
        1.0
    """

    def __init__(self, loss: Loss, *, limit: int = 1 << 24) -> None:
        self._loss = loss
        self._limit = limit
        self._numerator: Tensor | float = 0.0
        self._denominator: Tensor | float = 0.0
        self._kept: list[tuple[Tensor, Tensor]] = []

    def add(
        self,
        outputs: Shaped[Tensor, "n ..."],
        targets: Shaped[Tensor, "n ..."],
        weights: Float64[Tensor, " n"] | None = None,
    ) -> None:
        """Count one batch.

        Args:
            outputs: What the model returned.
            targets: The batch's targets.
            weights: One weight a sample, or None for 1.

        Raises:
            InputError: Shapes that do not fit, or sample weights with a loss that gives one number a batch.
            DataError: Labels out of range.
        """
        if len(outputs) != len(targets):
            raise InputError(f"{len(outputs)} outputs for {len(targets)} targets; the model must keep one row a sample")
        terms = None if self._kept else self._loss.terms(outputs, targets)
        if terms is None:
            if weights is not None:
                raise InputError(
                    f"loss {self._loss.name} returns one number a batch, so sample weights cannot enter; "
                    "let it return one value a sample (reduction='none')"
                )
            self._kept.append(double(outputs, targets))
            self._flush_beyond()
            return
        numerator, denominator = terms
        if weights is not None:
            weights = weights.to(numerator.device)
            # A sample of weight 0 is left out even where its loss is infinite.
            numerator = torch.where(weights > 0, weights * numerator, 0.0)
            denominator = weights * denominator
        self._numerator = self._numerator + numerator.sum()
        self._denominator = self._denominator + denominator.sum()

    def merge(self, other: "LossSum") -> None:
        """Count everything that another sum of the same loss has counted.

        Args:
            other: The other; it is not to be used any more.
        """
        self._numerator = self._numerator + other._numerator
        self._denominator = self._denominator + other._denominator
        self._kept += other._kept
        self._flush_beyond()

    def value(self) -> Float64[Tensor, ""]:
        """Return the loss over everything added; NaN where nothing counts (all labels ignored), as in PyTorch."""
        self._flush()
        return torch.as_tensor(self._numerator, dtype=torch.float64) / torch.as_tensor(self._denominator)

    def sums(self) -> tuple[Float64[Tensor, ""], Float64[Tensor, ""]]:
        """Return numerator and denominator of everything added, on the CPU."""
        self._flush()
        return (
            torch.as_tensor(self._numerator, dtype=torch.float64).cpu(),
            torch.as_tensor(self._denominator, dtype=torch.float64).cpu(),
        )

    def _flush_beyond(self) -> None:
        if sum(kept.numel() for kept, _ in self._kept) >= self._limit:
            self._flush()

    def _flush(self) -> None:
        if not self._kept:
            return
        outputs = torch.cat([kept for kept, _ in self._kept])
        targets = torch.cat([kept for _, kept in self._kept])
        self._kept.clear()
        self._numerator = self._numerator + self._loss._call(outputs, targets) * len(outputs)
        self._denominator = self._denominator + float(len(outputs))
