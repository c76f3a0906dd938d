"""How a loader is read: in order and completely where it may be, and what is random about it found out first."""

from collections.abc import Callable, Iterator, Sized
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, SequentialSampler

from landform.errors import DataError, unknown_name
from landform.randomness import seed_all

PROBED = 4
"""Samples that are read twice."""
LONGEST = 10_000_000
"""Draws of a sampler that are compared with the data set."""


def check_allow(allow: object, known: tuple[str, ...]) -> tuple[str, ...]:
    """Check names of findings that a user accepts.

    Args:
        allow: One name or several.
        known: Names that exist.

    Returns:
        The names.

    Raises:
        UnknownNameError: Another, with the nearest.
    """
    names = (allow,) if isinstance(allow, str) else tuple(allow)  # type: ignore[arg-type]
    for name in names:
        if name not in known:
            raise unknown_name("finding in allow=", str(name), known)
    return names


def in_order(loader: "DataLoader[Any]", allow: tuple[str, ...]) -> "DataLoader[Any]":
    """Return a loader that visits every sample once and in order, if that is what the given one does in some order.

    A loader that shuffles, or drops its last batch, is read through its data set: the loss over the data set does not
    depend on the order, and leaves nothing out. One whose sampler draws other samples in each pass has no data set that
    a loss could be the mean over.

    Args:
        loader: The loader.
        allow: With ``"shuffle"`` among them, one pass of such a sampler is the data set.

    Returns:
        Another loader over the same data set, or this one where its sampler takes a fixed selection.

    Raises:
        DataError: A sampler that draws anew, and ``"shuffle"`` not allowed.
    """
    if isinstance(loader.dataset, IterableDataset) or not isinstance(loader.dataset, Sized):
        return loader
    if loader.batch_size is None and loader.batch_sampler is None:
        return loader
    plain = loader.batch_size is not None
    whole = plain and isinstance(loader.sampler, SequentialSampler)
    if not whole:
        first, second = (_draws(loader, seed) for seed in (1, 2))
        whole = sorted(first) == list(range(len(loader.dataset)))
        if not whole and first != second and "shuffle" not in allow:
            raise DataError(
                f"{type(loader.dataset).__name__}: two passes of its loader visit different samples "
                f"({', '.join(map(str, first[:3]))}, … and {', '.join(map(str, second[:3]))}, …), so there is no data "
                "set to be the mean over; pass the data set itself, or allow='shuffle' to take one pass as it comes"
            )
    if not whole:
        return loader
    return DataLoader(
        loader.dataset,
        batch_size=loader.batch_size or PROBED,
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        worker_init_fn=loader.worker_init_fn,
    )


def _draws(loader: "DataLoader[Any]", seed: int) -> list[int]:
    """List the samples of one pass; the caller puts the random state back."""
    seed_all(seed)
    if loader.batch_size is not None:
        return list(islice(iter(loader.sampler), LONGEST))
    assert loader.batch_sampler is not None
    return list(islice((int(i) for batch in loader.batch_sampler for i in batch), LONGEST))


def refuse_augmentation(read: Callable[[], Any], name: str, allow: tuple[str, ...]) -> None:
    """Read the same samples twice and compare; the caller puts the random state back.

    Args:
        read: Reads a few samples.
        name: What the data are called.
        allow: With ``"augmentation"`` among them nothing is refused.

    Raises:
        DataError: Two reads differ.
    """
    if "augmentation" in allow:
        return
    seed_all(1)
    first = read()
    seed_all(2)
    second = read()
    if not _same(first, second):
        raise DataError(
            f"{name}: two reads of the same samples differ, so it augments at random (or masks tokens, or adds noise); "
            "measure on data without that, or pass allow='augmentation' to take one draw of it as the data set"
        )


def _same(a: Any, b: Any) -> bool:
    left, right = (list(_leaves(value)) for value in (a, b))
    if len(left) != len(right):
        return False
    for x, y in zip(left, right, strict=True):
        if isinstance(x, Tensor) and isinstance(y, Tensor):
            same = x.shape == y.shape and x.dtype == y.dtype and torch.equal(torch.nan_to_num(x), torch.nan_to_num(y))
        elif hasattr(x, "__array__"):
            same = bool(np.array_equal(np.asarray(x), np.asarray(y)))
        elif isinstance(x, int | float | str | bytes | bool | None):
            same = x == y or x != x
        else:
            same = True  # what cannot be compared is not accused
        if not same:
            return False
    return True


def _leaves(value: Any) -> Iterator[Any]:
    if hasattr(value, "items") and hasattr(value, "keys"):
        for part in value.values():
            yield from _leaves(part)
    elif isinstance(value, tuple | list):
        for part in value:
            yield from _leaves(part)
    else:
        yield value
