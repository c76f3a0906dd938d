"""`Data`: a finite data set in memory, checked once, with the statistics that a made surface depends on."""

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float64, Int64, Shaped
from torch import Tensor

from landform.data.hashing import hash_tensors
from landform.errors import DataError, InputError

_LOOKED_AT = 1 << 22

IGNORE_INDEX = -100
"""The label that marks "no label" (PyTorch's default ``ignore_index``)."""


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Data:
    """A data set of n samples: the mean over *these* samples is what a loss surface is about.

    Everything is checked on construction. Tensors are not copied: treat them as read-only.

    Attributes:
        inputs: Samples along the first dimension, any shape and dtype; floats must be finite.
        targets: Integer labels (kept as int64), or floats: values to regress, or soft labels ``[n, classes]``.
        name: Where the data come from.
        split: Which part this is, ``"train"``, ``"test"`` or ``"all"``; free text for others.
        classes: Number of classes; for integer targets the default is the largest label + 1, for floats None (no
            classes: a regression). Pass it where the highest class is absent or the targets are soft labels.
        label_names: One name a class, or None.
        weights: One non-negative weight a sample, rescaled to sum to n; None means 1 each.
        extras: Further tensors that a model takes beside ``inputs``, one row a sample, by the name of the argument
            (``{"attention_mask": …}``); the model is then called with all of them by name.
        keys: What a mapping calls ``inputs`` and ``targets``, e.g. ``("input_ids", "labels")``; needed with extras.

    Raises:
        DataError: No samples, different lengths, a NaN or infinity, a label outside ``0 … classes-1`` (−100, "no
            label", is allowed), weights that are negative or all zero.

    Example:
        >>> data = Data(torch.zeros(4, 2), torch.tensor([0, 1, 1, 2]))
        >>> data.n, data.classes, data.label_counts.tolist()
        (4, 3, [1.0, 2.0, 1.0])
    """

    inputs: Shaped[Tensor, "n ..."]
    targets: Shaped[Tensor, "n ..."]
    name: str = "data"
    split: str = "all"
    classes: int | None = None
    label_names: tuple[str, ...] | None = None
    weights: Float64[Tensor, " n"] | None = None
    extras: Mapping[str, Tensor] = dataclasses.field(default_factory=dict)
    keys: tuple[str, str] | None = None

    def __post_init__(self) -> None:
        """Check everything, and bring labels and weights to their one dtype."""
        inputs = _plain(self.inputs, "inputs", self.name)
        targets = _plain(self.targets, "targets", self.name)
        if len(inputs) != len(targets):
            raise DataError(
                f"{self.name}: {len(inputs)} inputs but {len(targets)} targets; give one target for each input"
            )
        if not len(inputs):
            raise DataError(f"{self.name}: no samples; a data set needs at least one")
        if not targets.is_floating_point():
            targets = targets.to(torch.int64)
        classes = _classes(targets, self.classes, self.label_names, self.name)
        for field, value in (("inputs", inputs), ("targets", targets), ("classes", classes)):
            object.__setattr__(self, field, value)
        if self.label_names is not None:
            object.__setattr__(self, "label_names", tuple(str(label) for label in self.label_names))
        if self.weights is not None:
            object.__setattr__(self, "weights", _weights(self.weights, len(inputs), self.name))
        object.__setattr__(self, "extras", _extras(self.extras, len(inputs), self.keys, self.name))

    def __repr__(self) -> str:
        """Show the shapes, never the values."""
        kind = f"{self.classes} classes" if self.classes is not None else "no classes"
        weighted = ", weighted" if self.weights is not None else ""
        extras = "".join(f"{key} {_describe(value)}, " for key, value in self.extras.items())
        return (
            f"Data({self.name!r}, {self.split!r}, inputs {_describe(self.inputs)}, {extras}"
            f"targets {_describe(self.targets)}, {kind}{weighted})"
        )

    def __len__(self) -> int:
        """Return the number of samples."""
        return self.n

    @property
    def n(self) -> int:
        """Number of samples."""
        return len(self.inputs)

    @functools.cached_property
    def hash(self) -> str:
        """SHA-256 over dtypes, shapes and bytes of inputs, targets and (where set) weights and extras; 64 hex digits.

        Names and the split do not enter, the order of the samples does. Computed once, so the tensors must not
        change. The same on every machine.
        """
        parts = [("inputs", self.inputs), ("targets", self.targets)]
        if self.weights is not None:
            parts.append(("weights", self.weights))
        parts += [(f"extra {key}", self.extras[key]) for key in sorted(self.extras)]
        return hash_tensors(parts)

    def take(self, index: slice | Int64[Tensor, " m"]) -> tuple[Tensor | dict[str, Tensor], Tensor]:
        """Take samples as a model wants them: a tensor, or a dict of all arguments where there are extras.

        Args:
            index: A slice (which copies nothing), or sample numbers.

        Returns:
            Inputs and targets.

        Example:
            >>> mask = {"attention_mask": torch.ones(4, 2)}
            >>> data = Data(torch.zeros(4, 2), torch.arange(4), extras=mask, keys=("input_ids", "labels"))
            >>> list(data.take(slice(0, 2))[0])
            ['input_ids', 'attention_mask']
        """
        if not isinstance(index, slice):
            index = index.to(self.inputs.device)
        if not self.extras:
            return self.inputs[index], self.targets[index]
        assert self.keys is not None
        several = {self.keys[0]: self.inputs[index]} | {key: value[index] for key, value in self.extras.items()}
        return several, self.targets[index]

    def raw(self, index: slice | Int64[Tensor, " m"]) -> Any:
        """Take samples as a loader gives them: ``(inputs, targets)``, or a dict of everything where keys are named.

        Args:
            index: As in `take`.

        Returns:
            What a training step gets as its batch.
        """
        return self.as_raw(*self.take(index))

    def as_raw(self, inputs: Tensor | dict[str, Tensor], targets: Tensor) -> Any:
        """Put what `take` returned together as a loader gives it.

        Args:
            inputs: Inputs.
            targets: Targets.

        Returns:
            As of `raw`.
        """
        if self.keys is None:
            return inputs, targets
        return (inputs if isinstance(inputs, dict) else {self.keys[0]: inputs}) | {self.keys[1]: targets}

    @functools.cached_property
    def label_counts(self) -> Float64[Tensor, " classes"]:
        """Weight of each class, Σ_i w_i·1[y_i = c]: whole numbers unless weights or soft labels are there.

        Soft labels count by their probabilities; labels −100 do not count.

        Raises:
            DataError: The targets are values, not labels.
        """
        classes = self._need_classes("label_counts")
        weights = self.weights if self.weights is not None else torch.ones(self.n, dtype=torch.float64)
        if self.targets.is_floating_point():
            return torch.einsum("n,nc...->c", weights, self.targets.cpu().double())
        flat = self.targets.cpu().reshape(self.n, -1)
        spread = weights[:, None].expand(flat.shape)
        kept = flat != IGNORE_INDEX
        return torch.bincount(flat[kept], weights=spread[kept], minlength=classes)

    def batches(self, batch_size: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Iterate over ``(inputs, targets)`` views in order; the last may be shorter, none is dropped.

        Args:
            batch_size: Samples a batch; None gives one batch of all.

        Yields:
            Slices of inputs and targets, without a copy.

        Raises:
            InputError: ``batch_size`` is below 1.

        Example:
            >>> data = Data(torch.zeros(5, 2), torch.arange(5))
            >>> [len(x) for x, _ in data.batches(2)]
            [2, 2, 1]
        """
        if batch_size is not None and batch_size < 1:
            raise InputError(f"batch_size is {batch_size}; wanted at least 1, or None for all samples at once")
        step = batch_size or self.n
        yield from zip(torch.split(self.inputs, step), torch.split(self.targets, step), strict=True)

    def subset(self, indices: Sequence[int] | Int64[Tensor, " m"], *, split: str | None = None) -> "Data":
        """Take some samples, in the order given (repeats are allowed).

        Args:
            indices: Sample numbers in ``-n … n-1``.
            split: What to call the part; None keeps the name of this one.

        Returns:
            A new set with the same classes; weights, where there are any, are rescaled to sum to its own size.

        Raises:
            InputError: An index out of range.
            DataError: No index at all.
        """
        chosen = torch.as_tensor(indices)
        if chosen.dtype == torch.bool:
            raise InputError("indices are booleans; pass sample numbers, e.g. mask.nonzero()[:, 0]")
        chosen = chosen.to(torch.int64).reshape(-1)
        wrong = chosen[(chosen < -self.n) | (chosen >= self.n)]
        if len(wrong):
            raise InputError(f"index {int(wrong[0])} is out of range: {self.name} has {self.n} samples")
        return dataclasses.replace(
            self,
            inputs=self.inputs[chosen],
            targets=self.targets[chosen],
            split=self.split if split is None else split,
            weights=None if self.weights is None else self.weights[chosen],
            extras={key: value[chosen] for key, value in self.extras.items()},
        )

    def reweight(self, label_weights: Mapping[int, float] | Shaped[Tensor, " classes"]) -> "Data":
        """Weigh every sample by its label: w_i ∝ w_i·label_weights[y_i], rescaled to Σ w_i = n.

        Args:
            label_weights: A factor for each class, as a tensor over all classes or a mapping, in which a missing
                class has factor 1 (so that naming one class changes that one). Samples without a label (−100) keep
                factor 1.

        Returns:
            The same samples with other weights, so another `label_counts` and another `hash`.

        Raises:
            InputError: Unknown class, wrong length, negative or non-finite factor.
            DataError: The targets are no integer labels, one a sample, or no sample would keep any weight.

        Example:
            >>> data = Data(torch.zeros(4, 2), torch.tensor([0, 1, 1, 1]))
            >>> data.reweight({0: 3.0}).label_counts.tolist()
            [2.0, 2.0]
        """
        factors = self._per_class(label_weights, 1.0, "reweight")
        weights = torch.where(self.targets < 0, 1.0, factors[self.targets.clamp(min=0).cpu()])
        if self.weights is not None:
            weights = weights * self.weights
        return dataclasses.replace(self, weights=weights)

    def resample_labels(self, counts: Mapping[int, int] | Shaped[Tensor, " classes"]) -> "Data":
        """Take the first ``counts[c]`` samples of each class c, in data order: a real set with those label counts.

        Args:
            counts: Wanted samples of each class, a tensor over all classes or a mapping, in which a missing class
                has none.

        Returns:
            A subset; the same call gives the same samples.

        Raises:
            InputError: Unknown class, wrong length, negative or fractional count.
            DataError: More samples of a class are wanted than there are, or the set is weighted.

        Example:
            >>> data = Data(torch.arange(5.0)[:, None], torch.tensor([0, 1, 1, 0, 1]))
            >>> data.resample_labels({0: 1, 1: 2}).inputs[:, 0].tolist()
            [0.0, 1.0, 2.0]
        """
        wanted = self._per_class(counts, 0.0, "resample_labels")
        if self.weights is not None:
            raise DataError("resample_labels: this set has sample weights; resample first, then reweight")
        if not torch.equal(wanted, wanted.round()):
            raise InputError(f"resample_labels: counts must be whole numbers, got {wanted.tolist()}")
        keep = torch.zeros(self.n, dtype=torch.bool)
        for label, count in enumerate(wanted.long().tolist()):
            where = (self.targets == label).nonzero()[:, 0].cpu()
            if count > len(where):
                raise DataError(
                    f"resample_labels: {count} samples of class {label} wanted, {self.name} has {len(where)}; "
                    "ask for fewer, or use reweight for a weighted set"
                )
            keep[where[:count]] = True
        return self.subset(keep.nonzero()[:, 0])

    def _need_classes(self, what: str) -> int:
        if self.classes is None:
            raise DataError(
                f"{what}: {self.name} has no classes (targets {_describe(self.targets)}); "
                "it needs integer labels, or soft labels [n, classes] with classes= given"
            )
        return self.classes

    def _per_class(self, given: Mapping[int, float] | Tensor, missing: float, what: str) -> Float64[Tensor, " classes"]:
        classes = self._need_classes(what)
        if self.targets.is_floating_point() or self.targets.ndim != 1:
            raise DataError(f"{what}: wanted one integer label a sample, targets are {_describe(self.targets)}")
        if isinstance(given, Mapping):
            unknown = [label for label in given if label not in range(classes)]
            if unknown:
                raise InputError(f"{what}: no class {unknown[0]!r} in {self.name}; labels are 0 … {classes - 1}")
            values = torch.tensor([float(given.get(c, missing)) for c in range(classes)], dtype=torch.float64)
        else:
            values = torch.as_tensor(given, dtype=torch.float64).detach().cpu()
            if values.shape != (classes,):
                raise InputError(f"{what}: wanted one number for each of {classes} classes, got {_describe(values)}")
        if not bool((values.isfinite() & (values >= 0)).all()):
            raise InputError(f"{what}: numbers must be finite and not negative, got {values.tolist()}")
        return values


def _describe(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def _plain(tensor: Tensor, role: str, name: str) -> Tensor:
    """Refuse what is no dense tensor of finite real numbers, one row a sample."""
    if not isinstance(tensor, Tensor):
        raise DataError(f"{name}: {role} must be a torch tensor, got {type(tensor).__name__}; load_data takes more")
    if tensor.layout != torch.strided or tensor.is_complex() or tensor.is_quantized or tensor.is_meta:
        raise DataError(
            f"{name}: {role} must be a dense tensor of real numbers, got {_describe(tensor)} "
            f"({tensor.layout}, device {tensor.device})"
        )
    if tensor.ndim == 0:
        raise DataError(f"{name}: {role} is a single number; wanted one row for each sample")
    tensor = tensor.detach()
    if tensor.is_floating_point() and not _finite(tensor):
        nan = int(tensor.isnan().sum())
        infinite = int(tensor.isinf().sum())
        row = int((~tensor.isfinite().reshape(len(tensor), -1)).any(1).nonzero()[0, 0])
        raise DataError(
            f"{name}: {role} hold {nan} NaN and {infinite} infinite values, first in sample {row}; "
            "remove those samples or fill the gaps"
        )
    return tensor


def _finite(tensor: Tensor) -> bool:
    """Look at some rows at a time: the tensor may be larger than memory."""
    rows = max(1, _LOOKED_AT * len(tensor) // max(1, tensor.numel()))
    return all(bool(part.isfinite().all()) for part in torch.split(tensor, rows))


def _classes(targets: Tensor, given: int | None, labels: Sequence[str] | None, name: str) -> int | None:
    """Check labels against the number of classes, inferring it where it was not given."""
    if given is not None and given < 1:
        raise DataError(f"{name}: classes is {given}; wanted at least 1, or None")
    classes = given if given is not None or labels is None else len(labels)
    if labels is not None and classes != len(labels):
        raise DataError(f"{name}: {len(labels)} label_names for {classes} classes; give one name a class")
    if targets.is_floating_point():
        if classes is not None and (targets.ndim < 2 or targets.shape[1] != classes):
            raise DataError(
                f"{name}: {classes} classes with float targets means soft labels [n, {classes}], got "
                f"{_describe(targets)}; turn labels into integers, or leave classes out for a regression"
            )
        return classes
    negative = targets[(targets < 0) & (targets != IGNORE_INDEX)]
    if negative.numel():
        raise DataError(
            f"{name}: {negative.numel()} negative labels (such as {int(negative[0])}); labels count from 0, "
            f"{IGNORE_INDEX} marks a sample to ignore; for a regression pass float targets"
        )
    top = int(targets.max()) if targets.numel() else -1
    if classes is None:
        return max(top + 1, 1)
    if top >= classes:
        beyond = int((targets >= classes).sum())
        raise DataError(f"{name}: {beyond} labels reach beyond {classes} classes, the largest is {top}")
    return classes


def _extras(given: Mapping[str, Tensor], n: int, keys: tuple[str, str] | None, name: str) -> dict[str, Tensor]:
    if given and (keys is None or set(keys) & set(given)):
        raise DataError(
            f"{name}: extras {', '.join(given)} with keys={keys!r}; say how the model calls its inputs and targets, "
            "e.g. keys=('input_ids', 'labels')"
        )
    found = {str(key): _plain(value, str(key), name) for key, value in given.items()}
    for key, value in found.items():
        if len(value) != n:
            raise DataError(f"{name}: {n} inputs but {len(value)} rows of {key}; give one for each input")
    return found


def _weights(given: Tensor, n: int, name: str) -> Float64[Tensor, " n"]:
    weights = torch.as_tensor(given, dtype=torch.float64).detach().cpu()
    if weights.shape != (n,):
        raise DataError(f"{name}: wanted {n} weights, one a sample, got {_describe(weights)}")
    total = float(weights.sum())
    if not bool((weights.isfinite() & (weights >= 0)).all()) or not 0 < total < float("inf"):
        raise DataError(f"{name}: weights must be finite, not negative and not all zero; their sum is {total}")
    return weights * (n / total)
