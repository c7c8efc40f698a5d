"""Standard output and error that cannot end a run: what they cannot show is escaped, and the rest dropped."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

from peftkit.errors import PeftkitError


class OutputError(PeftkitError):
    """Standard output takes nothing any more; for a verb that only prints this is the end."""


class OutputClosed(PeftkitError):  # noqa: N818 - no error
    """Nobody reads standard output any more, as in ``peftkit list | head``."""

    exit_code = 0


class Output:
    """A text stream in front of another one.

    Characters that the stream's encoding lacks are escaped as Python does it. Once the stream fails, what is written is
    dropped, and where ``required`` is set an error says so.

    Attributes:
        required: whether a failure ends what is done, since it is done for the output alone.
        failure: why the stream has failed; empty while it has not.
        closed: whether that is since nobody reads it any more.
    """

    def __init__(self, stream: TextIO, *, required: bool = False) -> None:
        self.stream, self.required = stream, required
        self.failure, self.closed = "", False

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        """Writes the text, or drops it.

        Raises:
            OutputClosed: nobody reads the output, which is required.
            OutputError: the output, which is required, takes nothing.
        """
        encoding = getattr(self.stream, "encoding", None) or "utf-8"
        with suppress(LookupError):  # an encoding that Python does not know is the stream's affair
            text = text.encode(encoding, "backslashreplace").decode(encoding)
        self._do(lambda: self.stream.write(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Writes the texts; raises as ``write`` does."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Passes on what is held back; raises as ``write`` does."""
        self._do(self.stream.flush)

    def _do(self, do: Any) -> None:
        if self.failure:
            return
        try:
            do()
        except OSError as error:
            self.failure, self.closed = error.strerror or str(error), error.errno == errno.EPIPE
            self._let_go()
            if self.required and self.closed:
                raise OutputClosed("nobody reads standard output") from None
            if self.required:
                raise OutputError(f"standard output cannot be written: {self.failure}") from error

    def _let_go(self) -> None:
        """Lets nothing of it fail any more, not even what Python writes of it when it exits."""
        with suppress(OSError, ValueError, AttributeError):
            number, nowhere = self.stream.fileno(), os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, number)
            os.close(nowhere)
            self.stream.flush()


def safe_output(stream: TextIO | None) -> Output:
    """The stream as an ``Output``; one that is closed becomes one that drops everything."""
    if isinstance(stream, Output):
        return stream
    if stream is None:
        closed = Output(_nowhere())
        closed.failure = "it is closed"
        return closed
    return Output(stream)


def shows_all_characters(stream: Any) -> bool:
    """Whether the stream's encoding has every character, so that none of a JSON text need be escaped."""
    return "utf" in (getattr(stream, "encoding", None) or "utf-8").lower()


@contextmanager
def safe_streams() -> Iterator[tuple[Output, Output]]:
    """Makes standard output and error such streams for as long as it lasts."""
    before = sys.stdout, sys.stderr
    if None in (sys.stdin, *before):
        _fill_closed_descriptors()
    streams = safe_output(sys.stdout), safe_output(sys.stderr)
    sys.stdout, sys.stderr = streams  # type: ignore[assignment]
    try:
        yield streams
    finally:
        sys.stdout, sys.stderr = before


def _fill_closed_descriptors() -> None:
    """Keeps files that are opened from here on out of the places of the standard streams, which others write to."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(number)


def _nowhere() -> TextIO:
    return open(os.devnull, "w", encoding="utf-8")
