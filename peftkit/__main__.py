"""Runs the command line, for ``python -m peftkit`` and ``accelerate launch -m peftkit``."""

import sys

from peftkit.cli import main

if __name__ == "__main__":
    sys.exit(main())
