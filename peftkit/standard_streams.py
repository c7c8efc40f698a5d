"""Wrappers of standard output and error whose failures do not end a run."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

from peftkit.errors import PeftkitError


class OutputError(PeftkitError):
    """Standard output cannot be written; ends a command that only prints."""


class OutputClosed(PeftkitError):  # noqa: N818 - no error
    """The reader of standard output has closed it, as in ``peftkit list | head``."""

    exit_code = 0


class Output:
    """A text stream that wraps another one.

    Characters that the stream's encoding lacks are escaped with backslashes. Once the stream has failed, further text
    is dropped, and an error is raised if ``required`` is set.

    Args:
        stream: The wrapped stream.
        required: Whether a failure is an error, because the output is the only result.

    Attributes:
        failure: Why the stream has failed; empty if it has not.
        closed: Whether it has failed because its reader has closed it.
    """

    def __init__(self, stream: TextIO, *, required: bool = False) -> None:
        self.stream, self.required = stream, required
        self.failure, self.closed = "", False

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        """Write a text, or drop it if the stream has failed.

        Raises:
            OutputClosed: The required output was closed by its reader.
            OutputError: The required output cannot be written.
        """
        encoding = getattr(self.stream, "encoding", None) or "utf-8"
        with suppress(LookupError):  # an encoding unknown to Python
            text = text.encode(encoding, "backslashreplace").decode(encoding)
        self._attempt(lambda: self.stream.write(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write several texts, as ``write`` does."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Flush the stream; raises like ``write``."""
        self._attempt(self.stream.flush)

    def _attempt(self, action: Callable[[], object]) -> None:
        if self.failure:
            return
        try:
            action()
        except OSError as error:
            self.failure, self.closed = error.strerror or str(error), error.errno == errno.EPIPE
            self._redirect_to_null()
            if self.required and self.closed:
                raise OutputClosed("standard output was closed by its reader") from None
            if self.required:
                raise OutputError(f"standard output cannot be written: {self.failure}") from error

    def _redirect_to_null(self) -> None:
        """Redirect the file descriptor to the null device, so that the flush at exit does not fail."""
        with suppress(OSError, ValueError, AttributeError):
            descriptor, null = self.stream.fileno(), os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, descriptor)
            os.close(null)
            self.stream.flush()


def safe_output(stream: TextIO | None) -> Output:
    """Wrap a stream; a closed one (None) becomes an output that drops everything."""
    if isinstance(stream, Output):
        return stream
    if stream is None:
        closed = Output(open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - open as long as the process
        closed.failure = "it is closed"
        return closed
    return Output(stream)


def shows_all_characters(stream: Any) -> bool:
    """Whether a stream's encoding has all Unicode characters."""
    return "utf" in (getattr(stream, "encoding", None) or "utf-8").lower()


@contextmanager
def safe_streams() -> Iterator[tuple[Output, Output]]:
    """Wrap standard output and error within the context."""
    previous = sys.stdout, sys.stderr
    if None in (sys.stdin, *previous):
        _fill_closed_descriptors()
    streams = safe_output(sys.stdout), safe_output(sys.stderr)
    sys.stdout, sys.stderr = streams  # type: ignore[assignment]
    try:
        yield streams
    finally:
        sys.stdout, sys.stderr = previous


def _fill_closed_descriptors() -> None:
    """Occupy closed descriptors of the standard streams, so that files opened later do not get them."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)
