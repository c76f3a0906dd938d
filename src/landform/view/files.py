"""Writing a file whole or not at all."""

import contextlib
import os
import tempfile
from pathlib import Path


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file beside its place, then move it there: a full disk or Ctrl-C leaves the old one untouched.

    Args:
        path: The file.
        content: Its bytes.

    Example:
        >>> file = getfixture("tmp_path") / "note.txt"
        >>> write_atomically(file, b"new")
        >>> file.read_text(), len(list(file.parent.iterdir()))
        ('new', 1)
    """
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(name, 0o666 & ~umask)  # mkstemp's files are the user's alone  # noqa: PTH101
        os.replace(name, path)  # noqa: PTH105
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)  # noqa: PTH108
        raise
