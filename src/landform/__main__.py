"""Run the command line as ``python -m landform``."""

import sys

from landform.cli import main

if __name__ == "__main__":
    sys.exit(main())
