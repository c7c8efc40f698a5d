"""How errors reach the terminal: once for all processes of a launch, without a traceback."""

from __future__ import annotations

import sys

from peftkit.distributed.environment_variables import is_main_process


def print_error(text: str) -> None:
    """Prints an error on standard error.

    Args:
        text: One line, or one problem a line.
    """
    _print_once(f"peftkit: errors:\n{text}" if "\n" in text else f"peftkit: error: {text}")


def print_interrupted(text: str = "interrupted") -> None:
    """Prints that a signal ended the command; ``text`` may add how to resume."""
    _print_once(text)


def _print_once(text: str) -> None:
    """Prints on rank 0 only: every process of a launch meets the same error."""
    if is_main_process() and sys.stderr is not None:
        print(text, file=sys.stderr, flush=True)
