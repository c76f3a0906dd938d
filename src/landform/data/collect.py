"""Data sets from Python objects: arrays, torch data sets, loaders, any iterable of batches."""

from collections.abc import Iterable, Iterator, Mapping, Sized
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, RandomSampler, SequentialSampler, TensorDataset

from landform.data.data import Data
from landform.errors import DataError

_INPUT_KEYS = ("inputs", "input", "x", "input_ids", "pixel_values", "image", "images", "features")
_TARGET_KEYS = ("targets", "target", "labels", "label", "y")


def collect(source: object, *, max_bytes: int) -> Data:
    """Turn a Python object into `Data`.

    Accepted: ``(X, y)`` of tensors, arrays or nested lists of numbers; a torch ``Dataset``; a ``DataLoader``; any
    iterable of batches ``(inputs, targets)`` or mappings with one input and one target (``inputs``, ``x``,
    ``input_ids``, …; ``targets``, ``labels``, ``y``, …). Batches are joined along their first dimension.

    A loader that shuffles or drops its last batch is read through its data set instead, in order and completely: the
    loss over the data set does not depend on the order, and leaves nothing out. Loaders with a sampler of their own
    are read as they come. PyTorch's global random state is left as it was.

    Args:
        source: The object.
        max_bytes: Limit on what is collected, so that an endless iterable ends in an error.

    Returns:
        The data set, called after the type of the object.

    Raises:
        DataError: Nothing there, not of this kind, samples of different shapes, or beyond the limit.
    """
    name = type(source).__name__
    if isinstance(source, Data):
        return source
    pair = _arrays(source)
    if pair is not None:
        return Data(_tensor(pair[0], "inputs"), _tensor(pair[1], "targets"), name="arrays")
    if isinstance(source, TensorDataset):
        if len(source.tensors) != 2:
            raise DataError(f"TensorDataset of {len(source.tensors)} tensors; wanted two, inputs and targets")
        return Data(*source.tensors, name=name)
    with torch.random.fork_rng(devices=[]):
        if isinstance(source, Dataset) and not isinstance(source, IterableDataset):
            return _join(_samples(source), name, max_bytes, what="sample")
        if isinstance(source, DataLoader):
            name = type(source.dataset).__name__
            if _whole(source) and source.batch_size is not None:
                source = DataLoader(
                    source.dataset,
                    batch_size=source.batch_size,
                    num_workers=source.num_workers,
                    collate_fn=source.collate_fn,
                    worker_init_fn=source.worker_init_fn,
                )
        if not isinstance(source, Iterable) or isinstance(source, str | bytes | Mapping):
            raise DataError(
                f"cannot read data from {name}; wanted (X, y), a torch Dataset or DataLoader, an iterable of "
                "(inputs, targets) batches, a path, the name of a data set, or 'module:loader'"
            )
        return _join(((*_split_batch(batch, i), i) for i, batch in enumerate(source)), name, max_bytes, what="batch")


def _whole(loader: "DataLoader[Any]") -> bool:
    """Whether the loader visits each sample of its data set once, in whatever order."""
    sampler: object = loader.sampler
    if isinstance(sampler, RandomSampler):
        return not sampler.replacement and isinstance(loader.dataset, Sized) and len(sampler) == len(loader.dataset)
    return isinstance(sampler, SequentialSampler)


def _arrays(source: object) -> tuple[object, object] | None:
    """Recognise ``(X, y)``, as against a list of two batches."""
    if not isinstance(source, tuple | list) or len(source) != 2:
        return None
    if all(hasattr(part, "__array__") for part in source):
        return source[0], source[1]
    if isinstance(source, tuple) and all(hasattr(part, "__array__") or isinstance(part, list) for part in source):
        flat = [part for part in source if isinstance(part, list)]
        if not any(hasattr(item, "__array__") for part in flat for item in part):
            return source[0], source[1]
    return None


