"""Writing a file whole or not at all."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from landform.errors import OutputError


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file beside its place, then move it there: a full disk or Ctrl-C leaves the old one untouched.

    Args:
        path: The file.
        content: Its bytes.

    Raises:
        OutputError: No room, no permission, no such folder.

    Example:
        >>> file = getfixture("tmp_path") / "note.txt"
        >>> write_atomically(file, b"new")
        >>> file.read_text(), len(list(file.parent.iterdir()))
        ('new', 1)
    """
    with said(path), draft_beside(path) as draft:
        draft.write_bytes(content)
        umask = os.umask(0)
        os.umask(umask)
        draft.chmod(0o666 & ~umask)  # mkstemp's files are the user's alone
        draft.replace(path)


@contextlib.contextmanager
def draft_beside(path: Path) -> Iterator[Path]:
    """Make an empty file beside a place, which is gone afterwards unless it was moved.

    Args:
        path: The place.
    """
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:100]}.", suffix=".part")
    os.close(handle)
    try:
        yield Path(name)
    finally:
        with contextlib.suppress(OSError):
            Path(name).unlink(missing_ok=True)


@contextlib.contextmanager
def said(path: Path) -> Iterator[None]:
    """Name the file, and not the draft beside it, in an error of the system.

    Args:
        path: The file that is written.

    Raises:
        OutputError: In place of another OSError.

    Example:
        >>> with said(Path("s.csv")):
        ...     raise OSError(28, "No space left on device", ".s.csv.part")
        Traceback (most recent call last):
            ...
        landform.errors.OutputError: cannot write s.csv: No space left on device
    """
    try:
        yield
    except OutputError:
        raise
    except OSError as error:
        kept = "; the file that is there is as it was" if os.path.exists(path) else ""  # noqa: PTH110 - no error of its own
        raise OutputError(f"cannot write {path}: {error.strerror or error}{kept}") from error
