"""Options that take several numbers: ``--resolution 64 32``, ``--range 2.4 3.4``, ``--grid 33``.

The parser knows one value an option. Numbers that follow such an option are therefore given to it one by one before
parsing, and the first word that is no number belongs to what comes next: ``--resolution 64 cat.png`` does what it says,
and so does ``--range -1 1``.
"""

import re
from collections.abc import Sequence

SEVERAL = ("--resolution", "--range", "--grid", "--axes", "--widths")
"""The options that take several numbers."""

_NUMBER = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?|[-+]?inf|nan")


def spread(tokens: Sequence[str]) -> list[str]:
    """Repeat an option of several numbers for each number.

    Args:
        tokens: Words of a command line.

    Returns:
        The words for the parser.

    Example:
        >>> spread(["imprint", "--range", "-1", "1", "cat.png", "--range", "auto"])
        ['imprint', '--range=-1', '--range=1', 'cat.png', '--range', 'auto']
    """
    out: list[str] = []
    position = 0
    while position < len(tokens):
        token = tokens[position]
        position += 1
        if token == "--":  # noqa: S105 - what follows are no options
            return [*out, token, *tokens[position:]]
        name, equals, value = token.partition("=")
        if name not in SEVERAL:
            out.append(token)
            continue
        numbers = re.split(r"[,x×\s]+", value.strip()) if equals else []
        while not equals and position < len(tokens) and _NUMBER.fullmatch(tokens[position]):
            numbers.append(tokens[position])
            position += 1
        out += [f"{name}={number}" for number in numbers] or [token]
    return out