def _tensor(values: object, role: str) -> Tensor:
    """Convert without a copy where possible; refuse what has no numbers in it."""
    if isinstance(values, Tensor):
        return values.detach()
    try:
        found = np.asarray(values)
    except ValueError as error:
        raise DataError(f"{role}: samples of different lengths ({error})") from error
    if found.dtype.kind not in "biuf":
        kind = type(values).__name__ if found.ndim == 0 else f"an array of {found.dtype}"
        raise DataError(f"{role}: wanted numbers, got {kind}; convert them first")
    if found.dtype.kind in "ui" and found.dtype.itemsize > 1:
        found = found.astype(np.int64)
    if found.dtype.kind == "f" and found.dtype.itemsize > 8:
        found = found.astype(np.float64)
    # A copy where torch could not share the memory safely: read-only, strided backwards, foreign byte order.
    found = found.astype(found.dtype.newbyteorder("="), copy=False)
    if not found.flags.writeable or any(stride < 0 for stride in found.strides):
        found = found.copy()
    return torch.from_numpy(found) if found.ndim else torch.as_tensor(found.item())


def _samples(source: "Dataset[Any]") -> Iterator[tuple[Tensor, Tensor, int]]:
    """Read a map-style data set one sample at a time, each as a batch of one."""
    if not isinstance(source, Sized):
        raise DataError(f"{type(source).__name__} has no len(); pass a DataLoader over it, or an iterable of batches")
    for i in range(len(source)):
        inputs, targets = _split_batch(source[i], i, what="sample")
        yield inputs[None], targets[None], i


def _split_batch(batch: object, i: int, *, what: str = "batch") -> tuple[Tensor, Tensor]:
    """Find inputs and targets in a pair or mapping; refuse parts that would be lost without a word."""
    if isinstance(batch, Mapping):
        x = [key for key in batch if key in _INPUT_KEYS]
        y = [key for key in batch if key in _TARGET_KEYS]
        if len(x) != 1 or len(y) != 1 or len(batch) != 2:
            raise DataError(
                f"{what} {i} has keys {', '.join(map(str, batch))}; wanted exactly one input "
                f"({', '.join(_INPUT_KEYS)}) and one target ({', '.join(_TARGET_KEYS)}); "
                "yield (inputs, targets) instead"
            )
        batch = (batch[x[0]], batch[y[0]])
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        size = f" of {len(batch)}" if isinstance(batch, Sized) else ""
        raise DataError(f"{what} {i} is a {type(batch).__name__}{size}; wanted (inputs, targets)")
    return _tensor(batch[0], f"{what} {i}, inputs"), _tensor(batch[1], f"{what} {i}, targets")


def _join(parts: Iterable[tuple[Tensor, Tensor, int]], name: str, max_bytes: int, *, what: str) -> Data:
    """Concatenate batches after checking that they fit each other."""
    inputs: list[Tensor] = []
    targets: list[Tensor] = []
    size = 0
    for x, y, i in parts:
        for role, now, before in (("inputs", x, inputs), ("targets", y, targets)):
            if now.ndim == 0:
                raise DataError(f"{name}: {role} of {what} {i} are a single number; wanted one row for each sample")
            if before and (now.shape[1:] != before[0].shape[1:] or now.dtype != before[0].dtype):
                raise DataError(
                    f"{name}: {role} of {what} {i} have sample shape {list(now.shape[1:])} ({now.dtype}), those "
                    f"before {list(before[0].shape[1:])} ({before[0].dtype}); pad or crop to one shape"
                )
        if len(x) != len(y):
            raise DataError(f"{name}: {what} {i} has {len(x)} inputs but {len(y)} targets")
        size += x.nbytes + y.nbytes
        if size > max_bytes:
            raise DataError(
                f"{name}: more than {max_bytes} bytes after {sum(map(len, inputs)) + len(x)} samples; is it endless? "
                "Pass a smaller set, or a larger max_bytes"
            )
        inputs.append(x)
        targets.append(y)
    if not inputs:
        raise DataError(f"{name}: no samples; it yielded nothing (a generator that was used up before?)")
    return Data(torch.cat(inputs), torch.cat(targets), name=name)
