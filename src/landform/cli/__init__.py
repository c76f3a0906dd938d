"""The command line: a thin layer that parses, calls the public functions and formats what they return.

Nothing here imports torch before a command runs, so that help is quick.
"""

from landform.cli.app import main

__all__ = ["main"]
