"""Write docs/cli.md from the help of every command; ``python docs/generate_cli.py`` after a change of the options."""

import io
import sys
from pathlib import Path

from rich.console import Console

from landform.cli.app import COMMANDS, build_app

PAGE = Path(__file__).with_name("cli.md")
WIDTH = 100
HEAD = """\
# The command line

This page is what `--help` prints; `python docs/generate_cli.py` writes it.
"""


def help_of(*command: str) -> str:
    """Return what ``landform COMMAND --help`` prints on a plain terminal of a fixed width."""
    stream = io.StringIO()
    build_app().help_print(list(command), console=Console(file=stream, width=WIDTH, color_system=None))
    return "\n".join(line.rstrip() for line in stream.getvalue().strip().splitlines())


def page() -> str:
    """Return the whole page."""
    parts = [HEAD, f"## landform\n\n```text\n{help_of()}\n```\n"]
    parts += [f"## landform {name}\n\n```text\n{help_of(name)}\n```\n" for name in COMMANDS]
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    sys.stderr.write(f"wrote {PAGE}\n")
