"""The verb ``import``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from peftkit.compare.importing import import_file


def import_results(system: str, files: Sequence[str], output: str) -> int:
    """Makes a run directory of each file, and prints it.

    Raises:
        InputError: a file is none of that system; those before it are there.
        RunError: a run directory cannot be written.
    """
    for file in files:
        print(import_file(system, Path(file), Path(output)))
    return 0
