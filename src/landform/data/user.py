"""``module:loader``: run the user's own code, which happens only because the user named it."""

import contextlib
import importlib
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path

from landform.errors import DataError, unknown_name


def call_loader(spec: str, *, split: str | None) -> tuple[object, bool]:
    """Import ``module``, find ``loader`` in it, and call it.

    The current folder is importable meanwhile, as in ``python -m``. A loader that has a parameter ``split`` gets the
    split by that name, ``"train"`` unless another is asked for. Something that cannot be called is taken as the data.

    Args:
        spec: ``"package.module:name"``; the name may have dots.
        split: The split asked for.

    Returns:
        What the loader returned, and whether it chose the split itself.

    Raises:
        DataError: The module cannot be imported, or the loader raises.
        UnknownNameError: The module has no such name, with the nearest.
    """
    module_name, _, attribute = spec.partition(":")
    if not module_name or not attribute:
        raise DataError(f"{spec!r}: wanted 'module:loader', such as 'mypackage.data:train'")
    with _importable_here():
        try:
            found: object = importlib.import_module(module_name)
        except Exception as error:
            raise DataError(
                f"{spec}: importing {module_name} failed: {type(error).__name__}: {error} "
                f"(searched {Path.cwd()} and sys.path)"
            ) from error
        owner = f"module {module_name}"
        for part in attribute.split("."):
            if not hasattr(found, part):
                public = [name for name in dir(found) if not name.startswith("_")]
                raise unknown_name(f"attribute of {owner}", part, public)
            found = getattr(found, part)
            owner = f"{owner}.{part}"
        if not callable(found):
            return found, False
        try:
            own = "split" in inspect.signature(found).parameters
        except (TypeError, ValueError):
            own = False
        try:
            return (found(split=split or "train") if own else found()), own
        except Exception as error:
            raise DataError(f"{spec} raised {type(error).__name__}: {error}") from error


@contextlib.contextmanager
def _importable_here() -> Iterator[None]:
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(here)
