"""Look at a file before trusting it."""

from os import PathLike
from pathlib import Path

from landform.errors import InputError

_SIGNATURES = {
    b"%PDF": "a PDF document",
    b"%!PS": "PostScript, which is a program and never run",
    b"\x93NUMPY": "a NumPy array (.npy)",
    b"PK": "a zip archive (.npz, .pt and office files are such)",
    b"\x1f\x8b": "gzip data",
    b"\x80": "perhaps a Python pickle, which is never loaded",
    b"<svg": "SVG; convert it to PNG first",
    b"<?xml": "XML, perhaps SVG; convert it to PNG first",
    b"<!DOCTYPE": "HTML",
    b"<html": "HTML",
    b"\x89PNG": "PNG data",
    b"\xff\xd8\xff": "JPEG data",
}


def require_file(path: str | PathLike[str], hint: str = "") -> Path:
    """Return the path if it names a file, else raise an InputError.

    Example:
        >>> require_file("no/such.png")
        Traceback (most recent call last):
        landform.errors.InputError: no such file: no/such.png
    """
    file = Path(path)
    try:
        if file.is_dir():
            raise InputError(f"{file} is a folder, wanted a file")
        if not file.is_file():
            raise InputError(f"no such file: {file}{hint}")
    except (OSError, ValueError) as error:  # a name too long, or with a null character
        if isinstance(error, InputError):
            raise
        raise InputError(f"no such file: {str(file)[:200]!r}{hint}") from error
    return file


def describe(file: Path) -> str:
    """Say in a few words what a file seems to hold, from its first bytes.

    Example:
        >>> page = getfixture("tmp_path") / "page.png"
        >>> _ = page.write_text("<html>404</html>")
        >>> describe(page)
        'HTML'
    """
    with file.open("rb") as stream:
        start = stream.read(64)
    if not start:
        return "an empty file"
    for signature, words in _SIGNATURES.items():
        if start.lstrip().lower().startswith(signature.lower()):
            return words
    if all(byte >= 32 or byte in b"\t\n\r" for byte in start):
        return f"text beginning {start[:24]!r}"
    return f"bytes beginning {start[:8]!r}"
