"""The global random states: put back after use, seeded only inside."""

import contextlib
import random
from collections.abc import Iterator, Sequence

import numpy as np
import torch


@contextlib.contextmanager
def random_as_found(devices: Sequence[int] = ()) -> Iterator[None]:
    """Put the global random states of PyTorch, NumPy and Python back afterwards.

    Args:
        devices: Numbers of CUDA devices whose states are put back too.

    Yields:
        Nothing.

    Example:
        >>> with random_as_found():
        ...     inside = torch.rand(1), random.random()
        >>> (torch.rand(1), random.random()) == inside
        True
    """
    python = random.getstate()
    legacy = np.random.get_state()  # noqa: NPY002  the global state is what augmentations draw from
    with torch.random.fork_rng(devices=list(devices)):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(legacy)  # noqa: NPY002


def seed_all(seed: int) -> None:
    """Seed PyTorch, NumPy and Python, within a context that puts their states back.

    Args:
        seed: The seed.
    """
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002  what augmentations draw from
    random.seed(seed)
