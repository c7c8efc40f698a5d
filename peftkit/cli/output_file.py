"""The file of ``--output``: checked before the work starts, and emptied when the first result is there."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from peftkit.argument_names import format_argument
from peftkit.errors import InputError, RunError


class OutputFile:
    """Standard output, or a file that keeps its old content until something is written.

    Args:
        name: The file's name, for error messages.
        file: The file, opened to append; None for standard output.
    """

    def __init__(self, name: str, file: TextIO | None) -> None:
        self.name, self._file, self.is_written = name, file, False

    @property
    def stream(self) -> TextIO:
        """The stream that is written to."""
        return self._file or sys.stdout

    def print_line(self, text: str) -> None:
        """Write a line and flush it.

        Args:
            text: The line, without a line break.

        Raises:
            RunError: The file cannot be written.
        """
        if self._file is None:
            print(text, flush=True)
            return
        try:
            if not self.is_written and stat.S_ISREG(os.fstat(self._file.fileno()).st_mode):
                self._file.truncate(0)
            self.is_written = True
            print(text, file=self._file, flush=True)
        except OSError as error:
            raise RunError(f"{self.name} cannot be written: {error.strerror}") from error


@contextmanager
def open_output(path: str | None, source: str | None) -> Iterator[OutputFile]:
    """Open the file of ``--output`` before the work starts, so that an invalid one costs no results.

    Args:
        path: The file; None for standard output.
        source: The file that is read meanwhile; None for standard input.

    Yields:
        The output. A new file is removed if nothing was written to it.

    Raises:
        InputError: The file cannot be opened, or is the one that is read.
    """
    if path is None:
        yield OutputFile("standard output", None)
        return
    is_new = not os.path.exists(path)
    if not is_new and _is_same_file(path, source):
        raise InputError(f"{format_argument('output')}: {path!r} is the file that is read; write to another one")
    try:
        file = Path(path).open("a", encoding="utf-8")  # noqa: SIM115 - closed below
    except OSError as error:
        raise InputError(f"{path!r}: {error.strerror}") from error
    output = OutputFile(path, file)
    try:
        yield output
    finally:
        with suppress(OSError):  # what could not be written was reported
            file.close()
        if is_new and not output.is_written:
            Path(path).unlink(missing_ok=True)


def _is_same_file(path: str, source: str | None) -> bool:
    """Whether a regular file is also the source."""
    try:
        read = os.fstat(sys.stdin.fileno()) if source is None else os.stat(source)
    except (OSError, ValueError, AttributeError):  # closed, or no file
        return False
    return stat.S_ISREG(read.st_mode) and os.path.samestat(read, os.stat(path))
