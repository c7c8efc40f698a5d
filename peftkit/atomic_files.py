"""Writes files and folders atomically: a crash or a full disk leaves the old content."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from peftkit.errors import RunError


def write_file(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file under a temporary name, sync it, and rename it.

    Args:
        path: The file; its folder is created if needed.
        write: Writes the content to the path that it gets.

    Raises:
        RunError: The file cannot be written; an old one is unchanged.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    with _report_write_errors(path, temporary):
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)


def append_line(path: Path, line: str) -> None:
    """Append a line to a file and sync it.

    Args:
        path: The file.
        line: The line, without a line break.

    Raises:
        RunError: The line cannot be written; the file is unchanged.
    """
    with _report_write_errors(path):
        size = path.stat().st_size if path.exists() else 0
        try:
            with path.open("ab") as file:
                file.write(f"{line}\n".encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            os.truncate(path, size)
            raise


def replace_folder(path: Path, write: Callable[[Path], None]) -> None:
    """Replace a folder by a new one.

    Args:
        path: The folder.
        write: Fills the new, empty folder that it gets.

    Raises:
        RunError: The folder cannot be written; an old one is unchanged.
    """
    temporary, old = (path.with_name(f".{path.name}.{suffix}") for suffix in ("tmp", "old"))
    for leftover in (temporary, old):
        shutil.rmtree(leftover, ignore_errors=True)
    with _report_write_errors(path, temporary):
        temporary.mkdir()
        write(temporary)
        if path.exists():
            path.rename(old)
        temporary.rename(path)
    shutil.rmtree(old, ignore_errors=True)


@contextmanager
def _report_write_errors(target: Path, temporary: Path | None = None) -> Iterator[None]:
    """Raise a RunError for failed writes, and remove the temporary file or folder."""
    from safetensors import SafetensorError

    try:
        yield
    except Exception as error:
        # The tokenizers library raises a plain Exception that ends in "(os error 28)".
        if not (isinstance(error, OSError | SafetensorError) or "(os error " in str(error)):
            raise
        if temporary is not None and temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        elif temporary is not None:
            temporary.unlink(missing_ok=True)
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise RunError(f"{target} cannot be written: {reason}") from error
