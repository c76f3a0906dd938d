"""The application: its commands, and `main`, which runs one and returns an exit code."""

import inspect
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from cyclopts import App, CycloptsError, MissingArgumentError

from landform.cli.certify import CERTIFY_EPILOGUE, certify
from landform.cli.encoding import writable
from landform.cli.exits import ERROR, guarded
from landform.cli.imprint import IMPRINT_EPILOGUE, imprint
from landform.cli.info import INFO_EPILOGUE, info, version
from landform.cli.phantom import PHANTOM_EPILOGUE, phantom
from landform.cli.plan import PLAN_EPILOGUE, plan
from landform.cli.scan import SCAN_EPILOGUE, scan
from landform.cli.terminal import error_line, forget_consoles
from landform.cli.tokens import spread

SUMMARY = "Make networks whose loss surface is any picture you choose, with a certificate, and check them."

EPILOGUE = """\
Example:
  landform imprint demo              make a network whose loss is a picture
  landform imprint text:HELLO        a word; also qr:…, formula:NAME, cat.png
  landform certify demo.landform     prove it again from the saved weights
  landform info                      formulas, losses and data sets to choose from

Results go to stdout, notes and progress to stderr; every command has --json.

Exit codes: 0 done (certify: the bound holds), 1 certify: the bound does not hold, 2 an error, 130 interrupted.

--debug anywhere, or LANDFORM_DEBUG=1 in the environment, shows the traceback of an error."""

COMMANDS: dict[str, tuple[Callable[..., int], str, str]] = {
    "imprint": (imprint, "landform imprint PATTERN [OPTIONS]", IMPRINT_EPILOGUE),
    "certify": (certify, "landform certify BUNDLE [OPTIONS]", CERTIFY_EPILOGUE),
    "scan": (scan, "landform scan BUNDLE|MODULE:FACTORY [OPTIONS]", SCAN_EPILOGUE),
    "plan": (plan, "landform plan [OPTIONS]", PLAN_EPILOGUE),
    "phantom": (phantom, "landform phantom NAME [OPTIONS]", PHANTOM_EPILOGUE),
    "info": (info, "landform info [BUNDLE] [OPTIONS]", INFO_EPILOGUE),
}
"""Every command: its function, its usage line, and what its help ends with."""


def build_app() -> App:
    """Put the commands together.

    Returns:
        The application, which parses and shows help; `main` runs it.
    """
    app = App(
        name="landform",
        help=SUMMARY,
        help_epilogue=EPILOGUE,
        help_format="plaintext",
        usage="Usage: landform COMMAND [OPTIONS]",
        version=version,
        suppress_keyboard_interrupt=False,
    )
    for name, (function, usage, epilogue) in COMMANDS.items():
        app.command(
            function,
            name=name,
            help=paragraphs(function.__doc__ or ""),
            usage=f"Usage: {usage}",
            help_epilogue=epilogue,
            help_format="plaintext",
        )
    return app


def paragraphs(docstring: str) -> str:
    r"""Join the lines of each paragraph, so that help is wrapped to the terminal.

    Example:
        >>> paragraphs("Say it.\n\n    At length\n    and in two lines.\n    ")
        'Say it.\n\nAt length and in two lines.'
    """
    return "\n\n".join(" ".join(part.split()) for part in inspect.cleandoc(docstring).split("\n\n"))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: What follows ``landform`` on the command line; None takes it from ``sys.argv``.

    Returns:
        The exit code: 0 done, 1 a certificate that does not hold, 2 an error, 130 interrupted.
    """
    tokens = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in tokens or os.environ.get("LANDFORM_DEBUG", "") not in ("", "0")
    tokens = [word for word in tokens if word != "--debug"]
    forget_consoles()
    app = build_app()
    with writable():
        try:
            command, bound, _ = app.parse_args(spread(tokens), exit_on_error=False, print_error=False)
        except CycloptsError as error:
            return _misused(error, tokens)
        return guarded(lambda: command(*bound.args, **bound.kwargs), debug=debug)


def _misused(error: CycloptsError, tokens: Sequence[str]) -> int:
    """Say what is wrong with the words on the command line, and how the command is used."""
    error.verbose = False
    name = next((token for token in tokens if token in COMMANDS), None)
    if isinstance(error, MissingArgumentError) and name is not None and error.argument is not None:
        wanted = error.argument
        error_line(f"{name} needs {wanted.name}: {wanted.parameter.help or ''}".rstrip(": "))
    else:
        error_line(str(error).strip())
    usage = COMMANDS[name][1] if name else "landform COMMAND [OPTIONS]"
    file = Path(tokens[0]) if tokens else None
    if name is None and file is not None and file.exists():
        error_line(f"To imprint that file: landform imprint {file}", label="")
    error_line(f"Usage: {usage}\nTry: landform {name + ' ' if name else ''}--help", label="")
    return ERROR
