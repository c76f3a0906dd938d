"""Errors: what was got, what was wanted, what to do.

Every error that landform raises on purpose derives from `LandformError` *and* from the builtin that a caller would
expect (`ValueError`, `FileNotFoundError`, …), so both ``except LandformError`` and ``except ValueError`` work.
"""

import difflib
from collections.abc import Iterable


class LandformError(Exception):
    """Base class of every error raised on purpose by landform."""


class InputError(LandformError, ValueError):
    """A value handed to landform cannot be used: wrong shape, range, dtype or content."""


class UnknownNameError(LandformError, LookupError):
    """A name (loss, pattern, data set, method) that landform does not know."""


class CapacityError(LandformError, ValueError):
    """The pattern needs more units, width or depth than the network has."""


class FloorError(LandformError, ValueError):
    """The range reaches below the least loss that an input-independent output can have."""


class ArchitectureError(LandformError, TypeError):
    """A module, parameter or layer that the compiler cannot use as it is."""


class DataError(LandformError, ValueError):
    """A data set that is missing, empty or does not fit the loss."""


class BundleError(LandformError, OSError):
    """A bundle on disk that is missing a file, corrupted, or of an unknown version."""


class StoreError(LandformError, OSError):
    """A store of scan results that cannot be read or written, or that belongs to another scan."""


class OutputError(LandformError, OSError):
    """A file that cannot be written: no room, no permission, no such folder."""


class ExecutorError(LandformError, RuntimeError):
    """Workers of a scan that cannot be reached, or that died."""


class MemoryLimitError(LandformError, MemoryError):
    """Not enough memory, even for a single sample."""


class MissingExtraError(LandformError, ImportError):
    """An optional dependency that is not installed; the message names the install command."""


def unknown_name(kind: str, got: str, known: Iterable[str]) -> UnknownNameError:
    """Build the error for an unknown name, with the nearest known one.

    Args:
        kind: What the name stands for, e.g. ``"loss"``.
        got: The name that was given.
        known: The names that exist.

    Returns:
        The error, to be raised by the caller.

    Example:
        >>> str(unknown_name("loss", "cross_entrpy", ["cross_entropy", "mse"]))
        "unknown loss 'cross_entrpy': did you mean 'cross_entropy'? Known: cross_entropy, mse"
    """
    names = sorted(known)
    near = difflib.get_close_matches(got, names, n=1, cutoff=0.5)
    hint = f": did you mean '{near[0]}'?" if near else "."
    return UnknownNameError(f"unknown {kind} '{got}'{hint} Known: {', '.join(names)}")
