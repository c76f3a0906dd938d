"""What a command says: data on stdout, notes and progress on stderr."""

import contextlib
import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from landform.cli.encoding import encodable

if TYPE_CHECKING:
    from rich.console import Console

_consoles: "list[Console]" = []


def forget_consoles() -> None:
    """Make the next message find out anew where stderr goes."""
    _consoles.clear()


def stderr() -> "Console":
    """Return the console for notes and progress; it colours and animates on a terminal only."""
    if not _consoles:
        from rich.console import Console

        _consoles.append(Console(stderr=True, highlight=False, soft_wrap=True, emoji=False))
    return _consoles[0]


class Voice:
    """How much a command says on stderr.

    Args:
        quiet: Say nothing but errors.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet = quiet

    @property
    def animated(self) -> bool:
        """Whether progress is shown: on a terminal, unless quiet."""
        return not self.quiet and stderr().is_terminal

    def note(self, text: str) -> None:
        """Write one note."""
        if not self.quiet:
            stderr().print(text, style="dim", markup=False)

    @contextlib.contextmanager
    def step(self, what: str) -> Iterator[None]:
        """Show a spinner with the elapsed time while something runs."""
        if not self.animated:
            yield
            return
        from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
        with Progress(*columns, console=stderr(), transient=True) as progress:
            progress.add_task(what, total=None)
            yield


def error_line(text: str, *, label: str = "error: ") -> None:
    """Write an error on stderr, whatever ``--quiet`` says."""
    console = stderr()
    if label:
        console.print(label, style="bold red", end="", markup=False)
    console.print(text, markup=False)


def say(text: str) -> None:
    """Write a line of data on stdout."""
    sys.stdout.write(text + "\n")


def table(rows: Sequence[tuple[str, object]], *, indent: str = "") -> str:
    """Lay out names and values in two columns.

    Args:
        rows: Names and values; rows whose value is None are left out.
        indent: Written before every line.

    Returns:
        The lines.

    Example:
        >>> print(table([("bundle", "cat.landform"), ("z", 2), ("left out", None)]))
        bundle  cat.landform
        z       2
    """
    shown = [(name, str(value)) for name, value in rows if value is not None]
    width = max((len(name) for name, _ in shown), default=0)
    lines = []
    for name, value in shown:
        first, *more = value.split("\n")
        lines.append(f"{indent}{name:<{width}}  {first}".rstrip())
        lines += [f"{indent}{'':<{width}}  {line}" for line in more]
    return "\n".join(lines)


def say_json(result: Mapping[str, Any]) -> None:
    """Write exactly one JSON object on stdout; numbers that are not finite become null."""
    text = json.dumps(plain(result), indent=2, ensure_ascii=False, allow_nan=False)
    say(text if encodable(text) else json.dumps(plain(result), indent=2, allow_nan=False))


def plain(value: Any) -> Any:
    """Return a value in JSON types.

    Example:
        >>> plain({"bound": float("inf"), "range": (0.0, 1.0)})
        {'bound': None, 'range': [0.0, 1.0]}
    """
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, bool) or value is None or isinstance(value, str | int):
        return value
    if hasattr(value, "item") and not isinstance(value, float):
        return plain(value.item())  # a NumPy number
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return str(value)
