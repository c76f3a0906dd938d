"""Exit codes, and what becomes of an exception: one line for the user, a traceback only on request."""

import os
import re
import sys
import traceback
import warnings
from collections.abc import Callable

from landform.cli.terminal import Voice, error_line
from landform.errors import LandformError

DONE, DOES_NOT_HOLD, ERROR, INTERRUPTED, BROKEN_PIPE = 0, 1, 2, 130, 141

_FLAGS = (
    *("allow_constant", "axes", "axis_aligned", "background", "colour", "contrast", "convex", "direct", "dtype"),
    *("epsilon", "fit", "force", "form", "grid", "invert", "loss", "method", "model", "other", "range", "resolution"),
    *("scale", "schedule", "split", "tolerance", "widths", "z", "batch_norm", "batch_size", "biases", "checkpoints"),
    *("confidence", "dask", "device", "engine", "exclude", "include", "metrics", "norm", "plane", "seed", "store"),
    *("subset", "workers"),
)
_ASSIGNED = re.compile(rf"\b({'|'.join(_FLAGS)})=('[^']*'|True|False|[-+.\w]+|…)")
_FIRST = re.compile(rf"^({'|'.join(_FLAGS)})(?= must| is | are | has | \()")
_CALLS = (
    (r" \(force=True\)", ""),
    (r"verify=False", "--ignore-hashes"),
    (r"(build the network and pass it, )?(lf\.)?load\(path, model=[^)]*\)+", "pass --model module:factory"),
    (r"(pass )?(lf\.)?load\(path, loss=[^)]*\)+", "pass --loss module:fn"),
    (r"axes=\((\d+), (\d+)\)", r"--axes \1 \2"),
    (r"^range(?= \()", "--range"),
    (r"\branges=…", "--range LO HI"),
    (r"\b(subset|tolerance|points|check|workers|dask)=(?=[ ;,]|$)", r"--\1"),
)
"""Calls that messages of the library recommend, and what to say instead."""
_OPTIONS = re.compile(r"has no option (.+?); its options: ([\w, ]+)")


def guarded(command: Callable[[], object], *, debug: bool) -> int:
    """Run a command and turn whatever happens into an exit code.

    Args:
        command: The command; an int that it returns is its exit code, anything else means 0.
        debug: Show tracebacks.

    Returns:
        The exit code.

    Example:
        >>> guarded(lambda: None, debug=False), guarded(lambda: 1, debug=False)
        (0, 1)
    """
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _shown
            result = command()
        sys.stdout.flush()
    except BrokenPipeError:
        # nobody reads on; keep Python from trying to flush the rest at exit
        with open(os.devnull, "w") as nowhere:  # noqa: PTH123
            _point_stdout_at(nowhere.fileno())
        return BROKEN_PIPE
    except KeyboardInterrupt:
        error_line("interrupted; nothing was left half-written", label="")
        return INTERRUPTED
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else ERROR
    except (LandformError, OSError, MemoryError) as error:
        if debug:
            traceback.print_exc()
        error_line(explain(error))
        return ERROR
    except Exception as error:  # a bug of ours: say so in one line
        if debug:
            traceback.print_exc()
        error_line(
            f"unexpected {type(error).__name__}: {error}\n"
            "This is a mistake in landform; please report it with what --debug shows."
        )
        return ERROR
    return result if isinstance(result, int) else DONE


def explain(error: BaseException) -> str:
    """Return an error's message in the words of the command line.

    Args:
        error: What was raised.

    Returns:
        The message, with keyword arguments written as flags.

    Example:
        >>> explain(ValueError("pass range='auto', fit='stretch' or axis_aligned=False"))
        'pass --range auto, --fit stretch or --no-axis-aligned'
        >>> explain(ValueError("an image has no option 'z'; its options: resolution, allow_constant"))
        'an image has no option --z; its options: --resolution, --allow-constant'
    """
    if isinstance(error, MemoryError):
        return "not enough memory; lower --resolution, or try --form strips"
    text = str(error) or type(error).__name__
    if isinstance(error, OSError) and not isinstance(error, LandformError) and error.strerror:
        text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    for pattern, words in _CALLS:
        text = re.sub(pattern, words, text)
    text = _FIRST.sub(lambda match: flag(match[1]), text)
    return _OPTIONS.sub(_listed, _ASSIGNED.sub(_as_flag, text))


def flag(name: str) -> str:
    """Return the flag of a keyword argument.

    Example:
        >>> flag("allow_constant")
        '--allow-constant'
    """
    return "--" + name.replace("_", "-")


def _shown(message: Warning | str, *_: object, **__: object) -> None:
    Voice().note(f"warning: {message}")


def _as_flag(match: re.Match[str]) -> str:
    name, value = match[1], match[2].strip("'")
    if value == "True":
        return flag(name)
    return flag(f"no_{name}") if value == "False" else f"{flag(name)} {value}"


def _listed(match: re.Match[str]) -> str:
    got = ", ".join(flag(name.strip(" '")) for name in match[1].split(","))
    known = ", ".join(flag(name.strip()) for name in match[2].split(",") if name.strip() in _FLAGS)
    return f"has no option {got}; its options: {known or 'none'}"


def _point_stdout_at(descriptor: int) -> None:
    try:
        os.dup2(descriptor, sys.stdout.fileno())
    except (OSError, ValueError):  # stdout is no file, as in tests
        return
