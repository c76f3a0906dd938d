"""Small real data sets that come with scikit-learn, so that everything works without a download."""

import gzip
import importlib.util
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from landform.data.data import Data
from landform.errors import InputError

BUNDLED = ("digits", "wine", "breast_cancer", "diabetes")
"""The names that `bundled` knows."""

HOLD_OUT = 5
"""Every fifth sample of a class belongs to the test part."""


def split_indices(targets: Tensor, split: str) -> Tensor:
    """Divide 80 : 20 without any randomness: of each class every fifth sample, in data order, is for testing.

    Args:
        targets: Labels ``[n]`` (integers) for a stratified split; anything else counts as one class.
        split: ``"train"``, ``"test"`` or ``"all"``.

    Returns:
        Sample numbers, ascending.

    Raises:
        InputError: Another split.

    Example:
        >>> labels = torch.tensor([0, 1, 0, 0, 0, 0, 0, 1])
        >>> split_indices(labels, "test").tolist(), split_indices(labels, "train").tolist()
        ([5], [0, 1, 2, 3, 4, 6, 7])
    """
    if split not in ("train", "test", "all"):
        raise InputError(f"split is {split!r}; wanted 'train', 'test' or 'all'")
    n = len(targets)
    if split == "all":
        return torch.arange(n)
    labels = targets if targets.ndim == 1 and not targets.is_floating_point() else torch.zeros(n)
    held = torch.zeros(n, dtype=torch.bool)
    for label in torch.unique(labels).tolist():
        held[(labels == label).nonzero()[HOLD_OUT - 1 :: HOLD_OUT, 0]] = True
    return (held if split == "test" else ~held).nonzero()[:, 0]


def bundled(name: str, *, split: str) -> Data:
    """Load one of scikit-learn's bundled data sets.

    - ``"digits"``: 8×8 grey images, 10 classes, inputs ``float32 [1797, 64]`` in [0, 1] (pixel / 16).
    - ``"wine"``: ``[178, 13]``, 3 classes; ``"breast_cancer"``: ``[569, 30]``, 2 classes.
    - ``"diabetes"``: ``[442, 10]``, a regression: targets ``float32 [442, 1]``, disease progression in its own units
      (25 … 346), not rescaled, so a loss is in those units too.

    Tables are standardised column by column with mean and standard deviation of the *training* part. Parts are those
    of `split_indices`: digits has 1442 samples for training and 355 for testing.

    Args:
        name: One of the four.
        split: ``"train"``, ``"test"`` or ``"all"``.

    Returns:
        The data set; its hash is the same on every machine (sums are exactly rounded).

    Example:
        >>> bundled("digits", split="train")
        Data('digits', 'train', inputs float32 [1442, 64], targets int64 [1442], 10 classes)
    """
    loaded = _digits() if name == "digits" else None
    if loaded is None:
        import sklearn.datasets

        options: dict[str, Any] = {"scaled": False} if name == "diabetes" else {}
        loaded = getattr(sklearn.datasets, f"load_{name}")(**options)
    values: NDArray[np.float64] = np.asarray(loaded.data, dtype=np.float64)
    if name == "diabetes":
        targets = torch.from_numpy(np.asarray(loaded.target, dtype=np.float32))[:, None]
        labels = None
    else:
        targets = torch.from_numpy(np.asarray(loaded.target, dtype=np.int64))
        labels = tuple(str(label) for label in loaded.target_names)
    indices = split_indices(targets, split)
    train = split_indices(targets, "train").numpy()
    values = values / 16 if name == "digits" else _standardised(values, train)
    inputs = torch.from_numpy(values.astype(np.float32))
    return Data(inputs, targets, name=name, split="all", label_names=labels).subset(indices, split=split)


def _digits() -> SimpleNamespace | None:
    """Read the digits' file, as `sklearn.datasets.load_digits` does: importing scikit-learn takes seconds.

    Returns:
        What that function returns, as far as it is needed; None where the file is elsewhere.
    """
    package = importlib.util.find_spec("sklearn")
    if package is None or package.origin is None:
        return None
    file = Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz"
    if not file.is_file():
        return None
    with gzip.open(file, "rt") as lines:
        table = np.loadtxt(lines, delimiter=",")
    return SimpleNamespace(data=table[:, :-1], target=table[:, -1].astype(int), target_names=np.arange(10))


def _standardised(values: NDArray[np.float64], rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """Subtract the mean and divide by the standard deviation over ``rows``, with exactly rounded sums."""
    result = np.empty_like(values)
    for column in range(values.shape[1]):
        part = values[rows, column].tolist()
        mean = math.fsum(part) / len(part)
        spread = math.sqrt(math.fsum((value - mean) ** 2 for value in part) / len(part))
        result[:, column] = (values[:, column] - mean) / (spread or 1.0)
    return result
