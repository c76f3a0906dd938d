"""Patterns from one string, as a command line has them."""

import inspect
import re
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

from landform.errors import InputError, unknown_name
from landform.pattern.files import require_file
from landform.pattern.pattern import Pattern

_PREFIXES: dict[str, Callable[..., Pattern]] = {
    "text": Pattern.from_text,
    "qr": Pattern.from_qr,
    "formula": Pattern.from_formula,
}
_HINT = "; a pattern is an image file, an .npy file, text:HELLO, qr:TEXT, formula:NAME, or demo"


def parse(spec: str, **options: Any) -> Pattern:
    r"""Do the work of `Pattern.parse`. In ``text:`` the two characters ``\n`` start a new line.

    Example:
        >>> parse(r"text:up\ndown", resolution=16).source["text"]
        'up\ndown'
    """
    if not isinstance(spec, str) or not spec.strip():
        raise InputError(f"the pattern is empty ({spec!r}){_HINT}")
    given = {name: value for name, value in options.items() if value is not None}
    if spec == "demo":
        return demo(**given)
    prefix, colon, rest = spec.partition(":")
    if colon and prefix in _PREFIXES:
        if prefix == "text":
            rest = rest.replace("\\n", "\n")
        return _call(_PREFIXES[prefix], f"{prefix}:", rest, given)
    if spec.startswith(("http://", "https://")):
        raise InputError(f"{spec} is an address; download it first and give the file, or write qr:{spec} for its code")
    if re.fullmatch(r"[a-z]{2,}", prefix) and colon and not Path(spec).exists():
        raise unknown_name("pattern prefix", prefix, _PREFIXES)
    file = require_file(spec, hint=_HINT)
    if file.suffix.lower() == ".npy":
        return _call(Pattern.from_npy, "an .npy file", file, given)
    return _call(Pattern.from_image, "an image", file, given)


def demo(**options: Any) -> Pattern:
    """Read the bundled photograph, with the options of `Pattern.from_image`.

    Example:
        >>> demo(resolution=16).name
        'demo'
    """
    with resources.as_file(resources.files("landform.pattern") / "demo.png") as file:
        pattern = _call(Pattern.from_image, "demo", file, options)
    return Pattern(
        pattern.values, name="demo", channels=pattern.channels, source=pattern.source, original=pattern.original
    )


def _call(make: Callable[..., Pattern], what: str, first: object, options: dict[str, Any]) -> Pattern:
    """Call a source with options that it has; name them where one is not among them."""
    parameters = inspect.signature(make).parameters.values()
    known = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
    takes_more = any(p.kind is p.VAR_KEYWORD for p in parameters)  # a formula names its own
    strange = sorted(set(options) - set(known))
    if strange and not takes_more:
        raise InputError(f"{what} has no option {', '.join(map(repr, strange))}; its options: {', '.join(known)}")
    return make(first, **options)
