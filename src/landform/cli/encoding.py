"""Output on terminals and in files whose encoding lacks a sign: ``x`` stands for ``×``, its number for an emoji."""

import codecs
import contextlib
import re
import sys
import unicodedata
from collections.abc import Iterator

_SIGNS = str.maketrans(
    {
        "×": "x", "·": "*", "−": "-", "–": "-", "—": "-", "…": "...", "±": "+-", "≤": "<=", "≥": ">=", "≈": "~",
        "→": "->", "←": "<-", "√": "sqrt", "∞": "inf", "½": "1/2", "∈": "in", "‖": "||", "ℓ": "l", "∂": "d",
        "§": "sec. ", "µ": "u", "─": "-", "│": "|",
    }
)  # fmt: skip
_RAISED = re.compile("[⁺⁻⁰¹²³⁴-⁹]+")
_POWERS = str.maketrans("⁺⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "+-0123456789")
_GREEK = re.compile("GREEK (?:SMALL|CAPITAL) LETTER (LAMDA|[A-Z]+)$")


def spelled(text: str) -> str:
    r"""Spell signs that are not ASCII: those of mathematics as usual in plain text, others by their number.

    Args:
        text: Any text.

    Returns:
        ASCII.

    Example:
        >>> spelled("64×3, ±10⁻³, σ ≥ ½ … 😀")
        '64x3, +-10^-3, sigma >= 1/2 ... \\U0001f600'
    """
    text = _RAISED.sub(lambda match: "^" + match[0].translate(_POWERS), text).translate(_SIGNS)
    return "".join(_letter(sign) for sign in text).encode("ascii", "backslashreplace").decode("ascii")


@contextlib.contextmanager
def writable() -> Iterator[None]:
    """Let stdout and stderr spell what their encoding lacks, for as long as this is entered.

    Where somebody chose what happens to such signs, as with ``PYTHONIOENCODING=ascii:replace``, it stays so.
    """
    codecs.register_error("landform.spelled", _spell)
    before = []
    for stream in (sys.stdout, sys.stderr):
        errors = getattr(stream, "errors", None)
        if errors in ("strict", "surrogateescape", "backslashreplace") and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="landform.spelled")
            before.append((stream, errors))
    try:
        yield
    finally:
        for stream, errors in before:
            if not stream.closed:
                stream.reconfigure(errors=errors)


def encodable(text: str) -> bool:
    """Return whether stdout has every sign of a text; where it has no encoding, as in a notebook, it has.

    Example:
        >>> encodable("plain")
        True
    """
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _letter(sign: str) -> str:
    found = None if sign.isascii() else _GREEK.match(unicodedata.name(sign, ""))
    if found is None:
        return sign
    name = "lambda" if found[1] == "LAMDA" else found[1].lower()
    return name.capitalize() if sign.isupper() else name


def _spell(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return spelled(error.object[error.start : error.end]), error.end
